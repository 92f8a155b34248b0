"""Comparisons on Gaussians of known divergence, and on models fitted fold by fold."""

from functools import partial
from math import log, sqrt

import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.analysis import model_comparison
from pyrogen.core.module import DistributionModule
from pyrogen.evaluation import compare, log_likelihood_difference
from pyrogen.evaluation.comparison import Comparison

TRUTH, SHIFTED = dist.Normal(0.0, 1.0), dist.Normal(0.5, 1.0)
FIT = partial(pg.fit, steps=2)


class Claiming(DistributionModule):
    """A standard normal that declares any density."""

    def __init__(self, density, event_shape=()):
        super().__init__(event_shape)
        self.density = density

    def forward(self, context=None):
        return dist.Normal(0.0, 1.0).expand(self.event_shape).to_event(len(self.event_shape))


class Fitted(DistributionModule):
    """A normal at the mean of the data it was fitted to."""

    def __init__(self):
        super().__init__(())
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, context=None):
        return dist.Normal(self.mean, 1.0)


def fit_mean(module, data, *, seed):
    module.mean.copy_(data[0].mean())


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(4000)


def test_the_paired_difference_is_the_divergence(x):
    """log p - log q = 1/8 - x/2 for N(0, 1) against N(1/2, 1): mean KL = 1/8, standard deviation 1/2."""
    result = compare({"truth": TRUTH, "shifted": SHIFTED}, x)
    difference = result.difference("truth", "shifted")
    error = 0.5 / sqrt(len(x))
    assert difference.standard_error == pytest.approx(error, rel=0.05)
    assert difference.value == pytest.approx(1 / 8, abs=4 * error)
    assert result.difference("shifted", "truth").value == pytest.approx(-difference.value)
    assert difference == log_likelihood_difference(TRUTH, SHIFTED, x)
    assert result.log_likelihood("truth").value == pytest.approx(-0.5 * log(2 * torch.pi) - 0.5, abs=0.05)
    # Far smaller than the errors of the means would have it.
    assert difference.standard_error < result.log_likelihood("truth").standard_error


def test_every_datum_is_scored_by_a_model_that_has_not_seen_it(x):
    x = x[:50]
    result = compare({"truth": TRUTH, "mean": Fitted}, x, folds=5, fit=fit_mean)
    assert result.fold.bincount().tolist() == [10] * 5
    for fold in range(5):
        inside = result.fold == fold
        expected = dist.Normal(x[~inside].mean(), 1.0).log_prob(x[inside]).double()
        torch.testing.assert_close(result.log_probs["mean"][inside], expected)
    values = result.log_probs["mean"] - result.log_probs["truth"]
    means = torch.stack([values[result.fold == fold].mean() for fold in range(5)])
    expected = max(float(values.std()) / sqrt(50), float(means.std()) / sqrt(5))
    assert result.difference("mean", "truth").standard_error == pytest.approx(expected)
    again = compare({"truth": TRUTH, "mean": Fitted}, x, folds=5, fit=fit_mean)
    assert torch.equal(again.log_probs["mean"], result.log_probs["mean"])


def test_recipes_are_fitted(x):
    x = torch.stack([x[:60], x[60:120]], 1)
    models = {
        "flow": lambda: pg.flows.affine_coupling((2,), layers=1, hidden=(4,)),
        "vae": lambda: pg.latent.vae((2,), latent_shape=(1,), hidden=(4,)),
    }
    result = compare(models, x, folds=2, fit=FIT)
    assert result.densities == {"flow": "exact", "vae": "lower bound"}
    assert result.baseline == "flow"
    assert result.difference("vae", "flow").density == "lower bound"
    assert "lower bound, 2 folds" in str(result)
    with pytest.raises(NotImplementedError, match="`second` 'vae' has density 'lower bound'"):
        result.difference("flow", "vae")


def test_a_context_reaches_the_models_that_take_one(x):
    class Conditional(DistributionModule):
        def __init__(self):
            super().__init__((), ())

        def forward(self, context=None):
            return dist.Normal(context, 0.1)

    result = compare({"marginal": TRUTH, "conditional": Conditional()}, (x, x + 0.1 * torch.randn_like(x)))
    assert result.difference("conditional", "marginal").value == pytest.approx(log(10), abs=0.1)


def test_bounds_have_labels_and_no_differences(x):
    result = compare({"a": Claiming("lower bound"), "b": Claiming("lower bound")}, x)
    assert result.baseline is None
    assert str(result).count("lower bound") == 2
    assert "bound minus bound bounds nothing" in str(result)
    assert result.to_dataframe()["difference"].isna().all()


def test_the_table(x):
    frame = compare({"truth": TRUTH, "shifted": SHIFTED, "bound": Claiming("lower bound")}, x).to_dataframe()
    assert list(frame.index) == ["truth", "shifted", "bound"]
    assert frame.loc["bound", "difference_density"] == "lower bound"
    assert frame.loc["shifted", "difference"] == pytest.approx(-1 / 8, abs=0.05)
    text = repr(compare({"truth": TRUTH, "shifted": SHIFTED}, x))
    assert text.startswith("<Comparison of 2 models on 4000 data>")
    assert "tensor(" not in text


def test_the_figure(x, tmp_path):
    models = {"truth": TRUTH, "shifted": SHIFTED, "bound": Claiming("lower bound")}
    figure = model_comparison(compare(models, x))
    figure.savefig(tmp_path / "figure.png")
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "truth (exact)",
        "shifted (exact)",
        "bound (lower bound)",
    ]
    assert right.get_xlabel() == "minus truth (nats per datum)"
    assert len(model_comparison(compare({"bound": Claiming("lower bound")}, x)).axes) == 1
    with pytest.raises(TypeError, match="`comparison` must be what `compare` found"):
        model_comparison({"a": 1.0})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: compare({}, x), ValueError, "`models` must be a dict with at least one model"),
        (lambda x: compare([TRUTH], x), ValueError, "`models` must be a dict"),
        (
            lambda x: compare({"a": 3}, x),
            TypeError,
            r"`models\['a'\]` must be a DistributionModule, a distribution, or",
        ),
        (lambda x: compare({"a": lambda: 3}, x, fit=FIT), TypeError, r"`models\['a'\]\(\)` must be a Distribution"),
        (lambda x: compare({"a": Fitted}, x), ValueError, "`fit` must be given"),
        (lambda x: compare({"a": Fitted}, x, fit=fit_mean, folds=1), ValueError, "`folds` must be at least 2"),
        (lambda x: compare({"a": Fitted}, x[:7], fit=fit_mean), ValueError, "`folds` must leave at least two data"),
        (lambda x: compare({"a": TRUTH, "b": Claiming("exact", (2,))}, x), ValueError, "`data` must end in shape"),
        (lambda x: compare({"a": TRUTH, "b": dist.Poisson(1.0)}, x.abs().floor()), ValueError, "of one kind"),
        (lambda x: compare({"a": Claiming(None)}, x), NotImplementedError, "density None"),
        (lambda x: compare({"a": Claiming("unnormalized")}, x), NotImplementedError, "unnormalized"),
        (lambda x: compare({"a": TRUTH}, x, baseline="b"), ValueError, r"`baseline` must be one of \['a'\]"),
        (
            lambda x: compare({"a": Claiming("lower bound")}, x, baseline="a"),
            NotImplementedError,
            "`baseline` 'a' has density",
        ),
        (lambda x: compare({"a": TRUTH}, x.tolist()), TypeError, r"`data\[0\]` must be a tensor"),
        (lambda x: compare({"a": TRUTH}, x[:0]), ValueError, "must hold at least one datum"),
        (lambda x: compare({"a": TRUTH}, x * float("nan")), ValueError, "(?s)`data` must hold events of Normal.*NaN"),
        (lambda x: compare({"a": TRUTH}, (x, x, x)), ValueError, "`data` must be the data, or data and context"),
        (lambda x: compare({"a": TRUTH}, x).difference("a", "b"), ValueError, "`name` must be one of"),
    ],
)
def test_errors_name_the_argument(x, call, error, message):
    with pytest.raises(error, match=message):
        call(x)


def test_a_comparison_of_one_fold_is_that_of_the_data():
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.double)
    result = Comparison({"a": values}, {"a": "exact"}, "a", torch.zeros(3, dtype=torch.long))
    assert result.log_likelihood("a").standard_error == pytest.approx(float(values.std()) / sqrt(3))


def test_the_luck_of_training_is_in_the_error(x):
    """Half of the models are off by 1.5, by chance: their means over folds spread more than the data within."""

    def fit_by_chance(module, data, *, seed):
        module.mean.fill_(1.5 * (seed % 2))

    result = compare({"truth": TRUTH, "lucky": Fitted}, x, folds=4, fit=fit_by_chance)
    values = result.log_probs["lucky"] - result.log_probs["truth"]
    means = torch.stack([values[result.fold == fold].mean() for fold in range(4)])
    over_data, over_folds = float(values.std()) / sqrt(len(x)), float(means.std()) / 2
    assert over_folds > 5 * over_data
    assert result.difference("lucky", "truth").standard_error == pytest.approx(over_folds)
