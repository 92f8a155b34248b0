"""Adversarial changes: the best ones are known where the loss is linear."""

import pytest
import torch

from pyrogen.evaluation import adversarial


def test_under_a_linear_loss_every_number_goes_to_its_limit():
    x, slope = torch.randn(5, 2, 3), torch.randn(2, 3)
    found = adversarial(lambda x: (slope * x).sum((1, 2)), x, limit=0.3)
    assert torch.allclose(found, x + 0.3 * slope.sign())
    assert not found.requires_grad
    within = adversarial(lambda x: (slope * x).sum(), x, limit=0.3, interval=(-0.5, 0.5))
    assert torch.allclose(within, (x + 0.3 * slope.sign()).clamp(-0.5, 0.5))


def test_a_maximum_within_the_cube_is_not_passed():
    found = adversarial(lambda x: -(x - 0.1).square(), torch.zeros(1), limit=0.4, steps=100)
    assert found.item() == pytest.approx(0.1, abs=0.01)  # a step


def test_gradients_are_taken_where_none_are_recorded():
    weight = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        found = adversarial(lambda x: x @ weight, torch.zeros(4, 2).numpy(), limit=1.0)
    assert torch.equal(found, torch.ones(4, 2))
    assert weight.grad is None


def test_limits_and_steps_are_positive():
    with pytest.raises(ValueError, match="`limit` must be positive"):
        adversarial(torch.sum, torch.zeros(2), limit=0.0)
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        adversarial(torch.sum, torch.zeros(2), limit=1.0, steps=0)
