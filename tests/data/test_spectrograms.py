"""Spectra over time: they come back, they find a sine, and Griffin-Lim comes nearer with every step."""

import math

import pytest
import torch

from pyrogen.data.spectrograms import LogMels, ShortTimeFourier, mel_filters, spectrum_of_mels


@pytest.fixture
def speech():
    """Something with harmonics that move: a vowel of rising pitch, in noise."""
    time = torch.arange(2000, dtype=torch.double) / 8000
    phase = 2 * math.pi * (120 * time + 80 * time.square())
    harmonics = sum(torch.sin(k * phase) / k for k in range(1, 12))
    return 0.2 * harmonics + 0.01 * torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.double)


@pytest.mark.parametrize(("window", "hop"), [(64, 16), (64, 32), (100, 30)])
def test_a_sound_comes_back_from_its_transform(speech, window, hop):
    transform = ShortTimeFourier(window=window, hop=hop)
    for x in (speech[:1500], speech[:1501], speech[:1536].reshape(2, 3, -1)):
        spectrum = transform(x)
        assert spectrum.shape == (*x.shape[:-1], window // 2 + 1, 1 + math.ceil(x.shape[-1] / hop))
        assert torch.allclose(transform.inverse(spectrum, length=x.shape[-1]), x, atol=1e-10)


def test_the_transform_is_the_stated_sum(speech):
    found = ShortTimeFourier(window=32, hop=8)(speech[:100])
    padded = torch.nn.functional.pad(speech[:100], (16, 16))
    n = torch.arange(32, dtype=torch.double)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * n / 32)
    for k, m in [(0, 0), (3, 5), (16, 12)]:
        turns = torch.polar(window, -2 * math.pi * k * n / 32)
        assert torch.allclose(found[k, m], (turns * padded[8 * m : 8 * m + 32]).sum())


def test_the_inverse_is_the_nearest_sound(speech):
    transform, generator = ShortTimeFourier(window=32, hop=8), torch.Generator().manual_seed(1)
    wanted = transform(speech[:160]) + 0.1 * torch.randn(17, 21, dtype=torch.cdouble, generator=generator)
    wanted[[0, 16]] = wanted[[0, 16]].real.to(wanted)  # as of any real sound
    nearest = transform.inverse(wanted, length=160).requires_grad_()
    (slope,) = torch.autograd.grad(distance(transform(nearest), wanted), nearest)
    assert slope.abs().max() < 1e-10


def test_griffin_lim_comes_nearer_with_every_step(speech):
    transform = ShortTimeFourier(window=128, hop=32)
    magnitude = transform(speech).abs()
    away = []
    for steps in range(1, 13):
        generator = torch.Generator().manual_seed(2)
        found = transform.griffin_lim(magnitude, length=len(speech), steps=steps, generator=generator)
        away.append(distance(transform(found).abs(), magnitude).item())
    assert all(after < before for before, after in zip(away, away[1:], strict=False))
    assert away[-1] < 0.08 * distance(magnitude, torch.zeros(())).item()


def test_mel_filters_share_every_frequency_between_the_tips():
    filters = mel_filters(12, window=512, rate=8000)
    tips = filters.argmax(1)
    sums = filters.sum(0)
    assert torch.allclose(sums[tips[0] + 1 : tips[-1]], torch.ones(()), atol=1e-5)
    assert sums[0] == 0
    assert sums[-1].abs() < 1e-6
    assert (filters.amax(1) > 0.85).all()
    mels = 2595 * torch.log10(1 + tips * (8000 / 512) / 700)
    assert torch.allclose(mels.diff(), mels.diff().mean().expand(11), atol=25)  # a frequency is 20 mels wide at most


def test_a_sine_is_loudest_in_its_filter():
    filters = mel_filters(20, window=256, rate=8000)
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(4000) / 8000)
    loudest = (filters @ ShortTimeFourier(window=256, hop=64)(tone).abs())[:, 5:-5].mean(1).argmax()
    middle = 700 * (10 ** ((loudest + 1) / 21 * math.log10(1 + 4000 / 700)) - 1)
    assert abs(float(middle) - 1000) < 100


def test_the_spectrum_of_mels_is_pooled_to_them(speech):
    filters = mel_filters(20, window=256, rate=8000).double()
    pooled = filters @ ShortTimeFourier(window=256, hop=64)(speech).abs()
    away = [(filters @ spectrum_of_mels(pooled, filters, steps=steps) - pooled).norm() for steps in (1, 10, 100, 1000)]
    assert all(after < before for before, after in zip(away, away[1:], strict=False))
    assert away[-1] < 0.01 * pooled.norm()
    assert (spectrum_of_mels(torch.zeros(20, 3), filters.float()) == 0).all()


def test_log_mels_are_those_of_the_filters_down_to_the_floor(speech):
    log_mels = LogMels(mels=20, window=256, hop=64, rate=8000, floor=2.0)
    found = log_mels(speech)
    pooled = mel_filters(20, window=256, rate=8000).double() @ ShortTimeFourier(window=256, hop=64)(speech).abs()
    assert found.shape == (33, 20)
    assert torch.allclose(found.exp().T[pooled > 2.0], pooled[pooled > 2.0])
    assert (found.exp().T[pooled <= 2.0] - 2.0).abs().max() < 1e-12
    assert (pooled <= 2.0).any()
    assert (log_mels(torch.zeros(2, 640)) == log_mels(torch.zeros(2, 640)).min()).all()


def test_a_sound_of_log_mels_has_nearly_these(speech):
    log_mels = LogMels(mels=30, window=256, hop=64, rate=8000)
    wanted = log_mels(speech)
    away = []
    for steps in (1, 10, 100):
        sound = log_mels.sound(wanted, steps=steps, generator=torch.Generator().manual_seed(0))
        assert sound.shape == (32 * 64,)
        away.append(float((log_mels(sound) - wanted).square().mean().sqrt()))
    assert away[0] > 1.2 * away[1] > 1.44 * away[2]
    assert away[2] < 0.2
    with pytest.raises(ValueError, match="`log_mels` must have two frames"):
        log_mels.sound(wanted[:1])
    with pytest.raises(ValueError, match=r"`log_mels` must have 30 mels, got \(33, 20\)"):
        log_mels.sound(wanted[:, :20])
    with pytest.raises(ValueError, match="`log_mels` must be logarithms of finite magnitudes, got 1000.0"):
        log_mels.sound(wanted.clone().fill_(1000.0))


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="`window` must be even, got 33"):
        ShortTimeFourier(window=33, hop=8)
    with pytest.raises(ValueError, match="`hop` must be at most half of `window` = 32, got 20"):
        ShortTimeFourier(window=32, hop=20)
    transform = ShortTimeFourier(window=32, hop=8)
    with pytest.raises(ValueError, match=r"`spectrum` must end in \(17, 21\) for 160 samples, got \(17, 20\)"):
        transform.inverse(torch.zeros(17, 20, dtype=torch.cfloat), length=160)
    with pytest.raises(ValueError, match="`magnitude` must not be negative, got -1.0"):
        transform.griffin_lim(-torch.ones(17, 21), length=160)
    with pytest.raises(ValueError, match="`pooled` must not be negative"):
        spectrum_of_mels(-torch.ones(3, 2), torch.ones(3, 5))
    with pytest.raises(ValueError, match="`pooled` must have 3 mels"):
        spectrum_of_mels(torch.ones(4, 2), torch.ones(3, 5))


def distance(first, second):
    """The square of the distance of two spectra, each frequency counted with its negative."""
    twice = torch.full((first.shape[-2], 1), 2.0, dtype=torch.double)
    twice[0] = twice[-1] = 1
    return (twice * (first - second).abs().square()).sum()


def test_spectra_of_mels_are_found_at_any_scale():
    filters, pooled = mel_filters(20, window=64, rate=8000), torch.rand(20, 5)
    found = spectrum_of_mels(pooled, filters)
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(spectrum_of_mels(scale * pooled, filters) / scale, found, rtol=1e-3, atol=1e-6)


def test_no_sounds_have_no_spectra():
    transform = ShortTimeFourier(window=64, hop=16)
    spectrum = transform(torch.zeros(0, 100))
    assert spectrum.shape == (0, 33, 8)
    assert transform.inverse(spectrum, length=100).shape == (0, 100)


def test_what_is_no_sound_and_filters_that_are_none_are_named():
    transform = ShortTimeFourier(window=64, hop=16)
    with pytest.raises(TypeError, match="`samples` must be"):
        transform(torch.zeros(100, dtype=torch.long))
    with pytest.raises(ValueError, match="`samples` must have shape"):
        transform(torch.zeros(2, 0))
    with pytest.raises(TypeError, match="`spectrum` must hold complex"):
        transform.inverse(torch.zeros(33, 7), length=100)
    with pytest.raises(TypeError, match="`magnitude` must be"):
        transform.griffin_lim(torch.ones(33, 7, dtype=torch.long), length=100)
    with pytest.raises(ValueError, match="`window` must be even"):
        mel_filters(3, window=63, rate=8000)
    with pytest.raises(ValueError, match="`filters` must not be negative"):
        spectrum_of_mels(torch.ones(2, 3), -torch.ones(2, 4))
    with pytest.warns(UserWarning, match="filters zero"):
        mel_filters(100, window=64, rate=8000)


@pytest.mark.parametrize("left", [0, 1, 5, 509, 511])
def test_the_last_samples_are_as_sure_as_the_others(left):
    """Where frames overlap by half, a sample far behind the last centre lies under the edge of one window alone."""
    transform, generator = ShortTimeFourier(window=1024, hop=512), torch.Generator().manual_seed(0)
    x = torch.randn(1024 + left, generator=generator)
    assert torch.allclose(transform.inverse(transform(x), length=len(x)), x, atol=1e-5)
    found = transform.griffin_lim(transform(x).abs(), length=len(x), steps=2, generator=generator)
    assert found.abs().max() < 3 * x.abs().max()


def test_the_spectrum_of_mels_has_their_dtype():
    filters, pooled = mel_filters(8, window=64, rate=8000), torch.rand(8, 3, dtype=torch.double)
    assert torch.equal(spectrum_of_mels(pooled, filters), spectrum_of_mels(pooled, filters.double()))


def test_the_window_has_the_precision_of_the_sound():
    sound = torch.randn(40, dtype=torch.double)
    places = torch.arange(16, dtype=torch.double)
    window = 0.5 - 0.5 * (2 * torch.pi * places / 16).cos()
    expected = torch.fft.rfft(window * sound[8:24])
    torch.testing.assert_close(ShortTimeFourier(window=16, hop=4)(sound)[:, 4], expected, atol=1e-12, rtol=1e-12)
