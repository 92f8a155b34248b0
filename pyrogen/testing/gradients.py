"""Gradients: against finite differences, and that they reach every parameter.

Differences are taken in float64 along random directions, with the noise inside a module held fixed, and of values in
unconstrained coordinates, so that no step leaves the support.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrogen.core.shapes import Context

from .inputs import floating, gradients_of, with_gradient
from .report import NotApplicableError, require
from .subject import DistributionSubject, Part, RowSubject, Subject, is_continuous, require_log_prob

STEPS = (1e-7, 1e-6, 1e-4)
"""The smaller are less likely to meet a kink, the larger lose less to rounding; the best counts."""

TOLERANCE = 1e-4
ESTIMATE_TOLERANCE = 2e-2


def value_gradient(subject: RowSubject) -> str:
    """The gradient in the value agrees with finite differences."""
    module, (value, context) = subject.doubled()
    _require_real_value(subject, module, context)
    transform = subject.bijection(module, context)
    reals = transform.inv(value).detach().requires_grad_()
    error = _worst_error(lambda: subject.evaluate(module, transform(reals), context), [reals], subject, module)
    return f"the gradient in the value agrees with finite differences (relative error {error:.1e})"


def context_gradient(subject: RowSubject) -> str:
    """The gradient in the context agrees with finite differences."""
    module, (value, context) = subject.doubled()
    context = with_gradient(context)
    if not floating(context):
        raise NotApplicableError("there is no context of real numbers")
    error = _worst_error(lambda: subject.evaluate(module, value, context), floating(context), subject, module)
    return f"the gradient in the context agrees with finite differences (relative error {error:.1e})"


def parameter_gradient(subject: Subject) -> str:
    """The gradient in the parameters, together and one by one, agrees with finite differences."""
    module, inputs = subject.doubled()
    error = 0.0
    for answer, named in _trained_parts(subject, module, inputs):
        parameters = list(named.values())
        for group in (parameters, *([parameter] for parameter in _some(parameters, subject.slow))):
            error = max(error, _worst_error(answer, group, subject, module, directions=1))
    return f"the gradient in the parameters agrees with finite differences (relative error {error:.1e})"


def gradients_reach_parameters(subject: Subject) -> str:
    """Training moves every parameter that takes a gradient."""
    module = subject.fresh().train()
    count = 0
    for answer_of, parameters in _trained_parts(subject, module, subject.inputs(module)):
        answer = answer_of()
        require(answer.requires_grad, "no gradient reaches any parameter")
        weights = torch.rand_like(answer) + 0.5
        found = torch.autograd.grad((weights * answer).sum(), list(parameters.values()), allow_unused=True)
        gradients = dict(zip(parameters, found, strict=True))
        missed = [name for name, gradient in gradients.items() if gradient is None]
        require(not missed, f"no gradient reaches {', '.join(missed)}")
        zero = [name for name, gradient in gradients.items() if not gradient.any()]
        require(not zero, f"the gradient is zero for {', '.join(zero)}")
        wild = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        require(not wild, f"the gradient is not finite for {', '.join(wild)}")
        count += len(parameters)
    return f"gradients reach all {count} parameters"


def parameters_registered(subject: Subject) -> str:
    """All tensors that receive gradients are parameters of the module."""
    module = subject.fresh()
    answer = subject.evaluate(module, *subject.inputs(module))
    known = {id(parameter) for parameter in module.parameters()}
    strangers = [leaf for leaf in _leaves(answer) if id(leaf) not in known]
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in strangers)
    require(not strangers, f"tensors of shape {shapes} receive gradients but are not among the module's parameters()")
    return f"all tensors that receive gradients are among the {len(known)} parameters"


def _require_real_value(subject: RowSubject, module: nn.Module, context: Context) -> None:
    if isinstance(subject, DistributionSubject):
        require_log_prob(subject, module)
        if not is_continuous(module(context)):
            raise NotApplicableError("the events are discrete")


def _worst_error(
    function: Callable[[], Tensor], points: Sequence[Tensor], subject: Subject, module: nn.Module, directions: int = 3
) -> float:
    """The largest relative error of the slope over random directions.

    Raises:
        BreachError: it is larger than the density allows, or there is no gradient.
    """
    weights = torch.rand_like(function()) + 0.5
    value = (weights * function()).sum()
    require(value.requires_grad, "log_prob or its parts carry no gradient")
    gradients = gradients_of(value, points)
    size = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    errors = [_error(function, weights, points, gradients, size) for _ in range(directions)]
    worst = max(errors)
    tolerance = ESTIMATE_TOLERANCE if subject.density(module) == "estimate" else TOLERANCE
    require(worst <= tolerance, f"the gradient differs from finite differences by {worst:.1e} of its size")
    return worst


def _error(
    function: Callable[[], Tensor],
    weights: Tensor,
    points: Sequence[Tensor],
    gradients: Sequence[Tensor],
    size: float,
) -> float:
    directions = [torch.randn_like(point) for point in points]
    slope = sum((gradient * direction).sum().item() for gradient, direction in zip(gradients, directions, strict=True))
    return min(_step_error(function, weights, points, directions, slope, size, step) for step in STEPS)


def _step_error(
    function: Callable[[], Tensor],
    weights: Tensor,
    points: Sequence[Tensor],
    directions: Sequence[Tensor],
    slope: float,
    size: float,
    step: float,
) -> float:
    with torch.no_grad():
        above = (weights * _moved(function, points, directions, step)).sum().item()
        below = (weights * _moved(function, points, directions, -step)).sum().item()
    difference = (above - below) / (2 * step)
    rounding = 1e-13 * (abs(above) + abs(below)) / step
    error = max(abs(slope - difference) - rounding, 0.0) / max(size, abs(difference), 1e-6)
    return error if error == error else float("inf")


def _moved(
    function: Callable[[], Tensor], points: Sequence[Tensor], directions: Sequence[Tensor], step: float
) -> Tensor:
    originals = [point.detach().clone() for point in points]
    for point, direction in zip(points, directions, strict=True):
        point.add_(direction, alpha=step)
    try:
        return function()
    finally:
        for point, original in zip(points, originals, strict=True):
            point.copy_(original)


def _trained_parts(subject: Subject, module: nn.Module, inputs: tuple) -> list[Part]:
    parts = [part for part in subject.parts(module, inputs) if part[1]]
    if not parts:
        raise NotApplicableError("there are no trainable parameters")
    return parts


def _some(parameters: list[nn.Parameter], slow: bool) -> list[nn.Parameter]:
    chosen = len(parameters) if slow else min(4, len(parameters))
    return [parameters[index] for index in torch.randperm(len(parameters))[:chosen].tolist()]


def _leaves(answer: Tensor) -> list[Tensor]:
    """The leaves of the graph behind ``answer`` that accumulate gradients."""
    leaves, seen, queue = [], set(), [answer.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # torch's, of a leaf
            leaves.append(node.variable)
        queue.extend(parent for parent, _ in node.next_functions)
    return leaves
