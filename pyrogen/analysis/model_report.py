"""What a report shows of a model: what it is, its training, and how its draws and densities fit held-out data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, ReshapeTransform, TransformedDistribution

from pyrogen.core.batch import map_tensors
from pyrogen.core.density import Density
from pyrogen.core.estimate import TestResult
from pyrogen.core.facts import facts_of, meaning_of
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, context_of_each
from pyrogen.evaluation.density import bits_per_dimension, log_likelihood, log_likelihood_difference, log_probs
from pyrogen.evaluation.marginals import marginal_calibration
from pyrogen.evaluation.outliers import density_p_value
from pyrogen.evaluation.samples import energy_test
from pyrogen.evaluation.scoring import as_evaluated
from pyrogen.training.progress import Fit, History

from .arrays import as_array
from .beside import beside, is_picture, pictures
from .page import Section, absent, fact_table, figures, folded, number_table, paragraph, picture, plot, section_of
from .panels import draw_coverage, draw_ecdf, draw_history, least
from .style import BLUE, GREY, legend_below, new_figure, tidy
from .verdicts import Verdict, grade_of, of_calibration, of_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST = 20  # rows
_SHOWN = 36  # pictures
_OUTLIERS = 6
_CURVES = 6
_RARE = 0.01

MEANINGS: dict[Density, str] = {
    "exact": "The log-likelihood is exact up to rounding.",
    "estimate": "The log-likelihood is an estimate: exact up to the tolerance of a solver or noise without bias.",
    "lower bound": "It is a lower bound: the log-likelihood itself is larger, by how much is not known.",
    "unnormalized": (
        "There is no log-likelihood: log_prob lacks an unknown constant, the same for all data. "
        "pg.energy.log_normalizer estimates it; pg.energy.Normalized puts it in."
    ),
    None: "There is no log-likelihood: the model is implicit, it draws and has no log_prob. Its samples are compared "
    "with the data instead.",
}


@dataclass(frozen=True)
class Rows:
    """Data with their contexts.

    Attributes:
        x: Events, ``(N, *event_shape)``.
        context: Of each event, or ``None``.
        name: What the page calls them.
    """

    x: Tensor
    context: Context
    name: str

    @classmethod
    def of(cls, data: Tensor | tuple, module: DistributionModule, argument: str, name: str) -> Rows:
        """Events, or events and contexts, as ``fit`` takes them.

        Raises:
            TypeError: they are no tensors.
            ValueError: shapes do not fit the model, or there are fewer than twenty.
        """
        entries = data if isinstance(data, tuple) else (data,)
        if not 1 <= len(entries) <= 2 or not isinstance(entries[0], Tensor):
            raise TypeError(
                f"`{argument}` must be a tensor of events or a pair of events and contexts, got {data!r:.80}"
            )
        x, context = entries if len(entries) == 2 else (entries[0], None)
        context = context_of_each(x, context, module.event_shape, module.context_shape)
        if len(x) < _FEWEST:
            raise ValueError(f"`{argument}` must hold at least {_FEWEST} rows, got {len(x)}")
        return cls(x, context, name)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Rows:
        x, context = map_tensors((self.x, self.context), lambda entry: entry[index])
        return Rows(x, context, self.name)

    def some(self, most: int) -> Rows:
        """So many rows at most, chosen at random, in their order."""
        return self if len(self) <= most else self[torch.randperm(len(self))[:most].sort().values]


@dataclass(frozen=True)
class ModelReport:
    """The sections of a model.

    Attributes:
        module: The model.
        data: What it was trained on, if anything is known.
        held_out: What it is held against: data that it has not seen, or else ``data``.
        history: What ``fit`` gave.
        rows: How many data are compared with draws, at most.
        draws: How many draws each of them is ranked among.
    """

    module: DistributionModule
    data: Rows | None
    held_out: Rows | None
    history: Fit | History | None
    rows: int
    draws: int

    def sections(self) -> Iterator[Section]:
        """The sections in their order."""
        yield section_of("The model", self._what())
        if self.history is not None:
            yield section_of("Training", self._training())
        if self.held_out is None:
            return
        name = self.held_out.name
        yield section_of(f"Samples beside {name}", self._samples())
        yield section_of("Likelihood", self._likelihood())
        yield section_of("Calibration", self._calibration())
        yield section_of(f"Outliers among {name}", self._outliers())

    @cached_property
    def compared(self) -> Rows:
        """The data that are compared with draws."""
        return self.held_out.some(self.rows)

    @cached_property
    def samples(self) -> Tensor:
        """A draw of the model at the context of each of these data."""
        with as_evaluated(self.module):
            distribution = self.module(self.compared.context)
            return distribution.sample(() if distribution.batch_shape else (len(self.compared),))

    def _what(self) -> Iterator[str | Verdict]:
        rows = facts_of(self.module) | {"log_prob": meaning_of(self.module.density)}
        parts = [part for part in (self.data, self.held_out) if part is not None]
        yield fact_table((rows | {part.name: f"{len(part):,} rows" for part in parts}).items())
        yield folded("All parts", repr(self.module))
        if self.held_out is self.data is not None:
            yield Verdict("noted", "No held-out data were given: all checks use data that the model may have seen.")

    def _training(self) -> Iterator[str | Verdict]:
        yield of_training(self.history)
        yield training(self.history)

    def _samples(self) -> Iterator[str | Verdict]:
        name, shape = self.held_out.name, self.module.event_shape
        data, samples = as_array(self.compared.x).astype(float), as_array(self.samples).astype(float)
        given = "" if self.module.context_shape is None else ", each sample at the context of the datum in its place"
        if is_picture(shape):
            low, high = np.quantile(data, [0.001, 0.999])
            kinds = {name: data, "samples": samples}
            yield figures(
                *(
                    picture(pictures(images[:_SHOWN], kind, low, high), f"{kind.capitalize()}{given * (kind != name)}.")
                    for kind, images in kinds.items()
                )
            )
        else:
            flat = [values.reshape(len(values), -1) for values in (data, samples)]
            every = beside(*flat, _names(shape))
            yield figures(*(plot(figure, f"{caption[:-1]}{given}.") for figure, caption in every))
        test = self._two_sample_test()
        yield fact_table(
            [[test.name, f"{test.statistic:.4g} pooled standard deviations"], ["p-value", f"{test.p_value:.2g}"]]
        )
        yield paragraph(
            f"Energy distance between {name} and as many samples, each number in units of its standard deviation over "
            "both (an unbiased estimate, which may be negative), with a permutation test of the hypothesis that both "
            "have one distribution. With enough data every imperfect model is found out: the distance tells how far "
            "off it is, the p-value whether it shows."
        )
        yield self._verdict_on(test)

    def _verdict_on(self, test: TestResult) -> Verdict:
        found = f"{test.name} {test.statistic:.3g}, p = {test.p_value:.2g}"
        if test.p_value < 0.05:
            return Verdict(grade_of(test.p_value), f"Samples can be told from {self.held_out.name} ({found}).")
        return Verdict("passed", f"Samples cannot be told from {self.held_out.name} ({found}).")

    def _two_sample_test(self) -> TestResult:
        """With contexts, data of one half are compared with samples at the contexts of the other: both independent."""
        x, samples = self.compared.x.flatten(1).to(self.samples), self.samples.flatten(1)
        if self.module.context_shape is not None:
            order = torch.randperm(len(x))
            x, samples = x[order[::2]], samples[order[1::2]]
        x, samples = x.double(), samples.double()
        scale = torch.cat([x, samples]).std(0)
        scale = scale.where(scale > 0, 1.0)
        return energy_test(x / scale, samples / scale)

    def _likelihood(self) -> Iterator[str | Verdict]:
        density, name = self.module.density, self.held_out.name
        if density in ("unnormalized", None):
            yield absent(MEANINGS[density])
            kind = "implicit" if density is None else "unnormalized"
            yield Verdict("noted", f"Likelihood: none, for the model is {kind}.")
            return
        found = log_likelihood(self.module, self.held_out.x, self.held_out.context)
        rows = [[name, found.rounded(), found.unit, found.label, len(self.held_out)]]
        words = f"{MEANINGS[found.density]} The standard error is that over data: how it varies with the data set."
        if self.data is not None and self.data is not self.held_out:
            seen = self.data.some(len(self.held_out))
            trained = log_likelihood(self.module, seen.x, seen.context)
            rows.append([f"{self.data.name}, some of it", trained.rounded(), trained.unit, trained.label, len(seen)])
        if self._is_discrete():
            bits = bits_per_dimension(self.module, self.held_out.x, self.held_out.context, log_volume=0.0)
            rows.append([name, bits.rounded(), bits.unit, bits.label, len(self.held_out)])
        elif (baseline := self._gaussian()) is not None:
            gain = log_likelihood_difference(self.module, baseline, self.held_out.x, context=self.held_out.context)
            rows.append([f"{name}, more than a Gaussian", gain.rounded(), gain.unit, gain.label, len(self.held_out)])
            words += " The Gaussian has the mean and the covariance of the training data."
        yield number_table(["mean over", "value ± standard error", "unit, per datum", "log_prob is", "data"], rows)
        yield paragraph(words)
        yield Verdict("noted", f"Log-likelihood of {name}: {found} per datum.")

    def _is_discrete(self) -> bool:
        with as_evaluated(self.module):
            support = self.module(self.held_out[:1].context).support
        return bool(support.is_discrete)

    def _gaussian(self) -> Distribution | None:
        """The Gaussian that has the moments of the training data; there is none where these do not determine one."""
        if self.data is None or self.data is self.held_out:
            return None
        x = self.data.x.flatten(1).double()
        factor, failed = torch.linalg.cholesky_ex(torch.cov(x.T).reshape(x.shape[1], x.shape[1]))
        if int(failed) or len(x) < 2 * x.shape[1]:
            return None
        mean, factor = (moment.to(self.held_out.x) for moment in (x.mean(0), factor))
        shaped = ReshapeTransform(mean.shape, self.module.event_shape)
        return TransformedDistribution(MultivariateNormal(mean, scale_tril=factor), [shaped])

    def _calibration(self) -> Iterator[str | Verdict]:
        name = self.held_out.name
        found = marginal_calibration(self.module, self.compared.x, self.compared.context, draws=self.draws)
        results = found.uniformity()
        chosen = least({quantity: result.p_value for quantity, result in results.items()}, _CURVES)
        yield of_calibration(found, f"Ranks of {name} among the model's own draws", "data")
        ecdf, coverage = new_figure(4.6, 3.2), new_figure(4.2, 3.6)
        draw_ecdf(ecdf.subplots(), {quantity: found.ranks[quantity] for quantity in chosen}, found.draws)
        legend_below(ecdf.axes[0])
        curves = {quantity: found.central_coverage(quantity) for quantity in chosen if quantity != "log_prob"}
        if "log_prob" in found.ranks:
            curves["highest density"] = found.highest_coverage("log_prob")
        lines = {quantity: (curve.levels, curve.coverage) for quantity, curve in curves.items()}
        draw_coverage(coverage.subplots(), lines, found.simulations)
        legend_below(coverage.axes[0])
        yield figures(
            plot(
                ecdf,
                f"Ranks of {found.simulations} {name} among {found.draws} draws of the model each: their distribution "
                "function minus the uniform one (probability integral transform). Where the model is right, a whole "
                "curve lies in the band with a probability of 95 %. Of many quantities, the worst are drawn.",
            ),
            plot(
                coverage,
                f"Share of {name} in central intervals of the model's draws, and in regions of highest density, "
                "against the share that these claim to hold.",
            ),
        )
        header = ["quantity", "ECDF distance (-log10 of a tail)", "p-value, uncorrected"]
        rows = [
            [quantity, f"{results[quantity].statistic:.3g}", f"{results[quantity].p_value:.2g}"] for quantity in chosen
        ]
        yield number_table(header, rows)

    def _outliers(self) -> Iterator[str | Verdict]:
        name = self.held_out.name
        if self.module.density is None:
            yield absent(
                "Not computed: without a log_prob no datum is more or less probable than another. "
                "pg.evaluation.misspecification_test holds single data against samples by their distance."
            )
            return
        scores = log_probs(self.module, self.held_out.x, self.held_out.context)
        own = log_probs(self.module, self.samples, self.compared.context)
        p_values = density_p_value(scores, own)
        rare = int((p_values <= _RARE).sum())
        yield paragraph(
            f"{rare} of {len(scores)} {name} ({rare / len(scores):.1%}) are less probable than {1 - _RARE:.0%} of the "
            f"model's {len(own)} own draws, where {_RARE:.0%} are expected of a right model."
        )
        order = scores.argsort()[:_OUTLIERS]
        drawn = plot(_scores(scores, own, name), f"log_prob of {name} and of the model's draws, in nats.")
        shape = self.module.event_shape
        if is_picture(shape):
            low, high = np.quantile(as_array(self.held_out.x).astype(float), [0.001, 0.999])
            images = as_array(self.held_out.x[order]).astype(float)
            shown = picture(
                pictures(images, "least probable", low, high),
                f"The {len(order)} least probable {name}, from the first.",
            )
            yield figures(drawn, shown)
        else:
            yield figures(drawn)
        header = ["row", "log_prob (nats)", "p-value among draws", "datum (data units)"]
        rows = [[int(row), f"{scores[row]:.4g}", f"{p_values[row]:.2g}", _short(self.held_out.x[row])] for row in order]
        kept = 3 if is_picture(shape) else 4
        yield number_table(header[:kept], [row[:kept] for row in rows])


def training(fit: Fit | History) -> str:
    """The losses of a run, and how it ended."""
    figure = new_figure(5.6, 3.0)
    draw_history(figure.subplots(), fit)
    legend_below(figure.axes[0])
    history = fit.history if isinstance(fit, Fit) else fit
    caption = (
        f"Loss{f' in {history.unit}' * bool(history.unit)} over gradient steps: of every step (pale), its running mean "
        "(dark) and, where there are any, held-out losses (black). The largest 2 % are cut off."
    )
    known = [fact_table(fit.facts().items())] if isinstance(fit, Fit) else []
    return figures(plot(figure, caption), *known)


def _names(shape: tuple[int, ...]) -> list[str]:
    return [f"x[{','.join(map(str, index))}]" if index else "x" for index in np.ndindex(*shape)]


def _short(datum: Tensor) -> str:
    values = [f"{value:.3g}" for value in datum.flatten()[:6].tolist()]
    return ", ".join(values) + (", …" if datum.numel() > 6 else "")


def _scores(scores: Tensor, own: Tensor, name: str) -> Figure:
    """The distribution of log-probabilities of data and of draws; the lowest are counted in the first bar."""
    figure = new_figure(5.4, 2.9)
    axes = tidy(figure.subplots(), x="log_prob (nats)", y="density")
    both = torch.cat([scores, own])
    both = both[both.isfinite()]
    low, high = both.quantile(0.002).item(), both.max().item()
    edges = np.linspace(low, high, 41) if low < high else np.linspace(low - 0.5, low + 0.5, 41)
    for values, colour, label in ((scores, GREY, name), (own, BLUE, "model's draws")):
        style = {"alpha": 0.45} if colour == GREY else {"histtype": "step", "linewidth": 1.3}
        axes.hist(
            np.clip(as_array(values), edges[0], edges[-1]), edges, density=True, color=colour, label=label, **style
        )
    legend_below(axes)
    return figure
