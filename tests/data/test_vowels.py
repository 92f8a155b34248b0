"""Made speech: resonances are where they are said to be, and phones when."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from pyrogen.data import vowels


def test_a_resonance_is_the_stated_filter():
    source = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    root = math.exp(-math.pi * 80 / 8000)
    expected = source.numpy()
    for frequency in (500, 1500):
        expected = lfilter([1], [1, -2 * root * math.cos(2 * math.pi * frequency / 8000), root**2], expected)
    assert np.allclose(vowels.resonant(source, (500.0, 1500.0)).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("phone", ["i", "e", "a", "u"])
def test_the_harmonics_of_a_vowel_are_as_loud_as_its_resonances_make_them(phone):
    sound = vowels.uttered(phone, 8000, pitch=100.0)
    level = torch.fft.rfft(sound.double()).abs()[100:4000:100]  # one hertz each
    frequency = torch.arange(100, 4000, 100).double()
    root, delay = math.exp(-math.pi * 80 / 8000), torch.polar(torch.ones(()).double(), -2 * math.pi * frequency / 8000)
    gain = torch.ones(())
    for formant in vowels.FORMANTS[phone]:
        pole = root * torch.polar(torch.ones(()).double(), torch.tensor(2 * math.pi * formant / 8000).double())
        gain = gain / ((1 - pole * delay) * (1 - pole.conj() * delay)).abs()
    share = (level / gain)[gain > 0.05 * gain.max()]  # the others are no louder than what the end cuts off
    assert ((share / share.median() - 1).abs() < 0.1).all()  # the noise is a hundredth of the pulses
    assert sound.abs().max() == pytest.approx(0.4)


def test_phones_are_those_that_are_heard():
    samples, phones = vowels.draw(40, seed=0, length=6000)
    assert samples.shape == phones.shape == (40, 6000)
    assert samples.abs().max() <= 0.4 + 1e-6
    silence = phones == list(vowels.FORMANTS).index("silence")
    assert samples[silence].std() == pytest.approx(0.002, rel=0.05)
    hiss = phones == list(vowels.FORMANTS).index("s")
    crossings = samples.sign().diff(dim=1) != 0
    assert crossings[hiss[:, 1:]].float().mean() > 2 * crossings[(~hiss & ~silence)[:, 1:]].float().mean()
    shares = torch.bincount(phones.flatten(), minlength=6) / phones.numel()
    assert (shares - 1 / 6).abs().max() < 0.06  # of 220 phones: 2.4 standard errors of 0.025
    lasting = (phones.diff(dim=1) != 0).sum(1)
    assert lasting.max() <= 10
    assert torch.equal(vowels.draw(3, seed=4).samples, vowels.draw(3, seed=4).samples)


def test_an_unknown_phone_is_named():
    with pytest.raises(ValueError, match="`phone` must be one of silence, i, e, a, u, s, got 'x'"):
        vowels.uttered("x", 100, pitch=100.0)


def test_sounds_in_a_batch_resound_each_for_itself():
    source = torch.randn(2, 50)
    each = torch.stack([vowels.resonant(row, (500.0,)) for row in source])
    torch.testing.assert_close(vowels.resonant(source, (500.0,)), each)


@pytest.mark.parametrize("pitch", [0.0, -1.0, math.nan])
def test_a_pitch_that_is_none_is_named(pitch):
    with pytest.raises(ValueError, match="`pitch` must be"):
        vowels.uttered("a", 10, pitch=pitch)


def test_a_source_of_integers_is_refused():
    with pytest.raises(TypeError, match="`source` must be a tensor of floating-point numbers, got torch.int64"):
        vowels.resonant(torch.tensor([1, 0, 0, 0]), (500.0,))
