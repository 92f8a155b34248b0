"""The temperature that calibrates: that of which data were drawn, and the best of all that are tried."""

import pytest
import torch

from pyrogen.autoregressive import best_temperature, tempered, transformer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = transformer((6,), (2,), symbols=4, width=16, depth=1).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()  # so that symbols differ in their probabilities
    return tempered(made, 2.0)


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_data_of_a_temperature_show_it(model, truth):
    torch.manual_seed(1)
    context = torch.randn(4000, 2)
    with torch.no_grad():
        x = tempered(model, truth)(context).sample()
    found = best_temperature(model, x, context)
    assert abs(found / truth - 1) < 0.1
    with torch.no_grad():
        scores = [tempered(model, found * share)(context).log_prob(x).sum() for share in (1.0, 0.98, 1.02, 0.5, 2.0)]
    assert scores[0] == max(scores)


def test_it_stays_within_its_range(model):
    context = torch.randn(50, 2)
    with torch.no_grad():
        best = tempered(model, 0.01)(context).sample()  # the likeliest symbols
    assert best_temperature(model, best, context) == pytest.approx(1 / 8, rel=1e-3)
