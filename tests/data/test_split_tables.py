"""Splitting what is no tensor."""

import numpy as np
import pandas
import torch

import pyrogen as pg


def test_arrays_and_tables_are_split_as_tensors_are():
    x = torch.arange(20.0).view(10, 2)
    table = pandas.DataFrame(x.numpy(), columns=["a", "b"])
    expected = pg.data.split(x, x, sizes=(0.7, 0.3), seed=0)
    found = pg.data.split(table, np.asarray(x), sizes=(0.7, 0.3), seed=0)
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
