"""Rows of a batch: each result is that of the row alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor, nn

from pyrogen.core.shapes import Context

from .inputs import agree, agree_all, each, floating, gap, gradients_of, take
from .report import NotApplicableError, require
from .subject import DistributionSubject, RowSubject, is_closed_form, is_repeatable, require_log_prob, trainable

TOLERANCE = 1e-8


def batch_invariance(subject: RowSubject) -> str:
    """A row's answer does not depend on its batch mates."""
    module, inputs = subject.doubled()
    _require_value(subject, module)
    _require_no_noise(subject, module, inputs)
    together = subject.evaluate(module, *inputs)
    alone = torch.cat([subject.evaluate(module, *take(inputs, slice(i, i + 1))) for i in range(subject.rows)])
    require(
        agree(together, alone, TOLERANCE),
        f"rows scored together and alone differ by {gap(together, alone):.1e}: a row's answer depends on its batch",
    )
    order = torch.randperm(subject.rows)
    shuffled = subject.evaluate(module, *take(inputs, order))
    require(agree(together[order], shuffled, TOLERANCE), "the order of the rows changes their answers")
    return f"rows scored together, alone and in another order agree to {gap(together, alone):.1e}"


def bad_row(subject: RowSubject) -> str:
    """A row of NaN or infinities changes neither the answers for the other rows nor their gradients.

    For distributions these are the parameters' gradients from the other rows, for bijections those in their values:
    keeping bad values out of the parameters' gradients is the business of the distribution made with a bijection.
    """
    return _check_bad(subject, _spoiled, "row")


def bad_element(subject: RowSubject) -> str:
    """A single NaN or infinity in a row changes neither the answers for the other rows nor their gradients.

    What holds for a row that is bad as a whole need not hold for one that is bad in part; see :func:`bad_row`.
    """
    return _check_bad(subject, _spoiled_in_part, "element")


def empty_batch(subject: RowSubject) -> str:
    """A batch without rows gives answers without rows, and gradients of zero."""
    module, (value, context) = subject.doubled()
    try:
        answer = _answer_nothing(subject, module, value, context)
    except RuntimeError as error:
        if isinstance(subject, DistributionSubject) and is_closed_form(module(context), outside=True):
            raise NotApplicableError("torch's own distributions do not all take empty batches") from error
        raise
    require(answer.shape[0] == 0, f"an empty batch is answered by a tensor of shape {tuple(answer.shape)}")
    if answer.requires_grad:
        gradients = _gradients(answer, [parameter for _, parameter in trainable(module)])
        require(all(not g.any() for g in gradients), "an empty batch gives gradients that are not zero")
    return "an empty batch is answered by an empty tensor, with gradients of zero"


def vmap(subject: RowSubject) -> str:
    """``torch.func.vmap`` over the rows gives the answers of the batch."""
    module, (value, context) = subject.doubled()
    _require_value(subject, module)
    _require_no_noise(subject, module, (value, context))
    dimensions = (0, None if context is None else 0)
    with pyro.validation_enabled(False):
        expected = subject.evaluate(module, value, context)
        mapped = torch.func.vmap(lambda v, c: subject.evaluate(module, v, c), in_dims=dimensions)(value, context)
    require(agree(mapped, expected, 1e-8), f"vmap over the rows is off by {gap(mapped, expected):.1e}")
    return f"vmap over the rows agrees with the batch to {gap(mapped, expected):.1e}"


def _check_bad(subject: RowSubject, spoil: Callable[[Tensor, float], Tensor], what: str) -> str:
    module, (value, context) = subject.doubled()
    _require_value(subject, module)
    if not value.is_floating_point():
        raise NotApplicableError("events of integers hold no NaN")
    good = torch.arange(subject.rows) != 1
    of_parameters = isinstance(subject, DistributionSubject) and not is_closed_form(module(context))
    parameters = [parameter for _, parameter in trainable(module)]

    def answer_and_gradients(value: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The answers for the good rows, and their gradients in the parameters or in their own values."""
        value = value.detach().clone().requires_grad_(not of_parameters)
        answer = subject.evaluate(module, value, context)[good]
        if not answer.requires_grad:
            return answer, []
        return answer, _gradients(answer, parameters) if of_parameters else [_gradients(answer, [value])[0][good]]

    kind = "parameters' gradients" if of_parameters else "gradients in the values"
    with pyro.validation_enabled(False):
        expected, gradients = answer_and_gradients(value)
        for bad in (float("nan"), float("inf"), -float("inf")):
            answer, found = answer_and_gradients(spoil(value, bad))
            require(agree(answer, expected, TOLERANCE), f"one {what} of {bad} changes the answers for the other rows")
            require(agree_all(found, gradients, 1e-6), f"one {what} of {bad} changes the {kind} of the other rows")
        if floating(context):
            spoiled = each(lambda tensor: spoil(tensor, torch.nan) if tensor.is_floating_point() else tensor, context)
            same = agree(subject.evaluate(module, value, spoiled)[good], expected, TOLERANCE)
            require(same, f"one {what} of NaN in the context changes the answers for other rows")
    return f"one {what} of NaN or infinity leaves the answers of the other rows and their {kind} alone"


def _require_value(subject: RowSubject, module: nn.Module) -> None:
    if isinstance(subject, DistributionSubject):
        require_log_prob(subject, module)


def _require_no_noise(subject: RowSubject, module: nn.Module, inputs: tuple) -> None:
    density = subject.density(module)
    if density != "exact" and not is_repeatable(subject, module, inputs):
        raise NotApplicableError(f"the density is {density!r} and its log_prob is noisy: rows share no noise")


def _answer_nothing(subject: RowSubject, module: nn.Module, value: Tensor, context: Context) -> Tensor:
    nothing = take(context, slice(0, 0))
    if isinstance(subject, DistributionSubject):
        draws = subject.draw(module(nothing), () if context is not None else (0,))
        require(draws.shape == value[:0].shape, f"an empty batch is drawn with shape {tuple(draws.shape)}")
    return subject.evaluate(module, value[:0], nothing)


def _spoiled(value: Tensor, bad: float) -> Tensor:
    value = value.clone()
    value[1] = bad
    return value


def _spoiled_in_part(value: Tensor, bad: float) -> Tensor:
    value = value.clone()
    row = value[1].clone().flatten()
    row[-1] = bad
    value[1] = row.reshape(value[1].shape)
    return value


def _gradients(answer: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    weights = torch.linspace(0.5, 1.5, answer.numel(), dtype=answer.dtype).reshape(answer.shape)
    return gradients_of(weights * answer, parameters)
