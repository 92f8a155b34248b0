"""What distributions can do beyond Pyro's interface: found through wrappers, refused by name where it is missing."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution

import pyrogen as pg
from pyrogen.distributions.abilities import (
    Abilities,
    abilities_of,
    draw_and_score,
    has_draw_and_score,
    log_prob_by_element,
    push_forward,
)

LOC, LOG_SCALE = torch.tensor([[0.5, -1.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([0.3, -0.5])


def normal():
    return pg.distributions.DiagonalNormal(LOC, LOG_SCALE)


WRAPPERS = {
    "itself": lambda d: d,
    "independent": lambda d: dist.Independent(d, 1),
    "to_event": lambda d: d.to_event(1),
    "masked": lambda d: d.mask(torch.tensor([True, False, True])),
    "expanded": lambda d: ExpandedDistribution(d, torch.Size((4, 3))),
    "all": lambda d: dist.Independent(ExpandedDistribution(d, torch.Size((4, 3))).mask(torch.tensor(True)), 1),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_abilities_are_found_through_wrappers(wrap):
    own = normal()
    assert abilities_of(WRAPPERS[wrap](own)) is own


@pytest.mark.parametrize("distribution", [dist.Normal(0.0, 1.0), dist.Independent(dist.Normal(LOC, 1.0), 1)])
def test_foreign_distributions_have_none_and_are_named(distribution):
    abilities = abilities_of(distribution)
    declared = (abilities.has_given, abilities.has_joint, abilities.has_denoiser, abilities.has_push_forward)
    assert not any(declared)
    with pytest.raises(NotImplementedError, match="Normal has no `given`: autoregressive models"):
        abilities.given(torch.zeros(()), torch.zeros(()))


@pytest.mark.parametrize(
    ("name", "use", "who"),
    [
        ("given", lambda d: d.given(LOC, LOC > 0), "autoregressive"),
        ("part_log_prob", lambda d: d.part_log_prob(LOC, LOC > 0), "autoregressive"),
        ("joint", lambda d: d.joint(), "variational autoencoders"),
        ("denoiser", lambda d: d.denoiser, "diffusion"),
        ("push_forward", lambda d: d.push_forward(), "flows"),
        ("rsample_and_log_prob", lambda d: d.rsample_and_log_prob(), "draw_and_score"),
        ("log_prob_by_element", lambda d: d.log_prob_by_element(LOC), "independent"),
    ],
)
def test_a_missing_ability_names_who_has_it(name, use, who):
    class Plain(Abilities, dist.Dirichlet):
        pass

    with pytest.raises(NotImplementedError, match=f"Plain has no `{name}`: .*{who}"):
        use(Plain(torch.ones(3, 2)))


def test_families_declare_what_they_have():
    assert pg.autoregressive.made((4,), symbols=2)().has_given
    assert pg.latent.binary_vae((4,), latent_shape=2)().has_joint
    assert pg.diffusion.mlp((4,))().has_denoiser
    flow = pg.flows.affine_coupling((4,))()
    assert flow.has_push_forward
    assert flow.has_rsample_and_log_prob


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_draw_and_score_is_rsample_and_log_prob_in_one_pass(wrap):
    distribution = WRAPPERS[wrap](normal())
    assert has_draw_and_score(distribution)
    value, log_prob = draw_and_score(distribution, (5,))
    assert value.shape == distribution.shape((5,))
    torch.testing.assert_close(log_prob, distribution.log_prob(value))


def test_draw_and_score_falls_back_to_two_passes():
    distribution = dist.Gamma(torch.ones(3), 1.0)
    assert not has_draw_and_score(distribution)
    value, log_prob = draw_and_score(distribution)
    assert torch.equal(log_prob, distribution.log_prob(value))


@pytest.mark.parametrize(
    "distribution",
    [
        normal(),
        dist.Normal(LOC, LOG_SCALE.exp()),
        dist.Normal(LOC, LOG_SCALE.exp()).to_event(1),
        pg.distributions.IndependentBernoulli(LOC),
        dist.Bernoulli(logits=LOC).to_event(1),
    ],
)
def test_elements_are_scored_one_by_one(distribution):
    value = distribution.sample()
    scores = log_prob_by_element(distribution, value)
    assert scores.shape == LOC.shape
    torch.testing.assert_close(scores.sum(-1), distribution.log_prob(value).reshape(3, -1).sum(-1))


@pytest.mark.parametrize(
    "distribution",
    [
        normal(),
        dist.Normal(LOC, LOG_SCALE.exp()),
        dist.TransformedDistribution(dist.Normal(LOC, 1.0), dist.transforms.ExpTransform()),
        pg.transforms.TransformedDistribution(dist.Normal(LOC, 1.0).to_event(1), [dist.transforms.ExpTransform()]),
    ],
)
def test_a_push_forward_of_noise_is_a_draw(distribution):
    noise, sent = push_forward(distribution)
    draws = sent(noise.sample((20_000,)))
    assert draws.shape == distribution.shape((20_000,))
    others = distribution.sample((20_000,))
    error = (draws.log1p().nan_to_num().std(0) + 1) * 6 / 20_000**0.5
    assert (draws.clamp(-5, 5).mean(0) - others.clamp(-5, 5).mean(0)).abs().lt(5 * error).all()


def test_what_is_no_push_forward_has_none():
    assert push_forward(dist.Gamma(torch.ones(3), 1.0)) is None
