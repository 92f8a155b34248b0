"""Maps: values, log-determinants and inverses of bijections, and the distributions they make."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions import transforms as torch_transforms

from pyrogen.transforms.transform import Transform, as_transform

from .inputs import agree, gap, take
from .report import require
from .subject import BijectionSubject

TOLERANCE = 1e-6
SINGLE_TOLERANCE = 1e-3


def declaration(subject: BijectionSubject) -> str:
    """``forward`` gives a torch Transform, bijective, with domain and codomain of the events' dimensions."""
    module = subject.fresh()
    transform = module(subject.context_of(module))
    is_transform = isinstance(transform, torch_transforms.Transform)
    require(is_transform, f"forward gives a {type(transform).__name__}, which is not a torch Transform")
    declared = torch.Size(module.event_shape)
    require(declared == subject.event_shape, f"the module declares event_shape {tuple(declared)}")
    require(transform.bijective, "the transform says it is not bijective")
    for side, constraint in (("domain", transform.domain), ("codomain", transform.codomain)):
        fits = constraint.event_dim <= subject.event_dim and biject_to(constraint) is not None
        require(fits, f"the {side} has event_dim {constraint.event_dim}, the events {subject.event_dim}")
    return f"a bijection of events of shape {tuple(declared)}, from {transform.domain} to {transform.codomain}"


def map_shapes(subject: BijectionSubject) -> str:
    """Values and log-determinants have the right shapes, for sample dimensions and broadcasting contexts."""
    module, (value, context) = subject.doubled()
    contexts = [context] if context is None else [context, take(context, slice(0, 1)), take(context, 0)]
    batch = (subject.rows,)
    for some in contexts:
        transform = as_transform(module(some))
        for front in ((), (2,), (2, 3)):
            values = value.expand(*front, *value.shape)
            for name, direction in _directions(transform):
                image, log_det = direction(_image(transform, values) if name == "inverse" else values)
                _check_shape(f"{name} value", image, (*front, *batch, *subject.event_shape))
                _check_shape(f"{name} log-determinant", log_det, (*front, *batch))
        for shape in (value.shape, (7, *value.shape)):
            size = torch.Size(shape)
            require(transform.forward_shape(size) == size, f"forward_shape{tuple(size)} is not {tuple(size)}")
            require(transform.inverse_shape(size) == size, f"inverse_shape{tuple(size)} is not {tuple(size)}")
    return "values and log-determinants have the shapes of the batch, for sample dimensions and broadcasting contexts"


def log_determinant(subject: BijectionSubject) -> str:
    """Both log-determinants are those of the Jacobians that autograd gives in float64."""
    module, (value, context) = subject.doubled()
    worst = 0.0
    for row in range(min(subject.rows, 3)):
        one = take(context, slice(row, row + 1))
        transform = as_transform(module(one))
        x = value[row : row + 1]
        for name, direction in _directions(transform):
            point = _image(transform, x) if name == "inverse" else x
            said = direction(point)[1].reshape(())
            found = _autograd_log_det(lambda v, d=direction: d(v)[0], point)
            worst = max(worst, gap(said, found))
            same = agree(said, found, TOLERANCE)
            require(same, f"the {name} log-determinant is {said.item():.6f}, that of autograd's Jacobian {found:.6f}")
    return f"log-determinants agree with autograd's Jacobians to {worst:.1e}"


def _directions(transform: Transform) -> tuple[tuple[str, Callable], ...]:
    return ("forward", transform.forward_and_log_det), ("inverse", transform.inverse_and_log_det)


def inverse(subject: BijectionSubject) -> str:
    """The inverse undoes the map and negates its log-determinant, in both directions and precisions."""
    errors = []
    for module, inputs, tolerance in (
        (*_single(subject), SINGLE_TOLERANCE),
        (*subject.doubled(), TOLERANCE),
    ):
        value, context = inputs
        transform = as_transform(module(context))
        forward, backward = transform.forward_and_log_det, transform.inverse_and_log_det
        for name, there, back, start in (
            ("inverse", forward, backward, value),
            ("forward map", backward, forward, _image(transform, value)),
        ):
            middle, log_det = there(start)
            end, negative = back(middle)
            errors.append(gap(end, start))
            close = agree(end, start, tolerance)
            require(close, f"in {start.dtype} the {name} misses by {gap(end, start):.1e} after a round trip")
            close = agree(log_det, -negative, tolerance)
            require(close, f"the {name}'s log-determinant is not minus that of the other direction")
    return f"the inverse undoes the map (error {max(errors[:2]):.1e} in float32, {max(errors[2:]):.1e} in float64)"


def transform_methods(subject: BijectionSubject) -> str:
    """Torch's ways of using a transform agree: calling it, ``inv`` and ``log_abs_det_jacobian`` of its arguments."""
    module, (value, context) = subject.doubled()
    transform = module(context)
    y, log_det = as_transform(transform).forward_and_log_det(value)
    require(agree(transform(value), y, 1e-10), "calling the transform differs from forward_and_log_det")
    require(agree(transform.inv(y), value, TOLERANCE), "calling .inv differs from the inverse")
    require(agree(transform.inv.inv(value), y, 1e-10), ".inv.inv is not the transform")
    transform(value.flip(0))
    said = transform.log_abs_det_jacobian(value, y)
    require(
        agree(said, log_det, 1e-8),
        "log_abs_det_jacobian differs from forward_and_log_det: does it ignore what it is given?",
    )
    said = transform.inv.log_abs_det_jacobian(y, value)
    require(agree(said, -log_det, TOLERANCE), "log_abs_det_jacobian of .inv is not minus that of the transform")
    inside = transform.codomain.check(y)
    require(bool(inside.all()), f"images lie outside the codomain {transform.codomain}")
    return "calling, inv and log_abs_det_jacobian agree with the passes"


def transformed_distribution(subject: BijectionSubject) -> str:
    """A distribution made with the bijection draws, scores and expands, also in a plate."""
    module, (value, context) = subject.doubled()
    transform = module(context)
    reals = biject_to(transform.domain)
    shape = (() if context is None else (subject.rows,)) + tuple(reals.inverse_shape(subject.event_shape))
    noise = dist.Normal(torch.zeros(shape, dtype=torch.float64), 1.0).to_event(subject.event_dim)
    made = dist.TransformedDistribution(noise, [reals, transform])
    y, log_det = as_transform(transform).forward_and_log_det(value)
    expected = dist.TransformedDistribution(noise, [reals]).log_prob(value) - log_det
    require(agree(made.log_prob(y), expected, TOLERANCE), "its log_prob is not that of the noise minus log-determinant")

    def model() -> Tensor:
        with pyro.plate("particles", 2, dim=-2), pyro.plate("data", subject.rows, dim=-1):
            return pyro.sample("x", made)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    _check_shape("a draw in two plates", trace.nodes["x"]["value"], (2, subject.rows, *subject.event_shape))
    _check_shape("its log_prob", trace.nodes["x"]["log_prob"], (2, subject.rows))
    return "a distribution made with the bijection draws, scores and expands in plates"


def _image(transform: torch_transforms.Transform, value: Tensor) -> Tensor:
    """A point of the codomain for each point of the domain."""
    return biject_to(transform.codomain)(biject_to(transform.domain).inv(value))


def _single(subject: BijectionSubject) -> tuple[nn.Module, tuple]:
    module = subject.fresh()
    return module, subject.inputs(module)


def _check_shape(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    require(tuple(tensor.shape) == tuple(shape), f"{what} has shape {tuple(tensor.shape)}, not {tuple(shape)}")


def _autograd_log_det(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The log-determinant of the Jacobian at one point, in the unconstrained sense of equal dimensions."""
    size = point.numel()
    jacobian = torch.autograd.functional.jacobian(function, point).reshape(size, size)
    return torch.linalg.slogdet(jacobian).logabsdet
