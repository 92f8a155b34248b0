"""Priors: the VampPrior is its posteriors' average, shares their network once, and trains through both roads."""

import copy

import pyro
import pytest
import torch
from linear_gaussian import flat_gradient, linear_vae
from pyro.infer import SVI, Trace_ELBO

import pyrogen as pg
from pyrogen import latent
from pyrogen.latent import VAE, BetaElbo, DoublyReparameterized, MixturePrior, VampPrior, vamp_vae
from pyrogen.testing import check_distribution


def vamp(components=4):
    plain = linear_vae()
    return VAE(VampPrior(plain.posterior, torch.randn(components, 3)), plain.likelihood, plain.posterior, draws=5)


def conditional_prior():
    posterior = latent.vae((3,), (4,), latent_shape=(2,), hidden=(8,)).posterior
    return VampPrior(posterior, torch.randn(5, 3))


def test_density_is_the_average_of_posteriors():
    module, z = vamp().double(), torch.randn(7, 2, dtype=torch.float64)
    each = torch.stack([module.posterior(u).log_prob(z) for u in module.prior.pseudo_data])
    torch.testing.assert_close(module.prior().log_prob(z), each.exp().mean(0).log())
    prior, context = conditional_prior(), torch.randn(7, 4)
    z = z.float()
    each = [prior.posterior({"x": u.expand(7, 3), "context": context}).log_prob(z) for u in prior.pseudo_data]
    torch.testing.assert_close(prior(context).log_prob(z), torch.stack(each).exp().mean(0).log())


def test_draws_are_of_all_posteriors():
    prior = vamp().prior
    z = prior().sample((20_000,))
    locs = prior.posterior(prior.pseudo_data)
    second = (locs.variance + locs.mean.square()).mean(0)
    torch.testing.assert_close(z.mean(0), locs.mean.mean(0), atol=0.05, rtol=0.0)
    torch.testing.assert_close(z.square().mean(0), second, atol=0.1, rtol=0.05)


def test_the_network_is_there_once(tmp_path):
    module = vamp_vae((3,), latent_shape=(2,), pseudo_data=4, hidden=(8,))
    assert module.prior.posterior is module.posterior
    names = [name for name, _ in module.named_parameters()]
    assert len(names) == len(set(names)) == 4 + 4 + 1
    twin = copy.deepcopy(module)
    assert twin.prior.posterior is twin.posterior
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    assert loaded.prior.posterior is loaded.posterior
    z = torch.randn(5, 2)
    torch.testing.assert_close(loaded.prior().log_prob(z), module.prior().log_prob(z))


def test_gradient_goes_through_prior_and_posterior():
    torch.manual_seed(0)
    module, x = vamp().double(), torch.randn(6, 3, dtype=torch.float64)
    shared = list(module.posterior.parameters())
    untied = VAE(copy.deepcopy(module.prior), module.likelihood, module.posterior, draws=5)
    torch.manual_seed(1)
    found = flat_gradient(BetaElbo(module)(x), shared)
    torch.manual_seed(1)
    loss = BetaElbo(untied)(x)
    expected = flat_gradient(loss, shared) + flat_gradient(loss, list(untied.prior.posterior.parameters()))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="shares no parameter"):
        DoublyReparameterized(module, draws=2)


def test_svi_steps_each_parameter_once():
    torch.manual_seed(0)
    module, x = vamp(), torch.randn(16, 3)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    SVI(module.model, module.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step(x)
    moved = [(new - old).abs().max().item() for new, old in zip(module.parameters(), before, strict=True)]
    assert all(abs(step - 1e-3) < 1e-5 for step in moved), moved  # Adam's first step is its learning rate


def test_pseudo_data_start_from_data():
    prior, x = vamp().prior, torch.randn(9, 3)
    prior.start_from(x)
    assert len({tuple(row) for row in prior.pseudo_data.tolist()} & {tuple(row) for row in x.tolist()}) == 4
    with pytest.raises(ValueError, match="`x` must hold at least 4 data, got 2"):
        prior.start_from(x[:2])


def test_a_mixture_prior_kept_is_used_twice_and_copied():
    prior, z = MixturePrior((2,), components=3), torch.randn(5, 2)
    kept = prior()
    for _ in range(2):
        kept.log_prob(z).sum().backward()
    assert torch.equal(copy.deepcopy(kept).log_prob(z), prior().log_prob(z))


def test_a_mixture_prior_finds_clusters():
    torch.manual_seed(0)
    z = torch.cat([torch.randn(200, 1) * 0.3 - 2, torch.randn(200, 1) * 0.3 + 2])
    prior = MixturePrior((1,), components=2)
    optimizer = lambda parameters: torch.optim.Adam(parameters, 0.05, fused=True)  # noqa: E731
    pg.fit(prior, z, steps=300, optimizer=optimizer, seed=0)
    halves = torch.stack([torch.distributions.Normal(loc, 0.3).log_prob(z) for loc in (-2.0, 2.0)])
    truth = halves.exp().mean(0)
    assert abs(prior().log_prob(z).mean() - truth.log().mean()) < 0.03


@pytest.mark.parametrize(
    ("make", "size", "context"),
    [
        (lambda: MixturePrior((3,), components=4), 3, None),
        (lambda: vamp().prior, 2, None),
        (conditional_prior, 2, torch.zeros(5, 4)),
        (lambda: latent.ClassNormal((2,), classes=3), 2, torch.arange(3)),
    ],
    ids=["mixture", "vamp", "conditional vamp", "class normal"],
)
def test_contract(make, size, context):
    check_distribution(make, event_shape=(size,), context=context).raise_if_failed()


def test_contract_of_vamp_vae():
    small = {"latent_shape": (2,), "hidden": (16,), "draws": 8, "pseudo_data": 4}
    check_distribution(lambda: vamp_vae((3,), **small), event_shape=(3,)).raise_if_failed()
    make = lambda: vamp_vae((3,), (4,), binary=True, **small)  # noqa: E731
    check_distribution(make, event_shape=(3,), context=torch.randn(5, 4)).raise_if_failed()


def test_refusals():
    posterior = linear_vae().posterior
    for pseudo_data in (torch.randn(4, 2), torch.randn(0, 3), torch.zeros(4, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="`pseudo_data` must be real numbers of shape"):
            VampPrior(posterior, pseudo_data)
    with pytest.raises(ValueError, match="`posterior` must take a datum"):
        VampPrior(latent.StandardNormal((2,)), torch.randn(4, 3))
