r"""Speech that is made: vowels, hisses and silences one after the other, and which is spoken when.

A voice is pulses of a pitch, a hiss is white noise; the mouth is a chain of resonances (formants) at frequencies
:math:`f` of width :math:`b`, each

.. math:: H(z) = \frac{1}{1 - 2 r \cos(2 \pi f / R) z^{-1} + r^2 z^{-2}} , \qquad r = e^{-\pi b / R}

at :math:`R` samples a second.

References:
    Peterson and Barney 1952, "Control methods used in a study of the vowels", https://doi.org/10.1121/1.1906875
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, finite, positive

from . import speech
from .audio import resample
from .speech import Utterance

RATE = 8000
"""Samples a second."""

FORMANTS = {
    "silence": (),
    "i": (270.0, 2290.0, 3010.0),
    "e": (530.0, 1840.0, 2480.0),
    "a": (730.0, 1090.0, 2440.0),
    "u": (300.0, 870.0, 2240.0),
    "s": (2600.0, 3400.0),
}
"""The resonances of each phone, in hertz; those of vowels are means of men."""

_WIDTH = 80.0  # of a resonance, in hertz
_PITCHES = 90.0, 160.0  # in hertz
_LENGTHS = 600, 1600  # of a phone, in samples
_LOUD, _SILENT = 0.4, 0.002  # the largest amplitude of a phone, and the noise in silence


class Speech(NamedTuple):
    """Sounds, and what is spoken in them.

    Attributes:
        samples: Between -1 and 1, ``(N, length)``.
        phones: Which of :data:`FORMANTS` each sample belongs to, by its number, ``(N, length)``.
    """

    samples: Tensor
    phones: Tensor


@checked
def draw(size: int, *, seed: int, length: int = 8000) -> Speech:
    """Sounds of phones that are equally likely and last 75 to 200 ms, of voices with pitches of 90 to 160 hertz.

    Args:
        size: How many sounds.
        seed: Of the sounds.
        length: How many samples each has.

    Example:
        >>> draw(2, seed=0, length=4000).samples.shape
        torch.Size([2, 4000])
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [_row(length, generator) for _ in range(size)]
    return Speech(*(torch.stack(part) for part in zip(*rows, strict=True)))


@checked
def utterances(size: int, *, seed: int, length: int = 2 * RATE) -> list[Utterance]:
    """The sounds that :func:`draw` makes as utterances without words, at :data:`pyrogen.data.speech.RATE`.

    Needs SciPy.

    Args:
        size: How many.
        seed: Of the sounds.
        length: How many samples each had at :data:`RATE`.

    Returns:
        Utterances whose phones are numbered as in :data:`FORMANTS`.

    Example:
        >>> utterances(2, seed=0)[1].seconds
        2.0
    """
    found = []
    for samples, spoken in zip(*draw(size, seed=seed, length=length), strict=True):
        phones, durations = spoken[:: RATE // speech.FRAMES].unique_consecutive(return_counts=True)
        finer = resample(samples, rate=RATE, new_rate=speech.RATE)
        found.append(Utterance((), finer, phones, durations))
    return found


@checked(pitch=positive)
def uttered(phone: str, length: int, *, pitch: float, generator: torch.Generator | None = None) -> Tensor:
    """A phone.

    Args:
        phone: One of :data:`FORMANTS`.
        length: How many samples it lasts.
        pitch: Of the voice, in hertz.
        generator: Of the noise.

    Raises:
        ValueError: there is no such phone.
    """
    if phone not in FORMANTS:
        raise ValueError(f"`phone` must be one of {', '.join(FORMANTS)}, got {phone!r}")
    noise = torch.randn(length, generator=generator)
    if not FORMANTS[phone]:
        return _SILENT * noise
    beats = (torch.arange(length + 1, dtype=torch.double) * pitch / RATE).floor().diff()
    sound = resonant(noise if phone == "s" else beats.to(noise) + 0.01 * noise, FORMANTS[phone])
    return _LOUD * sound / sound.abs().max()


@checked(source=finite)
def resonant(source: Tensor, frequencies: tuple[float, ...]) -> Tensor:
    """A sound after resonances, of the shape of its source.

    Args:
        source: What excites them, of floating point, ``(*batch, length)``.
        frequencies: Of the resonances, in hertz.

    Raises:
        TypeError: a source is no floating-point numbers; rounded to integers a sound would be lost.
    """
    root = math.exp(-math.pi * _WIDTH / RATE)
    length = source.shape[-1]
    size = length + int(math.log(1e-9) / math.log(root))  # what rings on beyond the end must not come round
    spectrum = torch.fft.rfft(source.double(), size)
    delay = torch.polar(torch.ones(()).double(), -2 * math.pi * torch.arange(size // 2 + 1).double() / size)
    for frequency in frequencies:
        turn = math.cos(2 * math.pi * frequency / RATE)
        spectrum = spectrum / (1 - 2 * root * turn * delay + root**2 * delay**2)
    return torch.fft.irfft(spectrum, size)[..., :length].to(source)


def _row(length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    low, high = _PITCHES
    pitch = low + (high - low) * torch.rand((), generator=generator).item()
    sounds, phones = [], []
    while sum(map(len, sounds)) < length:
        number = int(torch.randint(len(FORMANTS), (), generator=generator))
        span = int(torch.randint(*_LENGTHS, (), generator=generator))
        sounds.append(uttered(list(FORMANTS)[number], span, pitch=pitch, generator=generator))
        phones.append(torch.full((span,), number))
    return torch.cat(sounds)[:length], torch.cat(phones)[:length]
