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
    local_r_hat,
    r_hat,
    r_hat_by_chance,
    separate_effective_sample_size,
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
    assert abs(energy_mixing(draws[:1]).item() / arviz.bfmi(array[:1]).item() - 1) < 0.01


def test_energies_of_all_chains_count_together():
    energy = torch.stack([torch.randn(500), torch.zeros(500)])
    torch.testing.assert_close(energy_mixing(energy), energy_mixing(energy[:1]))
    assert energy_mixing(energy[1:]).isnan()


@pytest.mark.parametrize("chains", [1, 3, 20])
def test_chains_in_a_mode_of_their_own_have_an_infinite_local_r_hat(chains):
    draws = autoregressive(64, 200, 0.5)
    assert local_r_hat(draws) < 1.1
    draws[:chains] += 12.0
    assert local_r_hat(draws).isinf()


def test_a_local_r_hat_is_that_of_indicators():
    draws = autoregressive(4, 300, 0.7)
    halves = torch.cat([draws[:, :150], draws[:, 150:]])
    ordered = draws.flatten().sort().values
    expected = []
    for level in range(1, 4):
        below = (halves <= ordered[300 * level - 1]).double()
        ratio = below.mean(1).var(0) / below.var(1).mean(0)
        expected.append((149 / 150 + ratio).sqrt())
    torch.testing.assert_close(local_r_hat(draws), torch.stack(expected).max())


def test_nothing_is_known_of_numbers_that_are_nan():
    draws = torch.randn(4, 50, 2)
    draws[1, 3, 0] = torch.nan
    for statistic in (r_hat, local_r_hat, bulk_effective_sample_size, tail_effective_sample_size):
        assert statistic(draws).isnan().tolist() == [True, False]


def test_many_numbers_are_judged_in_parts(monkeypatch):
    draws = autoregressive(4, 100, 0.5).unsqueeze(2) * torch.rand(5) + torch.randn(4, 100, 5)
    statistics = (r_hat, local_r_hat, bulk_effective_sample_size, tail_effective_sample_size)
    whole = [statistic(draws) for statistic in statistics]
    monkeypatch.setattr("pyrogen.numerics.markov.convergence._AT_ONCE", 900)
    for statistic, expected in zip(statistics, whole, strict=True):
        torch.testing.assert_close(statistic(draws), expected)


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


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_converged_chains_exceed_the_r_hat_of_chance_as_often_as_stated(correlation):
    torch.manual_seed(0)
    chains, draws, numbers, level = 4, 400, 1500, 0.05
    noise = torch.randn(draws, chains, numbers)
    x = [noise[0]]
    for fresh in noise[1:]:
        x.append(correlation * x[-1] + (1 - correlation**2) ** 0.5 * fresh)
    x = torch.stack(x, 1)
    worth = separate_effective_sample_size(x)
    limits = torch.tensor([r_hat_by_chance(chains, draws, each, 1, level) for each in worth.tolist()])
    share = (r_hat(x) > limits).double().mean().item()
    # Four standard errors of a share, and what an estimated effective sample size adds.
    assert share == pytest.approx(level, abs=4 * (level * (1 - level) / numbers) ** 0.5 + 0.1 * level)
    alone = r_hat_by_chance(chains, draws, 1000.0, 1)
    assert alone < r_hat_by_chance(chains, draws, 1000.0, 100) < r_hat_by_chance(chains, draws, 1000.0, 10_000) < 1.03


def test_chains_apart_are_worth_no_less_each_by_itself():
    torch.manual_seed(0)
    x = torch.randn(4, 500, 3)
    apart = x + torch.arange(4.0)[:, None, None]
    assert bulk_effective_sample_size(apart).max() < 100
    assert separate_effective_sample_size(apart).min() > 1500
    torch.testing.assert_close(separate_effective_sample_size(x), bulk_effective_sample_size(x), rtol=0.1, atol=0.0)
