"""What an energy is a correction to, where there is nothing better: the normal distribution of the data's moments."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.distributions.normal import UnitNormal
from pyrogen.networks.statistics import Standardizer, Statistic
from pyrogen.transforms.distribution import TransformedDistribution

from .model import data_units


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
        return TransformedDistribution(noise, [data_units(self.standardizer, self.event_shape)])

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from self.standardizer.read_data(x)
