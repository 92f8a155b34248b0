"""Patch-autoregressive flows: the contract, dependence, steps against the definition, gradients of draws."""

import pytest
import torch

from pyrogen import flows
from pyrogen.testing import check_bijection, check_distribution
from pyrogen.transforms.patches import _Equation

SMALL = {"layers": 2, "width": 8, "depth": 1, "heads": 2, "bins": 3}


def flow(*shapes, **options):
    torch.manual_seed(0)
    made = flows.patch_autoregressive(*shapes, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def transforms(module, context=None):
    shared = None if context is None else module.embedding(context)
    return [layer(shared).inv for layer in module.bijections if isinstance(layer, flows.PatchLayer)]


def test_parts_of_the_contract_of_patches():
    only = ("sample_shapes", "batch_invariance", "bad_row", "vmap", "gradients_reach_parameters", "kept", "autocast")
    check_distribution(
        lambda: flows.patch_autoregressive((1, 2, 2), patch=1, **SMALL), event_shape=(1, 2, 2), only=only
    ).raise_if_failed()


@pytest.mark.slow
def test_contract_of_patches():
    check_distribution(
        lambda: flows.patch_autoregressive((1, 2, 2), patch=1, **SMALL), event_shape=(1, 2, 2)
    ).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "context"),
    [({"context_shape": (3,)}, torch.randn(5, 3)), ({"classes": 4, "bins": None}, torch.arange(4))],
)
def test_contract_of_patches_with_context(options, context):
    check_distribution(
        lambda: flows.patch_autoregressive((1, 2, 2), patch=1, **{**SMALL, **options}),
        event_shape=(1, 2, 2),
        context=context,
    ).raise_if_failed()


def test_a_layer_passes_the_contract_of_bijections():
    check_bijection(
        lambda: flows.patch_autoregressive((1, 4, 4), **SMALL).bijections[0], event_shape=(1, 4, 4)
    ).raise_if_failed()


def test_each_patch_depends_on_itself_element_by_element_and_on_those_before():
    module = flow((1, 4, 4))
    for transform in transforms(module):
        jacobian = torch.autograd.functional.jacobian(transform, torch.randn(1, 4, 4).double()).reshape(16, 16)
        order = transform.patches.cut(torch.arange(16.0).reshape(1, 1, 4, 4))[0].long()
        order = (order.flip(0) if transform.reverse else order).flatten()
        sorted_jacobian = jacobian[order][:, order]
        for row, column in ((row, column) for row in range(16) for column in range(16)):
            allowed = row == column or column // 4 < row // 4
            assert (sorted_jacobian[row, column] != 0) == allowed
    assert {transform.reverse for transform in transforms(module)} == {True, False}


@pytest.mark.parametrize("context", [None, torch.tensor([2, 0, 1])])
def test_steps_with_kept_keys_are_the_definition(context):
    module = flow((1, 4, 6), **({} if context is None else {"classes": 3}))
    y = torch.randn(3, 6, 4).double()
    for transform in transforms(module, context):
        given = () if context is None else (transform.context,)
        equation = _Equation(transform, transform.network, *given)
        with torch.no_grad():
            for one, other in zip(equation.sweep(y), equation.defined(y), strict=True):
                assert torch.allclose(one, other, atol=1e-10)


def test_gradients_of_draws_are_those_of_the_definition():
    module = flow((1, 4, 4), classes=3)
    transform, _ = transforms(module, torch.tensor([2, 0]))
    equation = _Equation(transform, transform.network, transform.context)
    weights = list(transform.network.parameters())
    y, pull, pull_log = torch.randn(2, 4, 4).double().requires_grad_(), *torch.randn(2, 2, 4, 4).double()
    found = []
    for solve in (equation.back, equation.defined):
        x, log_slope = solve(y)
        loss = (pull * x).sum() + (pull_log * log_slope).sum()
        found.append(torch.autograd.grad(loss, [y, *weights], allow_unused=True, materialize_grads=True))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-8)


def test_draws_of_a_class_follow_its_density():
    """Class-conditional draws, scored in the pass that makes them, have the density of a pass over data."""
    module = flow((1, 4, 4), classes=3)
    labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        draws, scores = module(labels).rsample_and_log_prob((5,))
        assert torch.allclose(module(labels).log_prob(draws), scores, atol=1e-8)
        assert not torch.allclose(module(labels.flip(0)).log_prob(draws)[:, 0], scores[:, 0], atol=0.1)


def test_draws_in_training_are_without_dropout_and_scored_so():
    module = flow((1, 4, 4), classes=3, dropout=0.5)
    draws, scores = module.train()(torch.tensor(1)).rsample_and_log_prob((5,))
    again = [module(torch.tensor(1)).log_prob(draws.detach()) for _ in range(2)]
    assert not torch.allclose(*again)
    assert torch.allclose(module.eval()(torch.tensor(1)).log_prob(draws), scores, atol=1e-8)


def test_a_fresh_flow_is_the_identity():
    module = flows.patch_autoregressive((1, 4, 4), **SMALL)
    x = torch.randn(3, 1, 4, 4)
    assert torch.allclose(module.noise(x), x, atol=1e-6)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="`patch` must divide both sides"):
        flows.patch_autoregressive((1, 5, 4))
    with pytest.raises(ValueError, match="`event_shape` must be \\(channels, height, width\\)"):
        flows.patch_autoregressive((4, 4))


@pytest.mark.parametrize("context", [None, torch.randn(2).double()])
def test_second_derivatives_of_densities_and_draws(context):
    module = flow((1, 2, 4), **({} if context is None else {"context_shape": (2,)}))
    given = (torch.randn(1, 2, 4).double(), *(() if context is None else (context,)))
    given = tuple(part.requires_grad_() for part in given)
    assert torch.autograd.gradgradcheck(lambda x, *c: module(*c).log_prob(x), given)
    assert torch.autograd.gradgradcheck(lambda noise, *c: module(*c).transforms[0](noise), given)


def test_a_hessian_of_draws_is_not_silently_zero():
    """A sum of draws has a constant gradient in them; that of what made them bends."""
    module, noise = flow((1, 2, 4)), torch.randn(1, 2, 4).double()

    def total(noise):
        return module().transforms[0](noise).sum()

    found = torch.autograd.functional.hessian(total, noise)
    assert found.abs().max() > 0.01
    assert torch.allclose(found, torch.func.jacrev(torch.func.jacrev(total))(noise))
