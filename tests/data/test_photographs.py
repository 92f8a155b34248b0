"""Patches of photographs: what they are, and that none of the test is in the training part."""

import pytest
import torch

from pyrogen.data import photographs

pytest.importorskip("skimage")


def test_patches_are_colour_images_of_all_photographs():
    for images in photographs(16):
        assert images.symbols == 256
        assert images.pixels.shape[1:] == (3, 16, 16)
        assert images.pixels.min() >= 0
        assert images.pixels.max() <= 255
        assert images.labels.unique().tolist() == [0, 1, 2, 3, 4, 5]
        assert len(images.labels) == len(images.pixels)


def test_training_and_test_share_no_patch():
    train, test = photographs(16)
    assert torch.cdist(test.pixels.flatten(1).double(), train.pixels.flatten(1).double()).min() > 0


def test_patches_lie_where_they_should():
    """The first test patch of the astronaut, from the photograph itself."""
    from skimage import data

    _, test = photographs(8, shrink=2)
    photograph = torch.tensor(data.astronaut()).permute(2, 0, 1).double()
    corner = photograph[:, :16, 2 * 192 : 2 * 192 + 16].reshape(3, 8, 2, 8, 2).mean((2, 4))
    assert (test.pixels[test.labels == 2][0] - corner).abs().max() <= 0.5


@pytest.mark.parametrize("options", [{"size": 0}, {"shrink": 0}, {"stride": 0}])
def test_sizes_must_be_positive(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        photographs(**options)


def test_a_patch_must_fit():
    with pytest.raises(ValueError, match="`size` must be at most 28"):
        photographs(40)
