"""Which sites depend on which, and into which independent problems a site splits."""

import pyro
import pyro.distributions as dist
import torch

from pyrogen.programs import dependence
from pyrogen.programs.problems import IndependentProblems, independent_problems


def chained(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    x = pyro.sample("x", dist.Normal(0.0, scale))
    z = pyro.sample("z", dist.Normal(x, 1.0))
    pyro.sample("other", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_parents_and_ancestors_are_those_of_the_computation():
    found = dependence(chained, (torch.tensor(1.0),))
    assert found.traced
    assert found.parents == {
        "scale": frozenset(),
        "x": {"scale"},
        "z": {"x"},
        "other": frozenset(),
        "y": {"z"},
    }
    assert found.ancestors("y") == {"scale", "x", "z"}
    assert type(found.sites["x"].value) is torch.Tensor


def test_without_marks_a_site_depends_on_all_before_it():
    def stubborn():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if type(x) is not torch.Tensor:
            raise TypeError("no plain tensor")
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(0.0))

    found = dependence(stubborn)
    assert not found.traced
    assert found.parents["y"] == {"x", "z"}


def test_a_site_may_be_given_its_value_and_its_origin():
    found = dependence(
        chained,
        (torch.tensor(1.0),),
        draws={"x": lambda fn: torch.tensor(7.0)},
        origins={"x": lambda fn: frozenset()},
    )
    assert found.sites["x"].value == 7
    assert found.ancestors("x") == frozenset()


def test_plates_that_hold_all_measurements_are_independent_problems():
    def model(shared):
        with pyro.plate("rows", 3, dim=-2):
            with pyro.plate("columns", 4, dim=-1):
                x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            measured = x.sum(-1) if not shared else x.sum((-2, -1)).unsqueeze(-1)
            with pyro.plate("measured", 4 if not shared else 1, dim=-1):
                pyro.sample("y", dist.Normal(measured, 1.0), obs=torch.zeros(measured.shape))

    sites = dependence(model, (True,)).sites
    problems = independent_problems(sites["x"], [sites["y"]])
    assert problems == IndependentProblems((3, 4), (2,), (-2,))
    assert (problems.count, problems.size) == (3, 8)
    values = torch.randn(5, 3, 4, 2)
    rows = problems.rows(values, 1, leading=1)
    assert rows.shape == (5, 3, 8)
    torch.testing.assert_close(problems.whole(rows), values)
