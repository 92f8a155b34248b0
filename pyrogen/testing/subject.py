"""What is checked: how it is made, its inputs and its outputs, in one form for all kinds of modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, TransformedDistribution, biject_to
from torch.distributions.transforms import Transform

from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.networks.statistics import statistics_of
from pyrogen.programs.data_plate import DataCount
from pyrogen.training.turn import Turn, all_trained, as_turns
from pyrogen.transforms.transform import as_transform

from .inputs import agree, clone, double, of_dtype, rows, tensors
from .report import NotApplicableError, require

UNCONDITIONAL_ROWS = 4
NOISE_SEED = 20


Part = tuple[Callable[[], Tensor], dict[str, nn.Parameter]]


class Subject(ABC):
    """A module under examination.

    Checks that hold for distributions, bijections and objectives alike see a module through :meth:`inputs` and
    :meth:`evaluate` alone.

    Args:
        make: Gives a fresh module each time.
        slow: Whether to spend more draws and steps.
    """

    def __init__(self, make: Callable[[], nn.Module], slow: bool) -> None:
        self.make = make
        self.slow = slow

    @abstractmethod
    def inputs(self, module: nn.Module) -> tuple:
        """Inputs for :meth:`evaluate`: for distributions and bijections a value and its context, one a row."""

    @abstractmethod
    def answer(self, module: nn.Module, *inputs: Any) -> Tensor:
        """What the module computes of its inputs, ``(*batch, numbers)``."""

    def evaluate(self, module: nn.Module, *inputs: Any) -> Tensor:
        """The answer with the same noise in each call."""
        pyro.set_rng_seed(NOISE_SEED)
        return self.answer(module, *inputs)

    def fresh(self) -> nn.Module:
        """A module in evaluation mode, away from its initial parameters.

        It has learned the statistics of one batch and seen it in training mode, so that all initialisation is done;
        then its parameters are perturbed, because what starts as the identity would hide most defects.
        """
        module = self.make().train()
        inputs = self.inputs(module)
        self.learn(module, inputs)
        with torch.no_grad():
            self.evaluate(module, *inputs)
        perturb(module)
        return module.eval()

    def learn(self, module: nn.Module, inputs: tuple) -> None:
        """Lets a module learn its statistics of data; by default it has none."""
        del module, inputs

    def density(self, module: nn.Module) -> Density:
        """What a ``log_prob`` of the module means; ``"exact"`` of what has none, whose answers are exact."""
        return "exact"

    def parts(self, module: nn.Module, inputs: tuple) -> list[Part]:
        """The answers that are trained, each with the parameters that it trains, by name; here there is one."""
        return [(lambda: self.evaluate(module, *inputs), dict(trainable(module)))]

    def doubled(self) -> tuple[nn.Module, tuple]:
        """A fresh module and inputs for it, in float64."""
        module = self.fresh().double()
        return module, double(self.inputs(module))


class RowSubject(Subject):
    """A distribution or a bijection: something with an event, a context, and an answer for each row."""

    def __init__(self, make: Callable[[], nn.Module], event_shape: Shape, context: Context, slow: bool) -> None:
        super().__init__(make, slow)
        self.event_shape = torch.Size(event_shape)
        self.event_dim = len(event_shape)
        self.context = context
        self.rows = rows(context) or UNCONDITIONAL_ROWS

    @abstractmethod
    def bijection(self, module: nn.Module, context: Context) -> Transform:
        """From unconstrained reals to values the module takes."""

    def context_of(self, module: nn.Module) -> Context:
        """A copy of the context in the dtype of the module's parameters."""
        return of_dtype(clone(self.context), dtype_of(module))


class DistributionSubject(RowSubject):
    """A DistributionModule: it answers with ``log_prob``, or with seeded draws where there is none."""

    def density(self, module: nn.Module) -> Density:
        return module.density

    def learn(self, module: nn.Module, inputs: tuple) -> None:
        if isinstance(module, DistributionModule) and statistics_of(module):
            module.learn_statistics(inputs if inputs[1] is not None else inputs[:1])

    def inputs(self, module: nn.Module) -> tuple:
        context = self.context_of(module)
        value = self.draw(module(context), () if context is not None else (self.rows,), dtype_of(module))
        return value, context

    def draw(
        self, distribution: TorchDistributionMixin, sample_shape: tuple[int, ...] = (), dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draws, or points of the support (of that dtype) where the distribution has no sampler."""
        with torch.no_grad():
            try:
                return distribution.sample(torch.Size(sample_shape)).detach()
            except NotImplementedError:
                transform = biject_to(distribution.support)
                return transform(torch.randn(distribution.shape(torch.Size(sample_shape)), dtype=dtype))

    def answer(self, module: nn.Module, *inputs: Any) -> Tensor:
        value, context = inputs
        distribution = module(context)
        if self.density(module) is not None:
            return distribution.log_prob(value)[..., None]
        sample_shape = () if context is not None else value.shape[: value.dim() - self.event_dim]
        draws = distribution(torch.Size(sample_shape))
        batch_shape = draws.shape[: draws.dim() - self.event_dim]
        return draws.reshape(*batch_shape, self.event_shape.numel())

    def parts(self, module: nn.Module, inputs: tuple) -> list[Part]:
        if self.density(module) is None and not module(inputs[1]).has_rsample:
            raise NotApplicableError("there is no log_prob, and draws have no gradient (has_rsample is False)")
        return super().parts(module, inputs)

    def bijection(self, module: nn.Module, context: Context) -> Transform:
        return biject_to(module(context).support)


class BijectionSubject(RowSubject):
    """A BijectionModule: it answers with both directions and both log-determinants."""

    def inputs(self, module: nn.Module) -> tuple:
        context = self.context_of(module)
        transform = self.bijection(module, context)
        with torch.no_grad():
            return transform(torch.randn(self.rows, *self.event_shape, dtype=dtype_of(module))), context

    def answer(self, module: nn.Module, *inputs: Any) -> Tensor:
        value, context = inputs
        transform = as_transform(module(context))
        image = biject_to(transform.codomain)(biject_to(transform.domain).inv(value))
        y, log_det = transform.forward_and_log_det(value)
        x, inverse_log_det = transform.inverse_and_log_det(image)
        for found in (log_det, inverse_log_det):
            batch_shape = value.shape[: value.dim() - self.event_dim]
            require(found.shape == batch_shape, f"a log-determinant has shape {tuple(found.shape)}, not {batch_shape}")
        event = (*log_det.shape, self.event_shape.numel())
        return torch.cat([y.reshape(event), log_det[..., None], x.reshape(event), inverse_log_det[..., None]], -1)

    def bijection(self, module: nn.Module, context: Context) -> Transform:
        return biject_to(module(context).domain)


class ObjectiveSubject(Subject):
    """An objective: it answers with its loss, per datum."""

    def __init__(self, make: Callable[[], nn.Module], batch: tuple, slow: bool) -> None:
        super().__init__(lambda: _as_module(make()), slow)
        self.batch = batch

    def inputs(self, module: nn.Module) -> tuple:
        return of_dtype(clone(self.batch), dtype_of(module))

    def answer(self, module: nn.Module, *inputs: Any) -> Tensor:
        return torch.stack([loss.reshape(()) for loss in self.losses(module, *inputs)])

    def losses(self, module: nn.Module, *batch: Any) -> list[Tensor]:
        """The loss of each turn; Pyro's own ELBO modules give a sum, which is divided by the data it is of."""
        losses = []
        for turn in turns_of(module):
            with DataCount() as count:
                loss = turn.objective(*batch)
            losses.append(loss / count.of(rows(batch)) if isinstance(turn.objective, ELBOModule) else loss)
        return losses

    def parts(self, module: nn.Module, inputs: tuple) -> list[Part]:
        """The loss of each turn, with what the turn trains."""
        names = {id(parameter): name for name, parameter in trainable(module)}
        return [
            (partial(self._loss_of, module, inputs, place), {names[id(part)]: part for part in turn.trained()})
            for place, turn in enumerate(turns_of(module))
        ]

    def _loss_of(self, module: nn.Module, inputs: tuple, place: int) -> Tensor:
        return self.evaluate(module, *inputs)[place]


class JoinedTurns(nn.Module):
    """The turns of a game as one module, which holds all that they train.

    Args:
        turns: The turns, whose objectives are modules.

    Raises:
        ValueError: an objective is no module, of which a copy would share its parameters.
    """

    def __init__(self, turns: list[Turn]) -> None:
        super().__init__()
        strange = [type(turn.objective).__name__ for turn in turns if not isinstance(turn.objective, nn.Module)]
        if strange:
            raise ValueError(f"`make` must give turns whose objectives are modules, got a {strange[0]}")
        self.turns = turns
        self.trained = all_trained(turns)


def _as_module(made: Any) -> nn.Module:
    return made if isinstance(made, nn.Module) else JoinedTurns(as_turns(made))


def turns_of(module: nn.Module) -> list[Turn]:
    """The turns of an objective under examination: one for most."""
    return module.turns if isinstance(module, JoinedTurns) else as_turns(module)


def trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that take gradients, with their names."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a module's parameters; torch's default if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def perturb(module: nn.Module) -> None:
    """Moves all trainable parameters by noise that keeps the outputs of a network of order one."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                fan_in = parameter[0].numel() if parameter.dim() > 1 and len(parameter) else 10
                parameter.add_(torch.randn_like(parameter), alpha=0.3 / max(fan_in, 1) ** 0.5)


def require_log_prob(subject: DistributionSubject, module: nn.Module) -> None:
    """Skips the running check for modules without ``log_prob``.

    Raises:
        NotApplicableError: ``density`` is None.
    """
    if subject.density(module) is None:
        raise NotApplicableError("the density is None: there is no log_prob")


def is_continuous(distribution: TorchDistributionMixin) -> bool:
    """Whether the events are real numbers; a missing support counts as real, which its own check reports."""
    try:
        return not distribution.support.is_discrete
    except NotImplementedError:
        return True


def is_closed_form(distribution: Distribution, *, outside: bool = False) -> bool:
    """Whether a formula of torch, Pyro or (unless ``outside``) pyrogen gives the density, with no transform between."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    packages = ("torch.", "pyro.") if outside else ("torch.", "pyro.", "pyrogen.distributions.")
    return type(distribution).__module__.startswith(packages) and not isinstance(distribution, TransformedDistribution)


def is_data_model(module: nn.Module) -> bool:
    """Whether ``.model`` and ``.guide`` are those of one data plate and a site ``"x"``, as they are of most modules."""
    return not (isinstance(module, DistributionModule) and module.has_own_programs)


def require_data_model(module: nn.Module) -> None:
    """Skips the running check for modules with programs of their own.

    Raises:
        NotApplicableError: they are not called with a value and a context.
    """
    if not is_data_model(module):
        raise NotApplicableError("`.model` and `.guide` are programs of its own, not called with a value and a context")


def has_sampler(distribution: TorchDistributionMixin) -> bool:
    """Whether ``sample`` is implemented."""
    try:
        distribution.sample()
    except NotImplementedError:
        return False
    return True


def require_sampler(subject: DistributionSubject, module: nn.Module) -> None:
    """Skips the running check for energies without ``sample``.

    Raises:
        NotApplicableError: ``density`` is "unnormalized", and there is none.
    """
    if subject.density(module) == "unnormalized" and not has_sampler(module(subject.context_of(module))):
        raise NotApplicableError("the density is 'unnormalized' and sample is not implemented")


def is_repeatable(subject: Subject, module: nn.Module, inputs: tuple) -> bool:
    """Whether two calls with different noise answer the same."""
    return agree(subject.answer(module, *inputs), subject.answer(module, *inputs), 1e-6)


def check_context(context: Context) -> None:
    """Checks that there are rows enough to compare.

    Raises:
        ValueError: a context has fewer than 3 rows, or its tensors differ in their numbers of rows.
    """
    counts = {len(tensor) if tensor.dim() else 0 for tensor in tensors(context)}
    if counts and (len(counts) > 1 or min(counts) < 3):
        raise ValueError(f"`context` must have one batch dimension of at least 3 rows, got {sorted(counts)} rows")
