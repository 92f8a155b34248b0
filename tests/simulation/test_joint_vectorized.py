"""Whether many simulations run at once is found out: programs that would give something else do not."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.simulation import Joint, Simulator


def normal(name="theta"):
    return pyro.sample(name, dist.Normal(0.0, 1.0))


def by_index(x=None):
    theta = pyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(theta[0], theta[1].exp()))


def by_mean(x=None):
    pyro.sample("x", dist.Normal(normal().mean(), 1.0))


def by_branch(x=None):
    theta = normal()
    pyro.sample("x", dist.Normal(theta if theta > 0 else -theta, 1.0))


def computed_less_the_mean(x=None):
    theta = normal()
    pyro.deterministic("x", theta - theta.mean())


def one_loop_for_all(x=None):
    y = normal().abs()
    while (y < 3).any():
        y = y + torch.rand_like(y)
    pyro.deterministic("x", y)


def shared_noise(x=None):
    pyro.deterministic("x", normal()[..., None] + torch.randn(4))


def shared_noise_of_numpy(x=None):
    pyro.deterministic("x", torch.as_tensor(normal().numpy() + np.random.randn(), dtype=torch.float32))


def unseeded(x=None):
    theta = normal()
    noise = np.random.default_rng().standard_normal(tuple(theta.shape))
    pyro.deterministic("x", theta + torch.as_tensor(noise, dtype=torch.float32))


def without_event(x=None):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0).expand([3]))
    pyro.sample("x", dist.Normal(theta.sum(-1), 1.0))


def captured_sum(x=None):
    total = normal().numpy().sum()
    pyro.sample("x", Simulator(lambda z, rng: z + total + rng.normal(), normal("z"), event_shape=()))


def matrix(x=None):
    theta = pyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(torch.ones(3, 2) @ theta, 1.0).to_event(1))


MIXING = [
    by_index,
    by_mean,
    by_branch,
    computed_less_the_mean,
    one_loop_for_all,
    shared_noise,
    shared_noise_of_numpy,
    unseeded,
    without_event,
    captured_sum,
    matrix,
]


@pytest.mark.parametrize("program", MIXING, ids=lambda program: program.__name__)
def test_programs_that_mix_simulations_run_one_by_one(program):
    joint = Joint(program, observed="x")
    assert not joint.vectorized
    assert "one by one (" in repr(joint)
    with pytest.warns(UserWarning, match="simulations run one by one"):
        assert len(joint.draw(6)) == 6
    assert len(joint.draw(6)) == 6  # it warns once


def of_many_sites(x=None):
    theta = pyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event(1))
    with pyro.plate("columns", 3, dim=-2):
        loc = pyro.sample("loc", dist.Gamma(theta[..., 0].exp(), 1.0))
        with pyro.plate("rows", 4, dim=-1):
            pyro.sample("x", dist.Poisson(loc), obs=x)


def computed_with_noise(x=None):
    y = normal()
    for _ in range(5):
        y = y + 0.1 * torch.randn_like(y)
    pyro.deterministic("x", y)


def rejection_in_a_function(x=None):
    def function(rate, rng):
        return rng.gamma(rate) * (1 + rng.poisson(rate))

    pyro.sample("x", Simulator(function, normal().exp(), event_shape=()))


def captured_constant(x=None):
    times = np.linspace(0, 1, 4)
    pyro.sample("x", Simulator(lambda theta, rng: theta * times + rng.gamma(2.0), normal(), event_shape=(4,)))


@pytest.mark.parametrize(
    "program",
    [of_many_sites, computed_with_noise, rejection_in_a_function, captured_constant],
    ids=lambda p: p.__name__,
)
def test_programs_with_batch_dimensions_run_at_once(program):
    assert Joint(program, observed="x").vectorized


def test_the_search_can_be_overruled():
    joint = Joint(by_mean, observed="x", vectorized=True)
    assert joint.vectorized
    assert not Joint(of_many_sites, observed="x", vectorized=False).vectorized


def lost_in_numpy(x=None):
    theta, other = normal(), normal("other")
    pyro.deterministic("x", torch.as_tensor(np.exp(theta.numpy()) + np.random.randn(*theta.shape), dtype=torch.float32))
    pyro.sample("y", dist.Normal(float(other.mean()), 1.0))


def test_dependence_is_found_where_values_leave_torch():
    joint = Joint(lost_in_numpy, observed=["x", "y"], vectorized=False)
    assert joint.dependence.parents == {"theta": frozenset(), "other": frozenset(), "x": {"theta"}, "y": {"other"}}


def test_dependence_of_simulators_is_that_of_their_arguments():
    def simulated(x=None):
        theta, other = normal(), normal("other")
        with pyro.plate("rows", 3):
            pyro.sample("x", Simulator(lambda t, rng: t + rng.normal(), theta, event_shape=()))
        pyro.sample("y", Simulator(lambda rng: float(other.sum()) + rng.normal(), event_shape=()))

    parents = Joint(simulated, observed=["x", "y"], vectorized=False).dependence.parents
    assert parents["x"] == {"theta"}
    assert parents["y"] == {"other"}


def with_noise_of_its_own(read):
    """A count between the sites, drawn by rejection: the noise of a row moves with the values of others."""

    def program(x=None):
        theta = pyro.sample("theta", dist.LogNormal(1.0, 1.0).expand([2]).to_event(1))
        rate = read(theta).expand(theta.shape[:-1])
        hidden = torch.distributions.Poisson(rate).sample() + torch.distributions.Gamma(rate, 1.0).sample()
        pyro.sample("x", dist.Normal(hidden, 1.0))

    return program


@pytest.mark.parametrize(
    ("read", "at_once"),
    [
        (lambda theta: theta.sum(-1), True),
        (lambda theta: theta.flatten()[0], False),
        (lambda theta: theta.sum(), False),
        (lambda theta: theta.mean(), False),
        (lambda theta: theta[..., 0] * (2.0 if bool((theta[..., 1] < 9).all()) else 1.0), False),
    ],
    ids=["by row", "first", "sum", "mean", "branch"],
)
def test_programs_with_noise_between_their_sites(read, at_once):
    torch.manual_seed(0)
    assert Joint(with_noise_of_its_own(read), observed="x").vectorized == at_once
