r"""Objectives for flow maps: each an identity of the average denoiser, whose error is to vanish.

A part of the rows has :math:`s = t` and learns to denoise; it fixes what flow the map is of. The others have two times
:math:`t > s` and learn one of the identities of :mod:`~pyrogen.diffusion.average` from the map itself, no gradient
going through what stands for the truth:

===============================  ======================================================================================
:class:`LagrangianDistillation`  :math:`\bar D + (\kappa_s - \kappa_t) \, \partial \bar D / \partial \kappa_s` is to be
                                 the denoised datum at the end of the way
:class:`MeanFlow`                :math:`\bar D` is to be the denoised datum at its beginning, plus
                                 :math:`(\kappa_s - \kappa_t) \, d \bar D / d \kappa_t`
:class:`ShortcutDistillation`    :math:`\bar D` is to be the average of two halves of the way
:class:`ConsistencyDistillation` :math:`\bar D` is to be the average of a small first step of the flow and the rest
===============================  ======================================================================================

Errors count in the units of a preconditioned network's output,
:math:`c_\text{out} = \sigma d / \sqrt{\alpha^2 d^2 + \sigma^2}`, as in
:class:`~pyrogen.diffusion.objectives.EDMWeighting`.

From scratch the denoised datum at :math:`t` is the datum itself, right on average. With a ``teacher``, a trained
denoiser under the same schedule, it is what the teacher puts out, which has less noise; the map then becomes that of
the teacher's flow, guided if the teacher is.

References:
    Boffi, Albergo and Vanden-Eijnden 2025, "How to build a consistency model: learning flow maps via
    self-distillation", https://arxiv.org/abs/2505.18825
    Geng, Deng, Bai, Kolter and He 2025, "Mean flows for one-step generative modeling",
    https://arxiv.org/abs/2505.13447
    Frans, Hafner, Levine and Abbeel 2025, "One step diffusion via shortcut models", https://arxiv.org/abs/2410.12557
    Song, Dhariwal, Chen and Sutskever 2023, "Consistency models", https://arxiv.org/abs/2303.01469
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import inner_share, instance_of
from pyrogen.core.batch import map_tensors
from pyrogen.core.modes import evaluating
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context, context_of_each
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.autograd import pushed_forward
from pyrogen.numerics.gaussian_path import GaussianPath

from .average import AverageDenoiser, stepped
from .denoiser import Denoiser

if TYPE_CHECKING:
    from .few_steps import FlowMap

_LEAST = 1e-12
"""Two times of a way that are one: its parts are then none, and their shares make no difference."""


class Way(NamedTuple):
    """Ways from a time to an earlier one, a row for each.

    Attributes:
        x: Noisy data where they begin.
        datum: The data that were made noisy.
        t: When they begin.
        s: When they end.
        context: What the data depend on.
    """

    x: Tensor
    datum: Tensor
    t: Tensor
    s: Tensor
    context: Context


class FlowMapObjective(Objective):
    """The mean squared error of an identity of flow maps and, in part of the rows, that of denoising.

    Subclasses define :meth:`error`.

    Args:
        flow_map: What is trained; with a teacher its schedule stays as it is.
        teacher: A trained denoiser, of which a copy is kept and whose flow is learned; ``None``: that of the data.
        diagonal: Which share of the rows learns to denoise.

    Raises:
        ValueError: ``diagonal`` is not within (0, 1), or the teacher is of other events or contexts or under another
            schedule.
        TypeError: ``flow_map`` is none, or the teacher no denoiser.
    """

    unit = "squared output per element"

    def __init__(self, flow_map: FlowMap, *, teacher: Denoiser | None = None, diagonal: float = 0.5) -> None:
        super().__init__()
        if not isinstance(getattr(flow_map, "denoiser", None), AverageDenoiser):
            raise TypeError(f"`flow_map` must be a FlowMap, got {type(flow_map).__name__}")
        self.flow_map = flow_map
        self.denoiser = flow_map.denoiser
        self.diagonal = inner_share(diagonal, "diagonal")
        self.teacher = None if teacher is None else _checked_teacher(self.denoiser, teacher)
        if teacher is not None:
            self.denoiser.schedule.requires_grad_(False)  # the noise is the teacher's

    @abstractmethod
    def error(self, way: Way) -> Tensor:
        """By how much the identity is missed, in units of a network's output, of the shape of ``way.x``."""

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        context = context_of_each(x, context, self.flow_map.event_shape, self.flow_map.context_shape)
        t, s = _times(x)
        path = self.denoiser.path(x, t)
        way = Way(path.mix(x, torch.randn_like(x)), x, t, s, context)
        count = round(self.diagonal * len(x))
        still, moving = Way(*map_tensors(way, lambda part: part[:count])), Way(*map_tensors(way, lambda p: p[count:]))
        missed = self.denoiser(still.x, still.t, still.context) - self.beginning(still)
        return torch.cat([missed / self.scale(path)[:count], self.error(moving)]).square().mean()

    def beginning(self, way: Way) -> Tensor:
        """The denoised data where ways begin: the teacher's, or the data, right on average."""
        return way.datum if self.teacher is None else self._taught(way.x, way.t, way.context)

    def end(self, x: Tensor, way: Way) -> Tensor:
        """The denoised data where ways end, at ``x``: the teacher's, or the map's own."""
        if self.teacher is not None:
            return self._taught(x, way.s, way.context)
        with torch.no_grad():
            return self.denoiser(x, way.s, way.context)

    def scale(self, path: GaussianPath) -> Tensor:
        r"""The unit of errors :math:`\sigma d / \sqrt{\alpha^2 d^2 + \sigma^2}` at a place of the path."""
        data_scale = self.denoiser.data_scale
        return path.sigma * data_scale * path.whitening(data_scale)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.flow_map.read_data(x, context)

    def _by_row(self, value: Tensor) -> Tensor:
        """One number for each row, without the dimensions of events."""
        return value.reshape(value.shape[:1])

    @torch.no_grad()
    def _taught(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        with evaluating(self.teacher):
            return self.teacher(x, t, context)


class LagrangianDistillation(FlowMapObjective):
    r"""The Lagrangian identity: where a way ends, the map moves with the flow there.

    .. math:: D(x_s, s) = \bar D + (\kappa_s - \kappa_t) \, \partial \bar D / \partial \kappa_s

    The derivative is one of forward mode in one number, and has a gradient; the velocity where the way ends has none.

    Arguments and errors are those of :class:`FlowMapObjective`.

    References:
        Boffi, Albergo and Vanden-Eijnden 2025, "How to build a consistency model: learning flow maps via
        self-distillation", https://arxiv.org/abs/2505.18825
    """

    def error(self, way: Way) -> Tensor:
        start, end = self.denoiser.path(way.x, way.t), self.denoiser.path(way.x, way.s)
        # (kappa_s - kappa_t) / kappa'_s, where kappa' / kappa is half the slope of the log-SNR.
        unit = 2 * self._by_row(1 - end.ratio / start.ratio) / self.denoiser.schedule.slope(way.s)
        average, change = pushed_forward(
            lambda s: self.denoiser.average(way.x, way.t, s, way.context), (way.s,), (unit,)
        )
        still = average.detach()
        # At the end the whole velocity is held still, and with it the part that the average has in where that is.
        average = torch.lerp(still, average, end.flow_time / start.flow_time)
        return (average + change - self.end(stepped(way.x, still, start, end), way)) / self.scale(end)


class MeanFlow(FlowMapObjective):
    r"""The Eulerian identity of MeanFlow: where a way begins makes no difference along the flow.

    .. math:: \bar D = D(x_t, t) + (\kappa_s - \kappa_t) \, d \bar D / d \kappa_t

    It is weighed as in the paper, in the time :math:`\tau = \sigma / (\alpha + \sigma)` of a rectified flow, in which
    it says :math:`\tfrac{\tau_s}{\tau_t} (\bar D - D) + (\tau_t - \tau_s) \, d \bar D / d \tau_t = 0`. No gradient goes
    through the derivative.

    Arguments and errors are those of :class:`FlowMapObjective`.

    References:
        Geng, Deng, Bai, Kolter and He 2025, "Mean flows for one-step generative modeling",
        https://arxiv.org/abs/2505.13447
    """

    def error(self, way: Way) -> Tensor:
        start, end = self.denoiser.path(way.x, way.t), self.denoiser.path(way.x, way.s)
        data = self.beginning(way)
        velocity = self.denoiser.slope(way.x, way.t).mix(data, start.noise(way.x, data))
        ratio = end.flow_time / start.flow_time
        # (tau_t - tau_s) / -tau'_t, where tau' / tau is minus half the slope of the log-SNR, times 1 - tau.
        rate = self.denoiser.over_events(self.denoiser.schedule.slope(way.t))
        unit = 2 * (1 - ratio) / ((1 - start.flow_time) * rate)
        average, change = pushed_forward(
            lambda x, t: self.denoiser.average(x, t, way.s, way.context),
            (way.x, way.t),
            (unit * velocity, self._by_row(unit)),
        )
        error = ratio * (average - data) - change
        return (average - (average - error).detach()) / self.scale(start)


class ShortcutDistillation(FlowMapObjective):
    r"""The semigroup identity of shortcut models: a way is as good as its two halves.

    With the time :math:`u` in the middle,

    .. math:: (\kappa_s - \kappa_t) \bar D(x_t, t, s) = (\kappa_u - \kappa_t) \bar D(x_t, t, u)
        + (\kappa_s - \kappa_u) \bar D(x_u, u, s) .

    There is no derivative in it. Arguments and errors are those of :class:`FlowMapObjective`.

    References:
        Frans, Hafner, Levine and Abbeel 2025, "One step diffusion via shortcut models",
        https://arxiv.org/abs/2410.12557
    """

    def error(self, way: Way) -> Tensor:
        middle = 0.5 * (way.t + way.s)
        with torch.no_grad():
            first = self.denoiser.average(way.x, way.t, middle, way.context)
        return self.in_two_parts(way, middle, first)

    def in_two_parts(self, way: Way, middle: Tensor, first: Tensor) -> Tensor:
        """The error beside the average over two parts of a way, of which the first one's is known."""
        path = self.denoiser.path(way.x, torch.stack([way.t, middle, way.s]))
        start, between, _ = path.unbind()
        with torch.no_grad():
            second = self.denoiser.average(stepped(way.x, first, start, between), middle, way.s, way.context)
            began, halfway, ended = path.flow_time
            share = ended / halfway * (began - halfway) / (began - ended).clamp(min=_LEAST)
        average = self.denoiser.average(way.x, way.t, way.s, way.context)
        return (average - second - share * (first - second)) / self.scale(start)


class ConsistencyDistillation(ShortcutDistillation):
    r"""The identity of consistency models: a way is as good as the flow over its first part and the map over the rest.

    It is that of :class:`ShortcutDistillation` with :math:`u` near :math:`t`, and :math:`D(x_t, t)` in place of the
    average over the first part, which is biased by the order of that part. All ends :math:`s` are learned, as in
    consistency trajectory models, not 0 alone.

    Args:
        flow_map: As for :class:`FlowMapObjective`.
        teacher: As for :class:`FlowMapObjective`.
        diagonal: As for :class:`FlowMapObjective`.
        part: Which share of a way its first part is.

    Raises:
        ValueError: as for :class:`FlowMapObjective`, or ``part`` is not within (0, 1).

    References:
        Song, Dhariwal, Chen and Sutskever 2023, "Consistency models", https://arxiv.org/abs/2303.01469
        Kim et al. 2024, "Consistency trajectory models: learning probability flow ODE trajectory of diffusion",
        https://arxiv.org/abs/2310.02279
    """

    def __init__(
        self, flow_map: FlowMap, *, teacher: Denoiser | None = None, diagonal: float = 0.5, part: float = 0.1
    ) -> None:
        super().__init__(flow_map, teacher=teacher, diagonal=diagonal)
        self.part = inner_share(part, "part")

    def error(self, way: Way) -> Tensor:
        return self.in_two_parts(way, way.t + self.part * (way.s - way.t), self.beginning(way))


def _times(x: Tensor) -> tuple[Tensor, Tensor]:
    """The times at which the ways of rows begin and end: uniform over all pairs."""
    pairs = torch.rand((2, len(x)), dtype=x.dtype, device=x.device)
    return pairs.amax(0), pairs.amin(0)


def _checked_teacher(denoiser: Denoiser, teacher: Denoiser) -> Denoiser:
    """A copy of a teacher that takes no gradients."""
    instance_of(Denoiser)(teacher, "teacher")
    for name in ("event_shape", "context_shape"):
        wanted, got = getattr(denoiser, name), getattr(teacher, name)
        if wanted != got:
            raise ValueError(f"`teacher` must have the {name} {wanted} of the flow map, got {got}")
    t = torch.linspace(0, 1, 5)
    if not torch.allclose(denoiser.schedule.log_snr(t), teacher.schedule.log_snr(t), rtol=1e-4):
        raise ValueError(
            f"`teacher` must be under the schedule of the flow map, {type(denoiser.schedule).__name__}, got "
            f"{type(teacher.schedule).__name__}, of another log-SNR"
        )
    return copy.deepcopy(teacher).requires_grad_(False)
