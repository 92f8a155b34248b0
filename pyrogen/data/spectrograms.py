r"""Spectra of sounds over time, and sounds of spectra.

The short-time Fourier transform of a sound :math:`x` cuts it into overlapping frames under a window :math:`w` of
:math:`N` samples, :math:`h` samples apart,

.. math:: X_{k, m} = \sum_n w_n \, x_{n + m h - N / 2} \, e^{-2 \pi i k n / N} ,

whose magnitudes are its spectrogram. Filters that are triangles over the mel scale,
:math:`2595 \log_{10}(1 + f / 700)`, pool frequencies :math:`f` (in hertz) as hearing does.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import checked, finite, integer, positive
from pyrogen.arrays import takes_arrays


class ShortTimeFourier:
    """The short-time Fourier transform with a Hann window; frames are centred at every so manieth sample.

    The last frame is centred at the end of the sound or after it, so that no sample lies under the edge of one window
    alone, which is nearly zero.

    Args:
        window: How many samples a frame has; even.
        hop: How many samples two frames are apart, at most half of a frame.

    Raises:
        ValueError: ``window`` is odd, or ``hop`` more than half of it.

    Example:
        >>> transform, x = ShortTimeFourier(window=64, hop=16), torch.randn(3, 200)
        >>> spectrum = transform(x)
        >>> spectrum.shape
        torch.Size([3, 33, 14])
        >>> torch.allclose(transform.inverse(spectrum, length=200), x, atol=1e-5)
        True
    """

    @checked(window=integer, hop=integer)
    def __init__(self, *, window: int, hop: int) -> None:
        if window % 2:
            raise ValueError(f"`window` must be even, got {window}")
        if 2 * hop > window:
            raise ValueError(f"`hop` must be at most half of `window` = {window}, got {hop}")
        self.window, self.hop = window, hop

    @takes_arrays
    @checked(samples=finite)
    def __call__(self, samples: Tensor) -> Tensor:
        """Complex amplitudes, with zeros before the sound and after it.

        Shape:
            ``(*batch, length)`` to ``(*batch, window / 2 + 1, 1 + ceil(length / hop))``.
        """
        if not samples.dim() or not samples.shape[-1]:
            raise ValueError(f"`samples` must have shape (*batch, length) and a length, got {tuple(samples.shape)}")
        rows = samples.reshape(samples.shape[:-1].numel(), samples.shape[-1])
        if not len(rows):  # which torch.stft does not take
            shape = self._shape(samples.shape[-1])
            return torch.view_as_complex(samples.new_zeros(*samples.shape[:-1], *shape, 2))
        rows = functional.pad(rows, (0, -samples.shape[-1] % self.hop))
        found = torch.stft(rows, return_complex=True, pad_mode="constant", **self._settings(samples))
        return found.reshape(*samples.shape[:-1], *found.shape[1:])

    @checked
    def inverse(self, spectrum: Tensor, *, length: int) -> Tensor:
        """The sound whose transform is nearest to a spectrum (in mean square).

        Args:
            spectrum: Complex amplitudes.
            length: Of the sound.

        Shape:
            ``(*batch, window / 2 + 1, 1 + ceil(length / hop))`` to ``(*batch, length)``.
        """
        shape = self._shape(length)
        if not spectrum.is_complex():
            raise TypeError(f"`spectrum` must hold complex amplitudes, got {spectrum.dtype}")
        if spectrum.shape[-2:] != shape:
            raise ValueError(f"`spectrum` must end in {shape} for {length} samples, got {tuple(spectrum.shape)}")
        if not spectrum.numel():
            return spectrum.real.new_zeros(*spectrum.shape[:-2], length)
        whole = length + -length % self.hop
        found = torch.istft(spectrum.reshape(-1, *shape), length=whole, **self._settings(spectrum.real))
        return found[:, :length].reshape(*spectrum.shape[:-2], length)

    @checked(magnitude=finite)
    def griffin_lim(
        self, magnitude: Tensor, *, length: int, steps: int = 32, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""A sound whose spectrogram is near to given magnitudes; phases start at random and follow from one another.

        Each step takes the phases of the sound so far, and brings the distance :math:`\lVert |X| - M \rVert` down.

        Args:
            magnitude: Of each frequency in each frame, not negative.
            length: Of the sound, in samples.
            steps: How many.
            generator: Of the first phases.

        Shape:
            ``(*batch, window / 2 + 1, 1 + ceil(length / hop))`` to ``(*batch, length)``.

        References:
            Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform",
            https://doi.org/10.1109/TASSP.1984.1164317
        """
        if not bool((magnitude >= 0).all()):
            raise ValueError(f"`magnitude` must not be negative, got {magnitude[~(magnitude >= 0)][0].item()}")
        turn = torch.rand(magnitude.shape, generator=generator, dtype=magnitude.dtype, device=magnitude.device)
        found = self.inverse(torch.polar(magnitude, 2 * torch.pi * turn), length=length)
        for _ in range(steps):
            found = self.inverse(torch.polar(magnitude, self(found).angle()), length=length)
        return found

    def _shape(self, length: int) -> tuple[int, int]:
        """That of the transform of a sound."""
        return self.window // 2 + 1, 1 + -(-length // self.hop)

    def _settings(self, like: Tensor) -> dict[str, int | Tensor]:
        window = torch.hann_window(self.window, dtype=like.dtype, device=like.device)
        return {"n_fft": self.window, "hop_length": self.hop, "window": window}


class LogMels:
    """Logarithms of magnitudes under mel filters, frame by frame, and sounds of them: what models of speech draw.

    Args:
        mels: How many filters.
        window: How many samples a frame has; even.
        hop: How many samples two frames are apart, at most half of a frame.
        rate: How many samples there are a second.
        floor: The smallest magnitude that counts; below is silence.

    Raises:
        ValueError: numbers do not fit, as for :class:`ShortTimeFourier` and :func:`mel_filters`.

    Example:
        >>> log_mels = LogMels(mels=20, window=256, hop=64, rate=8000)
        >>> spectra = log_mels(torch.randn(8000))
        >>> spectra.shape, log_mels.sound(spectra, steps=2).shape
        (torch.Size([126, 20]), torch.Size([8000]))
    """

    @checked(mels=integer, window=integer, hop=integer, rate=positive, floor=positive)
    def __init__(self, *, mels: int, window: int, hop: int, rate: float, floor: float = 1e-2) -> None:
        self.transform = ShortTimeFourier(window=window, hop=hop)
        self.filters = mel_filters(mels, window=window, rate=rate)
        self.floor = floor

    @takes_arrays
    @checked(samples=finite)
    def __call__(self, samples: Tensor) -> Tensor:
        """The spectra of a sound, a row for each frame.

        Shape:
            ``(*batch, length)`` to ``(*batch, 1 + ceil(length / hop), mels)``.
        """
        pooled = self.filters.to(samples) @ self.transform(samples).abs()
        return pooled.clamp(min=self.floor).log().mT

    @takes_arrays
    @checked(log_mels=finite)
    def sound(self, log_mels: Tensor, *, steps: int = 32, generator: torch.Generator | None = None) -> Tensor:
        """A sound whose spectra are near to given ones, by :func:`spectrum_of_mels` and Griffin and Lim's iteration.

        Args:
            log_mels: Of each frame.
            steps: Of the iteration.
            generator: Of its first phases.

        Shape:
            ``(*batch, frames, mels)`` to ``(*batch, (frames - 1) * hop)``.

        Raises:
            ValueError: there are fewer than two frames, other numbers of mels, or logarithms of infinity.
        """
        if log_mels.dim() < 2 or log_mels.shape[-2] < 2:
            raise ValueError(
                f"`log_mels` must have two frames or more, (*batch, frames, mels), got {tuple(log_mels.shape)}"
            )
        if log_mels.shape[-1] != len(self.filters):
            raise ValueError(f"`log_mels` must have {len(self.filters)} mels, got {tuple(log_mels.shape)}")
        pooled = log_mels.exp().mT
        if pooled.isinf().any():
            raise ValueError(f"`log_mels` must be logarithms of finite magnitudes, got {log_mels.max().item()}")
        magnitude = spectrum_of_mels(pooled, self.filters)
        length = (log_mels.shape[-2] - 1) * self.transform.hop
        return self.transform.griffin_lim(magnitude, length=length, steps=steps, generator=generator)


@checked(mels=integer, window=integer, rate=positive)
def mel_filters(mels: int, *, window: int, rate: float) -> Tensor:
    """Triangles over frequencies of a short-time Fourier transform, evenly spaced on the mel scale and of height one.

    Between the tips of the first and the last they sum to one. A filter that is too narrow for the window lies between
    two frequencies and is zero; a warning says so.

    Args:
        mels: How many.
        window: How many samples a frame of the transform has; even.
        rate: How many samples there are a second.

    Raises:
        ValueError: ``window`` is odd, or a number is not positive.

    Shape:
        ``(mels, window / 2 + 1)``.

    Example:
        >>> spectrum = ShortTimeFourier(window=256, hop=64)(torch.randn(8000))
        >>> (mel_filters(20, window=256, rate=8000) @ spectrum.abs()).shape
        torch.Size([20, 126])
    """
    if window % 2:
        raise ValueError(f"`window` must be even, got {window}")
    highest = 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700, dtype=torch.double))
    corners = 700 * (10 ** (torch.linspace(0, 1, mels + 2, dtype=torch.double) * highest / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.double)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters = torch.minimum(rising, falling).clamp(min=0)
    empty = int((filters.sum(-1) == 0).sum())
    if empty:
        warnings.warn(
            f"mel_filters makes {empty} of {mels} filters zero: take fewer `mels` or a larger `window`",
            UserWarning,
            stacklevel=3,
        )
    return filters.to(torch.get_default_dtype())


@takes_arrays
@checked(pooled=finite, filters=finite)
def spectrum_of_mels(pooled: Tensor, filters: Tensor, *, steps: int = 100) -> Tensor:
    r"""Magnitudes that filters pool to given ones: non-negative least squares, by multiplicative steps.

    .. math:: s \leftarrow s \cdot \frac{F^\top p}{F^\top F s}

    Args:
        pooled: What the filters made, :math:`p`, not negative.
        filters: :math:`F`, of shape ``(mels, frequencies)``, not negative.
        steps: How many.

    Shape:
        ``(*batch, mels, frames)`` to ``(*batch, frequencies, frames)``.

    References:
        Lee and Seung 2001, "Algorithms for non-negative matrix factorization", NIPS 13.
    """
    if pooled.dim() < 2 or pooled.shape[-2] != len(filters):
        raise ValueError(
            f"`pooled` must have {len(filters)} mels in its last dimension but one, got {tuple(pooled.shape)}"
        )
    if not bool((pooled >= 0).all()):
        raise ValueError(f"`pooled` must not be negative, got {pooled[~(pooled >= 0)][0].item()}")
    if not bool((filters >= 0).all()):
        raise ValueError(f"`filters` must not be negative, got {filters.min().item()}")
    filters = filters.to(pooled)
    wanted, square = filters.t() @ pooled, filters.t() @ filters
    found = wanted
    for _ in range(steps):
        found = found * (wanted / (square @ found).clamp(min=torch.finfo(found.dtype).tiny))
    return found
