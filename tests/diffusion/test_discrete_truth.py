"""Diffusion over symbols against what is known: a binary Markov chain of six symbols, enumerated, and its 64 events."""

import itertools
import math

import pyro
import pytest
import torch
from scipy.stats import chi2, norm

import pyrogen as pg
from pyrogen.autoregressive import AnyOrder, Categorical
from pyrogen.diffusion import (
    ClassifierFreeSymbols,
    ConfidenceOrdered,
    CosineSymbols,
    CosineVP,
    EnumeratedDenoiser,
    GeometricSymbols,
    MaskedDiffusion,
    MaskNoise,
    Multistep,
    PolynomialSymbols,
    RandomOrder,
    Remasking,
    SymbolAncestral,
    UniformDiffusion,
    UniformNoise,
    masked,
    uniform,
)
from pyrogen.numerics.categorical import draw_symbols

LENGTH, STAY = 6, 0.9
ENTROPY = 2.31856
"""Of the chain, in nats."""
IN_STEPS = {1: 4.15888, 2: 3.13496, 4: 2.69771, 8: 2.50068, 16: 2.4077, 128: 2.3295}
"""Minus the mean bound of masked diffusion in so many steps of the linear schedule, with the exact denoiser."""
EVENTS = torch.cartesian_prod(*[torch.arange(2)] * LENGTH)
SCHEDULES = [PolynomialSymbols(), PolynomialSymbols(2.0), CosineSymbols(), GeometricSymbols()]
SMALL = {"width": 16, "depth": 1, "heads": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def chain_log_probs():
    same = (EVENTS[:, 1:] == EVENTS[:, :-1]).double()
    return math.log(0.5) + (same * math.log(STAY) + (1 - same) * math.log(1 - STAY)).sum(-1)


def chain(kind, **options):
    noise = MaskNoise if kind is MaskedDiffusion else UniformNoise
    denoiser = EnumeratedDenoiser(chain_log_probs(), noise, symbols=2, event_shape=(LENGTH,))
    return kind(denoiser, **options)


def jiggled(module, size=0.3):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module.eval()


def mean_and_error(draws):
    """Of draws along the first dimension."""
    return draws.mean(0), draws.std(0) / len(draws) ** 0.5


def assert_near(draws, truth, quantile=1e-4):
    """The mean of draws is the truth, each of several by itself."""
    mean, error = mean_and_error(draws)
    bound = norm.isf(quantile / 2 / max(mean.numel(), 1))
    assert ((mean - truth).abs() < bound * error + 1e-5).all(), ((mean - truth) / error, truth)


def p_value(draws, log_probs):
    """Of a chi-square test of draws of the chain's events."""
    powers = 2 ** torch.arange(LENGTH - 1, -1, -1)
    counts = torch.bincount((draws.long() * powers).sum(-1), minlength=len(EVENTS)).double()
    expected = log_probs.exp() * len(draws)
    assert not counts[expected == 0].any()
    rare = expected < 5  # count as one
    counts, expected = (torch.cat([x[~rare], x[rare].sum(0, keepdim=True)]) for x in (counts, expected))
    counts, expected = counts[expected > 1e-9], expected[expected > 1e-9]
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum().item(), len(expected) - 1))


@pytest.mark.parametrize("kind", [MaskedDiffusion, UniformDiffusion])
def test_the_bound_of_the_exact_denoiser_is_the_log_probability_of_every_event(kind):
    model, some = chain(kind, draws=40), slice(None) if kind is MaskedDiffusion else slice(None, None, 7)
    draws = torch.stack([model().log_prob(EVENTS[some]) for _ in range(10 if kind is MaskedDiffusion else 60)])
    assert_near(draws, chain_log_probs()[some])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_bound_of_uniform_noise_does_not_depend_on_the_schedule(schedule):
    model = chain(UniformDiffusion, draws=500, schedule=schedule)
    x = EVENTS[[0, 11, 21]]
    draws = torch.stack([model().log_prob(x) for _ in range(20)])
    assert_near(draws, chain_log_probs()[[0, 11, 21]])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_bound_of_masks_is_the_integral_over_time_of_every_schedule(schedule):
    """The integral of Sahoo et al. (2024), eq. 11, term by term over all subsets, by quadrature in time."""
    model = jiggled(masked((3,), symbols=3, **SMALL)).double()
    x = torch.tensor([2, 0, 1])
    hidden = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    terms = model.denoiser(torch.where(hidden, 3, x), 0.5).gather(-1, x.expand(8, 3).unsqueeze(-1)).squeeze(-1)
    terms = torch.where(hidden, terms, 0.0).sum(-1).detach()
    middle = ((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000).unsqueeze(-1)
    share, slope, count = schedule(middle), schedule.slope(middle), hidden.sum(-1)
    chance = share**count * (1 - share) ** (3 - count)
    by_time = (slope / share * chance * terms).mean(0).sum()
    by_count = sum(terms[count == m].mean() / m for m in (1, 2, 3))
    torch.testing.assert_close(by_time, by_count, rtol=1e-3, atol=1e-3)
    bound = model().expand((4000,)).log_prob(x).detach()
    assert_near(bound, by_count)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_rise_from_zero_to_one_at_their_slope(schedule):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    share = schedule(t)
    torch.testing.assert_close(share[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (share.diff() > 0).all()
    inner = t[1:-1]
    slope = (schedule(inner + 1e-6) - schedule(inner - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.slope(inner), slope, rtol=1e-4, atol=1e-6)
    grid = schedule.grid(7)
    assert (len(grid), grid[0], grid[-1]) == (8, 1.0, 0.0)


@pytest.mark.parametrize("steps", [pytest.param(n, marks=pytest.mark.slow) if n > 16 else n for n in IN_STEPS])
def test_the_bound_in_steps_of_the_binary_chain(steps):
    model = chain(MaskedDiffusion, draws=max(16 // steps, 1), schedule=PolynomialSymbols())
    weights = chain_log_probs().exp()
    draws = torch.stack([-(weights * model().bound_in_steps(EVENTS, steps)).sum() for _ in range(20)])
    assert_near(draws, IN_STEPS[steps])
    assert abs(-(weights * chain_log_probs()).sum() - ENTROPY) < 1e-5


def test_the_bound_in_steps_of_uniform_noise_rises_to_that_in_continuous_time():
    model = chain(UniformDiffusion, draws=1)
    weights = chain_log_probs().exp()
    gaps = []
    for steps in (2, 8, 32):
        draws = torch.stack([(weights * model().bound_in_steps(EVENTS, steps)).sum() for _ in range(8)])
        mean, error = mean_and_error(draws)
        assert mean - 4 * error < -ENTROPY
        gaps.append(float(-ENTROPY - mean))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.15 * gaps[0]


@pytest.mark.parametrize("noise", [MaskNoise, UniformNoise])
def test_steps_back_against_powers_of_transition_matrices(noise):
    """D3PM's posterior, eq. 3 of Austin et al. (2021), from products of the matrices of single steps."""
    symbols = 3
    noise = noise(torch.full((1,), symbols))
    shares = [0.0, 0.1, 0.35, 0.6, 0.8]
    single = []
    for before, after in itertools.pairwise(shares):
        jumped = (after - before) / (1 - before)
        single.append((1 - jumped) * torch.eye(noise.states) + jumped * noise.stationary[0])
    single = [matrix.double() for matrix in single]
    for later in range(1, len(shares)):
        earlier = later - 1
        to_earlier = torch.linalg.multi_dot([torch.eye(noise.states).double()] * 2 + single[:earlier])
        for z, x in itertools.product(range(noise.states), range(symbols)):
            joint = to_earlier[x] * single[earlier][:, z]
            if not joint.sum():
                continue
            certain = torch.nn.functional.one_hot(torch.tensor([x]), symbols).double()
            found = noise.back(torch.tensor([z]), certain, shares[later], shares[earlier])
            torch.testing.assert_close(found[0], joint / joint.sum(), rtol=1e-5, atol=1e-7)
            likelihood = noise.likelihood(torch.tensor([z]), shares[later])[0, x]
            torch.testing.assert_close(likelihood.double(), joint.sum(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noise", [MaskNoise, UniformNoise])
def test_corruption_follows_its_probabilities(noise):
    noise = noise(torch.tensor([2, 4]))
    x, share, draws = torch.tensor([1, 2]), 0.37, 20_000
    noisy = noise.corrupt(x, share, torch.rand(draws, 2, dtype=torch.float64))
    for place in range(2):
        counts = torch.bincount(noisy[:, place], minlength=noise.states).double()
        states = torch.arange(noise.states).unsqueeze(-1).expand(-1, 2)
        inside = noise.stationary[place] + (torch.arange(noise.states) == x[place]) > 0
        chances = (share * noise.stationary[place]).double()
        chances[x[place]] += 1 - share
        torch.testing.assert_close(noise.likelihood(states, share)[:, place, x[place]].double(), chances)
        expected = (draws * chances)[inside]
        statistic = ((counts[inside] - expected) ** 2 / expected).sum().item()
        assert chi2.sf(statistic, int(inside.sum()) - 1) > 1e-4
        assert not counts[~inside].any()


SAMPLERS = {
    "one at a time": (MaskedDiffusion, RandomOrder()),
    "confidence at much temperature": (MaskedDiffusion, ConfidenceOrdered(temperature=1e6)),
    "masked ancestral": (MaskedDiffusion, SymbolAncestral(400)),
    "remasking": (MaskedDiffusion, Remasking(400, strength=0.05)),
    "uniform ancestral": (UniformDiffusion, SymbolAncestral(400)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_of_all_samplers_follow_the_chain(name):
    kind, sampler = SAMPLERS[name]
    assert p_value(chain(kind, sampler=sampler)().sample((1500,)), chain_log_probs()) > 1e-4


def test_draws_one_at_a_time_follow_the_chain():
    assert p_value(chain(MaskedDiffusion)().sample((4000,)), chain_log_probs()) > 1e-4


class Watched(EnumeratedDenoiser):
    """Keeps the share of noise that it was told, and the share of masks that it was shown."""

    def forward(self, noisy, share, context=None):
        self.seen.append((share, (noisy == 2).double().mean().item()))
        return super().forward(noisy, share, context)


@pytest.mark.parametrize(
    "sampler", [SymbolAncestral(6), Remasking(6), Remasking(6, strength=0.9), RandomOrder(steps=6)]
)
def test_as_much_is_masked_at_every_step_as_the_schedule_says(sampler):
    denoiser = Watched(chain_log_probs(), MaskNoise, symbols=2, event_shape=(LENGTH,))
    denoiser.seen, draws = [], 500
    MaskedDiffusion(denoiser, sampler=sampler)().sample((draws,))
    assert len(denoiser.seen) == 6
    for share, masked_share in denoiser.seen:
        exact = isinstance(sampler, RandomOrder)
        tolerance = 1 / LENGTH if exact else 4.5 * (share * (1 - share) / draws / LENGTH) ** 0.5 + 1e-9
        assert abs(share - masked_share) <= tolerance


def test_the_surest_first_are_likelier_than_draws():
    sure = chain(MaskedDiffusion, sampler=ConfidenceOrdered())().sample((500,))
    drawn = chain(MaskedDiffusion)().sample((500,))
    powers = 2 ** torch.arange(LENGTH - 1, -1, -1)
    likelihoods = [chain_log_probs()[(x * powers).sum(-1)].mean() for x in (sure, drawn)]
    assert likelihoods[0] > likelihoods[1] + 0.3


def test_a_given_part_by_enumeration():
    model, log_probs = chain(MaskedDiffusion, draws=40), chain_log_probs()
    value, mask = EVENTS[37], torch.tensor([False, True, False, False, True, False])
    same = (EVENTS[:, mask] == value[mask]).all(-1)
    truth = torch.where(same, log_probs - log_probs[same].logsumexp(0), -torch.inf)
    given = model().given(value, mask)
    assert p_value(given.sample((4000,)), truth) > 1e-4
    draws = torch.stack([given.log_prob(EVENTS) for _ in range(20)])
    assert (draws[:, ~same] == -torch.inf).all()
    assert_near(draws[:, same], truth[same])
    part = torch.stack([model().part_log_prob(value, mask) for _ in range(20)])
    assert_near(part, log_probs[same].logsumexp(0))
    whole = given.given(value, ~mask)
    assert torch.equal(whole.sample((3,)), value.expand(3, -1))
    assert whole.log_prob(value) == 0
    both = torch.stack([model().given(value, mask).part_log_prob(value, torch.arange(6) < 2) for _ in range(20)])
    joint = (EVENTS[:, mask | (torch.arange(6) < 2)] == value[mask | (torch.arange(6) < 2)]).all(-1)
    assert_near(both, log_probs[joint].logsumexp(0) - log_probs[same].logsumexp(0))


def test_one_network_is_a_masked_diffusion_and_a_model_over_any_order():
    """The bound is the mean over all orders of the exact log-probability along each."""
    model = jiggled(masked((3,), (2,), symbols=3, **SMALL), 0.5)
    network, shapes = model.denoiser.network, {"event_shape": (3,), "context_shape": (2,)}
    any_order = AnyOrder(network, Categorical(3), **shapes)
    context, x = torch.randn(2), torch.cartesian_prod(*[torch.arange(3)] * 3)
    along = [any_order.along(order)(context).log_prob(x) for order in itertools.permutations(range(3))]
    for scores in along:
        torch.testing.assert_close(scores.exp().sum(), torch.tensor(1.0))
    assert torch.stack(along).std(0).max() > 0.05
    truth = torch.stack(along).mean(0).detach()
    with torch.no_grad():
        assert_near(torch.stack([model(context).log_prob(x) for _ in range(100)]), truth)
        assert_near(torch.stack([any_order(context).log_prob(x) for _ in range(100)]), truth)
    drawn = any_order.along((2, 0, 1))(context).given(torch.tensor([0, 0, 2]), torch.arange(3) == 2).sample((4,))
    assert (drawn[:, 2] == 2).all()


def test_a_network_of_zeros_has_even_chances_and_no_noise():
    for recipe in (masked, uniform):
        model = recipe((3,), symbols=(2, 3, 4), **SMALL)
        x = torch.tensor([[1, 2, 3], [0, 0, 0]])
        torch.testing.assert_close(model().log_prob(x), torch.full((2,), -math.log(24)))


def test_the_sum_over_jumps_against_a_loop():
    model = jiggled(uniform((2,), symbols=(3, 5), **SMALL), 1.0).double()
    x, noisy, share = torch.tensor([2, 4]), torch.tensor([1, 4]), torch.tensor(0.4, dtype=torch.float64)
    log_probs = model.denoiser(noisy, share).detach()
    found = model.gain(log_probs, x, noisy, share.unsqueeze(-1))
    for place, symbols in enumerate((3, 5)):
        model_chances = (1 - share) * log_probs[place, :symbols].exp() + share / symbols
        data_chances = torch.full((symbols,), float(share / symbols), dtype=torch.float64)
        data_chances[x[place]] += 1 - share
        total = 0.0
        for other in set(range(symbols)) - {int(noisy[place])}:
            ratio = model_chances[other] / model_chances[noisy[place]]
            true = data_chances[other] / data_chances[noisy[place]]
            total = total + 1 - ratio + true * ratio.log()
        torch.testing.assert_close(found[place], total, rtol=1e-6, atol=1e-8)


def test_the_exact_denoiser_by_brute_force():
    """What all other symbols leave, from the joint of datum and noise written out."""
    log_probs = torch.randn(2 * 3, dtype=torch.float64).log_softmax(-1)
    events = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    for noise in (MaskNoise, UniformNoise):
        denoiser = EnumeratedDenoiser(log_probs, noise, symbols=(2, 3), event_shape=(2,))
        for noisy in torch.cartesian_prod(torch.arange(2), torch.arange(3)):
            found = denoiser(noisy, 0.3).exp()
            for place, symbols in enumerate((2, 3)):
                other = 1 - place
                chance = torch.stack([denoiser.noise.likelihood(noisy, 0.3)[other, e[other]] for e in events])
                joint = log_probs.exp() * chance
                by_symbol = torch.stack([joint[events[:, place] == s].sum() for s in range(symbols)])
                torch.testing.assert_close(found[place, :symbols], by_symbol / by_symbol.sum(), rtol=1e-5, atol=1e-7)
                assert not found[place, symbols:].any()


def test_guidance_tilts_what_is_drawn():
    tables = torch.randn(3, 4, dtype=torch.float64).log_softmax(-1)
    conditional = EnumeratedDenoiser(tables, MaskNoise, symbols=4, event_shape=(1,))
    weak = torch.randn(4, dtype=torch.float64).log_softmax(-1)
    unconditional = EnumeratedDenoiser(weak, MaskNoise, symbols=4, event_shape=(1,))
    guided = pg.diffusion.ClassifierFreeSymbols(conditional, weight=2.5, unconditional=unconditional)
    model = MaskedDiffusion(guided)
    truth = (weak + 2.5 * (tables - weak)).log_softmax(-1)
    for label in range(3):
        found = model(torch.tensor(label)).log_prob(torch.arange(4).unsqueeze(-1))
        torch.testing.assert_close(found, truth[label], rtol=1e-5, atol=1e-6)
    one = pg.diffusion.ClassifierFreeSymbols(conditional, weight=1.0, unconditional=unconditional)
    none = pg.diffusion.ClassifierFreeSymbols(conditional, weight=0.0, unconditional=unconditional)
    hidden, label = torch.tensor([4]), torch.tensor(1)
    torch.testing.assert_close(one(hidden, 1.0, label)[0], tables[1])
    torch.testing.assert_close(none(hidden, 1.0, label)[0], weak)


@pytest.mark.slow
def test_rare_symbols_are_drawn_as_often_as_they_should():
    """In single precision less than half of what is due at 1e-7, and nothing at 1e-8."""
    rare, rows = 1e-7, 1_000_000
    log_probs = torch.tensor([1.0, *[rare] * 20]).log()
    hits = sum(int((draw_symbols(log_probs.expand(rows, 21)) > 0).sum()) for _ in range(10))
    assert abs(hits - 20) < 4 * 20**0.5  # 20 are due


def test_what_makes_no_model_of_symbols_is_refused():
    with pytest.raises(ValueError, match="`symbols` must be one number, or one for each of the 3"):
        masked((3,), symbols=(2, 3), **SMALL)
    with pytest.raises(ValueError, match="`symbols`"):
        masked((3,), symbols=(2, 3, 1), **SMALL)
    with pytest.raises(ValueError, match="`width` must be a multiple of twice `heads`"):
        masked((3,), symbols=2, width=18, heads=4)
    with pytest.raises(ValueError, match="`low` must be less"):
        GeometricSymbols(2.0, 1.0)
    with pytest.raises(ValueError, match="`power`"):
        PolynomialSymbols(0.0)
    with pytest.raises(ValueError, match="`strength`"):
        Remasking(4, strength=1.0)
    with pytest.raises(ValueError, match="`denoiser` must be a SymbolDenoiser"):
        MaskedDiffusion(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`log_probs` must name all 4"):
        EnumeratedDenoiser(torch.zeros(3), MaskNoise, symbols=2, event_shape=(2,))
    with pytest.raises(ValueError, match="sum to one"):
        EnumeratedDenoiser(torch.zeros(4), MaskNoise, symbols=2, event_shape=(2,))
    module = masked((3,), symbols=2, **SMALL)
    with pytest.raises(ValueError, match="`mask` must be boolean"):
        module().given(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="`values` must hold symbols within"):
        module().given(torch.full((3,), 7), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="`mask` must end in shape"):
        module().given(torch.zeros(3), torch.ones(2, dtype=torch.bool))
    known = torch.ones(3, dtype=torch.bool)
    zeros = module().given(torch.zeros(3), known)
    with pytest.raises(ValueError, match="`values` must agree"):
        zeros.given(torch.ones(3), known)
    other = uniform((3,), symbols=2, **SMALL)
    other.sampler = RandomOrder()
    with pytest.raises(ValueError, match="`sampler` must be SymbolAncestral"):
        other().sample()
    with pytest.raises(NotImplementedError, match="has no `given`"):
        other().given(torch.zeros(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="must have a context to be guided by"):
        pg.diffusion.ClassifierFreeSymbols(module.denoiser, weight=2.0)


def test_the_bound_in_steps_of_a_given_part_is_that_of_the_rest():
    log_probs, model = chain_log_probs(), chain(MaskedDiffusion, draws=20)
    known = torch.tensor([True, False, False, True, False, False])
    given = model().given(EVENTS[21], known)
    fits = (EVENTS[:, known] == EVENTS[21, known]).all(-1)
    conditional = (log_probs[fits] - log_probs[fits].logsumexp(-1)).exp()
    mean = (conditional * given.bound_in_steps(EVENTS[fits], 256)).sum()
    assert abs(mean - (conditional * conditional.log()).sum()) < 0.05
    assert (given.bound_in_steps(EVENTS[~fits], 2) == -math.inf).all()
    everything = model().given(EVENTS[21], torch.ones(LENGTH, dtype=torch.bool))
    assert everything.bound_in_steps(EVENTS[21], 4) == 0


def test_numbers_that_are_no_symbols_have_no_bound_in_steps():
    rows = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 7], [0, 1, 0, 1, 0, math.nan]])
    with pyro.validation_enabled(False):
        found = chain(MaskedDiffusion)().bound_in_steps(rows, 4)
    assert found[0].isfinite()
    assert found[1] == -math.inf
    assert found[2].isnan()


@pytest.mark.parametrize("kind", [MaskedDiffusion, UniformDiffusion])
@pytest.mark.parametrize("schedule", [GeometricSymbols(high=100.0), PolynomialSymbols(2000.0)], ids=repr)
def test_steps_at_whose_ends_nothing_happens_do_no_harm(kind, schedule):
    model = chain(kind, schedule=schedule, sampler=SymbolAncestral(20))
    assert model().sample((5,)).shape == (5, LENGTH)
    assert (model().bound_in_steps(EVENTS[:5], 20) < 0).all()
    if kind is MaskedDiffusion:
        model.sampler = Remasking(20)
        assert model().sample((500,)).max() == 1


TWO = torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5]).log()
"""Of three symbols that are the same."""


def test_an_impossible_event_has_no_probability():
    model = MaskedDiffusion(EnumeratedDenoiser(TWO, MaskNoise, symbols=2, event_shape=(3,)), draws=50)
    found = model().log_prob(torch.cartesian_prod(*[torch.arange(2)] * 3))
    assert (found[1:-1] == -math.inf).all()
    assert found[[0, -1]].isfinite().all()


@pytest.mark.parametrize("schedule", [PolynomialSymbols(0.1), PolynomialSymbols(8.0), GeometricSymbols(1e-9, 200.0)])
def test_extreme_schedules_of_uniform_noise_leave_the_bound_alone(schedule):
    draws = torch.stack(
        [chain(UniformDiffusion, draws=200, schedule=schedule)().log_prob(EVENTS[:1]) for _ in range(20)]
    )
    assert_near(draws, chain_log_probs()[:1])


def test_uniform_noise_gives_an_impossible_event_the_probability_of_a_millionth_of_noise():
    model = UniformDiffusion(EnumeratedDenoiser(TWO.double(), UniformNoise, symbols=2, event_shape=(3,)), draws=4000)
    x = torch.tensor([[0, 0, 0], [0, 1, 0]])
    draws = torch.stack([model().log_prob(x) for _ in range(20)])
    # One symbol of the second is wrong: it was replaced, with a chance of 1e-6 / 2.
    assert_near(draws, torch.tensor([0.5, 0.5 * 0.5e-6], dtype=torch.float64).log())


def test_a_symbol_that_others_rule_out_stays_as_it_is():
    noisy = torch.tensor([1, 0, 2])
    denoiser = EnumeratedDenoiser(TWO, MaskNoise, symbols=2, event_shape=(3,))
    back = denoiser.noise.back(noisy, denoiser(noisy, 0.5).exp(), 0.5, 0.25)
    assert back[:2, :2].tolist() == [[0, 1], [1, 0]]


def test_guidance_leaves_out_what_either_denoiser_rules_out():
    same, free = torch.tensor([[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]]).log(), torch.full((2, 4), 0.25).log()
    noisy, label = torch.tensor([0, 2]), torch.tensor(0)

    def exact(log_probs):
        return EnumeratedDenoiser(log_probs, MaskNoise, symbols=2, event_shape=(2,))

    for weight in (0.5, 2.0):
        for strong, weak in ((same, free[0]), (free, same[0])):
            guided = ClassifierFreeSymbols(exact(strong), weight=weight, unconditional=exact(weak))
            assert guided(noisy, 0.5, label)[1].exp().tolist() == [1, 0]


@pytest.mark.parametrize("kind", [MaskedDiffusion, UniformDiffusion])
def test_parts_of_another_kind_of_diffusion_are_refused(kind):
    with pytest.raises(TypeError, match="`schedule` must be a SymbolSchedule, got CosineVP"):
        chain(kind, schedule=CosineVP())
    with pytest.raises(TypeError, match="`sampler` must be a SymbolSampler, got Multistep"):
        chain(kind, sampler=Multistep())
