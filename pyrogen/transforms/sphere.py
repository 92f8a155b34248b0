r"""Maps of the sphere onto itself, height by height, and of real numbers onto the sphere.

A point of the sphere :math:`S^D` in :math:`\mathbb{R}^{D + 1}` is a height :math:`h \in [-1, 1]` and a point :math:`s`
of a sphere of one dimension less, :math:`x = (\sqrt{1 - h^2}\, s, h)`, and so on down to a circle. In these coordinates
the area is

.. math:: d\sigma_D = \prod_{j=2}^{D} (1 - h_j^2)^{(j - 2) / 2} \, dh_j \; d\theta ,

which for the usual sphere, :math:`D = 2`, is that of the cylinder around it. A transform maps the heights and the angle
by splines, each in a way that depends on those before it.

References:
    Rezende, Papamakarios, Racanière, Albergo, Kanwar, Shanahan and Cranmer 2020, "Normalizing flows on tori and
    spheres", section 2.3, https://arxiv.org/abs/2002.02428
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.nn.functional import normalize

from pyrogen.numerics.autograd import in_full_precision
from pyrogen.numerics.sphere import Sphere

from .transform import Transform


class Cylindrical(Transform):
    """A map of the sphere onto itself: of its heights and angle, and then a rotation.

    Args:
        coordinates: From the data's heights, the first that of the last element, and angle, to those of the noise.
        rotation: A rotation of noise-side points into data, after the coordinates are mapped.
        roll: By how many places the elements of a vector are turned around before coordinates are taken, so that not
            all of several maps have the same poles.
    """

    def __init__(self, coordinates: Transform, rotation: Transform, roll: int = 0) -> None:
        super().__init__(1, coordinates.batch_shape)
        self.coordinates, self.rotation, self.roll = coordinates, rotation, roll

    @property
    def domain(self) -> constraints.Constraint:
        return Sphere()

    codomain = domain

    @in_full_precision
    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = heights(x.roll(self.roll, -1))
        after, log_det = self.coordinates.inverse_and_log_det(before)
        after = _inside(after)
        y = point(after).roll(-self.roll, -1)
        return self.rotation.forward_and_log_det(y)[0], log_det + _log_area(after) - _log_area(before)

    @in_full_precision
    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        before = heights(self.rotation.inverse_and_log_det(y)[0].roll(self.roll, -1))
        after, log_det = self.coordinates.forward_and_log_det(before)
        after = _inside(after)
        return point(after).roll(-self.roll, -1), log_det + _log_area(after) - _log_area(before)


class Stereographic(Transform):
    r"""Real numbers onto the sphere of as many dimensions, but for the pole :math:`(0, \dots, 0, 1)`.

    .. math:: x = \frac{(2 u, |u|^2 - 1)}{1 + |u|^2}, \qquad
        \log |\det J| = D \log \frac{2}{1 + |u|^2} ,

    by area.

    Example:
        >>> Stereographic()(torch.zeros(2))
        tensor([ 0.,  0., -1.])
    """

    def __init__(self) -> None:
        super().__init__(1)

    @property
    def codomain(self) -> constraints.Constraint:
        return Sphere()

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        square = x.square().sum(-1, keepdim=True)
        share = 1 / (1 + square)
        y = torch.cat([2 * share * x, 1 - 2 * share], -1)
        return y, x.shape[-1] * (math.log(2) + share.squeeze(-1).log())

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        across, height = y[..., :-1], y[..., -1:]
        square = across.square().sum(-1, keepdim=True)
        near = height > 0  # where 1 - height would lose digits
        tiny = torch.finfo(y.dtype).tiny
        gap = torch.where(near, square / (1 + height.clamp_min(0)), 1 - height.clamp_max(0)).clamp_min(tiny)
        return across / gap, -(y.shape[-1] - 1) * gap.squeeze(-1).log()


def heights(x: Tensor) -> Tensor:
    """The heights of unit vectors ``(*batch, D + 1)``, the last element's first, and the angle, ``(*batch, D)``."""
    x = normalize(x, dim=-1)
    squares = x.square().cumsum(-1)
    tiny = torch.finfo(x.dtype).tiny
    found = [x[..., place] / squares[..., place].clamp_min(tiny).sqrt() for place in range(x.shape[-1] - 1, 1, -1)]
    level = squares[..., 1] <= tiny  # at a pole any angle will do
    angle = torch.atan2(torch.where(level, 0.0, x[..., 1]), torch.where(level, 1.0, x[..., 0]))
    return _inside(torch.stack([*found, angle], -1))


def point(coordinates: Tensor) -> Tensor:
    """Unit vectors from their heights and angle."""
    *found, angle = coordinates.unbind(-1)
    x = torch.stack([angle.cos(), angle.sin()], -1)
    for height in reversed(found):
        across = ((1 - height) * (1 + height)).sqrt().unsqueeze(-1)
        x = torch.cat([across * x, height.unsqueeze(-1)], -1)
    return x


def _inside(coordinates: Tensor) -> Tensor:
    """Heights between the poles, where the angle means something."""
    most = 1 - torch.finfo(coordinates.dtype).eps
    found, angle = coordinates[..., :-1], coordinates[..., -1:]
    return torch.cat([found.clamp(-most, most), angle], -1)


def _log_area(coordinates: Tensor) -> Tensor:
    """The logarithm of the area that a volume of coordinates has."""
    found = coordinates[..., :-1]
    powers = torch.arange(found.shape[-1], 0, -1, dtype=found.dtype, device=found.device) - 1
    return 0.5 * (powers * ((1 - found) * (1 + found)).log()).sum(-1)


@biject_to.register(Sphere)
@transform_to.register(Sphere)
def _to_sphere(constraint: Sphere) -> Stereographic:
    return Stereographic()
