"""Every recipe, trained, used, copied and saved, comes back by itself: use is no edit."""

import copy
import pickle

import pytest
import torch
from test_bad_input import ENTRIES, RECIPES, _small

import pyrogen as pg
from pyrogen.core.recipe import obstacle


@pytest.mark.parametrize("entry", RECIPES, ids=lambda entry: entry.__qualname__)
def test_a_trained_module_of_every_recipe_comes_back(entry, tmp_path):
    module = _small(entry, ENTRIES[entry], (3,)) or _small(entry, ENTRIES[entry], None)
    context = None if module.context_shape is None else torch.zeros(6, *module.context_shape)
    with torch.no_grad():
        x = module().sample((6,)) if context is None else module(context).sample()
    pg.fit(module, (x,) if context is None else (x, context), steps=1)
    with torch.no_grad():
        module(context).log_prob(x)
        module(context).sample()
    for use in (module, copy.deepcopy(module).double(), pickle.loads(pickle.dumps(module))):
        assert obstacle(use) == ""
        pg.save(use, tmp_path / "module")
        loaded = pg.load(tmp_path / "module")
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.buffers(), module.buffers(), strict=True) if a.dtype == b.dtype
        )
