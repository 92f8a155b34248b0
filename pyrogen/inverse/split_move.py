r"""Split Gibbs sampling: a posterior under a diffusion prior, one noise level at a time.

The posterior of a linear measurement with Gaussian noise, of data that have noise of width :math:`\tau` of their own
(:mod:`~pyrogen.inverse.inflated`), is left as it is by a move in two steps:

1. :math:`z \mid x, y`, a Gaussian: the data with noise :math:`\rho`, drawn towards the measurement;
2. :math:`x \mid z`, the prior alone: its chain from noise :math:`\rho` on (:mod:`~pyrogen.inverse.reverse`).

With :math:`\rho^2 = \tau^2 + c / \lVert A \rVert^2`, :math:`c < 1` (in units of the noise of the measurement), this is
so down to :math:`\tau = 0`, the posterior itself. Under other likelihoods the move has a Metropolis correction
(:mod:`~pyrogen.inverse.powered`).

References:
    Wu, Sun, Chen, Zhang, Yue and Bouman 2024, "Principled probabilistic imaging using diffusion models as plug-and-play
    priors", https://arxiv.org/abs/2405.18782
    Vono, Dobigeon and Chainais 2019, "Split-and-augmented Gibbs sampler: application to large-scale inference
    problems", https://arxiv.org/abs/1804.05809
"""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import torch
from torch import Tensor

from pyrogen.numerics.grids import Grid, default_grid
from pyrogen.operators.spectrum import ExactSpectrum

from .chain import Chain, data_norm
from .inflated import Inflated
from .powered import Powered
from .powered_others import PoweredOthers
from .reverse import Reverse
from .saved import Beginning
from .tempered_likelihood import TemperedLikelihood
from .unknowns import Unknowns

_SHARE = 0.9  # of the largest noise that the measurement leaves room for, at most
_GOAL, _EAGER = 0.5, 2.0  # acceptance to reach, and how fast
_KEPT = ("accepted", "_share", "_of_pilots", "_fitted_to")


class SplitMove:
    """A move that leaves the posterior at every width as it is.

    Args:
        likelihood: The measurement.
        reverse: The prior.

    Attributes:
        accepted: The share of particles that moved, at each move.
        pilots: The particles to which moves are fitted: all, unless it is set.
    """

    def __init__(self, likelihood: TemperedLikelihood, reverse: Reverse) -> None:
        self.likelihood, self.reverse = likelihood, reverse
        self.accepted: list[float] = []
        self.pilots = slice(None)
        self._share, self._of_pilots, self._fitted_to = _SHARE, _GOAL, None

    def __call__(self, x: Tensor, width: float) -> Tensor:
        """The next particles ``(P, N, D)`` at a width."""
        noise = self.noise(width)
        x, accepted = self.likelihood.move(x, width, noise, lambda z: self.reverse(z, noise))
        self.accepted.append(accepted.double().mean().item())
        self._of_pilots = accepted[self.pilots].double().mean().item()
        return x

    def noise(self, width: float) -> float:
        """How much noise particles get on the way."""
        return min(self.likelihood.noise(width, self._share), self.reverse.most)

    def fit(self, x: Tensor) -> None:
        """Prepares moves of particles that are now here."""
        self._fitted_to = x[self.pilots].clone() if self.likelihood.fitted else None
        self.likelihood.fit(x[self.pilots])

    def adapt(self) -> None:
        """Adds more noise or less, by what became of the last move."""
        self._share = min(self._share * math.exp(_EAGER * (self._of_pilots - _GOAL)), _SHARE)

    def state_dict(self) -> dict[str, Any]:
        """What became of the moves so far, and to which particles they are fitted."""
        return {name: getattr(self, name) for name in _KEPT} | {"passes": self.reverse.passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where other moves were."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.reverse.passes = state["passes"]
        if self._fitted_to is not None:
            self.likelihood.fit(self._fitted_to)


def split_move(unknowns: Unknowns, grid: Grid | None, steps: int, chunk: int, backward: int = 0) -> SplitMove:
    """The move of all unknowns of a problem.

    Args:
        unknowns: What is to be inferred.
        grid: The noise levels of the chain of the prior; the default ones if ``None``.
        steps: How many steps these have.
        chunk: How many particles the denoiser takes at once.
        backward: How many backward passes each step of the chain makes.
    """
    target = unknowns.target
    prior = target.denoise, target.shape, unknowns.typical
    grid = grid or default_grid(target.schedule, steps, norm=data_norm(target.schedule, *prior))
    chain = Chain(target.schedule, grid)
    chain.calibrate(*prior)
    reverse = Reverse(target, chain, chunk, backward)
    return SplitMove(tempered_likelihood(unknowns, reverse.most), reverse)


def tempered_likelihood(unknowns: Unknowns, most: float) -> TemperedLikelihood:
    """The likelihood at every width.

    Args:
        unknowns: Of which.
        most: The largest noise, in data units.
    """
    if unknowns.others:
        return PoweredOthers(unknowns, most)
    target, zero = unknowns.target, torch.zeros_like(unknowns.typical).unsqueeze(0)
    if target.is_linear(zero):
        residual, operator, constant = target.linearized(zero)
        spectrum = operator.spectrum()
        if isinstance(spectrum, ExactSpectrum):
            return Inflated(residual, spectrum, constant)
    return Powered(target, zero, most, linear=target.is_linear(zero))


def started(unknowns: Unknowns, move: SplitMove, count: int) -> Tensor:
    """Draws of all unknowns without the data, in rows ``(count, N, D + k)``."""
    return torch.cat([move.reverse.prior(count, unknowns.typical), unknowns.draw(count)], -1)


def beginning(unknowns: Unknowns, move: SplitMove) -> Beginning:
    """What a run is recognized by: the data and one draw of all unknowns, whatever particles go together."""
    alone = SplitMove(move.likelihood, copy(move.reverse))  # whose passes do not count
    draw = {name: value.contiguous() for name, value in unknowns.by_site(started(unknowns, alone, 1)).items()}
    return Beginning(unknowns.data, draw)
