"""Continuous flows: the contract, flow matching of a Gaussian, and densities that integrate to one."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen import flows
from pyrogen.core.matching import FlowMatching
from pyrogen.core.module import MaximumLikelihood
from pyrogen.data.toy import two_moons
from pyrogen.numerics.ode import AdaptiveSolver
from pyrogen.numerics.trace import ExactTrace, Hutchinson
from pyrogen.numerics.transport import OptimalTransport
from pyrogen.testing import check_distribution, check_objective

SMALL = {"hidden": (16, 16), "tolerance": 1e-4}


def test_contract_without_context():
    check_distribution(lambda: flows.continuous((2,), **SMALL), event_shape=(2,)).raise_if_failed()


@pytest.mark.slow
def test_contract_with_context():
    def make():
        return flows.continuous((2,), (3,), **SMALL)

    check_distribution(make, event_shape=(2,), context=torch.randn(5, 3)).raise_if_failed()


@pytest.mark.slow
def test_contract_with_random_probes():
    def make():
        flow = flows.continuous((2,), **SMALL)
        return flows.ContinuousFlow(flow.velocity, event_shape=(2,), trace=Hutchinson(2))

    check_distribution(make, event_shape=(2,)).raise_if_failed()


def test_contract_with_labels_and_single_numbers():
    only = ("sample_shapes", "wrong_context", "gradients_reach_parameters", "bad_row")

    def make():
        return flows.continuous((), classes=4, **SMALL)

    check_distribution(make, event_shape=(), context=torch.arange(4), only=only).raise_if_failed()


def test_flow_matching_keeps_the_contract_of_objectives():
    def make():
        return FlowMatching(flows.continuous((2,), **SMALL), coupling=OptimalTransport())

    check_objective(make, batch=(torch.randn(8, 2),)).raise_if_failed()


@pytest.mark.parametrize("objective", [FlowMatching, lambda flow: FlowMatching(flow, coupling=OptimalTransport())])
def test_flow_matching_of_a_gaussian_reaches_its_density(objective):
    torch.manual_seed(0)
    truth = dist.MultivariateNormal(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 1.2], [1.2, 1.0]]))
    x, new = truth.sample((5000,)), truth.sample((1000,))
    flow = flows.continuous((2,), hidden=(64, 64))
    pg.fit(objective(flow), x, steps=400, batch_size=128, seed=0)
    with torch.no_grad():
        gap = truth.log_prob(new) - flow().log_prob(new)
    assert -0.01 < gap.mean() < 0.04
    assert gap.abs().mean() < 0.2
    far = flow().sample((4000,)).mean(0) - truth.mean
    assert (far.abs() < 5 * (truth.variance / 4000).sqrt() + 0.05).all()


def test_the_density_integrates_to_one_after_training():
    torch.manual_seed(0)
    flow = flows.continuous((2,), hidden=(32, 32), tolerance=1e-4)
    pg.fit(flow, two_moons(2000, seed=0), steps=300, seed=0)
    axis = torch.linspace(-5, 5, 101)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        total = flow().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=5e-3)


def test_likelihood_trains_as_well():
    torch.manual_seed(0)
    truth = dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.2])).to_event(1)
    x = truth.sample((256,)) * torch.tensor([1.0, 1.0])
    flow = flows.continuous((2,), standardize=False, **SMALL)
    objective = MaximumLikelihood(flow)
    before = objective(x).item()
    pg.fit(objective, x, steps=15, batch_size=128, seed=0, optimizer=lambda p: torch.optim.Adam(p, lr=2e-2))
    assert objective(x).item() < before - 0.4


def test_closed_and_computed_divergence_give_the_same_density_and_gradients():
    torch.manual_seed(0)
    flow = flows.continuous((2, 2), hidden=(16, 16)).double()
    torch.nn.init.normal_(flow.velocity.last.weight, std=0.3)
    x = torch.randn(5, 2, 2, dtype=torch.float64)
    parameters = list(flow.velocity.parameters())
    answers = []
    for closed in (True, False):
        flow.velocity.has_divergence = closed
        answer = flow().log_prob(x)
        answers.append((answer, *torch.autograd.grad(answer.sum(), parameters)))
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*answers, strict=True))


def test_the_gradient_of_the_density_is_that_of_a_fine_solution():
    torch.manual_seed(0)
    flow = flows.continuous((3,), (2,), hidden=(16, 16)).double()
    torch.nn.init.normal_(flow.velocity.last.weight, std=0.5)
    x, context = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    x.requires_grad_(), context.requires_grad_()
    tensors = [x, context, *flow.velocity.parameters()]
    found = []
    for tolerance in (1e-5, 1e-11):
        flow.solver = AdaptiveSolver(tolerance)
        found.append(torch.autograd.grad(flow(context).log_prob(x).sum(), tensors))
    for coarse, fine in zip(*found, strict=True):
        assert torch.cosine_similarity(coarse.flatten(), fine.flatten(), dim=0) > 1 - 1e-6
        assert (coarse - fine).norm() < 1e-3 * fine.norm()


def test_deep_velocities_are_traced():
    flow = flows.continuous((2,), hidden=(8, 8, 8), tolerance=1e-3)
    assert not flow.velocity.has_divergence
    assert isinstance(flow.trace, ExactTrace)
    assert flow().log_prob(torch.zeros(3, 2)).shape == (3,)


def test_what_cannot_be_matched_is_refused():
    with pytest.raises(NotImplementedError, match="no velocity to match"):
        FlowMatching(flows.affine_coupling((2,)))
    with pytest.raises(ValueError, match="`coupling` must be Independent"):
        FlowMatching(flows.continuous((2,), (3,)), coupling=OptimalTransport())
    with pytest.raises(ValueError, match="`hidden` must name"):
        flows.continuous((2,), hidden=())


def test_a_checkpoint_rebuilds_it(tmp_path):
    flow = flows.continuous((2,), (3,), **SMALL)
    pg.save(flow, tmp_path / "flow")
    loaded = pg.load(tmp_path / "flow")
    x, context = torch.randn(4, 2), torch.randn(4, 3)
    assert torch.equal(loaded(context).log_prob(x), flow(context).log_prob(x))


def test_a_guide_that_flows():
    pyro.set_rng_seed(0)
    guide_flow = flows.continuous((2,), standardize=False, hidden=(16,), tolerance=1e-3)

    def model():
        with pyro.plate("particles", 64):
            pyro.sample("z", dist.Normal(torch.tensor([1.0, -1.0]), 0.5).to_event(1))

    def guide():
        with pyro.plate("particles", 64):
            pyro.sample("z", guide_flow())

    with pyro.get_param_store().scope():
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
        losses = [svi.step() for _ in range(10)]
    assert losses[-1] < 0.5 * losses[0]
