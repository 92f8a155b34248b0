"""Values under a False mask do not matter: neither for the loss nor for its gradients, whatever they are."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from torch import nn

import pyrogen as pg
from pyrogen import flows
from pyrogen.core.density import density_of
from pyrogen.distributions import DiagonalNormal, IndependentBernoulli, families
from pyrogen.programs.hidden_values import without_hidden

SHOWN = torch.tensor([True, False, True])
FILLERS = [0.3, math.nan, math.inf, -7.5]


class Numbers(nn.Module):
    """Parameters of a family, and how a site of three rows is made of them."""

    def __init__(self, family):
        super().__init__()
        torch.manual_seed(0)
        self.family = family
        self.numbers = nn.Parameter(torch.randn(3, *family.numbers_shape((2,))))

    def forward(self):
        return self.family(self.numbers, 1)


class Interval(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.flow = flows.affine_coupling((2,), interval=(0.0, 1.0), layers=1, hidden=(4,), standardize=False)

    def forward(self):
        return self.flow().expand([3])


SITES = {
    "normal": lambda: Numbers(families.diagonal_normal),
    "normal of one scale": lambda: Numbers(families.normal(0.3)),
    "gamma": lambda: Numbers(families.gamma),
    "laplace": lambda: Numbers(families.laplace),
    "beta": lambda: Numbers(families.beta),
    "continuous bernoulli": lambda: Numbers(families.continuous_bernoulli),
    "interval": Interval,
}


class Model(nn.Module):
    def __init__(self, site, how):
        super().__init__()
        self.site, self.how = site, how

    def forward(self, x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        made = self.site()
        with pyro.plate("rows", 3):
            if self.how == "poutine":
                with poutine.mask(mask=SHOWN):
                    pyro.sample("x", made, obs=x)
            else:
                pyro.sample("x", made.mask(SHOWN), obs=x)
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.0))


class Guide(nn.Module):
    def forward(self, x):
        pyro.sample("z", dist.Normal(0.1, 0.5))


def loss_and_gradients(model, x, validate):
    pyro.set_rng_seed(1)
    with pyro.validation_enabled(validate):
        loss = pg.Elbo(model, Guide())(x)
    return loss, torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("how", ["poutine", "mask"])
@pytest.mark.parametrize("name", SITES)
def test_hidden_rows_do_not_matter_in_the_bound(name, how, validate):
    model = Model(SITES[name](), how)
    x = torch.full((3, 2), 0.4)
    expected, gradients = loss_and_gradients(model, x, validate)
    assert expected.isfinite()
    for filler in FILLERS:
        hidden = torch.where(SHOWN[:, None], x, filler)
        loss, found = loss_and_gradients(model, hidden, validate)
        assert torch.equal(loss, expected), filler
        assert all(torch.equal(a, b) for a, b in zip(found, gradients, strict=True) if a is not None), filler


@pytest.mark.parametrize("validate", [True, False])
def test_entries_hidden_inside_an_event_of_torchs_own(validate):
    shown = torch.tensor([[True, False], [True, True], [False, True]])
    loc = nn.Parameter(torch.zeros(3, 2))

    def model(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(loc, 1.0).mask(shown).to_event(1), obs=x)

    x = torch.full((3, 2), 0.4)
    with pyro.validation_enabled(validate):
        pyro.set_rng_seed(1)
        (expected,) = torch.autograd.grad(pg.Elbo(model, Guide())(x), loc)
        pyro.set_rng_seed(1)
        (found,) = torch.autograd.grad(pg.Elbo(model, Guide())(torch.where(shown, x, math.nan)), loc)
    assert torch.equal(found, expected)
    assert not found[~shown].any()
    assert torch.allclose(found[shown], torch.tensor(-0.4 / 3))


@pytest.mark.parametrize("name", SITES)
def test_masked_distributions_keep_density_support_and_score(name):
    made = SITES[name]()()
    x = made.sample()
    for wrapped in (made.mask(SHOWN), made.mask(SHOWN).to_event(1)):
        assert density_of(wrapped) == "exact"
        assert wrapped.support.check(x.reshape(wrapped.shape())).all()
    expected = torch.where(SHOWN, made.log_prob(x.clone()), 0.0)
    assert torch.allclose(made.mask(SHOWN).log_prob(x), expected)
    assert torch.allclose(made.mask(SHOWN).to_event(1).log_prob(x), expected.sum())
    hidden = torch.where(SHOWN[:, None], x, math.nan)
    assert torch.allclose(made.mask(SHOWN).to_event(1).log_prob(hidden), expected.sum())


@pytest.mark.parametrize("name", [*SITES, "bernoulli"])
def test_nan_has_no_gradient_through_a_mask(name):
    site = Numbers(families.bernoulli) if name == "bernoulli" else SITES[name]()
    x = torch.ones(3, 2) if name == "bernoulli" else site().sample()
    parameters = list(site.parameters())

    def gradients(value):
        score = site().mask(SHOWN).log_prob(value).sum()
        return torch.autograd.grad(score, parameters, allow_unused=True)

    pairs = zip(gradients(x), gradients(torch.where(SHOWN[:, None], x, math.nan)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs if a is not None)


def test_points_of_the_support_stand_in():
    normal = DiagonalNormal(torch.zeros(3, 2), torch.zeros(3, 2))
    x = torch.full((3, 2), math.nan)
    assert without_hidden(normal, x) is x
    assert without_hidden(normal, x, True) is x
    assert without_hidden(normal, x, False).tolist() == [[0.0, 0.0]] * 3
    assert without_hidden(normal, x, SHOWN).isnan()[:, 0].tolist() == SHOWN.tolist()
    bits = IndependentBernoulli(torch.zeros(3, 2))
    assert bits.support.check(without_hidden(bits, x, torch.zeros(3, dtype=torch.bool))).all()


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("how", ["deterministic", "location and scale", "transform", "noise of a flow"])
def test_computed_values_stay(how, validate):
    """They bear a mask and are none of the data: the program goes on with them."""
    x = torch.tensor([-1.0, 0.5, 2.0])
    flow = flows.affine_coupling((1,), layers=1, hidden=(4,), standardize=False)

    def model(x):
        with pyro.plate("rows", 3):
            if how == "deterministic":
                z = pyro.deterministic("twice", 2 * pyro.sample("z", dist.Normal(0.0, 1.0))) / 2
            elif how == "transform":
                z = pyro.sample(
                    "z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(1.0, 2.0))
                )
            elif how == "noise of a flow":
                z = pyro.sample("z", flow().expand([3]))[..., 0]
            else:
                z = pyro.sample("z", dist.Normal(1.0, 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    reparams = {"location and scale": LocScaleReparam(0.0), "transform": TransformReparam()}
    if how in reparams:
        model = poutine.reparam(model, {"z": reparams[how]})
    elif how == "noise of a flow":
        model = pg.inverse.in_noise(model, site="z")
    guide = AutoNormal(model)
    pyro.set_rng_seed(0)
    guide(x)
    pyro.set_rng_seed(0)
    expected = Trace_ELBO().differentiable_loss(model, guide, x) / 3
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(validate):
        assert torch.allclose(pg.Elbo(model, guide)(x), expected)
