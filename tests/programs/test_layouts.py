"""Programs run with given values, apart from what is around them, and for many draws at once."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.programs import run
from pyrogen.programs.data_plate import DataRows
from pyrogen.programs.layouts import DrawsTogether, LayoutMismatch, OneDraw, RowsRepeated, placed


def model(x):
    center = pyro.sample("center", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(center, 1.0))
        pyro.deterministic("twice", 2 * z)
        pyro.factor("extra", torch.zeros(len(x)))
        return pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def test_a_run_knows_the_kinds_of_its_statements():
    found = run(model, (torch.zeros(3),))
    kinds = {name: site.kind for name, site in found.statements.items()}
    assert kinds == {"center": "latent", "z": "latent", "twice": "computed", "extra": "factor", "x": "observed"}
    assert list(found.sites) == ["center", "z", "extra", "x"]


def test_a_free_run_draws_what_is_observed_and_computes_what_is_computed():
    x = torch.full((3,), 100.0)
    found = run(model, (x,), given={"z": torch.ones(3)}, free=True)
    assert found.sites["x"].kind == "latent"
    assert found.result.abs().max() < 50
    assert found.statements["twice"].value.tolist() == [2, 2, 2]
    assert run(model, (x,), given={"x": torch.zeros(3)}, free=True).result.tolist() == [0, 0, 0]
    assert run(model, (x,), given={"x": torch.zeros(3)}).result.tolist() == x.tolist()


def test_a_run_is_apart_from_handlers_and_plates_around_it():
    with pyro.poutine.trace() as outside, pyro.plate("data", 5), pyro.poutine.scale(scale=2.0):
        found = run(model, (torch.zeros(3),))
    assert found.sites["z"].value.shape == (3,)
    assert found.sites["z"].scale == 1
    assert set(outside.trace.nodes) == {"data"}


def test_a_run_without_validation_takes_what_pyro_would_refuse():
    def wrong():
        pyro.sample("x", dist.Exponential(1.0), obs=torch.tensor(-1.0)).log()

    with pyro.validation_enabled(True):
        assert run(wrong, validate=False).sites["x"].value == -1


def test_the_log_prob_of_a_site_has_its_whole_batch_shape():
    def masked():
        with pyro.plate("data", 3), pyro.poutine.mask(mask=False):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros(3))

    assert run(masked).sites["x"].log_prob().tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", [DrawsTogether(4, 1), RowsRepeated(4, 3)])
def test_draws_laid_out_have_the_log_probs_of_single_ones(layout):
    x = torch.tensor([0.0, 1.0, 2.0])
    sites = placed(run(layout.laid_out(local), (x,)).sites, layout, 3, "model")
    assert sites["z"].values().reshape(4, 3, 2).shape == (4, 3, 2)
    alone = placed(run(local, (x,)).sites, OneDraw(), 3, "model")
    for draw in range(4):
        value = sites["z"].value_of_draw(draw, alone["z"])
        again = placed(run(local, (x,), given={"z": value}).sites, OneDraw(), 3, "model")
        for name, site in again.items():
            torch.testing.assert_close(sites[name].log_probs()[draw], site.log_probs()[0])


def test_a_program_that_does_not_broadcast_does_not_fit_under_a_plate_of_draws():
    def fixed(x):
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0), obs=x)

    layout = DrawsTogether(4, 2)
    site = run(layout.laid_out(fixed), (torch.zeros(3),)).sites["x"]
    with pytest.raises(LayoutMismatch):
        layout.split(site.value, 0, None)


def test_a_subsampled_data_plate_takes_more_rows_than_it_stands_for():
    def subsampled(x):
        with pyro.plate("data", 4, subsample_size=len(x)) as rows:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
        return rows

    def on_rows(x):
        with DataRows("data", len(x)):
            return subsampled(x)

    assert run(on_rows, (torch.zeros(6),)).result.tolist() == [0, 1, 2, 3, 0, 1]

    def of_fixed_size(x):
        with DataRows("data", 6), pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="`plate` 'data' must take the rows"):
        run(of_fixed_size, (torch.zeros(4),))
