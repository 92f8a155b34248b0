"""Chains: how an energy draws, and what the second phase of its gradient is made of.

They differ in where they begin: at the distribution that an energy starts from, each time anew
(:class:`FreshChains`), at data (:class:`DataChains`), or where they were before (:class:`PersistentChains`).

A kernel that corrects its errors leaves the distribution as it is. So chains that begin at data which already follow
the energy stay there on average, however few their steps: the energy of the data is where contrastive divergence comes
to rest, in any number of dimensions. A kernel that does not correct them comes to rest elsewhere.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, instance_of, positive, whole_share
from pyrogen.core.modes import evaluating
from pyrogen.core.shapes import Context
from pyrogen.numerics.rows import column
from pyrogen.training.buffers import LocalBuffers

from .kernels import EnergyTarget, Moved, NearTarget, TransitionKernel

if TYPE_CHECKING:
    from .model import EnergyModule

_BLOCK = 5
"""Steps between two changes of a step size while chains warm up."""
_GAIN = 1.75
"""Of a change of its logarithm: a Newton step, since by so much acceptance falls off at the aim in many dimensions."""
_STUCK = 0.01
"""The share of steps below which chains are taken not to move."""


class ChainDraws(NamedTuple):
    """Where chains ended.

    Attributes:
        x: Events as numbers, ``(N, *event)``.
        context: The contexts that they are drawn under, a row each; ``None`` if there are none.
        acceptance: The share of the last steps that each accepted, ``(N,)``.
    """

    x: Tensor
    context: Context
    acceptance: Tensor


class Chains(Abstract, nn.Module):
    """Markov chains of an energy; abstract.

    The step size is found while they move: so that the kernel accepts as often as it should. In training mode it is
    kept for the next draw. Under a context every chain has one of its own, where it moves for long enough to find it
    (:class:`FreshChains`, :class:`PersistentChains`): what suits one context may leave the chains of another stuck.

    Args:
        kernel: What moves them.
        steps: How many steps each takes for a draw.

    Attributes:
        persistent: Whether they go on where they were, so that one draw depends on the one before.
        needs_data: Whether they begin at data, so that there are no draws without.
        step_size: That of the kernel.
    """

    persistent: bool = False
    needs_data: bool = False

    @checked(kernel=instance_of(TransitionKernel))
    def __init__(self, kernel: TransitionKernel, *, steps: int) -> None:
        super().__init__()
        self.kernel, self.steps = kernel, steps
        self.register_buffer("step_size", torch.ones(()))
        self._events: str | None = None

    def prepare(self, module: EnergyModule) -> None:
        """Gets ready for an energy. Chains that are ready already go on as they are.

        Raises:
            NotImplementedError: the kernel cannot move its events.
            ValueError: they are ready for an energy of other events or contexts.
        """
        self.kernel.require(module)
        events = f"{module.support} of shape {module.event_shape} and contexts of shape {module.context_shape}"
        if self._events is None:
            self.begin(module)
            self._events = events
        elif self._events != events:
            raise ValueError(f"`chains` must be new, or those of events in {events}, got those of {self._events}")

    def begin(self, module: EnergyModule) -> None:
        """Makes the state of chains that have not moved yet."""
        self.step_size.fill_(self.kernel.first_step_size(prod(module.event_shape)))

    @torch.no_grad()
    def draw(self, module: EnergyModule, rows: int, context: Context = None, data: Tensor | None = None) -> ChainDraws:
        """A draw for each row, of the energy in evaluation mode; in training mode chains remember what they learn.

        Args:
            module: The energy.
            rows: How many.
            context: A context for each, ``(rows, *context_shape)``.
            data: Data as numbers, ``(rows, *event)``, where there are any.
        """
        training = self.training
        with evaluating(module):
            self.train(training)
            return self.run(module, rows, context, data)

    @abstractmethod
    def run(self, module: EnergyModule, rows: int, context: Context, data: Tensor | None) -> ChainDraws:
        """What :meth:`draw` gives, without gradients and with the energy in evaluation mode."""

    def _moved(self, target: EnergyTarget, x: Tensor, steps: int) -> Moved:
        """The chains after so many steps of the present step size, which is kept adapted in training mode."""
        moved = self.kernel(target, x, steps, self.step_size)
        if self.training:
            self.step_size.copy_(self._adapted(self.step_size, moved))
        return moved

    def _adapted(self, step_size: Tensor, moved: Moved) -> Tensor:
        """The step size that all chains share, or those of each, nearer to where they accept as they should."""
        if self.kernel.aim is None:
            return step_size
        acceptance = moved.acceptance if step_size.dim() else moved.acceptance.mean()
        return step_size * (_GAIN * (acceptance - self.kernel.aim)).exp()


class FreshChains(Chains):
    """Chains that begin at the distribution that an energy starts from, each time anew.

    The first half of their steps finds the step size, the second half keeps it.

    Args:
        kernel: What moves them.
        steps: How many steps each takes for a draw.
    """

    def run(self, module: EnergyModule, rows: int, context: Context, data: Tensor | None) -> ChainDraws:
        x = started(module, rows, context)
        target, warmup = EnergyTarget(module, context), self.steps // 2
        size = self.step_size if context is None else self.step_size.expand(rows)
        if self.kernel.aim is None:
            moved = self.kernel(target, x, self.steps, size)
            return ChainDraws(moved.x, context, moved.acceptance)
        moved = self.kernel(target, x, 0, size)
        for _ in range(warmup // _BLOCK):
            moved = self.kernel.go_on(target, moved, _BLOCK, size)
            size = self._adapted(size, moved)
        if self.training:
            self.step_size.copy_(size.log().mean().exp())
        moved = self.kernel.go_on(target, moved, self.steps - warmup // _BLOCK * _BLOCK, size)
        if moved.acceptance.mean() < _STUCK:
            warnings.warn(
                f"chains of {self.steps} steps have accepted {moved.acceptance.mean():.2%} of the last ones, so that "
                "draws are where they began and not of the energy: give it a `base` that is nearer, or more `steps`",
                stacklevel=2,
            )
        return ChainDraws(moved.x, context, moved.acceptance)


class DataChains(Chains):
    """Chains that begin at data: those of contrastive divergence, for training alone.

    Args:
        kernel: What moves them.
        steps: How many steps each takes for a draw.

    References:
        Hinton 2002, "Training products of experts by minimizing contrastive divergence",
        https://doi.org/10.1162/089976602760128018
    """

    needs_data = True

    def run(self, module: EnergyModule, rows: int, context: Context, data: Tensor | None) -> ChainDraws:
        moved = self._moved(EnergyTarget(module, context), _required(data, self), self.steps)
        return ChainDraws(moved.x, context, moved.acceptance)


class RecoveryChains(Chains):
    r"""Chains that begin at data with noise, and draw what these may have been: those of the recovery likelihood.

    Events that may have become :math:`\tilde z = z + \sigma \varepsilon` have the density :math:`p(z \mid \tilde z)
    \propto e^{-E(z) - |z - \tilde z|^2 / 2 \sigma^2}`, which has fewer modes than the energy by itself: short chains
    draw from it. The energy that gives data the largest likelihood given noisy data is that of the data, whatever the
    noise. For training alone.

    Args:
        kernel: What moves them.
        steps: How many steps each takes for a draw.
        noise_scale: :math:`\sigma`, in standard deviations of the energy's coordinates.

    References:
        Bengio, Yao, Alain and Vincent 2013, "Generalized denoising auto-encoders as generative models",
        https://arxiv.org/abs/1305.6663
        Gao, Song, Poole, Wu and Kingma 2021, "Learning energy-based models by diffusion recovery likelihood",
        https://arxiv.org/abs/2012.08125
    """

    needs_data = True

    @checked(kernel=instance_of(TransitionKernel), noise_scale=positive)
    def __init__(self, kernel: TransitionKernel, *, steps: int, noise_scale: float) -> None:
        super().__init__(kernel, steps=steps)
        self.noise_scale = noise_scale

    def prepare(self, module: EnergyModule) -> None:
        if module.symbols is not None:
            raise NotImplementedError(f"RecoveryChains need real events, got {module.support}; use DataChains")
        super().prepare(module)

    def begin(self, module: EnergyModule) -> None:
        super().begin(module)
        self.step_size.mul_(min(1.0, self.noise_scale**2))

    def run(self, module: EnergyModule, rows: int, context: Context, data: Tensor | None) -> ChainDraws:
        data = _required(data, self)
        coordinates, _ = module.in_coordinates(context)
        z = coordinates._inverse(data)
        noisy = z + self.noise_scale * torch.randn_like(z)
        target = NearTarget(module, context, noisy, self.noise_scale)
        moved = self._moved(target, coordinates(noisy), self.steps)
        return ChainDraws(moved.x, context, moved.acceptance)


class PersistentChains(Chains):
    """Chains that go on where they were, in a buffer that checkpoints hold (persistent contrastive divergence).

    A draw takes rows of the buffer by chance, moves them and, in training mode, puts them back. Each chain keeps the
    context that it began with. Those that begin start where an energy starts.

    Args:
        kernel: What moves them.
        size: How many chains there are; at least as many as a minibatch has rows.
        steps: How many steps each takes for a draw.
        refresh: The share of chains that begin anew at each draw. Chains that did so are not yet draws of the energy,
            so that any but zero moves what is learned; it helps where chains do not find all modes by themselves.

    References:
        Tieleman 2008, "Training restricted Boltzmann machines using approximations to the likelihood gradient",
        https://doi.org/10.1145/1390156.1390290
        Du and Mordatch 2019, "Implicit generation and modeling with energy-based models",
        https://arxiv.org/abs/1903.08689
    """

    persistent = True

    @checked(kernel=instance_of(TransitionKernel), refresh=whole_share)
    def __init__(self, kernel: TransitionKernel, *, size: int, steps: int, refresh: float = 0.0) -> None:
        super().__init__(kernel, steps=steps)
        self.size, self.refresh = size, refresh
        self.buffer: LocalBuffers | None = None

    def begin(self, module: EnergyModule) -> None:
        super().begin(module)
        shape = module.context_shape
        names = [f"context.{key}" for key in shape] if isinstance(shape, dict) else ["context"]
        names = ["x"] if shape is None else ["x", *names, "step_size"]
        begun = torch.zeros(0, dtype=torch.bool, device=module.zero.device)
        self.buffer = LocalBuffers({name: module.zero.new_zeros(0) for name in names} | {"begun": begun})

    def run(self, module: EnergyModule, rows: int, context: Context, data: Tensor | None) -> ChainDraws:
        if rows > self.size:
            raise ValueError(f"`size` must be at least the {rows} rows that are drawn at once, got {self.size}")
        places = torch.randperm(self.size)[:rows].to(module.zero.device)
        x, context, size = self._taken(module, places, context)
        moved = self.kernel(EnergyTarget(module, context), x, self.steps, size)
        if self.training:
            size = self._adapted(size, moved)
            self.step_size.copy_(size.log().mean().exp() if size.dim() else size)
            self._put(places, {"x": moved.x, **_named(context, size)})
        return ChainDraws(moved.x, context, moved.acceptance)

    def _taken(self, module: EnergyModule, places: Tensor, context: Context) -> tuple[Tensor, Context, Tensor]:
        """Chains of the buffer with their contexts and step sizes; those that begin anew with the contexts given."""
        kept, beside = self.buffer.tensors, _named(context, self.step_size.expand(len(places)))
        if not kept["begun"].numel():
            return started(module, len(places), context), context, beside.get("step_size", self.step_size)
        begin = ~kept["begun"][places]
        if self.refresh:
            begin |= torch.rand(len(places), device=places.device) < self.refresh
        if not bool(begin.any()):
            found = {name: kept[name][places] for name in ("x", *beside)}
        else:
            own = {"x": started(module, len(places), context), **beside}
            found = {
                name: torch.where(column(begin, rows), rows, kept[name][places].to(rows)) for name, rows in own.items()
            }
        return found["x"].to(module.zero), _like(context, found), found.get("step_size", self.step_size)

    def _put(self, places: Tensor, rows: dict[str, Tensor]) -> None:
        for name, values in {**rows, "begun": torch.ones_like(places, dtype=torch.bool)}.items():
            if not self.buffer[name].numel():
                self.buffer[name] = values.new_zeros((self.size, *values.shape[1:]))
            self.buffer[name][places] = values


def _required(data: Tensor | None, chains: Chains) -> Tensor:
    """The data at which chains begin.

    Raises:
        NotImplementedError: there are none.
    """
    if data is None:
        raise NotImplementedError(
            f"{type(chains).__name__} begin at data, and serve ContrastiveDivergence alone: to draw, give the energy "
            "FreshChains or PersistentChains"
        )
    return data


def started(module: EnergyModule, rows: int, context: Context) -> Tensor:
    """Events as numbers at which an energy's chains start, one for each row."""
    if not rows:  # of which torch draws no symbols
        return module.numbers(module.zero.new_zeros(0, *module.event_shape))
    return module.numbers(module.start(context).sample((rows,) if context is None else ()))


def _named(context: Context, step_size: Tensor) -> dict[str, Tensor]:
    """What chains under a context keep, their own step sizes too, by the names that the buffer has for it."""
    if context is None:
        return {}
    several = isinstance(context, Mapping)
    named = {f"context.{key}": value for key, value in context.items()} if several else {"context": context}
    return {**named, "step_size": step_size}


def _like(context: Context, named: Mapping[str, Tensor]) -> Context:
    """The tensors of the buffer as a context, in the form of one."""
    if isinstance(context, Mapping):
        return {key: named[f"context.{key}"].to(rows) for key, rows in context.items()}
    return None if context is None else named["context"].to(context)
