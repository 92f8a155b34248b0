"""A Gaussian mixture by maximum likelihood: closed forms, and what is chosen."""

import pyro.distributions as dist
import pytest
import torch

from pyrogen.evaluation import gaussian_baseline


def test_a_single_one_has_the_moments_of_the_data():
    torch.manual_seed(0)
    x = torch.randn(300, 3, dtype=torch.double) @ torch.randn(3, 3, dtype=torch.double) + 2
    found = gaussian_baseline(x, x, [1], floors=[1e-6])
    expected = dist.MultivariateNormal(x.mean(0), x.T.cov(correction=0) + 1e-6 * torch.eye(3))
    torch.testing.assert_close(found.log_prob(x), expected.log_prob(x))
    assert gaussian_baseline(x.float(), x.float(), [1]).log_prob(x).dtype == torch.double


def test_validation_data_choose():
    torch.manual_seed(0)
    truth = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])),
        dist.Normal(torch.tensor([[-4.0, 0.0], [4.0, 1.0]]), 1.0).to_event(1),
    )
    train, validation, test = truth.sample((1000,)), truth.sample((500,)), truth.sample((500,))
    found = gaussian_baseline(train, validation, [1, 2, 8])
    assert found.mixture_distribution.probs.shape == (2,)
    gap = truth.log_prob(test).double() - found.log_prob(test.double())
    assert abs(gap.mean()) < 0.05  # eleven numbers learned from 1000 data cost 11 / 2000 nats
    assert gaussian_baseline(train[:20], validation, [1], floors=[1e-4, 3.0]).variance.max() > 3  # of few data, bounded


def test_errors_of_the_baseline():
    x = torch.randn(9, 2)
    with pytest.raises(ValueError, match=r"`train` must have shape \(n, size\), got \(9,\)"):
        gaussian_baseline(x[:, 0], x)
    with pytest.raises(ValueError, match=r"`validation` must have shape \(m, 2\), got \(9, 1\)"):
        gaussian_baseline(x, x[:, :1])
    with pytest.raises(ValueError, match="`components` must be at most the 9 data, got 10"):
        gaussian_baseline(x, x)
    with pytest.raises(ValueError, match="`floors` must be positive, got 0"):
        gaussian_baseline(x, x, [1], floors=[0.0])
    with pytest.raises(ValueError, match="`floors` must hold at least one number, got none"):
        gaussian_baseline(x, x, [1], floors=[])
    with pytest.raises(ValueError, match="`components`"):
        gaussian_baseline(x, x, [])
