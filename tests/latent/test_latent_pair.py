"""The marginal of any model/guide pair: against the closed form and the VAE, and what it refuses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import exact_log_prob, linear_vae
from torch import nn

import pyrogen as pg
from pyrogen.latent import Marginal
from pyrogen.testing import check_distribution


class Program(nn.Module):
    """A model or guide written by hand, with a nested plate."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae


class HandModel(Program):
    def forward(self, x):
        with pyro.plate("rows", len(x), dim=-1):
            with pyro.plate("latents", 2, dim=-2):
                z = pyro.sample("latent", dist.Normal(x.new_zeros(()), 1.0))  # (2, rows)
            pyro.sample("y", self.vae.likelihood(z.T), obs=x)


class HandGuide(Program):
    def forward(self, x):
        posterior = self.vae.posterior(x)
        with pyro.plate("rows", len(x), dim=-1), pyro.plate("latents", 2, dim=-2):
            pyro.sample("latent", dist.Normal(posterior.mean.T, posterior.stddev.T))


def test_a_pair_with_nested_plates_against_the_closed_form():
    torch.manual_seed(0)
    vae = linear_vae().double()
    marginal = Marginal(HandModel(vae), HandGuide(vae), event_shape=3, site="y", plate="rows", draws=20)
    x = torch.randn(4, 3, dtype=torch.float64)
    vae.draws = 20
    ours, theirs = (torch.stack([module().log_prob(x) for _ in range(400)]).detach() for module in (marginal, vae))
    error = (ours.var(0) + theirs.var(0)).sqrt() / 20
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).all()
    marginal.draws = 20_000
    torch.testing.assert_close(marginal().log_prob(x), exact_log_prob(vae, x), atol=0.1, rtol=0.0)
    draws = marginal().sample((20_000,))
    torch.testing.assert_close(draws.T.cov(), vae().sample((20_000,)).T.cov(), atol=0.06, rtol=0.0)


def test_trains_by_itself():
    torch.manual_seed(0)
    vae = linear_vae()
    marginal = Marginal(HandModel(vae), HandGuide(vae), event_shape=3, site="y", plate="rows")
    x = torch.randn(64, 3) @ torch.randn(3, 3)
    before = marginal.objective()(x).item()
    pg.fit(marginal, x, steps=100, seed=0, optimizer=lambda parameters: torch.optim.Adam(parameters, 0.02))
    assert marginal.objective()(x).item() < before - 0.5


def pair():
    vae = linear_vae()
    return Marginal(vae.model, vae.guide, event_shape=(3,), draws=10)


def test_contract():
    check_distribution(pair, event_shape=(3,)).raise_if_failed()


class Outside(Program):
    def forward(self, x):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.likelihood(slope * z), obs=x)


class OutsideGuide(Program):
    def forward(self, x):
        pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.vae.posterior(x))


class Scaled(Program):
    def forward(self, x):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=2.0):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.likelihood(z), obs=x)


class Greedy(Program):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.vae.prior())
            pyro.sample("x", self.vae.likelihood(z + x.mean(-1, keepdim=True)), obs=x)


class Lonely(Program):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("other", self.vae.prior())
            pyro.sample("x", self.vae.likelihood(z), obs=x)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (Outside, OutsideGuide, "the site 'slope' must be inside the plate 'data'"),
        (Scaled, None, "the site 'z' must not be scaled"),
        (Lonely, None, r"`guide` must have the latent sites of `model`, got \['other', 'z'\]"),
    ],
)
def test_pairs_without_a_marginal_are_refused(model, guide, message):
    vae = linear_vae()
    marginal = Marginal(model(vae), vae.guide if guide is None else guide(vae), event_shape=(3,), draws=5)
    with pytest.raises(ValueError, match=message), pyro.validation_enabled(False):
        marginal().log_prob(torch.randn(4, 3))


def test_other_refusals():
    vae = linear_vae()
    with pytest.raises(ValueError, match="site 'slope' must be inside"):
        Marginal(Outside(vae), vae.guide, event_shape=(3,))().sample((4,))
    with pytest.raises(ValueError, match="must use its data only to observe them"), pyro.validation_enabled(False):
        Marginal(Greedy(vae), vae.guide, event_shape=(3,))().sample((4,))
    with pytest.raises(ValueError, match="`site` must be one of the model's"):
        Marginal(vae.model, vae.guide, event_shape=(3,), site="y")().sample((4,))
    with pytest.raises(ValueError, match="`guide` must be an nn.Module"):
        Marginal(vae.model, lambda x: None, event_shape=(3,))
