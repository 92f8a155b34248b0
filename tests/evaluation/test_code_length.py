"""The length of images by a universal code: probabilities that sum to one, and what is short."""

from itertools import product
from math import lgamma, log

import pytest
import torch

import pyrogen as pg
from pyrogen.evaluation import auroc, code_length, complexity, likelihood_ratio


@pytest.mark.parametrize(("shape", "symbols"), [((1, 2, 3), 2), ((2, 2, 1), 3), ((1, 2, 2), 4)])
def test_the_probabilities_of_all_images_sum_to_one(shape, symbols):
    pixels = torch.Size(shape).numel()
    every = torch.tensor(list(product(range(symbols), repeat=pixels))).reshape(-1, *shape)
    assert float((-code_length(every, symbols)).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_code_of_differences_one_after_the_other():
    """By hand: an image of two columns, its four kinds of differences, each coded by frequencies so far."""
    image, symbols = torch.tensor([[[3, 1], [0, 2]]]), 4
    differences = [[3, 1, 0, 2], [3, 2, 0, 2], [3, 1, 1, 1], [3, 2, 1, 0]]
    probabilities = []
    for values in differences:
        probability = 1.0
        for place, value in enumerate(values):
            probability *= (values[:place].count(value) + 0.5) / (place + symbols / 2)
        probabilities.append(probability)
    assert float(code_length(image, symbols)) == pytest.approx(-log(sum(probabilities) / 4), abs=1e-9)


def test_uniform_noise_is_not_shorter_than_its_entropy_and_constants_are():
    noise = torch.randint(16, (200, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    entropy = 192 * log(16)
    redundancy = log(4) + 0.5 * 15 * log(192) + lgamma(0.5) * 16  # of the code, at most about so much
    mean = float(code_length(noise, 16).mean())
    assert entropy < mean < entropy + redundancy
    ramp = torch.arange(8).expand(1, 8, 8)
    assert code_length(torch.zeros(1, 8, 8), 16) < code_length(ramp, 16) < 0.5 * 64 * log(16)


def test_images_are_measured_one_by_one():
    images = torch.randint(17, (2, 5, 1, 6, 4))
    lengths = code_length(images, 17)
    assert lengths.shape == (2, 5)
    assert code_length(images[:0], 17).shape == (0, 5)
    torch.testing.assert_close(lengths[1, 3], code_length(images[1, 3].float(), 17))


def test_many_large_images_are_coded_in_parts(monkeypatch):
    images, parts = torch.randint(2, (40, 1, 16, 16)), []
    whole, lengths = code_length(images, 2), complexity._lengths
    monkeypatch.setattr(complexity, "_CHUNK", 2**13)
    monkeypatch.setattr(complexity, "_lengths", lambda part, symbols: parts.append(part) or lengths(part, symbols))
    torch.testing.assert_close(code_length(images, 2), whole)
    assert max(4 * part.numel() for part in parts) <= 2**13
    assert sum(map(len, parts)) == 40


def test_it_makes_smooth_images_as_unusual_as_they_are():
    """A model of noise on ten grey levels in the middle finds constant images as probable as any of its data."""
    torch.manual_seed(0)
    data, constant = torch.randint(3, 13, (200, 1, 8, 8)), torch.randint(3, 13, (200, 1, 1, 1)).expand(200, 1, 8, 8)
    log_probs = torch.full((200,), -64 * log(10))
    assert auroc(-log_probs, -log_probs).value == 0.5
    scores = [likelihood_ratio(log_probs, -code_length(images, 16)) for images in (data, constant)]
    assert auroc(*scores).value == 1.0


def test_errors_of_code_length_name_the_argument():
    with pytest.raises(
        ValueError, match=r"`images` must have shape \(\*batch, channels, rows, columns\), got \(4, 4\)"
    ):
        code_length(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="integers from 0 to 255, got 0.5"):
        code_length(torch.full((1, 4, 4), 0.5))
    assert code_length(pg.data.quantize(torch.full((1, 4, 4), 0.5), 256)) > 0
