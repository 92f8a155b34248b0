"""Bernoulli variables over whole events, against Pyro's."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import pyrogen as pg
from pyrogen.distributions import IndependentBernoulli
from pyrogen.testing import check_distribution


@pytest.mark.parametrize("event_dim", [1, 2])
def test_is_pyros(event_dim):
    torch.manual_seed(0)
    logits, other = torch.randn(2, 5, 2, 3, dtype=torch.float64).unbind(0)
    logits.requires_grad_()
    ours, theirs = IndependentBernoulli(logits, event_dim), dist.Bernoulli(logits=logits).to_event(event_dim)
    value = torch.bernoulli(torch.full((4, 5, 2, 3), 0.5, dtype=torch.float64))
    assert ours.shape((4,)) == theirs.shape((4,))
    for quantity in (lambda d: d.log_prob(value), lambda d: d.entropy()):
        one, two = quantity(ours), quantity(theirs)
        torch.testing.assert_close(one, two)
        gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (one, two)]
        torch.testing.assert_close(*gradients)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    p = dist.Bernoulli(logits=other).to_event(event_dim)
    expected = kl_divergence(theirs, p)
    own = IndependentBernoulli(other, event_dim)
    for pair in ((ours, p), (theirs, own), (ours, own)):
        torch.testing.assert_close(kl_divergence(*pair), expected)


def test_draws_have_the_mean():
    probs = torch.tensor([0.1, 0.5, 0.9])
    draws = IndependentBernoulli(probs.logit()).sample((20_000,))
    torch.testing.assert_close(draws.mean(0), probs, atol=0.02, rtol=0.0)


def test_contract():
    make = lambda: pg.Parametric(torch.nn.Linear(2, 6), pg.families.bernoulli, event_shape=(2, 3), context_shape=2)  # noqa: E731
    check_distribution(make, event_shape=(2, 3), context=torch.randn(5, 2)).raise_if_failed()


def test_refusals():
    with pytest.raises(ValueError, match="`event_dim` must be from 1"):
        IndependentBernoulli(torch.zeros(3), 0)
    with pytest.raises(ValueError, match=r"`value` must end in shape \(3,\)"):
        IndependentBernoulli(torch.zeros(3)).log_prob(torch.zeros(4, 1))
