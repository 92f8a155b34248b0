"""Twists by regression of a number on prefixes, against sums of independent symbols."""

import math
from functools import partial

import pyro
import pytest
import torch
from autoregressive.sequence_truth import enumerated, jiggled

import pyrogen as pg
from pyrogen.inverse import PrefixRegression, SequenceSMC, transformer_regression, transformer_twist

LENGTH, SYMBOLS = 6, 3
EVENTS = enumerated(LENGTH, SYMBOLS)


def weight(x):
    """A number of a sequence of independent, uniform symbols."""
    return x.sum(-1).to(torch.get_default_dtype())


@pytest.fixture(scope="module")
def regression():
    pyro.set_rng_seed(0)
    found = transformer_regression((LENGTH,), symbols=SYMBOLS, width=32, depth=1, heads=2)
    x = torch.randint(SYMBOLS, (20_000, LENGTH))
    pg.fit(found, (x, weight(x)), steps=150, batch_size=256, lr=5e-3, ema=0.98, seed=0)
    return found.eval()


class Counting(pg.networks.SequenceNetwork):
    """Numbers of their own for every place, sum so far and next symbol."""

    def __init__(self):
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.zeros(LENGTH, 2 * LENGTH, 2 * SYMBOLS))

    def forward(self, symbols, context=None):
        return self.outputs[torch.arange(LENGTH), symbols.cumsum(1) - symbols]

    def start(self, batch_shape, context=None):
        raise NotImplementedError

    def step(self, symbol, state):
        raise NotImplementedError


def test_predictions_are_conditional_means_and_variances():
    found = PrefixRegression(Counting(), symbols=SYMBOLS)
    falling = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=400)
    pg.fit(found, (EVENTS, weight(EVENTS)), steps=400, batch_size=len(EVENTS), lr=0.1, schedule=falling)
    with torch.no_grad():
        predicted = found.prediction(EVENTS)
    left = LENGTH - 1 - torch.arange(LENGTH)  # a symbol has mean one, variance two thirds
    torch.testing.assert_close(predicted.mean, (EVENTS.cumsum(1) + left).float(), atol=0.02, rtol=0)
    variance = (left * 2 / 3).expand(len(EVENTS), -1)
    torch.testing.assert_close(predicted.variance, variance.float(), atol=0.02, rtol=0.02)


def test_the_loss_of_exact_moments_is_their_entropy():
    class Exact(Counting):
        def forward(self, symbols, context=None):
            before = symbols.cumsum(1) - symbols
            left = LENGTH - 1 - torch.arange(LENGTH)
            loc = before[..., None] + torch.arange(SYMBOLS) + left[:, None]
            log_scale = (left * 2 / 3 + 0.01).log()[:, None].expand(LENGTH, SYMBOLS) / 2
            return torch.stack([loc.float(), log_scale.expand(loc.shape)], -1).flatten(-2)

    variance = (LENGTH - 1 - torch.arange(LENGTH)) * 2 / 3
    exact = (0.5 * (2 * math.pi * (variance + 0.01)).log() + 0.5 * variance / (variance + 0.01)).mean()
    loss = PrefixRegression(Exact(), symbols=SYMBOLS)(EVENTS, weight(EVENTS))
    torch.testing.assert_close(loss, exact, atol=1e-4, rtol=0)


def test_twists_are_probabilities_of_bands(regression):
    bands = [(-math.inf, 4), (4, 7.5), (7.5, math.inf)]
    with torch.no_grad():
        scores = torch.stack([regression.within(*band, doubt=0)(EVENTS) for band in bands]).double()
        torch.testing.assert_close(scores.exp().sum(0), torch.ones_like(scores[0]), atol=1e-5, rtol=0)
        predicted, inside = regression.prediction(EVENTS), regression.within(4, 7.5, doubt=0.1)(EVENTS)
        normal = torch.distributions.Normal(predicted.mean.double(), predicted.stddev.double())
        exact = 0.1 + 0.9 * (normal.cdf(torch.tensor(7.5)) - normal.cdf(torch.tensor(4.0)))
        torch.testing.assert_close(inside.double(), exact.log(), atol=1e-4, rtol=0)
        far = regression.within(500.0, 501.0, doubt=0)(EVENTS)  # beyond what a cumulative probability can hold
        assert far.isfinite().all()
        assert (far < -1000).all()
        assert regression.within(500.0, 501.0)(EVENTS).min() > math.log(1e-3) - 1e-4


def test_a_band_may_be_narrow_beside_its_place():
    found = transformer_regression((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2)
    with torch.no_grad():
        found.standardize.mean.fill_(1e5)
        found.standardize.scale.fill_(0.01)
        predicted = found.prediction(EVENTS)
        ends = torch.tensor([1e5 + 2e-3, 1e5 + 3e-3], dtype=torch.double)  # no number of single precision lies between
        normal = torch.distributions.Normal(predicted.mean.double(), predicted.stddev.double())
        exact = (normal.cdf(ends[1]) - normal.cdf(ends[0])).log()
        torch.testing.assert_close(found.within(*ends.tolist(), doubt=0)(EVENTS).double(), exact, atol=1e-4, rtol=0)


def test_they_steer_and_the_evidence_is_right(regression):
    prior = pg.autoregressive.transformer((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2)  # uniform
    inside = lambda x: (weight(x) >= 10) & (weight(x) < 12)  # noqa: E731

    def model():
        with pyro.plate("copies", 200):
            pyro.factor("band", torch.where(inside(pyro.sample("x", prior())), 0.0, -torch.inf))

    exact = inside(EVENTS).double().mean().log()
    errors = {}
    for name, used in {"none": None, "band": regression.within(10, 12)}.items():
        found = SequenceSMC(model, site="x", particles=32, twist=used).run().log_evidence - exact
        assert abs(found.exp().mean() - 1) < 4 * found.exp().std() / 200**0.5
        errors[name] = found.exp().std()
    assert errors["band"] < 0.5 * errors["none"]


def test_after_the_end_a_prediction_stays():
    found = transformer_regression((5,), symbols=3, width=16, depth=1, heads=2, end=0)
    with torch.no_grad():
        predicted = jiggled(found).prediction(torch.tensor([[1, 0, 0, 0, 0], [1, 0, 2, 1, 2]]))
    assert (predicted.mean[:, 1:] == predicted.mean[0, 1]).all()
    assert (predicted.stddev[:, 1:] == predicted.stddev[0, 1]).all()


def test_units_of_the_numbers_do_not_matter():
    losses = []
    for scale in (1.0, 1e4):
        pyro.set_rng_seed(0)
        found = transformer_regression((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2)
        pg.fit(found, (EVENTS, scale * weight(EVENTS) - scale), steps=3, seed=0)
        losses.append(found.eval()(EVENTS, scale * weight(EVENTS) - scale).item() - math.log(scale))
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_a_regression_trains_saves_and_loads(tmp_path):
    found = jiggled(transformer_regression((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2))
    pg.testing.check_objective(lambda: found, (EVENTS[:20], weight(EVENTS[:20])))
    pg.save(found, tmp_path / "regression")
    loaded = pg.load(tmp_path / "regression")
    assert torch.equal(loaded.within(3, 5)(EVENTS), found.within(3, 5)(EVENTS))


@pytest.mark.parametrize("recipe", [transformer_regression, transformer_twist])
@pytest.mark.parametrize("end", [-1, 3, 99])
def test_an_end_is_a_symbol(recipe, end):
    with pytest.raises(ValueError, match=f"`end` must be one of the 3 symbols, got {end}"):
        recipe((4,), symbols=3, width=16, depth=1, heads=2, end=end)


def test_what_does_not_fit_is_named(regression):
    with pytest.raises(ValueError, match="`numbers` must have one for each of 5 sequences, got 4"):
        regression(EVENTS[:5], weight(EVENTS[:4]))
    with pytest.raises(ValueError, match="`sequences` must hold symbols from 0 to 2, got 3 at position 0"):
        regression(EVENTS[:2] + 3, weight(EVENTS[:2]))
    with pytest.raises(ValueError, match="`low` must be less than `high`, got 3 and 3"):
        regression.within(3, 3)
    with pytest.raises(ValueError, match="`low` must be less than `high`, got nan and 3"):
        regression.within(math.nan, 3)
    with pytest.raises(ValueError, match="`doubt`"):
        regression.within(1, 3, doubt=1.0)
    with pytest.raises(ValueError, match="`numbers` must be finite"):
        pg.fit(regression, (EVENTS, weight(EVENTS) * math.nan), steps=1)
