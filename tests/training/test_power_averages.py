"""Averages chosen after training equal those one would have kept."""

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.training.power_averages import PowerAverages, power_of
from pyrogen.training.progress import History, Progress


def width_of(power):
    return (power + 1) ** 0.5 / (power + 2) / (power + 3) ** 0.5


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.27])
def test_a_profile_has_its_width(width):
    power = power_of(width)
    assert abs(width_of(power) - width) < 1e-9
    t = torch.linspace(0, 1, 100_001, dtype=torch.double)
    profile = t**power / (t**power).sum()
    mean = (profile * t).sum()
    assert abs((profile * (t - mean) ** 2).sum().sqrt() - width) < 1e-4


@pytest.mark.parametrize("width", [0.05, 0.08, 0.1, 0.15])
def test_the_average_made_afterwards_is_that_kept_all_along(width):
    torch.manual_seed(0)
    steps = 2000
    module = nn.Linear(3, 1).double()
    path = torch.randn(steps, 4).double().cumsum(0) / steps**0.5
    kept, averages = PowerAverages(module, every=steps, widths=(width,)), PowerAverages(module, every=100)
    progress = Progress(History([[]], [[]]))
    for place in path:
        with torch.no_grad():
            module.weight.copy_(place[:3])
            module.bias.copy_(place[3:])
        kept(progress)
        averages(progress)
    exact = torch.cat([part.flatten() for part in kept.averages[0]])
    made = torch.cat([part.flatten() for part in averages.weights(width)])
    t = torch.arange(1, steps + 1).double() ** power_of(width)
    direct = (t[:, None] * path).sum(0) / t.sum()
    assert (exact - direct).abs().max() < 0.01  # both discretize one integral
    assert (made - exact).abs().max() < 0.02  # the path moves by one
    averages.apply(width)
    assert torch.equal(module.bias.detach(), averages.weights(width)[1])


def test_it_is_a_callback_that_resumes():
    torch.manual_seed(0)
    module = pg.diffusion.mlp((2,), width=8, depth=1)
    averages = PowerAverages(module, every=4)
    pg.fit(module, torch.randn(64, 2), steps=10, callbacks=[averages])
    twin = PowerAverages(module, every=4)
    twin.load_state_dict(averages.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(averages.weights(0.07), twin.weights(0.07), strict=True))
    for widths in ((0.1,), (0.05, 0.2)):
        with pytest.raises(ValueError, match="`widths` must be as in the checkpoint"):
            PowerAverages(module, widths=widths).load_state_dict(averages.state_dict())
    with pytest.raises(ValueError, match="`module` must be as in the checkpoint"):
        PowerAverages(nn.Linear(2, 3)).load_state_dict(averages.state_dict())


@pytest.mark.parametrize("module", [3, nn.ReLU(), nn.LazyLinear(2)])
def test_what_has_no_parameters_is_refused(module):
    with pytest.raises((TypeError, ValueError), match="`module` must"):
        PowerAverages(module)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda module: PowerAverages(module, every=0), "`every` must be"),
        (lambda module: PowerAverages(module, widths=()), "`widths` must name"),
        (lambda module: PowerAverages(module, widths=(0.3,)), r"`widths` must hold numbers in \(0, 0.28\)"),
        (lambda module: PowerAverages(module).weights(0.1), "got none to average"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(nn.Linear(1, 1))
