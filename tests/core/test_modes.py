"""Evaluation mode for as long as a scope lasts."""

from contextlib import suppress

import pytest
import torch

from pyrogen.core.modes import evaluating


def network():
    return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Sequential(torch.nn.Dropout(0.5).eval()))


def test_every_part_is_put_back_into_its_own_mode():
    module = network()
    before = [part.training for part in module.modules()]
    x = torch.ones(100)
    with suppress(KeyError), evaluating(module):
        assert not any(part.training for part in module.modules())
        assert torch.equal(module(x), x)
        raise KeyError
    assert [part.training for part in module.modules()] == before == [True, True, True, False]


def test_parts_that_come_meanwhile_get_the_mode_of_the_whole():
    module = network()
    with evaluating(module):
        module.append(torch.nn.Dropout(0.5).eval())
    assert module[2].training


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_parts_too():
    module = torch.nn.Sequential(torch.jit.script(torch.nn.Dropout(0.5)))
    x = torch.ones(100)
    with evaluating(module):
        assert torch.equal(module(x), x)
    assert not torch.equal(module(x), x)
