r"""Sounds as numbers: files, sampling rates, and the mu-law, whose levels are finer at small amplitudes.

A sound is a tensor of samples :math:`x \in [-1, 1]`, so many a second. The mu-law bends them, as hearing does, by

.. math:: f(x) = \operatorname{sign}(x) \frac{\log(1 + \mu |x|)}{\log(1 + \mu)}

and then rounds them to the nearest of :math:`\mu + 1` levels, evenly spaced from -1 to 1 (ITU-T recommendation G.711;
256 levels sound like 14 bits).
"""

from __future__ import annotations

from math import gcd, log1p
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, finite, integer, no_symbol, real_tensor
from pyrogen.arrays import takes_arrays


class Sound(NamedTuple):
    """A sound.

    Attributes:
        samples: Between -1 and 1, ``(length,)``, or ``(channels, length)`` of several channels.
        rate: How many there are a second.
    """

    samples: Tensor
    rate: int


def read_wav(path: Path | str) -> Sound:
    """The sound in a WAV file, of integers or of floats. Needs SciPy.

    Args:
        path: Of the file.
    """
    from scipy.io import wavfile

    rate, found = wavfile.read(path)
    samples = torch.from_numpy(found.astype(found.dtype.newbyteorder("=")))
    if samples.dtype == torch.uint8:
        samples = (samples.float() - 128) / 128
    elif not samples.is_floating_point():
        samples = (samples.double() / 2 ** (8 * samples.element_size() - 1)).float()
    return Sound(samples.movedim(0, -1).contiguous(), rate)


@takes_arrays
@checked(samples=real_tensor, rate=integer)
def write_wav(path: Path | str, samples: Tensor, *, rate: int) -> None:
    """Writes a WAV file of 16 bits. Needs SciPy.

    Args:
        path: Of the file.
        samples: Between -1 and 1, ``(length,)`` or ``(channels, length)``.
        rate: How many there are a second.

    Raises:
        ValueError: a sample lies outside of [-1, 1] or is NaN, or there are other dimensions.
    """
    from scipy.io import wavfile

    if samples.dim() not in (1, 2):
        raise ValueError(f"`samples` must have shape (length,) or (channels, length), got {tuple(samples.shape)}")
    check_samples(samples, "samples")
    codes = (samples.detach().cpu().double() * 2**15).round().clamp(max=2**15 - 1).short()
    wavfile.write(path, rate, codes.movedim(-1, 0).contiguous().numpy())


@takes_arrays
@checked(samples=finite, rate=integer, new_rate=integer)
def resample(samples: Tensor, *, rate: int, new_rate: int) -> Tensor:
    """Samples at another rate, after a filter against aliasing, without gradients. Needs SciPy.

    Args:
        samples: Of floating point, ``(*batch, length)``.
        rate: How many there are a second.
        new_rate: How many there shall be.

    Shape:
        ``(*batch, length)`` to ``(*batch, ceil(length * new_rate / rate))``.

    Raises:
        TypeError: samples are no floating-point numbers; rounded to integers they would be lost.
        ValueError: a sample is NaN or infinite, or there is no dimension.

    Example:
        >>> resample(torch.zeros(2, 800), rate=8000, new_rate=22050).shape
        torch.Size([2, 2205])
    """
    from scipy.signal import resample_poly

    if not samples.dim():
        raise ValueError("`samples` must have shape (*batch, length), got ()")
    common = gcd(rate, new_rate)
    found = resample_poly(samples.detach().cpu().double().numpy(), new_rate // common, rate // common, axis=-1)
    return torch.from_numpy(found).to(samples)


@takes_arrays
@checked(x=real_tensor)
def mu_law(x: Tensor, symbols: int = 256) -> Tensor:
    """Samples between -1 and 1 as integers ``0 … symbols - 1``.

    Args:
        x: Samples, of any shape.
        symbols: How many of them.

    Raises:
        ValueError: a sample lies outside of [-1, 1] or is NaN, or there are fewer than two symbols.

    Example:
        >>> mu_law(torch.tensor([-1.0, 0.0, 0.01, 1.0]))
        tensor([  0, 128, 157, 255])
    """
    _check_symbols(symbols)
    check_samples(x, "x")
    mu = symbols - 1
    bent = x.sign() * torch.log1p(mu * x.abs()) / log1p(mu)
    return ((bent + 1) / 2 * mu + 0.5).floor().long()


@takes_arrays
@checked(codes=real_tensor)
def inverse_mu_law(codes: Tensor, symbols: int = 256) -> Tensor:
    """Integers ``0 … symbols - 1`` as samples between -1 and 1: what each level stands for.

    Args:
        codes: Integers, of any shape and dtype.
        symbols: How many of them.

    Raises:
        ValueError: an integer is out of range, or there are fewer than two symbols.

    Example:
        >>> inverse_mu_law(torch.tensor([0, 255]))
        tensor([-1.,  1.])
    """
    _check_symbols(symbols)
    bad = codes[no_symbol(codes, symbols)]
    if len(bad):
        raise ValueError(f"`codes` must be integers from 0 to {symbols - 1}, got {bad[0].item()}")
    mu = symbols - 1
    bent = codes.to(torch.get_default_dtype()) * (2 / mu) - 1
    # Rounding must not lead outside of [-1, 1], where there are no samples.
    return bent.sign() * (torch.expm1(bent.abs() * log1p(mu)) / mu).clamp(max=1)


def check_samples(x: Tensor, name: str) -> None:
    """Refuses samples outside of [-1, 1] and NaN."""
    if not bool((x.abs() <= 1).all()):
        raise ValueError(f"`{name}` must lie between -1 and 1, got {x[~(x.abs() <= 1)][0].item()}")


def _check_symbols(symbols: int) -> None:
    if symbols < 2:
        raise ValueError(f"`symbols` must be at least 2, got {symbols}")
