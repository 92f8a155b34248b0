"""Divergences and activities of guides with closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import pyrogen as pg
from pyrogen.evaluation import collapse_report

SLOPES = torch.tensor([0.9, 0.3, 0.0])
SCALES = torch.tensor([0.4, 0.8, 1.0])


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, None] * SLOPES, SCALES).to_event(1))


@pytest.fixture
def x():
    pyro.set_rng_seed(0)
    return torch.randn(500)


def test_divergence_and_activity_are_the_closed_forms(x):
    use = collapse_report(model, guide, x, draws=400, batch_size=50_000).sites["z"]
    exact = kl_divergence(dist.Normal(x[:, None] * SLOPES, SCALES), dist.Normal(torch.zeros(3), 1.0)).double()
    torch.testing.assert_close(use.kl, exact, atol=1e-5, rtol=1e-5)
    assert use.rate.value == pytest.approx(float(exact.sum(1).mean()), abs=1e-5)
    activity = SLOPES.double() ** 2 * x.double().var()
    torch.testing.assert_close(use.activity, activity, atol=0.01, rtol=0)


def test_a_divergence_without_closed_form_is_averaged_over_draws(x):
    def student(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(3.0, torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    use = collapse_report(student, guide, x, draws=400, batch_size=50_000).sites["z"]
    grid = torch.linspace(-12, 12, 4001, dtype=torch.double)[:, None, None]
    log_q = dist.Normal((x[:, None] * SLOPES).double(), SCALES.double()).log_prob(grid)
    exact = (log_q.exp() * (log_q - dist.StudentT(3.0, 0.0, 1.0).log_prob(grid))).sum(0) * 24 / 4000
    # The log-ratio of a draw has a standard deviation of order one, and 500 x 400 draws average it.
    torch.testing.assert_close(use.kl_per_element, exact.mean(0), atol=5 / (500 * 400) ** 0.5, rtol=0)


def test_the_noise_of_few_draws_is_no_activity(x):
    use = collapse_report(model, guide, x, draws=2).sites["z"]
    # Two draws of unit variance have means of variance 1/2; the error of its estimate over 500 data is 0.07.
    assert abs(float(use.activity[2])) < 0.15
    assert float(use.activity[0]) == pytest.approx(0.81, abs=0.2)


def test_the_dead_element_is_named(x):
    report = collapse_report(model, guide, x, draws=400, batch_size=50_000)
    use = report.sites["z"]
    assert use.active().tolist() == [True, True, False]
    assert use.collapsed().tolist() == [False, False, True]
    assert str(report).endswith("nats (estimate), 2 of 3 elements active, 1 collapsed")


def test_a_flow_prior_has_a_rate_but_no_parts(x):
    torch.manual_seed(0)
    flow = pg.flows.affine_coupling((3,), layers=2, hidden=(8,))

    def with_flow(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", flow())
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    report = collapse_report(with_flow, guide, x)
    assert str(report).endswith("2 of 3 elements active")
    use = report.sites["z"]
    assert use.kl.shape == (500,)
    assert use.kl_per_element is None
    assert use.active().tolist() == [True, True, False]
    with pytest.raises(ValueError, match="dependent elements"):
        use.collapsed()


def test_matrix_latents_of_our_own_modules_have_parts():
    torch.manual_seed(0)
    vae = pg.latent.vae((4,), latent_shape=(2, 3), hidden=(8,))
    use = collapse_report(vae.model, vae.guide, torch.randn(30, 4), draws=8, batch_size=60).sites["z"]
    assert use.kl.shape == (30, 2, 3)
    assert use.activity.shape == (2, 3)


def test_several_latents_beside_inner_plates():
    torch.manual_seed(0)

    def nested(x):
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with pyro.plate("inner", 3, dim=-1):
                b = pyro.sample("b", dist.Normal(a.expand(-1, 3), 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guess(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("a", dist.Normal(x.mean(1, keepdim=True), 1.0))
            with pyro.plate("inner", 3, dim=-1):
                pyro.sample("b", dist.Normal(0.0, 1.0))

    report = collapse_report(nested, guess, torch.randn(20, 3))
    assert report.sites["a"].kl.shape == (20, 1)
    assert report.sites["b"].kl.shape == (20, 3)
    assert report.sites["b"].activity.shape == (3,)


@pytest.mark.parametrize(("rows", "draws"), [(1, 4), (4, 1)])
def test_one_of_anything_shows_no_variance(rows, draws):
    with pytest.raises(ValueError, match="must (be|hold) at least 2"):
        collapse_report(model, guide, torch.randn(rows), draws=draws)


def test_pairs_that_do_not_fit_are_refused(x):
    def other(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(x, 1.0))

    with pytest.raises(ValueError, match=r"missing are \['z'\]"):
        collapse_report(model, other, x)


@pytest.mark.parametrize("make", [lambda x: dist.Delta(x, event_dim=1), lambda x: dist.Delta(x).to_event(1)])
def test_a_point_mass_has_no_divergence_from_a_density(x, make):
    def points(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", make(x[:, None] * SLOPES))

    with pytest.raises(ValueError, match=r"must have a density at each latent site, got a point mass at \['z'\]"):
        collapse_report(model, points, x)


@pytest.mark.parametrize("density", ["lower bound", "unnormalized", None])
def test_a_divergence_needs_densities(density):
    class Declaring(dist.Normal):
        def expand(self, batch_shape, _instance=None):
            expanded = Declaring(self.loc.expand(batch_shape), self.scale.expand(batch_shape))
            expanded.density = density
            return expanded

    def declaring(loc):
        normal = Declaring(loc, 1.0)
        normal.density = density
        return normal

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def prior(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", declaring(torch.zeros(len(x))))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    def declaring_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", declaring(x))

    x = torch.randn(5)
    with pytest.raises(NotImplementedError, match=f"site 'z' of `model` has density {density!r}"):
        collapse_report(prior, guide, x)
    with pytest.raises(NotImplementedError, match=f"site 'z' of `guide` has density {density!r}"):
        collapse_report(model, declaring_guide, x)


def test_a_latent_that_only_follows_another_is_not_active():
    """The lower one has its prior as posterior, whose mean moves with the upper one, which knows the datum."""
    pyro.set_rng_seed(0)

    def pair(of_upper):
        def program(x):
            with pyro.plate("data", len(x)):
                upper = pyro.sample("upper", dist.Normal(*of_upper(x)))
                return pyro.sample("lower", dist.Normal(3 * upper, 0.1))

        return program

    x = torch.randn(400)
    report = collapse_report(pair(lambda x: (0 * x, 1.0)), pair(lambda x: (0.9 * x, 0.4)), x, draws=100)
    assert report.sites["upper"].active().item()
    assert not report.sites["lower"].active().item()
    assert report.sites["lower"].collapsed().item()
