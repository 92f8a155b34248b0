"""Scoring in chunks: the same numbers, in little memory."""

import pytest
import torch
from small_programs import Gaussian
from torch import nn

import pyrogen as pg
from pyrogen.core.log_prob import log_prob


class Noise(pg.DistributionModule):
    def forward(self, context=None):
        return pg.distributions.UnitNormal(self.event_shape, torch.zeros(()))


class Joined(nn.Module):
    """A network of two contexts."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, context):
        return self.layer(torch.cat([context["a"], context["b"].unsqueeze(-1)], -1))


def single():
    return pg.Parametric(nn.Linear(3, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(3,))


def several():
    return pg.Parametric(Joined(), pg.families.diagonal_normal, event_shape=(2,), context_shape={"a": (2,), "b": ()})


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
@pytest.mark.parametrize("batch", [(), (1,), (10,), (4, 5), (0,), (3, 0), (2, 3, 4)])
def test_chunks_are_the_whole(batch, rows):
    module, x = Noise((2,)), torch.randn(*batch, 2)
    scores = log_prob(module, x, rows=rows)
    assert scores.shape == batch
    assert torch.allclose(scores, module().log_prob(x), atol=1e-6)
    assert not scores.requires_grad


@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize(
    ("batch", "context"),
    [((10,), ()), ((10,), (10,)), ((), (10,)), ((5, 1), (6,)), ((6,), (5, 1)), ((1, 6), (5, 6)), ((0,), ()), ((), ())],
)
def test_contexts_broadcast(batch, context, rows):
    module, x, given = single(), torch.randn(*batch, 2), torch.randn(*context, 3)
    expected = module(given).log_prob(x)
    scores = log_prob(module, x, given, rows=rows)
    assert scores.shape == torch.broadcast_shapes(batch, context)
    assert torch.allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_several_contexts_broadcast(rows):
    module, x = several(), torch.randn(4, 1, 2)
    given = {"a": torch.randn(5, 2), "b": torch.randn(4, 5)}
    assert torch.allclose(log_prob(module, x, given, rows=rows), module(given).log_prob(x), atol=1e-5)
    given = {"a": torch.randn(2), "b": torch.randn(4, 5)}
    assert torch.allclose(log_prob(module, x, given, rows=rows), module(given).log_prob(x), atol=1e-5)


def test_a_context_without_batch_is_embedded_once_a_chunk():
    calls = []
    module = single()
    module.network.register_forward_hook(lambda layer, inputs, output: calls.append(len(output)))
    log_prob(module, torch.randn(10, 2), torch.randn(3), rows=4)
    assert calls == [1, 1, 1]


def test_broadcasting_takes_no_memory():
    """A million rows of one event by a thousand of the other: only chunks are ever made."""
    sizes = []
    module = single()
    module.network.register_forward_hook(lambda layer, inputs, output: sizes.append(inputs[0].numel()))
    scores = log_prob(module, torch.randn(300, 1, 2), torch.randn(300, 3), rows=1024)
    assert scores.shape == (300, 300)
    assert max(sizes) <= 3 * 1024


def test_modes_are_scoped_and_restored():
    flow = pg.flows.affine_coupling((2,), layers=2, hidden=(8,), dropout=0.5)
    with torch.no_grad():
        flow().log_prob(torch.randn(8, 2))
    flow.train()
    part = flow.bijections[0].eval()
    modes = [module.training for module in flow.modules()]
    x = torch.randn(20, 2)
    scores = log_prob(flow, x, rows=3)
    assert [module.training for module in flow.modules()] == modes
    assert not part.training
    assert torch.allclose(scores, flow.eval()().log_prob(x), atol=1e-5)


def test_modes_are_restored_after_a_failure():
    module = single().train()
    with pytest.raises(ValueError, match="`context`"):
        log_prob(module, torch.randn(20, 2), torch.randn(20, 3, dtype=torch.float64), rows=3)
    assert module.training
    assert torch.is_grad_enabled()


def test_precision_is_kept():
    module = Gaussian().double()
    assert log_prob(module, torch.randn(10, 2, dtype=torch.float64), rows=3).dtype == torch.float64


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`rows` must be at least 1, got 0"):
        log_prob(Gaussian(), torch.randn(10, 2), rows=0)
    with pytest.raises(ValueError, match=r"`x` must end in shape \(2,\), got \(10, 3\)"):
        log_prob(Gaussian(), torch.randn(10, 3))
    with pytest.raises(ValueError, match=r"`context` must end in shape \(3,\), got None"):
        log_prob(single(), torch.randn(10, 2))
