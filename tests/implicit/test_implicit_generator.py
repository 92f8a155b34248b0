"""Generators as priors of Pyro programs, and what they refuse: whatever needs their density."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.distributions import PushForward, UnitNormal
from pyrogen.implicit import Game, Generator, mlp

NOISE = 0.5


def linear():
    """x = W z + b of three numbers, from two."""
    torch.manual_seed(0)
    return Generator(nn.Linear(2, 3), (3,), noise=(2,))


def moments(generator):
    """Mean and covariance of the draws of a linear generator."""
    weight, bias = generator.network.weight.detach(), generator.network.bias.detach()
    return bias, weight @ weight.T


def model(y, generator):
    x = pyro.sample("x", generator())
    pyro.sample("y", dist.Normal(x[..., :2], NOISE).to_event(1), obs=y)


Y = torch.tensor([0.7, -0.4])


def posterior(generator):
    mean, covariance = moments(generator)
    gain = covariance[:, :2] @ torch.linalg.inv(covariance[:2, :2] + NOISE**2 * torch.eye(2))
    return mean + gain @ (Y - mean[:2]), covariance - gain @ covariance[:2]


def test_draws_have_the_moments_of_the_push_forward():
    generator = linear()
    mean, covariance = moments(generator)
    draws = generator().sample((20_000,))
    assert (draws.mean(0) - mean).abs().max() < 4 * (covariance.diagonal().max() / 20_000).sqrt()
    torch.testing.assert_close(draws.T.cov(), covariance, atol=0.03, rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chain", "guide"])
def test_the_posterior_under_a_generator_is_that_of_its_noise(kind):
    generator = linear()
    if kind == "chain":
        answer = pg.inverse.NoiseMCMC(model, site="x", draws=300, warmup=100)
    else:
        answer = pg.inverse.NoiseVI(model, site="x", draws=4000, steps=500)
    x = answer.run(Y, generator).get_samples()["x"]
    mean, covariance = posterior(generator)
    assert (x.mean(0) - mean).abs().max() < 0.15
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.12, rtol=0.1)


def test_a_generator_stands_in_predictive_and_in_simulators():
    generator = linear()
    drawn = Predictive(model, num_samples=50)(None, generator)
    assert drawn["x"].shape == (50, 3)
    simulations = pg.simulation.Joint(lambda: model(None, generator), observed="y").draw(40, seed=0)
    assert simulations.latents["x"].shape == (40, 3)
    assert simulations.observed["y"].shape == (40, 2)
    views = generator.model(size=6)
    assert views.shape == (6, 3)


REFUSED = {
    "log_prob": (lambda g: g().log_prob(torch.zeros(3)), "no log_prob.*in_noise"),
    "likelihood": (lambda g: pg.MaximumLikelihood(g), "Generator has density None"),
    "fit": (lambda g: pg.fit(g, torch.zeros(4, 3), steps=1), r"Game\(generator, critic\)"),
    "guide": (lambda g: g.guide, "no guide and no ELBO"),
    "score": (lambda g: pg.log_prob(g, torch.zeros(4, 3)), "density None"),
    "bits": (
        lambda g: pg.evaluation.bits_per_dimension(g, torch.zeros(4, 3), log_volume=0.0),
        "two-sample|no log_prob|density None",
    ),
    "mean": (lambda g: g().mean, "average draws"),
    "observation": (
        lambda g: pyro.poutine.trace(lambda: pyro.sample("x", g(), obs=torch.zeros(3))).get_trace().log_prob_sum(),
        "no log_prob",
    ),
    "elbo": (
        lambda g: SVI(
            lambda: pyro.sample("x", g()), lambda: pyro.sample("x", g()), pyro.optim.Adam({}), Trace_ELBO()
        ).step(),
        "no log_prob",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_density_is_refused_and_names_the_way_out(name):
    use, message = REFUSED[name]
    with pytest.raises(NotImplementedError, match=message):
        use(linear())


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: Generator(nn.Linear(2, 3), (3,), noise="2"), TypeError, "`noise` must be a sequence"),
        (lambda: Generator(nn.Linear(2, 3), (3,), noise=nn.Linear(2, 2)), ValueError, "`noise` must be a Distribution"),
        (lambda: Generator(nn.Linear(2, 3), (3,), {"z": (2,)}, noise=(2,)), ValueError, "`context_shape` must name"),
        (
            lambda: Generator(nn.Linear(2, 3), (3,), noise=pg.flows.affine_coupling((2,), (4,))),
            ValueError,
            "`noise` must have no context or that of the generator",
        ),
        (
            lambda: Generator(nn.Linear(2, 4), (3,), noise=(2,))().sample(),
            ValueError,
            r"`network` must give events \(1, 3\)",
        ),
        (
            lambda: Generator(nn.Linear(2, 3), (3,), noise=(2,), support=(0, 1)),
            TypeError,
            "`support` must be a Constraint",
        ),
        (lambda: linear().generated(torch.zeros(5)), ValueError, r"`z` must end in shape \(2,\)"),
    ],
)
def test_generators_that_do_not_fit_are_refused_by_name(build, kind, message):
    with pytest.raises(kind, match=message):
        build()


def test_a_stated_support_is_left_as_it_is():
    pixels = Generator(
        nn.Sequential(nn.Linear(2, 3), nn.Sigmoid()), (3,), noise=(2,), support=constraints.unit_interval
    )
    assert pixels().support.event_dim == 1
    assert pixels().support.base_constraint is constraints.unit_interval
    pg.fit(Game(pixels, Score()), torch.rand(50, 3), steps=1)
    draws = pixels().sample((50,))
    assert ((draws >= 0) & (draws <= 1)).all()


@pytest.mark.parametrize("objective", [lambda g: Game(g, Score()), pg.implicit.EnergyDistance])
def test_data_that_a_generator_cannot_draw_are_refused(objective):
    network = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())
    pixels = Generator(network, (3,), noise=(2,), support=constraints.unit_interval)
    for generator, x, message in (
        (
            pixels,
            255 * torch.rand(50, 3),
            r"`x` must lie in the support .*Interval\(lower_bound=0.0, upper_bound=1",
        ),
        (pixels, torch.randint(0, 2, (50, 3)), "`x` must hold floating-point numbers"),
        (linear(), torch.randint(0, 256, (50, 3)), "`x` must hold floating-point numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            pg.fit(objective(generator), x, steps=1)


class Labels(pg.DistributionModule):
    """Noise without a gradient: one of three corners."""

    def forward(self, context=None):
        return dist.OneHotCategorical(torch.tensor([0.5, 0.3, 0.2]))


def test_noise_without_a_gradient_drives_a_generator_all_the_same():
    """Each of three points goes to the nearest of the data, of the same probability."""
    torch.manual_seed(0)
    generator = Generator(nn.Linear(3, 1), (1,), noise=Labels((3,)))
    generator.network.weight.data = torch.tensor([[-0.5, 0.0, 0.5]])
    points = torch.tensor([[-2.0], [0.0], [3.0]])[torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 4000, True)]
    pg.fit(pg.implicit.EnergyDistance(generator, draws=2), points, steps=100, batch_size=256, lr=3e-2, seed=0)
    found = generator.generated(torch.eye(3)).squeeze(-1).detach()
    torch.testing.assert_close(found, torch.tensor([-2.0, 0.0, 3.0]), atol=0.1, rtol=0)
    pg.fit(Game(generator, pg.implicit.mlp_critic((1,), hidden=(8,))), points, steps=2)


def test_noise_learns_of_its_context_from_the_data_set():
    flow = pg.flows.affine_coupling((2,), (3,), layers=1)
    generator = Generator(pg.networks.context_embeddings.WithContext(nn.Linear(2, 2), "z"), (2,), (3,), noise=flow)
    context = 100 + torch.randn(50, 3)
    pg.fit(pg.implicit.EnergyDistance(generator), (torch.randn(50, 2), context), steps=1)
    mean = next(buffer for name, buffer in flow.named_buffers() if name.endswith("entry_.mean"))
    torch.testing.assert_close(mean, context.mean(0))


class Score(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3, 1)

    def forward(self, x, context=None):
        return self.network(x).squeeze(-1)


def test_discrete_noise_draws_and_does_not_differentiate():
    noise = dist.Categorical(torch.ones(3))
    pushed = PushForward(noise, lambda code: torch.eye(3)[code], (3,))
    assert pushed.expand((4,)).sample((5,)).shape == (5, 4, 3)
    assert not pushed.has_rsample
    with pytest.raises(NotImplementedError, match="noise that has one, got Categorical"):
        pushed.rsample()


def test_a_push_forward_wraps_and_expands():
    pushed = PushForward(UnitNormal((2,), torch.zeros(())), lambda z: z.sum(-1), ())
    assert pushed.expand((3, 2)).to_event(1).sample((4,)).shape == (4, 3, 2)
    assert pg.density_of(pushed.expand((3,)).to_event(1)) is None
    with pyro.plate("rows", 7):
        assert pyro.sample("x", pushed).shape == (7,)


def test_contexts_reach_noise_and_network_row_by_row():
    generator = mlp((2,), {"a": (3,), "label": ()}, classes={"label": 4}, noise=(1,), hidden=(8,))
    context = {"a": torch.randn(5, 1, 3), "label": torch.arange(4)}
    distribution = generator(context)
    assert distribution.batch_shape == (5, 4)
    z = torch.zeros(5, 4, 1)
    whole = generator.generated(z, context)
    single = generator.generated(z[2, 3], {"a": context["a"][2, 0], "label": context["label"][3]})
    torch.testing.assert_close(whole[2, 3], single)


def test_a_trained_generator_comes_back_from_a_file(tmp_path):
    generator = mlp((3,), classes=2, noise=(2,), hidden=(8,))
    x, labels = 7 + torch.randn(40, 3), torch.arange(40) % 2
    pg.fit(Game(generator, Score()), (x, labels), steps=2)
    pg.save(generator, tmp_path / "generator")
    loaded = pg.load(tmp_path / "generator")
    z = torch.randn(40, 2)
    torch.testing.assert_close(loaded.generated(z, labels), generator.generated(z, labels))
    assert (loaded.standardizer.mean > 6).all()
