"""Normalized energies: their scores are those of the closed form, and hold the error of the normalizer."""

from math import hypot, log, pi

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import nn

import pyrogen as pg
from pyrogen.core.density import density_of
from pyrogen.core.estimate import Estimate
from pyrogen.energy import AnnealedImportanceSampling, Energy, Ising, Normalized, grid_edges, log_normalizer, tempered
from pyrogen.evaluation import bits_per_dimension, compare, log_likelihood, log_likelihood_difference
from pyrogen.testing import check_distribution


class Quadratic(nn.Module):
    """The energy of a normal of this scale, which may depend on a label."""

    def __init__(self, *scales):
        super().__init__()
        self.scales = nn.Parameter(torch.tensor(scales))

    def forward(self, x, label=None):
        scale = self.scales[0 if label is None else label]
        return x.square().sum(1) / scale.square() / 2


def quadratic(scale=2.0):
    return Energy(Quadratic(scale), (2,))


TRUTH = Estimate(log(2 * pi) + 2 * log(2), 0.3, "nats", "estimate")


def test_scores_are_those_of_the_normal():
    x = 2 * torch.randn(100, 2)
    model = Normalized(quadratic(), TRUTH)
    expected = dist.Normal(torch.zeros(2), 2.0).to_event(1).log_prob(x)
    assert torch.allclose(model().log_prob(x), expected, atol=1e-5)
    assert model().log_prob(x).shape == (100,)
    assert density_of(model()) == model.density == "estimate"


def test_the_error_of_the_normalizer_is_in_every_figure():
    torch.manual_seed(0)
    x = 2 * torch.randn(400, 2)
    model, exact = Normalized(quadratic(), TRUTH), dist.Normal(torch.zeros(2), 2.0).to_event(1)
    alone = log_likelihood(exact, x).standard_error
    assert log_likelihood(model, x).standard_error == pytest.approx(hypot(alone, 0.3), abs=1e-5)
    assert log_likelihood(model(), x).standard_error == pytest.approx(hypot(alone, 0.3), abs=1e-5)
    assert log_likelihood_difference(model, exact, x).standard_error == pytest.approx(0.3, abs=1e-4)
    in_bits = bits_per_dimension(model, x, log_volume=0.0)
    assert in_bits.standard_error == pytest.approx(hypot(alone, 0.3) / 2 / log(2), abs=1e-5)
    table = compare({"energy": model, "normal": exact}, x)
    assert table.difference("energy", "normal").standard_error == pytest.approx(0.3, abs=1e-4)
    assert table.log_likelihood("normal").standard_error == pytest.approx(alone)
    assert "(estimate)" in str(table)
    double = log_likelihood_difference(model, Normalized(quadratic(), TRUTH), x)
    assert double.standard_error == pytest.approx(0.3 * 2**0.5)


def test_parts_of_models_bring_their_error():
    """A prior with an estimated normalizer leaves its error in the bound."""
    prior = Normalized(quadratic(), TRUTH)
    normal = pg.Parametric(nn.Linear(2, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(2,))
    vae = pg.latent.VAE(prior, normal, normal)
    x = torch.randn(200, 2)
    assert log_likelihood(vae, x).standard_error > 0.3


def test_the_truth_lies_within_the_error():
    torch.manual_seed(1)
    energy = quadratic(3.0)
    z = log_normalizer(energy, method=AnnealedImportanceSampling(temperatures=20))
    x = 3 * torch.randn(5000, 2)
    found = log_likelihood_difference(Normalized(energy, z), dist.Normal(torch.zeros(2), 3.0).to_event(1), x)
    assert found.standard_error == pytest.approx(z.standard_error, rel=1e-3)
    assert abs(found.value) < 4 * found.standard_error


def test_what_kind_of_number_it_is():
    torch.manual_seed(2)
    energy = quadratic()
    z = log_normalizer(energy, exact_draws=2 * torch.randn(50, 2), method=AnnealedImportanceSampling(temperatures=20))
    assert Normalized(energy, z).density == "estimate"
    assert Normalized(energy, z.lower).density == "estimate"  # too high in expectation
    assert Normalized(energy, z.upper).density == "lower bound"
    assert Normalized(energy, Estimate(3.2, 0.0)).density == "exact"


def test_labels_have_normalizers_of_their_own():
    energy = Energy(Quadratic(1.0, 3.0), (2,), ())
    estimates = [
        Estimate(log(2 * pi) + 2 * log(scale), error, density="estimate") for scale, error in ((1, 0.1), (3, 0.2))
    ]
    model = Normalized(energy, estimates)
    x, labels = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    scales = torch.tensor([1.0, 3.0])[labels].unsqueeze(1)
    expected = dist.Normal(torch.zeros(6, 2), scales.expand(6, 2)).to_event(1).log_prob(x)
    assert torch.allclose(model(labels).log_prob(x), expected, atol=1e-5)
    assert model.shared_error == pytest.approx(0.2)
    wide = model(labels).expand((4, 6))
    assert torch.allclose(wide.log_prob(x), expected.expand(4, 6), atol=1e-5)
    assert torch.allclose(pg.evaluation.bayes_classifier(model, x, 2).exp().sum(1), torch.ones(6).double())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.long])
def test_labels_may_be_integers_of_any_type(dtype):
    normalizers = [Estimate(value, 0.1, "nats", "estimate") for value in (0.0, 1.0)]
    model = Normalized(pg.energy.mlp((2,), classes=2, hidden=(4,)), normalizers)
    labels, x = torch.tensor([0, 1, 1]), torch.zeros(2)
    expected = model.energy(labels).log_prob(x) - torch.tensor([0.0, 1.0, 1.0])
    assert torch.allclose(model(labels.to(dtype)).log_prob(x), expected)
    with pytest.raises(ValueError, match="`context`.*from 0 to 1"):
        model(torch.tensor([2]))


def test_a_copy_that_training_the_energy_leaves_alone():
    energy = quadratic()
    model = Normalized(energy, TRUTH)
    with torch.no_grad():
        energy.network.scales.fill_(7.0)
    x = torch.randn(3, 2)
    assert torch.allclose(model().log_prob(x), -x.square().sum(1) / 8 - TRUTH.value, atol=1e-5)
    assert all(parameter.requires_grad for parameter in energy.parameters())
    with pytest.raises(NotImplementedError, match="frozen copy"):
        pg.fit(model, x, steps=1)


def test_files_hold_the_normalizer_and_its_error(tmp_path):
    saved, loaded = Normalized(quadratic(3.0), TRUTH), Normalized(quadratic(), Estimate(0.0, 0.1, density="estimate"))
    pg.save(saved, tmp_path / "model")
    pg.load(tmp_path / "model", into=loaded)
    x = torch.randn(4, 2)
    assert torch.equal(loaded().log_prob(x), saved().log_prob(x))
    assert loaded.shared_error == pytest.approx(TRUTH.standard_error)


@pytest.mark.slow
def test_contract():
    z = Estimate(TRUTH.value, 0.0, "nats", "estimate")
    check_distribution(lambda: Normalized(quadratic(), z), event_shape=(2,)).raise_if_failed()


@pytest.mark.slow
def test_nuts_at_a_site():
    """Prior N(0, 4) by energy, likelihood N(z, 1): the posterior of y = 1 is N(.8, .8)."""
    pyro.set_rng_seed(0)
    prior = Normalized(quadratic(), TRUTH)

    def model():
        z = pyro.sample("z", prior())
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=torch.ones(2))

    chain = MCMC(NUTS(model), num_samples=400, warmup_steps=100, disable_progbar=True)
    chain.run()
    draws = chain.get_samples()["z"]
    assert torch.allclose(draws.mean(0), torch.full((2,), 0.8), atol=0.2)
    assert torch.allclose(draws.var(0), torch.full((2,), 0.8), atol=0.25)


@pytest.mark.parametrize(
    ("log_normalizer", "error", "message"),
    [
        (3.0, TypeError, "`log_normalizer` must be"),
        ([TRUTH, TRUTH], ValueError, "one estimate for an energy without context, got 2"),
        (Estimate(torch.inf, 0.1), ValueError, "must be a number of nats"),
        (Estimate(1.0, 0.1, "bits"), ValueError, "must be a number of nats"),
    ],
)
def test_mistakes_are_named(log_normalizer, error, message):
    with pytest.raises(error, match=message):
        Normalized(quadratic(), log_normalizer)


def test_what_has_no_normalizer_of_its_own_is_refused():
    with pytest.raises(NotImplementedError, match="each has a normalizer"):
        Normalized(Energy(Quadratic(1.0), (2,), (3,)), TRUTH)
    with pytest.raises(ValueError, match="must be unnormalized"):
        Normalized(pg.energy.rbm((4,), symbols=2, units=3), TRUTH)


def test_temperature_divides_energies():
    torch.manual_seed(3)
    warm = tempered(quadratic(2.0), 4.0)
    x = torch.randn(5, 2)
    assert torch.allclose(warm().log_prob(x), -x.square().sum(1) / 32)
    found = log_normalizer(warm, method=AnnealedImportanceSampling(temperatures=40))
    assert abs(found.value - log(2 * pi) - 2 * log(4)) < 4 * found.standard_error
    flow = pg.flows.affine_coupling((2,), layers=1, hidden=(8,))
    assert torch.allclose(tempered(flow, 2.0)().log_prob(x), flow().log_prob(x) / 2)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        tempered(quadratic(), 0.0)


def test_a_tempered_lattice_has_weaker_couplings():
    torch.manual_seed(4)
    edges = grid_edges((3, 3), periodic=True)
    warm, weak = tempered(Ising((3, 3), edges, coupling=1.0), 2.0), Ising((3, 3), edges, coupling=0.5)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9).reshape(-1, 3, 3)
    assert torch.allclose(warm().log_prob(every), -weak.energies(every), atol=1e-5)
    found = log_normalizer(warm, method=AnnealedImportanceSampling(temperatures=60))
    assert abs(found.value - weak.log_normalizer().item()) < 4 * found.standard_error
