"""One thread, and a fixed seed for Pyro as well."""

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
