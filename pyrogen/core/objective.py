r"""Objectives: callables ``(*batch) -> loss`` in nats per datum, whose ``parameters()`` are what is trained.

Anything of this form trains: the two here, those of the family rooms, and Pyro's own ``Trace_ELBO()(model, guide)``,
whose sum over the batch ``fit`` divides by the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn

from pyrogen.networks.statistics import ReadsData, Statistic

from .density import weakest

if TYPE_CHECKING:
    from .module import DistributionModule
    from .shapes import Context


class MaximumLikelihood(ReadsData, nn.Module):
    r"""Minus the mean log-likelihood, :math:`-\frac{1}{N} \sum_i \log p(x_i \mid c_i)`.

    Args:
        module: What is fitted. Where its ``log_prob`` is a lower bound or an estimate, so is the objective.

    Raises:
        NotImplementedError: ``log_prob`` is unnormalised or missing, so its mean trains nothing sensible.
    """

    def __init__(self, module: DistributionModule) -> None:
        super().__init__()
        if weakest(module.density, "lower bound") != "lower bound":
            raise NotImplementedError(
                f"{type(module).__name__} has density {module.density!r}: maximum likelihood needs a normalised "
                "log_prob or a bound of it; use the objectives of its family"
            )
        self.module = module

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return -self.module(context).log_prob(x).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


class Elbo(ReadsData, nn.Module):
    r"""Minus the evidence lower bound of a Pyro model/guide pair, per datum.

    .. math:: -\frac{1}{N} \mathbb{E}_{q(z)} [\log p(x, z) - \log q(z)]

    Equal to ``Trace_ELBO()(model, guide)`` over the rows of the batch, on the same noise. With Pyro's validation on it
    *is* that computation, checks included. With validation off, as inside ``fit``, guide and model run once under one
    small messenger; a guide with sites that are not reparameterised falls back to Pyro's.

    Args:
        model: A Pyro model, called with the batch.
        guide: Its guide, called with the same.

    References:
        Kingma and Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self._reparameterized = True

    def forward(self, *batch: Tensor) -> Tensor:
        return self._loss(*batch) / rows(batch)

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads the data as the model does, where it is the view of a module."""
        return self.model.read_data(*batch) if isinstance(self.model, ReadsData) else iter(())

    def _loss(self, *batch: Tensor) -> Tensor:
        if self._reparameterized and not is_validation_enabled():
            try:
                with _Score(must_reparameterize=True) as guide:
                    self.guide(*batch)
                with _Score(replay=guide.values) as model:
                    self.model(*batch)
                return guide.log_prob - model.log_prob
            except _NotReparameterized:
                self._reparameterized = False
        return Trace_ELBO().differentiable_loss(self.model, self.guide, *batch)


def rows(batch: tuple) -> int:
    """How many data a batch holds: the length of its first tensor, one if it has none."""
    for entry in batch:
        tensor = next(iter(entry.values()), None) if isinstance(entry, Mapping) else entry
        if isinstance(tensor, torch.Tensor) and tensor.dim():
            return len(tensor)
    return 1


class _NotReparameterized(Exception):
    pass


class _Score(Messenger):
    """Sums the log-probabilities of all sites, optionally replaying values drawn before."""

    def __init__(self, replay: dict[str, Tensor] | None = None, must_reparameterize: bool = False) -> None:
        super().__init__()
        self.replay = replay or {}
        self.must_reparameterize = must_reparameterize
        self.values: dict[str, Tensor] = {}
        self.scores: dict[str, Tensor] = {}
        self.log_prob: Tensor | float = 0.0

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.replay and not msg["is_observed"]:
            msg["value"] = self.replay[msg["name"]]
            msg["done"] = True
        elif self.must_reparameterize and _draws_and_scores(msg):
            msg["value"], self.scores[msg["name"]] = msg["fn"].rsample_and_log_prob()
            msg["done"] = True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        self.values[msg["name"]] = msg["value"]
        if isinstance(msg["fn"], _Subsample):
            return
        log_prob = self.scores[msg["name"]] if msg["name"] in self.scores else self._score(msg)
        self.log_prob = self.log_prob + scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum()

    def _score(self, msg: dict[str, Any]) -> Tensor:
        distribution, arguments = msg["fn"], (msg["value"], *msg["args"])
        if not self.must_reparameterize:
            return distribution.log_prob(*arguments, **msg["kwargs"])
        # Rejection samplers say has_rsample, and still have a score-function part.
        parts = distribution.score_parts(*arguments, **msg["kwargs"])
        if not is_identically_zero(parts.score_function):
            raise _NotReparameterized
        return parts.entropy_term


def _draws_and_scores(msg: dict[str, Any]) -> bool:
    """Whether a site is drawn here, from a distribution that draws and scores in one pass."""
    fresh = not (msg["is_observed"] or msg["done"] or msg["args"] or msg["kwargs"])
    return fresh and getattr(msg["fn"], "has_rsample", False) and hasattr(msg["fn"], "rsample_and_log_prob")
