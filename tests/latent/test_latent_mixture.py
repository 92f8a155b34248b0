"""Discrete latents against enumeration: Pyro's on the same noise, and closed forms of linear-Gaussian models."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import flat_gradient
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import nn

import pyrogen as pg
from pyrogen.latent import (
    VAE,
    Classes,
    ClassNormal,
    EnumeratedElbo,
    EnumeratedPair,
    MixtureElbo,
    MixtureVAE,
    SemiSupervisedElbo,
    StandardNormal,
    mixture_vae,
    semi_supervised_vae,
)
from pyrogen.testing import check_distribution, check_objective

SCALE = 0.6
SMALL = {"latent_shape": (2,), "hidden": (16,), "draws": 8}


class ClassLinear(nn.Module):
    """Linear in its input, with weights of each class's own."""

    def __init__(self, entry, inputs, outputs, classes):
        super().__init__()
        self.entry = entry
        self.weight = nn.Parameter(0.7 * torch.randn(classes, outputs, inputs))
        self.bias = nn.Parameter(torch.randn(classes, outputs))

    def forward(self, given):
        label = given["class"]
        return (self.weight[label] @ given[self.entry].unsqueeze(-1)).squeeze(-1) + self.bias[label]


def part(network, family, event, **context):
    return pg.Parametric(network, family, event_shape=event, context_shape=context)


def linear_mixture(classes=3, features=3, latents=1, draws=20):
    """A model whose every quantity has a closed form; its classifier is any."""
    normal, diagonal = pg.families.normal(SCALE), pg.families.diagonal_normal
    decoder = ClassLinear("z", latents, features, classes)
    likelihood = part(decoder, normal, (features,), **{"z": (latents,), "class": ()})
    encoder = ClassLinear("x", features, 2 * latents, classes)
    posterior = part(encoder, diagonal, (latents,), **{"x": (features,), "class": ()})
    prior = ClassNormal((latents,), classes=classes, entry="class")
    component = VAE(prior, likelihood, posterior, draws=1)
    classifier = pg.Parametric(
        nn.Linear(features, classes), pg.families.categorical(classes), event_shape=(), context_shape=(features,)
    )
    return MixtureVAE(Classes(classes), component, classifier, draws=draws)


def exact_joint(module, x):
    """log p(x, y) of every class, (rows, classes): normals with covariances W S W' + s² I."""
    decoder, prior = module.component.likelihood.network, module.component.prior
    variance = (2 * 10 * torch.tanh(prior.log_scale / 10)).exp()
    mean = (decoder.weight @ prior.loc.unsqueeze(-1)).squeeze(-1) + decoder.bias
    covariance = decoder.weight * variance.unsqueeze(-2) @ decoder.weight.mT + SCALE**2 * torch.eye(x.shape[-1])
    log_prob = dist.MultivariateNormal(mean, covariance.to(x)).log_prob(x.unsqueeze(-2))
    return log_prob + module.prior().logits


def exact_bounds(module, x):
    """L(x, y) of every class, (rows, classes), in closed form."""
    classes, bounds = len(module.prior.logits), []
    decoder, prior = module.component.likelihood.network, module.component.prior
    for label in range(classes):
        given = {"x": x, "class": torch.tensor(label)}
        posterior = module.component.posterior(given)
        weight, bias = decoder.weight[label], decoder.bias[label]
        squares = (x - posterior.mean @ weight.T - bias).square().sum(-1) + posterior.variance @ weight.square().sum(0)
        log_likelihood = -squares / (2 * SCALE**2) - x.shape[-1] * math.log(SCALE * math.sqrt(2 * math.pi))
        divergence = torch.distributions.kl_divergence(posterior, prior({"class": torch.tensor(label)}))
        bounds.append(log_likelihood - divergence + module.prior().logits[label])
    return torch.stack(bounds, -1)


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = linear_mixture().double()
    with torch.no_grad():  # posteriors wide enough for weights of small variance
        encoder = module.component.posterior.network
        encoder.weight.mul_(0.1)
        encoder.bias.copy_(torch.tensor([0.0, 0.5]))
    return module


@pytest.fixture
def x():
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_log_prob_converges_to_the_sum_over_classes_from_below(module, x):
    exact = exact_joint(module, x).logsumexp(-1)
    for draws in (1, 30, 1000):
        module.draws = draws
        found = torch.stack([module().log_prob(x) for _ in range(50)]).detach()
        gap, error = exact - found.mean(0), found.std(0) / 50**0.5
        assert (gap > -5 * error).all()
    torch.testing.assert_close(found.mean(0), exact.detach(), atol=0.02, rtol=0.0)


def test_one_draw_is_the_evidence_lower_bound(module, x):
    module.draws = 1
    pyro.set_rng_seed(2)
    found = -module().log_prob(x).mean()
    pyro.set_rng_seed(2)
    torch.testing.assert_close(found, MixtureElbo(module)(x))


def test_responsibilities_are_those_of_bayes_rule(module, x):
    module.draws = 20_000
    expected = exact_joint(module, x).softmax(-1)
    torch.testing.assert_close(module.responsibilities(x).probs, expected, atol=0.02, rtol=0.0)


def test_draws_follow_the_mixture(module):
    x = module().sample((40_000,))
    decoder, prior = module.component.likelihood.network, module.component.prior
    means = (decoder.weight @ prior.loc.unsqueeze(-1)).squeeze(-1) + decoder.bias
    torch.testing.assert_close(x.mean(0), means.mean(0), atol=0.05, rtol=0.0)


def test_bound_and_gradient_are_pyros_enumeration(module, x):
    parameters = list(module.parameters())
    pyro.set_rng_seed(2)
    ours = MixtureElbo(module)(x)
    for make in (
        lambda: (
            TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(module.model, config_enumerate(module.guide), x)
            / len(x)
        ),
        lambda: EnumeratedPair(module.model, module.guide)(x),
    ):
        pyro.set_rng_seed(2)
        theirs = make()
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(flat_gradient(ours, parameters), flat_gradient(theirs, parameters))


def expected_unlabelled(module, x):
    log_class, bounds = module.classify(x).logits, exact_bounds(module, x)
    return (log_class.exp() * (log_class - bounds)).sum(-1)


def assert_expected(objective, batch, parameters, expected, repeats=400):
    gradients = torch.stack([flat_gradient(objective(*batch), parameters) for _ in range(repeats)])
    z = (gradients.mean(0) - expected) / (gradients.std(0) / math.sqrt(repeats) + 1e-9)
    assert z.abs().max() < 5, z


def test_gradient_of_the_mixture(module, x):
    parameters = list(module.parameters())
    expected = flat_gradient(expected_unlabelled(module, x).mean(), parameters)
    assert_expected(MixtureElbo(module, draws=2), (x,), parameters, expected)


def test_gradient_of_the_semi_supervised_bound(module, x):
    parameters, weight = list(module.parameters()), 0.7
    label = torch.tensor([0, -1, 2, -1, 1, -1])
    known = label >= 0
    chosen = label.clamp(min=0).unsqueeze(-1)
    labelled = -(exact_bounds(module, x) + weight * module.classify(x).logits).gather(-1, chosen).squeeze(-1)
    exact = torch.where(known, labelled, expected_unlabelled(module, x)).mean()
    objective = SemiSupervisedElbo(module, weight=weight)
    assert_expected(objective, (x, label), parameters, flat_gradient(exact, parameters))
    losses = []
    for each in (0.0, weight):
        pyro.set_rng_seed(3)
        losses.append(SemiSupervisedElbo(module, weight=each)(x, label))
    error = -module.classify(x).log_prob(label.clamp(min=0))[known].sum() / 6
    torch.testing.assert_close(losses[1] - losses[0], weight * error)
    pyro.set_rng_seed(3)
    without = SemiSupervisedElbo(module, weight=weight)(x, torch.full((6,), -1))
    pyro.set_rng_seed(3)
    torch.testing.assert_close(without, MixtureElbo(module)(x))


class Code(nn.Module):
    """Logits of data for every value of a discrete latent."""

    def __init__(self, latents, features):
        super().__init__()
        self.linear = nn.Linear(latents, features)

    def forward(self, z):
        return self.linear(z.to(self.linear.weight.dtype).reshape(len(z), -1))


def discrete_vae(kind):
    latents, family = {
        "categorical": ((), pg.families.categorical(4)),
        "bits": ((3,), pg.families.bernoulli),
        "several": ((2,), pg.families.categorical(3)),
    }[kind]
    size = math.prod(latents)
    likelihood = pg.Parametric(Code(size, 5), pg.families.bernoulli, event_shape=(5,), context_shape=latents)
    outputs = family.size * size
    posterior = pg.Parametric(nn.Linear(5, outputs), family, event_shape=latents, context_shape=(5,))
    prior = pg.Parametric(Table(outputs), family, event_shape=latents)
    return VAE(prior, likelihood, posterior)


class Table(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.numbers = nn.Parameter(torch.randn(size))

    def forward(self):
        return self.numbers


@pytest.mark.parametrize("kind", ["categorical", "bits", "several"])
def test_enumerated_elbo(kind):
    torch.manual_seed(0)
    vae = discrete_vae(kind).double()
    parameters = list(vae.parameters())
    x = torch.bernoulli(torch.rand(6, 5, dtype=torch.float64))
    ours = EnumeratedElbo(vae)(x)
    if kind == "categorical":  # Pyro cannot enumerate latents of several elements
        theirs = EnumeratedPair(vae.model, vae.guide)(x)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(flat_gradient(ours, parameters), flat_gradient(theirs, parameters))
    draws = torch.stack([Trace_ELBO()(vae.model, vae.guide)(x).detach() / 6 for _ in range(800)])
    assert (draws.mean() - ours).abs() < 5 * draws.std() / math.sqrt(800)
    check_objective(lambda: EnumeratedElbo(discrete_vae(kind)), x.float()).raise_if_failed()


def test_what_cannot_be_enumerated_is_refused():
    vae = discrete_vae("bits")
    continuous = VAE(StandardNormal((3,)), vae.likelihood, pg.latent.vae((5,), latent_shape=(3,)).posterior)
    with pytest.raises(NotImplementedError, match="no finite support"):
        EnumeratedElbo(continuous)(torch.zeros(2, 5))
    large = pg.Parametric(nn.Linear(5, 20), pg.families.bernoulli, event_shape=20, context_shape=5)
    with pytest.raises(ValueError, match="at most 65536 values"):
        EnumeratedElbo(VAE(large_prior(), Decoder(), large))(torch.zeros(2, 5))


def large_prior():
    return pg.Parametric(Table(20), pg.families.bernoulli, event_shape=20)


class Decoder(pg.Parametric):
    def __init__(self):
        super().__init__(Code(20, 5), pg.families.bernoulli, event_shape=5, context_shape=20)


class HandModel(nn.Module):
    """A mixture of two normals, its class absent from the guide."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 2.0]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            label = pyro.sample("class", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(self.loc[label], 1.0), obs=x)


class EmptyGuide(nn.Module):
    def forward(self, x):
        return None


def test_a_users_mixture_is_summed_in_the_model():
    model, x = HandModel(), torch.randn(50) + 1
    logits = torch.tensor([0.3, 0.7]).log()
    exact = -(dist.Normal(model.loc, 1.0).log_prob(x.unsqueeze(-1)) + logits).logsumexp(-1).mean()
    objective = EnumeratedPair(model, EmptyGuide())
    torch.testing.assert_close(objective(x), exact)
    before = exact.item()
    pg.fit(objective, x, steps=60, seed=0, optimizer=lambda parameters: torch.optim.Adam(parameters, 0.1))
    assert objective(x).item() < before


@pytest.mark.parametrize("recipe", [mixture_vae, semi_supervised_vae], ids=lambda recipe: recipe.__name__)
def test_contract(recipe):
    check_distribution(lambda: recipe((3,), classes=3, **SMALL), event_shape=(3,)).raise_if_failed()
    make = lambda: recipe((3,), (4,), classes=3, binary=True, **SMALL)  # noqa: E731
    check_distribution(make, event_shape=(3,), context=torch.randn(5, 4)).raise_if_failed()
    several = {"a": (2,), "b": (1,)}
    context = {"a": torch.randn(5, 2), "b": torch.randn(5, 1)}
    make = lambda: recipe((3,), several, classes=3, scale=0.5, **SMALL)  # noqa: E731
    check_distribution(make, event_shape=(3,), context=context, only=["sample_shapes", "plates"]).raise_if_failed()


def test_contract_of_objectives():
    x, label = torch.randn(12, 3), torch.arange(12) % 4 - 1
    make = lambda: SemiSupervisedElbo(semi_supervised_vae((3,), classes=3, **SMALL), weight=2.0)  # noqa: E731
    check_objective(make, (x, label)).raise_if_failed()
    check_objective(lambda: MixtureElbo(mixture_vae((3,), classes=3, **SMALL), draws=2), x).raise_if_failed()


def test_clusters_and_labels_are_found(tmp_path):
    torch.manual_seed(0)
    truth = torch.arange(300) % 3
    x = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 5.0]])[truth] + 0.3 * torch.randn(300, 2)
    label = torch.where(torch.arange(300) < 9, truth, -1)
    module = semi_supervised_vae((2,), latent_shape=(1,), classes=3, hidden=(32,), scale=0.5, draws=10)
    optimizer = lambda parameters: torch.optim.Adam(parameters, 0.01, fused=True)  # noqa: E731
    pg.fit(SemiSupervisedElbo(module, weight=10.0), (x, label), steps=200, optimizer=optimizer, seed=0)
    assert (module.classify(x).probs.argmax(-1) == truth).float().mean() > 0.95
    assert (module.responsibilities(x).probs.argmax(-1) == truth).float().mean() > 0.95
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    torch.testing.assert_close(loaded.classify(x).probs, module.classify(x).probs)


def test_refusals(module):
    plain = pg.latent.vae((3,), latent_shape=(2,))
    with pytest.raises(ValueError, match="`component` must take the class"):
        MixtureVAE(module.prior, plain, module.classifier)
    with pytest.raises(ValueError, match="`classifier` must take data of shape"):
        MixtureVAE(module.prior, module.component, module.prior)
    with pytest.raises(ValueError, match="`prior` must give classes"):
        MixtureVAE(StandardNormal((2,)), module.component, module.classifier)
    with pytest.raises(ValueError, match="`label` must hold integer labels from -1"):
        SemiSupervisedElbo(module)(torch.randn(2, 3, dtype=torch.float64), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="`scale` must be None"):
        mixture_vae((3,), latent_shape=(2,), classes=3, binary=True, scale=0.1)
