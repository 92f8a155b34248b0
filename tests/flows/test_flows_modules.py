"""The parts of flows: standardization, mixing, dependence, labels, foreign transforms, life inside Pyro."""

import copy
import importlib
import pickle

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import transforms

import pyrogen as pg
from pyrogen import flows
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.transforms.autoregressive import _Equation

SMALL = {"layers": 2, "hidden": (16, 16)}


class TestStandardize:
    def data(self):
        torch.manual_seed(0)
        return 100 + 1e-3 * torch.randn(64, 2)

    def test_scoring_never_sets_the_moments(self):
        flow, x = flows.affine_coupling((2,), **SMALL), self.data()
        before = flow().log_prob(x)
        flow.train()().log_prob(x[:3])
        flow().log_prob(flow().sample((64,)))
        assert not flow.bijections[-1].initialised
        assert torch.equal(flow().log_prob(x), before)

    def test_moments_are_those_of_the_whole_data_set(self):
        x = torch.cat([torch.zeros(200, 2), torch.randn(1, 2) * 100])  # a rare value behind the first minibatch
        flow = flows.affine_coupling((2,), **SMALL)
        pg.fit(flow, x, steps=1, batch_size=16, seed=0)
        layer = flow.bijections[-1]
        assert torch.allclose(layer.mean, x.mean(0))
        assert torch.allclose(layer.log_scale.exp(), x.std(0))

    def test_going_on_with_other_data_keeps_them(self, tmp_path):
        flow, x = flows.affine_coupling((2,), **SMALL), self.data()
        pg.fit(flow, x, steps=1, seed=0)
        pg.save(flow, tmp_path / "flow")
        for twin in (flow, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), pg.load(tmp_path / "flow")):
            pg.fit(twin, torch.randn(64, 2), steps=1, seed=0)
            assert torch.allclose(twin.bijections[-1].mean, x.mean(0))

    def test_learned_anew_when_asked_for(self):
        flow, x = flows.affine_coupling((2,), **SMALL), self.data()
        flow.learn_statistics(x)
        flow.learn_statistics(2 * x)
        layer = flow.bijections[-1]
        assert torch.allclose(layer.mean, 2 * x.mean(0))
        assert torch.allclose(layer.log_scale.exp(), 2 * x.std(0))
        assert flow.training

    def test_one_layer_after_the_other(self):
        torch.manual_seed(0)
        inner, outer, x = flows.Standardize((2,)), flows.Standardize((2,)), torch.randn(500, 2).exp()
        flow = flows.Flow([inner, flows.Bounded((2,), low=-1.0, high=50.0), outer], event_shape=(2,))
        flow.learn_statistics(x)
        z = (x - x.mean(0)) / x.std(0)
        assert torch.allclose(outer.mean, x.mean(0), atol=1e-5)
        y = flow.bijections[1]().inv(z)
        assert torch.allclose(inner.mean, y.mean(0), atol=1e-5)
        assert torch.allclose(inner.log_scale.exp(), y.std(0), atol=1e-5)

    @pytest.mark.parametrize("data", [torch.full((5, 2), 0.1), torch.randn(1, 2)])
    def test_constants_and_single_rows_have_scale_one(self, data):
        flow = flows.affine_coupling((2,), **SMALL)
        flow.learn_statistics(data)
        assert torch.allclose(flow.bijections[-1].mean, data[0])
        assert not flow.bijections[-1].log_scale.any()

    def test_digits_survive_large_means(self):
        x = 1e6 + torch.randn(10_000, 2)  # of float32, whose squares hold no digit of the scale
        layer = flows.Standardize((2,))
        layer.initialise(x)
        assert torch.allclose(layer.log_scale.exp(), x.double().std(0).float(), rtol=1e-5)

    def test_explicitly(self):
        layer = flows.Standardize((2,))
        layer.initialise(self.data())
        assert layer.initialised
        with pytest.raises(ValueError, match="`x` must be finite, got nan in rows 0, 1, 2"):
            layer.initialise(torch.full((3, 2), torch.nan))
        with pytest.raises(ValueError, match="`x` must hold at least one event"):
            layer.initialise(torch.empty(0, 2))


def test_rescale_counts_its_jacobian():
    flow = flows.Flow([flows.Rescale(5.0, torch.tensor([2.0, 0.5]), event_shape=(2,))], event_shape=(2,))
    expected = dist.Normal(torch.tensor([5.0, 5.0]), torch.tensor([2.0, 0.5])).to_event(1)
    x = expected.sample((10,))
    assert torch.allclose(flow().log_prob(x), expected.log_prob(x), atol=1e-5)


def test_reorder_and_its_errors():
    order = flows.Reorder([2, 0, 1], event_shape=(3,))()
    assert order(torch.tensor([10.0, 20.0, 30.0])).tolist() == [30.0, 10.0, 20.0]
    with pytest.raises(ValueError, match="`order`"):
        flows.Reorder([0, 0, 1], event_shape=(3,))


def test_rotation_is_orthogonal_and_starts_as_the_identity():
    layer = flows.Rotation((2, 2)).double()
    x = torch.randn(5, 2, 2).double()
    assert torch.allclose(layer()(x), x)
    torch.manual_seed(0)
    with torch.no_grad():
        layer.entries.normal_()
    y, log_det = layer().forward_and_log_det(x)
    assert not torch.allclose(y, x, atol=0.1)
    matrix = torch.stack([layer()(row.reshape(2, 2)).flatten() for row in torch.eye(4).double()])
    assert torch.allclose(matrix @ matrix.T, torch.eye(4).double(), atol=1e-12)
    assert torch.allclose(matrix.det(), torch.ones(()).double())  # no reflection
    assert not log_det.any()
    assert torch.allclose(layer().inv(y), x)


@pytest.mark.parametrize("recipe", [flows.affine_autoregressive, flows.spline_autoregressive])
def test_dependence_is_kept(recipe):
    dependence = ((0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0), (0, 1, 1, 0))
    flow = recipe((4,), dependence=dependence, **SMALL)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    jacobian = torch.autograd.functional.jacobian(flow.eval()()._transform.inv, torch.randn(4))
    reachable = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()
    assert torch.equal(jacobian.abs() > 1e-9, reachable)
    assert len(flow.bijections[0].conditioner.levels) == 3
    with pytest.raises(ValueError, match="acyclic"):
        recipe((2,), dependence=((0, 1), (1, 0)), **SMALL)
    with pytest.raises(ValueError, match="`dependence`"):
        recipe((3,), dependence=((0, 1), (1, 0)), **SMALL)


@pytest.mark.parametrize("recipe", [flows.affine_autoregressive, flows.spline_autoregressive])
def test_sweep_equals_iteration_with_gradients(recipe):
    torch.manual_seed(0)
    flow = recipe((4,), (2,), **SMALL).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    z, context = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 2).double().requires_grad_()
    layer = flow.bijections[0](context).transform

    def iterate(y):
        order = layer.conditioner.order
        x, log_det = _Equation(layer.conditioner, layer.network.projecting(), layer.element).definition(y.T[order])
        return x[order.argsort()].T, log_det

    def answer(method):
        x, log_det = method(z)
        total = (x.sin().sum() + (log_det**2).sum(),)
        return (
            x,
            log_det,
            *torch.autograd.grad(total, (z, context, *flow.bijections[0].parameters()), retain_graph=True),
        )

    for first, second in zip(answer(layer.inverse_vector), answer(iterate), strict=True):
        assert torch.allclose(first, second, atol=1e-9)
    assert torch.autograd.gradcheck(lambda z, c: flow.bijections[0](c).forward_and_log_det(z), (z, context))


@pytest.mark.parametrize("scale", [0.005, 0.4])
@pytest.mark.parametrize("recipe", [flows.affine_autoregressive, flows.spline_autoregressive])
def test_iterating_all_levels_and_going_level_by_level_agree(recipe, scale, monkeypatch):
    """With small weights the iteration settles, with large ones it gives up: one answer, gradients included."""
    torch.manual_seed(0)
    flow = recipe((40,), layers=1, hidden=(48, 48)).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    z = torch.randn(6, 40).double().requires_grad_()

    def answer():
        x, log_det = flow()._transform.forward_and_log_det(z)
        return x, log_det, *torch.autograd.grad((x.sin().sum() + log_det.sum()), (z, *flow.bijections[0].parameters()))

    module = importlib.import_module("pyrogen.transforms.autoregressive")
    settled = []
    guess = module._Equation._guess
    monkeypatch.setattr(module._Equation, "_guess", lambda *given: settled.append(found := guess(*given)) or found)
    first = answer()
    assert (settled[0] is not None) == (scale == 0.005)
    monkeypatch.setattr(module, "_MANY", 1000)
    for one, other in zip(first, answer(), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("fast_sampling", [False, True])
def test_block_neural_layers_depend_on_elements_before_only(fast_sampling):
    torch.manual_seed(0)
    flow = flows.block_neural_autoregressive((5,), layers=1, hidden=(4, 3), fast_sampling=fast_sampling, mixing=False)
    layer = flow.double().bijections[0]
    transform = layer() if fast_sampling else layer().inv
    jacobian = torch.autograd.functional.jacobian(transform, torch.randn(5).double())[layer.order][:, layer.order]
    assert torch.equal(jacobian != 0, torch.ones(5, 5).tril().bool())
    assert (jacobian.diagonal() > 0).all()
    with pytest.raises(ValueError, match="`hidden`"):
        flows.block_neural_autoregressive((2,), hidden=())


def test_labels_are_checked():
    flow = flows.spline_coupling((2,), classes=3, **SMALL)
    assert flow.context_shape == ()
    assert flow(torch.tensor([0, 2])).batch_shape == (2,)
    for wrong in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match="labels from 0 to 2"):
            flow(wrong)
    with pytest.raises(ValueError, match="`context_shape`"):
        flows.spline_coupling((2,), (3,), classes=3)


def test_contexts_of_other_shapes():
    image = flows.affine_coupling((2, 2), (1, 3, 3), **SMALL)
    assert image(torch.randn(5, 1, 3, 3)).sample((4,)).shape == (4, 5, 2, 2)
    several = flows.affine_coupling((2,), {"a": (3,), "b": (2, 2)}, **SMALL)
    context = {"a": torch.randn(5, 1, 3), "b": torch.randn(4, 2, 2)}
    assert several(context).batch_shape == (5, 4)
    own = flows.Flow(
        [flows.CouplingLayer(several.bijections[0].conditioner, several.bijections[0].element, [True, False],
                             event_shape=(2,), context_shape=(7,))],
        event_shape=(2,), context_shape={"a": (3,), "b": (2, 2)}, embedding=VectorContext({"a": (3,), "b": (2, 2)}),
    )  # fmt: skip
    assert own(context).batch_shape == (5, 4)


def test_layers_must_be_positive_and_bases_fit():
    with pytest.raises(ValueError, match="`layers`"):
        flows.affine_coupling((2,), layers=0)
    with pytest.raises(ValueError, match="`base`"):
        flows.affine_coupling((2,), base=flows.StudentT((3,)), **SMALL)
    with pytest.raises(ValueError, match="no context"):
        flows.planar((2,), (3,))


class TestForeign:
    def test_pyro_transforms_and_their_inverses_train_without_stale_values(self):
        torch.manual_seed(0)
        part = T.affine_autoregressive(2, [8])
        flow = flows.from_transforms([part.inv, transforms.ExpTransform()], event_shape=(2,))
        assert len(list(flow.parameters())) == len(list(part.parameters()))
        x = torch.rand(6, 2) + 0.5
        before = flow().log_prob(x)
        before.sum().backward()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1)
        after = flow().log_prob(x)
        after.sum().backward()  # no "backward a second time"
        assert not torch.allclose(before, after)
        twin = copy.deepcopy(flow)
        assert torch.allclose(twin().log_prob(x), after)

    def test_zuko_like_flows(self):
        class Shift(transforms.Transform):
            bijective = True
            domain = codomain = torch.distributions.constraints.real_vector

            def __init__(self, by):
                super().__init__()
                self.by = by

            def call_and_ladj(self, x):
                return x - self.by, torch.zeros(torch.broadcast_shapes(x.shape[:-1], self.by.shape[:-1]))

            @property
            def inv(self):
                return Shift(-self.by)

        class Lazy(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 2)

            def forward(self, context):
                return Shift(self.layer(context))

        class Base(nn.Module):
            def forward(self, context):
                return dist.Normal(torch.zeros(2), 1.0).to_event(1)

        class Peer(nn.Module):
            def __init__(self):
                super().__init__()
                self.transform, self.base = Lazy(), Base()

        peer = Peer()
        flow = flows.from_zuko(peer, event_shape=(2,), context_shape=(3,))
        context = torch.randn(4, 3)
        expected = dist.Normal(peer.transform.layer(context), 1.0).to_event(1)
        x = torch.randn(4, 2)
        assert flow(context).batch_shape == (4,)
        assert torch.allclose(flow(context).log_prob(x), expected.log_prob(x), atol=1e-5)


def test_flow_as_guide_and_as_prior_in_svi():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide_flow = flows.affine_autoregressive((2,), fast_sampling=True, standardize=False, **SMALL)
    exact = torch.distributions.MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))

    def model():
        pyro.sample("z", dist.MultivariateNormal(exact.loc, exact.covariance_matrix))

    def guide():
        with pyro.plate_stack("none", ()):
            pyro.sample("z", guide_flow())

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(num_particles=64, vectorize_particles=True))
    losses = [svi.step() for _ in range(150)]
    assert losses[-1] < 0.1 < losses[0]  # the KL divergence, exactly reachable
    draws = guide_flow.eval()().sample((20_000,))
    assert torch.allclose(draws.mean(0), exact.loc, atol=0.1)
    assert torch.allclose(draws.T.cov(), exact.covariance_matrix, atol=0.15)


def test_log_prob_compiles_in_one_graph():
    flow = flows.affine_coupling((3,), **SMALL).eval()
    torch._dynamo.reset()
    validation = torch.distributions.Distribution._validate_args
    compiled = torch.compile(lambda x: flow().log_prob(x), fullgraph=True, backend="eager")
    x = torch.randn(5, 3)
    assert torch.allclose(compiled(x), flow().log_prob(x), atol=1e-5)
    torch.distributions.Distribution.set_default_validate_args(validation)


def test_flows_in_other_precision_shapes_and_empty_batches():
    for shape in ((), (1,), (2, 3)):
        flow = flows.spline_autoregressive(shape, **SMALL).double()
        x = flow().sample((4, 1))
        assert x.dtype == torch.float64
        assert x.shape == (4, 1, *shape)
        assert flow().log_prob(x[:0]).shape == (0, 1)


def matrices(recipe, shape, **more):
    """How many layers of a flow mix its elements."""
    flow = recipe(shape, layers=2, hidden=(8,), **more)
    return sum(isinstance(part, flows.Mixing) for part in flow.bijections)


@pytest.mark.parametrize("recipe", [flows.affine_coupling, flows.spline_coupling])
def test_matrices_between_coupling_layers_only_where_they_are_affordable(recipe):
    assert matrices(recipe, (64,)) == matrices(recipe, (256,)) == matrices(recipe, (257,), mixing=True) == 2
    assert matrices(recipe, (257,)) == matrices(recipe, (3, 32, 32)) == matrices(recipe, (64,), mixing=False) == 0


@pytest.mark.parametrize("recipe", [flows.affine_autoregressive, flows.spline_autoregressive])
def test_matrices_between_autoregressive_layers_where_they_do_not_overfit(recipe):
    assert matrices(recipe, (32,)) == matrices(recipe, (33,), mixing=True) == 2
    assert matrices(recipe, (33,)) == matrices(recipe, (32,), mixing=False) == 0
    assert matrices(recipe, (2,), dependence=[[False, False], [True, False]]) == 0


def test_a_student_base_says_its_degrees_of_freedom():
    base = flows.StudentT((2,), degrees=8.0)
    torch.testing.assert_close(base.degrees, torch.full((2,), 8.0))
    torch.testing.assert_close(base().log_prob(torch.tensor([1.0, -2.0])), _student_log_prob(base.degrees))
    assert base().expand((3, 0)).log_prob(torch.zeros(3, 0, 2)).shape == (3, 0)


def _student_log_prob(degrees):
    return torch.distributions.StudentT(degrees).log_prob(torch.tensor([1.0, -2.0])).sum()


def test_block_neural_layers_that_no_memory_holds_are_refused():
    """Of a small image in colour a single one would have a billion weights."""
    with pytest.raises(ValueError, match=r"`event_shape` must have fewer elements for \[12, 12\] units each, got 3072"):
        flows.block_neural_autoregressive((3, 32, 32))
    assert flows.block_neural_autoregressive((700,), layers=1, hidden=(2, 2)).event_shape == (700,)
