"""Turns: an objective, the parameters it trains, and the optimizer that moves them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any

from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pyrogen.abstract import Abstract
from pyrogen.arguments import integer, positive
from pyrogen.core.module import DistributionModule
from pyrogen.core.sources import Data

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
MakeSchedule = Callable[[Optimizer], Any]

adam: MakeOptimizer = partial(Adam, lr=1e-3, fused=True)


class Turn:
    """One player's part of a training step.

    Args:
        objective: Called with a minibatch; gives a scalar loss, a mean over its data.
        parameters: What this turn trains: a module, or parameters. All others are frozen while it lasts.
        optimizer: Makes an optimizer of a list of parameters. ``None``: that of ``fit``.
        repeats: How often the turn is taken a step, each time with a minibatch of its own.
        data: What its minibatches are of, as for ``fit``, whose ``data`` they are if it is ``None``.
        schedule: Makes a learning-rate schedule of its optimizer. ``None``: that of ``fit``.
        clip: Largest norm of its gradient. ``None``: that of ``fit``.
        every: The turn is taken in each ``every``-th step alone: the first time in step ``every``.
        limit: Largest size of its loss; beyond it the run counts as diverged, and fails. ``None``: that of the
            objective, or any finite number.

    Raises:
        TypeError: ``repeats`` or ``every`` is no integer, or ``clip`` no number.
        ValueError: ``objective`` cannot be called, ``parameters`` holds something else, or a number is not positive.

    Example:
        >>> critic = Turn(critic_loss, critic, repeats=5)  # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Callable[..., Tensor],
        parameters: nn.Module | Iterable[nn.Parameter],
        *,
        optimizer: MakeOptimizer | None = None,
        repeats: int = 1,
        data: Data | None = None,
        schedule: MakeSchedule | None = None,
        clip: float | None = None,
        every: int = 1,
        limit: float | None = None,
    ) -> None:
        if not callable(objective):
            raise ValueError(f"`objective` must be callable, got {type(objective).__name__}")
        self.objective = objective
        self.parameters = module_or_parameters(parameters, "parameters")
        self.optimizer = optimizer
        self.repeats = integer(repeats, "repeats")
        self.data = data
        self.schedule = schedule
        self.clip = None if clip is None else positive(clip, "clip")
        self.every = integer(every, "every")
        self.measures = getattr(objective, "measures", True)
        self.limit = getattr(objective, "limit", inf) if limit is None else positive(limit, "limit")

    def trained(self) -> list[nn.Parameter]:
        """The parameters of this turn that take gradients."""
        return [parameter for parameter in parameters_of(self.parameters) if parameter.requires_grad]


class TakesTurns(Abstract):
    """What is trained by several turns, such as a game, with what ``fit`` needs to know of it; abstract."""

    @abstractmethod
    def turns(self) -> list[Turn]:
        """The turns of one step, in order."""

    @abstractmethod
    def averaged(self) -> nn.Module:
        """What is averaged where ``fit`` has a number for ``ema``."""

    @abstractmethod
    def metric(self, *batch: Any) -> Tensor:
        """What is evaluated on held-out minibatches where ``fit`` has no ``metric``; lower is better."""

    def optimizer(self, lr: float | None) -> MakeOptimizer:
        """Makes the optimizer of a turn where neither it nor ``fit`` has one.

        Args:
            lr: The learning rate, if ``fit`` has one.
        """
        return adam if lr is None else partial(adam, lr=lr)


def module_or_parameters(given: Any, name: str) -> nn.Module | list[nn.Parameter]:
    """A module, or a list of parameters.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, nn.Module):
        return given
    if not isinstance(given, Iterable):
        raise ValueError(f"`{name}` must be a module or parameters, got {type(given).__name__}")
    listed = [given] if isinstance(given, Tensor) else list(given)
    strange = [type(entry).__name__ for entry in listed if not isinstance(entry, Tensor) or not entry.is_leaf]
    if strange:
        raise ValueError(f"`{name}` must be a module or parameters, got among them {strange[0]}")
    return listed


def parameters_of(given: nn.Module | list[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters as they are now: lazy modules have them once they were called."""
    return list(given.parameters()) if isinstance(given, nn.Module) else given


def as_turns(target: Any) -> list[Turn]:
    """What ``fit`` was given, as turns.

    Raises:
        ValueError: it is neither a module, an objective with parameters, nor a list of turns.
    """
    if isinstance(target, DistributionModule):
        target = target.objective()
    if isinstance(target, TakesTurns):
        return target.turns()
    if isinstance(target, nn.Module):
        _check_elbo(target)
        _check_called(target)
        return [Turn(target, target)]
    turns = list(target) if isinstance(target, (list, tuple)) else [target]
    if turns and all(isinstance(turn, Turn) for turn in turns):
        return turns
    advice = "; a function needs the parameters that it trains: `Turn(function, parameters)`"
    raise ValueError(
        "`target` must be a DistributionModule, an objective that is an nn.Module, a game, a Turn or a list of them, "
        f"got {type(target).__name__}{advice if any(map(callable, turns)) else ''}"
    )


def _check_elbo(target: nn.Module) -> None:
    if isinstance(target, ELBOModule) and not hasattr(target.elbo, "differentiable_loss"):
        raise ValueError(
            f"`target` must have a differentiable loss, which Pyro's {type(target.elbo).__name__} lacks; "
            "train it with pyro.infer.SVI"
        )


def _check_called(target: nn.Module) -> None:
    if type(target).forward is nn.Module.forward and "forward" not in vars(target):
        raise ValueError(
            f"`target` must be called with a minibatch, got {type(target).__name__}, which has no `forward`: fit what "
            "trains it, such as its `objective()`"
        )


def all_trained(turns: list[Turn]) -> nn.ModuleList:
    """All that is trained, as one module: objectives, and parameters that turns name besides."""
    modules = [turn.objective for turn in turns if isinstance(turn.objective, nn.Module)]
    modules += [turn.parameters for turn in turns if isinstance(turn.parameters, nn.Module)]
    known = {id(parameter) for module in modules for parameter in module.parameters()}
    listed = [parameter for turn in turns if isinstance(turn.parameters, list) for parameter in turn.parameters]
    loose = [parameter for parameter in listed if id(parameter) not in known]
    return nn.ModuleList([*dict.fromkeys(modules), nn.ParameterList(loose)])


@contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """A scope in which these parameters take no gradients."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
