"""Plans under an exact prior with two routes: their proportion and the evidence of their ends, in closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.diffusion import CosineVP, Diffusion, GaussianMixtureDenoiser
from pyrogen.inverse import MomentMatched, TwistedSMC

LENGTH, WANDER, NOISE, SHARE = 5, 0.1, 0.05, 0.7
TIMES = torch.linspace(-1, 1, LENGTH)
ROUTES = torch.stack([torch.stack([TIMES, turn * (1 - TIMES.square())], -1) for turn in (1.0, -1.0)])  # above, below


def mixture():
    shares = dist.Categorical(torch.tensor([SHARE, 1 - SHARE]))
    return dist.MixtureSameFamily(shares, dist.Normal(ROUTES, WANDER).to_event(2))


def run(ends, *wishes, particles=2000):
    prior = Diffusion(GaussianMixtureDenoiser(mixture(), CosineVP()))

    def plan(ends):
        with pyro.plate("pairs", len(ends)):
            points = pyro.sample("plan", prior())
            pyro.sample("ends", dist.Normal(points[..., [0, -1], :], NOISE).to_event(2), obs=ends)
            for wish in wishes:
                wish(points)

    pyro.set_rng_seed(0)
    return TwistedSMC(plan, site="plan", particles=particles, steps=40, twist=MomentMatched()).run(ends)


def of_ends(ends):
    """Log-densities of ends on each route, with its share: ``(pairs, routes)``."""
    scale = (WANDER**2 + NOISE**2) ** 0.5
    each = dist.Normal(ROUTES[:, [0, -1]], scale).to_event(2).log_prob(ends.unsqueeze(1))
    return each + torch.tensor([SHARE, 1 - SHARE]).log()


@pytest.mark.slow
def test_routes_and_evidence_are_those_of_bayes_rule():
    ends = torch.tensor([[[-1.0, 0.0], [1.0, 0.0]], [[-1.1, 0.1], [0.95, 0.05]], [[-1.0, 0.0], [1.6, 0.0]]])
    posterior = run(ends)
    expected = of_ends(ends).logsumexp(-1)
    assert torch.allclose(posterior.log_evidence[:2], expected[:2], atol=0.15)
    assert (posterior.log_evidence[2] - expected[2]).abs() < 1.0  # where hardly any plan ends
    assert posterior.log_evidence[2] < posterior.log_evidence[:2].min() - 10
    above = (posterior.get_samples()["plan"][:, :2, LENGTH // 2, 1] > 0).double().mean(0)
    assert ((above - SHARE).abs() < 0.08).all()  # four standard errors of 500 draws, which 2,000 particles are worth


@pytest.mark.slow
def test_a_reward_moves_routes_by_its_odds():
    """Worth one nat above: the odds of the route grow by e."""

    def reward(points):
        pyro.factor("reward", (points[..., LENGTH // 2, 1] > 0).to(points.dtype))

    above = (run(ROUTES[:1, [0, -1]], reward).get_samples()["plan"][:, 0, LENGTH // 2, 1] > 0).double().mean()
    odds = SHARE / (1 - SHARE) * torch.e
    assert above.item() == pytest.approx(odds / (1 + odds), abs=0.08)
