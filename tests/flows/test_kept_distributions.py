"""One distribution of a flow, kept: used twice, after an optimizer's step, copied and pickled."""

import copy
import pickle

import pytest
import torch
from every_recipe import RECIPES, UNCONDITIONAL, inputs, made

from pyrogen import flows

NAMES = [(name, conditional) for name in RECIPES for conditional in (True, False)]
NAMES += [(name, False) for name in UNCONDITIONAL]


@pytest.mark.parametrize(("name", "conditional"), NAMES)
def test_two_backward_passes(name, conditional):
    """Also given a context: layers project it whenever they are used."""
    flow = made(name, conditional=conditional)
    x, context = inputs(flow)
    kept, twice = flow(context), []
    for _ in range(2):
        flow.zero_grad()
        kept.log_prob(x).sum().backward()
        twice.append([parameter.grad.clone() for parameter in flow.parameters() if parameter.grad is not None])
        if kept.has_rsample:
            kept.rsample((2,)).sum().backward()
    for one, other in zip(*twice, strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize(("name", "conditional"), NAMES)
def test_nothing_is_stale_after_a_step(name, conditional):
    flow = made(name, conditional=conditional)
    x, context = inputs(flow)
    kept = flow(context)
    kept.log_prob(x)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert torch.allclose(kept.log_prob(x), flow(context).log_prob(x), rtol=1e-8)


@pytest.mark.parametrize(("name", "conditional"), NAMES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_score_alike(name, conditional, copied):
    flow = made(name, conditional=conditional)
    x, context = inputs(flow)
    kept = flow(context)
    kept.sample()
    assert torch.allclose(copied(kept).log_prob(x), kept.log_prob(x))


def test_what_an_embedding_computed_is_shared_and_copied_without_its_graph():
    torch.manual_seed(0)
    layers = flows.affine_coupling((2,), (3,), layers=1, hidden=(8,)).bijections
    flow = flows.Flow(layers, event_shape=(2,), context_shape=(3,), embedding=torch.nn.Linear(3, 3)).eval()
    x, kept = torch.randn(4, 2), flow(torch.randn(4, 3))
    kept.log_prob(x).sum().backward(retain_graph=True)
    kept.log_prob(x).sum().backward()
    for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert torch.equal(twin.log_prob(x), kept.log_prob(x))


@pytest.mark.parametrize(("name", "conditional"), NAMES)
def test_the_noise_of_data_is_what_sampling_sends_to_them(name, conditional):
    flow = made(name, conditional=conditional)
    _, context = inputs(flow)
    torch.manual_seed(1)
    distribution = flow(context)
    noise = distribution.base_dist.sample(() if distribution.batch_shape else (4,))
    x = distribution._transform(noise)
    assert torch.allclose(flow.noise(x, context), noise, atol=1e-4)


def test_noise_names_a_wrong_shape():
    with pytest.raises(ValueError, match="`value` must end in shape"):
        made("affine_coupling", conditional=False).noise(torch.zeros(4, 3))
