"""Sequence SMC against enumeration: posterior, evidence, endings, prompts, several sequences, other sites."""

import ast
import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from autoregressive.sequence_truth import enumerated, frequencies_p_value, jiggled

import pyrogen as pg
from pyrogen import inverse
from pyrogen.autoregressive.prefixes import Prefixes
from pyrogen.inverse import Admissible, Lookahead, PrefixTwist, SequenceSMC
from pyrogen.networks.sequence import State
from pyrogen.numerics.resampling import in_place, systematic

LENGTH, SYMBOLS = 4, 3
EVENTS = enumerated(LENGTH, SYMBOLS)


def transformer(**options):
    options = {"symbols": SYMBOLS, "width": 16, "depth": 1, "heads": 2, **options}
    return jiggled(pg.autoregressive.transformer((LENGTH,), **options))


def factor_model(prior, log_factor):
    def model():
        pyro.factor("factor", log_factor(pyro.sample("x", prior())))

    return model


def copies(prior, log_factor, count, **options):
    """The posterior of so many independent problems that are all the same."""

    def model():
        with pyro.plate("copies", count):
            factor_model(prior, log_factor)()

    return SequenceSMC(model, site="x", **options).run()


def exact(prior, log_factor, events=EVENTS):
    """The log evidence, and the log-probabilities of all events in the posterior."""
    with torch.no_grad():
        joint = prior().log_prob(events).double() + log_factor(events).double()
    return joint.logsumexp(0), joint.log_softmax(0)


def soft(x):
    return 0.8 * (x == 1).sum(-1) - 1.5 * (x[..., 0] == x[..., -1]).float()


def ones(prefixes):
    return 0.8 * (prefixes == 1).sum(-1)


class Remaining(PrefixTwist):
    """A twist of all next symbols, with numbers of no meaning."""

    def before(self, prefixes, state):
        return torch.sin(3.0 * prefixes.double().sum(-1, keepdim=True) + torch.arange(SYMBOLS))


TWISTS = {"none": None, "lookahead": Lookahead(ones), "next": Remaining()}


@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS)
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_posterior_and_evidence_by_enumeration(twist, threshold):
    pyro.set_rng_seed(1)
    prior = transformer()
    evidence, log_probs = exact(prior, soft)
    method = SequenceSMC(factor_model(prior, soft), site="x", twist=twist, particles=4000, threshold=threshold)
    posterior = method.run()
    assert abs(posterior.log_evidence - evidence) < 5 * posterior.diagnostics().standard_error + 0.02
    # Resampled draws depend on one another: the first of many small clouds are independent and nearly exact.
    small = copies(prior, soft, 1000, twist=twist, particles=128, threshold=threshold, groups=1)
    assert frequencies_p_value(small.get_samples()["x"][0], EVENTS, log_probs) > 1e-3


@pytest.mark.parametrize("twist", TWISTS.values(), ids=TWISTS)
def test_evidence_is_unbiased_with_few_particles(twist):
    pyro.set_rng_seed(2)
    prior = transformer()
    evidence, _ = exact(prior, soft)
    posterior = copies(prior, soft, 5000, twist=twist, particles=4, groups=2, threshold=0.9)
    ratios = (posterior.log_evidence - evidence).exp()
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / 5000**0.5


def test_rule_is_the_conditional_and_greedy_masks_are_not():
    pyro.set_rng_seed(3)
    prior = transformer()

    def leads_on(before):  # after 0 there are three ways on, after 1 one, after 2 the same one
        last = before[:, -1:] if before.shape[1] else torch.zeros(len(before), 1)
        return (last == 0) | (torch.arange(SYMBOLS) == 2)

    rule = Admissible(leads_on)
    evidence, log_probs = exact(prior, rule)
    posterior = SequenceSMC(factor_model(prior, rule), site="x", twist=rule, particles=4000).run()
    draws = posterior.get_samples()["x"]
    assert (rule(draws) == 0).all()
    assert abs(posterior.log_evidence - evidence) < 5 * posterior.diagnostics().standard_error + 0.01
    firsts = copies(prior, rule, 1000, twist=rule, particles=64, groups=1).get_samples()["x"][0]
    assert frequencies_p_value(firsts, EVENTS, log_probs) > 1e-3
    greedy = pg.autoregressive.constrained(prior, leads_on)().sample((1000,))
    assert (rule(greedy) == 0).all()
    assert frequencies_p_value(greedy, EVENTS, log_probs) < 1e-6


def test_hidden_markov_chain():
    """A Markov chain as a prior, seen through noise: forward-backward has the evidence and every marginal."""
    pyro.set_rng_seed(4)
    length, symbols = 12, 4
    transition, emission = torch.randn(symbols, symbols).log_softmax(-1), torch.tensor([0.0, 1.0, 2.5, 4.0])

    class Markov(pg.networks.SequenceNetwork):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(transition.clone())

        def forward(self, x, context=None):
            first = torch.zeros(len(x), 1, symbols)
            return torch.cat([first, self.logits[x[:, :-1].long()]], 1)

        def start(self, batch_shape, context=None):
            return Rows(torch.zeros(*batch_shape))

        def step(self, symbol, state):
            output = torch.zeros(len(state.rows), symbols) if symbol is None else self.logits[symbol.long()]
            return output, state

    prior = pg.autoregressive.Autoregressive(Markov(), pg.autoregressive.Categorical(symbols), event_shape=(length,))
    y = emission[torch.randint(symbols, (length,))] + 0.5 * torch.randn(length)

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(emission[x], 0.5).to_event(1), obs=y)

    likelihood = dist.Normal(emission, 0.5).log_prob(y.unsqueeze(-1))  # (L, K)
    forward = [-math.log(symbols) + likelihood[0]]
    for place in range(1, length):
        forward.append((forward[-1].unsqueeze(-1) + transition).logsumexp(0) + likelihood[place])
    backward = [torch.zeros(symbols)]
    for place in range(length - 1, 0, -1):
        backward.insert(0, (transition + likelihood[place] + backward[0]).logsumexp(-1))
    evidence = forward[-1].logsumexp(0)
    marginals = (torch.stack(forward) + torch.stack(backward)).softmax(-1)
    seen = Lookahead(lambda prefixes: likelihood[: prefixes.shape[1]].gather(1, prefixes.T).sum(0))
    posterior = SequenceSMC(model, site="x", twist=seen, particles=4000).run(y)
    assert abs(posterior.log_evidence - evidence) < 0.15
    found = torch.nn.functional.one_hot(posterior.get_samples()["x"], symbols).double().mean(0)
    assert (found - marginals).abs().max() < 5 * (0.25 / 400) ** 0.5  # carried by some hundred independent draws

    def several(y):
        with pyro.plate("copies", 1000):
            model(y)

    several_evidences = SequenceSMC(several, site="x", twist=seen, particles=32).run(y.expand(1000, -1)).log_evidence
    ratios = (several_evidences - evidence).exp()
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / 1000**0.5


@dataclass
class Rows(State):
    rows: torch.Tensor


def gpt2():
    transformers = pytest.importorskip("transformers")
    sizes = {"n_positions": LENGTH + 1, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=SYMBOLS, **sizes))
    return jiggled(pg.autoregressive.from_transformers(model, LENGTH, start=0))


def law(model):
    """The distribution of a model, given a label where it takes one."""
    return model() if model.context_shape is None else model(torch.tensor(1))


MODELS = {
    "transformer": lambda: transformer(),
    "ends": lambda: transformer(end=0),
    "padded": lambda: transformer(symbols=4, end=0, padding=3),
    "made": lambda: jiggled(pg.autoregressive.made((LENGTH,), symbols=SYMBOLS, hidden=(16,))),
    "wavenet": lambda: jiggled(pg.autoregressive.wavenet((LENGTH,), symbols=SYMBOLS, width=8, layers=2, skip=8)),
    "along": lambda: jiggled(pg.autoregressive.any_order((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2)).along(
        [2, 0, 3, 1]
    ),
    "binary": lambda: transformer(symbols=2),
    "numbers": lambda: transformer(symbols=None, components=2),
    "cold": lambda: pg.autoregressive.tempered(transformer(), 0.7),
    "cross": lambda: transformer(classes=2, cross=True),
    "prefix": lambda: transformer(classes=2),
    "gpt2": lambda: gpt2(),
    "image": lambda: jiggled(pg.autoregressive.pixel_cnn((1, 2, 2), symbols=SYMBOLS, width=8, depth=2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_cached_prefixes_are_what_the_model_says(name):
    """Terms of prefixes that were selected again and again, against one pass over what came out."""
    pyro.set_rng_seed(5)
    model = MODELS[name]()
    whole = law(model)
    prefixes = Prefixes(whole.expand([6]))
    total = torch.zeros(6)
    with torch.no_grad():
        while not prefixes.finished:
            rows = torch.randint(6, (6,))
            prefixes.select(rows)
            distribution = prefixes.next()
            symbols = distribution.sample()
            total = total[rows] + distribution.log_prob(symbols)
            prefixes.append(symbols)
        events = whole.layout.unflatten(prefixes.events())
        assert torch.allclose(whole.log_prob(events), total, atol=1e-4)


def test_a_scaffold_anywhere_is_kept():
    """A part in the middle of a sequence, given first in the order, and a rule for the rest, by enumeration."""
    pyro.set_rng_seed(2)
    model = jiggled(pg.autoregressive.any_order((LENGTH,), symbols=SYMBOLS, width=16, depth=1, heads=2))
    scaffold, known = torch.tensor([0, 2, 1, 0]), torch.tensor([False, True, True, False])
    prior = model.along([1, 2, 0, 3])
    given = lambda: prior().given(scaffold, known)  # noqa: E731
    rule = lambda x: torch.where(x[..., 0] == x[..., 3], 0.0, -torch.inf)  # noqa: E731
    kept = (EVENTS[:, known] == scaffold[known]).all(1)
    with torch.no_grad():  # Bayes' theorem on the law of whole sequences, which knows of no scaffold
        joint = torch.where(kept, prior().log_prob(EVENTS).double(), -torch.inf)
    target = (joint + rule(EVENTS)).log_softmax(0)
    evidence = (joint + rule(EVENTS)).logsumexp(0) - joint.logsumexp(0)
    assert target.isfinite().sum() == SYMBOLS
    found = copies(given, rule, 2000, particles=16)
    draws = found.get_samples()["x"]
    assert (draws[..., known] == scaffold[known]).all()
    possible = found.log_evidence.isfinite()  # a few clouds of 16 have no particle that keeps to the rule
    assert possible.double().mean() > 0.99
    assert (rule(draws)[:, possible] == 0).all()
    ratio = (found.log_evidence.double() - evidence).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 2000**0.5
    weights = ratio.unsqueeze(-1) * (draws[0, :, :1] == torch.arange(SYMBOLS))  # unbiased, by the estimate of each
    error = weights.std(0) / 2000**0.5
    assert (
        (weights.mean(0) - torch.zeros(SYMBOLS).double().index_add(0, EVENTS[:, 0], target.exp())).abs() < 4 * error
    ).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_family_has_a_posterior(name):
    prior = MODELS[name]()

    def mild(x):
        return -0.1 * x.double().flatten(-len(prior.event_shape)).square().sum(-1)

    posterior = SequenceSMC(factor_model(lambda: law(prior), mild), site="x", particles=400).run()
    draws = law(prior).sample((20_000,))
    factors = mild(draws).exp()
    naive, error = factors.mean(), factors.std() / 20_000**0.5
    difference = posterior.log_evidence.exp() - naive
    assert abs(difference) < 5 * (error + factors.std() / 400**0.5)
    assert posterior.get_samples()["x"].dtype == draws.dtype


@pytest.mark.parametrize("options", [{"end": 0}, {"symbols": 4, "end": 0, "padding": 3}])
def test_sequences_that_end(options):
    pyro.set_rng_seed(6)
    prior = transformer(**options)
    events = enumerated(LENGTH, options.get("symbols", SYMBOLS))

    def short(x):
        return -1.0 * prior().lengths(x).double() + 0.5 * (x == 2).sum(-1)

    def late(prefixes):  # also of what lies behind the end, which must not count
        return 0.5 * (prefixes == 2).sum(-1) - 0.2 * prefixes.shape[1]

    evidence, log_probs = exact(prior, short, events)
    for twist in (None, Lookahead(late)):
        posterior = SequenceSMC(factor_model(prior, short), site="x", particles=4000, twist=twist, threshold=0.9).run()
        assert abs(posterior.log_evidence - evidence) < 5 * posterior.diagnostics().standard_error + 0.01
        draws = posterior.get_samples()["x"]
        assert prior().log_prob(draws).isfinite().all()
        mean = (log_probs.exp() * prior().lengths(events)).sum()
        assert abs(prior().lengths(draws).double().mean() - mean) < 0.15


def test_prompts_and_several_problems_at_once():
    pyro.set_rng_seed(7)
    prior = transformer()
    prompts = [[1], [2, 0], [0]]
    weights = torch.tensor([0.0, 1.0, -2.0])

    def model():
        with pyro.plate("texts", 3):
            x = pyro.sample("x", prior().complete(prompts))
            pyro.factor("factor", weights * (x == 1).sum(-1))

    posterior = SequenceSMC(model, site="x", particles=2000, twist=Remaining(), threshold=0.9).run()
    assert posterior.log_evidence.shape == (3,)
    draws = posterior.get_samples()["x"]
    assert draws.shape == (2000, 3, LENGTH)
    for place, prompt in enumerate(prompts):
        fits = (EVENTS[:, : len(prompt)] == torch.tensor(prompt)).all(-1)
        with torch.no_grad():
            free = prior().log_prob(EVENTS[fits]).double().log_softmax(0)
        counts = (EVENTS[fits] == 1).sum(-1)
        joint = free + weights[place] * counts
        assert abs(posterior.log_evidence[place] - joint.logsumexp(0)) < 0.1
        assert (draws[:, place, : len(prompt)] == torch.tensor(prompt)).all()
        assert abs((draws[:, place] == 1).sum(-1).double().mean() - (joint.softmax(0) * counts).sum()) < 0.15


def test_several_sequences_of_one_problem():
    """Two sequences that are seen together only: a particle is both."""
    pyro.set_rng_seed(8)
    prior = transformer()

    def alike(x):
        return 1.5 * (x[..., 0, :] == x[..., 1, :]).sum(-1)

    def model():
        pyro.factor("alike", alike(pyro.sample("x", prior().expand([2]).to_event(1))))

    with torch.no_grad():
        one = prior().log_prob(EVENTS).double()
    pairs = torch.stack([EVENTS.unsqueeze(1).expand(81, 81, 4), EVENTS.unsqueeze(0).expand(81, 81, 4)], -2)
    evidence = (one.unsqueeze(1) + one + alike(pairs)).flatten().logsumexp(0)
    posterior = SequenceSMC(model, site="x", particles=4000).run()
    assert posterior.get_samples()["x"].shape == (4000, 2, LENGTH)
    assert abs(posterior.log_evidence - evidence) < 5 * posterior.diagnostics().standard_error + 0.02


@pytest.mark.parametrize("upstream", [True, False])
def test_other_latent_sites(upstream):
    """A label on which the prior depends, and a noise scale on which the data do."""
    pyro.set_rng_seed(9)
    prior = transformer(classes=2)
    plain = transformer()
    y = torch.tensor(5.0)

    def model():
        label = pyro.sample("label", dist.Categorical(torch.tensor([0.3, 0.7]))) if upstream else None
        x = pyro.sample("x", prior(label) if upstream else plain())
        scale = pyro.sample("scale", dist.Categorical(torch.tensor([0.5, 0.5]))) + 1.0
        pyro.sample("y", dist.Normal(x.double().sum(), scale), obs=y)

    joint = []
    with torch.no_grad():
        for label in (0, 1):
            law = prior(torch.tensor(label)) if upstream else plain()
            log_prior = law.log_prob(EVENTS).double() + math.log((0.3, 0.7)[label])
            for scale in (1.0, 2.0):
                seen = dist.Normal(EVENTS.double().sum(-1), scale).log_prob(y)
                joint.append(log_prior + seen + math.log(0.5))
    joint = torch.stack(joint).reshape(2, 2, -1)
    posterior = SequenceSMC(model, site="x", particles=1000).run()
    draws = posterior.get_samples()
    assert abs(posterior.log_evidence - joint.logsumexp((0, 1, 2))) < 5 * posterior.diagnostics().standard_error + 0.02
    share = joint.flatten().softmax(0).reshape(joint.shape)
    assert abs(draws["scale"].double().mean() - share[:, 1].sum()) < 0.06
    if upstream:
        assert abs(draws["label"].double().mean() - share[1].sum()) < 0.06
    assert set(pg.analysis.to_arviz(posterior, log_likelihood=False, predictive=False).posterior) == set(draws)


@pytest.mark.parametrize("caught", [SyntaxError, Exception])
def test_rules_that_leave_tensors(caught):
    """A parser takes strings one by one; that it depends on the site no tensor shows."""
    pyro.set_rng_seed(10)
    prior = transformer(symbols=4)
    alphabet, events = "1+(_", enumerated(LENGTH, 4)

    def parses(x):
        try:
            ast.parse("".join(alphabet[symbol] for symbol in x.tolist()))
        except caught:
            return torch.tensor(-torch.inf)
        return torch.tensor(0.0)

    evidence, log_probs = exact(prior, lambda x: torch.stack([parses(event) for event in x]), events)
    posterior = SequenceSMC(factor_model(prior, parses), site="x", particles=2000).run()
    assert not posterior.diagnostics().mapped
    assert abs(posterior.log_evidence - evidence) < 5 * posterior.diagnostics().standard_error + 0.02
    assert all(parses(x) == 0 for x in posterior.get_samples()["x"])


def test_weights_and_groups():
    pyro.set_rng_seed(11)
    prior = transformer()
    evidence, log_probs = exact(prior, soft)
    posterior = SequenceSMC(
        factor_model(prior, soft), site="x", twist=Lookahead(ones), particles=4000, resample=False, threshold=0.9
    ).run()
    draws, weights = posterior.get_samples()["x"], posterior.log_weights.softmax(0)
    mean = (weights * (draws == 1).sum(-1)).sum()
    assert abs(mean - (log_probs.exp() * (EVENTS == 1).sum(-1)).sum()) < 0.1
    diagnostics = posterior.diagnostics()
    assert diagnostics.group_evidence.shape == (4, 1)
    assert diagnostics.log_evidence.item() == pytest.approx(posterior.log_evidence.item(), abs=1e-5)
    assert diagnostics.numbers()["resamplings"] > 0
    assert not diagnostics.collapsed
    assert SequenceSMC(factor_model(prior, soft), site="x", groups=1).run().diagnostics().standard_error.isnan().all()


def test_what_is_impossible_says_so():
    prior = transformer()
    never = lambda x: torch.where(x[..., 0] > 5, 0.0, -torch.inf)  # noqa: E731
    posterior = SequenceSMC(factor_model(prior, never), site="x", particles=16).run()
    assert posterior.log_evidence == -torch.inf
    assert posterior.diagnostics().collapsed
    assert "no particle" in posterior.diagnostics().warning
    dead = Admissible(lambda before: torch.zeros(len(before), SYMBOLS, dtype=torch.bool))
    posterior = SequenceSMC(factor_model(prior, soft), site="x", twist=dead, particles=16).run()
    assert posterior.log_evidence == -torch.inf


def test_bad_input():
    prior = transformer()

    def scaled_other():
        with pyro.poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("sum", z * pyro.sample("x", prior()).sum(-1))

    bad = {
        "multiple of `groups`": lambda: SequenceSMC(factor_model(prior, soft), site="x", particles=10, groups=4),
        "`threshold` must be": lambda: SequenceSMC(factor_model(prior, soft), site="x", threshold=2.0),
        "`site` must be a latent site": lambda: SequenceSMC(factor_model(prior, soft), site="z").run(),
        "must observe a site": lambda: SequenceSMC(lambda: pyro.sample("x", prior()), site="x").run(),
        "no mask and no scale": lambda: SequenceSMC(
            pyro.poutine.scale(factor_model(prior, soft), scale=2.0), site="x"
        ).run(),
        "no mask and no scale around the latent site 'z'": lambda: SequenceSMC(scaled_other, site="x").run(),
        "one number for each": lambda: SequenceSMC(
            factor_model(prior, soft), site="x", twist=Lookahead(lambda prefixes: prefixes)
        ).run(),
        "score each of 3 symbols": lambda: SequenceSMC(
            factor_model(prior, soft), site="x", twist=Admissible(torch.tensor([True, True]))
        ).run(),
        "`function` must give one number for each of .*, got NoneType": lambda: SequenceSMC(
            factor_model(prior, soft), site="x", twist=Lookahead(lambda prefixes: None)
        ).run(),
        "`twist` must give numbers below infinity, got nan at position 1": lambda: SequenceSMC(
            factor_model(prior, soft), site="x", twist=Lookahead(lambda prefixes: prefixes.sum(1) * torch.nan)
        ).run(),
        "`allowed` must have a row for each position, got 2 rows at position 2": lambda: SequenceSMC(
            factor_model(prior, soft), site="x", twist=Admissible(torch.ones(2, 3, dtype=torch.bool))
        ).run(),
        "got list": lambda: Admissible(lambda before: [True])(torch.zeros(1, 4)),
        "symbols from 0 to 1, got 2": lambda: Admissible(torch.tensor([True, True]))(torch.tensor([[0, 1, 2]])),
        "symbols from 0 to 1, got 0.5": lambda: Admissible(torch.tensor([True, True]))(torch.tensor([[0.5]])),
        r"symbols \(\*batch, length\)": lambda: Admissible(torch.tensor([True, True]))(torch.tensor(1)),
        "`allowed` must be boolean": lambda: Admissible(torch.ones(3)),
        "give booleans": lambda: Admissible(lambda before: torch.ones(2))(torch.zeros(1, 4)),
    }
    for words, call in bad.items():
        with pytest.raises(ValueError, match=words):
            call()
    flow = pg.flows.affine_coupling((3,))
    orders = pg.autoregressive.any_order((3,), symbols=2, width=16, depth=1)
    for other, words in ((flow, "one autoregressive model"), (orders, "along")):
        with pytest.raises(NotImplementedError, match=words):
            SequenceSMC(factor_model(other, lambda x: x.sum(-1)), site="x").run()
    with pytest.raises(TypeError, match="`twist`"):
        SequenceSMC(factor_model(prior, soft), site="x", twist=ones)


def test_kept_particles_stay_in_place():
    chosen = systematic(torch.randn(50, 3) * 2)
    moved = in_place(chosen)
    assert torch.equal(moved.sort(0).values, chosen.sort(0).values)
    places = torch.arange(50)
    for column in moved.T:
        kept = column.unique()
        assert torch.equal(column[kept], places[kept])


def test_names_are_exported():
    for name in ("SequenceSMC", "Admissible", "Lookahead", "LearnedTwist", "TwistContrast", "PrefixRegression"):
        assert name in inverse.__all__
