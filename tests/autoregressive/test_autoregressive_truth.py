"""Against enumeration: all sequences over small alphabets."""

import itertools
import math

import pytest
import torch
from sequence_truth import enumerated, frequencies_p_value, jiggled

import pyrogen as pg
from pyrogen.autoregressive import any_order, beam_search, constrained, made, nucleus, tempered, top_k, transformer
from pyrogen.autoregressive.conditionals import Categorical, FiniteDiscrete
from pyrogen.autoregressive.tempering import Nucleus

SMALL = {"width": 16, "depth": 1, "heads": 2}
LENGTH, SYMBOLS = 4, 3
ALL = enumerated(LENGTH, SYMBOLS)
MODELS = {
    "transformer": lambda: transformer((LENGTH,), symbols=SYMBOLS, **SMALL),
    "made": lambda: made((LENGTH,), symbols=SYMBOLS, hidden=(16,), order=(2, 0, 3, 1)),
    "lengths": lambda: transformer((LENGTH,), symbols=SYMBOLS, end=1, **SMALL),
    "padding": lambda: transformer((LENGTH,), symbols=SYMBOLS, end=1, padding=2, **SMALL),
    "along": lambda: any_order((LENGTH,), symbols=SYMBOLS, **SMALL).along((3, 1, 0, 2)),
}


def no_repeats(before):
    allowed = torch.ones(len(before), SYMBOLS, dtype=torch.bool)
    return allowed if not before.shape[1] else allowed & (torch.arange(SYMBOLS) != before[:, -1:])


WRAPPERS = {
    "plain": lambda model: model,
    "tempered": lambda model: tempered(model, 0.6),
    "top-k": lambda model: top_k(model, 2),
    "nucleus": lambda model: nucleus(model, 0.7),
    "constrained": lambda model: constrained(model, torch.tensor([True, True, False])),
    "ruled": lambda model: constrained(model, no_repeats),
    "both": lambda model: tempered(nucleus(model, 0.8), 1.5),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def check(distribution, events, draws=4000):
    log_probs = distribution.log_prob(events)
    assert torch.allclose(log_probs.exp().sum(), torch.tensor(1.0), atol=1e-5)
    assert frequencies_p_value(distribution.sample((draws,)), events, log_probs) > 1e-5
    return log_probs


PAIRS = [pair for pair in itertools.product(MODELS, WRAPPERS) if pair != ("padding", "constrained")]
"""All but the constraint that forbids the padding."""


@pytest.mark.parametrize(("name", "wrapper"), PAIRS)
def test_probabilities_samples_and_mode_by_enumeration(name, wrapper):
    torch.manual_seed(1)
    distribution = WRAPPERS[wrapper](jiggled(MODELS[name]()))()
    log_probs = check(distribution, ALL)
    events, scores = beam_search(distribution, SYMBOLS ** (LENGTH - 1))
    assert torch.equal(events[0], ALL[log_probs.argmax()])
    assert torch.allclose(scores[0], log_probs.max(), atol=1e-5)
    finite = scores.isfinite()
    assert torch.allclose(distribution.log_prob(events)[finite], scores[finite], atol=1e-5)


def test_tempering_by_its_formula():
    model = jiggled(transformer((1,), symbols=SYMBOLS, **SMALL))
    x = torch.arange(SYMBOLS).unsqueeze(-1)
    plain = model().log_prob(x)
    assert torch.allclose(tempered(model, 0.5)().log_prob(x), (2 * plain).log_softmax(0), atol=1e-5)
    assert top_k(model, 1)().log_prob(x).exp().tolist() == [float(i == plain.argmax()) for i in range(SYMBOLS)]
    kept = nucleus(model, plain.exp().max().item() + 1e-4)().log_prob(x).isfinite()
    assert kept.sum() == 2
    assert not kept[plain.argmin()]


@pytest.mark.parametrize("mass", [1.0, 1 - 1e-12])
def test_a_nucleus_of_all_mass_leaves_out_nothing(mass):
    """In single precision the likeliest symbol alone has a sum of one, and others would seem beyond it."""
    logits = torch.tensor([0.0, -20.0, -21.0])
    torch.testing.assert_close(Nucleus(Categorical(3), mass)(logits).log_probs, logits.log_softmax(-1))


def test_rare_symbols_are_drawn_where_single_noise_is_coarse(monkeypatch):
    """On a GPU the least exponential number in single precision is 6e-8, which a symbol of 1e-9 cannot win by."""
    clocks = torch.tensor([1.0, 5e-10], dtype=torch.double)

    def drawn(noise):
        return noise.copy_(clocks.clamp(min=torch.finfo(noise.dtype).eps / 2))

    monkeypatch.setattr(torch.Tensor, "exponential_", drawn)
    logits = torch.tensor([1.0, 1e-9]).log()
    assert FiniteDiscrete(logits).sample() == 1  # 5e-10 / 1e-9 is less than 1 / 1


def test_missing_symbols_after_the_end_are_missing():
    model = jiggled(transformer((4,), symbols=4, end=1, padding=2, **SMALL))
    x = torch.tensor([[0, 1, torch.nan, 2], [torch.nan, 1, 2, 2], [0, 1, 0, 2], [0, 1, 2, 2]])
    log_probs = model().log_prob(x)
    assert log_probs[:2].isnan().all()
    assert log_probs[2] == -torch.inf
    assert log_probs[3].isfinite()


def test_tempered_normals():
    model = jiggled(
        pg.autoregressive.Autoregressive(
            transformer((2,), components=2, **SMALL).network.__class__(
                pg.networks.sequence.Numbers((), 16),
                pg.networks.causal_transformer.CausalStack(16, 2, depth=1, heads=2),
                width=16,
                features=2,
            ),
            pg.families.diagonal_normal,
            event_shape=(2,),
        )
    )
    x = torch.randn(6, 2)
    cold = tempered(model, 0.25)().symbol_log_probs(x)
    plain = model().symbol_log_probs(x)
    peak = plain[:, 0].max()  # both are normals with one mean, so log-ratios to another point scale with 1 / T
    ratio = (cold[:, 0] - cold[:, 0].max()) / (plain[:, 0] - peak).clamp(max=-1e-6)
    assert torch.allclose(ratio[plain[:, 0] < peak - 1e-3], torch.tensor(4.0), atol=1e-2)


@pytest.mark.parametrize("name", ["transformer", "made", "along", "lengths"])
def test_a_given_beginning_by_enumeration(name):
    model = jiggled(MODELS[name]())
    log_probs, order = model().log_prob(ALL), model.layout.order or tuple(range(LENGTH))
    for count in range(1, LENGTH + 1):
        mask = torch.zeros(LENGTH, dtype=torch.bool)
        mask[list(order[:count])] = True
        value = ALL[log_probs.argsort()[-5]]
        same = (ALL[:, mask] == value[mask]).all(-1)
        expected = torch.where(same, log_probs - log_probs[same].logsumexp(0), -torch.inf)
        given = model().given(value, mask)
        assert torch.allclose(given.log_prob(ALL), expected, atol=1e-5)
        assert frequencies_p_value(given.sample((2000,)), ALL, expected) > 1e-5
        assert torch.allclose(model().part_log_prob(value, mask), log_probs[same].logsumexp(0), atol=1e-5)
        events, scores = beam_search(given, 27)
        assert torch.equal(events[0], ALL[expected.argmax()])
        assert torch.allclose(scores[0], expected.max(), atol=1e-5)


def test_several_orders_are_one_even_mixture():
    torch.manual_seed(0)
    model = jiggled(made((LENGTH,), symbols=2, orders=3, hidden=(16,)))
    events = enumerated(LENGTH, 2, torch.float)
    log_probs = check(model(), events)
    members = torch.stack([member().log_prob(events) for member in model.members])
    assert members.std(0).max() > 0.01
    assert torch.allclose(log_probs, members.logsumexp(0) - math.log(3), atol=1e-6)
    check(tempered(model, 0.7)(), events)


def test_a_beginning_common_to_several_orders_weighs_them():
    orders = [(0, 1, 2, 3), (1, 0, 3, 2)]
    network = made((LENGTH,), symbols=2, hidden=(16,)).network
    members = [
        pg.autoregressive.Autoregressive(
            network.reordered(order), pg.autoregressive.Binary(), event_shape=(LENGTH,), order=order
        )
        for order in orders
    ]
    model = jiggled(pg.autoregressive.MixedOrders(members), 1.0)
    events = enumerated(LENGTH, 2, torch.float)
    mask, log_probs = torch.tensor([True, True, False, False]), model().log_prob(events)
    same = (events[:, :2] == events[5, :2]).all(-1)
    given = model().given(events[5], mask)
    expected = torch.where(same, log_probs - log_probs[same].logsumexp(0), -torch.inf)
    assert torch.allclose(given.log_prob(events), expected, atol=1e-5)
    assert frequencies_p_value(given.sample((4000,)), events, expected) > 1e-5
    with pytest.raises(ValueError, match="must come first"):
        model().given(events[5], torch.tensor([True, False, False, False]))


def test_any_order_conditionals_agree_with_enumeration():
    model = jiggled(any_order((LENGTH,), symbols=SYMBOLS, **SMALL))
    for order in itertools.permutations(range(LENGTH)):
        one = model.along(order)
        log_probs = one().log_prob(ALL)
        for count in range(1, LENGTH):
            mask = torch.zeros(LENGTH, dtype=torch.bool)
            mask[list(order[:count])] = True
            value = ALL[37]
            same = (ALL[:, mask] == value[mask]).all(-1)
            expected = torch.where(same, log_probs - log_probs[same].logsumexp(0), -torch.inf)
            assert torch.allclose(one().given(value, mask).log_prob(ALL), expected, atol=1e-5)


def test_any_order_is_the_even_mixture_over_orders_and_its_log_prob_a_bound():
    torch.manual_seed(0)
    model = jiggled(any_order((LENGTH,), symbols=SYMBOLS, **SMALL))
    members = torch.stack([model.along(order)().log_prob(ALL) for order in itertools.permutations(range(LENGTH))])
    mixture, bound = members.logsumexp(0) - math.log(len(members)), members.mean(0)
    assert frequencies_p_value(model().sample((8000,)), ALL, mixture) > 1e-5
    scores = torch.stack([model().log_prob(ALL) for _ in range(400)])
    error = members.std(0) / 20
    assert ((scores.mean(0) - bound).abs() <= 5 * error + 1e-5).all()
    assert (mixture - bound).min() > 0
    tight = any_order((LENGTH,), symbols=SYMBOLS, orders=16, **SMALL)
    tight.load_state_dict(model.state_dict())
    scores = torch.stack([tight.eval()().log_prob(ALL) for _ in range(50)]).mean(0)
    assert (mixture - scores).mean() < 0.2 * (mixture - bound).mean()


def test_any_part_given_any_other():
    torch.manual_seed(0)
    model = jiggled(any_order((LENGTH,), symbols=SYMBOLS, **SMALL))
    mask, value = torch.tensor([False, True, False, True]), ALL[37]
    same = (ALL[:, mask] == value[mask]).all(-1)
    # What is known comes first, in either order, then the rest: four orders, of equal weight.
    orders = [(*first, *last) for first in ((1, 3), (3, 1)) for last in ((0, 2), (2, 0))]
    given = [model.along(order)().given(value, mask).log_prob(ALL) for order in orders]
    mixture = torch.stack(given).logsumexp(0) - math.log(4)
    assert torch.allclose(mixture[same].exp().sum(), torch.tensor(1.0), atol=1e-5)
    assert frequencies_p_value(model().given(value, mask).sample((6000,)), ALL, mixture) > 1e-5
    parts = torch.stack([model().part_log_prob(value, mask) for _ in range(20)])
    along = torch.stack([model.along(order)().part_log_prob(value, mask) for order in orders])
    assert (parts.unsqueeze(1) - along).abs().min(1).values.max() < 1e-5
    both = model().given(value, mask).part_log_prob(value, torch.tensor([True, False, False, False]))
    along = torch.stack(
        [model.along((1, 3, 0, 2))().symbol_log_probs(value)[2], model.along((3, 1, 0, 2))().symbol_log_probs(value)[2]]
    )
    assert (both - along).abs().min() < 1e-5


def test_an_imputation_learns_from_missing_data():
    torch.manual_seed(0)
    first = torch.rand(600) < 0.5
    x = torch.stack([first, first, ~first], 1).float()  # each element tells the others
    observed = torch.rand(600, 3) < 0.7
    x = torch.where(observed, x, torch.full_like(x, 0.0))
    model = any_order((3,), symbols=2, **SMALL)
    objective = pg.autoregressive.ObservedLikelihood(model)
    pg.fit(objective, (x, observed), steps=200, batch_size=100)
    known = torch.tensor([False, True, False])
    draws = model().given(torch.tensor([0.0, 1.0, 0.0]), known).sample((500,))
    assert (draws == torch.tensor([1.0, 1.0, 0.0])).all(-1).float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [transformer, made])
def test_bits_of_a_markov_source(recipe):
    torch.manual_seed(0)
    length, symbols = 16, 4
    step = torch.softmax(2 * torch.randn(symbols, symbols), -1)
    first = torch.full((symbols,), 1 / symbols)
    marginal, entropy = first, -(first * first.log()).sum()
    for _ in range(length - 1):
        entropy = entropy - (marginal.unsqueeze(-1) * step * step.log()).sum()
        marginal = marginal @ step

    def source(rows):
        x = [torch.multinomial(first, rows, replacement=True)]
        for _ in range(length - 1):
            x.append(torch.multinomial(step[x[-1]], 1).squeeze(-1))
        return torch.stack(x, 1)

    settings = {"width": 32, "depth": 1, "heads": 2} if recipe is transformer else {"hidden": (128,)}
    model = recipe((length,), symbols=symbols, **settings)
    pg.fit(model, source(20_000), steps=1500, batch_size=128, optimizer=lambda p: torch.optim.Adam(p, 3e-3))
    x = source(20_000)
    exact = first[x[:, 0]].log() + step[x[:, :-1], x[:, 1:]].log().sum(-1)
    with torch.no_grad():
        excess = (exact - model.eval()().log_prob(x)).mean()  # the same data on both sides: no sampling error of theirs
    assert -0.001 < excess / entropy < 0.01
