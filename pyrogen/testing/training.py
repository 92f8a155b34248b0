"""Training under Pyro: as a likelihood, as a guide, with copies side by side."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyrogen.core.objective import Elbo
from pyrogen.programs.run import run
from pyrogen.training.turn import as_turns, parameters_of

from .copies import is_importable
from .inputs import agree, agree_all, gradients_of, take
from .report import NotApplicableError, require
from .subject import (
    DistributionSubject,
    is_data_model,
    is_repeatable,
    perturb,
    require_data_model,
    require_log_prob,
    trainable,
)


def svi_likelihood(subject: DistributionSubject) -> str:
    """As a likelihood the module trains under Pyro's ELBOs, whose loss is minus its log_prob."""
    module = subject.fresh()
    value, context = subject.inputs(module)
    _require_trainable(subject, module)
    repeatable = is_repeatable(subject, module, (value, context))

    def model() -> None:
        with pyro.plate("data", subject.rows, dim=-1):
            pyro.sample("x", module(context), obs=value)

    elbos = _elbos(exact=subject.density(module) == "exact")
    for elbo in elbos:
        expected = -module(context).log_prob(value).sum()
        loss = _step(model, _nothing, elbo, [module])
        kept = not repeatable or agree(torch.tensor(loss), expected.detach(), 1e-3)
        require(kept, f"under {type(elbo).__name__} the loss is {loss:.4g}, not minus log_prob, {expected:.4g}")
    if not is_data_model(module):
        return f"as a likelihood it trains under {_names(elbos)}"
    _check_views(module, value, context)
    return f"as a likelihood it trains under {_names(elbos)} and as Trace_ELBO()(.model, .guide)"


def svi_guide(subject: DistributionSubject) -> str:
    """As a guide the module trains under Pyro's ELBOs."""
    module = subject.fresh()
    context = subject.context_of(module)
    _require_trainable(subject, module)
    distribution = module(context)
    if subject.density(module) == "lower bound":
        raise NotApplicableError("the density is 'lower bound': an ELBO with such a guide is no bound")
    prior = copy.deepcopy(module)
    perturb(prior)
    prior.requires_grad_(False)

    def model() -> None:
        with pyro.plate("data", subject.rows, dim=-1):
            z = pyro.sample("z", prior(context))
            level = z.reshape(*z.shape[: z.dim() - subject.event_dim], -1).float().tanh().mean(-1)
            pyro.sample("y", dist.Normal(level, 1.0), obs=torch.ones(subject.rows))

    def guide() -> None:
        with pyro.plate("data", subject.rows, dim=-1):
            pyro.sample("z", module(context))

    elbos = _elbos(exact=subject.density(module) == "exact", reparameterized=distribution.has_rsample)
    for elbo in elbos:
        _step(model, guide, elbo, [module])
    return f"as a guide it trains under {_names(elbos)}"


def copies_train(subject: DistributionSubject) -> str:
    """A module, its deepcopy and its pickled twin at three sites of one model all train under SVI."""
    module = subject.fresh()
    value, context = subject.inputs(module)
    _require_trainable(subject, module)
    modules = {"a": module, "b": copy.deepcopy(module)}
    if is_importable(module):
        modules["c"] = pickle.loads(pickle.dumps(module))

    def model() -> None:
        with pyro.plate("data", subject.rows, dim=-1):
            for name, each_module in modules.items():
                pyro.sample(name, each_module(context), obs=value)

    _step(model, _nothing, Trace_ELBO(), modules.values())
    return f"{len(modules)} copies of a module (itself, by deepcopy, by pickle where it can be) train side by side"


def minibatches(subject: DistributionSubject) -> str:
    """Under SVI, losses and gradients of minibatches with ``size=`` average to those of all data, also per datum."""
    module, (value, context) = subject.doubled()
    require_data_model(module)
    _require_trainable(subject, module)
    size = subject.rows
    single = [(value[row : row + 1], take(context, slice(row, row + 1)), size) for row in range(size)]
    for program in (module.model, module.guide):
        for site in run(program, single[0]).sites.values():
            scale = float(torch.as_tensor(site.scale).max())
            require(abs(scale - size) < 1e-6, f"with one row of {size} the site {site.name!r} has scale {scale:.4g}")
    if not is_repeatable(subject, module, (value, context)):
        return "with `size=` every site of a minibatch is scaled to all data"
    parameters = [parameter for _, parameter in trainable(module)]
    for name, loss in (("the loss of Trace_ELBO", _total), ("the loss per datum of Elbo", _per_datum)):
        whole, parts = loss(module, value, context, None), [loss(module, *part) for part in single]
        mean = torch.stack(parts).mean()
        require(agree(mean, whole, 1e-6), f"{name} is {mean:.4g} on average over minibatches, on all data {whole:.4g}")
        gradient, again = (gradients_of(one, parameters) for one in (whole, loss(module, value, context, None)))
        same = agree_all(gradients_of(mean, parameters), gradient, 1e-6)
        noisy = not agree_all(again, gradient, 1e-6)  # by the score function, where the loss itself does not vary
        require(same or noisy, f"the gradient of {name} on minibatches is not on average that on all data")
    return f"losses and gradients of {size} minibatches average to those of all data"


def default_objective(subject: DistributionSubject) -> str:
    """``.objective()`` is an objective, or the turns of a game, of finite losses; they train the parameters."""
    module = subject.fresh().train()
    value, context = subject.inputs(module)
    try:
        turns = as_turns(module)
    except NotImplementedError as error:
        raise NotApplicableError(f"there is no default objective: {error}") from None
    for turn in turns:
        loss = turn.objective(value) if context is None else turn.objective(value, context)
        require(loss.dim() == 0 and bool(loss.isfinite()), f"the default objective gives {loss}")
    ours = {id(parameter) for parameter in module.parameters()}
    theirs = {id(parameter) for turn in turns for parameter in parameters_of(turn.parameters)}
    require(ours <= theirs, "parameters of the module are missing among those of its default objective")
    named = ", ".join(type(turn.objective).__name__ for turn in turns)
    return f"the default objective, {named}, gives {loss.item():.3f}"


def _total(module: nn.Module, *batch: object) -> Tensor:
    return Trace_ELBO().differentiable_loss(module.model, module.guide, *batch)


def _per_datum(module: nn.Module, *batch: object) -> Tensor:
    return Elbo(module.model, module.guide)(*batch)


def _elbos(exact: bool, reparameterized: bool = True) -> list[ELBO]:
    elbos: list[ELBO] = [Trace_ELBO()]
    if not reparameterized:  # Pyro's others do not train such a guide
        return elbos
    elbos.append(TraceMeanField_ELBO())
    if exact:  # importance weights of noisy log_probs are biased
        elbos.append(RenyiELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1))
    return elbos


def _step(model: Callable[[], None], guide: Callable[[], None], elbo: ELBO, modules: Iterable[nn.Module]) -> float:
    """One step of SVI in a param store of its own; the loss before it.

    Raises:
        BreachError: the loss is not finite, or a parameter has not moved.
    """
    modules = list(modules)
    before = [[parameter.detach().clone() for parameter in module.parameters()] for module in modules]
    with pyro.get_param_store().scope():
        loss = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step()
    name = type(elbo).__name__
    require(loss == loss and abs(loss) < float("inf"), f"under {name} the loss is {loss}")
    for which, (module, old) in enumerate(zip(modules, before, strict=True)):
        named = zip(module.named_parameters(), old, strict=True)
        still = [key for (key, new), then in named if new.requires_grad and torch.equal(new, then)]
        copied = f" of copy {which}" if which else ""
        require(not still, f"under {name} SVI does not train {', '.join(still)}{copied}")
    return loss


def _check_views(module: nn.Module, value: Tensor, context: object) -> None:
    elbo = Trace_ELBO()(module.model, module.guide)
    ours = {id(parameter) for parameter in module.parameters()}
    theirs = {id(parameter) for parameter in elbo.parameters()}
    require(ours <= theirs, "Trace_ELBO()(.model, .guide) does not hold the module's parameters")
    loss = elbo(value, context)
    loss.backward()
    require(bool(loss.isfinite()), f"Trace_ELBO()(.model, .guide) gives {loss.item()}")


def _require_trainable(subject: DistributionSubject, module: nn.Module) -> None:
    require_log_prob(subject, module)
    if subject.density(module) == "unnormalized":
        raise NotApplicableError("the density is 'unnormalized': an ELBO would miss the gradient of log Z")
    if not trainable(module):
        raise NotApplicableError("there are no trainable parameters")


def _nothing() -> None:
    return None


def _names(elbos: list[ELBO]) -> str:
    return ", ".join(type(elbo).__name__ for elbo in elbos)
