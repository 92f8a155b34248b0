"""Results say what they are in a line or a table, without dumps of tensors."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.evaluation import (
    Amortized,
    EcdfNull,
    amortization_gap,
    attribution,
    auroc,
    central_coverage,
    collapse_report,
    log_likelihood,
    mmd_test,
    pareto_k,
    reliability,
    simulation_based_calibration,
)


def model(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.5))


X, RANKS = torch.randn(20), torch.arange(100)
POSTERIOR = Amortized(guide, "x")
RESULTS = {
    "AmortizationGap": lambda: amortization_gap(model, guide, X, steps=1, draws=2, evaluation_draws=2),
    "Amortized": lambda: POSTERIOR,
    "Attribution": lambda: attribution({"a": dist.Normal(0.0, 1.0), "b": dist.Normal(1.0, 1.0)}, X),
    "Auroc": lambda: auroc(X, X + 1),
    "Calibration": lambda: simulation_based_calibration(model, POSTERIOR, observed="x", simulations=20, draws=9),
    "CollapseReport": lambda: collapse_report(model, guide, X),
    "Coverage": lambda: central_coverage(RANKS, 99),
    "EcdfBand": lambda: EcdfNull(100, 99).band(RANKS),
    "Estimate": lambda: log_likelihood(dist.Normal(0.0, 1.0), X),
    "LatentUse": lambda: collapse_report(model, guide, X).sites["z"],
    "ParetoK": lambda: pareto_k(model, guide, X, draws=30),
    "Reliability": lambda: reliability(X.sigmoid(), X > 0),
    "TestResult": lambda: mmd_test(X, X + 1, permutations=19),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_names_itself_without_a_dump(name):
    torch.manual_seed(0)
    text = repr(RESULTS[name]())
    assert name in text.splitlines()[0]
    assert "tensor(" not in text
    assert len(text) < 400
