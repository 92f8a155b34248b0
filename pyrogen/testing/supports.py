"""What a distribution states and must keep: its support, also far from training; its batch shape; what masks hide."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyrogen.core.density import density_of
from pyrogen.core.shapes import Context
from pyrogen.numerics.supports import is_real

from .inputs import agree, agree_all, floating, gap, gradients_of, scaled
from .report import NotApplicableError, require
from .subject import DistributionSubject, has_sampler, is_closed_form, is_repeatable, require_log_prob, trainable

FAR = (1.0, 30.0, 1e4)
"""By how much contexts are scaled: as given, somewhat far from training, and very far."""


def shrinking_expand(subject: DistributionSubject) -> str:
    """``expand`` to a batch shape that the own one does not broadcast to raises."""
    module = subject.fresh()
    distribution = module(subject.context_of(module))
    batch_shape = tuple(distribution.batch_shape)
    expanded = distribution.expand((6, *batch_shape))
    for shape in ((2, *batch_shape), batch_shape, (6, *batch_shape, 2)):
        try:
            got = expanded.expand(shape)
        except (ValueError, RuntimeError):
            continue
        require(False, f"a batch shape {(6, *batch_shape)} is expanded to {shape}, and gives {tuple(got.batch_shape)}")
    return "expand raises where the batch shape does not broadcast"


def draws_inside(subject: DistributionSubject) -> str:
    """Many draws in single precision lie in the support, also at contexts far from those given."""
    module = subject.fresh()
    context = subject.context_of(module)
    distribution = module(context)
    if not has_sampler(distribution):
        raise NotApplicableError("sample is not implemented")
    if is_real(distribution.support):
        return "the support is all real numbers"
    scales = FAR if floating(context) else FAR[:1]
    for scale in scales:
        distribution = module(scaled(context, scale))
        draws = distribution.sample((2000 if subject.slow else 200,))
        outside = ~distribution.support.check(draws)
        far = f" at contexts {scale:g} times as large" if scale != 1 else ""
        require(not bool(outside.any()), f"{outside.float().mean():.1%} of the draws{far} lie outside the support")
    return f"draws lie in the support, for contexts scaled by {', '.join(f'{scale:g}' for scale in scales)}"


def masked_events(subject: DistributionSubject) -> str:
    """``.mask(m).to_event(1)`` sums the rows that the mask shows, whatever the others hold."""
    module, (value, context) = subject.doubled()
    require_log_prob(subject, module)
    distribution = module(context)
    if context is None:
        distribution = distribution.expand((subject.rows,))
    shown = torch.arange(subject.rows) % 2 == 0
    event = distribution.mask(shown).to_event(1)
    require(event.event_dim == subject.event_dim + 1, f"its events have {event.event_dim} dimensions")
    density, own = density_of(event), density_of(distribution)
    require(density == own, f"its density is {density!r}, that of the distribution {own!r}")
    require(bool(event.support.check(value).all()), "its support leaves out values of the distribution")
    score = event.log_prob(value)
    require(score.shape == (), f"its log_prob has shape {tuple(score.shape)}, not ()")
    if not is_repeatable(subject, module, (value, context)):
        return "mask and to_event keep shapes, density and support (values are noisy and not compared)"
    expected = torch.where(shown, distribution.log_prob(value), 0.0).sum()
    require(agree(score, expected, 1e-8), f"its log_prob is off by {gap(score, expected):.1e} from the rows it shows")
    if value.is_floating_point() and not is_closed_form(distribution, outside=True):
        with pyro.validation_enabled(False):
            _check_hidden(subject, module, value, context, shown)
    return "mask and to_event keep density and support, and sum the rows that are shown"


def _check_hidden(
    subject: DistributionSubject, module: nn.Module, value: Tensor, context: Context, shown: Tensor
) -> None:
    """Rows of NaN that a mask hides change neither the score nor the gradients."""
    parameters = [parameter for _, parameter in trainable(module)]
    spoiled = value.clone()
    spoiled[~shown] = torch.nan
    scores = [module(context).expand((subject.rows,)).mask(shown).to_event(1).log_prob(x) for x in (value, spoiled)]
    require(agree(*scores, 1e-8), "hidden rows of NaN change the log_prob of those that are shown")
    if not (parameters and scores[0].requires_grad):
        return
    kept = agree_all(*(gradients_of(score, parameters) for score in scores), 1e-6)
    require(kept, "hidden rows of NaN change the gradients of those that are shown")
