"""The distribution of a transformed variable, against torch's and by hand."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.reparam import TransformReparam
from torch.distributions import biject_to, constraints, transforms

from pyrogen.core.density import density_of
from pyrogen.transforms import Compose, Flip, Permute, TransformedDistribution, Triangular, as_transform


def lognormal(**more):
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    return TransformedDistribution(base, [transforms.AffineTransform(0.5, 2.0), transforms.ExpTransform()], **more)


def test_agrees_with_torch():
    ours = lognormal()
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3), 1.0), 1)
    theirs = torch.distributions.TransformedDistribution(base, ours.transforms)
    x = ours.sample((7, 2))
    assert torch.allclose(ours.log_prob(x + 0), theirs.log_prob(x))
    assert ours.batch_shape == ()
    assert ours.event_shape == (3,)


def test_own_draw_is_scored_as_an_equal_tensor_until_it_changes():
    distribution = lognormal()
    x = distribution.rsample((5,))
    assert torch.allclose(distribution.log_prob(x), lognormal().log_prob(x.clone()))
    x.mul_(2)
    assert torch.allclose(distribution.log_prob(x), lognormal().log_prob(x))


def test_remembered_score_is_forgotten_when_parameters_change():
    scale = torch.ones(3)
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    move = transforms.AffineTransform(torch.zeros(3), scale, event_dim=1)
    distribution = TransformedDistribution(base, [move], parameters=lambda: [scale])
    x = distribution.sample()
    before = distribution.log_prob(x)
    scale.mul_(2)
    after = distribution.log_prob(x)
    assert torch.allclose(after, base.log_prob(x / 2) - 3 * math.log(2))
    assert not torch.allclose(before, after)


def test_bad_rows_touch_only_themselves():
    loc = torch.zeros(3, requires_grad=True)
    base = dist.Normal(torch.zeros(3), 1.0, validate_args=False).to_event(1)

    def score(rows):
        return TransformedDistribution(base, [transforms.AffineTransform(loc, 2.0, event_dim=1)]).log_prob(rows)

    good = torch.randn(4, 3)
    bad = torch.tensor([[torch.nan, 0, 0], [torch.inf, 0, 0], [-torch.inf, torch.nan, 0]])
    log_prob = score(torch.cat((good, bad)))
    assert torch.equal(log_prob[:4], score(good))
    assert log_prob[4].isnan()
    assert log_prob[5] == -torch.inf
    assert log_prob[6].isnan()
    mixed = torch.autograd.grad(log_prob[:4].sum(), loc)[0]
    assert torch.equal(mixed, torch.autograd.grad(score(good).sum(), loc)[0])


def test_outside_the_support():
    outside = torch.tensor([[1.0, 2.0, 3.0], [1.0, -2.0, 3.0]])
    with pytest.raises(ValueError, match="support"):
        lognormal(validate_args=True).log_prob(outside)
    log_prob = lognormal(validate_args=False).log_prob(outside)
    assert log_prob[0].isfinite()
    assert log_prob[1] == -torch.inf


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"`value` must end in shape \(3,\), got \(5, 4\)"):
        lognormal(validate_args=True).log_prob(torch.ones(5, 4))
    with pytest.raises(ValueError, match="broadcast"):
        lognormal(validate_args=True).expand([2]).log_prob(torch.ones(5, 3))
    with pytest.raises(ValueError, match="`transforms`"):
        TransformedDistribution(dist.Normal(0.0, 1.0), [torch.exp])


def test_expand_is_functional_and_draws_row_by_row():
    distribution = lognormal()
    for shape in ([4], (4,), torch.Size([4])):
        expanded = distribution.expand(shape)
        assert expanded.batch_shape == (4,)
        assert distribution.batch_shape == ()
        assert len(expanded.sample().unique()) == 12


def test_missing_abilities_and_settable_flag():
    distribution = lognormal()
    with pytest.raises(NotImplementedError, match="mean"):
        distribution.mean  # noqa: B018
    distribution.has_rsample = False
    assert not distribution.has_rsample
    assert not distribution.expand([2]).has_rsample
    assert distribution.rsample_and_log_prob is not None


def test_support_has_a_bijection():
    for distribution in (lognormal(), TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [])):
        free = torch.randn(5, distribution.event_shape[0])
        assert distribution.support.check(biject_to(distribution.support)(free)).all()


def test_reparameterized_by_pyro():
    def model():
        return pyro.sample("x", lognormal())

    with pyro.poutine.trace() as tracer, pyro.poutine.reparam(config={"x": TransformReparam()}):
        x = model()
    base = tracer.trace.nodes["x_base"]["value"]
    assert torch.allclose(x, (0.5 + 2 * base).exp())


def test_pickles_after_use():
    distribution = lognormal()
    x = distribution.rsample()
    again = pickle.loads(pickle.dumps(copy.copy(distribution)))
    assert torch.allclose(again.log_prob(x.detach()), distribution.log_prob(x))


def test_density_is_that_of_the_parts():
    class Estimated(Flip):
        density = "estimate"

    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    assert density_of(TransformedDistribution(base, [Flip((3,))])) == "exact"
    assert density_of(TransformedDistribution(base, [Estimated((3,)), Flip((3,))])) == "estimate"


class TestCompose:
    def test_log_det_is_that_of_the_jacobian_also_with_mixed_event_dims(self):
        torch.manual_seed(0)
        upper = torch.randn(3, 3).triu(1) + torch.diag(torch.tensor([0.5, 2.0, -1.5]))
        lower = torch.randn(3, 3).tril(-1) + torch.eye(3)
        parts = [
            Triangular(lower.double(), upper.double(), torch.randn(3).double(), (3,)),
            transforms.AffineTransform(1.0, 3.0),
            Permute(torch.tensor([2, 0, 1]), (3,)),
            transforms.SigmoidTransform(),
        ]
        transform = Compose(parts)
        x = torch.randn(3).double()
        y, log_det = transform.forward_and_log_det(x)
        jacobian = torch.autograd.functional.jacobian(transform, x)
        assert torch.allclose(log_det, jacobian.slogdet()[1])
        back, inverse_log_det = transform.inverse_and_log_det(y)
        assert torch.allclose(back, x)
        assert torch.allclose(inverse_log_det, -log_det)

    def test_nothing_is_the_identity(self):
        y, log_det = Compose([], event_dim=1).forward_and_log_det(torch.ones(4, 2))
        assert torch.equal(y, torch.ones(4, 2))
        assert torch.equal(log_det, torch.zeros(4))

    def test_domain_and_codomain(self):
        transform = Compose([Flip((2,)), transforms.ExpTransform()])
        assert transform.domain.event_dim == 1
        assert transform.codomain.event_dim == 1
        assert transform.codomain.check(torch.tensor([1.0, 2.0]))
        assert not transform.codomain.check(torch.tensor([1.0, -1.0]))
        assert isinstance(transform.domain, constraints.independent)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.IndependentTransform(transforms.ExpTransform(), 1),
        transforms.IndependentTransform(transforms.ExpTransform(), 1).inv.inv,
        transforms.IndependentTransform(transforms.AffineTransform(0.0, 2.0), 1).inv,
        transforms.IndependentTransform(transforms.StickBreakingTransform(), 1),
    ],
    ids=repr,
)
def test_independent_transforms_take_empty_batches(transform):
    base = dist.Normal(torch.zeros(3, 2, 2), 1.0).to_event(2)
    ours = TransformedDistribution(base, [transform])
    x = ours.sample((5,))
    summed = base.log_prob(transform.inv(x)) - transform.log_abs_det_jacobian(transform.inv(x), x).reshape(
        5, 3, -1
    ).sum(-1)
    assert torch.allclose(ours.log_prob(x), summed, atol=1e-5)
    assert ours.support.event_dim == 2
    assert ours.support.check(x).all()
    assert ours.sample((0,)).shape == (0, *x.shape[1:])
    assert ours.log_prob(x[:0]).shape == (0, 3)


def test_nothing_stays_cached_when_a_foreign_transform_fails():
    class Failing(transforms.ExpTransform):
        def log_abs_det_jacobian(self, x, y):
            raise RuntimeError("no determinant")

    foreign = Failing(cache_size=1)
    with pytest.raises(RuntimeError, match="no determinant"):
        as_transform(foreign).forward_and_log_det(torch.zeros(2))
    assert foreign._cached_x_y == (None, None)
