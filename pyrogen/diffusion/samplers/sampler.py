r"""What all samplers share: a grid of times, a walk down it, and errors that say where it failed.

A sampler takes standard normal noise of any batch shape to data: it begins at :math:`x_1 = \sigma_1 \varepsilon` and
asks the denoiser at the times of its grid. All coefficients are Python numbers found before the first step, in double
precision, so that a step costs the denoiser and two or three operations on :math:`x`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrogen.core.shapes import Context, batch_shape_of, context_batch_shape
from pyrogen.numerics.grids import Grid
from pyrogen.numerics.representation import by_settings
from pyrogen.numerics.schedules import Schedule

from ..denoiser import Denoiser


class Scales(NamedTuple):
    r"""The schedule on the grid: :math:`\alpha` and :math:`\sigma` at each time, ``(steps + 1,)``, double precision."""

    alpha: Tensor
    sigma: Tensor


class Look:
    """Asks a denoiser at given times, and refuses what is not an answer.

    Args:
        denoiser: Who is asked.
        times: When, each a tensor without dimensions.
        context: What the data depend on.
        careful: Whether to look for numbers that are not finite, at the cost of a pass over every answer.
    """

    def __init__(self, denoiser: Denoiser, times: tuple[Tensor, ...], context: Context, careful: bool) -> None:
        self.denoiser, self.times, self.context, self.careful = denoiser, times, context, careful

    def data(self, x: Tensor, step: int) -> Tensor:
        """The posterior mean of the data at time number ``step``.

        Raises:
            ValueError: the denoiser changed the shape, or gave numbers that are not finite (if ``careful``).
        """
        data = self.denoiser(x, self.times[step], self.context)
        if self.careful or data.shape != x.shape:
            self._examine(data, x, step)
        return data

    def at(self, times: Tensor) -> Look:
        """The same at other times."""
        return Look(self.denoiser, times.to(self.times[0]).unbind(), self.context, self.careful)

    def _examine(self, data: Tensor, x: Tensor, step: int) -> None:
        where = f"at step {step} (t = {self.times[step].item():.4g})"
        if data.shape != x.shape:
            raise ValueError(f"the denoiser must keep the shape {tuple(x.shape)}, got {tuple(data.shape)} {where}")
        bad = int((~data.isfinite()).sum())
        if bad:
            raise ValueError(f"the denoiser gave {bad} of {data.numel()} numbers not finite {where}")


class Sampler:
    """Takes noise to data with the help of a denoiser.

    Subclasses are immutable and define :meth:`plan` and :meth:`walk`. The last plan is kept, with all it depends on.

    Args:
        grid: When to look.
    """

    def __init__(self, grid: Grid) -> None:
        if not callable(grid):
            raise ValueError(f"`grid` must be a grid of times such as FlowGrid(20), got {grid!r}")
        self.grid = grid
        self._kept: tuple[Any, Any] = (None, None)

    def __repr__(self) -> str:
        return by_settings(self)

    def __call__(self, denoiser: Denoiser, noise: Tensor, context: Context = None) -> Tensor:
        r"""Data from noise.

        Args:
            denoiser: Of the data.
            noise: Standard normal, of shape ``(*batch, *event_shape)``; the sampler scales it by :math:`\sigma_1`.
            context: What the data depend on; its batch dimensions broadcast with ``batch``.

        Shape:
            That of ``noise``.

        Raises:
            ValueError: the grid does not fall within [0, 1], the denoiser changes the shape, or its numbers are not
                finite. The messages name step and time.
        """
        before = torch.get_rng_state()
        for x in self.trajectory(denoiser, noise, context):  # noqa: B007
            pass
        if not torch.compiler.is_compiling() and not math.isfinite(x.sum().item()) and not bool(x.isfinite().all()):
            self._explain(denoiser, noise, context, before)
        return x

    def trajectory(
        self, denoiser: Denoiser, noise: Tensor, context: Context = None, *, careful: bool = False
    ) -> Iterator[Tensor]:
        r"""The noisy data at every time of the grid, from :math:`x_1` to :math:`x_0`.

        Args:
            denoiser: Of the data.
            noise: Standard normal, of shape ``(*batch, *event_shape)``.
            context: What the data depend on.
            careful: Whether to look for numbers that are not finite at every step.
        """
        batch_shape_of(noise, denoiser.event_shape, "noise")
        context_batch_shape(context, denoiser.context_shape)
        first, times, plan = self._prepared(denoiser.schedule, noise)
        x = first * noise
        yield x
        yield from self.walk(Look(denoiser, times, context, careful), plan, x)

    def plan(self, scales: Scales, schedule: Schedule) -> Any:
        """All coefficients of all steps, as Python numbers."""
        raise NotImplementedError(f"{type(self).__name__} must define `plan(scales, schedule)`")

    def walk(self, look: Look, plan: Any, x: Tensor) -> Iterator[Tensor]:
        """The noisy data after each step.

        Args:
            look: Asks the denoiser.
            plan: The coefficients.
            x: The noisy data at the first time.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `walk(look, plan, x)`")

    @torch.no_grad()
    def _prepared(self, schedule: Schedule, like: Tensor) -> tuple[float, tuple[Tensor, ...], Any]:
        """The first noise scale, the times of the grid and the plan."""
        key = schedule.key()
        kept, found = self._kept
        if key is not None and kept == (key, like.dtype, like.device):
            return found
        times = self.grid(schedule)
        _check_grid(times)
        scales = Scales(*schedule(times))
        found = scales.sigma[0].item(), times.to(like).unbind(), self.plan(scales, schedule)
        if key is not None:
            self._kept = (key, like.dtype, like.device), found
        return found

    def _explain(self, denoiser: Denoiser, noise: Tensor, context: Context, before: Tensor) -> None:
        """Walks again with open eyes, on the same random numbers, to say where it went wrong."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(before)
            for _ in self.trajectory(denoiser, noise, context, careful=True):
                pass
        raise ValueError(f"{type(self).__name__} gave numbers that are not finite although the denoiser's are")


def _check_grid(times: Tensor) -> None:
    listed = times.tolist()
    for step, t in enumerate(listed):
        if not 0 <= t <= 1:
            raise ValueError(f"`grid` must give times in [0, 1], got {t:.4g} at step {step}")
        if step and not t < listed[step - 1]:
            raise ValueError(f"`grid` must give falling times, got {t:.4g} after {listed[step - 1]:.4g} at step {step}")
