"""The recipe of residual flows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyrogen.arguments import any_integer, checked, inner_share, switch
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.networks.context import Classes
from pyrogen.networks.contraction import Contraction, ContractiveConvolutions, ContractivePerceptron
from pyrogen.transforms.residual import ExactLogDet, LogDet, Roulette

from .model import Flow
from .residual import ResidualLayer
from .stacks import TEXTS, FlowEnds, FlowShapes, GivenInterval, finished

_POWER = 1.5
"""Of the Lipschitz constant, that is the probability of one more term: below two, for a finite variance."""


@recipe(texts=TEXTS)
@checked(exact=switch, lipschitz=inner_share, noise_seed=any_integer)
def residual(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (64, 64),
    channels: Sequence[int] | None = None,
    kernel: int = 3,
    lipschitz: float = 0.9,
    exact: bool = False,
    tolerance: float = 1e-6,
    noise_seed: int | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    standardize: bool = True,
    interval: GivenInterval = None,
    margin: float = 0.0,
) -> Flow:
    """A flow of residual layers, ``x + g(x)``: networks of any form, bound to bring points closer together.

    Its log-determinants are estimates without bias, of a finite variance, and its density is labelled so; with
    ``exact=True`` they are exact. A draw is found by a fixed-point iteration.

    Args:
        layers: How many residual layers.
        channels: If given, the networks are convolutions with so many channels in their hidden layers, in place of
            ``hidden``: events are ``(channels, *size)``.
        kernel: Side of the kernels of convolutions.
        lipschitz: The bound of the Lipschitz constant of each network, whatever its weights are.
        exact: Whether log-determinants are computed from all entries of the Jacobian, which costs a pass for each
            element: for few of them.
        tolerance: Largest error of a draw in each layer, relative to one plus its length.
        noise_seed: If given, the noise of estimates is always that of this seed, as NUTS needs it.

    References:
        Chen, Behrmann, Duvenaud and Jacobsen 2019, "Residual flows for invertible generative modeling",
        https://arxiv.org/abs/1906.02735

    Example:
        >>> flow = residual((2,), layers=2, hidden=(16,))
        >>> flow().log_prob(torch.zeros(5, 2)).shape, flow.density
        (torch.Size([5]), 'estimate')
    """
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    log_det: LogDet = ExactLogDet() if exact else Roulette(going_on=lipschitz**_POWER, noise_seed=noise_seed)
    stack = [
        ResidualLayer(
            _network(shapes, hidden, channels, kernel, lipschitz),
            log_det=log_det,
            tolerance=tolerance,
            **shapes.of_layer,
        )
        for _ in range(layers)
    ]
    return finished(stack, shapes, False, 0, FlowEnds(standardize, False, interval, margin), None)


def _network(
    shapes: FlowShapes, hidden: Sequence[int], channels: Sequence[int] | None, kernel: int, lipschitz: float
) -> Contraction:
    options = {"context": shapes.context.size, "lipschitz": lipschitz}
    if channels is None:
        return ContractivePerceptron(shapes.size, hidden=hidden, **options)
    return ContractiveConvolutions(shapes.event_shape, channels=channels, kernel=kernel, **options)
