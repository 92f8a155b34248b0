"""Tempered SMC and split Gibbs against closed forms; many problems in a plate are many independent runs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import Centred, gaussian, mixture

from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
from pyrogen.inverse import SplitGibbs, TemperedSMC
from pyrogen.inverse.powered import Powered
from pyrogen.inverse.problem import InverseProblem
from pyrogen.inverse.split_move import split_move
from pyrogen.inverse.unknowns import Unknowns
from pyrogen.operators import Convolution, KrylovSpectrum, Mask

SCALE = torch.tensor([2.0, 1.5, 1.0, 1.0, 0.7, 0.5])
LEVELS = (4.0, 1.5, 0.7, 0.3, 0.1, 0.0)


class Linear:
    """A problem with independent Gaussian data, and its answer."""

    def __init__(self, measured=4, noise=0.3, seed=0, data=None):
        random = torch.Generator().manual_seed(seed)
        self.size, self.noise = len(SCALE), noise
        self.operator = torch.randn(measured, self.size, generator=random)
        truth = SCALE * torch.randn(self.size, generator=random)
        self.y = self.operator @ truth + noise * torch.randn(measured, generator=random) if data is None else data
        self.prior = Diffusion(
            GaussianMixtureDenoiser(dist.Normal(torch.zeros(self.size), SCALE).to_event(1), LinearVP())
        )

    def posterior(self, width=0.0):
        """Evidence, mean and covariance, when data have noise of a width of their own."""
        operator, covariance = self.operator.double(), SCALE.double().square().diag()
        noise = self.noise**2 * torch.eye(len(operator)) + width**2 * operator @ operator.T
        marginal = operator @ covariance @ operator.T + noise
        gain = torch.linalg.solve(marginal, operator @ covariance).T
        evidence = dist.MultivariateNormal(torch.zeros(len(operator)).double(), marginal).log_prob(self.y.double())
        return evidence, gain @ self.y.double(), covariance - gain @ operator @ covariance

    def model(self, y, problems=None):
        with pyro.plate("problems", problems) if problems else pyro.plate("one", 1):
            x = pyro.sample("x", self.prior())
            measured = dist.Normal(x @ self.operator.T, self.noise).to_event(1)
            pyro.sample("y", measured, obs=y.expand(problems or 1, -1))


def without_exact_draws(problem):
    problem.prior.denoiser.has_posterior = False
    return problem


def unlikely(found, exact):
    """How many standard errors the mean of independent runs ``(problems, ...)`` is away, at most."""
    return ((found.mean(0) - exact).abs() / (found.std(0) / len(found) ** 0.5)).max().item()


@pytest.mark.parametrize("exact", [True, False], ids=["exact draws", "the chain"])
def test_the_evidence_is_unbiased_and_the_posterior_right(exact):
    problem = Linear() if exact else without_exact_draws(Linear())
    method = TemperedSMC(problem.model, site="x", particles=32, moves=2, groups=2, levels=LEVELS, steps=3)
    answer = method.run(problem.y, 400)
    evidence, mean, covariance = problem.posterior()
    ratio = (answer.log_evidence.double() - evidence).exp()
    assert ratio.std() / 400**0.5 < 0.03
    assert unlikely(ratio, 1.0) < 3.5
    x = answer.get_samples()["x"].double().transpose(0, 1)  # (problems, draws, size)
    scale = covariance.diagonal().sqrt()
    weights = ratio / ratio.mean()  # exact means are of the measure that the evidence weighs
    assert unlikely(weights[:, None] * (x.mean(1) - mean) / scale, 0.0) < 4.5
    spread = ((x - mean) / scale).square().mean(1)
    assert unlikely(weights[:, None] * (spread - 1), 0.0) < 4.5


def test_levels_that_are_chosen_give_the_same():
    problem = Linear()
    answer = TemperedSMC(problem.model, site="x", particles=64, moves=2).run(problem.y, 200)
    diagnostics, (evidence, mean, _) = answer.diagnostics(), problem.posterior()
    assert diagnostics.effective_sample_size.min() > 0.69
    ratio = (answer.log_evidence.double() - evidence).exp()
    assert unlikely(ratio, 1.0) < 3.5
    assert ratio.std() / 200**0.5 < 0.03
    # What groups say of the error of one run is what runs show.
    assert 0.6 < diagnostics.standard_error.square().mean().sqrt() / answer.log_evidence.std() < 1.6
    errors = (answer.get_samples()["x"].mean(0) - mean) / problem.posterior()[2].diagonal().sqrt()
    assert 0.5 < diagnostics.independent.reciprocal().mean() / errors.square().mean() < 2.0
    again = TemperedSMC(problem.model, site="x", particles=64, moves=2, levels=diagnostics.widths).run(problem.y, 20)
    assert again.diagnostics().widths == diagnostics.widths


def test_more_last_levels_leave_the_evidence_and_make_draws_independent():
    """Particles that share ancestors after one step from the prior become as good as 32 independent draws."""
    problem = Linear(noise=3.0)
    _, mean, covariance = problem.posterior()
    evidence, error = {}, {}
    for last in (1, 10):
        torch.manual_seed(2)
        settings = {"particles": 32, "moves": 1, "groups": 2, "levels": (0.0,), "last_levels": last}
        answer = TemperedSMC(problem.model, site="x", **settings).run(problem.y, 200)
        assert answer.diagnostics().widths == [0.0] * last
        evidence[last] = answer.log_evidence
        missed = (answer.get_samples()["x"].mean(0) - mean) / covariance.diagonal().sqrt()
        error[last] = missed.square().mean()
    torch.testing.assert_close(evidence[10], evidence[1], rtol=0, atol=1e-5)
    assert error[10] < 1.5 / 32 < 2.5 / 32 < error[1]


@pytest.mark.parametrize("width", [0.0, 0.2, 3.0])
@pytest.mark.parametrize("exact", [True, False], ids=["exact draws", "the chain"])
def test_a_move_leaves_the_posterior_as_it_is(width, exact):
    """Exact draws of it are so after moves, with noise of any width; of such data the chain is exact in any steps."""
    problem = Linear() if exact else without_exact_draws(Linear())
    inverse = InverseProblem(problem.model, (problem.y,), {}, "x")
    move = split_move(Unknowns(inverse), None, 3, 2**20)
    _, mean, covariance = problem.posterior(width)
    count = 100_000
    x = mean + torch.randn(count, len(mean)).double() @ torch.linalg.cholesky(covariance).T
    x = x.float().unsqueeze(1)
    for _ in range(3):
        x = move(x, width)
    error = (x[:, 0].double() - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert error.mean(0).abs().max() < 5 / count**0.5
    assert (error.T @ error / count - torch.eye(len(mean))).abs().max() < 6 / count**0.5


@pytest.mark.parametrize("krylov", [False, True], ids=["decomposed", "products"])
@pytest.mark.parametrize("width", [0.0, 2.0])
def test_a_move_under_a_power_of_the_likelihood(width, krylov):
    """Of a linear measurement with Gaussian noise it is accepted always, and leaves the posterior as it is."""
    problem = Linear()
    inverse = InverseProblem(problem.model, (problem.y,), {}, "x")
    unknowns = Unknowns(inverse)
    move = split_move(unknowns, None, 3, 2**20)
    move.likelihood = Powered(move.reverse.target, unknowns.typical.unsqueeze(0), move.reverse.most, linear=True)
    if krylov:
        move.likelihood.spectrum = KrylovSpectrum(move.likelihood.operator, nats=1.0)  # exact in four steps
    _, mean, covariance = Linear(noise=problem.noise * (1 + width**2) ** 0.5, data=problem.y).posterior()
    count = 20_000
    x = mean + torch.randn(count, len(mean)).double() @ torch.linalg.cholesky(covariance).T
    x = x.float().unsqueeze(1)
    for _ in range(3):
        x = move(x, width)
    assert min(move.accepted) > 0.999
    error = (x[:, 0].double() - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert error.mean(0).abs().max() < 5 / count**0.5
    assert (error.T @ error / count - torch.eye(len(mean))).abs().max() < 6 / count**0.5


def test_steps_that_draw_data_with_their_covariance():
    """Under numbers that vary together few steps with the variances of a pilot run change the law, these hardly."""
    covariance = 0.9 + 0.1 * torch.eye(8)
    prior, operator = gaussian(torch.zeros(8), covariance), torch.randn(4, 8)
    prior.denoiser.has_posterior = False
    y = torch.randn(4)

    def model(y):
        with pyro.plate("problems", 100):
            x = pyro.sample("x", prior())
            pyro.sample("y", dist.Normal(x @ operator.T, 0.3).to_event(1), obs=y.expand(100, -1))

    marginal = operator @ covariance @ operator.T + 0.09 * torch.eye(4)
    exact = dist.MultivariateNormal(torch.zeros(4), marginal).log_prob(y)
    bias = {}
    for backward in (0, 3):
        method = TemperedSMC(model, site="x", particles=32, moves=2, groups=2, steps=8, backward=backward)
        bias[backward] = (method.run(y).log_evidence - exact).exp().mean().log().abs().item()
    assert bias[3] < 0.15 < bias[0]


def test_weights_of_modes_and_evidence_of_a_mixture():
    means, weights = [[-2.0, 0.0, 1.0, 0.0], [2.0, 1.0, 0.0, 0.0], [0.0, -2.0, 0.0, 1.0]], [0.5, 0.3, 0.2]
    _, prior = mixture(weights, means, 0.5)
    operator, noise, y = torch.tensor([[0.3, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]), 0.5, torch.tensor([-0.2, 0.7])

    def model(y):
        with pyro.plate("problems", 300):
            x = pyro.sample("x", prior())
            pyro.sample("y", dist.Normal(x @ operator.T, noise).to_event(1), obs=y.expand(300, 2))

    answer = TemperedSMC(model, site="x", particles=64, moves=2, groups=1).run(y)
    marginal = 0.25 * operator @ operator.T + noise**2 * torch.eye(2)
    log_joint = dist.MultivariateNormal(torch.tensor(means) @ operator.T, marginal).log_prob(y)
    log_joint = log_joint + torch.tensor(weights).log()
    ratio = (answer.log_evidence - log_joint.logsumexp(0)).exp()
    assert unlikely(ratio, 1.0) < 3.5
    x = answer.get_samples()["x"]
    components = dist.Normal(torch.tensor(means), 0.5).to_event(1)
    shares = (components.log_prob(x.unsqueeze(-2)) + torch.tensor(weights).log()).softmax(-1).mean(0)
    assert unlikely(ratio[:, None] * (shares - log_joint.softmax(0)), 0.0) < 4


SHOWN = torch.tensor([[True, False, True], [False, True, True], [True, True, False]])
KERNEL = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.5, 0.3], [0.0, 0.2, 0.1]])
IMAGE = dist.MultivariateNormal(torch.zeros(9), torch.eye(9) + 0.8 * torch.ones(9, 9))


def masked(x, y):
    pyro.sample("y", dist.Normal(Mask(SHOWN.unsqueeze(0))(x), 0.2).to_event(1), obs=y)


def blurred(x, y):
    pyro.sample("y", dist.Normal(Convolution((1, 3, 3), KERNEL)(x), 0.2).to_event(3), obs=y)


def twice(x, y):
    """The same number measured twice, once more precisely, and one entry hidden."""
    pyro.sample("y", dist.Normal(x.flatten()[[0, 0, 4]], torch.tensor([0.1, 0.4, 0.2])).to_event(1), obs=y)
    hidden = torch.tensor([True, False])
    pyro.sample("z", dist.Normal(x.flatten()[[1, 2]], 0.3).mask(hidden).to_event(1), obs=torch.tensor([0.5, math.nan]))


@pytest.mark.parametrize(
    ("measure", "size"), [(masked, 6), (blurred, 9), (twice, 3)], ids=lambda v: getattr(v, "__name__", "")
)
def test_any_linear_measurement(measure, size):
    prior = Diffusion(Reshaped(gaussian(torch.zeros(9), IMAGE.covariance_matrix).denoiser))
    y = torch.randn(1, 3, 3) if measure is blurred else torch.randn(size)

    def model(y):
        measure(pyro.sample("x", prior()), y)

    answer = TemperedSMC(model, site="x", particles=512, moves=3).run(y)
    rows, noises, values = matrix_of(measure, y)
    marginal = rows @ IMAGE.covariance_matrix @ rows.T + noises.square().diag()
    exact = dist.MultivariateNormal(torch.zeros(len(values)), marginal).log_prob(values)
    assert abs(answer.log_evidence - exact) < 5 * answer.diagnostics().standard_error + 0.1
    gain = torch.linalg.solve(marginal, rows @ IMAGE.covariance_matrix).T
    scale = (IMAGE.covariance_matrix - gain @ rows @ IMAGE.covariance_matrix).diagonal().sqrt()
    error = (answer.get_samples()["x"].mean(0).flatten() - gain @ values) / scale
    assert error.abs().max() < 5 / answer.diagnostics().independent ** 0.5
    assert not answer.diagnostics().collapsed


def matrix_of(measure, y):
    """Rows, noises and values of what is measured and not hidden."""
    eye = torch.eye(9).reshape(9, 1, 3, 3)
    if measure is masked:
        return torch.eye(9)[SHOWN.flatten()], torch.full((6,), 0.2), y
    if measure is blurred:
        return Convolution((1, 3, 3), KERNEL)(eye).flatten(1).T, torch.full((9,), 0.2), y.flatten()
    noises = torch.tensor([0.1, 0.4, 0.2, 0.3])
    return torch.eye(9)[[0, 0, 4, 1]], noises, torch.cat([y, torch.tensor([0.5])])


class Reshaped(GaussianMixtureDenoiser):
    """The same prior over images."""

    def __init__(self, denoiser):
        super().__init__(IMAGE, LinearVP())
        self.event_shape = (1, 3, 3)


def test_problems_of_their_own_measurements():
    """Each problem of a plate is measured in its own way, and those that measure less have their own evidence."""
    prior = gaussian(torch.zeros(2), torch.eye(2))
    noise = torch.tensor([[0.1], [1.0], [3.0]])
    y = torch.tensor([[0.5, 1.0], [0.5, 1.0], [2.0, -1.0]])

    def model(y):
        with pyro.plate("problems", 3):
            x = pyro.sample("x", prior())
            pyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)

    answer = TemperedSMC(model, site="x", particles=1024).run(y)
    exact = dist.Normal(0.0, (1 + noise**2).sqrt()).log_prob(y).sum(-1)
    assert (answer.log_evidence - exact).abs().max() < 0.2
    mean = y / (1 + noise**2)
    assert (answer.get_samples()["x"].mean(0) - mean).abs().max() < 0.2
    assert answer.log_evidence.shape == (3,)


def test_hundreds_of_numbers_are_seen_to_be_linear():
    """Of many sums of large numbers some nearly cancel, and are then wrong by more than their own size says."""
    torch.manual_seed(1)
    operator = torch.randn(400, 800)

    def model(y):
        x = pyro.sample("x", dist_of_800())
        pyro.sample("y", dist.Normal(operator @ x, 0.1).to_event(1), obs=y)

    problem = InverseProblem(model, (torch.zeros(400),), {}, "x")
    assert problem.target(problem.values).surrogate(torch.zeros(1, 1, 800)).exact


def dist_of_800():
    normal = dist.Normal(torch.zeros(800), 1.0).to_event(1)
    return Diffusion(GaussianMixtureDenoiser(normal, LinearVP()))()


@pytest.mark.parametrize("coupling", [0.0, 0.5])
def test_split_gibbs(coupling):
    problem = Linear(noise=0.5)
    method = SplitGibbs(problem.model, site="x", chains=32, draws=200, warmup=20, coupling=coupling, steps=20)
    answer = method.run(problem.y)
    _, mean, covariance = problem.posterior(coupling)
    diagnostics = answer.diagnostics()
    assert answer.chains == 32
    x = answer.get_samples()["x"].double().flatten(1)
    worth = diagnostics.effective_sample_size["x"].flatten()
    scale = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() / scale < 5 / worth.sqrt()).all()
    assert ((x.var(0) / covariance.diagonal() - 1).abs() < 5 * (2 / worth).sqrt()).all()


def test_noise_below_the_least_of_the_schedule():
    """There the score of the least noise goes on: with a measurement of ten times that precision."""
    denoiser = GaussianMixtureDenoiser(dist.Normal(torch.zeros(3), 1.0).to_event(1), LinearVP(start=1e-2))

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", Diffusion(denoiser)()), 0.003).to_event(1), obs=y)

    answer = TemperedSMC(model, site="x", particles=256).run(torch.tensor([0.5, -1.0, 2.0]))
    exact = dist.Normal(torch.zeros(3), 1.0).log_prob(torch.tensor([0.5, -1.0, 2.0])).sum()
    assert abs(answer.log_evidence - exact) < 5 * answer.diagnostics().standard_error + 0.1
    assert answer.get_samples()["x"].std(0).sub(0.003).abs().max() < 0.0006


def test_what_it_does_not_serve_is_named():
    prior = gaussian(torch.zeros(2), torch.eye(2))

    def of_a_label(y):
        label = pyro.sample("other", dist.Bernoulli(0.5))
        x = pyro.sample("x", Diffusion(Centred(torch.zeros(2, 2)))(label))
        pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    def between(y):
        other = pyro.sample("other", dist.Normal(pyro.sample("x", prior()), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(other, 1.0).to_event(1), obs=y)

    def of_two_noises(y):
        other = pyro.sample("other", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(pyro.sample("x", prior()), 1 + other).to_event(1), obs=y)

    for method in (TemperedSMC, SplitGibbs):
        for model, reason in ((of_a_label, "on which it depends"), (between, "that depend on it")):
            with pytest.raises(NotImplementedError, match=rf"{reason}, got \['other'\].*TwistedSMC"):
                method(model, site="x").run(torch.zeros(2))
        with pytest.raises(NotImplementedError, match=r"discrete, got \['other'\].*TwistedSMC"):
            method(of_two_noises, site="x").run(torch.zeros(2))
    with pytest.raises(ValueError, match=r"`particles` must be a multiple of `groups` = 3, got 256"):
        TemperedSMC(between, site="x", groups=3)
    for levels in ((), (1.0, 0.5), (1.0, 2.0, 0.0), (1.0, 1.0, 0.0)):
        with pytest.raises(ValueError, match="`levels` must fall to 0"):
            TemperedSMC(between, site="x", levels=levels)


def test_groups_that_disagree_are_noticed():
    """Modes that no move joins, and too few particles to weigh them alike in all groups: in 11 of 12 runs."""
    torch.manual_seed(1)
    _, prior = mixture([0.5, 0.5], [[-30.0, 0.0], [30.0, 0.0]], 1.0)

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", prior())[1], 0.5), obs=y)

    diagnostics = TemperedSMC(model, site="x", particles=16).run(torch.tensor(0.2)).diagnostics()
    assert diagnostics.collapsed
    assert "COLLAPSED" in str(diagnostics)
    assert TemperedSMC(model, site="x", particles=16, groups=1).run(torch.tensor(0.2)).diagnostics().r_hat.isnan().all()
