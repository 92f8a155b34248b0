"""The joint distribution of a program: its variables and draws."""

import pyro
import pyro.distributions as dist

import pyrogen as pg
from pyrogen.simulation import Joint


def program(x=None):
    theta = pyro.sample("theta", dist.Uniform(-1, 1).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", 5):
        pyro.sample("x", dist.Normal(theta, scale[..., None]).to_event(1), obs=x)


def by_index(x=None):
    theta = pyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(theta[0], theta[1].exp()), obs=x)


def test_variables_are_sites_in_the_order_of_the_program():
    joint = Joint(program, observed="x")
    assert list(joint.latents) == ["theta", "scale"]
    assert list(joint.observed) == ["x"]
    assert joint.observed["x"].shape == (5, 2)
    assert joint.observed["x"].event_dim == 1


def test_draws_are_rows_together_and_one_by_one():
    assert Joint(program, observed="x").vectorized
    assert not Joint(by_index, observed="x").vectorized
    for joint in (Joint(program, observed="x"), Joint(program, observed="x", vectorized=False)):
        simulations = joint.draw(7, seed=0)
        assert len(simulations) == 7
        assert simulations.latents["theta"].shape == (7, 2)
        assert simulations.observed["x"].shape == (7, 5, 2)


def test_fit_takes_simulations():
    simulations = Joint(program, observed="x").draw(20, seed=0)
    assert [len(part[name]) for part, name in zip(simulations.entries, ("theta", "x"), strict=True)] == [20, 20]
    batches = pg.core.batches.batches(simulations, 8)
    assert [len(batch.entries[0]["theta"]) for batch in batches.epoch(0)] == [8, 8, 4]
