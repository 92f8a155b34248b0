r"""Diffusion with uniform noise: symbols are replaced by any other, and every one may be corrected to the last.

With :math:`K` symbols and the share :math:`u` of noise, a denoiser that leaves :math:`c_i(x)` for element :math:`i`
makes of its noisy symbol the distribution :math:`q^\theta_i(z) = (1 - u) \, c_i(z) + u / K`; the datum itself makes
:math:`q_i(z) = (1 - u) [z = x_i] + u / K`. A symbol jumps back from :math:`z` to :math:`y` at a rate proportional to
:math:`r(y) = q(y) / q(z)`, in the model to :math:`r^\theta(y) = q^\theta(y) / q^\theta(z)`. The bound in continuous
time compares the two (Campbell et al. 2022), each as it differs from data that are noise themselves, for which
:math:`r = 1` and :math:`\log p = -L \log K`:

.. math::
    \log p(x) \ge -L \log K + \int_0^1 \frac{1}{K (1 - u)} \, \mathbb{E}_{z \mid x} \sum_i \sum_{y \ne z_i} \bigl[
    1 - r^\theta_i(y) + r_i(y) \log r^\theta_i(y) \bigr] du .

The integral begins at a millionth of noise. It is then the bound of data of which a millionth of the symbols has been
replaced: the same to six digits where events are possible, but one that the denoiser rules out has :math:`\log (10^{-6}
/ K)` nats for each symbol in which it differs from a possible one, not minus infinity.

The integrand grows as :math:`\log u` near the data, but its draws as :math:`1 / u` where a symbol is wrong, as a share
:math:`u` of them is: with shares of noise drawn evenly, or more seldom near the data, the variance is infinite, and
averages of any practical number of draws are off by nats. So they are drawn as :math:`u = t^3`, whatever the schedule,
which is that of the sampler alone.

The sum over :math:`y` needs no loop: it is :math:`K - 1 / q^\theta(z) + (\sum_y q(y) \log q^\theta(y) - \log
q^\theta(z)) / q(z)`. A network that puts out zero makes :math:`q^\theta = 1 / K`, and the integral vanishes without
noise.

References:
    Campbell, Benton, De Bortoli, Rainforth, Deligiannidis and Doucet 2022, "A continuous time framework for discrete
    denoising models", https://arxiv.org/abs/2205.14987
    Lou, Meng and Ermon 2024, "Discrete diffusion modeling by estimating the ratios of the data distribution",
    https://arxiv.org/abs/2310.16834
    Schiff et al. 2024, "Simple guidance mechanisms for discrete diffusion models", https://arxiv.org/abs/2412.10193
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.core.shapes import Context
from pyrogen.numerics.rows import by_datum

from .denoiser import SymbolDenoiser
from .model import DiscreteDiffusion
from .noise import UniformNoise
from .samplers import SymbolAncestral, SymbolSampler
from .schedules import PolynomialSymbols, SymbolSchedule

_END = 1e-6
"""How near to no noise and to noise alone the integral comes."""

_DRAWN = PolynomialSymbols(3.0)
"""Which shares of noise the estimate draws: that of a wrong symbol counts as 1 / u, so that the variance is finite only
where little noise is drawn more often than evenly."""


class UniformDiffusion(DiscreteDiffusion):
    """Diffusion with uniform noise; see :mod:`pyrogen.diffusion.discrete.uniform`.

    Args:
        denoiser: What all other noisy symbols leave for each.
        schedule: The share of noise at each time, for the sampler; the square of time if ``None``.
        sampler: Turns noise into data; 128 ancestral steps if ``None``.
        draws: How many noisy events ``log_prob`` averages over.
        noise_seed: As for :class:`~pyrogen.diffusion.discrete.model.DiscreteDiffusion`.

    Example:
        >>> from pyrogen.diffusion.discrete.analytic import EnumeratedDenoiser
        >>> coins = torch.tensor([0.4, 0.1, 0.1, 0.4]).log()  # of 00, 01, 10, 11
        >>> model = UniformDiffusion(EnumeratedDenoiser(coins, UniformNoise, symbols=2, event_shape=(2,)), draws=10_000)
        >>> bool((model().log_prob(torch.tensor([0, 0])) - coins[0]).abs() < 0.1)
        True
    """

    def __init__(
        self,
        denoiser: SymbolDenoiser,
        *,
        schedule: SymbolSchedule | None = None,
        sampler: SymbolSampler | None = None,
        draws: int = 8,
        noise_seed: int | None = None,
    ) -> None:
        super().__init__(
            denoiser,
            UniformNoise,
            schedule=PolynomialSymbols(2.0) if schedule is None else schedule,
            sampler=SymbolAncestral(128) if sampler is None else sampler,
            draws=draws,
            noise_seed=noise_seed,
        )

    def bound(self, x: Tensor, level: Tensor, uniform: Tensor, context: Context = None) -> Tensor:
        event_dim, counts = len(self.event_shape), self.noise.counts
        share = _END + (1 - 2 * _END) * _DRAWN(level)
        wide = share.reshape(*share.shape, *(1,) * event_dim)
        noisy = self.noise.corrupt(x, wide, uniform)
        log_probs = self.denoiser(noisy, share, context)
        gain = self.gain(log_probs, x, noisy, wide) / (counts * (1 - wide))
        return by_datum(gain, event_dim).sum(-1) * _DRAWN.slope(level) - counts.log().sum()

    def gain(self, log_probs: Tensor, x: Tensor, noisy: Tensor, share: Tensor) -> Tensor:
        r"""The sum over jumps, :math:`\sum_{y \ne z} [1 - r^\theta(y) + r(y) \log r^\theta(y)]`, of each element.

        Args:
            log_probs: What all other symbols leave, ``(*noisy, symbols)``.
            x: The symbols of the datum.
            noisy: The noisy ones.
            share: The share of noise.
        """
        counts, share = self.noise.counts, share.unsqueeze(-1)
        flat = (share / counts.unsqueeze(-1)).log()
        noised = torch.logaddexp(log_probs + torch.log1p(-share), flat)  # log q^theta, (*noisy, symbols)
        true = self.noise.likelihood(x, share.squeeze(-1)).to(noised)  # q: as a matrix it is symmetric
        at_noisy = noised.gather(-1, noisy.unsqueeze(-1)).squeeze(-1)
        frequency = true.gather(-1, noisy.unsqueeze(-1)).squeeze(-1)
        inside = torch.arange(noised.shape[-1], device=noised.device) < counts.unsqueeze(-1)
        cross = torch.where(inside, true * noised, 0.0).sum(-1)
        return counts - torch.exp(-at_noisy) + (cross - at_noisy) / frequency
