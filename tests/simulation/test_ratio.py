"""Learned ratios: the loss against its definition, the truth of conjugate normals, and what they are held to."""

import copy
import pickle
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive

import pyrogen as pg
from pyrogen.numerics.contrastive import contrastive_loss, shifted
from pyrogen.simulation import Joint, ratio
from pyrogen.testing.contract import OBJECTIVE_CHECKS


def rows(x=None, count=3):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", count if x is None else len(x)):
        pyro.sample("x", dist.Normal(theta, 0.5), obs=x)


JOINT = Joint(rows, observed="x")
EVIDENCE = dist.Normal(0.0, 1.25**0.5)
INFORMATION = 0.5 * log(1 + 1 / 0.25)


def exact(x, theta):
    return dist.Normal(theta, 0.5).log_prob(x) - EVIDENCE.log_prob(x)


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    module = ratio(JOINT)
    options = {"steps": 800, "batch_size": 128, "seed": 0, "schedule": _cosine}
    pg.fit(module, JOINT.draw(8000, seed=0), **options, optimizer=lambda p: torch.optim.Adam(p, 3e-3))
    return module.eval()


def _cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)


def test_shifted_rows_belong_to_other_simulations():
    values = torch.arange(6).reshape(6, 1)
    found = shifted(values, 3)[..., 0]
    assert found[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert all(len(set(column)) == 4 for column in found.T.tolist())


def test_the_ratio_of_conjugate_normals(learned):
    simulations = JOINT.draw(2000, seed=1)
    theta, x = simulations.latents["theta"].unsqueeze(-1), simulations.observed["x"]
    with torch.no_grad():
        found = learned(theta).log_prob(x)
    assert (found - exact(x, theta)).abs().mean() < 0.06
    deviation = (found - exact(x, theta)).std() / len(x) ** 0.5
    assert abs(found.mean() - INFORMATION) < 0.04 + 3 * deviation


def test_its_mean_under_the_prior_is_one_at_every_x(learned):
    x = torch.linspace(-2.0, 2.0, 9)
    prior = JOINT.prior(4000, seed=2)["theta"].unsqueeze(-1)
    with torch.no_grad():
        mean = learned(prior).log_prob(x).exp().mean(0)
    assert ((mean - 1).abs() < 0.15).all(), mean


def test_the_posterior_under_nuts_is_exact_in_plates_of_any_number_of_rows(learned):
    x = torch.tensor([0.3, 1.2, 0.8, 0.1, 0.9, 0.5])

    def program():
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", learned(theta), obs=x)

    pyro.set_rng_seed(0)
    for model, arguments in ((program, ()), (learned.program, (x,))):
        chain = MCMC(NUTS(model), num_samples=150, warmup_steps=100, disable_progbar=True)
        chain.run(*arguments)
        draws = chain.get_samples()["theta"]
        precision = 1 + len(x) / 0.25
        assert abs(draws.mean() - x.sum() / 0.25 / precision) < 0.1
        assert abs(draws.std() - precision**-0.5) < 0.05


def test_what_needs_more_than_the_ratio_is_refused_by_name(learned):
    x = torch.zeros(3)
    with pytest.raises(NotImplementedError, match="no draws.*unnormalized.*likelihood"):
        Predictive(learned.program, num_samples=2)()
    guide = pyro.infer.autoguide.AutoNormal(learned.program)
    with pytest.raises(NotImplementedError, match="unnormalized"):
        pg.fit(pg.Elbo(learned.program, guide), (x,), steps=1)
    with pytest.raises(NotImplementedError, match="unnormalized"):
        pg.evaluation.importance_log_weights(learned.program, _prior, x, draws=30, whole=True)
    with pytest.raises(NotImplementedError, match="unnormalized"):
        pg.MaximumLikelihood(learned)
    with pytest.raises(NotImplementedError, match="unnormalized"):
        learned.guide  # noqa: B018


def _prior(x):
    pyro.sample("theta", dist.Normal(0.0, 1.0))


def test_the_contract():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.LogNormal(theta, scale).expand([3, 2]).to_event(1), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    context = {"theta": torch.randn(5), "scale": torch.rand(5) + 0.1}
    pg.testing.check_distribution(lambda: ratio(joint), event_shape=2, context=context).raise_if_failed()
    batch = ({"theta": context["theta"], "scale": context["scale"]}, {"x": torch.rand(5, 3, 2) + 0.1})
    # Rows given twice over are no pairs of two simulations, so that the loss of such a batch is another.
    checks = [check.__name__ for check in OBJECTIVE_CHECKS if check.__name__ != "per_datum"]
    make = lambda: ratio(joint, balanced=10.0).objective()  # noqa: E731
    pg.testing.check_objective(make, batch, only=checks).raise_if_failed()


def test_a_network_and_an_embedding_of_ones_own():
    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(16 + 1, 1)

        def forward(self, x, parents):
            assert x.shape[1:] == (4, 4)
            return self.linear(torch.cat([x.flatten(1), parents], -1))

    class Pair(torch.nn.Module):
        def forward(self, x, parents):
            return torch.cat([parents, parents], -1)

    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(theta, 1.0).expand([3, 4, 4]).to_event(2), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    simulations = joint.draw(20, seed=0)
    for module in (
        ratio(joint, network=Image()),
        ratio(joint, embedding=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))),
    ):
        pg.fit(module, simulations, steps=2, validation=0.2)
        score = module(torch.zeros(7, 1)).log_prob(simulations.observed["x"][0])
        assert score.shape == (7, 3)
    wrong = ratio(joint, network=Pair())
    with pytest.raises(ValueError, match="one number for each"):
        wrong(torch.zeros(())).log_prob(torch.zeros(4, 4))
    with pytest.raises(TypeError, match="`network` must be a Module"):
        ratio(joint, network=lambda x, y: x)


def test_absent_rows_do_not_count():
    module = ratio(JOINT)
    simulations = JOINT.draw(6, seed=0)
    x = simulations.observed["x"].clone()
    x[:, 2] = torch.nan
    loss = module.objective()
    torch.manual_seed(0)
    found = loss(simulations.latents, {"x": x})
    theta = simulations.latents["theta"].unsqueeze(-1)
    kept = loss.module.log_ratio(x[:, :2], shifted(module.features(theta), 5))
    torch.testing.assert_close(found, contrastive_loss(kept, gamma=1.0).mean())


def test_labels_and_counts_are_compared_as_well():
    def program(x=None):
        label = pyro.sample("label", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Poisson(1.0 + 5.0 * label), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    torch.manual_seed(0)
    module = ratio(joint)
    pg.fit(module, joint.draw(3000, seed=0), steps=200, batch_size=256, seed=0)
    label, x = torch.arange(3).repeat_interleave(12), torch.arange(12.0).repeat(3)
    scores = dist.Poisson(1.0 + 5.0 * torch.arange(3.0).unsqueeze(-1)).log_prob(torch.arange(12.0))
    expected = (scores - scores.logsumexp(0) + log(3)).flatten()
    found = module(label).log_prob(x)
    often = expected > -3
    assert (found - expected)[often].abs().mean() < 0.25


@pytest.mark.filterwarnings("ignore:.*loads with `into=` alone")
def test_copies_pickles_and_files_score_alike(tmp_path):
    module = ratio(JOINT)
    pg.fit(module, JOINT.draw(20, seed=0), steps=2)
    pg.save(module, tmp_path / "ratio.safetensors")
    loaded = pg.load(tmp_path / "ratio.safetensors", into=ratio(JOINT))
    x = torch.randn(6)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(twin(torch.zeros(())).log_prob(x), module(torch.zeros(())).log_prob(x))


def test_chains_go_to_arviz_without_the_draws_that_a_ratio_has_not():
    model, x = ratio(JOINT).program, torch.randn(3)
    chain = MCMC(NUTS(model, max_tree_depth=2), num_samples=4, warmup_steps=2, disable_progbar=True)
    chain.run(x)
    with pytest.warns(UserWarning, match="leaves out posterior_predictive .a ratio .* has no draws"):
        tree = pg.analysis.to_arviz(chain, x)
    assert tree["posterior"]["theta"].shape == (1, 4)
    assert tree["log_likelihood"]["x"].attrs["density"] == "unnormalized"


def test_bad_arguments_are_refused_by_name():
    for options, match in (
        ({"classes": 0}, "`classes` must be at least 1"),
        ({"gamma": 0.0}, "`gamma` must be positive"),
        ({"balanced": -1.0}, "`balanced` must not be negative"),
        ({"site": "theta"}, "`site` must be one of the observed sites"),
    ):
        with pytest.raises(ValueError, match=match):
            ratio(JOINT, **options)
    with pytest.raises(ValueError, match="at least 2 simulations"):
        ratio(JOINT).objective()({"theta": torch.zeros(1)}, {"x": torch.zeros(1, 3)})
