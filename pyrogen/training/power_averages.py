r"""Averages of weights whose length is chosen after training.

An average with the profile :math:`p(\tau) \propto \tau^\gamma` over the steps :math:`\tau \le t` keeps the same shape
however long a run is; its *width* is the standard deviation of the profile over :math:`t`,
:math:`\sqrt{\gamma + 1} / ((\gamma + 2) \sqrt{\gamma + 3})`. Two of them, stored now and then, span nearly all others:
the combination of snapshots whose profile is closest, in least squares, to the wanted one.

References:
    Karras, Aittala, Lehtinen, Hellsten, Aila and Laine 2024, "Analyzing and improving the training dynamics of
    diffusion models", section 3, https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .progress import Progress


class PowerAverages:
    """A callback of ``fit`` that stores averages of a module's parameters, from which others are made afterwards.

    Args:
        module: Whose parameters are averaged.
        every: Steps from one snapshot to the next; each takes ``len(widths)`` copies of the parameters, on the CPU.
        widths: Of the averages kept, relative to the length of the run.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: ``module`` has no parameters, or none yet; ``every`` is not positive, or there are no widths, or one
            is not in (0, 0.28).

    Example:
        >>> import pyrogen as pg
        >>> module = pg.diffusion.mlp((2,), width=8, depth=1)
        >>> averages = PowerAverages(module, every=5)
        >>> fitted = pg.fit(module, torch.randn(64, 2), steps=20, callbacks=[averages])
        >>> averages.apply(0.15)
    """

    @checked
    def __init__(self, module: nn.Module, *, every: int = 100, widths: tuple[float, ...] = (0.05, 0.1)) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"`module` must be an nn.Module, got {type(module).__name__}")
        self.parameters = list(module.parameters())
        if not self.parameters or any(map(nn.parameter.is_lazy, self.parameters)):
            got = "lazy ones, which are made in its first call" if self.parameters else "none"
            raise ValueError(f"`module` must have parameters to average, got {got}")
        if not isinstance(widths, tuple | list) or not widths:
            raise ValueError(f"`widths` must name at least one average, got {widths!r}")
        for width in widths:
            if not isinstance(width, float) or not 0 < width < 0.28:
                raise ValueError(f"`widths` must hold numbers in (0, 0.28), got {width!r}")
        self.every = every
        self.powers = [power_of(width) for width in widths]
        self.step = 0
        self.averages = [[parameter.detach().clone() for parameter in self.parameters] for _ in widths]
        self.snapshots: list[tuple[int, float, list[Tensor]]] = []

    @torch.no_grad()
    def __call__(self, progress: Progress) -> None:
        """Takes the present weights in."""
        self.step += 1
        for power, average in zip(self.powers, self.averages, strict=True):
            share = 1 - (1 - 1 / self.step) ** (power + 1)
            torch._foreach_lerp_(average, [parameter.detach() for parameter in self.parameters], share)
        if self.step % self.every == 0:
            self._store()

    @torch.no_grad()
    def weights(self, width: float) -> list[Tensor]:
        """The average of the given width over the run so far, one tensor for each parameter.

        Raises:
            ValueError: ``width`` is not in (0, 0.28), or no step was taken.
        """
        if not self.step:
            raise ValueError("`width` is of an average of steps, got none to average")
        if not self.snapshots or self.snapshots[-1][0] != self.step:
            self._store()
        times, powers = (np.array([snapshot[index] for snapshot in self.snapshots]) for index in (0, 1))
        factors = combination(times, powers, self.step, power_of(width))
        copies = [snapshot[2] for snapshot in self.snapshots]
        return [
            sum(factor * copy[index].double() for factor, copy in zip(factors.tolist(), copies, strict=True)).to(
                parameter
            )
            for index, parameter in enumerate(self.parameters)
        ]

    @torch.no_grad()
    def apply(self, width: float) -> None:
        """Puts the average of the given width in place of the parameters."""
        torch._foreach_copy_(self.parameters, self.weights(width))

    def state_dict(self) -> dict[str, Any]:
        """Averages and snapshots, for checkpoints."""
        return {
            "step": self.step,
            "powers": self.powers,
            "averages": self.averages,
            "snapshots": [list(entry) for entry in self.snapshots],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts averages and snapshots into the given state.

        Raises:
            ValueError: the state is that of averages of other widths, or of other parameters.
        """
        powers = state.get("powers", self.powers)  # states of an earlier pyrogen do not hold them
        if len(state["averages"]) != len(self.averages) or not np.allclose(powers, self.powers):
            raise ValueError("`widths` must be as in the checkpoint: its averages have others")
        if any(
            [own.shape for own in self.parameters] != [part.shape for part in stored] for stored in state["averages"]
        ):
            raise ValueError("`module` must be as in the checkpoint: its averages are of other parameters")
        self.step = state["step"]
        for own, stored in zip(self.averages, state["averages"], strict=True):
            torch._foreach_copy_(own, list(stored))
        self.snapshots = [(step, power, list(copies)) for step, power, copies in state["snapshots"]]

    def _store(self) -> None:
        for power, average in zip(self.powers, self.averages, strict=True):
            self.snapshots.append((self.step, power, [part.cpu().clone() for part in average]))


def power_of(width: float) -> float:
    r"""The exponent :math:`\gamma` of the profile with the given relative width.

    Raises:
        ValueError: there is none; the widest is the plain mean, of width 0.289.
    """
    if not 0 < width < 0.28:
        raise ValueError(f"`width` must be in (0, 0.28), got {width}")
    square = width**-2
    roots = np.roots([1, 7, 16 - square, 12 - square])
    return float(roots[np.isreal(roots)].real.max())


def combination(times: np.ndarray, powers: np.ndarray, time: float, power: float) -> np.ndarray:
    """How much of each snapshot makes the average of the wanted power at the wanted time.

    Args:
        times: Of the snapshots, ``(n,)``.
        powers: Of the snapshots, ``(n,)``.
        time: When the wanted average ends.
        power: Of the wanted average.
    """
    own = _product(times[:, None], powers[:, None], times, powers)
    return np.linalg.lstsq(own, _product(times, powers, time, power), rcond=1e-12)[0]


def _product(time: np.ndarray, power: np.ndarray, other_time: np.ndarray, other_power: np.ndarray) -> np.ndarray:
    """The inner product of two profiles, each integrating to one."""
    shared = np.minimum(time, other_time)
    scale = (power + 1) * (other_power + 1) / (power + other_power + 1) / shared
    return scale * (shared / time) ** (power + 1) * (shared / other_time) ** (other_power + 1)
