"""Source sequences: what is absent changes nothing, and everything else follows by enumeration."""

import pyro
import pytest
import torch
from sequence_truth import enumerated, frequencies_p_value, jiggled

import pyrogen as pg
from pyrogen.autoregressive import any_order, beam_search, transformer
from pyrogen.inverse import SequenceSMC
from pyrogen.networks.source import SourceEncoder

LENGTH, SYMBOLS, SOURCE, WORDS = 4, 3, 5, 6
SMALL = {"width": 16, "depth": 2, "heads": 2}
SHORT = torch.tensor([[4, 1, 3, -1, -1], [0, 5, 2, 2, 1], [2, -1, -1, -1, -1]])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def translator(**options):
    return jiggled(transformer((LENGTH,), (SOURCE,), classes=WORDS, symbols=SYMBOLS, source=2, **SMALL, **options))


def of_vectors(**options):
    return jiggled(transformer((LENGTH,), (SOURCE, 2), symbols=SYMBOLS, source=1, **SMALL, **options))


def test_absent_members_change_nothing_wherever_they_stand():
    model, x = translator(), torch.randint(SYMBOLS, (3, LENGTH))
    for rows in ([0, 3, 1, 4, 2], [3, 0, 4, 1, 2], [3, 4, 0, 1, 2]):  # the order of those of row 0 stays
        moved = SHORT[:1, rows]
        assert torch.allclose(model(moved).log_prob(x[:1]), model(SHORT[:1]).log_prob(x[:1]), atol=1e-6)
    alone = torch.cat([model(source).log_prob(y)[None] for source, y in zip(SHORT, x, strict=True)])
    assert torch.allclose(model(SHORT).log_prob(x), alone, atol=1e-5)
    swapped = model(SHORT[:1, [1, 0, 2, 3, 4]]).log_prob(x[:1])
    assert (swapped - model(SHORT[:1]).log_prob(x[:1])).abs() > 1e-3, "the order of what is there counts"


def test_a_longer_model_with_the_same_weights_is_the_same_model():
    long = jiggled(transformer((LENGTH,), (SOURCE + 4,), classes=WORDS, symbols=SYMBOLS, source=2, **SMALL))
    short, state = translator(), long.state_dict()
    (places,) = (name for name in state if name.endswith("places"))
    short.load_state_dict(state | {places: state[places][:SOURCE]})
    x, padded = torch.randint(SYMBOLS, (3, LENGTH)), torch.nn.functional.pad(SHORT, (0, 4), value=-1)
    assert torch.allclose(short(SHORT).log_prob(x), long(padded).log_prob(x), atol=1e-6)


def test_vectors_that_are_absent_are_rows_of_nan():
    model, x = of_vectors(), torch.randint(SYMBOLS, (2, LENGTH))
    source = torch.randn(2, SOURCE, 2)
    source[0, 3:] = torch.nan
    moved = source[:, [3, 0, 1, 4, 2]]
    moved[1] = source[1]
    assert torch.allclose(model(source).log_prob(x), model(moved).log_prob(x), atol=1e-6)
    source.requires_grad_()
    model(source).log_prob(x).sum().backward()
    assert (source.grad[0, 3:] == 0).all()
    assert (source.grad[0, :3] != 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_no_gradient_reaches_the_vectors_of_absent_symbols():
    model = translator()
    table = model.embedding.parts["entry_"].embedding.weight
    model(torch.tensor([3, 1, -1, -1, -1])).log_prob(torch.tensor([0, 2, 1, 1])).backward()
    assert table.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True, False, False]


def test_log_prob_is_the_sum_of_conditionals_by_hand():
    model, x = translator(), torch.tensor([2, 0, 1, 1])
    encoded = model.embedding(SHORT[:1])
    by_hand = 0.0
    for place in range(LENGTH):
        prefix = torch.cat([x[:place], torch.zeros(LENGTH - place, dtype=torch.long)])
        by_hand += model.network(prefix[None], encoded)[0, place].log_softmax(-1)[x[place]]
    assert torch.allclose(model(SHORT[0]).log_prob(x), by_hand, atol=1e-5)


@pytest.mark.parametrize("end", [None, 1])
def test_draws_and_the_best_by_enumeration(end):
    model, x = translator(end=end), enumerated(LENGTH, SYMBOLS)
    for source in SHORT[[0, 2]]:
        log_probs = model(source).log_prob(x)
        assert torch.allclose(log_probs.exp().sum(), torch.tensor(1.0), atol=1e-5)
        assert frequencies_p_value(model(source).sample((3000,)), x, log_probs) > 1e-5
        events, scores = beam_search(model(source), SYMBOLS ** (LENGTH - 1))
        assert torch.equal(events[0], x[log_probs.argmax()])
        finite = scores.isfinite()
        assert torch.allclose(model(source).log_prob(events)[finite], scores[finite], atol=1e-5)
    best, _ = beam_search(model(SHORT), 27)
    assert torch.equal(best[0], torch.stack([x[model(source).log_prob(x).argmax()] for source in SHORT]))


def test_one_pass_of_the_encoder_serves_all_draws_and_scores(monkeypatch):
    model, rows, forward = translator(), [], SourceEncoder.forward

    def counted(self, context):
        rows.append(len(context))
        return forward(self, context)

    monkeypatch.setattr(SourceEncoder, "forward", counted)
    distribution = model(SHORT[0])
    x = distribution.sample((50,))
    assert distribution.log_prob(x).shape == (50,)
    assert rows == [1]


def test_sources_broadcast_against_events_and_prompts():
    model, x = translator(), torch.randint(SYMBOLS, (7, LENGTH))
    scores = model(SHORT.unsqueeze(1)).log_prob(x)  # (3, 7)
    assert torch.allclose(scores[2, 4], model(SHORT[2]).log_prob(x[4]), atol=1e-5)
    begun = model(SHORT).complete([[1, 2], [0], []])
    draws = begun.sample((6,))
    assert (draws[:, 0, :2] == torch.tensor([1, 2])).all()
    first = model(SHORT[0]).part_log_prob(draws[:, 0], torch.arange(LENGTH) < 2)
    assert torch.allclose(begun.log_prob(draws)[:, 0] + first, model(SHORT[0]).log_prob(draws[:, 0]), atol=1e-5)


def test_several_sources_and_a_label():
    shapes, classes = {"words": (SOURCE,), "sounds": (3, 2), "speaker": (), "age": ()}, {"words": WORDS, "speaker": 2}
    model = jiggled(transformer((LENGTH,), shapes, classes=classes, symbols=SYMBOLS, source=1, **SMALL))
    sounds = torch.randn(3, 2)
    context = {"words": SHORT[0], "sounds": sounds, "speaker": torch.tensor(1), "age": torch.tensor(0.3)}
    x = torch.tensor([2, 0, 1, 1])
    without = model(context | {"sounds": sounds * torch.tensor([[1.0], [1.0], [torch.nan]])}).log_prob(x)
    for key, other in {
        "words": SHORT[1],
        "sounds": -sounds,
        "speaker": torch.tensor(0),
        "age": torch.tensor(2.0),
    }.items():
        assert (model(context | {key: other}).log_prob(x) - model(context).log_prob(x)).abs() > 1e-4, key
    assert (without - model(context).log_prob(x)).abs() > 1e-4


def test_an_empty_source_is_a_model_without_one():
    model = translator()
    assert model(torch.full((SOURCE,), -1)).log_prob(torch.tensor([2, 0, 1, 1])).isfinite()


def test_checkpoints_hold_source_models(tmp_path):
    model, x = translator(end=0), torch.randint(1, SYMBOLS, (3, LENGTH))
    pg.save(model, tmp_path / "model")
    assert torch.equal(pg.load(tmp_path / "model").eval()(SHORT).log_prob(x), model(SHORT).log_prob(x))


def test_any_order_takes_sources():
    model = any_order((LENGTH,), (SOURCE,), classes=WORDS, symbols=SYMBOLS, source=1, **SMALL)
    exact, x = jiggled(model).along((2, 0, 3, 1)), enumerated(LENGTH, SYMBOLS)
    assert torch.allclose(exact(SHORT[0]).log_prob(x).exp().sum(), torch.tensor(1.0), atol=1e-5)
    assert model(SHORT).given(x[:3], torch.tensor([False, True, False, True])).sample((2,)).shape == (2, 3, LENGTH)


def test_one_bad_row_leaves_the_gradients_of_others_alone():
    model, x = of_vectors(), torch.randint(SYMBOLS, (2, LENGTH))
    source = torch.randn(2, SOURCE, 2)
    model(source[:1]).log_prob(x[:1]).sum().backward()
    alone = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    source[1, 2, 0] = torch.nan  # a member that is bad in part is not absent
    scores = model(source).log_prob(x)
    assert scores[1].isnan()
    scores[0].backward()
    for before, parameter in zip(alone, model.parameters(), strict=True):
        assert torch.allclose(before, parameter.grad, atol=1e-5)


def test_noisy_channel_by_enumeration():
    language = jiggled(transformer((3,), symbols=SYMBOLS, **SMALL))
    channel = jiggled(transformer((2,), (3,), classes=SYMBOLS, symbols=4, source=1, **SMALL), 0.6)
    heard = torch.tensor([3, 0])

    def program(heard):
        meant = pyro.sample("meant", language())
        pyro.sample("heard", channel(meant), obs=heard)

    found = SequenceSMC(program, site="meant", particles=4000).run(heard)
    every = enumerated(3, SYMBOLS)
    joint = (language().log_prob(every) + channel(every).log_prob(heard)).detach()
    error = found.diagnostics().standard_error.item()
    assert abs(found.log_evidence - joint.logsumexp(0)) < 5 * max(error, 0.005)
    assert frequencies_p_value(found.get_samples()["meant"][::4], every, joint.log_softmax(0)) > 1e-5
    assert found.diagnostics().mapped


def test_pairs_and_channels_in_a_plate():
    language = jiggled(transformer((3,), symbols=SYMBOLS, **SMALL))
    channel = jiggled(transformer((2,), (3,), classes=SYMBOLS, symbols=4, source=1, **SMALL), 0.6)
    heard = torch.tensor([[3, 0], [1, 1]])

    def program(heard):
        with pyro.plate("pairs", len(heard)):
            meant = pyro.sample("meant", language())
            pyro.sample("heard", channel(meant), obs=heard)

    trace = pyro.poutine.trace(program).get_trace(heard)
    meant = trace.nodes["meant"]["value"]
    assert meant.shape == (2, 3)
    expected = language().log_prob(meant).sum() + channel(meant).log_prob(heard).sum()
    assert torch.allclose(trace.log_prob_sum(), expected, atol=1e-5)
    found, every = SequenceSMC(program, site="meant", particles=2000).run(heard), enumerated(3, SYMBOLS)
    joint = language().log_prob(every).unsqueeze(1) + channel(every.unsqueeze(1)).log_prob(heard)  # (27, 2)
    error = found.diagnostics().standard_error.clamp(min=0.005)
    assert ((found.log_evidence - joint.logsumexp(0)).abs() < 5 * error).all()


@pytest.mark.slow
def test_reversal_is_learned():
    lengths = torch.randint(2, 7, (3000, 1))
    source = torch.where(torch.arange(6) < lengths, torch.randint(1, 8, (3000, 6)), -1)
    backwards = source.gather(1, (lengths - 1 - torch.arange(6)).clamp(min=0))
    target = torch.where(torch.arange(6) < lengths, backwards, 0)
    model = transformer((6,), (6,), classes=8, symbols=8, end=0, source=1, width=48, depth=2, heads=4)
    pg.fit(model, (target[200:], source[200:]), steps=600, batch_size=64, lr=2e-3, seed=0)
    best, _ = beam_search(model.eval()(source[:200]), 2)
    assert (best[0] == target[:200]).all(1).float().mean() > 0.95


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="`source` needs a context, got neither"):
        transformer((LENGTH,), symbols=SYMBOLS, source=1, **SMALL)
    with pytest.raises(ValueError, match="transformers take sequences of symbols with `source`"):
        transformer((LENGTH,), (SOURCE,), classes=WORDS, symbols=SYMBOLS, **SMALL)
    with pytest.raises(ValueError, match=r"`context_shape` must be \(\) or \(length,\) for symbols, got \(5, 2\)"):
        transformer((LENGTH,), (SOURCE, 2), classes=WORDS, symbols=SYMBOLS, source=1, **SMALL)
    with pytest.raises(ValueError, match="`source` must be at least 1, got 0"):
        transformer((LENGTH,), (SOURCE,), classes=WORDS, symbols=SYMBOLS, source=0, **SMALL)
    with pytest.raises(ValueError, match="`context` must hold integer labels from -1 to 5, got 6 in row 1"):
        translator()(torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 6]]))
    with pytest.raises(ValueError, match=r"`context` must end in shape \(5,\), got \(4,\)"):
        translator()(torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="`context` must hold members that are there, got none in all of the data"):
        pg.fit(of_vectors(), (torch.zeros(4, LENGTH), torch.full((4, SOURCE, 2), torch.nan)), steps=1)
