r"""Flow matching: to train a velocity without following it.

Draw a datum :math:`x_0`, noise :math:`x_1` and a time, go some way along the path from one to the other, and regress
the velocity on that of the path:

.. math:: \mathbb{E}_{t, (x_0, x_1)} \left\| v(x_t, t) - \dot x_t \right\|^2 .

The minimizer is the mean velocity of all paths through a point, which carries the noise to the data although no path
was followed. The pairs need not be independent: a coupling pairs them.

References:
    Lipman, Chen, Ben-Hamu, Nickel and Le 2023, "Flow matching for generative modeling",
    https://arxiv.org/abs/2210.02747
    Liu, Gong and Liu 2023, "Flow straight and fast: learning to generate and transfer data with rectified flow",
    https://arxiv.org/abs/2209.03003
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from pyrogen.abstract import Abstract
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.transport import IndependentCoupling, OptimalTransport

from .objective import Objective
from .shapes import Context


class Matchable(Abstract):
    """A module with a velocity that flow matching can train: mixed into a DistributionModule."""

    @abstractmethod
    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The data in the coordinates of the flow, and as many draws of noise."""

    @abstractmethod
    def slopes(self, data: Tensor, noise: Tensor, t: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The velocity at time ``t`` between the two ends, and that of the path between them."""


class FlowMatching(Objective):
    """The mean squared error of a velocity, per element.

    Not nats: a smaller loss is not a larger likelihood, and even the best velocity has a positive one.

    Args:
        module: What is trained: ``flows.continuous(...)``, a ``ProbabilityFlow``, or any other :class:`Matchable`.
        coupling: Which noise goes with which datum of a batch.

    Raises:
        NotImplementedError: the module has no velocity to match.
        ValueError: ``coupling`` is not independent and the module takes a context. Pairs chosen without regard to the
            context would make the noise depend on it, and draws from independent noise would be wrong.
    """

    unit = "squared velocity per element"

    def __init__(
        self, module: Matchable, *, coupling: IndependentCoupling | OptimalTransport = IndependentCoupling()
    ) -> None:
        super().__init__()
        if not isinstance(module, Matchable):
            raise NotImplementedError(
                f"{type(module).__name__} has no velocity to match; use `flows.continuous` or `ProbabilityFlow`, "
                "or the objectives of its family"
            )
        if module.context_shape is not None and not isinstance(coupling, IndependentCoupling):
            raise ValueError(f"`coupling` must be IndependentCoupling() for a module with a context, got {coupling}")
        self.module, self.coupling = module, coupling

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        data, noise = self.module.ends(x)
        noise = self.coupling(data, noise)
        t = torch.rand(len(data), dtype=data.dtype, device=data.device)
        predicted, actual = self.module.slopes(data, noise, t, context)
        return (predicted - actual).square().mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)
