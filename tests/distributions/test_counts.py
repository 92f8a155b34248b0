"""Counts under mixtures of logistics: their probabilities sum to one, and draws follow them."""

import torch
from torch import nn

import pyrogen as pg
from pyrogen.distributions.counts import LogisticCounts


def test_probabilities_sum_to_one():
    torch.manual_seed(0)
    numbers = torch.randn(3, 4, 5, dtype=torch.double)
    counts = LogisticCounts(numbers[0], numbers[1], numbers[2] - 2)
    total = counts.log_prob(torch.arange(200_000.0, dtype=torch.double).unsqueeze(-1)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.double), atol=1e-3, rtol=0)


def test_large_counts_keep_their_digits_in_single_precision():
    loc, scale = torch.tensor([13.0]), torch.tensor([-3.0])
    single = LogisticCounts(torch.zeros(1), loc, scale)
    double = LogisticCounts(torch.zeros(1).double(), loc.double(), scale.double())
    x = torch.tensor([440_000.0, 442_413.0, 460_001.0])
    assert (single.log_prob(x) - double.log_prob(x.double())).abs().max() < 1e-3


def test_draws_follow_the_probabilities():
    torch.manual_seed(0)
    counts = LogisticCounts(torch.zeros(2), torch.tensor([0.5, 2.0]), torch.tensor([-1.0, -2.0]))
    draws = counts.sample((20_000,))
    x = torch.arange(15.0)
    found = (draws.unsqueeze(-1) == x).double().mean(0)
    assert (found - counts.log_prob(x).exp()).abs().max() < 0.015


class Narrow(nn.Linear):
    """Numbers of mixtures whose counts stay small enough to be summed over."""

    def forward(self, context):
        numbers = 0.3 * super().forward(context).unflatten(-1, (9, 2))
        return (numbers - 2 * (torch.arange(9) >= 6).unsqueeze(-1)).flatten(-2)


def test_the_contract():
    def make():
        return pg.Parametric(Narrow(2, 2 * 9), pg.families.logistic_counts(3), event_shape=2, context_shape=2)

    pg.testing.check_distribution(make, event_shape=2, context=torch.randn(5, 2)).raise_if_failed()
