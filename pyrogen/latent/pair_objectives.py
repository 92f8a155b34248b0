r"""Importance-weighted objectives for any Pyro model/guide pair.

Those of :mod:`~pyrogen.latent.objectives` take a VAE, whose every latent belongs to one datum. A pair of your
own may have latents of all data as well, outside the data plate. Its weights, with draws :math:`z_k \sim q`, are

- one for each datum where every latent is in the data plate, :math:`w_{ik} = p(x_i, z_{ik}) / q(z_{ik})`. The bound is
  then a sum over the data, which minibatches estimate without bias;
- else one for all data together, :math:`w_k = p(x, z_k) / q(z_k)`. The logarithm of an average of products over all
  data has no unbiased estimate from a minibatch, so all data have to be given at once.

Masked entries count as one in the weights. A site that is scaled otherwise than by a subsampled data plate is refused:
a power of a density is none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyrogen.arguments import integer, number
from pyrogen.core.batch import rows
from pyrogen.core.density import density_of, require_bounding
from pyrogen.core.objective import PairObjective
from pyrogen.programs.data_plate import data_plate, observed_plates
from pyrogen.programs.layouts import DRAWS, DrawsTogether, OneDraw
from pyrogen.programs.reading import global_sites
from pyrogen.programs.run import Given, Record
from pyrogen.programs.site import Plate, Site
from pyrogen.training.turn import frozen

from .bounds import doubly_reparameterized, importance_weighted, renyi, weigh_gradients
from .pair import require_same_latents, require_unscaled


class WeightedPair(PairObjective):
    """An objective that is a function of the importance weights of a Pyro model/guide pair, in nats per datum.

    Subclasses define :meth:`bound`. Arguments and errors are those of :class:`ImportanceWeightedPair`.
    """

    by_path = False
    """Whether the guide's density follows its draws alone, with parameters that take no gradient."""

    averages_weights = True
    """Whether the bound is not linear in the log-weights, so that noise in one makes it biased."""

    def __init__(
        self, model: nn.Module, guide: nn.Module, *, draws: int, plates: int | None = None, size: int | None = None
    ) -> None:
        super().__init__(model, guide, size=size)
        self.draws = integer(draws, "draws")
        self.plates = None if plates is None else integer(plates, "plates", least=0)
        self._layout = OneDraw() if plates is None else DrawsTogether(draws, plates)
        if self.by_path and not isinstance(guide, nn.Module):
            raise ValueError(f"`guide` must be an nn.Module, which owns its parameters, got {type(guide).__name__}")

    @abstractmethod
    def bound(self, log_weights: Tensor) -> Tensor:
        """What is maximized, in nats.

        Shape:
            ``(units,)`` from ``(draws, units)``, where a unit is a datum, or all data.
        """

    def total(self, *batch: Any) -> Tensor:
        passes = [self._pass(batch) for _ in range(self.draws if self.plates is None else 1)]
        plate = self._plate_of(passes[0].model, rows(batch))
        outside = global_sites([*passes[0].drawn, *passes[0].model], *([] if plate is None else [plate]))
        if is_validation_enabled():
            self._check(passes[0], plate)
        if outside and self.averages_weights and plate is not None and plate.size > plate.rows:
            raise ValueError(
                f"the latent sites {outside} outside the data plate have importance weights of all {plate.size} data "
                f"together, got a minibatch of {plate.rows}: give all data at once by `batch_size={plate.size}`, or "
                "use `pyrogen.Elbo` or `StickingTheLandingPair`"
            )
        unit = None if outside else plate
        log_weights = torch.cat([self._log_weights(one, plate, unit) for one in passes])
        self.weigh_draws(log_weights, passes, unit)
        of_all = 1.0 if unit is None else unit.size / unit.rows
        return -of_all * self.bound(log_weights).sum()

    def weigh_draws(self, log_weights: Tensor, passes: Sequence[Pass], unit: Plate | None) -> None:
        """Whatever is done to the gradients of draws; nothing by default."""

    def _pass(self, batch: tuple) -> Pass:
        """One run of guide and model, for one draw or for all."""
        model, guide = self._layout.laid_out(self.model), self._layout.laid_out(self.guide)
        with Record() as drawn:
            guide(*batch)
        values = {site.name: site.value for site in drawn.sites if not site.observed}
        if not self.by_path:
            scores = [(site, site.log_prob()) for site in drawn.sites]
        else:
            values = {name: value.view_as(value) for name, value in values.items()}
            fixed = [parameter for parameter in self.guide.parameters() if parameter.requires_grad]
            with frozen(fixed), Record() as scored, Given({**drawn.indices, **values}):
                guide(*batch)
                scores = [(site, site.log_prob()) for site in scored.sites]  # distributions may run networks to score
        with Record() as ran, Given({**drawn.indices, **values}):
            model(*batch)
        return Pass(drawn.sites, scores, ran.sites, values)

    def _plate_of(self, sites: Sequence[Site], rows: int) -> Plate | None:
        """The data plate among those of the model, the draws' own left out."""
        own = [replace(site, plates=tuple(plate for plate in site.plates if plate.name != DRAWS)) for site in sites]
        if self._plates:
            found = next(plate for plate in observed_plates(own) if plate.name in self._plates)
        else:
            found = data_plate(own, rows) or _of_several_rows(own, rows)
        if found is not None and found.dim is None:
            raise NotImplementedError(
                f"the data plate {found.name!r} must be entered by `with`: one that is iterated over has no dimension"
            )
        return found

    def _log_weights(self, one: Pass, plate: Plate | None, unit: Plate | None) -> Tensor:
        """Those of one pass, ``(its draws, units)``."""
        signed = [(site, site.log_prob()) for site in one.model] + [(site, -log_prob) for site, log_prob in one.guide]
        found: Tensor | float = 0.0
        for site, log_prob in signed:
            entries = self._layout.split(log_prob, 0, None if unit is None else unit.dim)
            entries = entries.reshape(*entries.shape[:2], -1).sum(-1)
            inside = unit is None and plate is not None and site.plate(plate.name) is not None
            found = found + (plate.size / plate.rows * entries if inside else entries)
        return found

    def _check(self, one: Pass, plate: Plate | None) -> None:
        """Refuses a pair with which the objective would be no bound, or has no gradient.

        Raises:
            NotImplementedError: a site of the guide is not reparameterized, a ``log_prob`` is unnormalized or missing,
                or one of the guide a lower bound.
            ValueError: the latent sites of model and guide differ, one is scaled, or its ``log_prob`` is noisy, or a
                bound, and several weights are averaged: the exponential of noise is biased upwards.
        """
        drawn = {site.name for site in one.drawn if not site.auxiliary}
        require_same_latents(drawn, {site.name for site in one.model if not site.observed})
        for part, sites in (("guide", one.drawn), ("model", one.model)):
            for site in sites:
                if part == "guide" and not site.distribution.has_rsample:
                    raise NotImplementedError(
                        f"the draws of the guide's site {site.name!r} are not differentiable, as this objective needs; "
                        "use `pyrogen.Elbo`, or `EnumeratedPair` for discrete ones"
                    )
                require_bounding(site.distribution, f"the site {site.name!r} of `{part}`", guide=part == "guide")
                density = density_of(site.distribution)
                if self.averages_weights and self.draws > 1 and density != "exact":
                    raise ValueError(
                        f"the site {site.name!r} must have an exact log_prob inside averaged importance weights, "
                        f"got density {density!r}"
                    )
                require_unscaled(site, [own for own in site.plates if plate is not None and own.name == plate.name])


@dataclass(frozen=True)
class Pass:
    """One run of guide and model.

    Attributes:
        drawn: The sites of the guide as it drew.
        guide: Its sites, each with its log-probability.
        model: The sites of the model.
        values: What the latent sites of the model were given.
    """

    drawn: list[Site]
    guide: list[tuple[Site, Tensor]]
    model: list[Site]
    values: dict[str, Tensor]


class ImportanceWeightedPair(WeightedPair):
    r"""Minus the importance-weighted bound of a Pyro pair, :math:`-\log \frac1K \sum_k w_k`.

    Args:
        model: A Pyro model, called with the batch.
        guide: Its guide, called with the same, with the same latent sites, all of them reparameterized.
        draws: How many draws of the guide, :math:`K`.
        plates: How many plates nest in model and guide, at most. Draws then run all at once, under one plate more to
            their left, for which the programs must broadcast. ``None``: one after the other, which needs nothing.
        size: How many data there are in all, as for :class:`pyrogen.Elbo`.

    Raises:
        ValueError: ``draws`` or ``size`` is not positive, or ``plates`` is negative; when called: model and guide
            differ in their latent sites, a site is scaled, its density is not what weights need, or latents outside the
            data plate meet a minibatch.
        NotImplementedError: when called: a site of the guide is not reparameterized.

    References:
        Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    """

    def bound(self, log_weights: Tensor) -> Tensor:
        return importance_weighted(log_weights)


class RenyiPair(WeightedPair):
    r"""Minus the variational Rényi bound of a Pyro pair.

    .. math:: -\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}

    With latents outside the data plate it is that of Pyro's ``RenyiELBO``; otherwise every datum is weighed by itself.

    Args:
        model: The model; other arguments, too, are those of :class:`ImportanceWeightedPair`.
        alpha: :math:`\alpha`, other than one.

    Raises:
        ValueError: ``alpha`` is one.

    References:
        Li and Turner 2016, "Rényi divergence variational inference", https://arxiv.org/abs/1602.02311
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        *,
        alpha: float,
        draws: int,
        plates: int | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__(model, guide, draws=draws, plates=plates, size=size)
        if number(alpha, "alpha") == 1:
            raise ValueError("`alpha` must not be 1, where the bound is that of `pyrogen.Elbo`, got 1")
        self.alpha = alpha

    def bound(self, log_weights: Tensor) -> Tensor:
        return renyi(log_weights, self.alpha)


class StickingTheLandingPair(WeightedPair):
    r"""Minus the evidence lower bound of a Pyro pair, by the path derivative alone.

    The gradient of :math:`\log q_\phi(z)` in :math:`\phi` at fixed :math:`z` has expectation zero and is left out. At
    the true posterior every draw's gradient in :math:`\phi` is zero. The guide runs twice. Minibatches are as for
    :class:`pyrogen.Elbo`; arguments are those of :class:`ImportanceWeightedPair`.

    Raises:
        ValueError: when called: the guide's density is a bound, or one is not normalized.

    References:
        Roeder, Wu and Duvenaud 2017, "Sticking the landing: simple, lower-variance gradient estimators for variational
        inference", https://arxiv.org/abs/1703.09194
    """

    by_path = True
    averages_weights = False

    def __init__(
        self, model: nn.Module, guide: nn.Module, *, draws: int = 1, plates: int | None = None, size: int | None = None
    ) -> None:
        super().__init__(model, guide, draws=draws, plates=plates, size=size)

    def bound(self, log_weights: Tensor) -> Tensor:
        return log_weights.mean(0)


class DoublyReparameterizedPair(WeightedPair):
    r"""Minus the importance-weighted bound of a Pyro pair, with the doubly reparameterized gradient in the guide.

    With normalized weights :math:`\tilde w_k`, the gradient in the guide's parameters :math:`\phi` is
    :math:`\sum_k \tilde w_k^2 \, (\partial \log w_k / \partial z_k) \, \partial z_k / \partial \phi`: of the same
    expectation as that of :class:`ImportanceWeightedPair`, with a signal that does not drown in noise as draws become
    many. The guide runs twice. Arguments and errors are those of :class:`ImportanceWeightedPair`.

    References:
        Tucker, Lawson, Gu and Maddison 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives",
        https://arxiv.org/abs/1810.04152
    """

    by_path = True

    def bound(self, log_weights: Tensor) -> Tensor:
        return doubly_reparameterized(log_weights)

    def weigh_draws(self, log_weights: Tensor, passes: Sequence[Pass], unit: Plate | None) -> None:
        """The second power of the weights, which draws take and the model's parameters do not."""
        weights = log_weights.detach().softmax(0)
        for one, share in zip(passes, weights.split(len(weights) // len(passes)), strict=True):
            for site in one.drawn:
                if site.name in one.values:
                    weigh_gradients(one.values[site.name], self._along(share, site, unit))

    def _along(self, weights: Tensor, site: Site, unit: Plate | None) -> Tensor:
        """Weights ``(draws, units)`` in a shape that broadcasts to the value of a site."""
        event_dim, shape = site.distribution.event_dim, [1] * site.value.dim()
        if self.plates is not None:
            shape[-self.plates - 1 - event_dim] = len(weights)
        if unit is not None:
            shape[unit.dim - event_dim] = weights.shape[1]
        return weights.reshape(shape)


def _of_several_rows(sites: Sequence[Site], rows: int) -> Plate | None:
    """The plate, if it is one, that has several rows for each datum."""
    found = [plate for plate in observed_plates(sites) if plate.rows % rows == 0 and rows > 1]
    return found[0] if len(found) == 1 else None
