"""Draws: their gradients, their independence, and the scores of own draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.core.shapes import Context
from pyrogen.distributions.abilities import draw_and_score, has_draw_and_score
from pyrogen.numerics.angles import Circular
from pyrogen.numerics.supports import element_of

from .gradients import ESTIMATE_TOLERANCE
from .inputs import agree, agree_all, each, gap, gradients_of, take
from .report import NotApplicableError, require
from .subject import DistributionSubject, is_repeatable, require_sampler, trainable

ROWS = 16
DEVIATIONS = 6.0


def sample_without_gradient(subject: DistributionSubject) -> str:
    """``sample`` carries no gradient; calling the distribution samples as Pyro does."""
    module, distribution = _distribution(subject)
    require_sampler(subject, module)
    require(not distribution.sample((2,)).requires_grad, "sample carries a gradient")
    called = distribution()
    require(called.shape == distribution.shape(), f"calling the distribution gives shape {tuple(called.shape)}")
    carries = called.requires_grad
    require(distribution.has_rsample or not carries, "has_rsample is False but calling the distribution has a gradient")
    return "sample carries no gradient"


def rsample_gradient(subject: DistributionSubject) -> str:
    """``rsample`` moves with the parameters: its gradient is that of the expectation, by the score function."""
    module, distribution = _distribution(subject)
    parameters = [parameter for _, parameter in trainable(module)]
    if not distribution.has_rsample:
        raise NotApplicableError("has_rsample is False")
    if not parameters:
        raise NotApplicableError("there are no trainable parameters")
    require(distribution.rsample().requires_grad, "has_rsample is True but rsample carries no gradient")
    if subject.density(module) != "exact":
        return "rsample carries a gradient (not compared: the density is not exact)"
    z = _pathwise_against_score(subject, module, parameters)
    require(abs(z) < DEVIATIONS, f"the gradient of rsample is {z:.1f} standard errors from the score function's")
    return f"the gradient of rsample agrees with the score function's ({z:+.1f} standard errors)"


def rsample_and_log_prob(subject: DistributionSubject) -> str:
    """``rsample_and_log_prob``, where present, agrees with ``log_prob`` in value and gradient."""
    module, (_, context) = subject.doubled()
    distribution = module(context)
    if not has_draw_and_score(distribution):
        raise NotApplicableError("the distribution has no rsample_and_log_prob")
    parameters = [parameter for _, parameter in trainable(module)]
    torch.manual_seed(1)
    value, score = draw_and_score(distribution, (3,))
    require(value.shape == distribution.shape((3,)), f"the draw has shape {tuple(value.shape)}")
    expected = module(context).log_prob(value)
    require(score.shape == expected.shape, f"its log_prob has shape {tuple(score.shape)}, not {tuple(expected.shape)}")
    if not is_repeatable(subject, module, subject.inputs(module)):
        return "rsample_and_log_prob has the shapes of rsample and log_prob (values are noisy and not compared)"
    close, slope = (5e-3, ESTIMATE_TOLERANCE) if subject.density(module) == "estimate" else (1e-6, 1e-5)
    require(agree(score, expected, close), f"its log_prob is off by {gap(score, expected):.1e}")
    same = agree_all(gradients_of(score, parameters), gradients_of(expected, parameters), slope)
    require(same, "its gradient differs from that of log_prob(rsample())")
    return f"rsample_and_log_prob agrees with log_prob to {gap(score, expected):.1e}, gradients included"


def own_draws(subject: DistributionSubject) -> str:
    """A distribution scores its own last draw as it scores an equal tensor, also after a change in place."""
    module, (_, context) = subject.doubled()
    distribution = module(context)
    require_sampler(subject, module)
    if subject.density(module) is None:
        raise NotApplicableError("the density is None: there is no log_prob")
    if not is_repeatable(subject, module, subject.inputs(module)):
        raise NotApplicableError("the log_prob is noisy")
    value = distribution.sample((4,))
    with torch.no_grad():
        distribution.log_prob(value)
    score = distribution.log_prob(value)
    expected = module(context).log_prob(value.clone())
    require(agree(score, expected, 1e-8), f"the score of its own draw is off by {gap(score, expected):.1e}")
    kept = score.requires_grad == expected.requires_grad
    require(kept, "a draw scored first without gradients gives no gradient afterwards")
    value.copy_(value.flip(0).clone())
    score, expected = distribution.log_prob(value), module(context).log_prob(value.clone())
    require(agree(score, expected, 1e-8), "a draw changed in place keeps its old score")
    return "a distribution scores its own draws as it scores equal tensors"


def independent_rows(subject: DistributionSubject) -> str:
    """Draws for different rows are independent: equal contexts, expanded and repeated draws share no noise.

    The variance of the mean of ranks over the rows, relative to that of independent rows, is 1 up to sampling error;
    it is the number of rows if all rows share one draw.
    """
    module, distribution = _distribution(subject)
    require_sampler(subject, module)
    draws = 400 if subject.slow else 100
    context = subject.context_of(module)
    one = None if context is None else take(context, slice(0, 1))
    single = module(one)
    wide = [ROWS]
    ways = {"expanded rows": single.expand(wide).sample((draws,)), "repeated draws": single.sample((draws, ROWS))}
    if context is not None:
        tiled = each(lambda tensor: tensor.expand(ROWS, *tensor.shape[1:]), one)
        ways["rows of one context"] = module(tiled).sample((draws,))
    found = {what: _dependence(values.reshape(draws, ROWS, -1)) for what, values in ways.items()}
    bound = DEVIATIONS * math.sqrt(2 / (draws - 1))
    for what, ratio in found.items():
        require(abs(ratio - 1) < bound, f"{what} are not independent: variance ratio {ratio:.1f}, expected 1")
    listed = ", ".join(f"{what} {ratio:.2f}" for what, ratio in found.items())
    return f"rows are independent: variance ratios {listed} (expected 1)"


def moments(subject: DistributionSubject) -> str:
    """``mean``, where it is known, is that of the samples; where not, NotImplementedError or ValueError says so."""
    module, distribution = _distribution(subject)
    try:
        mean = distribution.mean
    except (NotImplementedError, ValueError):
        return "mean is not known and says so"
    expected = distribution.batch_shape + distribution.event_shape
    if mean.dtype.is_floating_point and mean.isnan().all():  # torch's way of saying so
        return "mean is not known and says so"
    require(mean.shape == expected, f"mean has shape {tuple(mean.shape)}, not {tuple(expected)}")
    require_sampler(subject, module)
    samples = distribution.sample((20_000 if subject.slow else 2_000,)).double()
    deviation = samples.std(0) / math.sqrt(len(samples))
    z = ((samples.mean(0) - mean) / deviation.clamp(min=1e-6)).abs()
    worst = z[mean.isfinite()].max().item() if mean.isfinite().any() else 0.0
    require(worst < DEVIATIONS + 1, f"mean differs from that of {len(samples)} samples by {worst:.1f} standard errors")
    return f"mean agrees with that of {len(samples)} samples (largest deviation {worst:.1f} standard errors)"


def _distribution(subject: DistributionSubject) -> tuple[nn.Module, TorchDistributionMixin]:
    module = subject.fresh()
    return module, module(subject.context_of(module))


def _dependence(values: Tensor) -> float:
    """The variance ratio of :func:`independent_rows` for values ``(draws, rows, numbers)``."""
    numbers = values.double() @ torch.randn(values.shape[-1], dtype=torch.float64)  # (draws, rows)
    ordered = numbers.flatten().sort().values
    ranks = (torch.searchsorted(ordered, numbers) + torch.searchsorted(ordered, numbers, right=True)).double()
    ranks = ranks - ranks.mean()
    single = ranks.square().mean()
    return 1.0 if single == 0 else (ranks.mean(1).square().mean() * values.shape[1] / single).item()


def _pathwise_against_score(subject: DistributionSubject, module: nn.Module, parameters: list[Tensor]) -> float:
    """Standard errors between two unbiased estimates of one directional derivative of an expectation.

    The direction is the one in which some first draws let the estimates differ most.
    """
    pilots, batches = (10, 40) if subject.slow else (4, 20)
    context = take(subject.context_of(module), slice(0, 1))
    probe = _probe(subject, module, context)
    directions = _difference(module(context), probe, parameters, 200 * pilots)
    rest = [_difference(module(context), probe, parameters, 200) for _ in range(batches)]
    slopes = torch.tensor(
        [sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True)) for gradients in rest],
        dtype=torch.float64,
    )
    return (slopes.mean() / (slopes.std() / math.sqrt(batches)).clamp(min=1e-30)).item()


def _probe(subject: DistributionSubject, module: nn.Module, context: Context) -> Callable[[Tensor], Tensor]:
    """A bounded function of events, neither even nor odd, whose expectation depends on location and scale.

    Of angles it is periodic: through a jump draws carry no gradient.
    """
    transform, circle = subject.bijection(module, context), element_of(module(context).support)
    with torch.no_grad():
        reals = transform.inv(module(context).sample((200,)))
    event_dim = reals.dim() - 1 - len(module(context).batch_shape)
    centre, spread = reals.mean(), reals.std().clamp(min=1e-3)
    axis, phase = torch.randn(2, *reals.shape[reals.dim() - event_dim :])

    def probe(value: Tensor) -> Tensor:
        waves = ((transform.inv(value) - centre) / spread * axis + phase).sin()
        if isinstance(circle, Circular):
            around = (value + phase).sin()
            waves = around if circle.angles is None else torch.where(circle.angles, around, waves)
        return waves.flatten(-event_dim).mean(-1) if event_dim else waves

    return probe


def _difference(
    distribution: TorchDistributionMixin, probe: Callable[[Tensor], Tensor], parameters: list[Tensor], draws: int
) -> list[Tensor]:
    """Pathwise gradient minus score-function gradient, from the same draws."""
    value = distribution.rsample((draws,))
    reward = probe(value.detach())
    surprise = (reward - reward.mean(0)).detach() * len(reward) / (len(reward) - 1)  # leave-one-out baseline: unbiased
    surrogate = (surprise * distribution.log_prob(value.detach())).mean()
    return gradients_of(probe(value).mean() - surrogate, parameters)
