"""What the tests of figures and of ArviZ share."""

import importlib
import warnings

import pytest


@pytest.fixture
def arviz():
    """ArviZ, without the notice that 0.23 gives on import once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        return importlib.import_module("arviz")
