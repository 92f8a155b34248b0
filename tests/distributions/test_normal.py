"""Normal distributions over whole events, against torch's own."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import biject_to, kl_divergence

from pyrogen.distributions import DiagonalNormal, UnitNormal

SHAPES = [((), (3,)), ((5,), (3,)), ((2, 4), (3, 2)), ((5,), ()), ((0,), (3,)), ((0,), (2, 2))]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pairs(batch, event, dtype=torch.float32):
    """Ours and torch's."""
    loc, log_scale = torch.randn(2, *batch, *event, dtype=dtype)
    yield DiagonalNormal(loc, log_scale, len(event)), dist.Normal(loc, log_scale.exp()).to_event(len(event))
    standard = dist.Normal(torch.zeros(*batch, *event, dtype=dtype), 1.0).to_event(len(event))
    yield UnitNormal(event, loc, batch), standard


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "event"), SHAPES)
def test_scores_moments_and_entropy(batch, event, dtype):
    for own, reference in pairs(batch, event, dtype):
        x = torch.randn(7, *batch, *event, dtype=dtype)
        assert own.batch_shape == batch
        assert own.event_shape == event
        assert own.log_prob(x).dtype == dtype
        if x.numel():
            assert torch.allclose(own.log_prob(x), reference.log_prob(x), rtol=1e-4, atol=1e-4)
            assert torch.allclose(own.entropy(), reference.entropy(), rtol=1e-4, atol=1e-5)
        else:
            assert own.log_prob(x).shape == (7, *batch)
        for name in ("mean", "mode", "variance", "stddev"):
            expected = getattr(dist.Normal(own.mean, own.stddev), name)
            assert torch.allclose(getattr(own, name), expected), name
            assert getattr(own, name).shape == batch + event
        assert own.sample((2, 3)).shape == (2, 3, *batch, *event)
        assert own.sample().dtype == dtype


@pytest.mark.parametrize(("batch", "event"), SHAPES)
def test_the_same_draws_as_torch_on_the_same_noise(batch, event):
    for own, reference in pairs(batch, event):
        torch.manual_seed(1)
        draw = own.rsample((4,))
        torch.manual_seed(1)
        assert torch.allclose(draw, reference.rsample((4,)), atol=1e-6)


def test_draws_are_differentiable_and_samples_are_not():
    loc = torch.zeros(3, requires_grad=True)
    log_scale = torch.zeros(3, requires_grad=True)
    own = DiagonalNormal(loc, log_scale, 1)
    assert not own.sample().requires_grad
    torch.manual_seed(0)
    draw = own.rsample()
    gradients = torch.autograd.grad(draw.sum(), [loc, log_scale])
    assert torch.equal(gradients[0], torch.ones(3))
    assert torch.allclose(gradients[1], draw)


@pytest.mark.parametrize("size", [(6,), [6], torch.Size((4, 6))])
def test_expand_takes_lists_tuples_and_sizes(size):
    for own, reference in pairs((6,), (3,)):
        expanded, expected = own.expand(size), reference.expand(torch.Size(size))
        assert expanded is not own
        assert expanded.batch_shape == torch.Size(size)
        assert own.batch_shape == (6,)
        x = torch.randn(*size, 3)
        assert torch.allclose(expanded.log_prob(x), expected.log_prob(x), atol=1e-4)
        assert expanded.rsample((2,)).shape == (2, *size, 3)
        assert expanded.entropy().shape == torch.Size(size)


def test_expansion_keeps_flags():
    for own, _ in pairs((6,), (3,)):
        own.has_rsample_(False)
        own._validate_args = False
        expanded = own.expand([2, 6])
        assert not expanded.has_rsample
        assert not expanded._validate_args


def test_values_broadcast_with_the_batch():
    for own, reference in pairs((5,), (3,)):
        for shape in ((3,), (1, 3), (4, 1, 3), (4, 5, 3)):
            x = torch.randn(*shape)
            assert torch.allclose(own.log_prob(x), reference.log_prob(x), atol=1e-4)
            assert own.log_prob(x).shape == reference.log_prob(x).shape


def test_validation_obeys_pyros_switch():
    with pyro.validation_enabled(True):
        for own, _ in pairs((5,), (3,)):
            with pytest.raises(ValueError, match=r"must end in shape \(3,\)"):
                own.log_prob(torch.zeros(5, 4))
            missing = torch.zeros(5, 3)
            missing[2, 1] = torch.nan  # a mask may hide it
            assert own.log_prob(missing).isnan().tolist() == [False, False, True, False, False]
        with pytest.raises(ValueError, match="loc"):
            DiagonalNormal(torch.full((3,), torch.nan), torch.zeros(3))
    with pyro.validation_enabled(False):
        for own, _ in pairs((5,), (3,)):
            x = torch.zeros(5, 3)
            x[2] = torch.nan
            assert own.log_prob(x).isnan().tolist() == [False, False, True, False, False]


def test_too_few_dimensions_are_named():
    with pytest.raises(ValueError, match=r"`loc` must have at least 2 dimensions, got shape \(3,\)"):
        DiagonalNormal(torch.zeros(3), torch.zeros(3), 2)


@pytest.mark.parametrize("event", [(), (3,), (3, 2)])
def test_every_divergence_is_torchs(event):
    count = len(event)

    def diagonal():
        return DiagonalNormal(*torch.randn(2, 5, *event), count)

    def independent():
        return dist.Normal(torch.randn(5, *event), torch.rand(5, *event) + 0.5).to_event(count)

    def as_torch(own):
        if isinstance(own, (DiagonalNormal, UnitNormal)):
            own = dist.Normal(own.mean, own.stddev).to_event(count)
        return own

    standard = UnitNormal(event, torch.zeros(()), (5,))
    pairs = [(diagonal(), diagonal()), (diagonal(), standard)]
    if event:  # without an event dimension there is no Independent to dispatch on
        pairs += [(diagonal(), independent()), (independent(), diagonal())]
    for q, p in pairs:
        assert torch.allclose(kl_divergence(q, p), kl_divergence(as_torch(q), as_torch(p)), rtol=1e-3, atol=1e-4)


def test_a_divergence_that_is_not_defined_says_not_implemented():
    own = DiagonalNormal(torch.zeros(5, 3), torch.zeros(5, 3), 1)
    with pytest.raises(NotImplementedError):
        kl_divergence(own, dist.Normal(torch.zeros(5, 3), 1.0).to_event(2))
    with pytest.raises(NotImplementedError):
        kl_divergence(own, dist.StudentT(torch.ones(5, 3)).to_event(1))


def test_copies_and_supports():
    for own, _ in pairs((5,), (3,)):
        x = torch.randn(5, 3)
        for twin in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
            assert torch.equal(twin.log_prob(x), own.log_prob(x))
        assert biject_to(own.support)(x).shape == x.shape
        assert own.support.event_dim == 1


def test_scores_map_over_a_batch():
    for own, _ in pairs((), (3,)):
        with pyro.validation_enabled(False):
            own._validate_args = False
            x = torch.randn(6, 3)
            assert torch.allclose(torch.vmap(own.log_prob)(x), own.log_prob(x), atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    loc, log_scale, x = torch.randn(3, 4, 2, dtype=torch.float64)
    inputs = tuple(t.requires_grad_() for t in (loc, log_scale, x))
    assert torch.autograd.gradcheck(lambda a, b, c: DiagonalNormal(a, b, 1).log_prob(c), inputs)


def test_divergences_broadcast_and_refuse_other_events():
    q = DiagonalNormal(torch.randn(3), torch.randn(3))
    for p in (UnitNormal((3,), q.loc, (5,)), DiagonalNormal(torch.zeros(5, 3), torch.zeros(5, 3))):
        expected = kl_divergence(dist.Normal(q.loc, q.stddev).to_event(1), dist.Normal(p.mean, p.stddev).to_event(1))
        assert kl_divergence(q, p).shape == (5,)
        assert torch.allclose(kl_divergence(q, p), expected)
    zeros = torch.zeros(5, 3)
    for p in (UnitNormal((5, 3), q.loc), DiagonalNormal(zeros, zeros, 2), dist.Normal(zeros, 1.0).to_event(2)):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
