r"""Mixtures of Moebius transformations of the circle.

With a centre :math:`w = (a, b)` in the unit disk, the Moebius transformation of the circle sends the angle
:math:`\theta` to

.. math:: f_w(\theta) = \theta + 2 \operatorname{atan2}(a \sin\theta - b \cos\theta, 1 - a \cos\theta - b \sin\theta),
    \qquad f_w'(\theta) = \frac{1 - |w|^2}{|e^{i \theta} - w|^2} ,

which is written here as an increasing map of real numbers, whole turns going to whole turns. So are mixtures
:math:`\sum_k \rho_k f_{w_k}(\theta) + s`. They are smooth, other than splines, and inverted by a root finder.

References:
    Rezende, Papamakarios, Racanière, Albergo, Kanwar, Shanahan and Cranmer 2020, "Normalizing flows on tori and
    spheres", section 2.1.1, https://arxiv.org/abs/2002.02428
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.arguments import integer

from .elements import Element
from .monotone import invert

_LARGEST = 0.99
"""The largest distance of a centre from the middle of the disk."""


@dataclass(frozen=True)
class Moebius(Element):
    """A mixture of Moebius transformations of an angle, and a rotation.

    Its parameters are the centres before they are brought into the disk (2 K), logits of their weights (K), and the
    angle of the rotation.

    Args:
        components: How many are mixed (K).
    """

    components: int = 8

    def __post_init__(self) -> None:
        integer(self.components, "components")

    @property
    def size(self) -> int:
        return 3 * self.components + 1

    def forward(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        raw, logits, shift = parameters.tensor_split((2 * self.components, 3 * self.components))
        raw = raw.unflatten(0, (2, self.components))
        size = (raw.square().sum(0) + torch.finfo(x.dtype).tiny).sqrt()
        a, b = raw * (_LARGEST / (1 + size))
        weights = logits.log_softmax(0)
        cosine, sine = x.cos(), x.sin()
        turn = 2 * torch.atan2(a * sine - b * cosine, 1 - a * cosine - b * sine)
        slope = (1 - a.square() - b.square()).log() - ((cosine - a).square() + (sine - b).square()).log()
        return x + (weights.exp() * turn).sum(0) + shift.squeeze(0), (weights + slope).logsumexp(0)

    def inverse(self, parameters: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = invert(lambda x: self.forward(parameters, x), y)
        return x, -self.forward(parameters, x)[1]
