"""Sounds in files, and at other rates."""

import math
import struct

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from pyrogen.data.audio import read_wav, resample, write_wav


def test_a_file_holds_every_level_of_16_bits(tmp_path):
    levels = torch.arange(-(2**15), 2**15) / 2**15
    for samples in (levels, levels.reshape(4, -1)):
        write_wav(tmp_path / "levels.wav", samples, rate=8000)
        found, rate = read_wav(tmp_path / "levels.wav")
        assert rate == 8000
        assert torch.equal(found, samples)


@pytest.mark.parametrize(("dtype", "half"), [("u1", 2**7), ("i2", 2**15), ("i4", 2**31), ("f4", None)])
def test_files_of_all_kinds_are_between_minus_one_and_one(tmp_path, dtype, half):
    x = np.array([-0.5, 0.0, 0.25])
    codes = (x * half + (half if dtype == "u1" else 0)).astype(dtype) if half else x.astype(dtype)
    wavfile.write(tmp_path / "x.wav", 22050, codes)
    found, rate = read_wav(tmp_path / "x.wav")
    assert rate == 22050
    assert found.dtype == torch.float32
    assert found.tolist() == x.tolist()


def test_the_loudest_sample_is_kept_within_a_level(tmp_path):
    write_wav(tmp_path / "x.wav", np.array([1.0, -1.0]), rate=8000)
    assert torch.allclose(read_wav(tmp_path / "x.wav").samples, torch.tensor([1.0, -1.0]), atol=2**-15)


@pytest.mark.parametrize("new_rate", [4000, 11025, 16000])
def test_a_sine_is_the_same_sine_at_another_rate(new_rate):
    def sine(rate):
        return torch.sin(2 * math.pi * 440 * torch.arange(rate, dtype=torch.double) / rate)

    found = resample(sine(8000).expand(2, -1), rate=8000, new_rate=new_rate)
    assert found.shape == (2, new_rate)
    inner = slice(new_rate // 10, -new_rate // 10)
    assert (found - sine(new_rate))[:, inner].abs().max() < 2e-3


def test_what_a_lower_rate_cannot_hold_is_filtered():
    high = torch.sin(2 * math.pi * 3000 * torch.arange(8000) / 8000)
    assert resample(high, rate=8000, new_rate=4000)[400:-400].abs().max() < 5e-3


def test_bad_sounds_are_named(tmp_path):
    with pytest.raises(ValueError, match="`samples` must lie between -1 and 1, got 1.5"):
        write_wav(tmp_path / "x.wav", torch.tensor([0.0, 1.5]), rate=8000)
    with pytest.raises(ValueError, match=r"`samples` must have shape \(length,\)"):
        write_wav(tmp_path / "x.wav", torch.zeros(1, 2, 3), rate=8000)
    with pytest.raises(ValueError, match="`new_rate` must be at least 1"):
        resample(torch.zeros(8), rate=8000, new_rate=0)


def test_samples_that_cannot_be_resampled_are_named():
    with pytest.raises(TypeError, match="`samples` must be a tensor of floating-point numbers, got torch.int64"):
        resample(torch.ones(5, dtype=torch.long), rate=1, new_rate=2)
    with pytest.raises(ValueError, match="`samples` must hold numbers, got 1 NaN"):
        resample(torch.tensor([0.0, math.nan]), rate=1, new_rate=2)
    with pytest.raises(ValueError, match="`samples` must have shape"):
        resample(torch.tensor(0.0), rate=1, new_rate=2)


def test_a_file_of_big_endian_integers(tmp_path):
    codes = np.array([0, 2**14, -(2**14)], dtype=">i2").tobytes()
    form = b"WAVEfmt " + struct.pack(">IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    content = form + b"data" + struct.pack(">I", len(codes)) + codes
    (tmp_path / "x.wav").write_bytes(b"RIFX" + struct.pack(">I", len(content)) + content)
    assert read_wav(tmp_path / "x.wav").samples.tolist() == [0.0, 0.5, -0.5]
