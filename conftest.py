"""What all tests and doctests share."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg

collect_ignore_glob = ["*conftest.py"]  # these hold no doctests, and share one module name


@pytest.fixture(autouse=True)
def clean_slate():
    """One thread, a fixed seed, an empty parameter store, no open figures, and Pyro's switches as they were."""
    torch.set_num_threads(1)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    validation = torch.distributions.Distribution._validate_args
    yield
    pyro.clear_param_store()
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
    assert torch.distributions.Distribution._validate_args == validation, "a test left validation switched"


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    """What every docstring example may use."""
    doctest_namespace.update(torch=torch, nn=torch.nn, pyro=pyro, dist=dist, pg=pg)
