"""A turn in training: its objective, its optimizer, and one gradient step of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pyro.infer.elbo import ELBOModule
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyrogen.core.batch import Batch, rows
from pyrogen.core.batches import Minibatch
from pyrogen.programs.data_plate import DataCount

from .feed import Feed
from .processes import Processes
from .turn import MakeOptimizer, MakeSchedule, Turn, adam, frozen


class NonFiniteStep(FloatingPointError):
    """A loss or a gradient that is not finite, before any weight has moved."""


class DivergedStep(FloatingPointError):
    """A loss beyond the limit of its turn, before any weight has moved."""


class Player:
    """A turn with its data, optimizer and learning-rate schedule, ready to take steps.

    Args:
        turn: The turn.
        feed: Where its minibatches come from.
        everything: All that is trained; what is not the turn's is frozen during its steps.
        processes: Where it runs.
        optimizer: For a turn without one of its own.
        schedule: Makes a learning-rate schedule of the optimizer, for a turn without one of its own. It is stepped
            after each gradient step.
        clip: Largest gradient norm, for a turn without one of its own.
        run: What is called in place of the objective: a compiled version of it.
    """

    def __init__(
        self,
        turn: Turn,
        feed: Feed,
        everything: nn.Module,
        *,
        processes: Processes,
        optimizer: MakeOptimizer | None,
        schedule: MakeSchedule | None,
        clip: float | None,
        run: Callable[..., Tensor] | None = None,
    ) -> None:
        self.parameters = turn.trained()
        if not self.parameters:
            raise ValueError("`target` has nothing to train: no parameter of a turn requires a gradient")
        own = set(map(id, self.parameters))
        self.others = [p for p in everything.parameters() if p.requires_grad and id(p) not in own]
        self.objective = turn.objective
        self.repeats, self.every = turn.repeats, turn.every
        self.feed = feed
        self.limit = turn.limit
        self.clip = clip if turn.clip is None else turn.clip
        self.processes = processes
        self.optimizer = _optimizer(turn.optimizer or optimizer or adam, self.parameters)
        make = turn.schedule or schedule
        self.schedule = _schedule(make, self.optimizer) if make else None
        with frozen(self.others):
            self._run, self._optimizer = processes.setup(
                turn.objective if run is None else run, self.parameters, self.optimizer
            )

    def step(self, minibatches: Sequence[Minibatch]) -> tuple[float, float]:
        """One gradient step on the mean over the rows of some minibatches.

        Returns:
            The loss, in the unit of the objective, and the norm of its gradient.

        Raises:
            NonFiniteStep: loss or gradient is not finite; no weight has moved.
            DivergedStep: the loss is beyond the limit of its turn; no weight has moved.
        """
        size = sum(minibatch.size for minibatch in minibatches)
        mean, last = 0.0, len(minibatches) - 1
        with frozen(self.others):
            for number, minibatch in enumerate(minibatches):
                share = minibatch.weight * (minibatch.size / size)
                with self.processes.accumulating(self._run, number < last):
                    loss = per_datum(self.objective, self._run, minibatch.entries)
                    if not loss.requires_grad:
                        raise ValueError(
                            "`objective` must give a loss that depends on the parameters of its turn, got one without "
                            "a gradient"
                        )
                    self.processes.backward(loss if share == 1 else loss * share)
                mean += loss.item() * share
        gradient_norm = _norm([p.grad for p in self.parameters if p.grad is not None])
        mean, norm = self.processes.sum(mean)[0] / self.processes.world, gradient_norm.item()
        if not (abs(mean) < float("inf") and norm < float("inf")):
            raise NonFiniteStep
        if abs(mean) > self.limit:
            raise DivergedStep(f"its size is {abs(mean):.3g}, beyond the limit {self.limit:g} of its turn")
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, gradient_norm)
        self._optimizer.step()
        if self.schedule and not self.follows_validation:
            self.schedule.step()
        self._optimizer.zero_grad()
        return mean, norm

    @property
    def learning_rate(self) -> float:
        """That of the optimizer's first parameters; NaN of an optimizer that has none."""
        return float(self.optimizer.param_groups[0].get("lr", float("nan")))

    @property
    def follows_validation(self) -> bool:
        """Whether the schedule is stepped after each validation, with its value."""
        return isinstance(self.schedule, ReduceLROnPlateau)

    def validated(self, value: float) -> None:
        """Takes note of a held-out value."""
        if self.follows_validation:
            self.schedule.step(value)

    def state_dict(self) -> dict[str, Any]:
        """The states of optimizer and schedule."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts optimizer and schedule into the given states.

        Raises:
            ValueError: the state is that of an optimizer of other parameters.
        """
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ValueError(f"does not fit the optimizer: {error}") from error
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])


def _norm(gradients: list[Tensor]) -> Tensor:
    """The norm of a gradient, which may be spread over devices; zero where there is none."""
    parts = torch._foreach_norm(gradients) if gradients else [torch.zeros(())]
    return torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts]))


def _optimizer(make: MakeOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    optimizer = _made(make, parameters, "optimizer") if _is_factory(make) else make
    if optimizer is make or not isinstance(optimizer, Optimizer):
        raise ValueError(
            "`optimizer` must be a function from a list of parameters to a torch optimizer, such as "
            f"functools.partial(torch.optim.Adam, lr=1e-3), got {type(optimizer).__name__}"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"`optimizer` must step on one gradient, got {type(optimizer).__name__}, which evaluates the loss again "
            "and again: train with Adam, or call it in a loop of your own on the objective"
        )
    return optimizer


def _schedule(make: MakeSchedule, optimizer: Optimizer) -> Any:
    schedule = _made(make, optimizer, "schedule") if callable(make) else make
    if not callable(getattr(schedule, "step", None)) or schedule is make:
        raise ValueError(
            "`schedule` must be a function from an optimizer to a schedule whose step() takes no argument, such as "
            "functools.partial(torch.optim.lr_scheduler.StepLR, step_size=100), or to a ReduceLROnPlateau, "
            f"got {type(schedule).__name__}"
        )
    return schedule


def _is_factory(make: Any) -> bool:
    return callable(make) and not isinstance(make, (Optimizer, PyroOptim))


def _made(make: Callable[[Any], Any], argument: Any, name: str) -> Any:
    """What the user's function makes; its mistakes are named as those of the argument.

    Raises:
        ValueError: it fails.
    """
    try:
        return make(argument)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` could not be made: {error}") from error


def per_datum(
    objective: Callable[..., Tensor], run: Callable[..., Tensor], batch: Batch, *, name: str = "objective"
) -> Tensor:
    """The loss of a minibatch, per datum.

    Args:
        objective: The objective. Pyro's give the sum over the data that the minibatch stands for.
        run: What is called in its place.
        batch: The minibatch.
        name: What errors call the objective.

    Raises:
        ValueError: it gives something other than a scalar.
    """
    is_sum = isinstance(objective, ELBOModule)
    with DataCount() if is_sum else nullcontext() as count:
        loss = run(*batch)
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"`{name}` must give a scalar tensor, got {got}")
    return loss / count.of(rows(batch)) if is_sum else loss
