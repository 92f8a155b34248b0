r"""How complex a picture is by itself: the nats that a code needs which knows nothing of the data.

Models of images give smooth ones high probabilities whatever they show, because they are short to describe. A universal
code says how short, and is the background model for which none has to be trained:

.. math:: S(x) = -\log p(x) - L(x), \qquad \texttt{likelihood\_ratio(log\_probs, -code\_length(images))} .

The code here predicts every pixel by nothing, by the one to its left, by that above it, or by both, as the filters of
PNG do, and codes the differences :math:`r_1, \dots, r_n`, integers modulo :math:`K`, each by its frequency so far,

.. math:: P(r_1, \dots, r_n) = \prod_{i} \frac{\#\{j < i : r_j = r_i\} + 1/2}{i - 1 + K/2} ,

one after the other, all channels alike (Krichevsky and Trofimov); the four predictions are mixed evenly. That is a
probability of every picture, and they sum to one. Arithmetic coding turns it into bits, with two more at most.

References:
    Serrà, Álvarez, Gómez, Slizovskaia, Núñez and Luque 2020, "Input complexity and out-of-distribution detection with
    likelihood-based generative models", https://arxiv.org/abs/1909.11480
    Krichevsky and Trofimov 1981, "The performance of universal encoding", https://doi.org/10.1109/TIT.1981.1056331
"""

from __future__ import annotations

from math import lgamma, log

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer, no_symbol, real_tensor
from pyrogen.arrays import takes_arrays

_CHUNK = 2**24  # numbers at once: of pixels, or of counts


@takes_arrays
@checked(symbols=integer)
def code_length(images: Tensor, symbols: int = 256) -> Tensor:
    """The length of images in nats, by a code that adapts to each of them alone.

    Args:
        images: Integers from 0 to ``symbols - 1``, of any dtype; :func:`pyrogen.data.quantize` makes them.
        symbols: How many values a pixel can have.

    Shape:
        ``(*batch, channels, rows, columns)`` to ``(*batch)``.

    Raises:
        TypeError: the images are no tensor.
        ValueError: they have fewer than three dimensions or no pixels, or an entry is no integer in range.

    Example:
        >>> flat, noise = torch.zeros(1, 8, 8), torch.randint(16, (1, 8, 8))
        >>> bool(code_length(flat, 16) < code_length(noise, 16))
        True
    """
    if real_tensor(images, "images").dim() < 3 or not images.shape[-3:].numel():
        raise ValueError(f"`images` must have shape (*batch, channels, rows, columns), got {tuple(images.shape)}")
    pixels = images.flatten(0, -4) if images.dim() > 3 else images.unsqueeze(0)
    _require_symbols(pixels, symbols)
    rows = max(1, _CHUNK // (len(_PREDICTIONS) * max(symbols, pixels[:1].numel())))
    lengths = [_lengths(part.long(), symbols) for part in pixels.split(rows)]
    return torch.cat(lengths).reshape(images.shape[:-3])


_PREDICTIONS = ((), (-1,), (-2,), (-1, -2))
"""Along which dimensions pixels are predicted by the one before: those of PNG without its average of two."""


def _lengths(pixels: Tensor, symbols: int) -> Tensor:
    """The lengths of a mixture of the codes of all predictions, ``(n, channels, rows, columns)`` to ``(n,)``."""
    codes = torch.stack([_adaptive(_residuals(pixels, along).remainder(symbols), symbols) for along in _PREDICTIONS])
    return log(len(codes)) - torch.logsumexp(-codes, 0)


def _residuals(pixels: Tensor, along: tuple[int, ...]) -> Tensor:
    for dim in along:
        pixels = pixels.diff(dim=dim, prepend=torch.zeros_like(pixels.narrow(dim, 0, 1)))
    return pixels


def _adaptive(values: Tensor, symbols: int) -> Tensor:
    """The code of Krichevsky and Trofimov, all at once: only how often each value occurs matters to it."""
    values = values.flatten(1)
    counts = torch.zeros(len(values), symbols, dtype=torch.double, device=values.device)
    counts.scatter_add_(1, values, torch.ones_like(values, dtype=torch.double))
    ours = (counts + 0.5).lgamma().sum(1) - symbols * lgamma(0.5)
    return lgamma(values.shape[1] + symbols / 2) - lgamma(symbols / 2) - ours


def _require_symbols(pixels: Tensor, symbols: int) -> None:
    bad = no_symbol(pixels, symbols)
    if bad.any():
        raise ValueError(
            f"`images` must hold integers from 0 to {symbols - 1}, got {pixels[bad][0].item()}; "
            "`pg.data.quantize` them first"
        )
