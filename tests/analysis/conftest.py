import importlib
import warnings

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _clean():
    torch.manual_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def arviz():
    """ArviZ, without the notice that 0.23 gives on import once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        return importlib.import_module("arviz")
