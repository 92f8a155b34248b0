r"""What all samplers share: a grid of times, the loop over it, and errors that name the step.

A sampler takes standard normal noise of any batch shape to data: it begins at :math:`x_1 = \sigma_1 \varepsilon` and
evaluates the denoiser at the times of its grid. All coefficients are Python numbers found before the first step, in
double precision, so that a step costs the denoiser and two or three operations on :math:`x`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyrogen.core.shapes import Context, batch_shape_of, context_batch_shape
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.grids import Grid
from pyrogen.numerics.representation import by_settings
from pyrogen.numerics.schedule import Schedule

from ..denoiser import Denoiser


class GridDenoiser:
    """A denoiser at the times of a grid, which refuses wrong shapes.

    Args:
        denoiser: Of the data.
        times: The times, each a tensor without dimensions.
        context: What the data depend on.
        careful: Whether to refuse numbers that are not finite too, at the cost of a pass over every output.
    """

    def __init__(self, denoiser: Denoiser, times: tuple[Tensor, ...], context: Context, careful: bool) -> None:
        self.denoiser, self.times, self.context, self.careful = denoiser, times, context, careful

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """The posterior mean of the data at time number ``step``.

        Raises:
            ValueError: the denoiser changed the shape, or gave numbers that are not finite (if ``careful``).
        """
        data = self.denoiser(x, self.times[step], self.context)
        if self.careful or data.shape != x.shape:
            self._examine(data, x, step)
        return data

    def at(self, times: Tensor) -> GridDenoiser:
        """The same at other times."""
        return GridDenoiser(self.denoiser, times.to(self.times[0]).unbind(), self.context, self.careful)

    def _examine(self, data: Tensor, x: Tensor, step: int) -> None:
        where = f"at step {step} (t = {self.times[step].item():.4g})"
        if data.shape != x.shape:
            raise ValueError(f"the denoiser must keep the shape {tuple(x.shape)}, got {tuple(data.shape)} {where}")
        bad = int((~data.isfinite()).sum())
        if bad:
            raise ValueError(f"the denoiser gave {bad} of {data.numel()} numbers not finite {where}")


class Sampler(ABC):
    """Takes noise to data with the help of a denoiser.

    Subclasses are immutable and define :meth:`plan` and :meth:`walk`. The last plan is kept, with all it depends on.

    Args:
        grid: The times of the steps.
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
            careful: Whether to refuse numbers that are not finite at every step.
        """
        batch_shape_of(noise, denoiser.event_shape, "noise")
        context_batch_shape(context, denoiser.context_shape)
        first, times, plan = self._prepared(denoiser.schedule, noise)
        x = first * noise
        yield x
        yield from self.walk(GridDenoiser(denoiser, times, context, careful), plan, x)

    @abstractmethod
    def plan(self, path: GaussianPath, schedule: Schedule) -> Any:
        """All coefficients of all steps, as Python numbers.

        Args:
            path: The path at the times of the grid, ``(steps + 1,)``, in double precision.
            schedule: What it is of.
        """

    @abstractmethod
    def walk(self, denoise: GridDenoiser, plan: Any, x: Tensor) -> Iterator[Tensor]:
        """The noisy data after each step.

        Args:
            denoise: ``denoise(x, step)`` is the posterior mean of the data at time number ``step``.
            plan: The coefficients.
            x: The noisy data at the first time.
        """

    @torch.no_grad()
    def _prepared(self, schedule: Schedule, like: Tensor) -> tuple[float, tuple[Tensor, ...], Any]:
        """The first noise scale, the times of the grid and the plan."""
        key = schedule.key()
        kept, found = self._kept
        if key is not None and kept == (key, like.dtype, like.device):
            return found
        times = self.grid(schedule)
        _check_grid(times)
        path = schedule(times)
        found = path.sigma[0].item(), times.to(like).unbind(), self.plan(path, schedule)
        if key is not None:
            self._kept = (key, like.dtype, like.device), found
        return found

    def _explain(self, denoiser: Denoiser, noise: Tensor, context: Context, before: Tensor) -> None:
        """Walks again on the same random numbers, with every output checked, to find where it went wrong."""
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
