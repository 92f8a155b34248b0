r"""Importance weights of a Pyro model/guide pair: the marginal likelihood of each datum, and whether it can be trusted.

With :math:`K` draws :math:`z_k \sim q(z \mid x)` the weights :math:`w_k = p(x, z_k) / q(z_k \mid x)` average to
:math:`p(x)`, so

.. math:: \log \frac{1}{K} \sum_k w_k

is at most :math:`\log p(x)` in expectation, grows with :math:`K` and converges to it. How large :math:`K` must be is a
question of the tail of the weights, which the Pareto :math:`\hat k` of PSIS answers for each datum.

The model and the guide are called alike, with the rows of the data, and have one data plate with all sites inside, of
whatever size: ``plate(len(x))``, ``plate(N)``, ``plate(N, subsample_size=len(x))``. A model with latents outside the
plate has no likelihood of a single datum: with ``whole=True`` all the data count as one.

References:
    Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling",
    https://jmlr.org/papers/v25/19-556.html
    Yao, Vehtari, Simpson and Gelman 2018, "Yes, but did it work?: Evaluating variational inference",
    https://arxiv.org/abs/1802.02538
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, log10

import torch
from torch import Tensor

from pyrogen.arguments import checked, function, integer, numbers
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.numerics.pareto import pareto_shape
from pyrogen.numerics.resampling import effective_sample_size
from pyrogen.programs.layouts import DrawnSite, Sites
from pyrogen.programs.run import Program

from .pairs import check_names, measured, require_density, total
from .scoring import as_evaluated


@takes_arrays
def importance_log_weights(
    model: Program, guide: Program, *batch: object, draws: int, whole: bool = False, batch_size: int = 4096
) -> Tensor:
    r"""The logarithms of the importance weights, :math:`\log p(x_i, z_{ik}) - \log q(z_{ik} \mid x_i)`, in nats.

    Masks count, scales (of minibatches, of annealing) do not.

    Args:
        model: A Pyro model with one data plate, called as ``model(*batch)``.
        guide: Its guide, called alike.
        batch: The data, rows first, and what else the programs take: tensors, dicts of tensors or ``None``.
        draws: How many draws :math:`K` for each datum.
        whole: The data are one datum, as for a model with latents outside the data plate; no plate is needed. The
            weights are those of the data at hand, however many a subsampled plate stands for.
        batch_size: How many pairs of datum and draw are computed at once, where the programs allow it: one with a plate
            of fixed size is called with all the data.

    Shape:
        The weights are ``(draws, rows)``, in double precision; one row if the data are one datum.

    Raises:
        NotImplementedError: a site's ``log_prob`` is a bound, unnormalized, missing or noisy. Weights exponentiate it,
            so that a bound or noise in it makes them estimate nothing.
        TypeError: ``model`` or ``guide`` is no program, or ``batch`` holds an array or a list.
        ValueError: there are no data, a site lies outside the data plate, latent sites of model and guide differ,
            nothing is observed, the guide has a point mass, or a weight is NaN or infinite.
    """
    return torch.cat(list(_blocks(model, guide, batch, draws, whole, batch_size)), 1)


@takes_arrays
def importance_weighted_log_probs(
    model: Program, guide: Program, *batch: object, draws: int, whole: bool = False, batch_size: int = 4096
) -> Tensor:
    r"""The importance-weighted bound of :math:`\log p(x_i)` for each datum, in nats, of shape ``(rows,)``.

    Arguments and errors are those of :func:`importance_log_weights`; memory is bounded by ``batch_size``.
    """
    blocks = _blocks(model, guide, batch, draws, whole, batch_size)
    return torch.cat([block.logsumexp(0) - log(draws) for block in blocks])


@takes_arrays
def importance_weighted_log_likelihood(
    model: Program, guide: Program, *batch: object, draws: int, whole: bool = False, batch_size: int = 4096
) -> Estimate:
    r"""The mean importance-weighted log-likelihood of held-out data, in nats per datum: a lower bound.

    The standard error covers the spread over the data and the noise of the draws. It does not cover the gap to
    :math:`\log p(x)`: that is a bias, always downwards, and shrinks as ``draws`` grows. Compare several numbers of
    draws, of which one gives the ELBO, and check :func:`pareto_k`. Arguments and errors are those of
    :func:`importance_log_weights`.
    """
    values = importance_weighted_log_probs(model, guide, *batch, draws=draws, whole=whole, batch_size=batch_size)
    return Estimate.of_mean(values, density="lower bound")


@dataclass(frozen=True, repr=False)
class ParetoK:
    r"""How heavy the tail of the importance weights is, for each datum.

    Moments of the weights of order above :math:`1 / k` do not exist. Below ``threshold`` an average over these draws
    can be trusted; above 0.7 no practical number of draws is enough; above 1 the weights have no mean. A small value
    is about the draws at hand only: mass that no draw came near does not change it.

    Args:
        values: :math:`\hat k` for each datum; 0 where the largest weights are equal, infinite where all are zero.
        effective_sample_size: That of the weights of each datum.
        draws: How many draws each is computed from.
    """

    values: Tensor
    effective_sample_size: Tensor
    draws: int

    @property
    def threshold(self) -> float:
        r"""Up to where this many draws suffice, :math:`\min(1 - 1 / \log_{10} K, 0.7)`."""
        return min(1 - 1 / log10(self.draws), 0.7)

    @property
    def share_above(self) -> float:
        """The share of data whose k-hat is above the threshold."""
        return float((self.values > self.threshold).double().mean())

    def __str__(self) -> str:
        return (
            f"Pareto k-hat: median {float(self.values.median()):.2f}, largest {float(self.values.max()):.2f}, "
            f"{self.share_above:.0%} of {len(self.values)} data above {self.threshold:.2f}"
        )

    def __repr__(self) -> str:
        return f"<ParetoK of {self.draws} draws: {self}>"


@takes_arrays
def pareto_k(
    model: Program, guide: Program, *batch: object, draws: int = 1000, whole: bool = False, batch_size: int = 4096
) -> ParetoK:
    r"""The Pareto :math:`\hat k` of the importance weights for each datum, by ArviZ's PSIS.

    Arguments and errors are those of :func:`importance_log_weights`, with at least 25 draws.
    """
    check_draws(draws)
    log_weights = importance_log_weights(model, guide, *batch, draws=draws, whole=whole, batch_size=batch_size)
    return pareto_k_of(log_weights)


@takes_arrays
def pareto_k_of(log_weights: Tensor) -> ParetoK:
    r"""The Pareto :math:`\hat k` of importance weights at hand.

    Args:
        log_weights: Their logarithms.

    Shape:
        ``(draws, rows)``.

    Raises:
        TypeError: ``log_weights`` is no tensor.
        ValueError: there are fewer than 25 draws, the shape is another, or a weight is NaN or infinite.
    """
    numbers(log_weights, "log_weights", minus_infinity=True)
    if log_weights.dim() != 2 or not log_weights.shape[1]:
        raise ValueError(f"`log_weights` must have shape (draws, rows), got {tuple(log_weights.shape)}")
    check_draws(len(log_weights), "`log_weights` must hold at least 25 draws")
    log_weights = log_weights.detach().double()
    shapes = torch.as_tensor(pareto_shape(log_weights.T.cpu().numpy()))
    return ParetoK(shapes, effective_sample_size(log_weights), len(log_weights))


@checked(model=function, guide=function)
def _blocks(model: Program, guide: Program, batch: tuple, draws: int, whole: bool, batch_size: int) -> Iterator[Tensor]:
    """The log-weights of some data at a time, ``(draws, data)``."""
    way_out = "; with `whole=True` all the data count as one"
    with as_evaluated(model, guide):
        for block in measured(
            model, guide, batch, draws, _log_weights, whole=whole, batch_size=batch_size, way_out=way_out
        ):
            yield block["log_weights"]


def _log_weights(drawn: Sites, scored: Sites) -> dict[str, Tensor]:
    _check_pair(drawn, scored)
    for site in (*drawn.values(), *scored.values()):
        _check_density(site)
    log_weights = total(scored.values()) - total(drawn.values())
    bad = log_weights.isnan() | log_weights.isposinf()
    if bad.any():
        guilty = [site.name for site in (*scored.values(), *drawn.values()) if not site.log_probs().isfinite().all()]
        raise ValueError(
            f"`model` and `guide` must give weights below infinity, got {int(bad.sum())} of {bad.numel()} that are NaN "
            f"or infinite, from the log_prob of {guilty}; does `batch` hold NaN or infinity?"
        )
    return {"log_weights": log_weights}


def _check_pair(drawn: Sites, scored: Sites) -> None:
    check_names(drawn, scored)
    if not any(site.observed for site in scored.values()):
        raise ValueError("`model` must observe something, got no observed site; is the data its first argument?")
    points = [name for name, site in drawn.items() if site.is_point]
    if points and not any(site.auxiliary for site in drawn.values()):
        raise ValueError(f"`guide` must have a density, got a point mass at {points}")


def _check_density(site: DrawnSite) -> None:
    why = "importance weights exponentiate it, so it must be exact; use an exact prior, likelihood and posterior"
    density = require_density(site, "", why)
    if density == "estimate" and not torch.equal(site.log_probs(), site.log_probs()):
        raise NotImplementedError(
            f"the log_prob of site {site.name!r} is noisy (two calls on one value differ), and importance weights "
            "exponentiate the noise; use an exact trace, or freeze its noise"
        )


def check_draws(draws: int, wanted: str = "`draws` must be at least 25") -> None:
    """Raises a ValueError where draws are too few for a Pareto k-hat."""
    if integer(draws, "draws", least=0) < 25:
        raise ValueError(f"{wanted}, so that there is a tail to fit, got {draws}")
