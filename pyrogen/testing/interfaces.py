"""Where Pyro's own tools meet a module: inspection, contexts by keyword, what wrappers carry, noise under a chain."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.inspect import get_model_relations
from torch import Tensor, nn

from pyrogen.core.density import density_of
from pyrogen.core.shapes import Context

from .inputs import clone
from .report import NotApplicableError, require
from .subject import DistributionSubject, has_sampler, is_repeatable, require_data_model, require_log_prob


def inspection(subject: DistributionSubject) -> str:
    """``pyro.infer.inspect`` finds that a site depends on its context, and a later site on it."""
    module = subject.fresh()
    context = subject.context_of(module)
    require_log_prob(subject, module)
    if not has_sampler(module(context)):
        raise NotApplicableError("sample is not implemented")
    varies = isinstance(context, Tensor) and context.is_floating_point()

    def program() -> None:
        given = pyro.sample("context", dist.Normal(context, 1.0).to_event(context.dim())) if varies else context
        x = pyro.sample("x", module(given).to_event())
        mean = x.to(torch.get_default_dtype()).mean()
        pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.zeros_like(mean))

    found = get_model_relations(program)["sample_sample"]
    before = ["context"] if varies else []
    require(found["x"] == before, f"the site depends on {found['x']}, not on {before}")
    require(found["y"] == ["x"], f"a site after it depends on {found['y']}, not on ['x']")
    return f"pyro.infer.inspect finds that the site depends on {before}, and one after it on ['x']"


def keyword_context(subject: DistributionSubject) -> str:
    """``.model`` and ``.guide`` take ``context`` by keyword, through ``SVI.step``, ``Predictive`` and handlers."""
    module, (value, context) = subject.doubled()
    require_data_model(module)
    if subject.density(module) not in ("unnormalized", None):
        svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        loss = svi.step(value, context=context)
        require(loss == loss, f"SVI.step(x, context=...) gives the loss {loss}")
        trace = poutine.trace(poutine.scale(module.model, scale=2.0)).get_trace(value, context=context)
        require(trace.nodes["x"]["is_observed"], "a model called with context=... does not observe its data")
    if has_sampler(module(context)):
        draws = Predictive(module.model, num_samples=2)(context=context, size=subject.rows)["x"]
        expected = (2, subject.rows, *subject.event_shape)
        require(draws.shape == expected, f"Predictive(...)(context=...) draws shape {tuple(draws.shape)}")
    return "SVI.step, Predictive and handlers take a context by keyword"


def carried_density(subject: DistributionSubject) -> str:
    """What a ``log_prob`` means is carried through expansion, wrappers and shallow copies."""
    module = subject.fresh()
    distribution = module(subject.context_of(module))
    density = density_of(distribution)
    wide = distribution.expand((2, *distribution.batch_shape))
    wrapped = {
        "expand": wide,
        "to_event": wide.to_event(1),
        "mask": distribution.mask(True),
        "copying": copy.copy(distribution).expand(wide.batch_shape),
    }
    for name, twin in wrapped.items():
        found = density_of(twin)
        require(found == density, f"the density is {density!r}, and {found!r} after {name}")
    return f"expansion, wrappers and copies carry the density {density!r}"


def refused_noise(subject: DistributionSubject) -> str:
    """A chain refuses a ``log_prob`` that draws fresh noise, and names what to use."""
    module = subject.fresh()
    require_log_prob(subject, module)
    value, context = subject.inputs(module)
    if is_repeatable(subject, module, (value, context)):
        raise NotApplicableError("the log_prob draws no noise")
    module.requires_grad_(False)
    chain = MCMC(NUTS(_scored(module, value, context)), num_samples=1, warmup_steps=1, disable_progbar=True)
    try:
        chain.run()
    except NotImplementedError as error:
        return f"a chain refuses the noisy log_prob: {str(error).splitlines()[0]}"
    require(False, "NUTS runs on a log_prob that draws fresh noise at every call")
    return ""


def _scored(module: nn.Module, value: Tensor, context: Context) -> Callable[[], None]:
    """A program with a continuous latent site, in which the module scores given values."""

    def program() -> None:
        pyro.sample("latent", dist.Normal(torch.zeros_like(value.sum(), dtype=torch.double), 1.0))
        with pyro.plate("data", len(value)):
            pyro.sample("x", module(clone(context)), obs=value)

    return program
