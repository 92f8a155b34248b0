"""Tomography under a Gaussian prior, where everything is exact: lesions, views, counts, axis and noise unknown."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

from pyrogen.inverse import Laplace, TemperedSMC
from pyrogen.operators import Radon

SHAPE, SIZE, NOISE = (1, 5, 5), 25, 0.3
PLACE = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
COVARIANCE = 0.25 * torch.exp(-0.5 * torch.cdist(PLACE, PLACE).square() / 2) + 0.01 * torch.eye(SIZE)
PRIOR = gaussian(torch.ones(SIZE), COVARIANCE)
LESION = torch.zeros(SHAPE)
LESION[0, 1:3, 2:4] = 0.5


def views(count, **options):
    return Radon(SHAPE, torch.arange(count) * math.pi / count, detectors=5, **options)


def matrix(radon):
    return radon(torch.eye(SIZE).unflatten(-1, SHAPE)).flatten(1).T.double()


def exact(rows, lesion, noise, y):
    """The log evidence of measurements ``(N, m)``."""
    spread = rows @ COVARIANCE.double() @ rows.T + noise**2 * torch.eye(len(rows)).double()
    mean = rows @ (1 + lesion.flatten()).double()
    return dist.MultivariateNormal(mean, spread).log_prob(y.double())


def scan(y, radon, lesion, noise=NOISE):
    with pyro.plate("patients", len(y)):
        image = pyro.sample("image", PRIOR()).unflatten(-1, SHAPE)
        pyro.sample("y", dist.Normal(radon(image + lesion), noise).to_event(3), obs=y)


def patients(radon, lesion, count, noise=NOISE):
    image = PRIOR().sample((count,)).unflatten(-1, SHAPE)
    return dist.Normal(radon(image + lesion), noise).sample()


def test_the_probability_of_a_lesion():
    """Half of the patients have one: evidences, and the area under the curve that the optimal observer has."""
    radon, rows = views(4), matrix(views(4))
    y = torch.cat([patients(radon, LESION, 30), patients(radon, 0 * LESION, 30)])
    found, known, errors = [], [], []
    for lesion in (LESION, 0 * LESION):
        answer = TemperedSMC(scan, site="image", particles=64, moves=3).run(y, radon, lesion)
        expected = exact(rows, lesion, NOISE, y.flatten(1))
        errors.append(answer.diagnostics().standard_error.square().mean().sqrt())
        assert (answer.log_evidence - expected).square().mean().sqrt() < 1.5 * errors[-1]
        found.append(answer.log_evidence)
        known.append(expected)
    ratio, truth = found[0] - found[1], known[0] - known[1]
    assert (ratio.sigmoid() - truth.sigmoid()).abs().mean() < sum(errors) / 4  # the steepest slope is a quarter
    area = (ratio[:30, None] > ratio[30:]).double().mean()
    shift = rows @ LESION.flatten().double()
    spread = rows @ COVARIANCE.double() @ rows.T + NOISE**2 * torch.eye(len(rows)).double()
    distance = (shift @ torch.linalg.solve(spread, shift)).sqrt()
    best = 0.5 + 0.5 * torch.erf(distance / 2)  # of two normals so far apart
    assert abs(area - best) < 4 * (best * (1 - best) / 30) ** 0.5


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_expected_width_of_the_posterior(count):
    """Before anyone is scanned: the standard deviation that a pixel will have, for equal doses."""
    noise = NOISE * (count / 4) ** 0.5
    radon, rows = views(count), matrix(views(count))
    y = patients(radon, 0 * LESION, 20, noise)
    answer = TemperedSMC(scan, site="image", particles=128, moves=3).run(y, radon, 0 * LESION, noise)
    spread = rows @ COVARIANCE.double() @ rows.T + noise**2 * torch.eye(len(rows)).double()
    gain = torch.linalg.solve(spread, rows @ COVARIANCE.double()).T
    width = (COVARIANCE - gain @ rows @ COVARIANCE.double()).diagonal().sqrt()
    found = answer.get_samples()["image"].std(0).mean(0)
    worth = 20 * answer.diagnostics().independent.mean()
    assert ((found / width - 1).abs() < 5 / (2 * worth).sqrt()).all()


@pytest.mark.slow
def test_an_unknown_axis_and_an_unknown_noise():
    """Against quadrature over both: evidence, and means and standard deviations; nine groups tell errors well.

    With four moves in place of eight the evidence was too low at each of six seeds, by 0.4 to 1.0 nat of stated 0.2 to
    0.4, and four times as many particles did not mend it.
    """
    angles = torch.arange(5) * math.pi / 5

    def unknown(y):
        axis = pyro.sample("axis", dist.Normal(0.0, 0.5))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.7))
        image = pyro.sample("image", PRIOR()).unflatten(-1, SHAPE)
        radon = Radon(SHAPE, angles, detectors=7, offset=axis)
        pyro.sample("y", dist.Normal(radon(image), noise).to_event(3), obs=y)

    y = patients(Radon(SHAPE, angles, detectors=7, offset=0.4), 0 * LESION, 1)[0]
    answer = TemperedSMC(unknown, site="image", particles=1080, groups=9, moves=8).run(y)
    axes, logs = torch.linspace(-0.6, 1.2, 31).double(), torch.linspace(-3.0, 0.6, 37).double()
    joint = torch.empty(len(axes), len(logs)).double()
    for place, axis in enumerate(axes.tolist()):
        rows = matrix(Radon(SHAPE, angles, detectors=7, offset=axis))
        for other, log in enumerate(logs.tolist()):
            joint[place, other] = exact(rows, 0 * LESION, math.exp(log), y.flatten())
    joint += dist.Normal(0.0, 0.5).log_prob(axes)[:, None] + dist.Normal(-1.0, 0.7).log_prob(logs)
    evidence = joint.flatten().logsumexp(0) + ((axes[1] - axes[0]) * (logs[1] - logs[0])).log()
    weights = joint.flatten().softmax(0).unflatten(0, joint.shape)
    assert weights[[0, -1]].sum() + weights[:, [0, -1]].sum() < 1e-3  # nothing lies beyond
    diagnostics = answer.diagnostics()
    assert not diagnostics.collapsed
    assert abs(answer.log_evidence - evidence) < 5 * diagnostics.standard_error
    draws = answer.get_samples()
    for values, grid, share in ((draws["axis"], axes, weights.sum(1)), (draws["noise"].log(), logs, weights.sum(0))):
        mean = share @ grid
        scale = (share @ (grid - mean).square()).sqrt()
        assert abs(values.mean() - mean) < 5 * scale / diagnostics.independent**0.5
        assert abs(values.std() / scale - 1) < 5 / (2 * diagnostics.independent) ** 0.5


def test_counts_of_photons():
    """Against weighted draws at the mode, whose mean weight is an unbiased estimate of the evidence too."""
    radon = views(4)

    def counted(y, prior):
        image = pyro.sample("image", prior).unflatten(-1, SHAPE)
        pyro.sample("y", dist.Poisson(200 * torch.exp(-0.3 * radon(image))).to_event(3), obs=y)

    image = PRIOR().sample().unflatten(-1, SHAPE)
    y = dist.Poisson(200 * torch.exp(-0.3 * radon(image))).sample()
    plain = dist.MultivariateNormal(torch.ones(SIZE), COVARIANCE)
    known = Laplace(counted, draws=4000, seed=0).run(y, plain)
    answer = TemperedSMC(counted, site="image", particles=128, groups=8, moves=8).run(y, PRIOR())
    assert not known.diagnostics().collapsed
    assert abs(answer.log_evidence - known.log_evidence) < 4 * answer.diagnostics().standard_error + 0.1
    weights, draws = known.log_weights.softmax(0), known.get_samples()["image"].double()
    mean = weights @ draws
    scale = (weights @ (draws - mean).square()).sqrt()
    found = answer.get_samples()["image"]
    worth = answer.diagnostics().independent
    assert ((found.mean(0) - mean).abs() / scale < 5 / worth**0.5).all()
    assert ((found.std(0) / scale - 1).abs() < 5 / (2 * worth) ** 0.5).all()
