"""Masks hide entries wherever they stand; what is hidden never matters, NaN included."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian
from pyro import poutine
from pyro.distributions import transforms

import pyrogen as pg
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.inverse import (
    DAPS,
    DDRM,
    DPS,
    Completion,
    DiffPIR,
    GuidedSampling,
    MomentMatching,
    NoiseMCMC,
    NoiseVI,
    PiGDM,
    RePaint,
    TwistedSMC,
)
from pyrogen.inverse.observation import observed
from pyrogen.programs.site import Site

SHOWN = torch.tensor([True, False, True])
PRIOR = gaussian(torch.zeros(3), torch.eye(3))
NOISE = 0.5


def of_distribution(x):
    return dist.Normal(x, NOISE).mask(SHOWN).to_event(1)


def expanded_after(x):
    return dist.Normal(x, NOISE).mask(SHOWN).expand((3,)).to_event(1)


def masked_twice(x):
    first, second = torch.tensor([True, False, True]), torch.tensor([True, True, True])
    return dist.Normal(x, NOISE).mask(first).mask(second).to_event(1).mask(torch.tensor(True))


def under_a_transform(x):
    return dist.TransformedDistribution(dist.Normal(x, NOISE).mask(SHOWN), [transforms.AffineTransform(1.0, 1.0)])


def of_a_transform(x):
    return dist.TransformedDistribution(dist.Normal(x - 1, NOISE), [transforms.AffineTransform(2.0, 1.0)]).mask(SHOWN)


def of_a_lognormal(x):
    return dist.LogNormal(x, NOISE).mask(SHOWN).to_event(1)


def as_parts(x):
    return DiagonalNormal(x.unsqueeze(-1), torch.full((3, 1), math.log(NOISE))).mask(SHOWN).to_event(1)


FORMS = [of_distribution, expanded_after, masked_twice, under_a_transform, of_a_transform, of_a_lognormal, as_parts]


def moved(form, seen):
    """The data that say ``seen`` of x through a form, and the log-determinant of that."""
    if form is of_a_lognormal:
        return seen.exp(), -seen[SHOWN].sum()
    return (seen + 1 if "transform" in form.__name__ else seen), 0.0


@pytest.mark.parametrize("hidden", [99.0, math.nan, -math.inf])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_mask_inside_an_event_hides_its_entries_alone(form, hidden):
    seen = torch.tensor([1.0, 0.0, 3.0])
    y, volume = moved(form, seen)
    y = torch.where(SHOWN, y, hidden)
    y = y.unsqueeze(-1) if form is as_parts else y

    def model(y):
        fn = form(pyro.sample("x", PRIOR()))
        pyro.sample("y", fn.to_event(1) if fn.batch_shape else fn, obs=y)

    posterior = TwistedSMC(model, site="x", particles=1000, steps=30).run(y)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(seen[SHOWN]).sum() + volume
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.15, rtol=0)
    torch.testing.assert_close(posterior.get_samples()["x"].mean(0), torch.tensor([0.8, 0.0, 2.4]), atol=0.15, rtol=0)
    assert posterior.diagnostics().measurements == {"y": "Gaussian"}


def test_masks_of_rows_in_a_plate():
    y = torch.tensor([[1.0, math.nan, 3.0], [math.nan, math.nan, math.nan], [0.5, -1.0, math.nan]])

    def model(y):
        with pyro.plate("problems", len(y)):
            x = pyro.sample("x", PRIOR())
            pyro.sample("y", dist.Normal(x, NOISE).mask(~y.isnan()).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=1000, steps=30).run(y)
    exact = torch.where(y.isnan(), 0.0, dist.Normal(0.0, 1.25**0.5).log_prob(y.nan_to_num())).sum(-1)
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.2, rtol=0)
    torch.testing.assert_close(posterior.get_samples()["x"].mean(0), 0.8 * y.nan_to_num(), atol=0.15, rtol=0)


def test_missing_observations_by_obs_mask():
    y, shown = torch.tensor([1.0, math.nan, 3.0]), torch.tensor([True, False, True])

    def model(y):
        x = pyro.sample("x", PRIOR())
        with pyro.plate("entries", 3):
            pyro.sample("y", dist.Normal(x, NOISE), obs=y, obs_mask=shown)

    posterior = TwistedSMC(model, site="x", particles=1000, steps=30).run(y)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(torch.tensor([1.0, 3.0])).sum()
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.15, rtol=0)


@pytest.mark.parametrize(
    "guidance",
    [MomentMatching(), PiGDM(1.0), DPS(0.1), DiffPIR(), DDRM(), DAPS(1, variance=1.0), RePaint(3)],
    ids=lambda guidance: type(guidance).__name__,
)
def test_every_guidance_keeps_what_is_shown_and_no_more(guidance):
    def model(y):
        x = pyro.sample("x", PRIOR())
        pyro.sample("y", of_distribution(x), obs=y)

    def drawn(hidden):
        torch.manual_seed(0)
        y = torch.tensor([2.0, hidden, -2.0])
        found = GuidedSampling(model, site="x", guidance=guidance, draws=500, steps=30, calibrate=True).run(y)
        return found.get_samples()["x"]

    draws = drawn(math.nan)
    torch.testing.assert_close(draws, drawn(50.0))
    assert draws[:, 0].mean() > 0.5
    assert draws[:, 2].mean() < -0.5
    assert draws[:, 1].mean().abs() < 0.25


def test_hidden_numbers_do_not_stop_chains_and_guides_in_noise_space():
    prior = pg.flows.affine_coupling((3,), layers=1, hidden=(4,))  # starts as the identity

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", of_a_lognormal(x), obs=y)

    y = torch.where(SHOWN, torch.tensor([1.0, 0.0, 3.0]).exp(), torch.nan)
    for method in (NoiseMCMC(model, site="x", draws=100, warmup=50), NoiseVI(model, site="x", steps=100, draws=200)):
        mean = method.run(y).get_samples()["x"].mean(0)
        torch.testing.assert_close(mean, torch.tensor([0.8, 0.0, 2.4]), atol=0.4, rtol=0)


def test_completion_reads_masks_inside_an_event():
    prior = pg.autoregressive.any_order((4,), symbols=2, width=16, depth=1)
    shown = torch.tensor([False, True, False, True])

    def inside(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Delta(x).mask(shown).to_event(1), obs=y)

    def outside(y):
        x = pyro.sample("x", prior())
        with pyro.plate("entries", 4), poutine.mask(mask=shown):
            pyro.sample("y", dist.Delta(x), obs=y)

    for model in (inside, outside):
        draws = Completion(model, site="x", draws=200).run(torch.tensor([math.nan, 1.0, 7.0, 0.0])).get_samples()["x"]
        assert (draws[:, shown] == torch.tensor([1.0, 0.0])).all()
        assert len(draws[:, ~shown].unique(dim=0)) == 4


def test_the_log_probability_of_a_site_is_pyros_wherever_nothing_is_hidden():
    value = torch.rand(2, 3) + 0.5
    tril = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    several = [
        (dist.Normal(value, 1.0).to_event(1), value),
        (dist.LogNormal(0.0, 1.0).expand((2, 3)).to_event(2), value),
        (dist.Gamma(2.0, value).mask(torch.tensor([[True], [False]])), value),
        (dist.MultivariateNormal(torch.zeros(2), scale_tril=tril).expand((3,)), torch.rand(3, 2)),
        (dist.TransformedDistribution(dist.Normal(value, 1.0).to_event(1), [transforms.ExpTransform()]), value),
        (dist.Categorical(logits=torch.rand(3, 4)), torch.tensor([0, 3, 1])),
    ]
    for fn, data in several:
        site = Site("y", fn, data, (), observed=True, scale=2.0, mask=None)
        found = observed(site)
        total = (found.log_prob() * found.weight).sum()
        torch.testing.assert_close(total, 2 * fn.log_prob(data).sum())
