"""Discrete Fourier transforms of any number of signals."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def transformed(transform: Callable[[Tensor], Tensor], signals: Tensor) -> Tensor:
    """A transform from ``torch.fft`` of signals ``(*batch, *shape)``, none among them, which MKL does not take.

    Args:
        transform: What is done with the last dimensions.
        signals: The signals.
    """
    if signals.numel():
        return transform(signals)
    some = signals.new_zeros([max(size, 1) for size in signals.shape]) + signals.sum()
    found = transform(some)
    for dim, size in enumerate(signals.shape):
        found = found.narrow(dim, 0, 0) if size == 0 else found
    return found
