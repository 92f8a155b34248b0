"""Learned twists against what enumeration says of every prefix."""

import pyro
import pytest
import torch
from autoregressive.sequence_truth import enumerated, jiggled

import pyrogen as pg
from pyrogen.inverse import LearnedTwist, SequenceSMC, TwistContrast, transformer_twist

LENGTH, SYMBOLS = 4, 3
EVENTS = enumerated(LENGTH, SYMBOLS)


def late(x):
    """What counts shows in the end only: the first symbol has to come again."""
    return torch.where(x[..., 0] == x[..., -1], 0.0, -4.0)


@pytest.fixture
def prior():
    pyro.set_rng_seed(0)
    return jiggled(pg.autoregressive.transformer((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2))


def best_twists(prior):
    """The exact log-twist of every prefix of all events ``(81, L)``, and the information of each length ``(L,)``."""
    with torch.no_grad():
        log_prob = prior().log_prob(EVENTS).double()
    posterior = (log_prob + late(EVENTS)).log_softmax(0)
    ratios, information = [], []
    for place in range(1, LENGTH + 1):
        same = (EVENTS[:, None, :place] == EVENTS[:, :place]).all(-1)
        wanted, before = (torch.where(same, law, -torch.inf).logsumexp(-1) for law in (posterior, log_prob))
        ratios.append(wanted - before)
        information.append((posterior.exp() * ratios[-1]).sum())
    return torch.stack(ratios, 1), torch.stack(information), posterior, log_prob


class Table(pg.networks.SequenceNetwork):
    """A number of its own for every prefix and next symbol."""

    def __init__(self):
        super().__init__()
        self.scores = torch.nn.ParameterList(torch.zeros(SYMBOLS**place, SYMBOLS) for place in range(LENGTH))

    def forward(self, symbols, context=None):
        rows, outputs = torch.zeros(len(symbols), dtype=torch.long), []
        for scores, symbol in zip(self.scores, symbols.long().unbind(1), strict=True):
            outputs.append(scores[rows])
            rows = rows * SYMBOLS + symbol
        return torch.stack(outputs, 1)

    def start(self, batch_shape, context=None):
        raise NotImplementedError

    def step(self, symbol, state):
        raise NotImplementedError


def drawn(posterior, log_prob, count=20_000):
    return [EVENTS[torch.multinomial(law.exp(), count, replacement=True)] for law in (posterior, log_prob)]


def test_the_best_twist_has_the_information_and_no_gradient(prior):
    ratios, information, posterior, log_prob = best_twists(prior)
    table = Table()
    with torch.no_grad():
        for place, scores in enumerate(table.scores):
            scores.copy_(ratios[:, place].reshape(SYMBOLS ** (place + 1), -1)[:, 0].reshape(scores.shape))
    loss = TwistContrast(LearnedTwist(table))(*drawn(posterior, log_prob))
    assert abs(-loss.item() - information.mean()) < 0.03
    loss.backward()
    for scores in table.scores:  # frequencies of 20,000 draws on both sides
        assert scores.grad.abs().max() < 5 * (2 * 0.25 / 20_000) ** 0.5 / LENGTH


def test_learned_twists_steer(prior):
    ratios, information, posterior, log_prob = best_twists(prior)
    twist = transformer_twist((LENGTH,), symbols=SYMBOLS, width=32, depth=2, heads=2)
    assert (twist(EVENTS) == 0).all()  # one, to begin with
    objective = TwistContrast(twist)
    pg.fit(objective, tuple(drawn(posterior, log_prob)), steps=400, batch_size=500, lr=3e-3, seed=0)
    with torch.no_grad():
        learned, loss = twist.eval()(EVENTS).double(), objective(*drawn(posterior, log_prob))
    assert abs(-loss.item() - information.mean()) < 0.05
    for place in range(LENGTH):  # up to a constant
        error = learned[:, place] - ratios[:, place]
        weights = posterior.exp()
        centred = error - (weights * error).sum()
        assert (weights * centred.square()).sum().sqrt() < 0.2

    def model():
        with pyro.plate("copies", 300):
            pyro.factor("late", late(pyro.sample("x", prior())))

    evidence = (log_prob + late(EVENTS)).logsumexp(0)
    errors = {}
    for name, used in {"none": None, "learned": twist}.items():
        found = SequenceSMC(model, site="x", particles=16, twist=used).run().log_evidence - evidence
        assert abs(found.exp().mean() - 1) < 4 * found.exp().std() / 300**0.5
        errors[name] = found.exp().std()
    assert errors["learned"] < 0.25 * errors["none"]


def test_after_the_end_it_stays():
    twist = transformer_twist((5,), symbols=3, width=16, depth=1, heads=2, end=0)
    with torch.no_grad():
        for parameter in twist.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        scores = twist(torch.tensor([[1, 0, 0, 0, 0], [1, 2, 1, 2, 1], [1, 2, 1, 2, 0]]))
    assert (scores[0, 1:] == scores[0, 1]).all()
    assert scores[1].unique().numel() == 5
    assert torch.equal(scores[1, :4], scores[2, :4])


def test_it_trains_saves_and_loads(prior, tmp_path):
    twist = transformer_twist((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2)
    pg.testing.check_objective(lambda: TwistContrast(jiggled(twist)), (EVENTS[:20], EVENTS[20:40]))
    pg.save(twist, tmp_path / "twist")
    assert torch.equal(pg.load(tmp_path / "twist")(EVENTS), twist(EVENTS))


def test_what_is_no_twist_and_no_draws_are_refused(prior):
    with pytest.raises(TypeError, match="`twist` must be a LearnedTwist, got Autoregressive"):
        TwistContrast(prior)
    twist = transformer_twist((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2)
    with pytest.raises(ValueError, match="at least one draw each, got 0 and 81"):
        TwistContrast(twist)(EVENTS[:0], EVENTS)


def test_a_twist_of_another_length_and_what_is_no_symbol_are_named(prior):
    short = transformer_twist((LENGTH - 1,), symbols=SYMBOLS, width=16, depth=1, heads=2)

    def model():
        pyro.factor("rule", pyro.sample("x", prior()).sum(-1).float())

    with pytest.raises(ValueError, match=f"take the {LENGTH} symbols .* of the prior, got one made for {LENGTH - 1}"):
        SequenceSMC(model, site="x", particles=8, twist=short).run()
    with pytest.raises(ValueError, match=f"at most the {LENGTH - 1} symbols that the twist was made for, got {LENGTH}"):
        TwistContrast(short)(EVENTS, EVENTS)
    twist, wrong = transformer_twist((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2), EVENTS.clone()
    wrong[3, 1] = SYMBOLS
    with pytest.raises(ValueError, match=f"symbols from 0 to {SYMBOLS - 1}, got {SYMBOLS} at position 1"):
        TwistContrast(twist)(EVENTS, wrong)
    long = transformer_twist((LENGTH + 2,), symbols=SYMBOLS, width=16, depth=1, heads=2)
    assert SequenceSMC(model, site="x", particles=8, twist=long).run().log_evidence.isfinite()


def test_symbols_of_bytes_are_those_of_other_integers():
    """Where there are 256 symbols: as a byte their number would be zero."""
    twist, x = transformer_twist((3,), symbols=256, width=16, depth=1, heads=2), torch.tensor([[0, 128, 255]])
    assert torch.equal(twist(x.byte()), twist(x))
