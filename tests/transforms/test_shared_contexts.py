"""A single element under contexts that rows share: the same numbers, and gradients, as with a context for each row."""

import pytest
import torch

import pyrogen as pg
from pyrogen.testing.subject import perturb


@pytest.mark.parametrize("recipe", ["spline_autoregressive", "affine_autoregressive", "spline_coupling"])
@pytest.mark.parametrize("shapes", [((), (7,)), ((5, 1), (7,)), ((5, 1), (5, 7)), ((2, 1, 3), (4, 1))])
def test_shared_contexts_are_contexts_of_each_row(recipe, shapes):
    torch.manual_seed(0)
    flow = getattr(pg.flows, recipe)((), (2,), layers=2, hidden=(8,)).double()
    perturb(flow)
    batch = torch.broadcast_shapes(*shapes)
    context = torch.randn(*shapes[0], 2, dtype=torch.double, requires_grad=True)
    x = torch.randn(shapes[1], dtype=torch.double, requires_grad=True)
    found = flow(context).log_prob(x)
    expected = flow(context.expand(*batch, 2).clone()).log_prob(x.expand(batch).clone())
    assert found.shape == batch
    torch.testing.assert_close(found, expected)
    inputs = [context, x, *(part for part in flow.parameters() if part.requires_grad)]
    gradients = (torch.autograd.grad(v.sin().sum(), inputs, allow_unused=True) for v in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    torch.manual_seed(1)
    draws = flow(context).expand(batch).sample((3,))
    torch.manual_seed(1)
    torch.testing.assert_close(draws, flow(context.expand(*batch, 2)).sample((3,)))
