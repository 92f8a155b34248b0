"""The units of the data, and the normal distribution of their moments: the default base."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.distributions.normal import UnitNormal
from pyrogen.networks.statistics import Standardizer, Statistic
from pyrogen.numerics.autograd import in_full_precision
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.transform import Transform


class DataUnits(Transform):
    """From numbers of mean zero and deviation one to those of the data: the inverse of a standardizer.

    Args:
        standardizer: What has learned the moments, of events of its shape.
    """

    monotone = True
    sign = 1

    def __init__(self, standardizer: Standardizer) -> None:
        super().__init__(len(standardizer.shape))
        self.standardizer = standardizer

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.standardizer.inverse(x), self._log_det(x)

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.standardizer(y), -self._log_det(y)

    @in_full_precision
    def _call(self, x: Tensor) -> Tensor:
        return self.standardizer.inverse(x)

    def _log_det(self, x: Tensor) -> Tensor:
        log_scale = self.standardizer.scale.log().expand(self.standardizer.shape).sum()
        return log_scale.expand(x.shape[: x.dim() - self.event_dim])


class DataNormal(DistributionModule):
    r"""Independent normals with the mean and the deviation of each element of the data (of each channel of images).

    Both are learned from the data set before training; until then they are 0 and 1.

    Args:
        event_shape: Shape of one event.

    Example:
        >>> base = DataNormal((2,))
        >>> base.learn_statistics(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
        >>> base.standardizer.mean
        tensor([ 1., 20.])
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.standardizer = Standardizer(self.event_shape, name="x")

    def forward(self, context: Context = None) -> TransformedDistribution:
        batch = context_batch_shape(context, self.context_shape)
        noise = UnitNormal(self.event_shape, self.standardizer.mean, batch, validate_args=False)
        return TransformedDistribution(noise, [DataUnits(self.standardizer)])

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from self.standardizer.read_data(x)
