"""Which latent numbers a posterior must see for which, read off the program."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.simulation import Joint, Simulator, posterior
from pyrogen.simulation.latents.structure import dependence_matrix


def chain(x=None):
    z = pyro.sample("z_0", dist.Normal(0.0, 1.0))
    for step in range(1, 5):
        z = pyro.sample(f"z_{step}", dist.Normal(0.9 * z, 0.5))
        pyro.sample(f"x_{step}", dist.Normal(z, 0.5), obs=x)


def hierarchy(x=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("groups", 4):
        z = pyro.sample("z", dist.Normal(mean, scale))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def simulated(x=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", 4):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", Simulator(_noisy, z, event_shape=()), obs=x)


def mixing(x=None):
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
        pyro.sample("x", dist.Normal(z + z.flip(-1), 0.5), obs=x)


def independent(x=None):
    with pyro.plate("groups", 3):
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        pyro.sample("x", dist.Normal(w, 0.5).to_event(1), obs=x)


def _noisy(z):
    return z


def sees(joint):
    matrix = dependence_matrix(joint)
    return [row.nonzero().flatten().tolist() for row in matrix]


def test_a_markov_chain_stays_one():
    found = sees(Joint(chain, observed=[f"x_{step}" for step in range(1, 5)]))
    assert sum(map(len, found)) == 4
    for place, row in enumerate(found):
        assert all(abs(place - other) == 1 for other in row)


@pytest.mark.parametrize("program", [hierarchy, simulated])
def test_local_variables_see_the_global_ones_and_not_each_other(program):
    joint = Joint(program, observed="x")
    found, shared = sees(joint), len(joint.latents) - 1
    assert found[shared:] == [list(range(shared))] * 4
    assert all(max(row, default=0) < shared for row in found[:shared])
    assert sum(map(len, found[:shared])) == shared * (shared - 1) // 2


def test_rows_that_are_computed_from_others_are_joined():
    assert sum(map(len, sees(Joint(mixing, observed="x")))) == 3


def test_an_event_is_one_variable():
    assert sees(Joint(independent, observed="x")) == [[], [0], [], [2], [], [4]]


def test_nuisance_sites_are_summed_out():
    found = sees(Joint(hierarchy, observed="x", nuisance=["mean", "scale"]))
    assert sorted(map(len, found)) == [0, 1, 2, 3]


def test_common_children_join_their_parents():
    def program(x=None):
        a, b = pyro.sample("a", dist.Normal(0.0, 1.0)), pyro.sample("b", dist.Normal(0.0, 1.0))
        kind = pyro.sample("kind", dist.Bernoulli(0.5))
        c = pyro.sample("c", dist.Normal(kind, 1.0))
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)
        pyro.sample("y", dist.Normal(c, 1.0), obs=x)

    assert sorted(map(len, sees(Joint(program, observed=["x", "y"])))) == [0, 0, 1]


@pytest.mark.slow
def test_local_variables_need_fewer_simulations():
    def program(x=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 30):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z.tanh() * 2, 0.3), obs=x)

    joint = Joint(program, observed="x")
    held_out = joint.draw(1000, seed=1)

    def score(structure):
        torch.manual_seed(0)
        recipe = partial(pg.flows.affine_autoregressive, hidden=(128, 128), layers=2)
        learned = posterior(joint, recipe, structure=structure)
        pg.fit(learned, joint.draw(1000, seed=0), steps=300, batch_size=128, validation=0.1, validate_every=10, seed=0)
        with torch.no_grad():
            return learned.log_posterior(held_out.latents, held_out.observed).mean()

    assert score(True) > score(False) + 1


def test_a_recipe_that_takes_no_dependence_is_refused():
    with pytest.raises(TypeError, match="dependence"):
        posterior(Joint(hierarchy, observed="x"), pg.flows.spline_coupling, structure=True)
