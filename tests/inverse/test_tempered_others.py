"""Other latent sites beside the image, such as an unknown noise scale, against quadrature over them."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

from pyrogen.inverse import TemperedSMC
from pyrogen.inverse.powered_others import PoweredOthers
from pyrogen.inverse.problem import InverseProblem
from pyrogen.inverse.split_move import split_move
from pyrogen.inverse.unknowns import Unknowns

SIZE, MEASURED = 6, 12
COVARIANCE = (0.7 ** (torch.arange(SIZE)[:, None] - torch.arange(SIZE)).abs()).double()
OPERATOR = torch.randn(MEASURED, SIZE, generator=torch.Generator().manual_seed(3))
PRIOR = gaussian(torch.zeros(SIZE), COVARIANCE.float())
SCALE = dist.LogNormal(-1.0, 0.7)
Y = torch.distributions.MultivariateNormal(
    torch.zeros(MEASURED), OPERATOR @ COVARIANCE.float() @ OPERATOR.T + 0.25 * torch.eye(MEASURED)
)


def unknown_noise(y):
    scale = pyro.sample("scale", SCALE)
    pyro.sample("y", dist.Normal(OPERATOR @ pyro.sample("x", PRIOR()), scale).to_event(1), obs=y)


def given_noise(y, scale):
    """Evidence and mean of the image, given the noise scale."""
    operator, y = OPERATOR.double(), y.double()
    marginal = operator @ COVARIANCE @ operator.T + scale**2 * torch.eye(MEASURED)
    evidence = dist.MultivariateNormal(torch.zeros(MEASURED).double(), marginal).log_prob(y)
    return evidence, COVARIANCE @ operator.T @ torch.linalg.solve(marginal, y)


def exact(y):
    """Log evidence, mean and standard deviation of the log scale, and mean of the image, by quadrature."""
    points = torch.linspace(-5, 3, 801, dtype=torch.double)
    found = [given_noise(y, point.exp()) for point in points]
    log_joint = torch.stack([evidence for evidence, _ in found]) + dist.Normal(-1.0, 0.7).log_prob(points)
    weights = log_joint.softmax(0)
    mean = weights @ points
    spread = (weights @ (points - mean).square()).sqrt()
    return log_joint.logsumexp(0) + math.log(8 / 800), mean, spread, weights @ torch.stack([x for _, x in found])


@pytest.fixture
def y():
    torch.manual_seed(1)
    return Y.sample()


def test_an_unknown_noise_scale(y):
    answer = TemperedSMC(unknown_noise, site="x", particles=256).run(y)
    evidence, mean, spread, image = exact(y)
    diagnostics, draws = answer.diagnostics(), answer.get_samples()
    assert not diagnostics.collapsed
    assert answer.log_evidence.shape == ()
    assert abs(answer.log_evidence - evidence) < 5 * diagnostics.standard_error + 0.05
    worth = diagnostics.independent.item()
    assert draws["scale"].shape == (256,)
    log_scale = draws["scale"].log().double()
    assert abs(log_scale.mean() - mean) < 5 * spread / worth**0.5
    assert abs(log_scale.std() / spread - 1) < 5 * (0.5 / worth) ** 0.5
    error = (draws["x"].double().mean(0) - image) / draws["x"].double().std(0)
    assert error.abs().max() < 5 / worth**0.5


@pytest.mark.slow
def test_fitted_moves_leave_the_evidence_unbiased(y):
    """That of groups but the first, to which moves are fitted."""
    levels, runs = (20.0, 6.0, 3.0, 1.7, 1.1, 0.7, 0.4, 0.0), 14
    method = TemperedSMC(unknown_noise, site="x", particles=32 * 49, groups=49, levels=levels)
    answers = [method.run(y) for _ in range(runs)]
    ratios = torch.stack([answer.diagnostics().group_evidence[:, 0] - exact(y)[0] for answer in answers]).exp()
    others = ratios[:, 1:].mean(1)
    assert abs(others.mean() - 1) < 3.5 * others.std() / runs**0.5
    counted = torch.stack([answer.log_evidence for answer in answers]).double()
    torch.testing.assert_close((counted - exact(y)[0]).exp(), others, atol=1e-4, rtol=1e-4)


def test_moves_are_fitted_to_pilots_alone(y, monkeypatch):
    """The particles of the first group, or all if there is no other."""
    for groups, pilots in ((4, 8), (1, 32)):
        fitted, fit = [], PoweredOthers.fit
        monkeypatch.setattr(PoweredOthers, "fit", lambda self, x, fit=fit, to=fitted: (to.append(len(x)), fit(self, x)))
        answer = TemperedSMC(unknown_noise, site="x", particles=32, groups=groups, moves=1, levels=(1.0, 0.0)).run(y)
        assert set(fitted) == {pilots}
        monkeypatch.undo()
        diagnostics = answer.diagnostics()
        assert diagnostics.pilots == (groups > 1)
        counted = diagnostics.group_evidence[diagnostics.pilots :]
        torch.testing.assert_close(diagnostics.log_evidence, counted.logsumexp(0) - math.log(len(counted)))
        assert diagnostics.standard_error.isfinite().all()


@pytest.mark.parametrize("width", [0.0, 1.0])
def test_moves_leave_the_posterior_of_all_as_it_is(y, width):
    """Draws of it are so after moves of the image and of the noise scale, at any power of the likelihood."""
    power, count = 1 / (1 + width**2), 4000
    points = torch.linspace(-4, 4, 801, dtype=torch.double)
    # A power of a Gaussian likelihood is one with more noise, times what depends on the noise scale.
    lost = MEASURED * (1 - power) * points
    given = torch.stack([given_noise(y, point.exp() / power**0.5)[0] for point in points])
    weights = (given + lost + dist.Normal(-1.0, 0.7).log_prob(points)).softmax(0)
    log_scale = points[torch.multinomial(weights, count, replacement=True)]
    operator, root = OPERATOR.double(), torch.linalg.cholesky(COVARIANCE)
    noise = log_scale.exp()[:, None] / power**0.5
    x = torch.randn(count, SIZE).double() @ root.T
    missed = y.double() - x @ operator.T - noise * torch.randn(count, MEASURED)
    marginal = operator @ COVARIANCE @ operator.T + noise.square()[..., None] * torch.eye(MEASURED)
    x = x + torch.linalg.solve(marginal, missed) @ operator @ COVARIANCE
    unknowns = Unknowns(InverseProblem(unknown_noise, (y,), {}, "x"))
    move = split_move(unknowns, None, 20, 2**20)
    before = torch.cat([x, log_scale[:, None]], -1)
    rows = before.float().unsqueeze(1)
    move.fit(rows)
    for _ in range(3):
        rows = move(rows, width)
    assert min(move.accepted) > 0.2
    after = rows[:, 0].double()
    moved = (after - before).square().mean(0) / before.var(0)
    assert (moved > 0.05).all()
    error = (after.mean(0) - before.mean(0)) / before.std(0)
    assert error.abs().max() < 5 * (2 / count) ** 0.5
    assert (after.var(0) / before.var(0) - 1).abs().max() < 5 * (4 / count) ** 0.5


def test_rows_hold_all_unknowns():
    """Coordinates without bounds, their density with the determinant, and data that depend on other sites alone."""

    def model(y, z):
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        parts = pyro.sample("parts", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("rows", 2):
            x = pyro.sample("x", PRIOR())
            pyro.sample("y", dist.Normal(x[:, 0] * share, 0.5 + parts[0]), obs=y)
        pyro.sample("z", dist.Normal(parts.sum() + share, 0.3), obs=z)

    y, z = torch.tensor([0.3, -0.2]), torch.tensor(1.2)
    unknowns = Unknowns(InverseProblem(model, (y, z), {}, "x"))
    assert unknowns.typical.shape == (1, 2 * SIZE + 3)
    rows = torch.cat([torch.randn(5, 1, 2 * SIZE), unknowns.draw(5)], -1)
    values = unknowns.values(rows)
    assert values["x"].shape == (5, 2, SIZE)
    assert values["parts"].shape == (5, 3)
    share, parts = values["share"], values["parts"]
    seen = dist.Normal(values["x"][..., 0] * share[:, None], 0.5 + parts[:, :1]).log_prob(y).sum(-1)
    seen = seen + dist.Normal(1 + share, 0.3).log_prob(z)
    torch.testing.assert_close(unknowns.target.log_likelihood(rows)[:, 0], seen)
    own = dist.Beta(2.0, 3.0).log_prob(share) + (share * (1 - share)).log()  # of the logit
    before = torch.distributions.biject_to(dist.constraints.simplex).inv(parts)
    volume = torch.distributions.StickBreakingTransform().log_abs_det_jacobian(before, parts)
    own = own + dist.Dirichlet(torch.ones(3)).log_prob(parts) + volume
    torch.testing.assert_close(unknowns.log_prior(rows)[:, 0], own, atol=1e-4, rtol=1e-4)
