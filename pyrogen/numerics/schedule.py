r"""What a noise schedule is: how much of a datum is left, and how much noise there is, at each time.

A schedule is a path from data to noise,

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, I), \qquad t \in [0, 1],

along which the log-signal-to-noise ratio :math:`\lambda_t = \log(\alpha_t^2 / \sigma_t^2)` falls strictly. At
:math:`t = 0` there is nearly only data, at :math:`t = 1` nearly only noise. "Nearly", since :math:`\lambda` is finite
at both ends: densities, variational bounds and solvers need that.

With the optimal denoiser two schedules differ only by a change of time and of scale, so what matters is
:math:`\lambda`: samplers and time grids are written in it (Kingma, Salimans, Poole and Ho 2021, "Variational diffusion
models", https://arxiv.org/abs/2107.00630). The schedules of the literature are in :mod:`pyrogen.numerics.schedules`.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract

from .gaussian_path import GaussianPath

_SLACK = 1e-5  # times computed in float32 may leave [0, 1] by rounding


class Schedule(Abstract, nn.Module):
    r"""A path :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` from data to noise.

    Subclasses define :meth:`forward` and :meth:`time`; :meth:`derivatives` where a closed form is cheaper than
    differentiation. A call checks that its times lie in [0, 1] if torch's (and Pyro's) validation is on and the times
    are on the CPU, where looking at them costs no waiting.
    """

    def __call__(self, t: Tensor) -> GaussianPath:
        if visible(t):
            check_times(t)
        return GaussianPath(*super().__call__(t))

    @abstractmethod
    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The scale of the data :math:`\alpha_t` and of the noise :math:`\sigma_t`, both of the shape of ``t``."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        r"""The time at which :math:`\lambda_t` is ``log_snr``: the inverse of :meth:`log_snr`."""

    def log_snr(self, t: Tensor) -> Tensor:
        r""":math:`\lambda_t = \log(\alpha_t^2 / \sigma_t^2)`, of the shape of ``t``."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`(\alpha'_t, \sigma'_t)`, the derivatives in time, both of the shape of ``t``."""
        alpha, sigma = (torch.func.grad(lambda t, i=i: self.forward(t)[i].sum())(t) for i in range(2))
        return alpha, sigma

    def slope(self, t: Tensor) -> Tensor:
        r""":math:`\lambda'_t < 0`, of the shape of ``t``."""
        (alpha, sigma), (alpha_slope, sigma_slope) = self(t), self.derivatives(t)
        return 2 * (alpha_slope / alpha - sigma_slope / sigma)

    def key(self) -> tuple[object, ...] | None:
        """All that determines the schedule, by which samplers keep their plans; ``None``: not known."""
        return None


class FixedSchedule(Schedule):
    """A schedule that its attributes, Python numbers, determine."""

    def key(self) -> tuple[object, ...] | None:
        return type(self), *(value for value in vars(self).values() if isinstance(value, float))


class LogSNRSchedule(Schedule):
    r"""Variance-preserving, given by its log-SNR: :math:`\alpha_t^2 = 1 / (1 + e^{-\lambda_t})`.

    Subclasses define :meth:`log_snr`, :meth:`slope` and :meth:`time`.
    """

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def slope(self, t: Tensor) -> Tensor: ...

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), slope = self(t), self.slope(t)
        return 0.5 * slope * sigma**2 * alpha, -0.5 * slope * alpha**2 * sigma


def check_times(t: Tensor, name: str = "t") -> None:
    """Refuses times outside [0, 1].

    Raises:
        ValueError: a time is not a number in [0, 1]; the message names it.
    """
    if t.dim() == 0:
        if not -_SLACK <= t.item() <= 1 + _SLACK:
            raise ValueError(f"`{name}` must lie in [0, 1], got {t.item():g}")
        return
    if not t.numel() or all(-_SLACK <= end.item() <= 1 + _SLACK for end in torch.aminmax(t.detach())):
        return
    bad = ~((t >= -_SLACK) & (t <= 1 + _SLACK))
    where = bad.nonzero()[0].tolist()
    raise ValueError(f"`{name}` must lie in [0, 1], got {t[tuple(where)].item():g} at {where}")


def check_schedule(schedule: Schedule, *, points: int = 257) -> None:
    r"""Refuses a schedule whose :math:`\lambda` is not finite or does not fall strictly.

    Raises:
        ValueError: the message names the times.
    """
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    with torch.no_grad():
        log_snr = schedule.log_snr(t)
    name = type(schedule).__name__
    if log_snr.shape != t.shape:
        raise ValueError(
            f"`schedule` must keep the shape of times {tuple(t.shape)}, {name} gave {tuple(log_snr.shape)}"
        )
    bad = (~log_snr.isfinite()).nonzero().flatten()
    if len(bad):
        at = bad[0]
        raise ValueError(f"`schedule` must have a finite log-SNR, {name} has {log_snr[at]:g} at t = {t[at]:g}")
    rises = (log_snr[1:] >= log_snr[:-1]).nonzero().flatten()
    if len(rises):
        at = rises[0]
        raise ValueError(
            f"`schedule` must have a strictly decreasing log-SNR, {name} goes from {log_snr[at]:g} at t = {t[at]:g} "
            f"to {log_snr[at + 1]:g} at t = {t[at + 1]:g}"
        )


def visible(t: Tensor) -> bool:
    """Whether reading the numbers is wanted, possible and free."""
    return (
        torch.distributions.Distribution._validate_args
        and not torch.compiler.is_compiling()
        and t.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
    )
