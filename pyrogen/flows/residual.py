"""Residual layers: networks added to their input."""

from __future__ import annotations

from pyrogen.arguments import anything, checked
from pyrogen.core.density import Density
from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.contraction import Contraction
from pyrogen.transforms.residual import LogDet, Residual, Roulette
from pyrogen.transforms.transform import Inverse


class ResidualLayer(BijectionModule):
    """From data to noise, :math:`z = x + g(x)`; see :mod:`pyrogen.transforms.residual`.

    Args:
        network: The contraction :math:`g`.
        event_shape: Shape of one event.
        context_shape: ``None`` or the shape ``(C,)`` of the context vector the network takes.
        log_det: How log-determinants are found.
        tolerance: Largest error of a draw, see :class:`Residual`.

    Raises:
        ValueError: the estimate of the log-determinant may have an infinite variance.
    """

    @checked(network=anything)
    def __init__(
        self,
        network: Contraction,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        log_det: LogDet = Roulette(),
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__(event_shape, context_shape)
        log_det.check(network.lipschitz)
        self.network, self.log_det, self.tolerance = network, log_det, tolerance

    @property
    def density(self) -> Density:
        """Of what it makes of an exact density."""
        return self.log_det.density

    def forward(self, context: Context = None) -> Inverse:
        options = {"log_det": self.log_det, "tolerance": self.tolerance}
        return Inverse(Residual(self.network, self.event_shape, context=context, **options))
