"""State-space models pass the contract."""

import pytest
import torch

from pyrogen import latent
from pyrogen.testing import check_distribution

SMALL = {"latent_shape": 2, "width": 8, "hidden": (8,), "draws": 4}
GIVEN = {"controls": 2, "irregular": True}


def context():
    return {"context": torch.randn(4, 3), "controls": torch.randn(4, 3, 2), "times": torch.rand(4, 3).cumsum(-1)}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"structured": False}, {"smoothing": False}, {"counts": True}, {"memory": 3}])
def test_contract_of_deep_markov(more):
    check_distribution(lambda: latent.deep_markov((3, 2), **SMALL, **more), event_shape=(3, 2)).raise_if_failed()


@pytest.mark.slow
def test_contract_of_deep_markov_with_a_context():
    def make():
        return latent.deep_markov((3, 2), (3,), **SMALL, **GIVEN)

    check_distribution(make, event_shape=(3, 2), context=context()).raise_if_failed()


@pytest.mark.slow
def test_contract_of_linear_gaussian_with_a_context():
    def make():
        return latent.linear_gaussian((3, 2), (3,), latent_shape=2, **GIVEN)

    check_distribution(make, event_shape=(3, 2), context=context()).raise_if_failed()


def test_contract_of_linear_gaussian():
    def make():
        return latent.linear_gaussian((3, 2), latent_shape=2)

    only = ["declaration", "expand", "bad_row", "empty_batch", "vmap", "normalization", "samples_follow_log_prob"]
    check_distribution(make, event_shape=(3, 2), only=only).raise_if_failed()


@pytest.mark.parametrize("part", ["prior", "likelihood", "posterior"])
@pytest.mark.parametrize("recipe", ["deep_markov", "linear_gaussian"])
def test_contract_of_parts(recipe, part):
    own = {"prior": None, "likelihood": torch.randn(4, 3, 2), "posterior": torch.randn(4, 3, 1)}[part]
    options = SMALL if recipe == "deep_markov" else {"latent_shape": 2}

    def make():
        return getattr(getattr(latent, recipe)((3, 1), **options), part)

    event_shape = (3, 1) if part == "likelihood" else (3, 2)
    only = ["declaration", "sample_shapes", "expand", "broadcasting", "bad_row", "empty_batch", "value_gradient"]
    only += ["normalization", "rsample_gradient", "rsample_and_log_prob", "own_draws", "deepcopy", "pickling"]
    check_distribution(make, event_shape=event_shape, context=own, only=only).raise_if_failed()
