"""Convergence of chains against ArviZ, and against what is known of autoregressive chains."""

from __future__ import annotations

import arviz
import pytest
import torch
from torch import Tensor

from pyrogen.numerics.markov.convergence import (
    bulk_effective_sample_size,
    effective_sample_size,
    energy_mixing,
    r_hat,
    tail_effective_sample_size,
)


def autoregressive(chains: int, draws: int, correlation: float) -> Tensor:
    """Chains of variance one whose neighbours have this correlation, started from their law."""
    torch.manual_seed(0)
    x = [torch.randn(chains, dtype=torch.double)]
    for _ in range(draws - 1):
        noise = torch.randn(chains, dtype=torch.double)
        x.append(correlation * x[-1] + (1 - correlation**2) ** 0.5 * noise)
    return torch.stack(x, 1)


CASES = {
    "independent": autoregressive(4, 1000, 0.0),
    "slow": autoregressive(4, 1000, 0.9),
    "antithetic": autoregressive(8, 500, -0.6),
    "counts": autoregressive(4, 600, 0.5).round(),
    "heavy": autoregressive(6, 401, 0.3).sinh().sinh(),
    "apart": autoregressive(4, 500, 0.2) + torch.arange(4).unsqueeze(1),
}


@pytest.mark.parametrize("draws", CASES.values(), ids=CASES)
def test_they_agree_with_arviz(draws):
    array = draws.numpy()
    torch.testing.assert_close(r_hat(draws).item(), float(arviz.rhat(array)), rtol=1e-6, atol=0)
    for found, method in (
        (bulk_effective_sample_size, "bulk"),
        (tail_effective_sample_size, "tail"),
        (effective_sample_size, "mean"),
    ):
        expected = float(arviz.ess(array, method=method))
        rows = (
            draws
            if method != "mean"
            else torch.cat([draws[:, : draws.shape[1] // 2], draws[:, -(draws.shape[1] // 2) :]])
        )
        assert abs(found(rows).item() / expected - 1) < 0.05, method
    torch.testing.assert_close(energy_mixing(draws).numpy(), arviz.bfmi(array), rtol=0.01, atol=0)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.8])
def test_the_effective_sample_size_of_autoregressive_chains(correlation):
    draws = autoregressive(16, 2000, correlation)
    expected = draws.numel() * (1 - correlation) / (1 + correlation)
    assert abs(effective_sample_size(draws).item() / expected - 1) < 0.15


def test_each_number_is_judged_by_itself():
    together = torch.stack([case[:4, :400] for case in CASES.values()], -1).reshape(4, 400, 2, 3)
    for found in (r_hat, bulk_effective_sample_size, tail_effective_sample_size, effective_sample_size):
        values = found(together)
        assert values.shape == (2, 3)
        alone = torch.stack([found(case[:4, :400]) for case in CASES.values()])
        torch.testing.assert_close(values.flatten(), alone)


def test_chains_that_never_moved_are_worth_nothing():
    stuck = torch.arange(4.0).unsqueeze(1).expand(4, 100)
    assert not r_hat(stuck) < 1.1
    assert effective_sample_size(stuck) < 20
    assert effective_sample_size(torch.ones(4, 100)).isnan()
