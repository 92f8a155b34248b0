"""Importance-weighted objectives of Pyro pairs, against the VAE's own, Pyro's, and exact evidence."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import flat_gradient, linear_vae
from pyro.infer import RenyiELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

import pyrogen as pg
from pyrogen import latent
from pyrogen.latent import DoublyReparameterizedPair, ImportanceWeightedPair, RenyiPair, StickingTheLandingPair

pairs = {
    "importance": (ImportanceWeightedPair, latent.ImportanceWeighted),
    "renyi": (partial(RenyiPair, alpha=0.4), partial(latent.Renyi, alpha=0.4)),
    "landing": (StickingTheLandingPair, latent.StickingTheLanding),
    "double": (DoublyReparameterizedPair, latent.DoublyReparameterized),
}


@pytest.fixture
def x():
    return torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", pairs)
def test_the_views_of_a_vae_have_its_own_objective_on_the_same_noise(name, x):
    torch.manual_seed(0)
    vae = linear_vae().double()
    of_pair, of_vae = (make for make in pairs[name])
    losses = []
    for objective in (of_pair(vae.model, vae.guide, draws=5, plates=1), of_vae(vae, draws=5)):
        torch.manual_seed(2)
        losses.append(objective(x))
    torch.testing.assert_close(*losses)
    parameters = list(vae.parameters())
    torch.testing.assert_close(*(flat_gradient(loss, parameters) for loss in losses))


# --- a latent of all data beside one of each -----------------------------------------------------------------

N = 12
Y = torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
EVIDENCE = dist.MultivariateNormal(torch.zeros(N).double(), 2 * torch.eye(N).double() + 1).log_prob(Y).item()


class Levels(nn.Module):
    """A mean of all data, a level of each, and the data."""

    def __init__(self, size=None):
        super().__init__()
        self.size = size
        self.mean = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def forward(self, y):
        mean = pyro.sample("mean", dist.Normal(self.mean, 1.0))
        with pyro.plate("data", self.size or len(y), subsample_size=len(y)):
            level = pyro.sample("level", dist.Normal(mean, 1.0))
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)


class Guide(nn.Module):
    """Exact for offset zero: the posterior of the mean, and of a level given mean and datum."""

    def __init__(self, offset=0.0, size=None):
        super().__init__()
        self.size = size
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def forward(self, y):
        precision = 1 + N / 2
        mean = pyro.sample("mean", dist.Normal(Y.sum() / 2 / precision + self.offset, precision**-0.5))
        with pyro.plate("data", self.size or len(y), subsample_size=len(y)):
            pyro.sample("level", dist.Normal((mean + y) / 2 + self.offset, 0.5**0.5))


@pytest.mark.parametrize("plates", [None, 1])
@pytest.mark.parametrize("name", pairs)
def test_with_the_exact_guide_every_bound_is_the_evidence(name, plates):
    objective = pairs[name][0](Levels(), Guide(), draws=3, plates=plates)
    assert objective(Y).item() == pytest.approx(-EVIDENCE / N, rel=1e-6)


@pytest.mark.parametrize("plates", [None, 1])
@pytest.mark.parametrize("name", ["landing", "double"])
def test_at_the_exact_guide_its_gradient_has_no_noise(name, plates):
    guide = Guide()
    gradient = torch.autograd.grad(pairs[name][0](Levels(), guide, draws=3, plates=plates)(Y), [guide.offset])[0]
    assert abs(gradient.item()) < 1e-8


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_weights_of_all_data_are_those_of_pyro(alpha):
    torch.manual_seed(2)
    ours = RenyiPair(Levels(), Guide(0.1), alpha=alpha, draws=4, plates=1)(Y)
    torch.manual_seed(2)
    theirs = RenyiELBO(alpha, num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    assert ours.item() == pytest.approx(theirs.loss(Levels(), Guide(0.1), Y) / N, rel=1e-6)


class Chain(nn.Module):
    """A guide whose levels follow its mean."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, y):
        mean = pyro.sample("mean", dist.Normal(self.loc, 0.4))
        with pyro.plate("data", len(y)):
            pyro.sample("level", dist.Normal(0.7 * mean + self.offset, 0.8))


def test_the_doubly_reparameterized_gradient_is_that_of_the_definition():
    """Squares of weights times path derivatives, also through latents that hang together."""
    model, guide = Levels(), Chain()
    torch.manual_seed(0)
    losses = [StickingTheLandingPair(model, guide)(Y) for _ in range(3)]
    weights = (-N * torch.stack(losses)).detach().softmax(0)
    torch.manual_seed(0)
    loss = DoublyReparameterizedPair(model, guide, draws=3)(Y)
    for parameters, power in ((list(guide.parameters()), 2), ([model.mean], 1)):
        expected = sum(w**power * flat_gradient(each, parameters) for w, each in zip(weights, losses, strict=True))
        torch.testing.assert_close(flat_gradient(loss, parameters), expected)


def test_minibatches_of_latents_of_all_data_are_refused_where_weights_are_averaged():
    for name in ("importance", "renyi", "double"):
        with pytest.raises(ValueError, match="all 12 data together, got a minibatch of 4"):
            pairs[name][0](Levels(N), Guide(size=N), draws=3)(Y[:4])
        with pytest.raises(ValueError, match="all 12 data together"):
            pg.fit(pairs[name][0](Levels(), Guide(), draws=3, size=N), Y, steps=1, batch_size=4)
        with pytest.raises(ValueError, match="outside the data plate"):
            pg.fit(pairs[name][0](Levels(), Guide(), draws=3), Y, steps=1, batch_size=4)


@pytest.mark.parametrize("size", [None, N])
def test_sticking_the_landing_takes_minibatches_as_the_elbo_does(size):
    losses = []
    for make in (StickingTheLandingPair, pg.Elbo):
        torch.manual_seed(0)
        model, guide = (Levels(), Guide(0.2)) if size else (Levels(N), Guide(0.2, N))
        losses.append(make(model, guide, size=size)(Y[:4]).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Local(nn.Module):
    def __init__(self, size=None, mask=None):
        super().__init__()
        self.size, self.mask = size, mask

    def forward(self, y):
        mask = True if self.mask is None else self.mask
        with pyro.plate("data", self.size or len(y), subsample_size=len(y)), pyro.poutine.mask(mask=mask):
            level = pyro.sample("level", dist.Normal(torch.zeros_like(y), 1.0))
            pyro.sample("y", dist.Normal(level, 1.0), obs=y)


class LocalGuide(Local):
    def forward(self, y):
        mask = True if self.mask is None else self.mask
        with pyro.plate("data", self.size or len(y), subsample_size=len(y)), pyro.poutine.mask(mask=mask):
            pyro.sample("level", dist.Normal(y / 2, 0.5**0.5))


@pytest.mark.parametrize("name", pairs)
def test_minibatches_of_local_latents_average_to_all_data(name):
    """With the exact guide there is no noise: nats per datum whatever the plate says."""
    expected = -dist.Normal(0.0, 2**0.5).log_prob(Y)
    make = pairs[name][0]
    assert make(Local(), LocalGuide(), draws=3)(Y).item() == pytest.approx(expected.mean().item(), rel=1e-6)
    for objective in (make(Local(N), LocalGuide(N), draws=3), make(Local(), LocalGuide(), draws=3, size=N)):
        assert objective(Y[:4]).item() == pytest.approx(expected[:4].mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", pairs)
def test_masked_rows_weigh_nothing(name):
    mask = torch.arange(N) < 9
    found = pairs[name][0](Local(mask=mask), LocalGuide(mask=mask), draws=3, plates=1)(Y)
    expected = -dist.Normal(0.0, 2**0.5).log_prob(Y[:9]).sum() / N
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


class Wide(nn.Module):
    def forward(self, y):
        with pyro.plate("data", len(y)):
            pyro.sample("level", dist.Normal(y / 2 + 0.4, 0.9))


@pytest.mark.parametrize("plates", [None, 1])
def test_the_bound_rises_to_the_evidence(plates):
    exact = dist.Normal(0.0, 2**0.5).log_prob(Y).mean().item()
    torch.manual_seed(0)
    found = []
    for draws, repeats in ((1, 100), (5, 50), (100, 10)):
        objective = ImportanceWeightedPair(Local(), Wide(), draws=draws, plates=plates)
        found.append(-sum(objective(Y).item() for _ in range(repeats)) / repeats)
    assert found[0] < found[1] < found[2]
    assert found[0] < exact - 0.1
    assert found[2] == pytest.approx(exact, abs=0.02)


class Noisy(pg.distributions.UnitNormal):
    density = "lower bound"


def test_what_weights_cannot_hold_is_refused_by_name():
    def scaled(y):
        with pyro.poutine.scale(scale=0.5):
            Local()(y)

    def more(y):
        Local()(y)
        pyro.sample("more", dist.Normal(0.0, 1.0))

    def discrete(y):
        with pyro.plate("data", len(y)):
            pyro.sample("level", dist.Poisson(torch.ones_like(y)))

    def bounded(y):
        with pyro.plate("data", len(y)):
            pyro.sample("level", Noisy((), y))

    def iterated(y):
        for i in pyro.plate("data", len(y)):
            pyro.sample(f"y{i}", dist.Normal(0.0, 1.0), obs=y[i])

    make = partial(ImportanceWeightedPair, draws=2)
    with pytest.raises(ValueError, match="'level' must not be scaled"):
        make(scaled, LocalGuide())(Y)
    with pytest.raises(ValueError, match=r"`guide` must have the latent sites of `model`, got \['more'\]"):
        make(more, LocalGuide())(Y)
    with pytest.raises(NotImplementedError, match="'level' are not differentiable"):
        make(Local(), discrete)(Y)
    with pytest.raises(NotImplementedError, match="'data' must be entered by `with`"):
        make(iterated, lambda y: None)(Y)
    with pytest.raises(ValueError, match="`draws` must be at least 1, got 0"):
        make(Local(), LocalGuide(), draws=0)
    with pytest.raises(ValueError, match="`alpha` must not be 1"):
        RenyiPair(Local(), LocalGuide(), alpha=1, draws=2)
    with pytest.raises(ValueError, match="`guide` must be an nn.Module"):
        StickingTheLandingPair(Local(), lambda y: None)


@pytest.mark.parametrize("name", pairs)
@pytest.mark.parametrize("automatic", [AutoNormal, AutoMultivariateNormal])
def test_they_train_automatic_guides(name, automatic):
    class Line(nn.Module):
        def forward(self, y):
            slope = pyro.sample("slope", dist.LogNormal(0.0, 1.0))
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(slope, 1.0), obs=y)

    guide = automatic(Line())
    y = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 2
    objective = pairs[name][0](guide.model, guide, draws=4, plates=1)
    result = pg.fit(objective, y, steps=200, seed=0, optimizer=partial(torch.optim.Adam, lr=0.03))
    slope = torch.linspace(0.01, 5, 5000)
    log_joint = dist.LogNormal(0.0, 1.0).log_prob(slope) + dist.Normal(slope[:, None], 1.0).log_prob(y).sum(1)
    evidence = (log_joint.logsumexp(0) + (slope[1] - slope[0]).log()).item()
    assert sum(result.history.loss[-100:]) / 100 == pytest.approx(-evidence / 30, abs=0.02)
