r"""The marginal of a Pyro model and guide that somebody wrote.

The pair runs on all draws of all rows at once, as one large minibatch: every datum is repeated :math:`K` times. That
takes nothing from the model but that its data plate is as long as its data: ``plate(len(x))``, or
``plate(N, subsample_size=len(x))``, whose scale has no say in the marginal of one datum. A plate of fixed size is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked
from pyrogen.core.density import require_bounding
from pyrogen.core.objective import Elbo
from pyrogen.core.shapes import Context, ContextShape, Shape, batch_shape_of, context_batch_shape, flatten_batch
from pyrogen.numerics.randomness import held
from pyrogen.programs.chain import refuse_chain
from pyrogen.programs.data_plate import FullSize

from .marginal import LatentVariableModel
from .parts import context_rows


class Marginal(LatentVariableModel):
    r"""A Pyro model and its guide as the distribution of what the model observes.

    Draws are ancestral; ``log_prob`` is the importance-weighted bound with the guide as proposal, see
    :class:`~pyrogen.latent.marginal.MarginalDistribution`. The pair's sites are hidden from handlers around the
    distribution, its parameters are those of this module.

    Args:
        model: Called as ``model(x)``, or ``model(x, context)`` with a ``context_shape``, with one batch dimension. It
            observes ``x`` at one site and uses it for nothing else but its length. Every site is in the data plate.
        guide: Called with the same; draws the latents of the model.
        event_shape: Shape of one datum.
        context_shape: As for every ``DistributionModule``.
        site: Name of the observed site.
        plate: Name of the data plate.
        draws: How many draws of the guide ``log_prob`` averages over, all at once.

    Raises:
        ValueError: ``model`` or ``guide`` is no module (functions own no parameters), or ``draws`` is not positive;
            when called: a site is outside the plate, observed beside ``site``, scaled, or missing in model or guide.

    Example:
        >>> from pyrogen.latent import VAE, StandardNormal
        >>> likelihood = pg.Parametric(nn.Linear(2, 8), pg.families.bernoulli, event_shape=8, context_shape=2)
        >>> posterior = pg.Parametric(nn.Linear(8, 4), pg.families.diagonal_normal, event_shape=2, context_shape=8)
        >>> vae = VAE(StandardNormal((2,)), likelihood, posterior)
        >>> marginal = Marginal(vae.model, vae.guide, event_shape=(8,))
        >>> marginal().log_prob(marginal().sample((5,))).shape
        torch.Size([5])
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        site: str = "x",
        plate: str = "data",
        draws: int = 100,
    ) -> None:
        super().__init__(event_shape, context_shape)
        for name, part in (("model", model), ("guide", guide)):
            if not isinstance(part, nn.Module):
                raise ValueError(f"`{name}` must be an nn.Module, which owns its parameters, got {type(part).__name__}")
        self.pair = nn.ModuleDict({"model": model, "guide": guide})
        self.site = site
        self.plate = plate
        self.draws = draws

    @property
    def model(self) -> nn.Module:
        """The Pyro model, called as ``model(x=None, context=None, size=None)``."""
        return PairModel(self)

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide, called like :attr:`model`; empty without ``x``."""
        return PairGuide(self)

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: the evidence lower bound of model and guide."""
        return Elbo(self.model, self.guide)

    def draw(self, shape: torch.Size, context: Context = None) -> Tensor:
        if not shape.numel():
            return _placeholder(self, shape).zero_()
        value = self._draw(shape, context)["value"]
        if value.is_floating_point() and value.isnan().any():
            raise ValueError("`model` must use its data only to observe them; its draws depend on them, and are NaN")
        return value.reshape(shape + self.event_shape)

    def support_at(self, context: Context = None) -> constraints.Constraint:
        with held(), torch.no_grad():
            return self._draw(context_batch_shape(context, self.context_shape), context)["fn"].support

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.event_shape)]
        wide = torch.Size((self.draws, *batch))
        if not wide.numel():
            return x.flatten(len(batch)).sum(-1).expand(wide)  # of no rows, and still with a gradient
        refuse_chain("a Marginal", "run the chain over the sites of its model")
        arguments = self._rows(x.expand(wide + self.event_shape), context, wide)
        with _isolated(), _DataPlate(self.plate, wide.numel()):
            guide = poutine.trace(self.pair["guide"]).get_trace(*arguments)
            model = poutine.trace(poutine.replay(self.pair["model"], trace=guide)).get_trace(*arguments)
        observed = {name for name, node in _sites(model).items() if node["is_observed"]}
        if observed != {self.site}:
            raise ValueError(f"`model` must observe the site {self.site!r} alone, got {sorted(observed)}")
        unmatched = set(_sites(guide)) ^ (set(_sites(model)) - observed)
        if unmatched:
            raise ValueError(f"`guide` must have the latent sites of `model`, got {sorted(unmatched)} in one only")
        if is_validation_enabled():
            for part, trace in (("model", model), ("guide", guide)):
                for name, node in _sites(trace).items():
                    require_bounding(node["fn"], f"the site {name!r} of `{part}`", guide=part == "guide")
        rows = wide.numel()
        log_joint = sum(self._score(name, node, rows) for name, node in _sites(model).items())
        return (log_joint - sum(self._score(name, node, rows) for name, node in _sites(guide).items())).reshape(wide)

    def sample_model(self, x: Tensor, context: Context = None) -> Any:
        return self.pair["model"](*_arguments(x, context))

    def sample_guide(self, x: Tensor, context: Context = None) -> Any:
        return self.pair["guide"](*_arguments(x, context))

    def _rows(self, x: Tensor, context: Context, batch: torch.Size) -> tuple:
        context = context_rows(context, self.context_shape, batch)
        return _arguments(flatten_batch(x, self.event_shape), context)

    def _draw(self, shape: torch.Size, context: Context) -> dict[str, Any]:
        """The observed site of a run in which nothing is observed."""
        with _isolated(), _DataPlate(self.plate, shape.numel()):
            arguments = self._rows(_placeholder(self, shape), context, shape)
            trace = poutine.trace(poutine.uncondition(self.pair["model"])).get_trace(*arguments)
        for name, node in _sites(trace).items():
            self._dimension(name, node, shape.numel())
        if self.site not in trace.nodes:
            raise ValueError(f"`site` must be one of the model's, {sorted(_sites(trace))}, got {self.site!r}")
        return trace.nodes[self.site]

    def _score(self, name: str, node: dict[str, Any], rows: int) -> Tensor:
        """The log-probability of a site, ``(rows,)``."""
        dimension = self._dimension(name, node, rows)
        # A subsampled plate scales its sites up to all data, and has no say in the marginal of one.
        of_plates = prod((frame.full_size or frame.size) / frame.size for frame in node["cond_indep_stack"])
        if (torch.as_tensor(node["scale"] / of_plates - 1).abs() > 1e-6).any():
            raise ValueError(f"the site {name!r} must not be scaled inside importance weights, got {node['scale']}")
        log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), mask=node["mask"])
        return log_prob.movedim(dimension, 0).reshape(rows, -1).sum(-1)

    def _dimension(self, name: str, node: dict[str, Any], rows: int) -> int:
        for frame in node["cond_indep_stack"]:
            if frame.name == self.plate and frame.vectorized and frame.size == rows:
                return frame.dim
        raise ValueError(
            f"the site {name!r} must be inside the plate {self.plate!r}, as long as the data ({rows} rows): "
            "outside, it belongs to no datum"
        )


class PairModel(nn.Module):
    """The model of a :class:`Marginal`, with or without data."""

    def __init__(self, module: Marginal) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Any:
        module = self.module
        if x is not None:
            with _scaled(x, module, size):
                return module.sample_model(x, context)
        batch = context_batch_shape(context, module.context_shape) or torch.Size((1 if size is None else size,))
        return poutine.uncondition(module.pair["model"])(*_arguments(_placeholder(module, batch), context))


class PairGuide(nn.Module):
    """The guide of a :class:`Marginal`."""

    def __init__(self, module: Marginal) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Any:
        if x is None:
            return None
        with _scaled(x, self.module, size):
            return self.module.sample_guide(x, context)


class _DataPlate(Messenger):
    """Lets the data plate have the rows at hand, also where they are more than it stands for."""

    def __init__(self, plate: str, rows: int) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] != self.plate or not site_is_subsample(msg) or msg["value"] is not None:
            return
        full_size, taken = msg["fn"].size, msg["fn"].subsample_size
        if taken is not None:
            msg["value"], msg["done"] = torch.arange(taken) % full_size, True
        elif full_size != self.rows:
            raise ValueError(
                f"`plate` {self.plate!r} must take the rows that the program is called with, {self.rows} here (data "
                f"times draws), got the fixed size {full_size}: write `pyro.plate({self.plate!r}, len(x))`"
            )


def _sites(trace: poutine.Trace) -> dict[str, dict[str, Any]]:
    return {
        name: node for name, node in trace.nodes.items() if node["type"] == "sample" and not site_is_subsample(node)
    }


@contextmanager
def _isolated() -> Iterator[None]:
    """A scope that handlers around it do not see, and whose plates may have the names and dimensions of theirs."""
    outer, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
    try:
        with poutine.block():
            yield
    finally:
        _DIM_ALLOCATOR._stack = outer


def _arguments(x: Tensor, context: Context) -> tuple:
    return (x,) if context is None else (x, context)


def _placeholder(module: Marginal, batch: torch.Size) -> Tensor:
    """What stands for data that are yet to be drawn: NaN, to show in draws that depend on it."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    return like.new_full(batch + module.event_shape, torch.nan)


def _scaled(x: Tensor, module: Marginal, size: int | None) -> AbstractContextManager[Any]:
    """A scope in which the data plate stands for so many data.

    Raises:
        ValueError: they are fewer than the rows.
    """
    rows = batch_shape_of(x, module.event_shape, "x").numel()
    if size is not None and size < rows:
        raise ValueError(f"`size` must be at least the {rows} rows of the batch, got {size}")
    return nullcontext() if size is None else FullSize({module.plate: size})
