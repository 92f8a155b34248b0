"""Energies with a normalizer: distributions whose log-probabilities can be compared with those of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import NoReturn

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyrogen.arguments import checked, instance_of
from pyrogen.core.density import Density, weakest
from pyrogen.core.estimate import Estimate
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.context import integer_labels

from .log_normalizer import UpperBound
from .model import EnergyModule


class Normalized(DistributionModule):
    r"""An energy and its normalizer, :math:`\log p(x) = -E(x) - \log Z`, of which every score carries the error.

    A normalizer holds for the parameters that it was estimated for: this is a frozen copy of the energy. Its density is
    that of the normalizer: ``"exact"`` where that is, else ``"estimate"``. An estimate from below makes
    log-probabilities too high, in expectation, and one from above (``z.upper``) too low: with it the density is
    ``"lower bound"``.

    The standard error of :math:`\log Z` is shared by all log-probabilities and does not average out over data;
    likelihoods, differences and tables add it to that of the mean.

    Args:
        energy: The energy.
        log_normalizer: An estimate of :math:`\log Z` in nats, as :func:`log_normalizer` gives it; of an energy that
            takes labels one for each label, and then the largest of their errors counts.

    Raises:
        NotImplementedError: the energy takes a context that is no single label.
        TypeError: an argument is something else.
        ValueError: the energy is normalized, or a normalizer is infinite or no normalizer.

    Example:
        >>> energy = pg.energy.mlp((2,), hidden=(8,))
        >>> z = pg.energy.log_normalizer(energy, method=pg.energy.AnnealedImportanceSampling(temperatures=20))
        >>> model = Normalized(energy, z)
        >>> model.density
        'estimate'
        >>> likelihood = pg.evaluation.log_likelihood(model, torch.randn(1000, 2))
        >>> likelihood.standard_error > z.standard_error
        True
    """

    weighs_without_bias = True  # its error is one constant, and no noise
    constants: Tensor
    errors: Tensor

    @checked(energy=instance_of(EnergyModule))
    def __init__(self, energy: EnergyModule, log_normalizer: Estimate | Sequence[Estimate]) -> None:
        super().__init__(energy.event_shape, energy.context_shape)
        if energy.density != "unnormalized":
            raise ValueError(
                f"`energy` must be unnormalized, got {type(energy).__name__} of density {energy.density!r}"
            )
        estimates = _checked(log_normalizer, energy)
        self.density = weakest(*map(_density, estimates))
        self.energy = deepcopy(energy).requires_grad_(False)
        for name, values in (
            ("constants", [estimate.value for estimate in estimates]),
            ("errors", [estimate.standard_error for estimate in estimates]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.double).to(energy.zero))

    @property
    def shared_error(self) -> float:
        """The standard error of the normalizer, in nats; of several the largest."""
        return float(self.errors.max())

    def forward(self, context: Context = None) -> NormalizedDistribution:
        constants = self.constants
        constants = constants[0] if context is None else constants[integer_labels(context, len(constants))]
        return NormalizedDistribution(self.energy(context), constants, self.density, self.shared_error)

    def objective(self) -> NoReturn:
        raise NotImplementedError(
            "Normalized is a frozen copy, since its normalizer was estimated for these parameters: train the energy, "
            "and estimate its normalizer afterwards"
        )


class NormalizedDistribution(PyrogenDistribution):
    """An unnormalized distribution and the logarithm of its normalizer.

    Args:
        distribution: The distribution.
        log_normalizer: Of its batch shape, or one for all.
        density: What the ``log_prob`` means.
        shared_error: The standard error of the normalizer, in nats.
    """

    def __init__(
        self,
        distribution: TorchDistributionMixin,
        log_normalizer: Tensor,
        density: Density,
        shared_error: float,
        *,
        validate_args: bool | None = False,
    ) -> None:
        self.distribution, self.log_normalizer = distribution, log_normalizer
        self.density, self.shared_error = density, shared_error
        super().__init__(distribution.batch_shape, distribution.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return self.distribution.support

    def log_prob(self, value: Tensor) -> Tensor:
        return self.distribution.log_prob(value) - self.log_normalizer

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.distribution.sample(sample_shape)

    def _expanded(self, batch_shape: torch.Size) -> NormalizedDistribution:
        return NormalizedDistribution(
            self.distribution.expand(batch_shape), self.log_normalizer, self.density, self.shared_error
        )


def _checked(log_normalizer: Estimate | Sequence[Estimate], energy: EnergyModule) -> list[Estimate]:
    several = isinstance(log_normalizer, Sequence)
    estimates = list(log_normalizer) if several else [log_normalizer]
    for estimate in estimates:
        if not isinstance(estimate, Estimate):
            raise TypeError(
                f"`log_normalizer` must be an Estimate or one for each label, got {type(estimate).__name__}"
            )
        if estimate.unit != "nats" or abs(estimate.value) == torch.inf or estimate.density in ("unnormalized", None):
            raise ValueError(f"`log_normalizer` must be a number of nats, got {estimate}")
    if energy.context_shape is not None and (energy.context_shape != () or not several):
        raise NotImplementedError(
            f"{type(energy).__name__} takes a context of shape {energy.context_shape}, and each has a normalizer: "
            "`log_normalizer` must be one for each label (`context_shape` ()); for others, estimate it one by one"
        )
    if energy.context_shape is None and len(estimates) != 1:
        raise ValueError(f"`log_normalizer` must be one estimate for an energy without context, got {len(estimates)}")
    return estimates


def _density(estimate: Estimate) -> Density:
    if isinstance(estimate, UpperBound):
        return "lower bound"
    return "exact" if estimate.density == "exact" else "estimate"
