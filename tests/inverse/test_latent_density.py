"""The density of latent sites against sums and changes of variables written out."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor
from torch.distributions import Normal, constraints

from pyrogen.inverse import ManyChains
from pyrogen.inverse.latent_density import LatentDensity

WAYS = ("_parts", "_mapped", "_one_by_one")


def check(density: LatentDensity, x: Tensor, expected: Tensor) -> None:
    with pyro.validation_enabled(False):
        for way in WAYS:
            torch.testing.assert_close(getattr(density, way)(x).sum(-1), expected, rtol=1e-4, atol=1e-4)


def test_supports_may_depend_on_other_sites():
    def model():
        low = pyro.sample("low", dist.Normal(0.0, 1.0))
        width = pyro.sample("width", dist.Exponential(1.0))
        with pyro.plate("plate", 3):
            pyro.sample("between", dist.Uniform(low, low + width))

    density = LatentDensity(model, (), {})
    x = torch.randn(6, 5)
    low, width, share = x[:, 0], x[:, 1].exp(), x[:, 2:].sigmoid()
    # uniform numbers have density 1 / width, and width * share * (1 - share) is the derivative of each
    expected = Normal(0.0, 1.0).log_prob(low) - width + x[:, 1] + (share * (1 - share)).log().sum(1)
    check(density, x, expected)
    assert density._density == density._together
    found = density.completed(x)
    torch.testing.assert_close(found["between"], low[:, None] + width[:, None] * share)
    torch.testing.assert_close(density.packed(found), x, rtol=1e-3, atol=1e-4)


CHANCE, DATA = 0.25, torch.tensor([0.5, 3.0])
STEPS, TURNS = torch.tensor([0.1, 1.0]), torch.tensor([[0.8, 0.2], [0.3, 0.7]])


def labelled_latents(y):
    with pyro.plate("plate", 2):
        label = pyro.sample("label", dist.Bernoulli(CHANCE))
        x = pyro.sample("x", dist.Normal(3 * label, 1.0))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def by_label(x: Tensor) -> Tensor:
    alone, other = Normal(0.0, 1.0).log_prob(x), Normal(3.0, 1.0).log_prob(x)
    prior = torch.logaddexp(alone + torch.tensor(1 - CHANCE).log(), other + torch.tensor(CHANCE).log())
    return (prior + Normal(x, 1.0).log_prob(DATA)).sum(1)


def labelled_support(y):
    with pyro.plate("plate", 2):
        label = pyro.sample("label", dist.Bernoulli(CHANCE))
        pyro.sample("x", dist.Uniform(0.0, 1.0 + 3.0 * label))


def by_share(x: Tensor) -> Tensor:
    return (x.sigmoid() * (-x).sigmoid()).log().sum(1)  # the share of each number in its interval has no label


def switching(y):
    state, x = 0, torch.tensor(0.0)
    for t in pyro.markov(range(2)):
        state = pyro.sample(f"state_{t}", dist.Categorical(TURNS[state]), infer={"enumerate": "sequential"})
        x = pyro.sample(f"x_{t}", dist.Normal(x, STEPS[state]))
        pyro.sample(f"y_{t}", dist.Normal(x, 0.5), obs=y[t])


def by_states(x: Tensor) -> Tensor:
    terms = []
    for first, second in itertools.product(range(2), repeat=2):
        walk = Normal(0.0, STEPS[first]).log_prob(x[:, 0]) + Normal(x[:, 0], STEPS[second]).log_prob(x[:, 1])
        terms.append(walk + (TURNS[0, first] * TURNS[first, second]).log())
    return torch.stack(terms).logsumexp(0) + Normal(x, 0.5).log_prob(DATA).sum(1)


@pytest.mark.parametrize(
    ("model", "exact"),
    [(labelled_latents, by_label), (labelled_support, by_share), (switching, by_states)],
    ids=lambda function: function.__name__,
)
def test_continuous_sites_may_depend_on_discrete_ones(model, exact):
    density = LatentDensity(model, (DATA,), {})
    x = torch.randn(5, 2)
    check(density, x, exact(x))


def test_discrete_sites_are_drawn_given_the_continuous_ones_that_depend_on_them():
    torch.manual_seed(0)
    density = LatentDensity(switching, (DATA,), {})
    point, rows = torch.tensor([0.3, 0.6]), 4000
    x = point.expand(rows, 2)
    density(x[:2])
    found = density.completed(x)
    terms = torch.stack(
        [
            (TURNS[0, first] * TURNS[first, second]).log()
            + Normal(0.0, STEPS[first]).log_prob(point[0])
            + Normal(point[0], STEPS[second]).log_prob(point[1] - 0.0)
            for first, second in itertools.product(range(2), repeat=2)
        ]
    ).softmax(0)
    counts = torch.bincount((2 * found["state_0"] + found["state_1"]).long(), minlength=4)
    assert ((counts / rows - terms).abs() < 4.5 * (terms * (1 - terms) / rows).sqrt() + 1e-3).all(), (counts, terms)


def test_chains_that_start_at_one_point_do_not_depend_on_each_other():
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.mean(), 0.1), obs=torch.tensor(1.0))

    density = LatentDensity(model, (), {}, init_to_value(values={"x": torch.full((3,), 0.5)}))
    assert density(density.initial(4)).shape == (4,)
    assert density._density == density._mapped


def test_what_differs_by_little_beside_many_data_differs():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("data", -1e6 - (x - x.mean().expand_as(x)).square())  # nothing in single runs

    density = LatentDensity(model, (), {})
    density(density.initial(8))
    assert density._density == density._mapped


def test_a_matrix_without_a_decomposition_harms_no_other_chain():
    def model():
        scale = pyro.sample("scale", dist.Normal(0.0, 1.0))
        covariance = torch.eye(2) * scale[..., None, None]
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(2), covariance), obs=torch.ones(2))

    x = torch.tensor([[1.0], [-1.0], [2.0], [-2.0], [0.5]])
    density = LatentDensity(model, (), {}, init_to_value(values={"scale": torch.tensor(1.0)}))
    value = density(x)
    assert value.isfinite().tolist() == [True, False, True, False, True]
    torch.testing.assert_close(value[0], Normal(0.0, 1.0).log_prob(torch.tensor([1.0, 1.0, 1.0])).sum())
    found = ManyChains(model, seed=0, chains=4, draws=10, warmup=10, initial={"scale": torch.ones(4)}).run()
    assert (found.get_samples()["scale"] > 0).all()


def test_what_cannot_be_drawn_starts_at_given_values():
    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.positive, (), (2,)))
        pyro.sample("y", dist.Normal(x.log(), 1.0).to_event(1), obs=torch.zeros(2))

    posterior = ManyChains(model, seed=0, chains=4, draws=10, warmup=10, initial={"x": torch.rand(4, 2)}).run()
    assert posterior.get_samples()["x"].shape == (40, 2)
    with pytest.raises(NotImplementedError, match="the site 'x' cannot be drawn .* give `initial` values"):
        ManyChains(model).run()


def test_the_same_sites_in_every_run():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        if x > 0:
            pyro.sample("more", dist.Normal(5.0, 1.0))

    for start in (1.0, -1.0):
        density = LatentDensity(model, (), {}, init_to_value(values={"x": torch.tensor(start)}))
        x = torch.stack([-density.initial(1)[0], density.initial(1)[0]])
        with pytest.raises(ValueError, match=r"same latent sites in every run, got one with .*'x'"):
            density(x)


@pytest.mark.filterwarnings("ignore:Singular sample")  # torch says so of all
def test_supports_of_mixtures_and_matrices():
    def model():
        components = dist.Gamma(torch.tensor([1.0, 3.0]), 1.0)
        pyro.sample("mixture", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), components))
        pyro.sample("matrix", dist.Wishart(torch.tensor(5.0), torch.eye(2)))

    density = LatentDensity(model, (), {})
    values = density.completed(density.initial(3))
    assert (values["mixture"] > 0).all()
    assert (torch.linalg.eigvalsh(values["matrix"]) > 0).all()

    def sphere():
        pyro.sample("direction", dist.ProjectedNormal(torch.ones(3)))

    with pytest.raises(NotImplementedError, match="no bijection .* of the site 'direction' is known"):
        LatentDensity(sphere, (), {})


def test_what_an_obs_mask_hides_has_the_density_of_the_data():
    shown, data = torch.tensor([True, False, True]), torch.tensor([2.0, 0.0, 2.0])

    def model():
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("plate", 3):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=data, obs_mask=shown)

    density = LatentDensity(model, (), {})
    x = torch.randn(5, 4)
    mean, hidden = x[:, :1], x[:, 1:]
    expected = Normal(0.0, 1.0).log_prob(mean).sum(1) + Normal(mean, 1.0).log_prob(hidden).sum(1)
    check(density, x, expected + Normal(mean, 1.0).log_prob(data[shown]).sum(1))


def test_point_masses_are_no_coordinates():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        twice = pyro.sample("twice", dist.Delta(2 * x))
        with pyro.plate("plate", 2):
            pyro.sample("y", dist.Normal(twice, 1.0), obs=DATA)

    density = LatentDensity(model, (), {})
    x = torch.randn(5, 1)
    check(density, x, Normal(0.0, 1.0).log_prob(x[:, 0]) + Normal(2 * x, 1.0).log_prob(DATA).sum(1))
    torch.testing.assert_close(density.completed(x)["twice"], 2 * x[:, 0])


ANGLES = {
    "one": lambda: dist.VonMises(1.0, 2.0),
    "expanded": lambda: dist.VonMises(1.0, 2.0).expand([1]).to_event(1),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])), dist.VonMises(torch.tensor([3.0, -1.0]), 5.0)
    ),
}


@pytest.mark.parametrize("angle", ANGLES.values(), ids=ANGLES)
def test_angles_lie_on_the_circle_over_which_their_density_integrates_to_one(angle):
    density = LatentDensity(lambda: pyro.sample("angle", angle()), (), {})
    x = torch.linspace(-30, 30, 20_001).unsqueeze(1)
    assert abs(torch.trapezoid(density(x).exp(), x[:, 0]) - 1) < 1e-3
    assert (density.completed(x)["angle"].abs() <= math.pi).all()


def test_two_angles_lie_on_the_torus():
    zero = torch.zeros(())
    pair = dist.SineBivariateVonMises(zero, zero, zero + 2, zero + 2, correlation=zero + 0.5)
    for angles in (pair, dist.SineSkewed(pair, torch.tensor([0.3, -0.3]))):
        density = LatentDensity(lambda angles=angles: pyro.sample("angles", angles), (), {})
        assert (density.completed(100 * torch.randn(50, 2))["angles"].abs() <= math.pi).all()


def test_what_a_scale_makes_of_a_prior_counts_as_data():
    def model():
        with pyro.poutine.scale(scale=3.0):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("y", dist.Poisson(rate), obs=torch.tensor(2.0))

    density = LatentDensity(model, (), {})
    x = torch.randn(5, 1)
    rate = x[:, 0].exp()
    prior, data = dist.Gamma(2.0, 1.0).log_prob(rate), dist.Poisson(rate).log_prob(torch.tensor(2.0))
    check(density, x, 3 * prior + 3 * data + x[:, 0])
    found = density.parts(x)
    torch.testing.assert_close(found[0], prior + x[:, 0])
    torch.testing.assert_close(found[1], 2 * prior + 3 * data)
