"""Turns: an objective, the parameters it trains, and the optimizer that moves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pyrogen.arguments import integer
from pyrogen.core.module import DistributionModule

Objective = Callable[..., Tensor]
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]

adam: MakeOptimizer = partial(Adam, lr=1e-3, fused=True)


class Turn:
    """One player's part of a training step.

    Args:
        objective: Called with a minibatch; gives a scalar loss in nats per datum.
        parameters: What this turn trains: a module, or parameters. All others are frozen while it lasts.
        optimizer: Makes an optimizer of a list of parameters. ``None``: that of ``fit``.
        repeats: How often the turn is taken a step, each time with a minibatch of its own.

    Raises:
        TypeError: ``repeats`` is no integer.
        ValueError: ``objective`` cannot be called, ``parameters`` holds something else, or ``repeats`` is not positive.

    Example:
        >>> critic = Turn(critic_loss, critic, repeats=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Objective,
        parameters: nn.Module | Iterable[nn.Parameter],
        *,
        optimizer: MakeOptimizer | None = None,
        repeats: int = 1,
    ) -> None:
        if not callable(objective):
            raise ValueError(f"`objective` must be callable, got {type(objective).__name__}")
        self.objective = objective
        self.parameters = parameters if isinstance(parameters, nn.Module) else _listed(parameters)
        self.optimizer = optimizer
        self.repeats = integer(repeats, "repeats")

    def trained(self) -> list[nn.Parameter]:
        """The parameters of this turn that ask for a gradient."""
        own = self.parameters.parameters() if isinstance(self.parameters, nn.Module) else self.parameters
        return [parameter for parameter in own if parameter.requires_grad]


def _listed(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    if not isinstance(parameters, Iterable):
        raise ValueError(f"`parameters` must be a module or parameters, got {type(parameters).__name__}")
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    strange = [type(entry).__name__ for entry in listed if not isinstance(entry, Tensor) or not entry.is_leaf]
    if strange:
        raise ValueError(f"`parameters` must be a module or parameters, got among them {strange[0]}")
    return listed


def as_turns(target: Any) -> list[Turn]:
    """What ``fit`` was given, as turns.

    Raises:
        ValueError: it is neither a module, an objective with parameters, nor a list of turns.
    """
    if isinstance(target, DistributionModule):
        target = target.objective()
    if isinstance(target, nn.Module):
        _check_elbo(target)
        return [Turn(target, target)]
    turns = list(target) if isinstance(target, (list, tuple)) else [target]
    if turns and all(isinstance(turn, Turn) for turn in turns):
        return turns
    raise ValueError(
        "`target` must be a DistributionModule, an objective that is an nn.Module, a Turn or a list of them, "
        f"got {type(target).__name__}"
    )


def _check_elbo(target: nn.Module) -> None:
    if isinstance(target, ELBOModule) and not hasattr(target.elbo, "differentiable_loss"):
        raise ValueError(
            f"`target` must have a differentiable loss, which Pyro's {type(target.elbo).__name__} lacks; "
            "train it with pyro.infer.SVI"
        )


@contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """A scope in which these parameters ask for no gradient."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all gradients."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
