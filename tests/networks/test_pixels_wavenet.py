"""PixelCNN and WaveNet compute in steps what they compute in one pass, and see all that came before."""

import pytest
import torch
from sequence_checks import check_steps

from pyrogen.networks.context_embeddings import PlaceContext
from pyrogen.networks.pixels import Intensities, PixelCNN
from pyrogen.networks.sequence import Tokens
from pyrogen.networks.wavenet import WaveNet

SYMBOLS, WIDTH = 5, 8


def context_of(kind, length):
    return {"none": None, "global": torch.randn(3, 4), "local": torch.randn(3, length, 4)}[kind]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["none", "global", "local"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_wavenet(kind, kernel):
    size = 0 if kind == "none" else 4
    network = WaveNet(
        Tokens(SYMBOLS, WIDTH), width=WIDTH, features=6, dilations=[1, 2, 4, 1, 2], kernel=kernel, context=size
    )
    check_steps(network, torch.randint(SYMBOLS, (3, 16)), context_of(kind, 16))


@pytest.mark.parametrize("kind", ["none", "global", "local"])
@pytest.mark.parametrize(("kernel", "attention"), [(3, 0), (5, 2)])
def test_pixel_cnn(kind, kernel, attention):
    network = PixelCNN(
        Tokens(SYMBOLS, WIDTH),
        shape=(4, 3),
        width=WIDTH,
        features=6,
        depth=3,
        kernel=kernel,
        context=0 if kind == "none" else 4,
        attention=attention,
        heads=2,
    )
    check_steps(network, torch.randint(SYMBOLS, (3, 12)), context_of(kind, 12))


def dependence(network, length):
    """Which output depends on which symbol, ``(output, symbol)``."""
    torch.nn.init.normal_(network.head.weight)
    network.eval()
    symbols = torch.zeros(1, length, dtype=torch.long)
    with torch.no_grad():
        changed = symbols.repeat(length, 1) + torch.eye(length, dtype=torch.long)
        return (network(changed) - network(symbols)).abs().sum(-1).T > 1e-9


def test_wavenet_sees_exactly_its_receptive_field():
    network = WaveNet(Tokens(2, WIDTH), width=WIDTH, features=4, dilations=[1, 2, 4], kernel=2).double()
    assert network.receptive_field == 8
    place = torch.arange(20)
    back = place[:, None] - place
    assert torch.equal(dependence(network, 20), (back >= 1) & (back <= 8))


def test_pixel_cnn_has_no_blind_spot():
    network = PixelCNN(Tokens(2, WIDTH), shape=(5, 5), width=WIDTH, features=4, depth=8).double()
    assert torch.equal(dependence(network, 25), torch.ones(25, 25).tril(-1).bool())


def test_the_size_of_networks_is_checked():
    tokens = Tokens(2, WIDTH)
    with pytest.raises(ValueError, match="`kernel` must be odd"):
        PixelCNN(tokens, shape=(2, 2), width=WIDTH, features=1, kernel=4)
    with pytest.raises(ValueError, match="`attention` must lie between 0 and `depth`"):
        PixelCNN(tokens, shape=(2, 2), width=WIDTH, features=1, depth=1, attention=2)
    with pytest.raises(ValueError, match="`width` must be a multiple of `heads`"):
        PixelCNN(tokens, shape=(2, 2), width=WIDTH, features=1, attention=1, heads=3)
    with pytest.raises(ValueError, match="`kernel` must be at least 2"):
        WaveNet(tokens, width=WIDTH, features=1, dilations=[1], kernel=1)
    with pytest.raises(ValueError, match="`dilations` must hold at least one layer"):
        WaveNet(tokens, width=WIDTH, features=1, dilations=[])


def test_pixels_and_images_as_vectors():
    grey, colour = Intensities((), 256, WIDTH), Intensities((3,), 256, WIDTH)
    assert grey(torch.zeros(2, 7)).shape == (2, 7, WIDTH)
    assert colour(torch.zeros(2, 7, 3)).shape == (2, 7, WIDTH)
    torch.testing.assert_close(grey(torch.full((1,), 127.5)), grey.numbers.linear.bias[None])
    assert PlaceContext((2, 3, 5), (3, 5), WIDTH)(torch.zeros(4, 2, 3, 5)).shape == (4, 15, WIDTH)
