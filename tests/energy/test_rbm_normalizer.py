"""Restricted Boltzmann machines: annealing against the sum over all states of the hidden layer."""

import pytest
import torch

from pyrogen import energy
from pyrogen.energy import AnnealedImportanceSampling, ParallelTempering, log_normalizer


def machine(units, visible=(30,), scale=0.3, **settings):
    found = energy.rbm(visible, units=units, symbols=settings.pop("symbols", 2), **settings)
    with torch.no_grad():
        for parameter in (found.weight, found.visible_bias, found.hidden_bias):
            parameter.normal_(0, scale)
    return found


def within(found, truth, errors=4.0):
    return abs(found.value - truth.item()) <= errors * found.standard_error


@pytest.mark.slow
def test_twenty_hidden_units_within_a_twentieth_of_a_nat():
    """The figure of issue 17: 500 temperatures and 100 chains; 784 visible units, as for digits."""
    torch.manual_seed(0)
    model = machine(20, (28, 28), scale=0.1)
    with torch.no_grad():
        truth = model.log_normalizer().item()
    found = log_normalizer(model)
    assert abs(found.value - truth) < 0.05
    assert found.label == "lower bound in expectation"


@pytest.mark.parametrize("symbols", [2, 3])
@pytest.mark.parametrize(
    "method",
    [
        AnnealedImportanceSampling(temperatures=60),
        pytest.param(ParallelTempering(replicas=20, sweeps=60, warmup=20), marks=pytest.mark.slow),
    ],
)
def test_few_hidden_units(symbols, method):
    torch.manual_seed(1)
    model = machine(6, (3, 5), scale=0.5, symbols=symbols)
    found = log_normalizer(model, method=method)
    assert found.standard_error < 0.1
    assert within(found, model.log_normalizer())


def test_exact_draws_make_a_bracket_of_a_machine():
    torch.manual_seed(2)
    model = machine(6, scale=0.5)
    found = log_normalizer(
        model, exact_draws=model().sample((200,)), method=AnnealedImportanceSampling(temperatures=40)
    )
    assert within(found, model.log_normalizer())
    assert within(found.upper, model.log_normalizer())
    assert found.standard_error < found.lower.standard_error


def test_machines_with_contexts():
    torch.manual_seed(3)
    model = machine(4, (6,), context_shape=(), classes=3)
    with torch.no_grad():
        model.shift.weight.normal_(0, 0.5)
    for label in range(3):
        context = torch.tensor(label)
        found = log_normalizer(model, context=context, method=AnnealedImportanceSampling(temperatures=30))
        assert within(found, model.log_normalizer(context))


@pytest.mark.slow
def test_standard_errors_of_machines_cover():
    """Sixty repeats: a share of .95 has a standard error of .03."""
    torch.manual_seed(4)
    model = machine(6, scale=0.6)
    method = AnnealedImportanceSampling(temperatures=25, chains=100)
    found = [log_normalizer(model, method=method) for _ in range(60)]
    inside = sum(within(one, model.log_normalizer(), errors=1.96) for one in found)
    assert 50 <= inside <= 60
    assert min(one.standard_error for one in found) > 0.005
