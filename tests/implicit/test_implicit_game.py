"""Games under ``fit``: what they learn, what is averaged and validated, what is refused, and how divergence is told."""

import math
import warnings
from functools import partial

import pytest
import torch
from small_programs import same, weights
from torch import nn
from torch.optim import SGD

import pyrogen as pg
from pyrogen.implicit import (
    R1,
    R2,
    FDivergence,
    FGan,
    Game,
    Generator,
    Hinge,
    LeastSquares,
    NonSaturating,
    QuadraticCritic,
    Wasserstein,
    mlp,
    mlp_critic,
    tabular,
)
from pyrogen.implicit.game import energy_score

MEAN, SCALE = torch.tensor([200.0, -1.0]), torch.tensor([50.0, 0.01])


def data(rows=512, seed=0):
    return MEAN + SCALE * torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


class Critic(nn.Module):
    """A dense critic that takes data in their own units, and contexts."""

    def __init__(self, inputs=2, hidden=32):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, 1), nn.Flatten(0))

    def forward(self, x, context=None):
        x = (x - MEAN) / SCALE
        return self.network(x if context is None else torch.cat([x, context], -1))


class Line(nn.Linear):
    """A linear generator of noise and, beside it, a context."""

    def forward(self, inputs):
        return super().forward(torch.cat([*inputs.values()], -1) if isinstance(inputs, dict) else inputs)


def game(seed=0, **arguments):
    torch.manual_seed(seed)
    return Game(mlp((2,), noise=(2,), hidden=(32,)), Critic(), **arguments)


LOSSES = [None, NonSaturating(), Hinge(), FGan(FDivergence.REVERSE_KL)]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_game_of_each_loss_learns_a_gaussian(loss):
    found = game(loss=loss)
    pg.fit(found, data(4096), steps=1500, batch_size=256, ema=0.99, seed=0)
    draws = (found.generator().sample((4000,)) - MEAN) / SCALE
    assert draws.mean(0).abs().max() < 0.15
    assert (draws.std(0) - 1).abs().max() < 0.2
    assert abs(draws.T.corrcoef()[0, 1]) < 0.15


@pytest.mark.slow
def test_the_wasserstein_game_with_its_penalty_learns_a_bent_distribution():
    """To an energy distance of .0001 to .005 in six runs, from .6; with the two-sided penalty it was .04 to .8."""
    torch.manual_seed(0)
    noise = torch.randn(6000, 2)
    x = torch.stack([noise[:, 0], 50 * noise[:, 0].square() + 30 * noise[:, 1]], 1)
    x, held_out = x[:4000], x[4000:]
    generator, critic = mlp((2,), noise=(2,), hidden=(64, 64)), mlp_critic((2,), hidden=(64, 64))
    found = Game(generator, critic, loss=Wasserstein(), critic_steps=3)
    pg.fit(found, x, steps=400, batch_size=128, ema=0.98, seed=0)
    drawn = generator().sample((2000,))
    assert pg.evaluation.energy_distance(held_out / x.std(0), drawn / x.std(0)) < 0.01
    bound = found.bound(held_out)
    assert abs(bound.value) < 0.05 + 4 * bound.standard_error


@pytest.mark.slow
def test_a_game_learns_the_distribution_given_a_label_and_a_number():
    """Means and deviations by context, within .12 and .1 in three runs."""
    torch.manual_seed(0)
    kind, number, noise = torch.arange(3000) % 3, torch.randn(3000, 1), torch.randn(3000, 2)
    label = kind.unsqueeze(-1)
    x = torch.cat([2 * label + (0.2 + 0.3 * label) * noise[:, :1], number + 0.5 * noise[:, 1:]], 1)
    make = {"context_shape": {"kind": (), "number": (1,)}, "classes": {"kind": 3}, "hidden": (64, 64)}
    generator = mlp((2,), noise=(2,), **make)
    context = {"kind": kind, "number": number}
    pg.fit(
        Game(generator, mlp_critic((2,), **make)), (x, context), steps=1500, batch_size=200, lr=2e-3, ema=0.99, seed=0
    )
    kinds, numbers = torch.arange(3).expand(2, 3), torch.tensor([-1.0, 1.0]).reshape(2, 1, 1)
    drawn = generator({"kind": kinds, "number": numbers}).sample((3000,))  # (3000, 2, 3, 2)
    mean = torch.stack([2.0 * kinds, numbers.squeeze(-1).expand(2, 3)], -1)
    deviation = torch.stack([0.2 + 0.3 * kinds, torch.full((2, 3), 0.5)], -1)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.2, rtol=0)
    torch.testing.assert_close(drawn.std(0), deviation, atol=0.15, rtol=0)


@pytest.mark.slow
def test_least_squares_come_nearer_too():
    """In two dimensions the energy score of a normal is half of sqrt(pi); the gradient fades where scores are small."""
    found, best = game(loss=LeastSquares(), penalties=(R1(0.1), R2(0.1))), math.sqrt(math.pi) / 2
    pg.fit(found, data(4096), steps=1, seed=0)
    x = data(2000, seed=1)
    before = found.metric(x).item() - best
    pg.fit(found, data(4096), steps=800, batch_size=256, ema=0.99, seed=0)
    assert found.metric(x).item() - best < 0.4 * before


@pytest.mark.parametrize("penalties", [None, ()], ids=["R1 and R2", "no penalties"])
def test_the_turns_of_a_game_pass_the_contract_of_objectives(penalties):
    def make():
        generator = mlp((2,), noise=(2,), hidden=(32,))
        return Game(generator, Critic(), loss=NonSaturating(), penalties=penalties).turns()

    report = pg.testing.check_objective(make, data(8))
    # The events at which a penalty takes the critic's slope are leaves of the graph.
    allowed = set() if penalties == () else {"parameters_registered"}
    assert {finding.name for finding in report.failures} == allowed, str(report)


def test_the_average_is_of_the_generator_alone_and_a_game_has_a_metric():
    plain, averaged = game(), game()
    pg.fit(plain, data(), steps=20, seed=0)
    result = pg.fit(averaged, data(), steps=20, seed=0, ema=0.9, validation=data(100, seed=1), validate_every=5)
    assert list(result.history.validation) == [5, 10, 15, 20]
    assert result.best_step == min(result.history.validation, key=result.history.validation.get)
    assert same(weights(plain.critic), weights(averaged.critic)) == (result.best_step == 20)
    assert not same(weights(plain.generator), weights(averaged.generator))
    assert result.history.unit == "nats"


def test_a_game_resumes_where_it_was(tmp_path):
    def play(steps, **arguments):
        found = game(critic_steps=2)
        held_out = data(50, seed=1)
        result = pg.fit(found, data(100), steps=steps, ema=0.9, validation=held_out, seed=0, batch_size=40, **arguments)
        return weights(found), result.history.losses

    expected, losses = play(9)
    for steps in (2, 5, 9):
        found, resumed = play(steps, checkpoint=tmp_path / "run")
    assert same(found, expected)
    assert resumed == losses


def test_the_units_of_the_data_are_learned_before_the_first_step():
    found = game()
    pg.fit(found, data(), steps=1, seed=0)
    for standardizer in (found.standardizer, found.generator.standardizer):
        torch.testing.assert_close(standardizer.mean, MEAN, rtol=0.1, atol=0)
        torch.testing.assert_close(standardizer.scale, SCALE, rtol=0.1, atol=0)
    draws = found.generator().sample((500,))
    assert ((draws.mean(0) - MEAN).abs() < SCALE).all()


def test_the_energy_score_in_closed_form():
    """Of standard normals it is 1 / sqrt(pi); of N(m, 1) under draws N(0, 1) more by half the energy distance."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 1, 1, generator=generator)
    x = torch.randn(4000, 1, generator=generator)
    root = 1 / math.sqrt(math.pi)
    assert energy_score(draws, x).item() == pytest.approx(root, abs=0.02)
    own = torch.randn(10, 4000, 1, generator=generator)
    assert energy_score(own, x).item() == pytest.approx(root, abs=0.04)
    between = 2 * root * math.exp(-1) + 2 * math.erf(1.0)  # E|X - x| of N(2, 2)
    assert energy_score(own, x + 2).item() == pytest.approx(between - root, abs=0.05)


def test_the_metric_of_a_game_prefers_the_right_distribution_given_the_context():
    torch.manual_seed(0)
    c = torch.randn(1000, 1)
    x = MEAN + SCALE * (c + 0.3 * torch.randn(1000, 2))
    found = Game(Generator(Line(3, 2), (2,), (1,), noise=(2,)), Critic(3))
    for statistic, rows in list(found.read_data(x, c)):
        moments = statistic.moments()
        moments.add(rows)
        statistic.learn(moments)
    last = found.generator.network
    spread = math.sqrt(1.09)
    values = {}
    with torch.no_grad():
        last.bias.zero_()
        for name, slope, noise in (("right", 1.0, 0.3), ("deaf", 0.0, spread), ("narrow", 1.0, 0.01)):
            last.weight.copy_(torch.tensor([[noise, 0.0, slope], [0.0, noise, slope]]) / spread)
            values[name] = found.metric(x, c).item()
    assert values["right"] < 0.97 * min(values["deaf"], values["narrow"])


def test_a_small_bound_of_a_critic_in_play_proves_nothing():
    """In the Dirac-GAN the critic is flat just where the generator is farthest."""
    found = game(loss=Wasserstein(), penalties=())
    pg.fit(found, data(), steps=1)
    found.critic.network[-2].weight.detach().zero_()
    x = data(200, seed=1)
    bound = found.bound(x)
    assert bound.value == 0
    assert bound.density == "estimate"
    assert bound.unit == "standard deviations"
    with torch.no_grad():
        found.generator.network.network.layers[-1].bias.add_(10.0)
    assert found.bound(x).value == 0
    assert found.metric(x) > 5


def test_a_bound_whose_numbers_have_no_variance_says_so():
    """exp(D) of draws of N(0, 1) with D = 3 x is lognormal: of a thousand, a few make up the mean."""
    torch.manual_seed(0)
    critic, line = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, slope in ((critic[0], 3.0), (line, 1.0)):
            layer.weight.fill_(slope), layer.bias.zero_()
    x = torch.randn(1000, 1) + 1
    for loss in (NonSaturating(), FGan(FDivergence.KL)):
        found = Game(Generator(line, (1,), noise=(1,)), critic, loss=loss, penalties=())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.bound(x)
        assert [str(warning.message)[:25] for warning in caught] == (
            ["the bound of FGan('kl') a"] if isinstance(loss, FGan) else []
        )


def test_a_critic_trained_on_gives_the_divergence():
    """Of N(0, 1) and N(1, 1) in each of two dimensions, against quadrature."""
    torch.manual_seed(0)
    found = Game(Generator(Line(2, 2), (2,), noise=(2,)), Critic(), loss=NonSaturating(), penalties=())
    x = data(20_000)
    pg.fit(found.turns()[0], x, steps=1)
    with torch.no_grad():
        last = found.generator.network
        last.weight.copy_(torch.eye(2))
        last.bias.fill_(1 / math.sqrt(2))
    pg.fit(found.turns()[0], x, steps=400, batch_size=512, lr=1e-2, seed=0)
    bound = found.bound(data(20_000, seed=1))
    assert bound.density == "lower bound"
    assert abs(bound.value - 0.11142) < 3 * bound.standard_error + 0.004
    assert bound.value < 0.11142 + 3 * bound.standard_error


DIVERGING = {"loss": Wasserstein(), "penalties": ()}


def test_a_game_that_diverges_is_reported_and_the_average_kept():
    found = game(**DIVERGING)
    seen = []

    def watch(progress):
        seen.append(progress.step)

    with pytest.raises(
        FloatingPointError, match="diverged at step .* beyond the limit 10000 .* average of those before"
    ):
        pg.fit(found, data(), steps=500, ema=0.9, seed=0, optimizer=partial(SGD, lr=3.0), callbacks=[watch])
    assert 1 < len(seen) < 500
    assert all(parameter.isfinite().all() for parameter in found.generator.parameters())
    assert found.generator().sample((5,)).isfinite().all()


def test_a_game_that_diverges_leaves_the_best_weights_on_held_out_data():
    found, kept = game(**DIVERGING), []

    def keep(progress):
        if progress.best_step == progress.step:
            kept.append(weights(found.generator))

    arguments = {"validation": data(100, seed=1), "validate_every": 1, "callbacks": [keep]}
    with pytest.raises(FloatingPointError, match="those of step .*, the best on held-out data"):
        pg.fit(found, data(), steps=500, seed=0, optimizer=partial(SGD, lr=3.0), **arguments)
    assert same(weights(found.generator), kept[-1])


def test_what_does_not_fit_is_refused_by_name():
    generator = mlp((2,), noise=(2,))
    with pytest.raises(ValueError, match="`generator` must be a DistributionModule, got Linear"):
        Game(nn.Linear(2, 2), Critic())
    for build, message in (
        (lambda: Game(generator, lambda x: x.sum(-1)), "`critic` must be a Module, got function"),
        (lambda: Game(generator, Critic(), loss="hinge"), "`loss` must be a Loss, got str"),
        (lambda: Game(generator, Critic(), penalties=[1.0]), "`penalties` must be a sequence of Penalties"),
        (lambda: Game(generator, Critic(), critic_steps=0.5), "`critic_steps` must be an int"),
    ):
        with pytest.raises(TypeError, match=message):
            build()


class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.score.expand(len(x))


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (Deaf(), "`critic` must give scores that depend on its input"),
        (nn.Linear(2, 1), r"`critic` must give scores \(128,\) of 128 rows, got shape \(128, 1\)"),
        (nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)), r"`critic` must give scores \(128,\).* got shape \(384,\)"),
    ],
)
@pytest.mark.parametrize("penalties", [None, ()])
def test_critics_that_cannot_learn_are_refused(critic, message, penalties):
    with pytest.raises(ValueError, match=message):
        pg.fit(Game(mlp((2,), noise=(2,)), critic, penalties=penalties), data(), steps=1)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`x` must end in shape \(2,\), got \(50, 3\)"):
        pg.fit(game(), torch.randn(50, 3), steps=1)
    with pytest.raises(ValueError, match="`x` must hold no NaN"):
        pg.fit(game(), torch.full((50, 2), torch.nan), steps=1)
    wrong = Generator(nn.Linear(2, 3), (2,), noise=(2,))
    with pytest.raises(ValueError, match="`network` must give events"):
        pg.fit(Game(wrong, Critic()), data(), steps=1)


def test_batch_statistics_of_one_row_are_refused():
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    found = Game(Generator(network, (2,), noise=(2,)), Critic())
    with pytest.raises(ValueError, match="`batch_size` must not leave a single row.*`generator` normalizes by"):
        pg.fit(found, data(9), steps=9, batch_size=2)
    assert pg.fit(found, data(8), steps=4, batch_size=4).reason == "steps"


@pytest.mark.parametrize("context_shape", [None, (3,)])
def test_a_module_whose_draws_carry_gradients_is_a_generator(context_shape):
    """It learns mean and scale by itself, and trains."""
    torch.manual_seed(0)
    flow = pg.flows.affine_coupling((2,), context_shape, layers=2)
    context = () if context_shape is None else (torch.randn(512, 3),)
    before = [parameter.clone() for parameter in flow.parameters()]
    found = Game(flow, mlp_critic((2,), context_shape, hidden=(8,)))
    pg.fit(found, (data(), *context), steps=2, ema=0.9, validation=0.5)
    assert not all(map(torch.equal, before, flow.parameters()))
    drawn = flow(*(c[:1] for c in context)).sample((500,)).mean(0).flatten()
    torch.testing.assert_close(drawn, MEAN, rtol=0.1, atol=1)


def test_draws_without_a_gradient_are_refused():
    counts = pg.Parametric(nn.Linear(3, 2), pg.families.poisson, event_shape=(2,), context_shape=(3,))
    found = Game(counts, mlp_critic((2,), (3,), hidden=(8,)))
    with pytest.raises(NotImplementedError, match="carry no gradients"):
        pg.fit(found, (torch.ones(9, 2), torch.randn(9, 3)), steps=1)


def test_critics_of_other_events_or_contexts_are_refused():
    generator, table = mlp((2,), noise=(2,)), tabular((2,), binary=[1])
    for build, message in (
        (lambda: Game(generator, mlp_critic((3,))), r"`critic` must take events of shape \(2,\).* got \(3,\)"),
        (lambda: Game(table, mlp_critic((2,))), r"`critic` must take events of shape \(3,\).* got \(2,\)"),
        (lambda: Game(generator, mlp_critic((2,), classes=3)), r"`critic` must take contexts of shape None.* got \(\)"),
        (lambda: Game(mlp((2,), classes=3), mlp_critic((2,))), r"`critic` must take contexts of shape \(\).* got None"),
        (lambda: Game(generator, QuadraticCritic((3,))), r"`critic` must take events of shape \(2,\).* got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_held_out_data_that_do_not_fit_are_refused_as_well():
    """A label beyond the classes would be none of them, without an error."""
    found, labels = Game(mlp((2,), classes=3), mlp_critic((2,), classes=3)), torch.arange(512) % 3
    with pytest.raises(ValueError, match="`context` must hold integer labels from 0 to 2, got 3 in .* of `validation`"):
        pg.fit(found, (data(), labels), steps=1, validation=(data(), labels + 1))
    held_out = data(5)
    held_out[3, 1] = torch.nan
    with pytest.raises(ValueError, match="`x` must hold no NaN, got NaN in row 3 of `validation`"):
        pg.fit(game(), data(), steps=1, validation=held_out)


def test_a_parameter_that_both_would_train_is_refused():
    embedding = nn.Embedding(3, 4)
    build = partial(Game, mlp((2,), classes=3, embedding=embedding))
    shared = build(mlp_critic((2,), classes=3, embedding=embedding))
    with pytest.raises(ValueError, match=r"`critic` must share no parameter .* got 'context.embedding.weight'"):
        pg.fit(shared, (data(), torch.arange(512) % 3), steps=1)
    embedding.requires_grad_(False)
    pg.fit(shared, (data(), torch.arange(512) % 3), steps=1)


def test_one_context_for_all_is_that_of_each():
    """It would give one draw, and another number, without an error."""
    found, x = Game(mlp((2,), (1,), noise=(2,)), Critic(3)), data(5)

    def value(use, context):
        torch.manual_seed(0)
        number = use(x, context)
        return number.value if isinstance(number, pg.evaluation.Estimate) else number.item()

    for use in (found.metric, found.bound, found.critic_loss, found.generator_loss):
        assert value(use, torch.ones(1, 1)) == value(use, torch.ones(5, 1))
        with pytest.raises(ValueError, match="`context` must have the batch shape of `x`"):
            use(x, torch.ones(1))
        with pytest.raises(ValueError, match=r"`x` must end in shape \(2,\)"):
            use(torch.zeros(5, 1), torch.zeros(5, 1))
