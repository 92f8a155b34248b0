"""Chains fit their energies, keep what they have learned, and leave the energy as it is."""

import pytest
import torch
from small_energies import gaussian
from torch import nn
from torch.distributions import constraints

import pyrogen as pg
from pyrogen import energy

KERNEL = energy.AdjustedLangevin()


@pytest.mark.parametrize(
    ("kernel", "symbols", "way_out"),
    [
        (energy.GibbsWithGradients(), None, "AdjustedLangevin"),
        (energy.Gibbs(), None, "AdjustedLangevin"),
        (energy.AdjustedLangevin(), 2, "Gibbs"),
        (energy.Langevin(0.1), 3, "Gibbs"),
        (energy.BlockGibbs(), 2, "GibbsWithGradients"),
        (energy.LatticeGibbs(), 2, "GibbsWithGradients"),
    ],
)
def test_kernels_refuse_events_that_they_cannot_move(kernel, symbols, way_out):
    module = energy.mlp((2,), symbols=symbols, hidden=(4,))
    chains = energy.FreshChains(kernel, steps=2)
    with pytest.raises(NotImplementedError, match=way_out):
        module.drawing_by(chains)
    with pytest.raises(NotImplementedError, match=way_out):
        energy.ContrastiveDivergence(module, chains=chains)


def test_chains_that_have_moved_go_on_where_they_were():
    module = gaussian(2)
    objective = energy.ContrastiveDivergence(module, chains=energy.PersistentChains(KERNEL, size=128, steps=2))
    pg.fit(objective, torch.randn(200, 2), steps=5, seed=0)
    chains = objective.chains
    places, step_size = chains.buffer["x"].clone(), chains.step_size.clone()
    energy.ContrastiveDivergence(module, chains=chains)
    module.drawing_by(chains)
    module().sample((10,))
    assert torch.equal(chains.buffer["x"], places)
    assert torch.equal(chains.step_size, step_size)
    for other in (gaussian(3), energy.mlp((2,), interval=(0, 1)), energy.mlp((2,), classes=3)):
        with pytest.raises(ValueError, match="`chains` must be new"):
            other.drawing_by(chains)


def test_chains_move_in_evaluation_mode():
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1), nn.Flatten(0))
    module = energy.Energy(network, (2,), base=energy.DataNormal((2,)))
    module().sample((20,))
    assert network[1].num_batches_tracked == 0
    assert module.training
    energy.ContrastiveDivergence(module)(torch.randn(20, 2))
    assert network[1].num_batches_tracked == 1


@pytest.mark.parametrize("kernel", [KERNEL, energy.HamiltonianMonteCarlo()])
@pytest.mark.parametrize("precision", [1e-2, 1.0, 1e2, 1e4])
def test_step_sizes_are_found_on_every_scale(kernel, precision):
    torch.manual_seed(0)
    chains = energy.FreshChains(kernel, steps=200)
    x = gaussian(2, precision, chains=chains)().sample((1000,)) * precision**0.5
    assert x.square().mean().item() == pytest.approx(1, abs=5 * (2 / 2000) ** 0.5)


class Widths(nn.Module):
    """The energy of normals whose log-precision is the context."""

    def forward(self, x, context):
        return 0.5 * context.squeeze(-1).exp() * x.square().sum(-1)


@pytest.mark.parametrize("kernel", [KERNEL, energy.HamiltonianMonteCarlo()])
def test_contexts_have_step_sizes_of_their_own(kernel):
    """With one for all, chains of the narrow contexts would never move."""
    torch.manual_seed(0)
    module = energy.Energy(Widths(), (2,), (1,), chains=energy.FreshChains(kernel, steps=200))
    precision = torch.linspace(-3, 6, 4).repeat(1000).unsqueeze(-1)
    x = module(precision).sample() * (precision / 2).exp()
    assert torch.allclose(x.square().mean(1).reshape(1000, 4).mean(0), torch.ones(4), atol=5 * 1000**-0.5)


class OfTwoClasses(nn.Module):
    """The energy of a normal for each of two labels."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_precision = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x, label):
        return 0.5 * self.log_precision[label].exp() * (x[:, 0] - self.mean[label]).square()


def test_persistent_chains_learn_a_rare_class():
    """With the step size of the frequent class those of the rare one stay where they are, and its energy runs away."""
    torch.manual_seed(0)
    labels = (torch.rand(2000) < 0.9).long()
    x = 0.5 * torch.randn(2000, 1) + 2 * labels.unsqueeze(-1)
    module = energy.Energy(OfTwoClasses(), (1,), ())
    objective = energy.ContrastiveDivergence(module, chains=energy.PersistentChains(KERNEL, size=512, steps=5))
    pg.fit(objective, (x, labels), steps=300, lr=0.02, ema=0.98, seed=0)
    assert module.network.mean.tolist() == pytest.approx([0.0, 2.0], abs=0.2)
    assert module.network.log_precision.exp().tolist() == pytest.approx([4.0, 4.0], rel=0.35)


def test_chains_that_do_not_move_are_warned_of():
    with pytest.warns(UserWarning, match=r"accepted 0.00%"):
        gaussian(2, 1e12)().sample((10,))


class Lookup(nn.Module):
    """The energies of symbols by a table, without a gradient in them."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.tensor([0.0, 1.0, 0.5]))

    def forward(self, x):
        return self.table[x.argmax(-1)].sum(-1)


def test_symbols_are_drawn_without_a_gradient():
    torch.manual_seed(0)
    module = energy.Energy(Lookup(), (2,), support=constraints.integer_interval(0, 2))
    shares = torch.bincount(module().sample((4000,)).flatten(), minlength=3) / 8000
    expected = (-module.network.table).softmax(0)
    assert ((shares - expected).square() / expected).sum() * 8000 < 16  # of two degrees of freedom


def test_real_events_are_not():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x))

    with pytest.raises(ValueError, match="differentiably"):
        energy.Energy(Flat(), (2,))().sample()


def test_both_energies_of_a_classifier_draw_alike():
    chains = energy.FreshChains(energy.HamiltonianMonteCarlo(), steps=7)
    joint = energy.JointEnergy(nn.Linear(2, 3), (2,), classes=3, base=energy.DataNormal((2,)), chains=chains)
    assert isinstance(joint.conditional.chains.kernel, energy.HamiltonianMonteCarlo)
    assert joint.conditional.chains is not joint.marginal.chains
    assert joint.conditional(torch.arange(3)).sample().shape == (3, 2)


@pytest.mark.parametrize("kernel", [KERNEL, energy.Langevin(0.1), energy.HamiltonianMonteCarlo()])
def test_draws_that_follow_gradients_are_refused_where_torch_has_none(kernel):
    module = gaussian(2).drawing_by(energy.FreshChains(kernel, steps=2))
    with torch.inference_mode(), pytest.raises(ValueError, match="must run outside of torch.inference_mode"):
        module().sample((3,))
    with torch.no_grad():
        assert module().sample((3,)).shape == (3, 2)


def test_draws_of_bits_are_refused_likewise():
    module = energy.mlp((2,), symbols=2, hidden=(4,))
    with torch.inference_mode(), pytest.raises(ValueError, match="must run outside of torch.inference_mode"):
        module().sample((3,))
