r"""Objectives: callables ``(*batch) -> loss``, as a rule in nats per datum, whose ``parameters()`` are what is trained.

Anything of this form trains: those of pyrogen, and Pyro's own ``Trace_ELBO()(model, guide)``, whose sum ``fit`` divides
by the number of data: the full size of the data plate, or the rows of the batch. Here are the base class and the
objectives of a Pyro model/guide pair; maximum likelihood stands beside the module that it fits
(:class:`pyrogen.core.module.MaximumLikelihood`), and every family has its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import Any, Protocol

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrogen.abstract import Abstract
from pyrogen.arguments import integer
from pyrogen.distributions.abilities import draw_and_score, has_draw_and_score
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.numerics.randomness import held, set_torch_states, torch_states
from pyrogen.programs.data_plate import DataCount, FullSize, data_of
from pyrogen.programs.hidden_values import HiddenValues
from pyrogen.programs.reading import reading_of, settled_data_plates
from pyrogen.programs.run import Record

from .batch import row_numbers, rows, without_last_row
from .density import require_bounding
from .modes import evaluating


class TurnOfGame(Protocol):
    """What a turn of a game has, such as a :class:`pyrogen.training.turn.Turn`: a loss, and what it trains."""

    objective: Callable[..., Tensor]

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the turn moves."""


Turns = TurnOfGame | list[TurnOfGame]


class Objective(Abstract, ReadsData, nn.Module):
    """A loss to be trained: the base class of the objectives of pyrogen.

    ``fit`` takes any callable ``(*batch) -> loss``. One of this class besides reads the data set before it is trained
    (:meth:`read_data`) and states its unit. Its ``parameters()`` are what is trained.
    """

    unit: str = "nats per datum"
    """What the loss is measured in."""

    limit: float = inf
    """The largest size of a loss: beyond it ``fit`` takes the run to have diverged."""

    measures: bool = True
    """Whether the loss of held-out data shows how good a model is; ``fit`` chooses no weights by one that does not."""

    @abstractmethod
    def forward(self, *batch: Any) -> Tensor:
        """The loss of a batch, a mean over its data."""


class PairObjective(Objective):
    """A loss of a Pyro model/guide pair, in nats per datum of the data plate's full size.

    Subclasses define :meth:`total`.

    Args:
        model: A Pyro model, called with the batch.
        guide: Its guide, called with the same.
        size: How many data there are in all, for a pair whose data plate is as long as the batch: the plate then
            stands for so many, as ``pyro.plate(name, size, subsample_size=...)`` does. ``None``: the size of the plate.

    Raises:
        ValueError: when called: ``size`` is less than the rows of the batch, model or guide hold an entry for each row,
            or there is no data plate.
    """

    def __init__(self, model: nn.Module, guide: nn.Module, *, size: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.size = None if size is None else integer(size, "size")
        self._plates: dict[str, int] | None = None

    @abstractmethod
    def total(self, *batch: Any) -> Tensor:
        """The loss of all data that the batch stands for, in nats."""

    def forward(self, *batch: Any) -> Tensor:
        with self._standing_for(batch), HiddenValues(), DataCount() as count:
            loss = self.total(*batch)
        return loss / count.of(rows(batch))

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads the data as the model does, where it is the view of a module."""
        return self.model.read_data(*batch) if isinstance(self.model, ReadsData) else iter(())

    def _standing_for(self, batch: tuple) -> AbstractContextManager[Any]:
        if self.size is None:
            return nullcontext()
        if self.training and rows(batch) > self.size:
            raise ValueError(f"`size` must be at least the {rows(batch)} rows of the batch, got {self.size}")
        if self._plates is None:
            self._plates = self._data_plates(batch)
        return FullSize({name: self.size * rows_of_one for name, rows_of_one in self._plates.items()})

    def _data_plates(self, batch: tuple) -> dict[str, int]:
        """The data plates, each with its rows for one datum, from a run that leaves no trace.

        Raises:
            ValueError: there is none, it stands for another number of data, its rows are scaled up already, or single
                rows have parameters.
        """
        count = rows(batch)
        with held(), evaluating(self), torch.enable_grad():
            record = self._record(batch)
            plates = settled_data_plates(record, count, lambda: self._record(without_last_row(batch, count)))
            reading = reading_of(record, count, row_numbers(batch), dict(self.named_parameters()), plates)
        if not plates:
            raise ValueError(f"`size` needs a plate of the {count} rows of the batch around observed sites, got none")
        for plate in plates:
            stated = data_of(plate, plate.size, count)
            if stated not in (count, self.size):
                raise ValueError(f"`size` must be the {stated} data of the plate {plate.name!r}, got {self.size}")
        if count < self.size in reading.sizes and all(data_of(plate, plate.size, count) == count for plate in plates):
            raise ValueError(
                f"`size` must be None for a program that scales its rows up to as many itself, got {self.size}"
            )
        if reading.owned and count < self.size:
            raise ValueError(
                f"`size` must be None for a pair that holds an entry for each row of the batch, in {reading.owned}, "
                f"since the rows of other batches would share it, got {self.size}"
            )
        return {plate.name: plate.size // data_of(plate, plate.size, count) for plate in plates}

    def _record(self, batch: tuple) -> Record:
        with poutine.block(), Record() as record:
            guide = poutine.trace(self.guide).get_trace(*batch)
            poutine.replay(self.model, trace=guide)(*batch)
        return record


class Elbo(PairObjective):
    r"""Minus the evidence lower bound of a Pyro model/guide pair, per datum.

    .. math:: -\frac{1}{N} \mathbb{E}_{q(z)} [\log p(x, z) - \log q(z)]

    Equal to ``Trace_ELBO()(model, guide)`` over the number of data :math:`N`, on the same noise: the full size of the
    data plate, or the rows of the batch. With Pyro's validation on it *is* that computation, checks included. With
    validation off, as inside ``fit``, guide and model run once under one small messenger; a guide with sites that are
    not reparameterized falls back to Pyro's.

    Latent variables of all data, outside the data plate, have the right posterior on minibatches if the plate has the
    number of all data, or ``size`` is given.

    Args:
        model: A Pyro model, called with the batch.
        guide: Its guide, called with the same.
        size: How many data there are in all, for a program written with ``pyro.plate("data", len(x))``: what is inside
            that plate is scaled by ``size / len(x)``.

    Raises:
        ValueError: when called: ``size`` is less than the rows of the batch, model or guide hold an entry for each row,
            or there is no data plate.
        NotImplementedError: when called with validation on, as ``fit`` does first: a site has no normalized
            ``log_prob``, or one of the guide only a bound of it.

    References:
        Kingma and Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
        Hoffman, Blei, Wang and Paisley 2013, "Stochastic variational inference", https://arxiv.org/abs/1206.7051
    """

    def __init__(self, model: nn.Module, guide: nn.Module, *, size: int | None = None) -> None:
        super().__init__(model, guide, size=size)
        # Found in the dry run of `fit`, hence the same in a run that resumes. It saves time, no more: a pass
        # that finds otherwise is taken back, noise and all.
        self._reparameterized: bool | None = None

    def total(self, *batch: Tensor) -> Tensor:
        if is_validation_enabled():
            loss = Trace_ELBO().differentiable_loss(Meaning("model")(self.model), Meaning("guide")(self.guide), *batch)
            if self._reparameterized is None:
                self._reparameterized = self._reparameterizes(*batch)
            return loss
        if self._reparameterized is not False:
            noise = torch_states()
            try:
                with _Score(must_reparameterize=True) as guide:
                    self.guide(*batch)
                with _Score(replay=guide.values) as model:
                    self.model(*batch)
                return guide.log_prob - model.log_prob
            except _NotReparameterized:
                self._reparameterized = False
                set_torch_states(noise)
        return Trace_ELBO().differentiable_loss(self.model, self.guide, *batch)

    def _reparameterizes(self, *batch: Tensor) -> bool:
        try:
            with held(), poutine.block(), _Score(must_reparameterize=True):
                self.guide(*batch)
        except _NotReparameterized:
            return False
        return True


class Meaning(Messenger):
    """Refuses sites whose ``log_prob`` makes no evidence lower bound.

    Args:
        part: Whose sites they are, ``"model"`` or ``"guide"``.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["fn"], Distribution):
            name = f"the site {msg['name']!r} of `{self.part}`"
            require_bounding(msg["fn"], name, guide=self.part == "guide")


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
            msg["value"], self.scores[msg["name"]] = draw_and_score(msg["fn"])
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
        # Rejection samplers have `has_rsample`, and still a score-function part.
        parts = distribution.score_parts(*arguments, **msg["kwargs"])
        if not is_identically_zero(parts.score_function):
            raise _NotReparameterized
        return parts.entropy_term


def _draws_and_scores(msg: dict[str, Any]) -> bool:
    """Whether a site is drawn here, from a distribution that draws and scores in one pass."""
    fresh = not (msg["is_observed"] or msg["done"] or msg["args"] or msg["kwargs"])
    return fresh and has_draw_and_score(msg["fn"])
