"""Every recipe passes the contract, with and without context."""

import pytest
import torch

from pyrogen import flows
from pyrogen.testing import check_distribution
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

SMALL = {"layers": 2, "hidden": (16, 16)}
RECIPES = {
    "affine_coupling": lambda *shapes, **more: flows.affine_coupling(*shapes, **SMALL, **more),
    "spline_coupling": lambda *shapes, **more: flows.spline_coupling(*shapes, **SMALL, **more),
    "affine_autoregressive": lambda *shapes, **more: flows.affine_autoregressive(*shapes, **SMALL, **more),
    "spline_autoregressive": lambda *shapes, **more: flows.spline_autoregressive(*shapes, **SMALL, **more),
    "inverse_autoregressive": lambda *shapes, **more: flows.affine_autoregressive(
        *shapes, fast_sampling=True, **SMALL, **more
    ),
    "inverse_spline_autoregressive": lambda *shapes, **more: flows.spline_autoregressive(
        *shapes, fast_sampling=True, **SMALL, **more
    ),
    "neural_autoregressive": lambda *shapes, **more: flows.neural_autoregressive(*shapes, **SMALL, units=4, **more),
    "block_neural_autoregressive": lambda *shapes, **more: flows.block_neural_autoregressive(
        *shapes, layers=1, hidden=(4,), **more
    ),
    "inverse_block_neural_autoregressive": lambda *shapes, **more: flows.block_neural_autoregressive(
        *shapes, layers=1, hidden=(4,), fast_sampling=True, **more
    ),
}
CLASSIC = {
    "planar": lambda: flows.planar((2,), layers=2),
    "radial": lambda: flows.radial((2,), layers=2),
    "sylvester": lambda: flows.sylvester((2,), layers=2),
    "rotation": lambda: flows.Flow(
        [*flows.affine_coupling((2,), **SMALL).bijections, flows.Rotation((2,))], event_shape=(2,)
    ),
    "student": lambda: flows.affine_coupling((2,), base=flows.StudentT((2,)), **SMALL),
    "mixture": lambda: flows.spline_coupling((2,), base=flows.GaussianMixture((2,), components=3), **SMALL),
    "interval": lambda: flows.spline_coupling((2,), interval=(0.0, 1.0), **SMALL),
}
SLOW = ("neural_autoregressive", "inverse_spline_autoregressive", "inverse_block_neural_autoregressive")


def recipes():
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in RECIPES]


@pytest.mark.parametrize("name", recipes())
def test_contract_without_context(name):
    check_distribution(lambda: RECIPES[name]((2,)), event_shape=(2,)).raise_if_failed()


@pytest.mark.parametrize("name", recipes())
def test_contract_with_context(name):
    check_distribution(lambda: RECIPES[name]((2,), (3,)), event_shape=(2,), context=torch.randn(5, 3)).raise_if_failed()


@pytest.mark.parametrize("name", recipes())
def test_contract_with_labels(name):
    only = ("shapes.sample_shapes", "shapes.wrong_context", "gradients.gradients_reach_parameters", "rows.bad_row")
    report = check_distribution(
        lambda: RECIPES[name]((2,), classes=4),
        event_shape=(2,),
        context=torch.arange(4),
        only=[name.split(".")[1] for name in only],
    )
    report.raise_if_failed()


@pytest.mark.parametrize("name", CLASSIC)
def test_contract_of_the_others(name):
    skipped = "rsample_and_log_prob" if name == "mixture" else ""  # its base cannot be drawn differentiably
    only = [check.__name__ for check in DISTRIBUTION_CHECKS if check.__name__ != skipped]
    check_distribution(CLASSIC[name], event_shape=(2,), only=only).raise_if_failed()


@pytest.mark.parametrize("recipe", [flows.affine_coupling, flows.affine_autoregressive])
def test_contract_of_a_single_number(recipe):
    check_distribution(
        lambda: recipe((), (3,), layers=2, hidden=(16,)), event_shape=(), context=torch.randn(3, 3)
    ).raise_if_failed()


def test_a_dict_context_may_hold_numbers():
    flow = flows.spline_coupling((2,), {"a": (), "b": (3,)}, layers=1, hidden=(16,))
    assert flow({"a": torch.tensor(1.0), "b": torch.zeros(3)}).sample().shape == (2,)


def test_a_bijection_refuses_a_missing_context():
    layer = flows.spline_coupling((2,), (3,), layers=1, hidden=(16,)).bijections[0]
    with pytest.raises(ValueError, match="`context` must end in shape"):
        layer(None)
