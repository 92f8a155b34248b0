"""Losses of games: their optima and bounds in closed form, found by brute force."""

import math

import pytest
import torch
from torch.distributions import Normal

from pyrogen.implicit import FDivergence, FGan, Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein
from pyrogen.implicit.losses import Loss

P, Q = torch.tensor([1, 2, 3, 4]), torch.tensor([4, 1, 3, 2])
RATIO = (P / Q).double()
LOG_RATIO = RATIO.log()
JENSEN_SHANNON = 0.11142
"""Of N(0, 1) and N(1, 1), in nats."""


def pairs():
    """All pairs of a datum and a draw, of distributions P / 10 and Q / 10 over four places."""
    return torch.cartesian_prod(torch.arange(4).repeat_interleave(P), torch.arange(4).repeat_interleave(Q)).T


def best(loss, start):
    """The scores of places that minimize the critic's loss."""
    scores = start.double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([scores], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        value = loss.critic(*(scores[places] for places in pairs()))
        value.backward()
        return value

    optimizer.step(closure)
    return scores.detach()


DIVERGENCES = [FGan(divergence) for divergence in FDivergence if divergence is not FDivergence.TOTAL_VARIATION]


@pytest.mark.parametrize("loss", [NonSaturating(), Relativistic(), LeastSquares(), *DIVERGENCES], ids=repr)
def test_the_best_critic_is_the_one_of_the_docstring(loss):
    found = best(loss, torch.zeros(4))
    if isinstance(loss, LeastSquares):
        found = ((1 + found) / (1 - found)).log()  # (p - q) / (p + q) is a function of log p / q
    if isinstance(loss, Relativistic):
        found = found + (LOG_RATIO - found).mean()
    torch.testing.assert_close(found, LOG_RATIO, atol=1e-5, rtol=0)


def test_no_critic_does_better_under_the_hinge_than_the_sign_of_the_difference():
    sign = torch.tensor([-1.0, 1.0, 0.0, 1.0])  # where both are alike any score between is as good
    real, fake = pairs()
    least = Hinge().critic(sign[real], sign[fake])
    torch.testing.assert_close(least, torch.tensor(2 - 2 * 0.3))  # 2 - 2 TV
    for scores in sign + torch.randn(500, 4) * torch.logspace(-3, 0.5, 500).unsqueeze(-1):
        assert Hinge().critic(scores[real], scores[fake]) >= least - 1e-6


def entropy_of_pairs():
    """The Jensen-Shannon divergence of the pairs (x, y) and (y, x)."""
    p, q = P / 10, Q / 10
    straight, crossed = p.outer(q), q.outer(p)
    return (straight * (2 * straight / (straight + crossed)).log()).sum()


@pytest.mark.parametrize(
    ("loss", "scores", "divergence"),
    [
        (
            NonSaturating(),
            LOG_RATIO,
            lambda p, q: (p * (2 * p / (p + q)).log() + q * (2 * q / (p + q)).log()).sum() / 2,
        ),
        (Relativistic(), LOG_RATIO + 7, lambda p, q: entropy_of_pairs()),
        (LeastSquares(), (RATIO - 1) / (RATIO + 1), lambda p, q: ((p - q).square() / (p + q)).sum() / 2),
        (Hinge(), (RATIO - 1).sign(), lambda p, q: (p - q).abs().sum() / 2),
        (FGan(FDivergence.KL), LOG_RATIO, lambda p, q: (p * (p / q).log()).sum()),
        (FGan(FDivergence.REVERSE_KL), LOG_RATIO, lambda p, q: (q * (q / p).log()).sum()),
        (FGan(FDivergence.PEARSON), LOG_RATIO, lambda p, q: ((p - q).square() / q).sum()),
        (FGan(FDivergence.SQUARED_HELLINGER), LOG_RATIO, lambda p, q: 1 - (p * q).sqrt().sum()),
        (Wasserstein(), torch.arange(4.0), lambda p, q: ((p - q) * torch.arange(4)).sum()),
    ],
    ids=lambda value: repr(value) if isinstance(value, Loss) else "",
)
def test_the_best_critic_attains_the_divergence_and_no_other_exceeds_it(loss, scores, divergence):
    real, fake = pairs()
    truth = divergence(P / 10, Q / 10).item()
    assert abs(loss.bound(scores[real], scores[fake]).mean().item() - truth) < 1e-6
    if isinstance(loss, Wasserstein):
        return
    for other in scores + torch.randn(200, 4) * torch.logspace(-2, 0.5, 200).unsqueeze(-1):
        assert loss.bound(other[real], other[fake]).mean() <= truth + 1e-6
        offset = loss.critic(other[real], other[fake]) + loss.bound(other[real], other[fake]).mean()
        scaled = loss.critic(other[real], other[fake]) / 2 + loss.bound(other[real], other[fake]).mean()
        constants = {NonSaturating: math.log(2), Hinge: 1, Relativistic: math.log(2), LeastSquares: 1, FGan: 0}
        found = scaled if isinstance(loss, (NonSaturating, Hinge)) else offset
        assert abs(found.item() - constants[type(loss)]) < 1e-5  # what is minimized is the bound


@pytest.mark.parametrize("q", [Normal(1.0, 1.0), Normal(0.0, 2.0)])
@pytest.mark.parametrize("loss", [NonSaturating(), Relativistic(), LeastSquares(), FGan(FDivergence.JS)], ids=repr)
def test_a_quadratic_critic_finds_the_ratio_of_two_gaussians(loss, q):
    p = Normal(0.0, 1.0)
    levels = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    x, y = torch.cartesian_prod(p.icdf(levels), q.icdf(levels)).T
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def scores(x):
        logit = weights[0] + weights[1] * x + weights[2] * x.square()
        return (logit / 2).tanh() if isinstance(loss, LeastSquares) else logit

    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure():
        optimizer.zero_grad()
        value = loss.critic(scores(x), scores(y))
        value.backward()
        return value

    optimizer.step(closure)
    at = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    ratio = p.log_prob(at) - q.log_prob(at)  # a + b x + c x^2
    truth = torch.stack([ratio[1], (ratio[2] - ratio[0]) / 2, (ratio[2] + ratio[0]) / 2 - ratio[1]])
    start = 1 if isinstance(loss, Relativistic) else 0  # whose constant is free
    torch.testing.assert_close(weights.detach()[start:], truth[start:], atol=0.03, rtol=0.03)
    if isinstance(loss, NonSaturating) and q.mean == 1:
        assert abs(loss.bound(scores(x), scores(y)).mean().item() - JENSEN_SHANNON) < 1e-3


@pytest.mark.parametrize("logit", [-25.0, -200.0, 25.0])
@pytest.mark.parametrize("loss", [NonSaturating(), Relativistic()])
def test_the_gradient_does_not_vanish_where_the_critic_is_sure(loss, logit):
    for dtype in (torch.float32, torch.float64):
        fake = torch.tensor([logit], dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss.generator(torch.zeros(1, dtype=dtype), fake), fake)
        exact = -1 / (1 + math.exp(logit))
        assert abs(gradient.item() - exact) <= 2 * torch.finfo(dtype).eps * abs(exact)


def test_generators_bring_down_what_critics_push_up():
    real, fake = torch.zeros(1), torch.zeros(1, requires_grad=True)
    for loss in (NonSaturating(), Relativistic(), Hinge(), Wasserstein()):
        (slope,) = torch.autograd.grad(loss.generator(real, fake), fake)
        assert slope < 0
        (slope,) = torch.autograd.grad(loss.critic(real, fake), fake)
        assert slope > 0


def test_the_total_variation_has_the_game_of_the_hinge():
    with pytest.raises(NotImplementedError, match="play for it by `Hinge"):
        FGan(FDivergence.TOTAL_VARIATION)
    with pytest.raises(TypeError, match="`divergence` must be a FDivergence, got str"):
        FGan("kl")
