"""Measurements in coordinates in which they are orthogonal."""

from __future__ import annotations

import math

from torch import Tensor

from .linear import Linear
from .spectrum import ExactSpectrum


class Diagonalized(Linear):
    r"""What an operator measures, in the eigenvectors :math:`V` of :math:`A A^\top`: :math:`V^\top A`.

    Independent noise with one scale stays so, and the numbers are orthogonal now. A model of them has the same
    posterior, and methods of :mod:`pyrogen.inverse` find by probing that :math:`V^\top A A^\top V` is diagonal: what
    they do at every noise level is then exact and fast. Moved or pickled, it keeps its eigenvectors.

    Args:
        operator: The operator.

    Raises:
        ValueError: the spectrum of the operator is not exact.

    Example:
        >>> from pyrogen.operators import Sense, coil_maps, random_lines
        >>> columns = random_lines((64, 64), 4, centre=6)[0]
        >>> mri = Diagonalized(Sense((2, 64, 64), coil_maps((64, 64), 8), columns))
        >>> y = mri.operator(torch.randn(2, 64, 64)) + 0.1 * torch.randn(2, 8, 1024)
        >>> mri.coefficients(y).shape
        torch.Size([2, 8, 1024])
    """

    def __init__(self, operator: Linear) -> None:
        super().__init__(operator.shape)
        spectrum = operator.spectrum()
        if not isinstance(spectrum, ExactSpectrum):
            size = math.prod(operator.output_shape)
            raise ValueError(
                f"`operator` must have an exact spectrum, got one too large to be decomposed: {size:,} numbers"
            )
        # Eigenvectors are kept wherever it goes: those of another device or library may be others.
        self.operator, self._into, self._back, self._norm = operator, spectrum.into, spectrum.back, spectrum.norm

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.operator.output_shape

    def __call__(self, x: Tensor) -> Tensor:
        return self.coefficients(self.operator(x))

    def adjoint(self, c: Tensor) -> Tensor:
        back = self._into.adjoint if isinstance(self._into, Linear) else self._back
        return self.operator.adjoint(back(c))

    def norm(self) -> float:
        return self._norm

    def zero(self) -> Tensor:
        return self.operator.zero()

    def coefficients(self, y: Tensor) -> Tensor:
        """What was measured, in these coordinates, ``(*batch, *output_shape)``."""
        return self._into(y)
