"""The models as one works with them: prompts, lengths, streams, layouts, checkpoints, errors."""

from functools import partial

import pyro
import pytest
import torch
from sequence_truth import enumerated, jiggled

import pyrogen as pg
from pyrogen.autoregressive import (
    AnyOrder,
    Autoregressive,
    Categorical,
    NormalMixture,
    any_order,
    beam_search,
    constrained,
    made,
    pixel_cnn,
    transformer,
    wavenet,
)
from pyrogen.autoregressive.given import aligned
from pyrogen.autoregressive.layout import SequenceLayout

SMALL = {"width": 16, "depth": 1, "heads": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens(**settings):
    return jiggled(transformer((6,), symbols=5, **SMALL, **settings))


def test_prompts_of_unequal_length():
    model = tokens()
    prompts = [[1, 2, 3], [4], [0, 0]]
    distribution = model().complete(prompts)
    draws = distribution.sample((50,))
    assert draws.shape == (50, 3, 6)
    for row, prompt in enumerate(prompts):
        assert (draws[:, row, : len(prompt)] == torch.tensor(prompt)).all()
        alone = model().complete([prompt])
        assert torch.allclose(
            distribution.log_prob(draws)[:, row], alone.log_prob(draws[:, row : row + 1])[:, 0], atol=1e-5
        )
    assert len(draws[:, 1].unique(dim=0)) > 20


def test_an_empty_prompt_leaves_its_row_free():
    model = tokens()
    distribution = model().complete([[1, 2], []])
    draws = distribution.sample((50,))
    assert (draws[:, 0, :2] == torch.tensor([1, 2])).all()
    assert torch.allclose(distribution.log_prob(draws)[:, 1], model().log_prob(draws[:, 1]), atol=1e-5)
    none = model().complete([[], []])
    assert none.batch_shape == (2,)
    assert torch.allclose(none.log_prob(draws), model().log_prob(draws), atol=1e-5)


def test_prompts_are_the_first_places_of_the_event_in_any_order_of_the_model():
    model = jiggled(pg.autoregressive.made((4,), symbols=3, hidden=(8,), order=(1, 0, 3, 2)))
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    fits = (every[:, :2] == torch.tensor([1, 2])).all(-1)
    distribution = model().complete([[1, 2], [0, 1, 2, 0], []])
    draws = distribution.sample((20,))
    assert (draws[:, 0, :2] == torch.tensor([1, 2])).all()
    assert (draws[:, 1] == torch.tensor([0, 1, 2, 0])).all()
    exact = model().log_prob(every[fits]).log_softmax(-1)
    found = model().complete([[1, 2]]).log_prob(every[fits].unsqueeze(1))[:, 0]
    assert torch.allclose(found, exact, atol=1e-5)
    with pytest.raises(ValueError, match="`prompts` must come first in the order of the model"):
        model().complete([[1, 2], [1]])  # place 0 comes after place 1


def test_what_is_given_expands_and_lives_in_plates():
    model = tokens()
    distribution = model().complete([[1, 2], [4]])
    wide = distribution.expand([3, 2])
    x = wide.sample((5,))
    assert x.shape == (5, 3, 2, 6)
    assert (x[..., 1, 0] == 4).all()
    assert torch.allclose(wide.log_prob(x), distribution.log_prob(x), atol=1e-6)
    with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 2, dim=-1):
        assert (pyro.sample("x", distribution)[:, 0, :2] == torch.tensor([1, 2])).all()
    again = model().given(x[0, 0, 0], torch.arange(6) < 1).given(x[0, 0, 0], torch.arange(6) < 3)
    assert (again.sample((4,))[:, :3] == x[0, 0, 0, :3]).all()


def test_a_prompt_is_taken_in_at_once():
    model, calls = tokens(), []
    step = model.network.step
    model.network.step = lambda symbol, state: calls.append(symbol) or step(symbol, state)
    model().complete([[1, 2, 3, 4]]).sample((10,))
    assert len(calls) == 1


def test_generation_stops_at_the_end():
    model = tokens(end=0)
    with torch.no_grad():
        model.network.head.bias[0] = 20.0
    calls, step = [], model.network.step
    model.network.step = lambda symbol, state: calls.append(symbol) or step(symbol, state)
    draws = model().sample((20,))
    assert not draws.any()
    assert len(calls) == 1
    assert model().lengths(draws).tolist() == [1] * 20


def test_lengths_and_the_end_are_scored():
    model = tokens(end=0, padding=4)
    x = torch.tensor([[1, 2, 0, 4, 4, 4], [1, 2, 3, 1, 2, 3], [1, 0, 1, 4, 4, 4], [1, 4, 0, 4, 4, 4]])
    terms = model().symbol_log_probs(x)
    assert torch.isfinite(terms[0]).all()
    assert (terms[0, :3] < 0).all()
    assert not terms[0, 3:].any()
    assert terms[2, 2] == -torch.inf
    assert terms[3, 1] == -torch.inf
    assert model().lengths(x).tolist() == [3, 6, 2, 3]


def test_terms_of_what_is_given_sum_to_the_log_prob():
    distribution = tokens()().given(torch.tensor([1, 2, 0, 0, 0, 0]), torch.arange(6) < 2)
    x = torch.cat([distribution.sample((4,)), torch.tensor([[3, 2, 0, 0, 0, 0]])])
    terms = distribution.symbol_log_probs(x)
    assert not terms[:4, :2].any()
    assert terms[4, 0] == -torch.inf
    torch.testing.assert_close(terms.sum(-1), distribution.log_prob(x))
    assert distribution.symbol_log_probs(x[:0]).shape == (0, 6)


def test_conditionals_are_the_factors_of_the_log_prob():
    model = transformer((4,), (2,), symbols=3, **SMALL).eval()
    x, context = torch.randint(3, (5, 1, 4)), torch.randn(2, 2)
    terms = model(context).conditionals(x).log_prob(x)
    assert terms.shape == (5, 2, 4)
    assert torch.allclose(terms, model(context).symbol_log_probs(x), atol=1e-6)
    with pytest.raises(NotImplementedError, match="take a model `along"):
        any_order((4,), symbols=3, **SMALL)().conditionals(x)


@pytest.mark.parametrize(
    "make",
    [
        partial(made, symbols=5, hidden=(8,)),
        partial(pixel_cnn, symbols=5, width=8, depth=1),
        partial(pixel_cnn, symbols=5, components=2, width=8, depth=1),
    ],
)
def test_conditionals_after_a_missing_symbol_are_nan(make):
    model, whole = jiggled(make((2, 2))), torch.tensor([[1.0, 4.0], [0.0, 2.0]])
    missing = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
    expected = model().conditionals(whole).log_prob(whole.flatten())
    found = model().conditionals(missing).log_prob(whole.flatten())
    assert torch.equal(found[:2], expected[:2])
    assert found[2:].isnan().all()


def test_conditionals_have_entropies():
    model, x = jiggled(transformer((3,), symbols=4, **SMALL)), torch.tensor([3, 0, 1])
    each = model().conditionals(x)
    assert torch.allclose(each.entropy(), torch.distributions.Categorical(logits=each.logits).entropy())
    assert (pg.autoregressive.top_k(model, 1)().conditionals(x).entropy() == 0).all()
    with pytest.raises(NotImplementedError, match="no closed-form entropy; average minus the log_prob of draws"):
        model().entropy()


def test_a_search_ends_with_its_last_prefix(monkeypatch):
    model, steps = transformer((30,), symbols=3, end=0, **SMALL), []
    step = type(model.network).step
    with torch.no_grad():
        model.network.head.bias[0] = 9.0
    monkeypatch.setattr(type(model.network), "step", lambda *args: steps.append(0) or step(*args))
    events, scores = beam_search(model(), 2)
    assert len(steps) < 5
    assert torch.allclose(model().log_prob(events), scores, atol=1e-5)


def test_an_end_that_a_constraint_forbids_is_a_dead_end():
    model = tokens(end=0, padding=4)  # padding is impossible before the end, so a rule that leaves it leaves nothing
    for inner in (model, constrained(model, torch.arange(5) != 2), pg.autoregressive.top_k(model, 2)):
        distribution = constrained(inner, torch.tensor([[1] * 5, *[[0, 0, 0, 0, 1]] * 5]).bool())()
        scores = distribution.log_prob(torch.tensor([[1, 4, 4, 4, 4, 4], [1, 1, 1, 1, 1, 1], [0, 4, 4, 4, 4, 4]]))
        assert (scores[:2] == -torch.inf).all()
        assert not scores.isnan().any()
        with pytest.raises(ValueError, match="none at position 1"):
            distribution.given(torch.ones(6).long(), torch.arange(6) < 1).sample((3,))


def test_two_constraints_both_hold():
    both = constrained(constrained(tokens(), torch.arange(5) < 3), torch.arange(5) > 0)
    assert set(both().sample((50,)).flatten().tolist()) == {1, 2}
    with pytest.raises(ValueError, match="none at position 0"):
        constrained(constrained(tokens(), torch.arange(5) < 3), torch.arange(5) > 2)().sample()


@pytest.mark.parametrize(
    "make",
    [
        partial(transformer, (4,), symbols=3, **SMALL),
        partial(any_order, (4,), symbols=3, **SMALL),
        partial(made, (4,), symbols=3, hidden=(32,)),
        partial(wavenet, (4,), symbols=3, width=8, layers=2),
        partial(pixel_cnn, (2, 2), symbols=3, width=8, depth=3),
    ],
    ids=lambda make: make.func.__name__,
)
def test_draws_drop_nothing(make):
    model = jiggled(make(dropout=0.5))
    draws = []
    for mode in (True, False):
        torch.manual_seed(0)
        draws.append(model.train(mode)().sample((50,)))
    assert torch.equal(*draws)
    scores = model.train()().log_prob(draws[0]), model.eval()().log_prob(draws[0])
    assert not torch.allclose(*scores)


def test_a_mixture_of_orders_takes_numbers_of_any_dtype():
    model = jiggled(made((3,), symbols=3, hidden=(8,), orders=3))
    x = torch.tensor([1.0, 2.0, 0.0])
    distribution = model().given(x, torch.tensor(True))
    for _ in range(10):  # a draw alone leaves all components but one without rows
        assert torch.equal(distribution.sample().float(), x)


@pytest.mark.parametrize("make", [partial(made, hidden=(8,), orders=2), partial(any_order, **SMALL)])
def test_searches_and_constraints_need_one_order(make):
    model = make((3,), symbols=3)
    with pytest.raises(NotImplementedError, match="one order"):
        beam_search(model(), 2)
    with pytest.raises(NotImplementedError, match="one order"):
        constrained(model, torch.ones(3).bool())


def test_prompts_keep_their_numbers():
    symbols, _ = aligned([[1, 2], [2.5]], 3)
    assert symbols.tolist() == [[1.0, 2.0, 0.0], [2.5, 0.0, 0.0]]


def test_a_stream_gives_symbols_one_by_one():
    model = tokens()
    torch.manual_seed(3)
    stream = model().stream((4,))
    first = next(stream)
    assert first.shape == (4,)
    streamed = torch.stack([first, *stream], -1)
    torch.manual_seed(3)
    assert torch.equal(streamed, model().sample((4,)))
    with pytest.raises(NotImplementedError, match="along"):
        any_order((3,), symbols=2, **SMALL)().stream()


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 2)])
def test_layouts_turn_events_into_sequences_and_back(axes):
    length = SequenceLayout((2, 3, 4), axes).length
    layout = SequenceLayout((2, 3, 4), axes, tuple(torch.randperm(length).tolist()))
    events = torch.arange(48).reshape(2, 2, 3, 4)
    symbols = layout.flatten(events)
    assert symbols.shape == (2, layout.length, *layout.symbol_shape)
    assert torch.equal(layout.unflatten(symbols), events)


def test_symbols_of_several_elements():
    stack = pg.networks.causal_transformer.CausalStack(16, 6, depth=1, heads=2)
    network = pg.networks.causal_transformer.CausalTransformer(
        pg.networks.sequence.Numbers((3,), 16), stack, width=16, features=6
    )
    model = jiggled(Autoregressive(network, pg.families.diagonal_normal, event_shape=(3, 2, 3), symbol_axes=(0,)))
    x = torch.randn(4, 3, 2, 3)
    assert model().sample((5,)).shape == (5, 3, 2, 3)
    assert model().log_prob(x).shape == (4,)
    changed = x.clone()
    changed[:, :, 1, 2] += 1  # the last pixel
    before, after = model().symbol_log_probs(x), model().symbol_log_probs(changed)
    assert torch.equal(before[:, :-1], after[:, :-1])
    mask = torch.zeros(3, 2, 3, dtype=torch.bool)
    mask[:, 0] = True
    assert torch.equal(model().given(x, mask).sample()[:, :, 0], x[:, :, 0])
    mask[1:, 0, 0] = False
    with pytest.raises(ValueError, match="all elements of a symbol"):
        model().given(x, mask)


def test_made_keeps_all_its_weights():
    model = made((6,), symbols=2, hidden=(24, 24), orders=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.05)
    for _ in range(8):
        model.train()().log_prob(torch.ones(3, 6)).sum().backward()
        model.eval()().sample((3,))
    assert all((parameter == 0.05).all() for parameter in model.parameters())
    used = {name: (parameter.grad != 0).float().mean() for name, parameter in model.named_parameters()}
    between = used.pop("members.0.network.middle.0.weight")
    assert between > 0.55  # from units of lower degree to such of higher, in every order
    assert min(used.values()) > 0.9


def test_checkpoints_hold_wrapped_and_mixed_models(tmp_path):
    for number, model in enumerate(
        [
            made((4,), symbols=3, orders=3, hidden=(16,)),
            pg.autoregressive.tempered(tokens(end=0), 0.7),
            any_order((4,), (2,), symbols=3, **SMALL),
        ]
    ):
        pg.save(model, tmp_path / f"{number}.pyrogen")
        loaded = pg.load(tmp_path / f"{number}.pyrogen")
        context = None if model.context_shape is None else torch.zeros(2)
        torch.manual_seed(0)
        first = model(context).sample((5,))
        torch.manual_seed(0)
        assert torch.equal(loaded(context).sample((5,)), first)


def test_a_model_is_a_prior_at_a_site():
    model = tokens()

    def program():
        x = pyro.sample("x", model())
        return pyro.sample("y", pyro.distributions.Normal(x.float().mean(), 1.0), obs=torch.tensor(1.0))

    trace = pyro.poutine.trace(program).get_trace()
    trace.compute_log_prob()
    assert torch.allclose(trace.nodes["x"]["log_prob"], model().log_prob(trace.nodes["x"]["value"]))


def test_beam_search_in_batches_and_after_prompts():
    model = jiggled(transformer((4,), (2,), symbols=3, **SMALL), 0.6)
    context, x = torch.randn(3, 2), enumerated(4, 3)
    events, scores = beam_search(model(context), 27)
    log_probs = model(context).log_prob(x.unsqueeze(1))
    assert events.shape == (27, 3, 4)
    assert torch.equal(events[0], x[log_probs.argmax(0)])
    assert torch.allclose(scores[0], log_probs.max(0).values, atol=1e-5)
    events, _ = beam_search(model(context).complete([[2], [1, 0], [0]]), 4)
    assert (events[:, 1, :2] == torch.tensor([1, 0])).all()


ERRORS = {
    "a token too large": (
        lambda m: m().log_prob(torch.tensor([[0, 1, 2, 3, 4, 5]])),
        r"got 5 at position 5 of row \(0,\)",
    ),
    "a negative token": (lambda m: m().log_prob(torch.tensor([0, 1, -2, 3, 4, 0])), "got -2 at position 2"),
    "a wrong length": (lambda m: m().log_prob(torch.zeros(2, 7)), r"`value` must end in shape \(6,\), got \(2, 7\)"),
    "a long prompt": (lambda m: m().complete([[1], [1] * 7]), "at most 6 symbols each, got 7 symbols at position 1"),
    "a prompt of vectors": (
        lambda m: m().complete([[1], torch.zeros(2, 3).long()]),
        r"symbols of shape \(\), got \(3,\) at position 1",
    ),
    "a prompt that is no sequence": (lambda m: m().complete([3, 1]), "got the single symbol 3 at position 0"),
    "a mask of another shape": (
        lambda m: m().given(torch.zeros(6), torch.ones(5).bool()),
        r"`mask` must end in shape \(6,\) or broadcast to it, got \(5,\)",
    ),
    "two truths": (
        lambda m: m().complete([[1, 2], [3]]).complete([[1], [4]]),
        r"`values` must agree with what is given already, got 4 at position 0 of row \(1,\)",
    ),
    "padding at the start": (
        lambda m: tokens(end=0, padding=4)().complete([[1, 0, 4], [1, 4]]),
        r"no padding before the end, got 4 at position 1 of row \(1,\)",
    ),
    "a term out of range": (lambda m: m().symbol_log_probs(torch.tensor([0, 1, 7, 0, 0, 0])), "got 7 at position 2"),
    "no prompt": (lambda m: m().complete([]), "at least one prompt"),
    "a bad prompt": (
        lambda m: m().complete([[1], [2, 9]]),
        r"`values` must hold .*, got 9 at position 1 of row \(1,\)",
    ),
    "a gap": (
        lambda m: m().given(torch.zeros(6).long(), torch.tensor([1, 0, 1, 0, 0, 0]).bool()),
        "true element at position 2 after a false one at position 1",
    ),
    "a mask of numbers": (lambda m: m().given(torch.zeros(6), torch.ones(6)), "`mask` must be boolean"),
    "rows that do not match": (
        lambda m: m().given(torch.zeros(2, 6).long(), torch.zeros(3, 6).bool()),
        r"got \(2,\) of `values`, \(3,\) of `mask`, \(\) of `context`",
    ),
    "a beam of none": (lambda m: beam_search(m(), 0), "`width` must be at least 1"),
    "temperature zero": (lambda m: pg.autoregressive.tempered(m, 0.0), "`temperature` must be positive"),
    "no symbols kept": (lambda m: pg.autoregressive.top_k(m, 0), "`count` must be at least 1"),
    "no mass": (lambda m: pg.autoregressive.nucleus(m, 0.0), r"`mass` must be positive"),
    "a constraint of another shape": (lambda m: constrained(m, torch.ones(4).bool()), "`allowed` must be boolean"),
    "an impossible place": (
        lambda m: constrained(m, torch.arange(6).unsqueeze(1).expand(6, 5) != 2),
        "got none at position 2",
    ),
    "a dead end": (
        lambda m: constrained(m, lambda before: torch.full((len(before), 5), before.shape[1] < 3))().sample((2,)),
        "none at position 3 of row 0",
    ),
}


@pytest.mark.parametrize("conditional", [Categorical, NormalMixture])
def test_conditionals_of_single_numbers_take_no_shape(conditional):
    with pytest.raises(TypeError, match="symbol_shape"):
        conditional(3, symbol_shape=(2,))
    assert conditional(3).symbol_shape == ()


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_position_and_value(name):
    act, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        act(tokens())


def _of_three(**ending):
    return Autoregressive(transformer((4,), symbols=3).network, Categorical(3), event_shape=(4,), **ending)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transformer((4,), symbols=3, end=3), "`end` must be one of the 3 symbols, got 3"),
        (lambda: _of_three(end=3), "`end` must be one of the symbols within .*, got 3"),
        (lambda: _of_three(end=2, padding=-1), "`padding` must be one of the symbols within .*, got -1"),
        (lambda: transformer((4,), symbols=3, padding=1), "`padding` needs `end`"),
        (
            lambda: Autoregressive(_of_three().network, Categorical(3), event_shape=(2, 4), symbol_axes=(0,)),
            r"`conditional` must make symbols of shape \(2,\), got \(\)",
        ),
        (lambda: transformer((4,), symbols=3, cross=True), "`cross` needs a context"),
        (lambda: transformer((4,), symbols=1), "`symbols` must be at least 2"),
        (lambda: transformer((4,), symbols=3, order=(0, 1, 1, 2)), "`order` must name each place"),
        (lambda: transformer((4,), (2,), classes=3, symbols=3), "`context_shape` must be None"),
        (lambda: made((4,), symbols=3, hidden=()), "`hidden` must name at least 1 layer"),
        (lambda: made((4,), symbols=3, orders=0), "`orders` must be at least 1"),
        (lambda: any_order((4,), symbols=3, orders=0), "`orders` must be at least 1"),
        (lambda: SequenceLayout((2, 3), (2,)), "`symbol_axes` must be distinct axes"),
        (lambda: transformer((0,), symbols=3), "`event_shape` must hold positive integers"),
        (lambda: wavenet((8,), layers=0), "`layers` must be at least 1, got 0"),
    ],
)
def test_errors_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_symbols_are_impossible_where_validation_is_off():
    model = tokens()
    with pyro.validation_enabled(False):
        scores = model().log_prob(torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 0]]))
    assert scores[0] == -torch.inf
    assert torch.allclose(scores[1], model().log_prob(torch.tensor([0, 1, 2, 3, 4, 0])), atol=1e-5)


def test_a_wrong_label_is_named():
    model = transformer((4,), symbols=3, classes=3, **SMALL)
    with pytest.raises(ValueError, match="`context` must hold integer labels from 0 to 2"):
        model(torch.tensor([0, 3]))


def test_any_order_names_what_its_log_prob_is():
    model = any_order((4,), symbols=3, **SMALL)
    assert isinstance(model, AnyOrder)
    assert pg.density_of(model()) == "lower bound"
    assert pg.density_of(model.along((3, 2, 1, 0))()) == "exact"
