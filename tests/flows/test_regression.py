"""Linear regression of events on contexts at the end of a flow."""

import math

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.flows.regression import Regression, ridge_regression
from pyrogen.networks.statistics import JointMoments
from pyrogen.transforms.linear import LowerAffine

SMALL = {"layers": 1, "hidden": (8,), "regression": True}


def moments(*parts):
    found = JointMoments()
    for part in parts:
        found.add(part)
    return found


def jointly_gaussian(rows, *, noise=0.3):
    """Events of two elements, linear in three elements of the context, with correlated noise."""
    context = torch.randn(rows, 3, dtype=torch.float64)
    weight = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.0, 3.0]], dtype=torch.float64)
    lower = torch.tensor([[1.0, 0.0], [-0.8, 0.6]], dtype=torch.float64) * noise
    bias = torch.tensor([10.0, -4.0], dtype=torch.float64)
    return bias + context @ weight.T + torch.randn(rows, 2, dtype=torch.float64) @ lower.T, context, weight, lower, bias


def test_joint_moments_merge_to_those_of_all_rows():
    rows = 1e4 + torch.randn(100, 4) @ torch.randn(4, 4)
    found = moments(rows[:1], rows[1:40], rows[:0])
    found.merge(moments(rows[40:]))
    found.merge(JointMoments())
    assert found.count == 100
    torch.testing.assert_close(found.covariance, torch.cov(rows.double().T))
    torch.testing.assert_close(found.mean, rows.double().mean(0))
    torch.testing.assert_close(found.cpu().scale, rows.double().std(0))


def test_many_data_give_least_squares():
    x, context, weight, lower, bias = jointly_gaussian(20_000)
    found = ridge_regression(moments(torch.cat([x, context], -1)), 2)
    design = torch.cat([context, torch.ones(len(x), 1)], -1)
    expected = torch.linalg.lstsq(design, x).solution
    torch.testing.assert_close(found.weight, expected[:3].T, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.bias, expected[3], atol=1e-4, rtol=0)
    left = x - design @ expected
    torch.testing.assert_close(found.residual, left.T @ left / (len(x) - 8), atol=1e-4, rtol=1e-3)


def test_the_ridge_is_that_of_least_error_in_cross_validation():
    """Few data with many inputs: compared with generalized cross-validation written out over the data."""
    torch.manual_seed(0)
    context = torch.randn(40, 30, dtype=torch.float64)
    x = context[:, :1] * 0.5 + torch.randn(40, 2, dtype=torch.float64)
    found = ridge_regression(moments(torch.cat([x, context], -1)), 2)
    centred, y = context - context.mean(0), x - x.mean(0)
    gram = centred.T @ centred

    def error(ridge, element):
        hat = centred @ torch.linalg.solve(gram + ridge * torch.eye(30), centred.T)
        left = y[:, element] - hat @ y[:, element]
        return left.square().mean() / (1 - (hat.trace() + 1) / 40) ** 2

    for element in range(2):
        ridges = torch.logspace(-2, 5, 200, dtype=torch.float64)
        best = ridges[torch.stack([error(ridge, element) for ridge in ridges]).argmin()]
        weight = torch.linalg.solve(gram + best * torch.eye(30), centred.T @ y[:, element])
        torch.testing.assert_close(found.weight[element], weight, atol=0.02, rtol=0.1)
        assert found.residual[element, element] == pytest.approx(error(best, element).item() * 40 / 39, rel=1e-2)


def test_few_or_constant_data_are_no_obstacle():
    for rows in (torch.randn(1, 5), torch.randn(2, 5), torch.zeros(10, 5), torch.randn(4, 40)):
        layer = Regression((2,), (rows.shape[1] - 2,))
        layer.learn(moments(rows))
        assert all(buffer.isfinite().all() for buffer in layer.buffers())
        assert (layer.lower.diagonal() > 0).all()
    constant = torch.cat([torch.full((50, 1), 7.0), torch.randn(50, 4)], -1)
    layer = Regression((2,), (3,))
    layer.learn(moments(constant))
    assert layer.lower[0].tolist() == [1.0, 0.0]
    assert layer.bias[0] == 7.0
    exact = torch.randn(50, 3)
    layer.learn(moments(torch.cat([exact[:, :2] * 3, exact], -1)))
    assert layer.lower.isfinite().all()


@pytest.mark.parametrize("recipe", [pg.flows.spline_autoregressive, pg.flows.spline_coupling])
def test_a_linear_gaussian_program_is_exact_before_training(recipe):
    torch.manual_seed(0)
    x, context, *_ = jointly_gaussian(50_000)
    flow = recipe((2,), (3,), **SMALL).double()
    flow.learn_statistics((x, context))
    x, context, weight, lower, bias = jointly_gaussian(1000)
    truth = torch.distributions.MultivariateNormal(bias + context @ weight.T, scale_tril=lower)
    torch.testing.assert_close(flow(context).log_prob(x), truth.log_prob(x), atol=0.05, rtol=0.01)
    gap = (truth.log_prob(x) - flow(context).log_prob(x)).mean().abs()
    assert gap < 1e-3  # nats; about (parameters) / (2 * 50,000)


def test_it_is_learned_after_what_it_depends_on_and_once():
    x, context, *_ = jointly_gaussian(500)
    x, context = x.float(), 100 + 10 * context.float()
    flow = pg.flows.affine_coupling((2,), (3,), **SMALL)
    pg.fit(flow, (x, context), steps=1, seed=0)
    (layer,) = [part for part in flow.bijections if isinstance(part, Regression)]
    assert layer.learned
    z = flow.bijections[-1]().inv(x)
    standardized = flow.embedding(context)
    left = layer(standardized).inv(z)
    torch.testing.assert_close(torch.cov(left.T), torch.eye(2), atol=0.05, rtol=0.05)
    assert (left.T @ standardized / 500).abs().max() < 0.02
    weight = layer.weight.clone()
    pg.fit(flow, (x, torch.randn_like(context)), steps=1, seed=0)
    assert torch.equal(layer.weight, weight)
    flow.learn_statistics((x, torch.randn_like(context)))
    assert layer.weight.abs().max() < 0.2
    layer.reset()
    assert not layer.learned
    assert torch.equal(layer(standardized)(z), z)


def test_a_learned_embedding_is_left_out_of_it():
    embedding = pg.networks.SetEmbedding(pg.networks.VectorEmbedding((2,)), rows=5)
    flow = pg.flows.affine_coupling((2,), (5, 2), embedding=embedding, **SMALL)
    assert [part.features for part in flow.bijections if isinstance(part, Regression)] == [5]
    for without in (
        pg.flows.affine_coupling((2,), (5,), embedding=nn.Linear(5, 3), **SMALL),
        pg.flows.affine_coupling((2,), (513,), **SMALL),
        pg.flows.affine_coupling((2,), **SMALL),
        pg.flows.affine_coupling((2,), (3,), standardize=False, **SMALL),
        pg.flows.affine_coupling((2,), (3,)),
    ):
        assert not any(isinstance(part, Regression) for part in without.bijections)


def test_elements_that_do_not_depend_on_each_other_stay_so():
    x, context, *_ = jointly_gaussian(500)
    flow = pg.flows.affine_autoregressive((2,), (3,), dependence=[[False, False], [False, False]], **SMALL).double()
    flow.learn_statistics((x, context))
    point = x[0].clone().requires_grad_()
    hessian = torch.autograd.functional.hessian(lambda at: flow(context[0]).log_prob(at), point.detach())
    assert hessian[0, 1] == 0


def test_the_transform_is_triangular_and_broadcasts():
    loc, lower = torch.randn(4, 1, 3), torch.eye(3) + torch.ones(3, 3).tril(-1)
    transform = LowerAffine(loc, 2 * lower, (3,))
    x = torch.randn(7, 3)
    y, log_det = transform.forward_and_log_det(x)
    torch.testing.assert_close(y, loc + x @ (2 * lower).T)
    assert log_det.shape == (4, 7)
    torch.testing.assert_close(log_det, torch.full((4, 7), 3 * math.log(2)))
    back, inverse = transform.inverse_and_log_det(y)
    torch.testing.assert_close(back, x.expand(4, 7, 3))
    torch.testing.assert_close(inverse, -log_det)
    assert transform.inverse_and_log_det(x)[0].shape == (4, 7, 3)
