"""Scopes of a run: Pyro's state is kept apart, a failure leaves modules as they were, and errors name the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyro
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .feed import Feed


@contextmanager
def pyro_scope(*, validation: bool) -> Iterator[None]:
    """A scope with Pyro's validation on or off, and a parameter store of its own.

    In the global one, a PyroModule's parameters would be replaced with others of the same name.
    """
    with pyro.validation_enabled(validation), pyro.get_param_store().scope():
        yield


@contextmanager
def as_before_on_failure(module: nn.Module) -> Iterator[None]:
    """A scope after whose failure every part has its mode, and every parameter its freezing and gradient, of before.

    Gradients of before are put aside while it lasts: they are not part of the first step.
    """
    modes = [(part, part.training) for part in module.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    except BaseException:
        for part, training in modes:
            part.training = training
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        raise


@contextmanager
def naming_data(feed: Feed, module: nn.Module) -> Iterator[None]:
    """A scope in which a first call fails for what the data are: the error names the argument ``data``."""
    first = feed.first()
    try:
        yield
    except Exception as error:
        own = {parameter.dtype for parameter in module.parameters() if not nn.parameter.is_lazy(parameter)}
        strange = [f"{leaf.dtype}" for leaf in tree_leaves(first) if isinstance(leaf, Tensor) and leaf.dtype not in own]
        named = f"{error}".startswith("`")  # a refusal that names an argument
        plain = type(error) in (RuntimeError, ValueError, TypeError)  # no class of its own
        if len(own) == 1 and strange and plain and not named:
            (dtype,) = own
            raise ValueError(
                f"`data` holds {' and '.join(dict.fromkeys(strange))}, the parameters are {dtype}, and the first "
                f"minibatch cannot be evaluated: {error}"
            ) from error
        if len(first) == 1 and isinstance(first[0], Mapping):
            raise ValueError(
                f"`data` gives each minibatch as one dict, with the keys {list(first[0])}, which is one argument; give "
                f"tuples where the objective takes several: {error}"
            ) from error
        if isinstance(error, TypeError):
            raise TypeError(f"`data` gives {len(first)} entries a minibatch, which do not fit: {error}") from error
        raise
