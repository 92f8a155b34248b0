"""Closed forms of linear measurements of normals: against the joint normal, conditioned by its precision."""

import pyro.distributions as dist
import pytest
import torch

from pyrogen.inverse import LinearGaussianSystem


def system(noise, batch=(), n=4, m=3):
    torch.manual_seed(0)
    root = torch.randn(*batch, n, n, dtype=torch.double)
    prior = dist.MultivariateNormal(torch.randn(*batch, n, dtype=torch.double), root @ root.mT + 0.1 * torch.eye(n))
    return LinearGaussianSystem(prior, torch.randn(m, n, dtype=torch.double), noise)


@pytest.mark.parametrize("noise", [0.3, torch.tensor([0.1, 1.0, 3.0])])
def test_evidence_times_posterior_is_prior_times_likelihood(noise):
    found = system(noise)
    x, y = torch.randn(9, 4, dtype=torch.double), torch.randn(9, 3, dtype=torch.double)
    likelihood = dist.Normal(x @ found.matrix.T, noise).to_event(1).log_prob(y)
    joint = found.prior.log_prob(x) + likelihood
    torch.testing.assert_close(found.marginal.log_prob(y) + found.posterior(y).log_prob(x), joint)


def test_the_posterior_is_that_of_precisions():
    found = system(0.3)
    y = torch.randn(3, dtype=torch.double)
    precision = found.prior.precision_matrix + found.matrix.T @ found.matrix / 0.09
    mean = torch.linalg.solve(precision, found.prior.precision_matrix @ found.prior.mean + found.matrix.T @ y / 0.09)
    torch.testing.assert_close(found.posterior(y).mean, mean)
    torch.testing.assert_close(found.posterior(y).precision_matrix, precision)


def test_several_systems_stand_side_by_side():
    noise = torch.tensor([[0.2], [2.0]])
    both, y = system(noise, batch=(5, 1)), torch.randn(3, dtype=torch.double)
    assert both.marginal.batch_shape == both.posterior(y).batch_shape == (5, 2)
    for place in range(2):
        prior = dist.MultivariateNormal(both.prior.mean[3, 0], both.prior.covariance_matrix[3, 0])
        one = LinearGaussianSystem(prior, both.matrix, float(noise[place]))
        torch.testing.assert_close(both.marginal.log_prob(y)[3, place], one.marginal.log_prob(y))
        torch.testing.assert_close(both.posterior(y).mean[3, place], one.posterior(y).mean)
        torch.testing.assert_close(both.posterior(y).stddev[3, place], one.posterior(y).stddev)


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_a_number_measured_twice_almost_without_noise(noise):
    """In single precision, where the squares of such noise are lost beside the rest; against mean and difference."""
    torch.manual_seed(0)
    matrix = torch.tensor([[1.0, 0.5], [1.0, 0.5], [0.0, 0.0]])
    system = LinearGaussianSystem(dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), matrix, noise)
    y = torch.tensor([0.7, 0.7, 0.0])
    exact = dist.Normal(0.0, (1.25 + noise**2 / 2) ** 0.5).log_prob(y[0])
    exact = exact + 2 * dist.Normal(0.0, noise).log_prob(torch.zeros(())) - torch.tensor(2.0).sqrt().log()
    torch.testing.assert_close(system.marginal.log_prob(y), exact, atol=0.05, rtol=0)
    posterior = system.posterior(y)
    torch.testing.assert_close(posterior.mean, 0.7 / 1.25 * matrix[0], atol=1e-4, rtol=0)
    assert (posterior.scale_tril.mT @ matrix[0]).norm() < 2 * noise + 1e-6  # what was measured is known
    torch.testing.assert_close(posterior.variance, torch.tensor([0.2, 0.8]), atol=1e-3, rtol=0)


def test_errors_of_linear_gaussian_systems():
    prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(TypeError, match="`prior` must be a MultivariateNormal, got Normal"):
        LinearGaussianSystem(dist.Normal(0.0, 1.0), torch.eye(2), 1.0)
    with pytest.raises(ValueError, match=r"`matrix` must have shape \(m, 2\), got \(2, 3\)"):
        LinearGaussianSystem(prior, torch.zeros(2, 3), 1.0)
    for noise in (0.0, -1.0):
        with pytest.raises(ValueError, match="`noise` must be positive, got (-1|0)"):
            LinearGaussianSystem(prior, torch.eye(2), noise)
    with pytest.raises(ValueError, match=r"`noise` must have shape \(\*batch, 2\), got \(3,\)"):
        LinearGaussianSystem(prior, torch.eye(2), torch.ones(3))
    with pytest.raises(ValueError, match=r"`y` must have shape \(\*batch, 2\), got \(3,\)"):
        LinearGaussianSystem(prior, torch.eye(2), 1.0).posterior(torch.zeros(3))
