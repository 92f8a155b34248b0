r"""The amortization gap: what is lost because one network is used for every datum.

The bound that a guide :math:`q_\phi(z \mid x)` reaches lies below the log-likelihood for two reasons (Cremer et al.
2018). With :math:`q^*_x` the best posterior of its family *for this datum*,

.. math::
    \log p(x) - \mathcal{L}[q_\phi] =
    \underbrace{\log p(x) - \mathcal{L}[q^*_x]}_{\text{approximation gap}} +
    \underbrace{\mathcal{L}[q^*_x] - \mathcal{L}[q_\phi]}_{\text{amortization gap}} .

The first shrinks with a richer family, the second with a larger network or more training.

Each datum's posterior is refined by an affine map of every latent element, :math:`z \mapsto m + s z` in unconstrained
coordinates, that starts as the identity and is optimized for this datum alone. On a guide of independent normals this
reaches every guide of independent normals, so :math:`q^*_x` is of its family exactly. A guide that bends (a flow) keeps
its shape and is moved and stretched.

References:
    Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders",
    https://arxiv.org/abs/1801.03558
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.utils import _sum_rightmost

from pyrogen.arguments import checked, function, integer, positive
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.programs.layouts import DrawLayout, DrawnSite, OneDraw, Sites, values_of
from pyrogen.programs.run import Program

from .importance import importance_log_weights
from .pairs import Pair, checked_rows, pairs, total
from .scoring import as_evaluated


@dataclass(frozen=True, repr=False)
class AmortizationGap:
    """The bounds of each datum, in nats, and the gaps between them.

    Args:
        amortized: The evidence lower bound of the guide.
        refined: That of the guide refined for each datum.
        weighted: The importance-weighted bound of the refined guide, which stands for the log-likelihood.
    """

    amortized: Tensor
    refined: Tensor
    weighted: Tensor

    @property
    def amortization(self) -> Estimate:
        """The amortization gap; a lower bound of it, as refinement may not have found the best."""
        return Estimate.of_mean(self.refined - self.amortized, density="lower bound")

    @property
    def approximation(self) -> Estimate:
        """What the refined guide still misses; a lower bound of it, as the weighted bound is one."""
        return Estimate.of_mean(self.weighted - self.refined, density="lower bound")

    def __str__(self) -> str:
        return f"amortization gap {self.amortization}; approximation gap {self.approximation}"

    def __repr__(self) -> str:
        return f"<AmortizationGap of {len(self.amortized)} data: {self}>"


@takes_arrays
@checked(model=function, guide=function, evaluation_draws=integer, learning_rate=positive)
def amortization_gap(
    model: Program,
    guide: Program,
    *batch: object,
    steps: int = 300,
    draws: int = 16,
    learning_rate: float = 0.05,
    evaluation_draws: int = 500,
    batch_size: int = 4096,
) -> AmortizationGap:
    """The amortization and the approximation gap of a guide on held-out data.

    Costs ``steps * draws + evaluation_draws`` runs of model and guide for each datum; a few hundred data are enough.

    Args:
        model: A Pyro model with one data plate, called as ``model(*batch)``.
        guide: Its guide, called alike; all latents are continuous.
        batch: The data, rows first, and what else the programs take: tensors, dicts of tensors or ``None``.
        steps: How many steps of Adam refine each posterior; the step size falls to zero along a cosine.
        draws: How many draws each step averages over.
        learning_rate: The first step size, in unconstrained units.
        evaluation_draws: How many fresh draws the bounds are computed from, the same for both.
        batch_size: How many pairs of datum and draw are computed at once, which bounds the memory.

    Raises:
        NotImplementedError: a site's ``log_prob`` is a bound, unnormalized, missing or noisy.
        TypeError: ``model`` or ``guide`` is no program, or ``batch`` holds an array or a list.
        ValueError: there are no data, a number is not positive, a latent is discrete or auxiliary, or the pair does
            not fit together.
    """
    checked_rows(batch)
    parts = []
    with as_evaluated(model, guide):
        for pair in pairs(model, guide, batch, batch_size=max(1, batch_size // draws)):
            importance_log_weights(model, guide, *pair.batch, draws=1)  # refuses a pair that does not fit
            at_once = max(1, batch_size // pair.rows)
            refinement = _refined(pair, pair.layouts(draws, at_once), steps, learning_rate)
            parts.append(_bounds(pair, pair.layouts(evaluation_draws, at_once), refinement))
    gap = AmortizationGap(*(torch.cat(bounds) for bounds in zip(*parts, strict=True)))
    impossible = ~(gap.amortized.isfinite() & gap.refined.isfinite())
    if impossible.any():
        raise ValueError(
            f"`batch` must be possible under `model` and `guide`, got {int(impossible.sum())} of {len(impossible)} "
            "data whose bound is minus infinity, so that there is no gap"
        )
    return gap


Refinement = dict[str, tuple[Tensor, Tensor]]


def _refined(pair: Pair, layouts: list[DrawLayout], steps: int, learning_rate: float) -> Refinement:
    """Location and log-scale for every latent element of every row."""
    refinement = _identity(pair)
    parameters = [parameter for both in refinement.values() for parameter in both]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        with torch.enable_grad():
            loss = -torch.cat([_log_weights(pair, layout, refinement)[1] for layout in layouts]).mean(0).sum()
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.nan_to_num(0.0, 0.0, 0.0)  # one row's overflow is not the others'
        optimizer.step()
        schedule.step()
    return refinement


def _bounds(pair: Pair, layouts: list[DrawLayout], refinement: Refinement) -> tuple[Tensor, Tensor, Tensor]:
    """Amortized, refined and importance-weighted, each ``(rows,)``."""
    both = [_log_weights(pair, layout, refinement) for layout in layouts]
    amortized, refined = (torch.cat(parts) for parts in zip(*both, strict=True))
    return amortized.mean(0), refined.mean(0), refined.logsumexp(0) - log(len(refined))


def _identity(pair: Pair) -> Refinement:
    drawn = _latents(pair, OneDraw())
    values = {name: biject_to(site.support).inv(site.value) for name, site in drawn.items()}
    return {name: (_zeros(value), _zeros(value)) for name, value in values.items()}


def _log_weights(pair: Pair, layout: DrawLayout, refinement: Refinement) -> tuple[Tensor, Tensor]:
    """Those of the guide as it is, and refined, from the same draws: each ``(draws, rows)``."""
    with torch.no_grad():
        drawn = _latents(pair, layout)
        log_q = total(drawn.values())
        amortized = total(pair.modelled(layout, values_of(drawn.values())).values()) - log_q
    moved = {name: _moved(site, *refinement[name]) for name, site in drawn.items()}
    log_joint = total(pair.modelled(layout, {name: value for name, (value, _) in moved.items()}).values())
    return amortized, log_joint - log_q + sum(log_det for _, log_det in moved.values())


def _latents(pair: Pair, layout: DrawLayout) -> Sites:
    drawn = pair.guided(layout)
    for site in drawn.values():
        if site.auxiliary or site.support.is_discrete:
            kind = "auxiliary" if site.auxiliary else "discrete"
            raise ValueError(f"`guide` must have continuous latents of its own, got the {kind} site {site.name!r}")
    return drawn


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like).requires_grad_()


def _moved(site: DrawnSite, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """A site's values, moved and stretched in unconstrained coordinates, and the log-determinant ``(draws, rows)``."""
    transform = biject_to(site.support)
    events = site.distribution.event_dim
    location, log_scale = site.to_all_draws(location), site.to_all_draws(log_scale)
    before = transform.inv(site.value)
    after = location + log_scale.exp() * before
    value = transform(after)
    dims = transform.domain.event_dim
    log_det = (
        _sum_rightmost(log_scale, dims)
        + transform.log_abs_det_jacobian(after, value)
        - transform.log_abs_det_jacobian(before, site.value)
    )
    log_det = scale_and_mask(_sum_rightmost(log_det, events - dims), mask=site.mask)
    split = site.split(log_det)
    return value, split.reshape(*split.shape[:2], -1).sum(-1)
