"""The contrastive loss: against its definition, and at the ratio of jointly normal numbers."""

import pyro.distributions as dist
import torch

from pyrogen.numerics.contrastive import contrastive_loss, imbalance, shifted


def exact(x, theta):
    return dist.Normal(theta, 0.5).log_prob(x) - dist.Normal(0.0, 1.25**0.5).log_prob(x)


def test_the_loss_is_the_cross_entropy_over_all_answers():
    torch.manual_seed(0)
    h = torch.randn(5, 7, dtype=torch.double)
    for gamma in (0.3, 1.0, 4.0):

        def probabilities(h, gamma=gamma):
            weights = torch.cat([torch.full_like(h[:1], len(h)), gamma * h.exp()])
            return weights / weights.sum(0)

        right = probabilities(h[:-1])[1].log()
        none = probabilities(h[1:])[0].log()
        expected = -(gamma / (1 + gamma) * right + 1 / (1 + gamma) * none)
        torch.testing.assert_close(contrastive_loss(h, gamma=gamma), expected)


def test_the_loss_is_least_at_the_true_ratio_and_knows_its_constant():
    torch.manual_seed(0)
    theta = torch.randn(20_000)
    x = theta + 0.5 * torch.randn(20_000)
    h = exact(x, shifted(theta, 4))
    least = contrastive_loss(h, gamma=1.0).mean()
    for other in (h + 0.2, h - 0.2, 1.1 * h, 0.9 * h, h + 0.2 * x.sin()):
        assert contrastive_loss(other, gamma=1.0).mean() > least
    # Without the answer "none" a function of x may be added.
    free = contrastive_loss(h + 0.2 * x.sin(), gamma=1e6).mean()
    assert abs(free - contrastive_loss(h, gamma=1e6).mean()) < 1e-5
    assert imbalance(h) < 1e-3
    assert imbalance(h + 1.0) > 0.01
