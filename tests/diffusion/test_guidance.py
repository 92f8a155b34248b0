import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pyrogen.diffusion import Multistep, mlp
from pyrogen.diffusion.analytic import GaussianMixtureDenoiser
from pyrogen.diffusion.denoiser import Denoiser
from pyrogen.diffusion.guidance import Autoguidance, ClassifierFree, ClassifierGuidance
from pyrogen.numerics.grids import FlowGrid
from pyrogen.numerics.schedules import EDM, CosineVP

MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def mixture(means=MEANS, weights=WEIGHTS):
    return MixtureSameFamily(Categorical(weights), Independent(Normal(means, torch.full_like(means, 0.3)), 1))


class ByClass(Denoiser):
    """The exact denoiser of one component, or of the mixture without a context; counts its calls."""

    def __init__(self):
        super().__init__((2,), CosineVP(), context_shape=())
        self.all = GaussianMixtureDenoiser(mixture(), self.schedule)
        parts = [mixture(MEANS[k : k + 1], torch.ones(1, dtype=torch.float64)) for k in range(3)]
        self.parts = torch.nn.ModuleList(GaussianMixtureDenoiser(part, self.schedule) for part in parts)
        self.blind = 0

    def forward(self, x, t, context=None):
        if context is None:
            self.blind += 1
            return self.all(x, t)
        found = torch.stack([part(x, t) for part in self.parts], -2)
        return found.gather(-2, context[..., None, None].expand(*context.shape, 1, 2)).squeeze(-2)


def given():
    torch.manual_seed(0)
    return torch.randn(6, 2, dtype=torch.float64), torch.rand(6, dtype=torch.float64), torch.randint(3, (6,))


def log_class(denoiser):
    """The exact classifier of noisy data."""

    def log_likelihood(x, t, context):
        posterior = denoiser.all._posterior(x, t).log_joint.log_softmax(-1)
        return posterior.gather(-1, context.unsqueeze(-1)).squeeze(-1)

    return log_likelihood


def test_weight_one_is_the_conditional():
    denoiser = ByClass()
    x, t, context = given()
    for guided in (
        ClassifierFree(denoiser, weight=1.0),
        ClassifierFree(denoiser, weight=1.0, unconditional=denoiser.all, rescaling=0.5),
        Autoguidance(denoiser, ByClass(), weight=1.0),
        ClassifierGuidance(denoiser.all, log_class(denoiser), context_shape=()),
    ):
        assert torch.allclose(guided(x, t, context), denoiser(x, t, context), atol=1e-9)
        assert guided.context_shape == ()
    assert denoiser.blind == 0  # at weight one nobody asks for the weak answer


def test_sampling_under_guidance_at_weight_one_reaches_the_class():
    denoiser = ByClass()
    torch.manual_seed(1)
    noise, context = torch.randn(4000, 2, dtype=torch.float64), torch.full((4000,), 2)
    bayes = ClassifierGuidance(denoiser.all, log_class(denoiser), context_shape=())
    x = Multistep(FlowGrid(20))(bayes, noise, context)
    # Five standard errors of means and standard deviations of 4,000 draws from N(mean, 0.3).
    assert ((x.mean(0) - MEANS[2]).abs() < 5 * 0.3 / 4000**0.5).all()
    assert ((x.std(0) - 0.3).abs() < 5 * 0.3 / 8000**0.5).all()


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_guidance_is_the_mix_of_scores(weight):
    denoiser = ByClass()
    x, t, context = given()
    guided = ClassifierFree(denoiser, weight=weight)
    mixed = weight * denoiser.score(x, t, context) + (1 - weight) * denoiser.all.score(x, t)
    assert torch.allclose(guided.score(x, t, context), mixed, rtol=1e-6, atol=1e-8)
    bayes = ClassifierGuidance(denoiser.all, log_class(denoiser), context_shape=(), weight=weight)
    assert torch.allclose(bayes(x, t, context), guided(x, t, context), atol=1e-8)
    auto = Autoguidance(denoiser.all, GaussianMixtureDenoiser(mixture(2 * MEANS), CosineVP()), weight=weight)
    strong, weak = denoiser.all(x, t), auto.guide(x, t)
    assert torch.allclose(auto(x, t), weight * strong + (1 - weight) * weak)


def test_the_interval_limits_guidance_and_saves_calls():
    denoiser = ByClass()
    x, _, context = given()
    guided = ClassifierFree(denoiser, weight=3.0, interval=(0.3, 2.0))
    free = ClassifierFree(denoiser, weight=3.0)
    ratio = torch.tensor([0.1, 0.29, 0.31, 1.0, 1.99, 2.01], dtype=torch.float64)
    t = denoiser.schedule.time(-2 * ratio.log())
    expected = torch.where((ratio.gt(0.3) & ratio.lt(2))[:, None], free(x, t, context), denoiser(x, t, context))
    assert torch.allclose(guided(x, t, context), expected)
    before = denoiser.blind
    guided(x, t[0], context)
    assert denoiser.blind == before
    guided(x, t[3], context)
    assert denoiser.blind == before + 1


def test_rescaling_brings_the_spread_back():
    denoiser = ByClass()
    x, t, context = given()
    guided = ClassifierFree(denoiser, weight=4.0, rescaling=1.0)(x, t, context)
    assert torch.allclose(guided.std(-1), denoiser(x, t, context).std(-1))
    half = ClassifierFree(denoiser, weight=4.0, rescaling=0.5)(x, t, context)
    assert torch.allclose(half, 0.5 * guided + 0.5 * ClassifierFree(denoiser, weight=4.0)(x, t, context))


def test_guidance_lets_gradients_through():
    denoiser = ByClass()
    x, t, context = given()
    x.requires_grad_()
    for guided in (
        ClassifierFree(denoiser, weight=2.0),
        ClassifierGuidance(denoiser.all, log_class(denoiser), context_shape=(), weight=2.0),
    ):
        assert torch.autograd.gradcheck(lambda x, guided=guided: guided(x, t, context), (x,))


def test_bad_arguments_are_named():
    denoiser = ByClass()
    with pytest.raises(ValueError, match="`denoiser` must have a context to be guided by"):
        ClassifierFree(denoiser.all, weight=2.0)
    with pytest.raises(ValueError, match="`interval` must satisfy 0 <= low < high"):
        ClassifierFree(denoiser, weight=2.0, interval=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"`rescaling` must lie in \[0, 1\], got 2"):
        ClassifierFree(denoiser, weight=2.0, rescaling=2.0)
    with pytest.raises(ValueError, match=r"`guide` must have the schedule of `denoiser` \(CosineVP\), got a different"):
        Autoguidance(denoiser.all, GaussianMixtureDenoiser(mixture(), EDM()), weight=2.0)
    with pytest.raises(ValueError, match=r"`guide` must have event_shape \(2,\), got \(1,\)"):
        Autoguidance(denoiser.all, GaussianMixtureDenoiser(mixture(MEANS[:, :1]), CosineVP()), weight=2.0)
    with pytest.raises(ValueError, match="`denoiser` must have no context"):
        ClassifierGuidance(denoiser, log_class(denoiser), context_shape=())
    bayes = ClassifierGuidance(denoiser.all, log_class(denoiser), context_shape=())
    with pytest.raises(ValueError, match="`context` must end in shape"):
        bayes(torch.zeros(2, dtype=torch.float64), 0.5)


def test_a_guide_of_other_contexts_is_refused():
    """A label in the place of a vector would be broadcast."""
    labelled = mlp((2,), (), classes=3, width=8, depth=1).denoiser
    described = mlp((2,), (3,), width=8, depth=1).denoiser
    with pytest.raises(ValueError, match=r"`guide` must have context_shape \(\), got \(3,\)"):
        Autoguidance(labelled, described, weight=2.0)
