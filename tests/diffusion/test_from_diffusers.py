"""Networks of diffusers as denoisers: tiny, randomly initialised, nothing downloaded."""

import sys
import warnings
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch

from pyrogen.diffusion import Diffusion, FlowGrid, GaussianMixtureDenoiser, Multistep, ProbabilityFlow
from pyrogen.diffusion.foreign import DiscreteVP, from_diffusers
from pyrogen.numerics.schedule import check_schedule

LEVELS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
TINY = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}


@pytest.fixture(scope="module")
def diffusers():
    """diffusers, without torchvision: not needed here, and it may be built for another torch."""
    absent = "torchvision" not in sys.modules
    if absent:
        sys.modules["torchvision"] = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package = pytest.importorskip("diffusers")
            _ = package.UNet2DModel, package.UNet2DConditionModel, package.DDPMScheduler  # now, while it looks away
        return package
    finally:
        if absent:
            del sys.modules["torchvision"]


def scheduler(prediction="epsilon", levels=LEVELS):
    return SimpleNamespace(alphas_cumprod=levels, config=SimpleNamespace(prediction_type=prediction))


class Answer(torch.nn.Module):
    """Says what diffusers' networks say, for data that are standard normal."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction
        self.config = SimpleNamespace(in_channels=1, sample_size=2)

    def forward(self, x, step, class_labels=None):
        alpha = torch.from_numpy(LEVELS.double().sqrt().numpy())[step.round().long()].view(-1, 1, 1, 1).to(x)
        sigma = (1 - alpha**2).sqrt()
        data, noise = alpha * x, sigma * x
        said = {"epsilon": noise, "sample": data, "v_prediction": alpha * noise - sigma * data}
        return SimpleNamespace(sample=said[self.prediction])


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_is_the_same_denoiser(prediction):
    torch.manual_seed(0)
    denoiser = from_diffusers(Answer(prediction), scheduler(prediction))
    x, t = torch.randn(3, 5, 1, 2, 2).double(), torch.arange(0, 1000, 100).div(999.0).double()
    for time in t:
        alpha, sigma = denoiser.schedule(time)
        assert torch.allclose(denoiser(x, time), alpha * x, atol=1e-6)
        assert torch.allclose(denoiser.noise(x, time), sigma * x, atol=1e-6)


def test_the_schedule_goes_through_the_levels_and_inverts():
    schedule = DiscreteVP(LEVELS)
    check_schedule(schedule)
    t = torch.arange(1000).double() / 999
    alpha, sigma = schedule(t)
    assert torch.allclose(alpha**2, LEVELS.double(), rtol=1e-9)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t).double())
    between = torch.linspace(0, 1, 777).double()
    assert torch.allclose(schedule.time(schedule.log_snr(between)), between, atol=1e-9)
    inside = between[1:-1].clone().requires_grad_()
    for found, scale in zip(schedule.derivatives(inside), schedule(inside), strict=True):
        (expected,) = torch.autograd.grad(scale.sum(), inside, retain_graph=True)
        assert torch.allclose(found, expected)
    silent = LEVELS.clone()
    silent[-1] = 0
    check_schedule(DiscreteVP(silent))
    check_schedule(DiscreteVP(LEVELS[:2]))


def test_the_schedule_has_no_kinks():
    schedule, levels = DiscreteVP(LEVELS), torch.arange(1, 999).double() / 999
    before, after = schedule.slope(levels - 1e-9), schedule.slope(levels + 1e-9)
    assert torch.allclose(before, after, rtol=1e-3)


def test_noise_and_data_find_each_other():
    torch.manual_seed(0)
    modes = torch.tensor([[-1.4], [0.0], [1.4]])
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Normal(modes, 0.2).to_event(1))
    flow = ProbabilityFlow(GaussianMixtureDenoiser(mixture, DiscreteVP(LEVELS)))()
    x = mixture.sample((100,))
    with torch.no_grad():
        noise = flow.noise(x)
        again = noise
        for part in flow.transforms:
            again = part(again)
        draws, scores = flow.rsample_and_log_prob((100,))
    assert torch.allclose(again, x, atol=2e-3)
    assert torch.allclose(scores, flow.log_prob(draws), atol=5e-3)


@pytest.mark.slow
def test_an_unconditional_network_draws_and_scores(diffusers):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    network = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **blocks, **TINY).eval()
    denoiser = from_diffusers(network, diffusers.DDPMScheduler(prediction_type="v_prediction"))
    x, t = torch.randn(2, 3, 1, 8, 8), torch.tensor(500 / 999)
    alpha, sigma = denoiser.schedule(t)
    with torch.no_grad():
        said = network(x[0], torch.tensor([500.0] * 3)).sample
        assert torch.allclose(denoiser(x, t)[0], alpha * x[0] - sigma * said, atol=1e-3)
        module = Diffusion(denoiser, sampler=Multistep(FlowGrid(4)), draws=2)
        draws = module().sample((3,))
        assert draws.shape == (3, 1, 8, 8)
        assert module().log_prob(draws).isfinite().all()


@pytest.mark.slow
def test_a_network_with_labels(diffusers):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, num_class_embeds=4, **blocks, **TINY
    ).eval()
    denoiser = from_diffusers(network, diffusers.DDPMScheduler(), null=torch.tensor(3))
    assert denoiser.context_shape == ()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(denoiser(x, 0.5, None), denoiser(x, 0.5, torch.tensor(3)))
        assert not torch.equal(denoiser(x, 0.5, torch.tensor(1)), denoiser(x, 0.5, torch.tensor(3)))
    with pytest.raises(ValueError, match="no `null`"):
        from_diffusers(network, diffusers.DDPMScheduler())(x, 0.5)


@pytest.mark.slow
def test_a_network_with_cross_attention(diffusers):
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    network = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=4, cross_attention_dim=6, attention_head_dim=4, **blocks, **TINY
    ).eval()
    with pytest.raises(ValueError, match="`context_shape` must be"):
        from_diffusers(network, diffusers.DDPMScheduler())
    denoiser = from_diffusers(network, diffusers.DDPMScheduler(), context_shape=(5, 6), null=torch.zeros(5, 6))
    guided = Diffusion(denoiser, sampler=Multistep(FlowGrid(2)))(torch.randn(3, 5, 6))
    assert guided.sample().shape == (3, 2, 8, 8)


def test_other_schedulers_are_refused():
    with pytest.raises(ValueError, match="`scheduler` must have"):
        from_diffusers(Answer("sample"), SimpleNamespace(config=SimpleNamespace()))
    network = Answer("sample")
    network.config.sample_size = None
    with pytest.raises(ValueError, match="`event_shape` must be given"):
        from_diffusers(network, scheduler("sample"))


BAD_LEVELS = {
    "NaN": LEVELS.clone().index_fill(0, torch.tensor([400]), torch.nan),
    "rising": LEVELS.flip(0),
    "level": torch.full((10,), 0.5),
    "above one": torch.linspace(1.5, 0.1, 10),
    "negative": torch.linspace(0.9, -0.1, 10),
    "a matrix": LEVELS.reshape(10, 100),
    "one": LEVELS[:1],
    "one above zero": torch.tensor([0.9, 0.0]),
}


@pytest.mark.parametrize("kind", BAD_LEVELS)
def test_levels_that_are_no_schedule_are_refused(kind):
    with pytest.raises(ValueError, match="`alphas_cumprod` must"):
        DiscreteVP(BAD_LEVELS[kind])


def test_noise_is_not_predicted_from_noise_alone():
    silent = LEVELS.clone()
    silent[-1] = 0
    with pytest.raises(ValueError, match="`scheduler` must predict 'v_prediction'"):
        from_diffusers(Answer("epsilon"), scheduler("epsilon", silent))
    from_diffusers(Answer("sample"), scheduler("sample", silent))


def foreign(**config):
    model = Answer("epsilon")
    model.config = SimpleNamespace(**{"in_channels": 1, "sample_size": 8, **config})
    return model


@pytest.mark.parametrize(
    ("config", "options", "argument"),
    [
        ({}, {"event_shape": (3, 8, 8)}, "event_shape"),
        ({}, {"event_shape": (8, 8)}, "event_shape"),
        ({"block_out_channels": (8, 8, 8)}, {"event_shape": (1, 10, 8)}, "event_shape"),
        ({"in_channels": 8, "out_channels": 4}, {}, "model"),
        ({}, {"context_shape": ()}, "context_shape"),
        ({"num_class_embeds": 4}, {"context_shape": (3,)}, "context_shape"),
        ({"cross_attention_dim": 16}, {"context_shape": (5, 8)}, "context_shape"),
        ({"num_class_embeds": 4}, {"null": torch.tensor(4)}, "null"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(config, options, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must"):
        from_diffusers(foreign(**config), scheduler(), **options)


def test_a_label_out_of_range_is_refused():
    denoiser = from_diffusers(foreign(num_class_embeds=4), scheduler())
    denoiser(torch.randn(2, 1, 8, 8), 0.5, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="`context` must hold integer labels from 0 to 3"):
        denoiser(torch.randn(2, 1, 8, 8), 0.5, torch.tensor([0, 4]))
