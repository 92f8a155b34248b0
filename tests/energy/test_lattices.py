"""Ising and Potts models against enumeration and transfer matrices."""

from math import exp, log

import pytest
import torch
from scipy.stats import chisquare

import pyrogen as pg
from pyrogen.energy import (
    AnnealedImportanceSampling,
    FreshChains,
    Ising,
    LatticeGibbs,
    ParallelTempering,
    Potts,
    grid_edges,
    log_normalizer,
)
from pyrogen.testing import check_distribution

METHODS = [
    AnnealedImportanceSampling(temperatures=60),
    pytest.param(ParallelTempering(replicas=20, sweeps=60, warmup=20), marks=pytest.mark.slow),
]


def within(found, truth, errors=4.0):
    return abs(found.value - truth) <= errors * found.standard_error


def unnormalized(model, x):
    """Minus the energies, without gradients."""
    with torch.no_grad():
        return -model.energies(model.numbers(x)).double()


def torus(coupling=0.4, field=0.0):
    return Ising((4, 4), grid_edges((4, 4), periodic=True), coupling=coupling, field=field)


def all_bits(*shape):
    count = torch.Size(shape).numel()
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * count).reshape(-1, *shape)


def test_edges_of_grids():
    assert grid_edges(3).tolist() == [[0, 1], [1, 2]]
    assert grid_edges(3, periodic=True).tolist() == [[0, 1], [1, 2], [2, 0]]
    assert grid_edges(2, periodic=True).tolist() == [[0, 1]]
    assert sorted(map(sorted, grid_edges((2, 2)).tolist())) == [[0, 1], [0, 2], [1, 3], [2, 3]]
    degree = torch.bincount(grid_edges((4, 3, 5), periodic=True).flatten())
    assert degree.eq(6).all()


def test_energies_are_sums_over_spins():
    torch.manual_seed(0)
    edges = grid_edges((2, 3))
    coupling, field = torch.randn(len(edges)), torch.randn(2, 3)
    ising = Ising((2, 3), edges, coupling=coupling, field=field)
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    spins = (2 * x - 1).flatten()
    pairs = sum(coupling[k] * spins[i] * spins[j] for k, (i, j) in enumerate(edges.tolist()))
    assert unnormalized(ising, x.unsqueeze(0)).item() == pytest.approx(
        float(pairs + (field.flatten() * spins).sum()), abs=1e-5
    )
    field = torch.randn(2, 3, 4)
    potts = Potts((2, 3), edges, symbols=4, coupling=coupling, field=field)
    x = torch.tensor([[0, 3, 3], [0, 1, 3]])
    colours = x.flatten()
    pairs = sum(coupling[k] * (colours[i] == colours[j]) for k, (i, j) in enumerate(edges.tolist()))
    alone = field.reshape(6, 4)[torch.arange(6), colours].sum()
    assert unnormalized(potts, x.unsqueeze(0)).item() == pytest.approx(float(pairs + alone), abs=1e-5)


def test_a_potts_model_of_two_colours_is_an_ising_model():
    """[x = y] = (1 + s t) / 2: the coupling is twice as large, and a constant is left."""
    torch.manual_seed(1)
    edges = grid_edges(4, periodic=True)
    potts, ising = Potts((4,), edges, symbols=2, coupling=1.4), Ising((4,), edges, coupling=0.7)
    difference = unnormalized(potts, all_bits(4)) - unnormalized(ising, all_bits(4))
    assert torch.allclose(difference, torch.full((16,), 4 * 0.7).double(), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_torus_by_enumeration(method):
    torch.manual_seed(2)
    for model in (torus(), torus(torch.randn(32) / 2, torch.randn(4, 4) / 2)):  # a ferromagnet, and a spin glass
        truth = unnormalized(model, all_bits(4, 4)).logsumexp(0).item()
        found = log_normalizer(model, method=method)
        assert found.standard_error < 0.1
        assert within(found, truth)


@pytest.mark.parametrize("method", METHODS)
def test_chains_by_transfer_matrix(method):
    """The trace of the n-th power for a ring of n sites, however long; with ends its sum of entries."""
    torch.manual_seed(3)
    ring = Ising((50,), grid_edges(50, periodic=True), coupling=0.6)
    power = torch.linalg.eigvals(torch.tensor([[0.6, -0.6], [-0.6, 0.6]]).double().exp()).real ** 50
    assert within(log_normalizer(ring, method=method), float(power.sum().log()))
    coupling = torch.randn(29)
    potts = Potts((30,), grid_edges(30), symbols=3, coupling=coupling)
    vector = torch.ones(3).double()
    for strength in coupling.double():
        vector = (strength * torch.eye(3).double()).exp() @ vector
    assert within(log_normalizer(potts, method=method), float(vector.sum().log()))


def test_sweeps_of_blocks_draw_the_law():
    torch.manual_seed(4)
    model = Ising((3, 3), grid_edges((3, 3)), coupling=0.5, field=torch.randn(3, 3) / 2)
    model.chains = FreshChains(LatticeGibbs(), steps=60)
    law = unnormalized(model, all_bits(3, 3)).softmax(0)
    numbers = (model.chains.draw(model, 5000).x.flatten(1) * 2 ** torch.arange(8, -1, -1)).sum(1).long()
    expected, counts = law * 5000, torch.bincount(numbers, minlength=512).double()
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum(0, keepdim=True)])
    expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True)])
    assert chisquare(counts, expected).pvalue > 1e-3


def test_small_lattices_are_exact():
    torch.manual_seed(6)
    model = torus(torch.randn(32) / 2)
    assert model.density == "exact"
    log_probs = model().log_prob(all_bits(4, 4)).detach().double()
    assert log_probs.logsumexp(0).item() == pytest.approx(0.0, abs=1e-4)
    assert model.log_normalizer().item() == pytest.approx(
        unnormalized(model, all_bits(4, 4)).logsumexp(0).item(), abs=1e-4
    )
    draws = model().sample((4000,))
    mean = (log_probs.exp().unsqueeze(1) * all_bits(4, 4).flatten(1)).sum(0)
    assert torch.allclose(draws.flatten(1).double().mean(0), mean, atol=4 * 0.5 / 4000**0.5)
    potts = Potts((5,), grid_edges(5), symbols=3)  # of a chain with ends 3 (e + 2)^4
    assert potts.log_normalizer().item() == pytest.approx(log(3) + 4 * log(exp(1) + 2), abs=1e-4)


def test_exact_likelihood_learns_couplings():
    torch.manual_seed(7)
    truth, learned = Ising((3,), grid_edges(3), coupling=0.7), Ising((3,), grid_edges(3), coupling=0.0)
    pg.fit(pg.MaximumLikelihood(learned), truth().sample((4000,)), steps=300, lr=2e-2, seed=0)
    assert torch.allclose(learned.coupling, torch.full((2,), 0.7), atol=0.1)


def test_large_lattices_are_not():
    model = Ising((5, 5), grid_edges((5, 5)))
    assert model.density == "unnormalized"
    with pytest.raises(NotImplementedError, match="log_normalizer"):
        model.log_normalizer()


def test_blocks_hold_no_neighbours():
    torch.manual_seed(5)
    edges = torch.randint(30, (80, 2))
    model = Ising((30,), edges[edges[:, 0] != edges[:, 1]])
    assert model.blocks.sum(0).eq(1).all()
    for block in model.blocks:
        assert not (block[model.edges[:, 0]] & block[model.edges[:, 1]]).any()
    assert len(torus().blocks) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ising((2, 2), grid_edges((2, 2)), coupling=0.3, chains=FreshChains(LatticeGibbs(), steps=10)),
        pytest.param(
            lambda: Potts((2, 2), grid_edges((2, 2)), symbols=3, chains=FreshChains(LatticeGibbs(), steps=30)),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_contract(make):
    check_distribution(make, event_shape=(2, 2)).raise_if_failed()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edges": torch.tensor([[0, 9]])}, "`edges` must join two of the sites 0 to 3"),
        ({"edges": torch.tensor([[1, 1]])}, "`edges` must join two of the sites"),
        ({"edges": torch.zeros(3, 2)}, "`edges` must be a tensor of integers"),
        ({"coupling": torch.zeros(2)}, r"`coupling` must be one number or have shape \(3,\)"),
        ({"field": torch.zeros(5)}, r"`field` must be one number or have shape \(4,\)"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Ising((4,), **{"edges": grid_edges(4), **settings})


def test_block_gibbs_moves_lattices_only():
    with pytest.raises(NotImplementedError, match="lattices"):
        pg.energy.mlp((3,), symbols=2, hidden=(4,)).drawing_by(FreshChains(LatticeGibbs(), steps=2))


def test_couplings_that_come_with_a_gradient_are_refused():
    """They would become parameters that do not depend on where the gradient leads, such as a prior's site."""
    with pytest.raises(ValueError, match="`coupling` must be numbers without a gradient"):
        Ising((3,), grid_edges(3), coupling=torch.tensor(0.5, requires_grad=True).exp())


@pytest.mark.parametrize("coupling", [1, torch.tensor([1, 1]), torch.tensor(1.0, dtype=torch.double)])
def test_couplings_are_numbers_of_any_type(coupling):
    assert Ising((3,), grid_edges(3), coupling=coupling).energies(torch.ones(1, 3)).tolist() == [-2.0]


def test_bits_of_double_precision_are_bits():
    model = Ising((2, 2), grid_edges((2, 2)), coupling=0.3, field=0.1)
    x = all_bits(2, 2).float()
    torch.testing.assert_close(model().log_prob(x.double()), model().log_prob(x))
