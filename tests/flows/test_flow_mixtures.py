"""Mixtures of flows: contract, density and responsibilities by Bayes' rule, weights that are found."""

import copy
import pickle

import pytest
import torch

import pyrogen as pg
from pyrogen import flows
from pyrogen.testing import check_distribution

SMALL = {"layers": 1, "hidden": (8,), "bins": 4}


@pytest.mark.slow
@pytest.mark.parametrize("context", [None, 3])
def test_contract_of_a_mixture(context):
    shapes = ((2,),) if context is None else ((2,), (context,))
    given = None if context is None else torch.randn(5, context)
    check_distribution(
        lambda: flows.mixture(*shapes, components=2, **SMALL), event_shape=(2,), context=given
    ).raise_if_failed()


def made(*shapes, **options):
    torch.manual_seed(0)
    mixed = flows.mixture(*shapes, components=3, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in mixed.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixed


def test_density_and_responsibilities_are_those_of_bayes_rule():
    mixed = made((2,))
    x = torch.randn(20, 2, dtype=torch.float64)
    weights = mixed.logits.softmax(0)
    joint = torch.stack([w * member().log_prob(x).exp() for w, member in zip(weights, mixed.members, strict=True)], -1)
    assert torch.allclose(mixed().log_prob(x), joint.sum(-1).log())
    found = mixed().responsibilities(x)
    assert found.shape == (20, 3)
    assert torch.allclose(found, joint / joint.sum(-1, keepdim=True))
    assert mixed.density == "exact"


def test_weights_given_a_context_are_normalized():
    mixed = made((2,), classes=4)
    context, x = torch.arange(4), torch.randn(4, 2, dtype=torch.float64)
    weights = mixed.gate(context).softmax(-1)
    joint = torch.stack(
        [w * member(context).log_prob(x).exp() for w, member in zip(weights.T, mixed.members, strict=True)]
    )
    assert torch.allclose(mixed(context).log_prob(x), joint.sum(0).log())
    wide = mixed(context).expand((3, 4))
    assert torch.allclose(wide.log_prob(x), mixed(context).log_prob(x).expand(3, 4))
    assert wide.responsibilities(x).shape == (3, 4, 3)


def test_a_context_without_rows_gives_answers_without_rows():
    mixed = made((2,), (3,))
    none = mixed(torch.zeros(0, 3, dtype=torch.float64))
    assert none.log_prob(torch.zeros(0, 2, dtype=torch.float64)).shape == (0,)
    assert none.log_prob(torch.zeros(4, 0, 2, dtype=torch.float64)).shape == (4, 0)
    assert none.sample().shape == (0, 2)
    assert none.sample((4,)).shape == (4, 0, 2)


def test_a_missing_number_leaves_other_rows_alone():
    mixed = made((2,))
    x = torch.randn(5, 2, dtype=torch.float64)
    x[2, 0] = torch.nan
    score = mixed().log_prob(x)
    assert score.isnan().tolist() == [False, False, True, False, False]
    gradient = torch.autograd.grad(score[:2].sum(), mixed.logits)[0]
    assert gradient.isfinite().all()


@pytest.mark.slow
def test_weights_of_two_clusters_are_found():
    torch.manual_seed(0)
    first = torch.rand(2000) < 0.8
    x = torch.where(first[:, None], torch.tensor([-4.0, 0.0]), torch.tensor([4.0, 1.0])) + torch.randn(2000, 2)
    torch.manual_seed(1)
    mixed = flows.mixture((2,), components=2, **SMALL)
    pg.fit(mixed, x, steps=400, batch_size=256, lr=1e-2, seed=0)
    share = mixed.eval()().responsibilities(x)
    own = share.mean(0)
    assert torch.allclose(own, mixed.logits.softmax(0), atol=0.03)  # as the largest likelihood has it
    # a flow may take some of the other cluster: weights are near the shares of clusters, and no more
    assert abs(own.max() - 0.8) < 0.15
    assert ((share[:, own.argmax()] > 0.5) == first).float().mean() > 0.98


def test_saved_and_loaded(tmp_path):
    mixed = made((2,)).float()
    pg.save(mixed, tmp_path / "mixture")
    x = torch.randn(4, 2)
    assert torch.equal(pg.load(tmp_path / "mixture")().log_prob(x), mixed().log_prob(x))


def test_mixtures_of_angles():
    torch.manual_seed(0)
    mixed = flows.FlowMixture([flows.circular((1,), layers=1, hidden=(8,)) for _ in range(2)])
    x = torch.tensor([[3.3], [3.3 - 2 * torch.pi]])
    assert torch.allclose(*mixed().log_prob(x), atol=1e-5)
    assert (mixed().sample((50,)).abs() <= torch.pi).all()


def test_mistakes_are_refused():
    one = flows.affine_coupling((2,), layers=1, hidden=(8,))
    with pytest.raises(ValueError, match="`members` must hold at least one model"):
        flows.FlowMixture([])
    with pytest.raises(ValueError, match="one event shape and context shape"):
        flows.FlowMixture([one, flows.affine_coupling((3,), layers=1, hidden=(8,))])
    with pytest.raises(ValueError, match="`gate` must be None"):
        flows.FlowMixture([one], gate=torch.nn.Linear(2, 1))
    with pytest.raises(ValueError, match="must be a DistributionModule"):
        flows.FlowMixture([torch.nn.Linear(2, 2)])
    given = flows.affine_coupling((2,), (3,), layers=1, hidden=(8,))
    with pytest.raises(ValueError, match=r"`gate` must give a logit for each member, shape \(4, 1\), got \(4, 5\)"):
        flows.FlowMixture([given], gate=torch.nn.Linear(3, 5))(torch.zeros(4, 3))


def test_members_of_other_supports_are_refused():
    real, small = flows.affine_coupling((2,), layers=1, hidden=(8,)), {"layers": 1, "hidden": (8,)}
    for other in (flows.circular((2,), **small), flows.affine_coupling((2,), interval=(0.0, 1.0), **small)):
        with pytest.raises(ValueError, match=r"`components` must have one support, got .* at 1"):
            flows.FlowMixture([other, real])().log_prob(torch.full((4, 2), 0.5))
        with pytest.raises(ValueError, match="`components` must have one support"):
            pg.fit(flows.FlowMixture([real, other]), torch.rand(20, 2), steps=1)
    written_twice = [(0.0, 1.0), ([0.0, 0.0], [1.0, 1.0])]
    same = flows.FlowMixture([flows.affine_coupling((2,), interval=ends, **small) for ends in written_twice])
    assert same().support.check(same().sample((50,))).all()


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_mixture_kept_is_used_twice_and_copied(batch):
    mixed, x = made((2,)), torch.randn(5, *batch, 2, dtype=torch.float64)
    kept, twice = mixed().expand(batch), []
    for _ in range(2):
        mixed.zero_grad()
        kept.log_prob(x).sum().backward()
        twice.append(mixed.logits.grad.clone())
    assert torch.equal(*twice)
    for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert torch.equal(twin.log_prob(x), kept.log_prob(x))
    with torch.no_grad():
        mixed.logits.add_(torch.arange(3.0))
    assert torch.allclose(kept.log_prob(x), mixed().log_prob(x))  # nothing is stale after a step


def test_a_mixture_given_a_context_is_copied_without_its_graph():
    mixed, x = made((2,), classes=4), torch.randn(4, 2, dtype=torch.float64)
    kept = mixed(torch.arange(4))
    assert torch.equal(copy.deepcopy(kept).log_prob(x), kept.log_prob(x))


@pytest.mark.parametrize("event_shape", [(300,), (3, 32, 32)])
def test_mixtures_of_many_elements_have_no_matrices(event_shape):
    """A matrix for each layer of each flow would be 75 million numbers for a small image, most of the mixture."""
    torch.manual_seed(0)
    mixed = flows.mixture(event_shape, hidden=(8,))
    elements = torch.Size(event_shape).numel()
    assert sum(parameter.numel() for parameter in mixed.parameters()) < 1000 * elements
    places = torch.stack([member.base.loc.flatten() for member in mixed.members])
    assert torch.cdist(places, places).fill_diagonal_(torch.inf).min() > elements**0.5
    x = torch.randn(3, *event_shape)
    joint = torch.stack([member().log_prob(x) for member in mixed.members], -1) + mixed.logits.log_softmax(0)
    assert torch.allclose(mixed().log_prob(x), joint.logsumexp(-1))


def test_mixtures_of_many_elements_are_saved_and_loaded(tmp_path):
    mixed = flows.mixture((300,), components=2, **SMALL)
    x = torch.randn(20, 300)
    pg.fit(mixed, x, steps=2)
    pg.save(mixed, tmp_path / "mixture")
    assert torch.equal(pg.load(tmp_path / "mixture")().log_prob(x), mixed().log_prob(x))
