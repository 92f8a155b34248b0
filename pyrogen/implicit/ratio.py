r"""Density ratios, estimated from samples of both distributions.

A classifier of samples of :math:`p` and of :math:`q`, as many of each, has the least log-loss where its logit is
:math:`h = \log p/q`. So a trained classifier *is* an estimate of the log-ratio. It is a poor one where the two are far
apart: if every classifier that separates the samples has hardly a loss, nothing is learned about by how much. Then
bridges help. For independent :math:`x_0 \sim p` and :math:`x_K \sim q` and angles from 0 to :math:`\pi/2`,

.. math:: x_k = \mu + \cos\theta_k \, (x_0 - \mu) + \sin\theta_k \, (x_K - \mu) , \qquad x_k \sim p_k ,

neighbours overlap, and their ratios, each learned by a classifier of its own, add up to the whole:

.. math:: \log \frac{p(x)}{q(x)} = \sum_{k=0}^{K-1} h_k(x) , \qquad h_k \approx \log \frac{p_k}{p_{k+1}} .

The log-loss on samples that were held out shows whether a step is too long (a loss near zero: add bridges) or
has nothing left to learn (near :math:`\log 2`), and calibrates what was learned from few samples, which is too sure of
itself: :meth:`RatioEstimate.calibrate` scales and shifts each :math:`h_k` to the least log-loss there.

A log-ratio is the same in any coordinates. Classifiers see standardized ones, so where a few values far out set the
scale (heavy tails), bring the data to others first, by their ``asinh`` or their ranks: of Cauchy numbers as they are
nothing is found, and the log-loss stays near :math:`\log 2`.

Nothing here is a bound: a classifier's mistakes go either way. For a lower bound of a divergence give the estimate, as
a critic, to :meth:`FDivergence.bound <pyrogen.implicit.divergences.FDivergence.bound>`.

References:
    Sugiyama, Suzuki and Kanamori 2012, "Density ratio estimation in machine learning",
    https://doi.org/10.1017/CBO9781139035613
    Rhodes, Xu and Gutmann 2020, "Telescoping density-ratio estimation", https://arxiv.org/abs/2006.12204
    Platt 1999, "Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from math import pi
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyrogen.arguments import checked, numbers
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import (
    Context,
    ContextShape,
    Shape,
    as_context_shape,
    as_shape,
    batch_shape_of,
    context_batch_shape,
    flatten_batch,
    require_one_context_each,
)
from pyrogen.distributions.abilities import Density
from pyrogen.networks.context import context_rows
from pyrogen.networks.statistics import ReadsData, Standardizer, Statistic
from pyrogen.numerics.contrastive import contrastive_loss
from pyrogen.training.turn import TakesTurns, Turn

Source = DistributionModule | TorchDistributionMixin | Callable[[Any], Tensor] | None
"""Where samples come from; ``None``: from the data that are given in training."""

_NEWTON_STEPS = 50
_CALIBRATING = 2000  # fresh draws, which leave a slope uncertain by a few per cent


class RatioEstimate(TakesTurns, ReadsData, nn.Module):
    r"""An estimate of the log-ratio :math:`\log p(x)/q(x)`, or :math:`\log p(x \mid c)/q(x \mid c)`, by classifiers.

    It is trained by ``pg.fit(ratio, (x, y))`` on samples of both, as many of each, and called at events it gives
    log-ratios. Where ``p`` or ``q`` can be drawn from, draws are fresh in every minibatch and are left out of the
    data: ``pg.fit(ratio, x)`` where there is a ``q``, ``pg.fit(ratio, ())`` where there are both. So a sample of
    another size is given as a function that draws from it, ``q=lambda rows: y[torch.randint(len(y), (rows,))]``.
    Contexts come last in the data, a row for each row of samples.

    Args:
        p: The distribution above: a ``DistributionModule``, a distribution, a function that draws (called with how many
            draws, or with contexts, it gives events ``(N, *event_shape)``); ``None`` for samples in the data.
        q: The distribution below, likewise.
        critics: One classifier, ``critic(x)`` or ``critic(x, context)`` with logits ``(N,)`` of standardized events
            ``(N, *event_shape)``; or several, of which each tells one of the steps between ``p`` and ``q`` apart.
        event_shape: Shape of one event; ``None``: that of ``p`` or ``q``.
        context_shape: As for ``DistributionModule``.
        draws: How many draws make a minibatch where neither data nor contexts do.

    Attributes:
        density: What log-ratios mean: an ``"estimate"``.
        slope, offset: The calibration of each step, 1 and 0 before :meth:`calibrate`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: there is no critic or no event shape; when called or trained, shapes do not fit.

    Example:
        >>> x, y = torch.randn(1000, 2) + 1, torch.randn(1000, 2)
        >>> ratio = pg.implicit.density_ratio((2,))
        >>> pg.fit(ratio, (x, y), steps=5).reason
        'steps'
        >>> ratio(torch.zeros(7, 3, 2)).shape
        torch.Size([7, 3])
    """

    density: Density = "estimate"

    @checked
    def __init__(
        self,
        p: Source = None,
        q: Source = None,
        *,
        critics: nn.Module | Sequence[nn.Module],
        event_shape: Shape | None = None,
        context_shape: ContextShape = None,
        draws: int = 256,
    ) -> None:
        super().__init__()
        self.p, self.q = _source(p, "p"), _source(q, "q")
        self.event_shape = _event_shape(event_shape, p, q)
        self.context_shape = as_context_shape(context_shape)
        self.critics = nn.ModuleList(_critics(critics))
        self.standardizer = Standardizer(self.event_shape, name="x")
        self.draws = draws
        self.register_buffer("slope", torch.ones(len(self.critics)))
        self.register_buffer("offset", torch.zeros(len(self.critics)))

    @property
    def bridges(self) -> int:
        """How many distributions there are between ``p`` and ``q``."""
        return len(self.critics) - 1

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        """Log-ratios.

        Shape:
            ``(*batch, *event_shape)`` to ``batch``; the batch dimensions of the context broadcast.
        """
        batch = torch.broadcast_shapes(
            batch_shape_of(x, self.event_shape, "x"), context_batch_shape(context, self.context_shape)
        )
        z = self.standardizer(flatten_batch(x.expand(*batch, *self.event_shape), self.event_shape))
        context = context_rows(context, self.context_shape, batch)
        return sum(self._step(k, z, context) for k in range(len(self.critics))).reshape(batch)

    def objective(self) -> TelescopingLoss:
        """The log-loss of the steps."""
        return TelescopingLoss(self)

    def turns(self) -> list[Turn]:
        """One turn, of the critics: what draws is left as it is."""
        return [Turn(self.objective(), self.critics)]

    def averaged(self) -> nn.Module:
        """The critics."""
        return self.critics

    def metric(self, *batch: Any) -> Tensor:
        """The log-loss of a minibatch, a mean over the steps, in nats."""
        return self.step_losses(*batch).mean()

    def step_losses(self, *batch: Any) -> Tensor:
        r"""The log-loss of each step and each row, ``(steps, N)``, in nats: :math:`\log 2` is that of a guess."""
        x, y, context = self.samples(*batch)
        z, many = self._bridged(x, y), len(x)
        twice = _twice(context)
        steps = [self._step(k, torch.cat([z[k], z[k + 1]]), twice) for k in range(len(self.critics))]
        logits = torch.stack(steps).unflatten(-1, (2, many))  # (steps, 2, N)
        return contrastive_loss(logits.transpose(0, 1), gamma=1.0)

    def log_loss(self, *batch: Any) -> list[Estimate]:
        r"""The log-loss of each step on held-out data: near :math:`\log 2` where its two ends are much alike.

        :math:`\log 2` minus it is a lower bound of the Jensen-Shannon divergence of the ends. A step whose loss is
        near zero is too long for its ratio to be learned: use more bridges.

        Args:
            batch: Data as for training, held out from it.
        """
        with torch.no_grad(), evaluating(self):
            return [Estimate.of_mean(losses, density=None) for losses in self.step_losses(*batch)]

    @torch.no_grad()
    def calibrate(self, *batch: Any) -> None:
        r"""Scales and shifts the log-ratio of each step to the least log-loss on held-out data.

        The critics stay as they are; an earlier calibration is replaced. The slope has a weak prior around 1, so that
        steps without any loss leave it finite.

        Args:
            batch: Data as for training, held out from it; a thousand rows will do. Where nothing is given, two thousand
                draws of both, or ``draws`` if that is more.

        Raises:
            ValueError: a critic gives NaN or infinities; the calibration stays as it was.
        """
        x, y, context = self.samples(*batch, fewest=_CALIBRATING)
        z, twice = self._bridged(x, y), _twice(context)
        with evaluating(self):
            for k, critic in enumerate(self.critics):
                both = torch.cat([z[k], z[k + 1]])
                logits = critic(both) if twice is None else critic(both, twice)
                above, below = numbers(logits, f"critics[{k}](...)").double().split(len(x))
                self.slope[k], self.offset[k] = _least_log_loss(above, below)

    def kl(self, x: Tensor, context: Context = None) -> Estimate:
        r"""The estimate of :math:`KL(p \,\|\, q)` by the mean log-ratio of samples of :math:`p`; no bound.

        Args:
            x: Samples of ``p`` that were held out.
            context: Their contexts.
        """
        with torch.no_grad(), evaluating(self):
            return Estimate.of_mean(self(x, context), density=self.density)

    def samples(self, *batch: Any, fewest: int = 1) -> tuple[Tensor, Tensor, Context]:
        """Samples of ``p`` and of ``q``, from data or fresh, and their contexts.

        Args:
            batch: Data as for training.
            fewest: How many draws there are at least where nothing is given.

        Raises:
            ValueError: the data are too few or too many, or shapes do not fit.
        """
        wanted = ["x"] * (self.p is None) + ["y"] * (self.q is None) + ["context"] * (self.context_shape is not None)
        if len(batch) != len(wanted):
            listed = f"({', '.join(wanted)})" if wanted else "none: `()`"
            raise ValueError(f"`data` must be {listed}, got {len(batch)} entries")
        given = dict(zip(wanted, batch, strict=True))
        context = given.get("context")
        rows = next((len(given[name]) for name in ("x", "y") if name in given), None)
        if rows is None:
            rows = max(self.draws, fewest) if context is None else context_batch_shape(context, self.context_shape)[0]
        x, y = (
            given[name] if name in given else _drawn(source, rows, context).to(self.slope.device)
            for name, source in (("x", self.p), ("y", self.q))
        )
        for name, events in (("x", x), ("y", y)):
            if batch_shape_of(events, self.event_shape, name) != (rows,):
                raise ValueError(f"`{name}` must hold {rows} rows, as many as the other sample, got {len(events)}")
            if self.bridges and not events.is_floating_point():
                raise ValueError(
                    f"`{name}` must hold real numbers, between which there are bridges, got {events.dtype}; use one "
                    "critic"
                )
        require_one_context_each(x, context, self.event_shape, self.context_shape)
        return x, y, context

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        x, y, context = self.samples(*batch)
        both = torch.cat([x, y])
        yield from self.standardizer.read_data(both)
        if self.standardizer.learned:
            z, twice = self.standardizer(both), _twice(context)
            for critic in self.critics:
                if isinstance(critic, ReadsData):
                    yield from critic.read_data(z, twice)

    def _step(self, k: int, z: Tensor, context: Context) -> Tensor:
        """The log-ratio of one step, at standardized events."""
        logits = self.critics[k](z) if context is None else self.critics[k](z, context)
        if logits.shape != (len(z),):
            raise ValueError(f"`critics` must give logits ({len(z)},) of {len(z)} rows, got {tuple(logits.shape)}")
        return self.slope[k] * logits + self.offset[k]

    def _bridged(self, x: Tensor, y: Tensor) -> Tensor:
        """Standardized samples of all distributions from ``p`` to ``q``, ``(steps + 1, N, *event_shape)``."""
        x, y = self.standardizer(x), self.standardizer(y)
        angles = torch.linspace(0, pi / 2, self.bridges + 2, dtype=x.dtype, device=x.device)
        angles = angles.reshape(-1, *[1] * x.dim())
        return angles.cos() * x + angles.sin() * y


class TelescopingLoss(Objective):
    """The log-loss of the classifiers of a ratio estimate, a mean over its steps.

    Args:
        ratio: What is trained.
    """

    unit = "nats of cross-entropy per row"

    def __init__(self, ratio: RatioEstimate) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, *batch: Any) -> Tensor:
        return self.ratio.metric(*batch)

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.ratio.read_data(*batch)


def _source(source: Any, name: str) -> Source:
    if isinstance(source, TorchDistributionMixin) and source.batch_shape:
        raise ValueError(f"`{name}` must have no batch dimensions, got {tuple(source.batch_shape)}")
    if source is not None and not callable(source):
        raise TypeError(
            f"`{name}` must be a DistributionModule, a Pyro distribution, a function that draws, or None for samples "
            f"in the data, got {type(source).__name__}"
        )
    return source


def _event_shape(event_shape: Shape | None, *sources: Source) -> Shape:
    known = [source for source in sources if isinstance(source, (DistributionModule, TorchDistributionMixin))]
    shapes = {tuple(source.event_shape) for source in known}
    shapes |= set() if event_shape is None else {as_shape(event_shape, "event_shape")}
    if len(shapes) != 1:
        what = "be that of `p` and `q`" if shapes else "be given where neither `p` nor `q` has one"
        raise ValueError(f"`event_shape` must {what}, got {sorted(shapes) or None}")
    return shapes.pop()


def _critics(critics: Any) -> list[nn.Module]:
    found = [critics] if isinstance(critics, nn.Module) and not isinstance(critics, nn.ModuleList) else list(critics)
    if not found:
        raise ValueError("`critics` must hold at least one module, got none")
    if strange := [type(critic).__name__ for critic in found if not isinstance(critic, nn.Module)]:
        raise TypeError(f"`critics` must be modules, got among them {strange[0]}")
    return found


def _drawn(source: Source, rows: int, context: Context) -> Tensor:
    with torch.no_grad(), evaluating(source) if isinstance(source, nn.Module) else nullcontext():
        if isinstance(source, DistributionModule):
            own = None if source.context_shape is None else context
            return source(own).sample(() if own is not None else (rows,))
        if isinstance(source, TorchDistributionMixin):
            return source.sample((rows,))
        return source(rows if context is None else context)


def _twice(context: Context) -> Context:
    """The contexts of rows of both samples, one after the other."""
    if isinstance(context, dict):
        return {key: torch.cat([value, value]) for key, value in context.items()}
    return None if context is None else torch.cat([context, context])


def _least_log_loss(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    r"""Slope and offset of logits, :math:`a h + b`, with the least log-loss; by Newton's method.

    Args:
        above: Logits of samples of the distribution above.
        below: Logits of samples of the one below.
    """
    logits = torch.cat([above, -below])
    signs = torch.cat([torch.ones_like(above), -torch.ones_like(below)])
    features = torch.stack([logits, signs], -1)  # of sign(label) * (a h + b)
    start = torch.tensor([1.0, 0.0], dtype=logits.dtype, device=logits.device)

    def loss(found: Tensor) -> Tensor:
        return -logsigmoid(features @ found).sum() + 0.5 * (found - start).square().sum()

    unit = torch.stack([logits.square().mean().sqrt().clamp(min=1), start[0]])
    found = start / unit  # where sigmoids have slopes, however large the logits are
    for _ in range(_NEWTON_STEPS):
        share = torch.sigmoid(-features @ found)
        gradient = found - start - features.T @ share
        curvature = features.T @ ((share * (1 - share)).unsqueeze(-1) * features) + torch.eye(2).to(features)
        step = torch.linalg.solve(curvature, gradient)
        scale = next((2.0**-n for n in range(30) if loss(found - 2.0**-n * step) <= loss(found)), 0.0)
        found = found - scale * step
    return found[0], found[1]
