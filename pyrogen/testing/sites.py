"""At a ``pyro.sample`` site: plates and subsampling, handlers, Predictive, NUTS and AutoNormal."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from pyrogen.core.shapes import Context

from .inputs import agree, take
from .report import NotApplicableError, require
from .subject import (
    DistributionSubject,
    has_sampler,
    is_continuous,
    is_data_model,
    is_repeatable,
    require_log_prob,
    require_sampler,
)


def plates(subject: DistributionSubject) -> str:
    """In nested plates a site draws independent events of the right shape."""
    module = subject.fresh()
    context = subject.context_of(module)
    require_sampler(subject, module)

    def model() -> Tensor:
        with pyro.plate("particles", 3, dim=-2), pyro.plate("data", subject.rows, dim=-1):
            return pyro.sample("x", module(context))

    trace = poutine.trace(model).get_trace()
    shape = trace.nodes["x"]["value"].shape
    expected = torch.Size((3, subject.rows)) + subject.event_shape
    require(shape == expected, f"in two plates a site draws shape {tuple(shape)}, not {tuple(expected)}")
    if subject.density(module) is not None:
        trace.compute_log_prob()
        shape = trace.nodes["x"]["log_prob"].shape
        require(shape == (3, subject.rows), f"in two plates its log_prob has shape {tuple(shape)}")
    if is_continuous(module(context)):
        particles = trace.nodes["x"]["value"].flatten(1)
        require(bool((particles[0] != particles[1]).any()), "vectorized particles share their noise")
    return f"in two plates a site draws shape {tuple(expected)}"


def subsampling(subject: DistributionSubject) -> str:
    """In a subsampling plate, and in ``.model`` with ``size=``, log_prob is scaled to all data."""
    module, (value, context) = subject.doubled()
    require_log_prob(subject, module)
    rows, size = subject.rows, 5 * subject.rows

    def model() -> None:
        with pyro.plate("data", size, subsample_size=rows) as index:
            pyro.sample("x", module(take(context, index % rows)), obs=value[index % rows])

    trace = poutine.trace(model).get_trace()
    index = trace.nodes["data"]["value"] % rows
    _check_scaled(subject, module, trace, value[index], take(context, index))
    if is_data_model(module):
        view = poutine.trace(module.model).get_trace(value, context, size=size)
        _check_scaled(subject, module, view, value, context)
    return "a subsampling plate scales log_prob by the number of data over the number of rows"


def handlers(subject: DistributionSubject) -> str:
    """``condition``, ``block``, ``scale``, ``mask`` and ``obs_mask`` do at a site what they say."""
    module, (value, context) = subject.doubled()
    require_log_prob(subject, module)
    model = _model(subject, module, context)
    seen = poutine.condition(model, data={"x": value})
    trace = _scored(seen)
    require(trace.nodes["x"]["is_observed"], "poutine.condition does not observe the site")
    half = torch.arange(subject.rows) % 2 == 0
    scaled = _scored(poutine.scale(seen, scale=2.0))
    masked = _scored(poutine.mask(seen, mask=half))
    silent = _scored(poutine.mask(seen, mask=False))
    require(not silent.nodes["x"]["log_prob"].any(), "poutine.mask(False) leaves a log_prob")
    require(not masked.nodes["x"]["log_prob"][~half].any(), "poutine.mask leaves the log_prob of masked rows")
    if is_repeatable(subject, module, (value, context)):
        score = trace.nodes["x"]["log_prob"]
        expected = module(context).log_prob(value)
        require(agree(score, expected, 1e-6), "a conditioned site has another log_prob than the distribution")
        require(agree(scaled.nodes["x"]["log_prob"], 2 * score, 1e-6), "poutine.scale does not scale log_prob")
        require(agree(masked.nodes["x"]["log_prob"][half], score[half], 1e-6), "poutine.mask changes rows it keeps")
    muted = module(context).mask(False).log_prob(value)
    require(not muted.any(), "distribution.mask(False) leaves a log_prob")
    if has_sampler(module(context)):
        hidden = poutine.trace(poutine.block(model, hide=["x"])).get_trace()
        require("x" not in hidden.nodes, "poutine.block does not hide the site")
        _check_partly_observed(subject, module, value, context, half)
    return "condition, block, scale, mask and obs_mask do at a site what they say"


def predictive(subject: DistributionSubject) -> str:
    """``Predictive`` draws the site, one by one and in parallel, also through ``.model``."""
    module = subject.fresh()
    context = subject.context_of(module)
    require_sampler(subject, module)
    model = _model(subject, module, context)
    expected = torch.Size((3, subject.rows)) + subject.event_shape
    for parallel in (False, True):
        draws = Predictive(model, num_samples=3, parallel=parallel, return_sites=("x",))()["x"]
        require(draws.shape == expected, f"Predictive(parallel={parallel}) draws shape {tuple(draws.shape)}")
    if not is_data_model(module):
        return f"Predictive draws shape {tuple(expected)}, one by one and in parallel"
    guide = module.guide if subject.density(module) not in ("unnormalized", None) else None
    draws = Predictive(module.model, guide=guide, num_samples=3)(None, context, size=subject.rows)["x"]
    require(draws.shape == expected, f"Predictive of .model and .guide draws shape {tuple(draws.shape)}")
    return f"Predictive draws shape {tuple(expected)}, one by one, in parallel and through .model"


def nuts(subject: DistributionSubject) -> str:
    """NUTS runs over a latent site and stays in its support."""
    module, context = _latent(subject)
    module.requires_grad_(False)
    draws = 50 if subject.slow else 3
    model = _observed(_model(subject, module, context))
    kernel = NUTS(model, max_tree_depth=6 if subject.slow else 3, max_plate_nesting=1)
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
    mcmc.run()
    samples = mcmc.get_samples()["x"]
    expected = torch.Size((draws, subject.rows)) + subject.event_shape
    require(samples.shape == expected, f"NUTS gives samples of shape {tuple(samples.shape)}, not {tuple(expected)}")
    require(bool(module(context).support.check(samples).all()), "NUTS leaves the support")
    moved = not subject.slow or bool((samples != samples[0]).any())
    require(moved, "NUTS never moves: every step is rejected")
    return f"NUTS draws {draws} samples of a latent site, all in its support"


def autonormal(subject: DistributionSubject) -> str:
    """An AutoNormal guide initialises and trains over a latent site."""
    module, context = _latent(subject)
    if subject.density(module) == "unnormalized":  # an ELBO would miss the gradient of its normalizer
        module.requires_grad_(False)
    model = _observed(_model(subject, module, context))
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step() for _ in range(20 if subject.slow else 2)]
    require(all(loss == loss and abs(loss) < float("inf") for loss in losses), f"AutoNormal's losses are {losses}")
    median = guide.median()["x"]
    expected = torch.Size((subject.rows,)) + subject.event_shape
    require(median.shape == expected, f"AutoNormal's median has shape {tuple(median.shape)}, not {tuple(expected)}")
    require(bool(module(context).support.check(median).all()), "AutoNormal's median lies outside the support")
    return "AutoNormal initialises and trains over a latent site"


def _model(subject: DistributionSubject, module: nn.Module, context: Context) -> Callable[[], Tensor]:
    def model() -> Tensor:
        with pyro.plate("data", subject.rows, dim=-1):
            return pyro.sample("x", module(context))

    return model


def _observed(model: Callable[[], Tensor]) -> Callable[[], None]:
    """The same with a noisy measurement of the sum over each event."""

    def observed() -> None:
        x = model()
        level = x.reshape(len(x), -1).tanh().mean(-1)
        with pyro.plate("measurements", len(x), dim=-1):
            pyro.sample("y", dist.Normal(level, 1.0), obs=torch.zeros_like(level))

    return observed


def _latent(subject: DistributionSubject) -> tuple[nn.Module, Context]:
    """A module for a latent site of real numbers.

    Raises:
        NotApplicableError: its density or its events do not allow inference over it by gradients.
    """
    module = subject.fresh()
    context = subject.context_of(module)
    require_log_prob(subject, module)
    require_sampler(subject, module)
    if subject.density(module) == "lower bound":
        raise NotApplicableError("the density is 'lower bound': its posterior is not that of the samples")
    if not is_continuous(module(context)):
        raise NotApplicableError("the events are discrete")
    if not is_repeatable(subject, module, subject.inputs(module)):
        raise NotApplicableError("the log_prob is noisy: freeze its noise for NUTS and AutoNormal")
    return module, context


def _scored(model: Callable[[], object]) -> poutine.Trace:
    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    return trace


def _check_scaled(
    subject: DistributionSubject, module: nn.Module, trace: poutine.Trace, value: Tensor, context: Context
) -> None:
    total = trace.log_prob_sum()
    require(bool(total.isfinite()), f"in a subsampling plate log_prob sums to {total.item()}")
    if not prune_subsample_sites(trace).stochastic_nodes and is_repeatable(subject, module, (value, context)):
        expected = 5 * module(context).log_prob(value).sum()
        require(agree(total, expected, 1e-6), f"a subsampling plate scales log_prob to {total:.4g}, not {expected:.4g}")


def _check_partly_observed(
    subject: DistributionSubject, module: nn.Module, value: Tensor, context: Context, mask: Tensor
) -> None:
    def model() -> Tensor:
        with pyro.plate("data", subject.rows, dim=-1):
            return pyro.sample("x", module(context), obs=value, obs_mask=mask)

    drawn = model()
    require(torch.equal(drawn[mask], value[mask]), "obs_mask changes observed rows")
