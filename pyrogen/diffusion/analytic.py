r"""The closed form: the optimal denoiser of a mixture of Gaussians.

With data :math:`\sum_k w_k \mathcal{N}(m_k, S_k)` the noisy data are again such a mixture,

.. math:: p_t(x) = \sum_k w_k \mathcal{N}(x; \alpha_t m_k, \alpha_t^2 S_k + \sigma_t^2 I),

and with :math:`r_k(x)` the posterior weights of its components

.. math::
    \mathbb{E}[x_0 \mid x_t = x] = \sum_k r_k(x)
    \bigl(m_k + \alpha_t S_k (\alpha_t^2 S_k + \sigma_t^2 I)^{-1} (x - \alpha_t m_k)\bigr) .

One eigen-decomposition :math:`S_k = U_k \operatorname{diag}(s_k) U_k^\top`, made once, turns every time into
elementwise arithmetic. Where all components have one covariance, there is one decomposition, and
the sum over components is that of :math:`r_k(x) m_k` alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pyrogen.core.shapes import Context
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.rows import by_datum
from pyrogen.numerics.schedule import Schedule

from .denoiser import Denoiser

_LOG_2PI = math.log(2 * math.pi)


class GaussianMixtureDenoiser(Denoiser):
    """The exact denoiser of a Gaussian mixture, and the exact density of its noisy data.

    Args:
        mixture: A ``MixtureSameFamily`` without batch dimensions whose components are ``MultivariateNormal`` or
            ``Independent(Normal)`` of any event shape; or one such component by itself.
        schedule: The path from data to noise.

    Raises:
        ValueError: the mixture has batch dimensions or other components.

    Example:
        >>> from pyro.distributions import Categorical, Independent, MixtureSameFamily, Normal
        >>> from pyrogen.numerics.schedules import CosineVP
        >>> components = Independent(Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.1), 1)
        >>> denoiser = GaussianMixtureDenoiser(MixtureSameFamily(Categorical(torch.ones(2)), components), CosineVP())
        >>> denoiser(torch.tensor([0.9, 0.2]), 0.3).shape
        torch.Size([2])
    """

    has_divergence = True
    has_posterior = True

    def __init__(self, mixture: TorchDistribution, schedule: Schedule) -> None:
        super().__init__(tuple(mixture.event_shape), schedule)
        log_weight, components = _parts(mixture)
        mean, variance, rotation = _eigen(components)
        self.register_buffer("log_weight", log_weight)
        self.register_buffer("mean", mean)  # (K, D)
        # C covariances: one for all components, or K.
        self.register_buffer("variance", variance)  # (C, D), along the axes
        self.register_buffer("rotation", rotation)  # (D, C D): axes of all covariances side by side; None: coordinates
        self.register_buffer("centre", mean if rotation is None else _rotate(mean, rotation))  # (K, D), along the axes

    @property
    def data_scale(self) -> Tensor:
        """The standard deviation of every element of the mixture, ``event_shape``."""
        size = self.mean.shape[-1]
        within = self.variance
        if self.rotation is not None:
            axes = self.rotation.view(size, *self.variance.shape)  # (D, C, D): element, covariance, axis
            within = torch.einsum("dcj,cj->cd", axes.square(), self.variance)
        weight = self.log_weight.softmax(-1)
        centre = weight @ self.mean
        return (weight @ (within + (self.mean - centre).square())).sqrt().reshape(self.event_shape)

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        return self._data(x, self._posterior(x, t))

    def noise(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        return self._noise(x, self._posterior(x, t))

    def velocity(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        posterior = self._posterior(x, t)
        return self.slope(x, t).mix(self._data(x, posterior), self._noise(x, posterior))

    def velocity_and_divergence(self, x: Tensor, t: Tensor | float, context: Context = None) -> tuple[Tensor, Tensor]:
        r"""The velocity and its divergence, in closed form.

        With :math:`u_k = (\alpha^2 S_k + \sigma^2 I)^{-1} (x - \alpha m_k)`, the posterior mean
        :math:`c_k = m_k + \alpha S_k u_k` of component :math:`k`, and averages over :math:`r`,

        .. math::
            \operatorname{div} D &= \langle \operatorname{tr} \alpha S (\alpha^2 S + \sigma^2 I)^{-1}
            - c^\top u \rangle + \langle c \rangle^\top \langle u \rangle \\
            \operatorname{div} \hat\varepsilon &= \sigma \langle \operatorname{tr} (\alpha^2 S + \sigma^2 I)^{-1}
            - u^\top u \rangle + \sigma \langle u \rangle^\top \langle u \rangle

        Shape:
            That of ``x``, and ``batch``.
        """
        posterior = self._posterior(x, t)
        weight, precision, alpha, sigma = posterior.weight, posterior.precision, posterior.alpha, posterior.sigma
        u = precision * (posterior.axes - alpha * self.centre.to(x))  # (*B, K, D)
        data, noise = self._data(x, posterior), self._noise(x, posterior)
        own_data = alpha * self.variance.to(x) * (precision - u * u) - self.centre.to(x) * u
        own_noise = sigma * (precision - u * u)
        mean_u = self._average(posterior, posterior.whitened).reshape(x.shape)
        of_data = (weight * own_data.sum(-1)).sum(-1) + by_datum(data * mean_u, len(self.event_shape)).sum(-1)
        of_noise = (weight * own_noise.sum(-1)).sum(-1) + by_datum(noise * mean_u, len(self.event_shape)).sum(-1)
        slope = GaussianPath(*self.schedule.derivatives(self.times(x, t)))
        return slope.over(len(self.event_shape)).mix(data, noise), slope.mix(of_data, of_noise)

    def posterior_sample(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        posterior = self._posterior(x, t)
        which = Categorical(logits=posterior.log_joint).sample()
        one = self._weighted(posterior, nn.functional.one_hot(which, len(self.mean)).to(x))
        left = self.variance.to(x) * posterior.sigma**2 * posterior.precision  # (*B, C, D)
        noise = torch.randn_like(by_datum(x, len(self.event_shape))).unsqueeze(-2)
        return self._data(x, one) + self._average(one, left.sqrt() * noise).reshape(x.shape)

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The exact log-density of the noisy data, in nats.

        Args:
            x: Noisy data, of shape ``(*batch, *event_shape)``.
            t: Their times: one for all, or of shape ``batch``.

        Shape:
            ``batch``.
        """
        return torch.logsumexp(self._posterior(x, t).log_joint, -1)

    def _posterior(self, x: Tensor, t: Tensor | float) -> _Posterior:
        alpha, sigma = self.schedule(self.times(x, t)).over(2)
        flat, centre, variance = by_datum(x, len(self.event_shape)), self.centre.to(x), self.variance.to(x)
        axes = flat.unsqueeze(-2) if self.rotation is None else _project(flat, self.rotation.to(x), len(variance))
        precision = 1 / (alpha**2 * variance + sigma**2)
        scale = precision.sqrt()
        energy = (scale * axes - (scale * alpha) * centre).square().sum(-1) - precision.log().sum(-1)
        log_joint = self.log_weight.to(x) - 0.5 * (energy + _LOG_2PI * flat.shape[-1])
        whole = _Posterior(log_joint, log_joint, log_joint, axes, precision, axes, alpha, sigma)
        return self._weighted(whole, log_joint.softmax(-1))

    def _weighted(self, posterior: _Posterior, weight: Tensor) -> _Posterior:
        """The same with other weights of the components, ``(*B, K)``."""
        centre, share = self.centre.to(weight), weight
        if len(self.variance) < len(centre):  # one covariance: what differs is averaged first
            centre, share = (weight @ centre).unsqueeze(-2), torch.ones_like(weight[..., :1])
        whitened = posterior.precision * (posterior.axes - posterior.alpha * centre)
        return posterior._replace(weight=weight, share=share, whitened=whitened)

    def _data(self, x: Tensor, posterior: _Posterior) -> Tensor:
        shift = posterior.alpha * self.variance.to(x) * posterior.whitened
        return (posterior.weight @ self.mean.to(x) + self._average(posterior, shift)).reshape(x.shape)

    def _noise(self, x: Tensor, posterior: _Posterior) -> Tensor:
        return self._average(posterior, posterior.sigma * posterior.whitened).reshape(x.shape)

    def _average(self, posterior: _Posterior, along_axes: Tensor) -> Tensor:
        """The weighted sum over covariances of vectors given along their axes: ``(*B, D)``."""
        weighted = posterior.share.unsqueeze(-1) * along_axes
        return weighted.sum(-2) if self.rotation is None else weighted.flatten(-2) @ self.rotation.to(weighted).mT


class _Posterior(NamedTuple):
    """The posterior over the components, and the distance from them along the axes of each covariance."""

    log_joint: Tensor  # (*B, K)
    weight: Tensor  # (*B, K)
    share: Tensor  # (*B, C): the weight of the components with each covariance
    axes: Tensor  # (*B, C, D)
    precision: Tensor  # (*B, C, D)
    whitened: Tensor  # (*B, C, D), averaged over the components with each covariance
    alpha: Tensor
    sigma: Tensor


def _parts(mixture: TorchDistribution) -> tuple[Tensor, TorchDistribution]:
    """The log-weights ``(K,)`` and the components with batch shape ``(K,)``."""
    if mixture.batch_shape:
        raise ValueError(f"`mixture` must have no batch dimensions, got batch_shape {tuple(mixture.batch_shape)}")
    if isinstance(mixture, MixtureSameFamily):
        return mixture.mixture_distribution.logits.log_softmax(-1), mixture.component_distribution
    single = mixture.expand((1,))
    return mixture.mean.new_zeros(1), single


def _eigen(components: TorchDistribution) -> tuple[Tensor, Tensor, Tensor | None]:
    """Means ``(K, D)``, variances along the axes ``(C, D)``, and the axes side by side (``None``: the coordinates)."""
    normal = components
    while isinstance(normal, Independent):
        normal = normal.base_dist
    count = components.batch_shape[0]
    if isinstance(normal, Normal):
        return components.mean.reshape(count, -1), _distinct(components.variance.reshape(count, -1)), None
    if isinstance(normal, MultivariateNormal) and normal is components:
        covariance = _distinct(normal.covariance_matrix)
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        if torch.equal(covariance, torch.diag_embed(diagonal)):
            return normal.loc, diagonal, None
        # In double precision: an eigenvalue's error is relative to the largest one.
        variance, axes = torch.linalg.eigh(covariance.double())
        rotation = axes.permute(1, 0, 2).flatten(1)
        return normal.loc, variance.clamp_min(0).to(normal.loc), rotation.to(normal.loc)
    raise ValueError(
        f"`mixture` must have MultivariateNormal or Independent(Normal) components, got {type(normal).__name__}"
    )


def _distinct(values: Tensor) -> Tensor:
    """The first row alone, if all are alike."""
    return values[:1] if bool((values == values[:1]).all()) else values


def _project(flat: Tensor, rotation: Tensor, count: int) -> Tensor:
    """Points along the axes of every covariance: ``(*B, C, D)``."""
    return (flat @ rotation).unflatten(-1, (count, flat.shape[-1]))


def _rotate(mean: Tensor, rotation: Tensor) -> Tensor:
    """Each mean along the axes of its own covariance: ``(K, D)``."""
    along = _project(mean, rotation, rotation.shape[1] // len(rotation))  # (K, C, D)
    return (along.diagonal(dim1=0, dim2=1).mT if along.shape[1] > 1 else along.squeeze(1)).contiguous()
