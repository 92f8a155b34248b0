"""Compiled training: the same numbers, and modules that are none the wiser."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from small_programs import encoder, pair, weights
from torch import nn

import pyrogen as pg
from pyrogen.training.compilation import _largest
from pyrogen.training.statements import Statements

# torch's own compiler warns about its own internals.
pytestmark = pytest.mark.filterwarnings("ignore")


def untouched(module):
    """Nothing of the compiler stays in a module."""
    assert all(part._compiled_call_impl is None for part in module.modules())
    return pickle.loads(pickle.dumps(module))


@pytest.mark.slow
def test_maximum_likelihood_compiles_whole():
    module = encoder(data=3)
    eager = copy.deepcopy(module)
    data = (torch.randn(40, 2), torch.randn(40, 3))
    result = pg.fit(module, data, steps=12, batch_size=16, seed=0, compile=True, validation=0.2)
    expected = pg.fit(eager, data, steps=12, batch_size=16, seed=0, validation=0.2)
    assert result.history.loss == pytest.approx(expected.history.loss, rel=1e-4)
    for name, value in weights(eager).items():
        assert torch.allclose(weights(untouched(module))[name], value, atol=1e-4)


@pytest.mark.slow
def test_the_networks_of_an_elbo_compile():
    objective = pg.Elbo(*pair())
    eager = copy.deepcopy(objective)
    x = torch.randn(40, 2)
    result = pg.fit(objective, x, steps=12, batch_size=16, seed=0, compile=True)
    expected = pg.fit(eager, x, steps=12, batch_size=16, seed=0)
    assert result.history.loss == pytest.approx(expected.history.loss, rel=1e-4)
    untouched(objective)


@pytest.mark.slow
def test_a_failure_leaves_nothing_compiled():
    objective = pg.Elbo(*pair())

    def fail(progress):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        pg.fit(objective, torch.randn(16, 2), steps=3, compile=True, callbacks=[fail])
    untouched(objective)


class Own(nn.Module):
    """A network of the user's own, of several parts."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(2, 8), nn.Linear(8, 4)])

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Program(nn.Module):
    """Networks of several kinds, and one with random weights."""

    def __init__(self):
        super().__init__()
        self.own = Own()
        self.listed = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
        self.random = PyroModule[nn.Linear](2, 1)
        self.random.weight = PyroSample(pyro.distributions.Normal(0.0, 1.0).expand([1, 2]).to_event(2))

    def forward(self, x):
        y = self.own(x)
        pyro.sample("a", pyro.distributions.Normal(sum(part(y) for part in self.listed), 1.0).to_event(2), obs=x)
        return self.random(x)


def test_the_largest_parts_without_statements_are_found():
    program, statements = Program(), Statements()
    with statements.watching(program):
        program(torch.randn(5, 2))
    found = list(_largest(nn.ModuleList([program]), statements.networks))
    assert found == [program.own, *program.listed]
    assert statements.count == 3  # two sites, and the bias of the random layer
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in program.modules())


def test_an_objective_without_statements_is_one_whole():
    objective, statements = encoder(data=3).objective(), Statements()
    with statements.watching(objective):
        objective(torch.randn(5, 2), torch.randn(5, 3))
    assert statements.count == 0
    assert objective in statements.networks
