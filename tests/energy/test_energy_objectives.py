"""Objectives of energies against what they are known to learn, and chains against what they are known to draw."""

import math
from functools import partial

import pytest
import torch
from small_energies import Biases, gaussian
from torch import nn
from torch.distributions import Categorical, constraints

import pyrogen as pg
from pyrogen import energy
from pyrogen.numerics.trace import Hutchinson

D = 3
SPREAD = 1.5


def data(rows=4000, dimensions=D, seed=0):
    return SPREAD * torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed))


def trained(make, x, start=0.3, steps=300, lr=0.03, **settings):
    """A normal's precision, learned by an objective from another one."""
    torch.manual_seed(1)
    module = gaussian(x.shape[1], start)
    objective = make(module)
    optimizer = partial(torch.optim.Adam, lr=lr, betas=(0.9, 0.99))
    pg.fit(objective, x, steps=steps, optimizer=optimizer, ema=0.98, seed=0, **settings)
    return module, objective


@pytest.mark.slow
def test_noise_contrastive_estimation_finds_precision_and_normalizer():
    x = data()
    module, objective = trained(lambda e: energy.NoiseContrastive(e, draws=4), x, steps=500, lr=0.05)
    variance = x.square().mean().item()
    assert module.network.precision == pytest.approx(1 / variance, rel=0.04)
    log_z = 0.5 * D * math.log(2 * math.pi * variance)
    assert objective.log_normalizer.item() == pytest.approx(log_z, abs=0.06)


@pytest.mark.parametrize("trace", [None, Hutchinson()])
def test_score_matching_finds_the_precision(trace):
    x = data()
    module, _ = trained(lambda e: energy.ScoreMatching(e, trace=trace), x, steps=200)
    assert module.network.precision == pytest.approx(1 / x.square().mean().item(), rel=0.03)


def test_denoising_finds_the_precision_of_noisy_data():
    x, noise = data(), 0.6
    module, _ = trained(lambda e: energy.DenoisedScoreMatching(e, noise_scale=noise), x, steps=200)
    variance = x.square().mean().item()
    assert module.network.precision == pytest.approx(1 / (variance * (1 + noise**2)), rel=0.05)


@pytest.mark.slow
def test_recovery_likelihood_finds_the_precision():
    x = data()
    chains = energy.RecoveryChains(energy.AdjustedLangevin(), steps=5, noise_scale=0.7)
    module, _ = trained(lambda e: energy.ContrastiveDivergence(e, chains=chains), x)
    assert module.network.precision == pytest.approx(1 / x.square().mean().item(), rel=0.05)


@pytest.mark.slow
def test_a_flow_and_an_energy_find_the_same():
    x = data()
    flow = pg.flows.affine_autoregressive((D,), layers=1, hidden=(8,))
    module, game = trained(lambda e: energy.FlowContrastive(e, flow), x, steps=500, lr=0.05)
    variance = x.square().mean().item()
    assert module.network.precision == pytest.approx(1 / variance, rel=0.06)
    assert game.log_normalizer.item() == pytest.approx(0.5 * D * math.log(2 * math.pi * variance), abs=0.1)
    assert game.metric(x).item() == pytest.approx(0.5 * D * (math.log(2 * math.pi * variance) + 1), abs=0.05)


@pytest.mark.parametrize("elements", [None, 1])
def test_ratio_matching_finds_the_probabilities_of_bits(elements):
    x = torch.bernoulli(torch.tensor([0.1, 0.5, 0.8]).expand(8000, 3), generator=torch.Generator().manual_seed(0))
    module = energy.Energy(Biases((3,)), (3,), support=constraints.boolean)
    objective = energy.RatioMatching(module, elements=elements)
    pg.fit(objective, x, steps=300, optimizer=partial(torch.optim.Adam, lr=0.05), ema=0.98, seed=0)
    assert torch.allclose(module.network.bias.sigmoid(), x.mean(0), atol=0.03)


def test_ratio_matching_finds_the_probabilities_of_symbols():
    truth = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.25, 0.25]])
    torch.manual_seed(0)
    x = Categorical(truth).sample((8000,))
    module = energy.Energy(Biases((2, 3)), (2,), support=constraints.integer_interval(0, 2))
    objective = energy.RatioMatching(module)
    pg.fit(objective, x, steps=300, optimizer=partial(torch.optim.Adam, lr=0.05), ema=0.98, seed=0)
    assert torch.allclose(module.network.bias.softmax(-1), truth, atol=0.03)


KERNEL = energy.AdjustedLangevin()
CHAINS = {
    "data": lambda: energy.DataChains(KERNEL, steps=5),
    "persistent": lambda: energy.PersistentChains(KERNEL, size=1024, steps=5),
}


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 16, 100, 784])
@pytest.mark.parametrize("name", CHAINS)
def test_contrastive_divergence_finds_the_precision_in_any_dimension(name, dimensions):
    """A peer's default weight on squared energies drives it to .83 of the truth at 100 dimensions, .19 at 784."""
    x = data(dimensions=dimensions)
    make = partial(energy.ContrastiveDivergence, chains=CHAINS[name]())
    module, _ = trained(make, x, start=0.3, steps=600, lr=0.02)
    assert module.network.precision * x.square().mean().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_unadjusted_langevin_dynamics_has_the_variance_that_it_is_known_for(size):
    torch.manual_seed(0)
    chains = energy.FreshChains(energy.Langevin(size), steps=40)
    x = gaussian(2, chains=chains)().sample((20_000,))
    expected = 1 / (1 - size / 2)
    assert x.var(0).allclose(torch.tensor(expected), rtol=0.04)  # 4 standard errors


@pytest.mark.parametrize("kernel", [energy.AdjustedLangevin(), energy.HamiltonianMonteCarlo(3)])
def test_adjusted_kernels_draw_from_the_energy(kernel):
    torch.manual_seed(0)
    module = gaussian(5, 4.0, chains=energy.FreshChains(kernel, steps=60))
    x = module().sample((10_000,))
    assert x.var(0).allclose(torch.tensor(0.25), rtol=0.06)
    assert (4 * x.square().sum(-1)).mean().item() == pytest.approx(5, abs=0.15)


@pytest.mark.parametrize("kernel", [energy.Gibbs(), energy.GibbsWithGradients()])
def test_kernels_of_symbols_draw_from_the_energy(kernel):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    nn.init.normal_(network[3].weight)
    chains = energy.FreshChains(kernel, steps=40)
    module = energy.Energy(network, (3,), support=constraints.integer_interval(0, 2), chains=chains)
    states = torch.cartesian_prod(*[torch.arange(3)] * 3)
    expected = module().log_prob(states).softmax(0)
    x = module().sample((20_000,))
    counts = torch.bincount((x * torch.tensor([9, 3, 1])).sum(-1), minlength=27)
    chi_square = ((counts - 20_000 * expected).square() / (20_000 * expected)).sum()
    assert chi_square < 26 + 5 * math.sqrt(2 * 26)


def test_chains_follow_a_flow_as_base_in_the_coordinates_of_its_noise():
    torch.manual_seed(0)
    flow = pg.flows.spline_coupling((2,), layers=2, hidden=(8,))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.4)
    module = energy.Energy(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), (2,), base=flow.requires_grad_(False))
    module.network[0].weight.data.copy_(torch.tensor([[0.0, 0.0]]))
    x, y = module().sample((4000,)), flow().sample((4000,))
    assert pg.evaluation.energy_test(x[:500], y[:500]).p_value > 0.001
    assert torch.allclose(module().log_prob(y) - flow().log_prob(y), -module.network[0].bias, atol=1e-3)


def replayed(steps, **settings):
    torch.manual_seed(3)
    module = energy.mlp((2,), (1,), hidden=(8,))
    objective = module.objective()
    context = torch.randn(200, 1, generator=torch.Generator().manual_seed(5))
    pg.fit(objective, (data(200, 2) + context, context), steps=steps, batch_size=32, seed=0, **settings)
    return objective


def test_persistent_chains_of_an_energy_resume_where_they_were(tmp_path):
    expected = replayed(8)
    for steps in (1, 5, 8):
        objective = replayed(steps, checkpoint=tmp_path / "run")
    for name, tensor in expected.chains.buffer.tensors.items():
        assert torch.equal(objective.chains.buffer[name], tensor)
    assert torch.equal(objective.chains.step_size, expected.chains.step_size)
    ours, theirs = objective.state_dict(), expected.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_chains_of_labels_resume_where_they_were(tmp_path):
    def labelled(steps, **arguments):
        torch.manual_seed(0)
        objective = energy.ContrastiveDivergence(energy.mlp((2,), classes=3, hidden=(4,)))
        pg.fit(objective, (data(60, 2), torch.arange(60) % 3), steps=steps, batch_size=20, seed=0, **arguments)
        return objective.chains.buffer

    expected = labelled(4)
    for steps in (2, 4):
        found = labelled(steps, checkpoint=tmp_path / "run")
    assert expected["context"].dtype == found["context"].dtype == torch.long
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.tensors.items())


def test_persistent_chains_keep_their_contexts():
    objective = replayed(6)
    buffer = objective.chains.buffer
    begun = buffer["begun"]
    assert 0 < begun.sum() < len(begun)
    assert (buffer["context"][begun] != 0).all()
    assert (buffer["context"][~begun] == 0).all()
    objective.energy.chains = objective.chains
    with pytest.raises(NotImplementedError, match="FreshChains"):
        objective.energy(torch.zeros(3, 1)).sample()


class Hole(nn.Module):
    """An energy that is NaN on one side, where its gradient is zero."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        value = self.scale * x.square().sum(-1)
        return torch.where(x[:, 0] > 1.5, torch.nan, value)


def test_energies_that_are_not_finite_are_errors_with_their_rows():
    x = torch.zeros(6, 2)
    x[4] = 2.0
    module = energy.Energy(Hole(), (2,))
    objective = energy.ContrastiveDivergence(module, chains=energy.DataChains(KERNEL, steps=1))
    for loss in (objective, energy.NoiseContrastive(module)):
        with pytest.raises(FloatingPointError, match=r"\b4\b"):
            loss(x)
    with pytest.raises(FloatingPointError, match="not finite"):
        energy.Energy(Hole(), (2,), chains=energy.FreshChains(energy.Langevin(0.5), steps=50))().sample((300,))


def test_scores_that_are_not_finite_are_errors_with_their_rows():
    x = torch.zeros(6, 2)
    x[4] = 2
    module = energy.Energy(Hole(), (2,))
    for loss in (energy.ScoreMatching(module), energy.DenoisedScoreMatching(module, noise_scale=1e-3)):
        with pytest.raises(FloatingPointError, match=r"\b4\b"):
            loss(x)


@pytest.mark.parametrize("dtype", [torch.float, torch.long, torch.uint8, torch.bool])
def test_bits_may_be_of_any_type(dtype):
    torch.manual_seed(0)
    bits = torch.rand(20, 3) < 0.3
    module = energy.Energy(Biases((3,)), (3,), support=constraints.boolean)
    for loss in (energy.NoiseContrastive(module), energy.RatioMatching(module), energy.ContrastiveDivergence(module)):
        torch.manual_seed(1)
        expected = loss(bits.float())
        torch.manual_seed(1)
        assert loss(bits.to(dtype)).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_difference_of_energies_chooses_no_weights():
    """Its least value is where chains lag behind most; a measure may be given."""
    x, module = torch.randn(300, 2), energy.mlp((2,), hidden=(8,))
    joint = energy.JointEnergy(nn.Linear(2, 2), (2,), classes=2, base=energy.DataNormal((2,)))
    with pytest.raises(ValueError, match="`metric`.*ContrastiveDivergence"):
        pg.fit(module, x, steps=4, validation=0.2, seed=0)
    with pytest.raises(ValueError, match="`metric`.*JointDivergence"):
        pg.fit(joint.objective(), (x, (x[:, 0] > 0).long()), patience=2, validation=0.2, seed=0)
    found = pg.fit(module, x, steps=4, validation=0.2, validate_every=2, metric=energy.ScoreMatching(module), seed=0)
    assert found.best_step in (2, 4)


def test_what_has_no_meaning_is_refused():
    bits = energy.mlp((3,), symbols=2, hidden=(8,))
    reals = energy.mlp((3,), hidden=(8,))
    with pytest.raises(NotImplementedError, match="RatioMatching"):
        energy.ScoreMatching(bits)
    with pytest.raises(NotImplementedError, match="ScoreMatching"):
        energy.RatioMatching(reals)
    with pytest.raises(NotImplementedError, match="DataChains"):
        energy.ContrastiveDivergence(
            bits, chains=energy.RecoveryChains(energy.AdjustedLangevin(), steps=1, noise_scale=1.0)
        )
    with pytest.raises(ValueError, match="exact"):
        energy.NoiseContrastive(reals, noise=energy.mlp((3,)))
    with pytest.raises(NotImplementedError, match="FreshChains"):
        energy.Energy(reals.network, (3,), chains=energy.DataChains(KERNEL, steps=1))().sample()
    with pytest.raises(ValueError, match="`size`"):
        energy.ContrastiveDivergence(reals, chains=energy.PersistentChains(KERNEL, size=3, steps=1))(torch.zeros(9, 3))


def test_energies_that_run_away_from_their_chains_are_noticed():
    """At a learning rate of one the energy changes faster than its chains move."""
    torch.manual_seed(0)
    module = energy.mlp((2,), hidden=(16,))
    with pytest.raises(FloatingPointError, match="beyond the limit 200 of its turn"):
        pg.fit(module, torch.randn(500, 2), steps=200, lr=1.0, seed=0)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_frozen_base_and_frozen_noise_drop_no_units():
    flow = pg.flows.affine_coupling((D,), layers=2, hidden=(16,), dropout=0.5)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_()
    network = nn.Sequential(nn.Linear(D, 1), nn.Flatten(0))
    module = energy.Energy(network, (D,), base=flow).train()
    x = data(50)
    assert not torch.equal(module.energies(x), module.energies(x))
    flow.requires_grad_(False)
    objective = energy.NoiseContrastive(module, noise=flow).train()
    assert module.training
    assert network.training
    assert objective.training
    assert not flow.training
    assert torch.equal(module.energies(x), module.energies(x))


def test_a_network_of_standardized_events_has_the_same_energies_in_coordinates():
    network = nn.Sequential(nn.Linear(D, 4), nn.SiLU(), nn.Linear(4, 1), nn.Flatten(0)).double()
    flow = pg.flows.affine_coupling((D,), layers=2, hidden=(8,))
    for base in (energy.DataNormal((D,)), flow, None):
        module = energy.Energy(network, (D,), base=base, standardize=True).double()
        x = 5 + 3 * data(500).double()
        module.learn_statistics(x)
        standard = (x - x.mean(0)) / x.std(0)
        expected = network(standard) - (0 if base is None else base().log_prob(x))
        torch.testing.assert_close(module.energies(x), expected)
        coordinates, log_density = module.in_coordinates()
        z, log_det = coordinates.inverse_and_log_det(x)
        torch.testing.assert_close(log_density(z), -expected - log_det)
