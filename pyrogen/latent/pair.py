r"""The marginal of a Pyro model and guide of your own.

The pair runs on all draws of all rows at once, as one large minibatch: every datum is repeated :math:`K` times. That
takes nothing from the model but that its data plate is as long as its data: ``plate(len(x))``, or
``plate(N, subsample_size=len(x))``, whose scale does not touch the marginal of one datum. A plate of fixed size is
refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked
from pyrogen.core.density import require_bounding
from pyrogen.core.module import Guide
from pyrogen.core.objective import Elbo
from pyrogen.core.shapes import Context, ContextShape, Shape, batch_shape_of, context_batch_shape, flatten_batch
from pyrogen.networks.context import context_rows
from pyrogen.numerics.randomness import held
from pyrogen.programs.chain import refuse_chain
from pyrogen.programs.data_plate import DataRows, FullSize
from pyrogen.programs.run import Given, ProgramRun, run
from pyrogen.programs.site import Plate, Site

from .marginal import LatentVariableModel


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
        value = self._draw(shape, context).value
        if value.is_floating_point() and value.isnan().any():
            raise ValueError("`model` must use its data only to observe them; its draws depend on them, and are NaN")
        return value.reshape(shape + self.event_shape)

    def support_at(self, context: Context = None) -> constraints.Constraint:
        with held(), torch.no_grad():
            return self._draw(context_batch_shape(context, self.context_shape), context).support

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.event_shape)]
        wide = torch.Size((self.draws, *batch))
        if not wide.numel():
            return x.flatten(len(batch)).sum(-1).expand(wide)  # of no rows, and still with a gradient
        refuse_chain("a Marginal", "run the chain over the sites of its model")
        x = x.expand(wide + self.event_shape)
        guide = self._run("guide", x, context, wide)
        drawn = {name: site.value for name, site in guide.sites.items() if not site.observed}
        model = self._run("model", x, context, wide, given={**guide.indices, **drawn})
        observed = {name for name, site in model.sites.items() if site.observed}
        if observed != {self.site}:
            raise ValueError(f"`model` must observe the site {self.site!r} alone, got {sorted(observed)}")
        require_same_latents(set(guide.sites), set(model.sites) - observed)
        if is_validation_enabled():
            for part, ran in (("model", model), ("guide", guide)):
                for name, site in ran.sites.items():
                    require_bounding(site.distribution, f"the site {name!r} of `{part}`", guide=part == "guide")
        log_joint, log_guide = (
            sum(self._log_prob(site, wide.numel()) for site in ran.sites.values()) for ran in (model, guide)
        )
        return (log_joint - log_guide).reshape(wide)

    def sample_model(self, x: Tensor, context: Context = None) -> Any:
        return self.pair["model"](*_arguments(x, context))

    def sample_guide(self, x: Tensor, context: Context = None) -> Any:
        return self.pair["guide"](*_arguments(x, context))

    def _run(self, part: str, x: Tensor, context: Context, batch: torch.Size, **how: Any) -> ProgramRun:
        """A run of model or guide on events ``(*batch, *event)``, all of them rows of its data plate."""
        rows = context_rows(context, self.context_shape, batch)
        program = DataRows(self.plate, batch.numel())(self.pair[part])
        return run(program, _arguments(flatten_batch(x, self.event_shape), rows), **how)

    def _draw(self, shape: torch.Size, context: Context) -> Site:
        """The observed site of a run in which nothing is observed."""
        sites = self._run("model", _placeholder(self, shape), context, shape, free=True).sites
        for site in sites.values():
            self._dimension(site, shape.numel())
        if self.site not in sites:
            raise ValueError(f"`site` must be one of the model's, {sorted(sites)}, got {self.site!r}")
        return sites[self.site]

    def _log_prob(self, site: Site, rows: int) -> Tensor:
        """The log-probability of a site, ``(rows,)``."""
        dimension = self._dimension(site, rows)
        require_unscaled(site, site.plates)
        return site.log_prob().movedim(dimension, 0).reshape(rows, -1).sum(-1)

    def _dimension(self, site: Site, rows: int) -> int:
        """That of the data plate."""
        plate = site.plate(self.plate)
        if plate is None or plate.dim is None or plate.rows != rows:
            raise ValueError(
                f"the site {site.name!r} must be inside the plate {self.plate!r}, as long as the data ({rows} rows): "
                "outside, it belongs to no datum"
            )
        return plate.dim


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
        with Given({}, free=True):
            return module.sample_model(_placeholder(module, batch), context)


class PairGuide(Guide):
    """The guide of a :class:`Marginal`."""

    module: Marginal

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Any:
        if x is None:
            return None
        with _scaled(x, self.module, size):
            return self.module.sample_guide(x, context)


def require_same_latents(drawn: set[str], latent: set[str]) -> None:
    """Checks that a guide draws the latent sites of its model.

    Raises:
        ValueError: one of them has a site that the other lacks.
    """
    if drawn != latent:
        raise ValueError(
            f"`guide` must have the latent sites of `model`, got {sorted(drawn ^ latent)} in one of them only"
        )


def require_unscaled(site: Site, plates: Iterable[Plate]) -> None:
    """Checks that the log-probability of a site is scaled by nothing but these plates: a power of a density is none.

    A subsampled plate scales its sites up to all data, which does not touch the weights of one datum.

    Raises:
        ValueError: it is.
    """
    of_plates = prod(plate.size / plate.rows for plate in plates)
    if (torch.as_tensor(site.scale / of_plates - 1).abs() > 1e-6).any():
        raise ValueError(
            f"the site {site.name!r} must not be scaled inside importance weights but by a subsampled data plate, got "
            f"{site.scale}"
        )


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
