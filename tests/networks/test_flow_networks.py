"""Networks of flows: masks, staircases, parameter-major outputs."""

import time

import pytest
import torch

from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.masked import MaskedConditioner, chain, levels
from pyrogen.networks.mlp import MLP, Conditioner


def wild(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network.double()


def test_masked_network_sees_what_it_may_and_all_of_it():
    torch.manual_seed(0)
    dependence = (torch.rand(7, 7) < 0.4).tril(-1)
    dependence[3] = 0
    network = wild(MaskedConditioner(dependence, 2, hidden=(40, 50)))
    jacobian = torch.autograd.functional.jacobian(lambda x: network.weighted()(x), torch.randn(7).double())
    order = network.order
    assert torch.equal((jacobian.abs().sum(0) > 1e-12), dependence[order][:, order])


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_sweep_equals_the_dense_pass(order, context):
    network = wild(MaskedConditioner(chain(order), 3, hidden=(9, 70, 80), context=context))
    assert network.order.tolist() == order
    x = torch.randn(6, 5).double()
    weighted = network.weighted(torch.randn(6, context).double() if context else None).projecting()
    dense = weighted(x)
    sweep = network.sweep(weighted, 6)
    seen = torch.empty_like(dense)

    def solve(parameters, features):
        seen[:, features] = parameters
        return x.T[features]

    with torch.no_grad():
        sweep.forward(solve)
    assert torch.allclose(seen, dense, atol=1e-12)


def test_first_feature_depends_on_the_context():
    network = wild(MaskedConditioner(chain([0, 1, 2]), 1, hidden=(8,), context=2))

    def first(context):
        return network.weighted(context).projecting()(torch.zeros(3).double())[0, 0]

    assert (torch.autograd.functional.jacobian(first, torch.randn(2).double()) != 0).all()


def test_levels():
    assert levels(chain([1, 0, 2])) == [[1], [0], [2]]
    assert levels(torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 0]])) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="square"):
        levels(torch.zeros(2, 3))


def slowly_masked(dependence, hidden, context):
    """Levels and masks by their definitions, set by set."""
    rows = [frozenset(row.nonzero().flatten().tolist()) for row in dependence]
    known, grouped = set(), []
    while len(known) < len(rows):
        grouped.append([place for place, row in enumerate(rows) if place not in known and row <= known])
        known |= set(grouped[-1])
    order = [place for group in grouped for place in group]
    level = {place: number for number, group in enumerate(grouped) for place in group}
    rows = [rows[place] for place in order]
    sets = {row for row in rows if context or row} or {frozenset()}
    at = {row: max((1 + level[place] for place in row), default=0) for row in sets}
    ordered = sorted(sets, key=lambda row: (at[row], [place in row for place in order]))
    chosen = [[ordered[unit * len(ordered) // units] for unit in range(units)] for units in hidden]
    masks = [torch.tensor([[place in row for place in order] for row in chosen[0]])]
    for before, after in zip(chosen, [*chosen[1:], rows], strict=True):
        masks.append(torch.tensor([[one <= other for one in before] for other in after]))
    return order, masks


def test_masks_equal_those_of_their_definition():
    torch.manual_seed(0)
    for trial in range(60):
        size = int(torch.randint(1, 9, ()))
        dependence = (torch.rand(size, size) < torch.rand(())).tril(-1)
        if trial % 3 == 0:
            dependence = chain(range(size))
        shuffle = torch.randperm(size)
        dependence, context = dependence[shuffle][:, shuffle], trial % 2
        hidden = torch.randint(1, 20, (2,)).tolist()
        network = MaskedConditioner(dependence, 2, hidden=hidden, context=context)
        order, masks = slowly_masked(dependence, hidden, context)
        assert network.order.tolist() == order
        for index, mask in enumerate(masks):
            assert torch.equal(network.get_buffer(f"mask_{index}"), mask.float())


def test_a_wide_network_is_built_at_once():
    start = time.process_time()
    MaskedConditioner(chain(torch.randperm(1536).tolist()), 2)
    assert time.process_time() - start < 5  # before: cubic, minutes


@pytest.mark.parametrize(("inputs", "context"), [(3, 0), (3, 2), (0, 2), (0, 0)])
def test_conditioner_is_parameter_major_and_starts_at_zero(inputs, context):
    network = Conditioner(inputs, 4, 5, hidden=(8, 8), context=context)
    given = torch.randn(6, context) if context else None
    out = network.weighted(given).projecting()(torch.randn(7, 6, inputs))
    assert out.shape == (5, 4, 7, 6)
    assert not out.any()
    out = wild(network).float().weighted(given).projecting()(torch.randn(7, 6, inputs))
    assert out.isfinite().all()


def test_embeddings():
    assert VectorContext((), classes=3)(torch.tensor([[2]])).tolist() == [[[0.0, 0.0, 1.0]]]
    flat = VectorContext({"a": (2,), "b": (1, 3)})
    assert flat.size == 5
    assert flat({"a": torch.zeros(4, 1, 2), "b": torch.ones(6, 1, 3)}).shape == (4, 6, 5)


def test_perceptron_and_errors():
    assert MLP(3, 2, hidden=(4,), dropout=0.5)(torch.zeros(5, 3)).shape == (5, 2)
    for make in (lambda: Conditioner(1, 1, 1, hidden=()), lambda: MaskedConditioner(chain([0]), 1, hidden=())):
        with pytest.raises(ValueError, match="`hidden`"):
            make()


def test_angles_are_seen_by_cosine_and_sine():
    torch.manual_seed(0)
    masked = MaskedConditioner(chain([1, 0, 2]), 2, hidden=(16,), angles=[True, False, True])
    plain = Conditioner(3, 2, 2, hidden=(16,), angles=[True, False, True])
    for network in (masked, plain):
        torch.nn.init.normal_(network.weight)
        x = torch.randn(5, 3)
        order = masked.order if network is masked else torch.arange(3)
        turned = x + 2 * torch.pi * torch.tensor([1.0, 0.0, -2.0])
        moved = x + torch.tensor([0.0, 1.0, 0.0])
        given = network.weighted()(x[:, order])
        assert torch.allclose(network.weighted()(turned[:, order]), given, atol=1e-5)
        assert not torch.allclose(network.weighted()(moved[:, order]), given, atol=1e-2)


def test_angles_are_hidden_by_masks_with_their_sines():
    torch.manual_seed(0)
    network = MaskedConditioner(chain([1, 0, 2]), 2, hidden=(16,), angles=[True, True, True])
    torch.nn.init.normal_(network.weight)
    x = torch.randn(4, 3, requires_grad=True)
    for place in range(3):
        (slope,) = torch.autograd.grad(network.weighted()(x)[:, place].sum(), x, allow_unused=True)
        assert (slope[:, place:] == 0).all()
        assert (slope[:, :place] != 0).any(0).all()


@pytest.mark.parametrize(
    "make", [lambda a: MaskedConditioner(chain([0, 1]), 1, angles=a), lambda a: Conditioner(2, 1, 1, angles=a)]
)
def test_angles_of_another_number_are_refused(make):
    with pytest.raises(ValueError, match="`angles` must have 2 entries, got 1"):
        make([True])
