"""Flows of images: the contract, log-determinants, squeezing and splitting, actnorm, and images of every size."""

import pytest
import torch

import pyrogen as pg
from pyrogen import flows
from pyrogen.testing import check_bijection, check_distribution
from pyrogen.transforms.images import coarse, coarse_shape, fine, squeezed, unsqueezed

SMALL = {"layers": 1, "width": 4, "blocks": 1, "bins": 3}


def flow(*shapes, seed=0, **options):
    torch.manual_seed(seed)
    made = flows.multiscale(*shapes, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def jacobian_log_det(function, x):
    size = x.numel()
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(function, x).reshape(size, size)).logabsdet


def test_contract_of_multiscale():
    check_distribution(lambda: flows.multiscale((1, 2, 2), **SMALL), event_shape=(1, 2, 2)).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "context"),
    [
        ({"context_shape": (3,)}, torch.randn(5, 3)),
        ({"classes": 4}, torch.arange(4)),
        ({"context_shape": (2, 2, 2), "bins": None}, torch.randn(5, 2, 2, 2)),
    ],
)
def test_contract_of_multiscale_with_context(options, context):
    check_distribution(
        lambda: flows.multiscale((1, 2, 2), **{**SMALL, **options}), event_shape=(1, 2, 2), context=context
    ).raise_if_failed()


@pytest.mark.parametrize("kind", [flows.ActNorm, flows.InvertibleConvolution])
def test_layers_of_channels_pass_the_contract_of_bijections(kind):
    check_bijection(lambda: kind((3, 2, 2)), event_shape=(3, 2, 2)).raise_if_failed()


@pytest.mark.parametrize("place", range(5))
def test_layers_at_scales_pass_the_contract_of_bijections(place):
    check_bijection(
        lambda: flows.multiscale((1, 4, 4), halvings=2, **SMALL).bijections[-2 - place], event_shape=(1, 4, 4)
    ).raise_if_failed()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 8), (2, 7, 5), (1, 1, 1), (1, 1, 6), (4, 6, 3)])
@pytest.mark.parametrize("bins", [None, 3])
def test_images_of_every_size(shape, bins):
    module = flow(shape, bins=bins, layers=2)
    x = torch.randn(2, *shape, dtype=torch.float64)
    noise = module.noise(x)
    assert torch.allclose(module()._transform(noise), x, atol=1e-8)
    expected = -jacobian_log_det(lambda v: module()._transform(v), noise[0])
    standard = torch.distributions.Normal(0, 1).log_prob(noise[0]).sum()
    assert torch.allclose(module().log_prob(x[0]), expected + standard, atol=1e-8)


def test_squeezed_halves_are_the_colours_of_a_checkerboard():
    x = torch.arange(16.0).reshape(1, 4, 4)
    first, second = squeezed(x).chunk(2)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    black = x[0][(rows + columns) % 2 == 0]
    assert torch.equal(first.flatten().sort().values, black)
    assert len(second.flatten()) == len(black)
    assert torch.equal(unsqueezed(squeezed(x)), x)
    # neighbours stay neighbours: one place of the coarse image holds one square of the fine one
    assert torch.equal(squeezed(x)[:, 0, 1].sort().values, torch.tensor([2.0, 3.0, 6.0, 7.0]))


@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
def test_what_leaves_comes_back(halvings):
    x = torch.randn(2, 5, 3, 16, 8)
    left, leaving = coarse(x, halvings)
    assert left.shape == (2, 5, *coarse_shape((3, 16, 8), halvings))
    assert left[0, 0].numel() + sum(part[0, 0].numel() for part in leaving) == x[0, 0].numel()
    assert torch.equal(fine(left, leaving, halvings), x)


def test_each_layer_at_a_scale_leaves_what_has_left():
    """The halves that leave are noise already: layers at later scales do not move them."""
    module = flow((1, 8, 8), halvings=2)
    x = torch.randn(1, 8, 8, dtype=torch.float64)
    deepest = [layer for layer in module.bijections if getattr(layer, "halvings", 0) == 2]
    moved = deepest[-1]()(x) != x
    assert moved.sum() == coarse_shape((1, 8, 8), 2)[0] * 4
    assert not moved[squeezed_places()].any()


def squeezed_places():
    """Of an 8x8 image, the pixels that leave before the second halving: of one colour."""
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    return ((rows + columns) % 2 == 1).unsqueeze(0)


def images(rows=200):
    torch.manual_seed(0)
    return 3 + 2 * torch.randn(rows, 1, 4, 4) * torch.arange(1, 5.0)


def norms_of(module):
    scales = [layer for layer in module.bijections if isinstance(layer, flows.ScaleLayer)]
    return [layer for layer in scales if isinstance(layer.layer, flows.ActNorm)]


def test_actnorm_is_learned_from_the_whole_data_set():
    module, x = flows.multiscale((1, 4, 4), layers=2, width=4, standardize=False), images()
    module.learn_statistics(x)
    norms = norms_of(module)
    assert len(norms) == 2
    assert all(layer.layer.learned for layer in norms)
    for place, layer in enumerate(module.bijections):
        if layer in norms:  # what comes out of it, on the way to noise, has mean zero and scale one
            found = x
            for part in reversed(module.bijections[place:]):
                found = part().inv(found)
            found = coarse(found, layer.halvings)[0].movedim(1, -1).reshape(-1, 4)
            assert torch.allclose(found.mean(0), torch.zeros(4), atol=1e-5)
            assert torch.allclose(found.std(0), torch.ones(4), atol=1e-5)


def test_actnorm_is_not_learned_again(tmp_path):
    module, x = flows.multiscale((1, 4, 4), layers=1, width=4), images()
    pg.fit(module, x, steps=3, seed=0)
    norm = norms_of(module)[0].layer
    module.eval()().log_prob(100 * x)
    pg.save(module, tmp_path / "flow.pt")
    loaded = pg.load(tmp_path / "flow.pt")
    assert torch.allclose(loaded().log_prob(x), module().log_prob(x))
    with torch.no_grad():
        norm.mean.fill_(0.25)
    pg.fit(module, 100 * x, steps=1, lr=1e-9, seed=0)
    assert torch.allclose(norm.mean, torch.full((4,), 0.25), atol=1e-6)


def test_actnorm_resumes(tmp_path):
    x, found = images(), []
    for steps in ((6,), (3, 6)):
        torch.manual_seed(0)
        module = flows.multiscale((1, 4, 4), layers=1, width=4)
        for last in steps:
            name = tmp_path / f"{len(steps)}"
            pg.fit(module, x, steps=last, batch_size=50, seed=0, checkpoint=name)
        found.append(module.eval()().log_prob(x))
    assert torch.equal(*found)


def test_a_fresh_invertible_convolution_is_a_rotation():
    torch.manual_seed(0)
    layer = flows.InvertibleConvolution((6, 2, 2)).double()
    matrix = torch.autograd.functional.jacobian(layer(), torch.zeros(6, 2, 2, dtype=torch.float64))[:, 0, 0, :, 0, 0]
    assert torch.allclose(matrix @ matrix.T, torch.eye(6).double(), atol=1e-6)


def test_no_parameter_grows_with_pairs_of_pixels():
    counts = [sum(p.numel() for p in flows.multiscale((3, side, side), halvings=2).parameters()) for side in (16, 32)]
    assert counts[1] < 1.5 * counts[0]
    assert counts[1] < 3_000_000


def test_an_image_as_context_is_seen_where_it_is():
    torch.manual_seed(0)
    module = flows.multiscale((1, 4, 4), (1, 4, 4), layers=2, width=16, blocks=1, bins=None)
    y = torch.randn(2000, 1, 4, 4)
    pg.fit(module, (y + 0.1 * torch.randn_like(y), y), steps=150, batch_size=64, lr=1e-2, seed=0)
    y = torch.randn(200, 1, 4, 4)
    draws = module.eval()(y).sample()
    assert (draws - y).square().mean() < 0.5  # of a draw that ignores its context, 2


def test_sides_that_cannot_be_halved_are_named():
    with pytest.raises(ValueError, match="`halvings` must be so few that"):
        flows.multiscale((1, 6, 6), halvings=2)
    with pytest.raises(ValueError, match="must be \\(channels, height, width\\)"):
        flows.multiscale((6, 6))
    layer = flows.ActNorm((1, 8, 8))
    with pytest.raises(ValueError, match="`layer` must be of events of shape"):
        flows.ScaleLayer(layer, 1, event_shape=(1, 8, 8))
