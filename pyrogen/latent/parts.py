"""Whether prior, likelihood and posterior fit together."""

from __future__ import annotations

from collections.abc import Mapping

from pyrogen.arguments import integer
from pyrogen.core.density import weakest
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.parts import taken
from pyrogen.core.shapes import Shape

Parts = Mapping[str, DistributionModule]
"""Prior, likelihood and posterior, by these names."""


def check_shapes(prior: DistributionModule, likelihood: DistributionModule, posterior: DistributionModule) -> None:
    """Checks that latents and data have one shape in all parts.

    Raises:
        ValueError: they have not, or a part is no DistributionModule.
    """
    for name, part in (("prior", prior), ("likelihood", likelihood), ("posterior", posterior)):
        check_part(part, name)
    _check_takes("likelihood", likelihood, "z", prior.event_shape, "the prior's `event_shape`")
    _check_takes("posterior", posterior, "x", likelihood.event_shape, "the likelihood's `event_shape`")
    if posterior.event_shape != prior.event_shape:
        raise ValueError(
            f"`posterior` must have event shape {prior.event_shape}, that of the prior, got {posterior.event_shape}"
        )


def _check_takes(part: str, module: DistributionModule, entry: str, expected: Shape, whose: str) -> None:
    found = taken(module, entry)
    if found is None:
        got = module.context_shape
        raise ValueError(f'`{part}` must take the entry "{entry}" of shape {expected}, got context shape {got}')
    if found != expected:
        raise ValueError(f'`{part}` must take "{entry}" of shape {expected}, {whose}, got {found}')


def check_densities(prior: DistributionModule, likelihood: DistributionModule, posterior: DistributionModule) -> None:
    """Checks that the evidence lower bound is one.

    Raises:
        ValueError: a bound of the posterior's density has the wrong sign in it, and an unnormalized or missing density
            of any part leaves it unknown.
    """
    if weakest(posterior.density, "estimate") != "estimate":
        raise ValueError(
            "`posterior` must have density 'exact' or 'estimate' (minus a lower bound of log q is an upper one, so the "
            f"objective would bound nothing), got {posterior.density!r}"
        )
    check_bounding("prior", prior)
    check_bounding("likelihood", likelihood)


def check_bounding(name: str, part: DistributionModule) -> None:
    """Checks that an evidence lower bound stays one with the ``log_prob`` of a part of the model.

    Raises:
        ValueError: it is unnormalized or missing.
    """
    if weakest(part.density, "lower bound") != "lower bound":
        raise ValueError(
            f"`{name}` must have a normalized log_prob or a bound of it, got density {part.density!r}{_way(part)}"
        )


def check_draws(parts: Parts, draws: int) -> None:
    """Checks that so many importance weights may be averaged.

    Raises:
        ValueError: there is no draw, or there are several and the ``log_prob`` of a part may be noisy.
    """
    if integer(draws, "draws") > 1:
        check_exact(parts, "`draws` must be 1 for a")


def check_exact(parts: Parts, demand: str) -> None:
    """Checks that importance weights are not noisy: the exponential of noise is biased upwards.

    Raises:
        ValueError: a part of the VAE has a density that is not exact.
    """
    for name, part in parts.items():
        if part.density != "exact" and not part.weighs_without_bias:
            raise ValueError(
                f"{demand} {name} of density {part.density!r}: a noisy log_prob inside averaged importance weights is "
                "biased, and what they give is no bound"
            )


def check_separate(parts: Parts) -> None:
    """Checks that posterior and model can be given gradients of different losses.

    Raises:
        ValueError: the posterior shares parameters with another part of the VAE.
    """
    own = set(map(id, parts["posterior"].parameters()))
    if own & {id(parameter) for name in ("prior", "likelihood") for parameter in parts[name].parameters()}:
        raise ValueError("`vae` must have a posterior that shares no parameter with its other parts")


def _way(part: DistributionModule) -> str:
    """What to do instead."""
    if part.density != "unnormalized":
        return ""
    return " (an energy is learned in a Pyro program of its own, by `pg.energy.EnergyElbo(model, guide)`)"
