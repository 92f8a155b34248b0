"""Networks of images and tables: shapes of every size, and what reaches the output."""

import math

import pytest
import torch

from pyrogen.networks.columns import ColumnFeatures, GapFeatures
from pyrogen.networks.convolution import ImageDecoder, ImageEncoder, halved_sizes


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 7, 12), (2, 1, 5)])
@pytest.mark.parametrize("channels", [(4,), (4, 8), (4, 8, 8)])
def test_images_of_any_size_go_in_and_come_out(shape, channels):
    torch.manual_seed(0)
    image = torch.randn(3, *shape, requires_grad=True)
    code = ImageEncoder(shape, 6, channels=channels, hidden=16, context=2)(image, torch.randn(3, 2))
    assert code.shape == (3, 6)
    z = torch.randn(3, 6, requires_grad=True)
    out = ImageDecoder(6, shape, channels=channels[::-1], hidden=16)(z)
    assert out.shape == (3, *shape)
    assert ImageEncoder(shape, 6, channels=channels, hidden=16)(image[:0]).shape == (0, 6)
    (gradient,) = torch.autograd.grad(code.square().sum(), image)
    assert (gradient[:, :, 0, 0] != 0).any()
    assert (gradient[:, :, -1, -1] != 0).any()
    assert halved_sizes(shape, channels)[-1] == tuple(math.ceil(n / 2 ** len(channels)) for n in shape[1:])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"\(channels, height, width\), got \(8, 8\)"):
        ImageEncoder((8, 8), 2)
    with pytest.raises(ValueError, match="`channels` must name at least 1 layer"):
        ImageDecoder(2, (1, 8, 8), channels=())


def test_a_table_is_counts_by_logarithm_labels_one_hot_and_the_rest_as_it_is():
    x = torch.tensor([[1.5, 3.0, 2.0, 0.0], [-1.0, 0.0, 0.0, 1.0]])
    table = ColumnFeatures(4, counts=[1], categories={2: 3})
    expected = [[1.5, 0.0, math.log(4), 0, 0, 1], [-1.0, 1.0, 0.0, 1, 0, 0]]
    assert torch.allclose(table(x), torch.tensor(expected))
    assert table.size == 6
    x[0, 1:3] = math.nan
    with_flags = ColumnFeatures(4, counts=[1], categories={2: 3}, flags=True)
    expected = torch.tensor([[1.5, 0.0, 0, 0, 0, 0, 1, 0, 0, 1], [-1.0, 1.0, 0.0, 1, 0, 0, 1, 1, 1, 1]])
    assert torch.allclose(with_flags(x), expected)
    assert with_flags.size == 10


def test_gaps_are_zeros_beside_flags():
    x = torch.tensor([[[1.0, math.nan], [math.nan, 2.0]]])
    assert GapFeatures(2)(x).tolist() == [[1, 0, 0, 2, 1, 0, 0, 1]]
    assert GapFeatures(0)(torch.tensor([math.nan, 3.0])).tolist() == [[0, 0], [3, 1]]
