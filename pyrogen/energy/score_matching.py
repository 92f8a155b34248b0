r"""Learning by the score, in which there is no normalizer, and by ratios of neighbours, in which it cancels.

The score is the gradient of the log-density. Where that of the energy, :math:`s(x) = -\nabla E(x)`, is that of the
data's density, the energy is right up to its constant. The score of the data is not known, but the mean squared
difference from it is, up to a constant, by integration by parts:

.. math:: \mathbb{E} \left[ \tfrac12 |s(x)|^2 + \operatorname{div} s(x) \right] .

Scores compare densities nearby alone, so that they do not see how much of the data each of several modes far apart
holds. Real events are in the coordinates of the energy's data: mean zero and deviation one, without bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrogen.arguments import checked, integer, positive
from pyrogen.core.shapes import Context, require_one_context_each
from pyrogen.numerics.markov.state import LogDensity
from pyrogen.numerics.trace import ExactTrace, Trace

from .contrastive import EnergyObjective
from .kernels import repeated, require_finite
from .model import EnergyModule


class ScoreEnergyObjective(EnergyObjective):
    """A loss of the score of an energy of real events; abstract.

    Args:
        energy: What is trained.

    Raises:
        FloatingPointError: when called, energies are not finite; their rows are named.
        NotImplementedError: its events are discrete.
    """

    def __init__(self, energy: EnergyModule) -> None:
        super().__init__(energy)
        if energy.symbols is not None:
            raise NotImplementedError(
                f"{type(self).__name__} needs real events, got {energy.support}: bits and symbols have no score; use "
                "RatioMatching"
            )

    def coordinates(self, x: Tensor, context: Context) -> tuple[Tensor, LogDensity]:
        """Data in coordinates of mean zero, deviation one and without bounds, and the log-density in these."""
        energy = self.energy
        require_one_context_each(x, context, energy.event_shape, energy.context_shape)
        # Not those of a base: the loss would change with what is learned.
        transform = EnergyModule.coordinates(energy, context)

        def log_density(z: Tensor) -> Tensor:
            x, log_det = transform.forward_and_log_det(z)
            return log_det - energy.energies(x, context)

        return transform._inverse(x), log_density


class ScoreMatching(ScoreEnergyObjective):
    r"""Score matching, exact or by slices: :math:`\mathbb{E} [\frac12 |s(x)|^2 + \operatorname{div} s(x)]`.

    Args:
        energy: What is trained; twice differentiable, as networks of ``nn.SiLU`` are and those of ``nn.ReLU`` are not.
        trace: How the divergence is found: exactly, with a backward pass for each element, or along random directions
            by :class:`~pyrogen.numerics.trace.Hutchinson` (sliced score matching with variance reduction).

    Raises:
        NotImplementedError: its events are discrete.

    References:
        Hyvarinen 2005, "Estimation of non-normalized statistical models by score matching",
        https://jmlr.org/papers/v6/hyvarinen05a.html
        Song, Garg, Shi and Ermon 2019, "Sliced score matching: a scalable approach to density and score estimation",
        https://arxiv.org/abs/1905.07088
    """

    unit = "squared score per datum"

    def __init__(self, energy: EnergyModule, *, trace: Trace | None = None) -> None:
        super().__init__(energy)
        self.trace = ExactTrace() if trace is None else trace

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        z, log_density = self.coordinates(x, context)
        with torch.no_grad():
            require_finite(log_density(z), "data")
        score = torch.func.grad(lambda z: log_density(z).sum())
        with torch.enable_grad():
            value, divergence = self.trace(score, z, self.trace.noise(z))
        return (0.5 * value.square().reshape(len(z), -1).sum(1) + divergence).mean()


class DenoisedScoreMatching(ScoreEnergyObjective):
    r"""Denoising score matching: the energy learns the density of data with noise, :math:`x + \sigma \varepsilon`.

    .. math:: \tfrac12 \, \mathbb{E} \left| \sigma \, s(x + \sigma \varepsilon) + \varepsilon \right|^2

    It needs first derivatives in the events alone. The energy that is right for it is that of noisy data: of normal
    data of variance :math:`v` it has the precision :math:`1 / (v + \sigma^2)`, not :math:`1 / v`.

    Args:
        energy: What is trained.
        noise_scale: :math:`\sigma`, in standard deviations of the data.

    Raises:
        NotImplementedError: its events are discrete.

    References:
        Vincent 2011, "A connection between score matching and denoising autoencoders",
        https://doi.org/10.1162/NECO_a_00142
    """

    unit = "squared noise per datum"

    @checked(noise_scale=positive)
    def __init__(self, energy: EnergyModule, *, noise_scale: float) -> None:
        super().__init__(energy)
        self.noise_scale = noise_scale

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        z, log_density = self.coordinates(x, context)
        noise = torch.randn_like(z)
        with torch.enable_grad():
            noisy = (z + self.noise_scale * noise).detach().requires_grad_()
            value = log_density(noisy)
            require_finite(value, "data with noise")
            (score,) = torch.autograd.grad(value.sum(), noisy, create_graph=True, materialize_grads=True)
        return 0.5 * (self.noise_scale * score + noise).square().reshape(len(z), -1).sum(1).mean()


class RatioMatching(EnergyObjective):
    r"""Ratio matching of bits or symbols: the energy against those of all neighbours, which differ in one element.

    .. math:: \mathbb{E} \sum_i \sum_{k \ne x_i} \operatorname{sigmoid}(E(x) - E(x_{i \to k}))^2

    is smallest where all ratios :math:`p(x) / p(x_{i \to k})` are those of the data.

    Args:
        energy: What is trained.
        elements: How many elements of each event have their neighbours compared, chosen by chance; all if ``None``.

    Raises:
        NotImplementedError: its events are real numbers.

    References:
        Hyvarinen 2007, "Some extensions of score matching", https://doi.org/10.1016/j.csda.2006.09.003
    """

    unit = "squared probability of neighbours per datum"

    @checked(elements=integer)
    def __init__(self, energy: EnergyModule, *, elements: int | None = None) -> None:
        super().__init__(energy)
        if energy.symbols is None:
            raise NotImplementedError("RatioMatching needs bits or symbols, got real events; use ScoreMatching")
        self.elements = elements

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        energy = self.energy
        require_one_context_each(x, context, energy.event_shape, energy.context_shape)
        neighbours = self._neighbours(x.reshape(len(x), -1).long())  # (M, N, elements)
        every = torch.cat([x.reshape(1, len(x), -1).long(), neighbours])
        numbers = energy.numbers(every.reshape(-1, *energy.event_shape))
        energies = energy.energies(numbers, repeated(context, len(every))).reshape(len(every), len(x))
        require_finite(energies.sum(0), "data or their neighbours")
        squares = (energies[0] - energies[1:]).sigmoid().square()
        return squares.sum(0).mean() * (energies.new_tensor(self._all(x)) / len(neighbours))

    def _all(self, x: Tensor) -> int:
        """How many neighbours an event has."""
        return x[0].numel() * (self.energy.symbols - 1)

    def _neighbours(self, x: Tensor) -> Tensor:
        """Those of each event, ``(M, N, D)``."""
        size, symbols = x.shape[1], self.energy.symbols
        if self.elements is None:
            places = torch.arange(size, device=x.device).expand(len(x), size)
        else:
            places = torch.rand(x.shape, device=x.device).argsort(1)[:, : self.elements]
        where = one_hot(places, size).transpose(0, 1)  # (elements, N, D)
        shifts = torch.arange(1, symbols, device=x.device).reshape(-1, 1, 1, 1)
        return ((x + shifts * where) % symbols).flatten(0, 1)
