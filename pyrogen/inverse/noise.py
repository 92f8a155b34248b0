r"""Noise space: a model whose prior is drawn as a function of simple noise.

Most priors of this library are push-forwards. A flow, the probability flow of a diffusion model, and an implicit
generator send noise :math:`\varepsilon` through a function; a variational autoencoder draws a latent, and then from a
likelihood:

.. math:: x = f(\varepsilon), \qquad \text{or} \qquad
    z = g(\varepsilon_1), \quad x = \mu(z) + \sigma(z) \, \varepsilon_2 .

So :math:`p(\varepsilon \mid y) \propto p(\varepsilon) \, p(y \mid x(\varepsilon))`, pushed forward, is the posterior of
:math:`x`, and that of a latent with it: :math:`p(x, z \mid y)`. The noise has the geometry of a standard normal, in
which Markov chains and guides move well, and no density of :math:`x` is needed: neither log-determinants nor the
marginal of an autoencoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Normal, TorchDistribution
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyrogen.arguments import checked, function
from pyrogen.core.density import Density, density_of, stamped
from pyrogen.distributions.abilities import Abilities, push_forward
from pyrogen.distributions.assembled import Assembled
from pyrogen.distributions.normal import DiagonalNormal, UnitNormal
from pyrogen.programs.run import run
from pyrogen.programs.site import Site
from pyrogen.training.turn import frozen

from .observation import Filled, check_data
from .problem import check_latent


@checked
def in_noise(model: Callable, *, site: str) -> Callable:
    """A model in which one site is a deterministic function of simple noise, for Pyro's ``NUTS``, ``SVI`` and guides.

    A site ``"x"`` with a flow, a probability flow, or any prior that declares ``push_forward`` becomes the noise
    ``"x_noise"``. One with the marginal of a variational autoencoder becomes ``"x_noise"``, the noise of the
    likelihood, and ``"x_latent_noise"``, that of the latent, which stands as ``"x_latent"``. The flow prior of an
    autoencoder is followed to its own noise. What is no push-forward is its own noise. An observed site stays as it is.
    ``Predictive`` gives ``"x"`` from draws of noise.

    Args:
        model: The Pyro model.
        site: The name of the site.

    Raises:
        ValueError: when the model runs: the noise of the prior is over integers, or has no density, as in dequantized
            flows, Bernoulli likelihoods and Diffusion.

    References:
        Hoffman, Sountsov, Dillon, Langmore, Tran and Vasudevan 2019, "NeuTra-lizing bad geometry in Hamiltonian Monte
        Carlo using neural transport", https://arxiv.org/abs/1903.03704

    Example:
        >>> import pyrogen as pg, pyro, pyro.distributions as dist
        >>> from pyro.infer import MCMC, NUTS
        >>> prior = pg.flows.affine_coupling((2,))
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Poisson(x.sum().exp()), obs=y)
        >>> mcmc = MCMC(NUTS(in_noise(model, site="x")), num_samples=5, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run(torch.tensor(3.0))
        >>> mcmc.get_samples()["x_noise"].shape
        torch.Size([5, 2])
    """
    return Filled()(poutine.reparam(function(model, "model"), config={site: _PushForward()}))


class _PushForward(Reparam):
    """Pyro's way to draw a site in terms of others."""

    def apply(self, msg: dict[str, Any]) -> dict[str, Any]:
        if msg["is_observed"]:
            return msg
        event_dim = msg["fn"].event_dim
        value = _draw(msg["name"], msg["fn"], event_dim)
        return {"fn": Delta(value, event_dim=event_dim).mask(False), "value": value, "is_observed": True}


def _draw(name: str, prior: TorchDistribution, event_dim: int) -> Tensor:
    """A draw as a function of noise; its rightmost ``event_dim`` dimensions are one event."""
    density = density_of(prior)
    while isinstance(prior, torch.distributions.Independent):
        prior = prior.base_dist
    if isinstance(prior, Assembled):
        return _draw(name, prior.assemble(), event_dim)
    if isinstance(prior, Abilities) and prior.has_joint:
        latent, likelihood = prior.joint()
        z = _draw(f"{name}_latent", latent, latent.event_dim)
        return _draw(name, likelihood(pyro.deterministic(f"{name}_latent", z, latent.event_dim)), event_dim)
    if isinstance(prior, Normal | DiagonalNormal | UnitNormal):
        return prior.mean + prior.stddev * pyro.sample(f"{name}_noise", _standard(prior, event_dim))
    pushed = push_forward(prior)
    if pushed is not None:
        noise, send = pushed
        return send(_draw(name, noise, event_dim + noise.event_dim - prior.event_dim))
    _check(name, prior, density, event_dim)
    return pyro.sample(f"{name}_noise", stamped(prior.to_event(event_dim - prior.event_dim), density))


def _standard(normal: TorchDistribution, event_dim: int) -> UnitNormal:
    shape = normal.shape()
    cut = len(shape) - event_dim
    return UnitNormal(shape[cut:], normal.mean, _without_enumeration(shape[:cut]))


def _without_enumeration(batch_shape: torch.Size) -> torch.Size:
    """Without the dimensions, left of all plates, along which inference sums over discrete sites: they share noise."""
    for messenger in _PYRO_STACK:
        if isinstance(messenger, EnumMessenger) and messenger.first_available_dim is not None:
            return batch_shape[max(0, len(batch_shape) + 1 + messenger.first_available_dim) :]
    return batch_shape


def _check(name: str, prior: TorchDistribution, density: Density, event_dim: int) -> None:
    kind, shape = type(prior).__name__, prior.shape()
    batch_shape = shape[: len(shape) - event_dim]
    if prior.support.is_discrete:
        raise ValueError(
            f"`site` must have a prior over real numbers, got {kind} over integers at {name!r}; measure what its "
            "parameters say instead, such as the mean of a decoder, or complete a part of it with `given`"
        )
    if isinstance(prior, Abilities) and density == "lower bound" and not prior.has_denoiser:
        prior.joint()  # the error of a model with latents names the alternative
    if density not in ("exact", "estimate", "unnormalized"):
        raise ValueError(
            f"`site` must have a prior that is a function of noise, or has a density, got {kind} of density "
            f"{density!r} at {name!r}; of a diffusion model, use ProbabilityFlow, or TwistedSMC"
        )
    if batch_shape.numel() != _without_enumeration(batch_shape).numel():
        raise ValueError(
            f"`site` must have normal noise where it depends on a discrete site that inference sums over, got {kind} "
            f"at {name!r}"
        )


@contextmanager
def constant(model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """A scope in which the parameters of the model, which Pyro's ``SVI`` would train, require no gradient."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()), torch.no_grad(), poutine.block(), poutine.trace(param_only=True) as listener:
        model(*args, **kwargs)
        nodes = listener.trace.nodes.values()
        found = {node["value"].unconstrained() for node in nodes if node["type"] == "param"}
    with frozen([parameter for parameter in found if parameter.requires_grad]):
        yield


def check_model(model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> bool:
    """Raises a ValueError unless the model draws the site from noise, and its data can be scored.

    Returns:
        Whether its joint density is normalized: no site of it is known up to a constant only.
    """
    with torch.no_grad():
        plain = run(model, args, kwargs, validate=False).sites
        check_latent(plain, site)
        for other in plain.values():
            if other.observed:
                check_data(other, support=False)  # Pyro checks it
        scored = run(in_noise(model, site=site), args, kwargs, validate=False).sites
        return all(density_of(other.distribution) != "unnormalized" for other in scored.values())


def is_noise(name: str, site: str) -> bool:
    """Whether a site is noise that stands for ``site``."""
    return re.fullmatch(rf"{re.escape(site)}(_latent)*_noise", name) is not None


def draws_of(runs: Sequence[Mapping[str, Site]], site: str) -> dict[str, Tensor]:
    """The values of a site, the latents behind it and all other latent sites, stacked over runs in noise.

    Args:
        runs: The statements of each run, by name.
        site: The name of the site.
    """
    behind = re.compile(rf"{re.escape(site)}(_latent)*")
    names = [
        name
        for name, statement in runs[0].items()
        if not is_noise(name, site) and (behind.fullmatch(name) or statement.kind == "latent")
    ]
    return {name: torch.stack([statements[name].value for statements in runs]).detach() for name in names}
