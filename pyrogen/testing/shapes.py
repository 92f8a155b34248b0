"""Shapes of distributions: declared, sampled, scored, expanded and broadcast; and the errors when they are wrong."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint

from pyrogen.core.density import density_of
from pyrogen.core.shapes import Context

from .inputs import agree, each, gap, take
from .report import BreachError, NotApplicableError, require
from .subject import (
    DistributionSubject,
    RowSubject,
    has_sampler,
    is_closed_form,
    is_continuous,
    is_repeatable,
    require_log_prob,
)

SAMPLE_SHAPES = ((), (2,), (2, 3))
TOLERANCE = 1e-8


def declaration(subject: DistributionSubject) -> str:
    """What the module declares is what its distribution is: a Pyro distribution, its shapes, its density.

    With a density that the module alone declares its distribution is stamped. One that only the distribution declares
    is a mistake: whoever reads the module takes it for exact.
    """
    module = subject.fresh()
    context = subject.context_of(module)
    distribution = module(context)
    pyro_own = isinstance(distribution, TorchDistributionMixin)
    require(pyro_own, f"forward gives a {type(distribution).__name__}, which is not a Pyro distribution")
    declared = torch.Size(module.event_shape)
    require(declared == subject.event_shape, f"the module declares event_shape {tuple(declared)}")
    expected = torch.Size(() if context is None else (subject.rows,))
    event, batch = (distribution.event_shape, subject.event_shape), (distribution.batch_shape, expected)
    for name, (own, shape) in (("event_shape", event), ("batch_shape", batch)):
        same = isinstance(own, torch.Size) and own == shape
        require(same, f"the distribution's {name} is {type(own).__name__} {tuple(own)}, not torch.Size {tuple(shape)}")
    density = density_of(distribution)
    same = density == subject.density(module)
    require(same, f"the module's density is {subject.density(module)!r}, that of its distribution {density!r}")
    return f"a Pyro distribution of event_shape {tuple(declared)}, batch_shape {tuple(expected)}, density {density!r}"


def sample_shapes(subject: DistributionSubject) -> str:
    """``sample``, ``rsample`` and ``log_prob`` have the right shape for every ``sample_shape``."""
    module = subject.fresh()
    context = subject.context_of(module)
    for some in (context,) if context is None else (context, take(context, 0)):
        for sample_shape in map(torch.Size, SAMPLE_SHAPES):
            _check_sample_shape(subject, module, module(some), sample_shape)
    return f"sample and log_prob have the right shape for sample shapes {SAMPLE_SHAPES}"


def expand(subject: DistributionSubject) -> str:
    """``expand`` takes a list, tuple or Size, changes nothing but the batch shape, and not the original."""
    module, (value, context) = subject.doubled()
    distribution = module(context)
    batch_shape = distribution.batch_shape
    wide = (3, *batch_shape) if batch_shape else (3,)
    for shape in (list(wide), tuple(wide), torch.Size(wide)):
        expanded = distribution.expand(shape)
        _check_batch_shape(expanded, wide, f"expand({shape!r})")
        _check_batch_shape(distribution, batch_shape, "after expand the original")
    again = expanded.expand([2, *wide])
    _check_batch_shape(again, (2, *wide), "expanding twice")
    _check_batch_shape(expanded, wide, "after expanding again the expanded distribution")
    if expanded.has_rsample != distribution.has_rsample:
        expanded.has_rsample = distribution.has_rsample  # as Pyro does in every plate
    wrapped = distribution.to_event(1).expand([2]) if len(batch_shape) else distribution.expand([2]).to_event(1)
    require(wrapped.event_dim == subject.event_dim + 1, "to_event and expand together lose event dimensions")
    if has_sampler(distribution):
        shape = expanded.sample((2,)).shape
        require(shape == torch.Size((2, *wide)) + subject.event_shape, f"expanded samples have shape {tuple(shape)}")
    if subject.density(module) is not None:
        _check_expanded_density(subject, module, value, context, wide)
    return "expand takes a list, tuple or Size, keeps the density and leaves the original as it was"


def broadcasting(subject: DistributionSubject) -> str:
    """Values and contexts broadcast on the left: particles in front of the batch, as vectorized ELBOs have them."""
    module, (value, context) = subject.doubled()
    require_log_prob(subject, module)
    if not is_repeatable(subject, module, (value, context)):
        raise NotApplicableError("the log_prob is noisy: its values under broadcasting cannot be compared")
    expected = module(context).log_prob(value)
    others = module(context).log_prob(value.flip(0))
    stacked = torch.stack([value, value.flip(0)])
    scores = module(context).log_prob(stacked)
    right = torch.stack([expected, others])
    require(agree(scores, right, TOLERANCE), "particles in front of the batch change log_prob")
    if context is not None:
        _check_context_broadcasting(subject, module, value, context, expected)
    require(agree(module(context).log_prob(value), expected, TOLERANCE), "log_prob changes after broadcasting")
    return "values and contexts broadcast on the left, with the log_prob of single rows"


def support(subject: DistributionSubject) -> str:
    """The support is declared, has the events' dimensions, a bijection to the reals, and holds the samples."""
    module = subject.fresh()
    distribution = module(subject.context_of(module))
    constraint = _declared_support(distribution)
    same = constraint.event_dim == subject.event_dim
    require(same, f"the support has event_dim {constraint.event_dim}, the events {subject.event_dim}")
    if is_continuous(distribution):
        transform = biject_to(constraint)
        reals = torch.randn(transform.inverse_shape(distribution.shape()))
        inside = constraint.check(transform(reals))
        require(bool(inside.all()), "the support's own bijection from the reals leaves it")
    else:
        _check_enumeration(distribution)
    if not has_sampler(distribution):
        return "the support is declared (there is no sampler to hold to it)"
    samples = distribution.sample((500,))
    inside = constraint.check(samples)
    require(inside.shape == samples.shape[: inside.dim()], f"support.check has shape {tuple(inside.shape)}")
    require(bool(inside.all()), f"{(~inside).float().mean():.0%} of the samples lie outside the support")
    if subject.density(module) is not None:
        finite = distribution.log_prob(samples).isfinite()
        require(bool(finite.all()), f"log_prob of {(~finite).float().mean():.0%} of the samples is not finite")
    return f"the support is {constraint} and holds 500 samples a row, with finite log_prob"


def wrong_value(subject: DistributionSubject) -> str:
    """A value of the wrong event shape raises."""
    module, (value, context) = subject.doubled()
    require_log_prob(subject, module)
    if not subject.event_shape:
        raise NotApplicableError("every tensor ends in the event shape ()")
    wrong = {"one element more": torch.cat([value, value[..., :1]], -1)}
    if not is_closed_form(module(context), outside=True):
        wrong["a missing dimension"] = value[0].sum(-1)
        if subject.event_shape[-1] > 1:
            wrong["a last dimension of 1"] = value[..., :1]
    elif subject.event_shape[-1] == 1:
        raise NotApplicableError("torch's Independent broadcasts values against events of one element")
    for what, tensor in wrong.items():
        try:
            module(context).log_prob(tensor)
        except (ValueError, RuntimeError, IndexError):
            continue
        require(False, f"a value with {what}, of shape {tuple(tensor.shape)}, is scored without an error")
    return "values of the wrong event shape raise"


def wrong_context(subject: RowSubject) -> str:
    """A missing, unexpected or misshapen context raises a ValueError that names ``context``."""
    module = subject.fresh()
    context = subject.context_of(module)
    for what, wrong in _wrong_contexts(module, context):
        try:
            module(wrong)
        except ValueError as error:
            require("context" in str(error), f"the error for {what} does not name `context`: {error}")
        else:
            require(False, f"{what} is taken without an error")
    return "a missing, unexpected or misshapen context raises a ValueError that names it"


def _check_sample_shape(
    subject: DistributionSubject, module: nn.Module, distribution: TorchDistributionMixin, sample_shape: torch.Size
) -> None:
    expected = sample_shape + distribution.batch_shape + subject.event_shape
    require(distribution.shape(sample_shape) == expected, f"shape({tuple(sample_shape)}) is not {tuple(expected)}")
    value = subject.draw(distribution, sample_shape)
    require(value.shape == expected, f"sample({tuple(sample_shape)}) has shape {tuple(value.shape)}, not {expected}")
    if distribution.has_rsample:
        shape = distribution.rsample(sample_shape).shape
        require(shape == expected, f"rsample({tuple(sample_shape)}) has shape {tuple(shape)}, not {tuple(expected)}")
    if subject.density(module) is not None:
        shape, expected = distribution.log_prob(value).shape, sample_shape + distribution.batch_shape
        require(shape == expected, f"log_prob has shape {tuple(shape)}, not {tuple(expected)}")


def _check_batch_shape(distribution: TorchDistributionMixin, shape: tuple[int, ...], what: str) -> None:
    own = distribution.batch_shape
    require(tuple(own) == tuple(shape), f"{what} has batch_shape {tuple(own)}, not {tuple(shape)}")


def _check_expanded_density(
    subject: DistributionSubject, module: nn.Module, value: Tensor, context: Context, wide: tuple[int, ...]
) -> None:
    distribution = module(context)
    events = value if context is not None else value[:1].expand(3, *subject.event_shape)
    torch.manual_seed(0)
    scores = distribution.expand(list(wide)).log_prob(events)
    require(scores.shape == torch.Size(wide), f"the expanded log_prob has shape {tuple(scores.shape)}, not {wide}")
    if is_repeatable(subject, module, (value, context)):
        expected = distribution.log_prob(events).expand(wide)
        require(agree(scores, expected, TOLERANCE), f"expand changes log_prob by {gap(scores, expected):.1e}")


def _check_context_broadcasting(
    subject: DistributionSubject, module: nn.Module, value: Tensor, context: Context, expected: Tensor
) -> None:
    one = module(take(context, slice(0, 1))).log_prob(value)
    single = module(take(context, 0)).log_prob(value)
    require(agree(one, single, TOLERANCE), "a context of one row and one without a batch dimension disagree")
    rowwise = torch.cat([module(take(context, slice(0, 1))).log_prob(value[i : i + 1]) for i in range(subject.rows)])
    require(agree(one, rowwise, TOLERANCE), "a context of one row does not broadcast over values")
    columns = module(each(lambda tensor: tensor[:, None], context)).log_prob(value)
    diagonal = columns.diagonal() if columns.shape == (subject.rows, subject.rows) else columns
    require(agree(diagonal, expected, TOLERANCE), "a context of shape (rows, 1) does not broadcast against values")


def _declared_support(distribution: TorchDistributionMixin) -> Constraint:
    try:
        return distribution.support
    except NotImplementedError:
        raise BreachError("the distribution declares no support, which NUTS and autoguides need") from None


def _check_enumeration(distribution: TorchDistributionMixin) -> None:
    if not distribution.has_enumerate_support:
        return
    values = distribution.enumerate_support(expand=False)
    expected = (1,) * len(distribution.batch_shape) + tuple(distribution.event_shape)
    require(tuple(values.shape[1:]) == expected, f"enumerate_support(expand=False) has shape {tuple(values.shape)}")


def _wrong_contexts(module: nn.Module, context: Context) -> list[tuple[str, Context]]:
    if context is None:
        return [("an unexpected context", torch.zeros(2, 3))]
    wrong: list[tuple[str, Context]] = [("a missing context", None)]
    shape = module.context_shape
    if isinstance(shape, dict):
        wrong.append(("a context with a missing entry", dict(list(context.items())[1:])))
        wrong.append(("a tensor in place of a dict", next(iter(context.values()))))
    elif shape:
        wrong.append(("a context one element too long", torch.cat([context, context[..., :1]], -1)))
    return wrong
