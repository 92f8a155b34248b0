r"""Tomography: line integrals of an image in a plane, in parallel beams and in fans.

The image is what it is made of, squares of constant value. A view is the image's shadow: a square casts a trapezoid

.. math:: \ell(u) \text{ between the shadows } t_0 \le t_1 \le t_2 \le t_3 \text{ of its corners},

as high as the longest way through the square, and a detector measures the mean of the line integrals over its width.
For parallel rays this is exact, so a view keeps the mass of the image whatever the sizes of pixels and detectors are;
for a fan it is the separable footprint of Long and others (2010). Coordinates: :math:`x` to the right and :math:`y`
upwards from the middle of the image, where the axis of rotation is. Angles are in radians, anticlockwise.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import image_shape, integer, number, positive, switch, vector
from pyrogen.arrays import takes_arrays
from pyrogen.numerics.fourier import transformed

from .linear import Linear, flattened, floating, varies
from .sparse import SparseMatrix


class _Tomography(Linear):
    """Views of an image; subclasses define where rays meet the detector.

    The weights of pixels are computed view by view. If the geometry is fixed they become a sparse matrix; if it is
    differentiated, or mapped over, they remain as they are.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        angles: Tensor,
        *,
        detectors: int | None,
        spacing: float,
        pixel: float,
        offset: float | Tensor,
        widest: float,
        reach: float,
    ) -> None:
        super().__init__(image_shape(shape))
        self.angles = vector(floating(angles, "angles"), "angles", "(views,)")
        self.spacing, self.pixel = positive(spacing, "spacing"), positive(pixel, "pixel")
        # How many detectors see the whole image, if not given.
        self.detectors = math.ceil(2 * reach / spacing) if detectors is None else integer(detectors, "detectors")
        self.offset = _offset(offset, self.angles)
        self._bins = math.ceil(widest / spacing) + 1
        self._weights = self._matrix = None
        if varies(self.angles) or varies(self.offset):
            self._weights = self._shadows(self.angles, self.offset)
        else:
            self._matrix = self._sparse()

    @abstractmethod
    def _coordinate(self, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
        """Where the ray through a point meets the detector, from its middle."""

    @abstractmethod
    def _direction(self, x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """The direction of the ray through a point."""

    @property
    def output_shape(self) -> tuple[int, int, int]:
        return self.shape[0], len(self.angles), self.detectors

    def __call__(self, x: Tensor) -> Tensor:
        flat = flattened(x, self.shape, "x").unflatten(-1, (self.shape[0], -1))
        if self._matrix is not None:
            return self._matrix(flat).unflatten(-1, self.output_shape[1:])
        place, weight = (part.flatten(1) for part in self._weights)  # (V, P K)
        spread = flat.repeat_interleave(self._bins, -1).unsqueeze(-2) * weight.to(x.dtype)
        views = spread.new_zeros(*spread.shape[:-1], self.detectors)
        return views.scatter_add(-1, place.expand(spread.shape), spread)

    def adjoint(self, y: Tensor) -> Tensor:
        flat = flattened(y, self.output_shape, "y").unflatten(-1, (self.shape[0], -1))
        if self._matrix is not None:
            return self._matrix.transposed(flat).unflatten(-1, self.shape[1:])
        place, weight = (part.flatten(1) for part in self._weights)
        views = flat.unflatten(-1, self.output_shape[1:])
        seen = views.gather(-1, place.expand(*views.shape[:-1], -1)) * weight.to(y.dtype)
        return seen.unflatten(-1, (-1, self._bins)).sum((-3, -1)).unflatten(-1, self.shape[1:])

    def _centres(self) -> tuple[Tensor, Tensor]:
        """The coordinates of the centres of pixels, ``(P,)`` each."""
        height, width = self.shape[-2:]
        like = {"dtype": torch.double, "device": self.angles.device}
        x = (torch.arange(width, **like) - (width - 1) / 2) * self.pixel
        y = ((height - 1) / 2 - torch.arange(height, **like)) * self.pixel
        return x.repeat(height), y.repeat_interleave(width)

    def _shadows(self, angles: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The detectors on which each pixel casts its shadow in each view, and its weights: ``(V, P, K)`` each."""
        angle, offset, half = angles.double().unsqueeze(-1), offset.double().unsqueeze(-1), self.pixel / 2
        x, y = self._centres()
        corners = [self._coordinate(x + i * half, y + j * half, angle) for i in (-1, 1) for j in (-1, 1)]
        t = (torch.stack(corners, -1) + offset.unsqueeze(-1)).sort(-1).values  # (V, P, 4)
        along = torch.stack(self._direction(x, y, angle), -1)
        longest = self.pixel * along.norm(dim=-1) / along.abs().amax(-1)
        first = -self.detectors * self.spacing / 2
        lowest = ((t[..., 0].detach() - first) / self.spacing).floor()
        edges = first + self.spacing * (lowest.unsqueeze(-1) + torch.arange(self._bins + 1, device=t.device))
        mass = _ramp(edges, t[..., :1], t[..., 1:2]) - _ramp(edges, t[..., 2:3], t[..., 3:])
        weight = longest.unsqueeze(-1) * mass.diff(dim=-1) / self.spacing
        place = lowest.long().unsqueeze(-1) + torch.arange(self._bins, device=t.device)
        inside = (place >= 0) & (place < self.detectors)
        return place.clamp(0, self.detectors - 1), torch.where(inside, weight, 0.0).to(self.angles.dtype)

    def _sparse(self) -> SparseMatrix:
        """The matrix, from one view after the other."""
        rays, pixels, values = [], [], []
        for view in range(len(self.angles)):
            here = slice(view, view + 1)
            place, weight = (part[0] for part in self._shadows(self.angles[here], self.offset[here]))
            pixel, bins = weight.nonzero(as_tuple=True)
            ray, order = place[pixel, bins].int().sort(stable=True)  # smaller sorts than one of all
            rays.append(view * self.detectors + ray)
            pixels.append(pixel[order].int())
            values.append(weight[pixel, bins][order])
        size = len(self.angles) * self.detectors, math.prod(self.shape[1:])
        return SparseMatrix(torch.cat(rays), torch.cat(pixels), torch.cat(values), size)

    def _back_projection(self, y: Tensor, scale: float, weight: Callable[[Tensor], Tensor | float]) -> Tensor:
        """The sum over views of filtered views, read linearly between detectors: ``(*batch, *shape)``.

        Args:
            y: Filtered views.
            scale: Half a turn over the number of views.
            weight: Of the pixels in the view at an angle.
        """
        x_centre, y_centre = self._centres()
        views = functional.pad(y, (1, 2))
        total = y.new_zeros(*y.shape[:-2], len(x_centre))
        for view, (angle, offset) in enumerate(zip(self.angles.double(), self.offset.double(), strict=True)):
            coordinate = self._coordinate(x_centre, y_centre, angle) + offset
            place = (coordinate / self.spacing + (self.detectors - 1) / 2).clamp(-1, self.detectors)
            low = place.floor()
            share = (place - low).to(y.dtype)
            below, low = views[..., view, :], low.long() + 1
            read = torch.lerp(below[..., low], below[..., low + 1], share)
            total = total + read * torch.as_tensor(weight(angle)).to(read)
        return scale * total.unflatten(-1, self.shape[1:])

    def _filtered(
        self,
        y: Tensor,
        spacing: float,
        window: Callable[[Tensor], Tensor] | None,
        stretch: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Views after the ramp filter, made in space so that the mean of an image comes out right.

        Args:
            y: The views.
            spacing: From one number to the next.
            window: A function of the frequency that the filter is multiplied by.
            stretch: A function of the distance that it is multiplied by.
        """
        size = 2 * self.detectors
        lag = torch.arange(size, dtype=torch.double, device=y.device)
        lag = torch.minimum(lag, size - lag)
        ramp = torch.where(lag % 2 == 1, -1 / (math.pi * lag).square(), 0.0) / spacing
        ramp[0] = 0.25 / spacing
        if stretch is not None:
            ramp = ramp * stretch(lag * spacing)
        spectrum = torch.fft.rfft(ramp).real
        if window is not None:
            spectrum = spectrum * window(torch.fft.rfftfreq(size, device=y.device, dtype=torch.double))
        spectrum = spectrum.to(y.dtype)
        filtered = transformed(lambda rows: torch.fft.irfft(torch.fft.rfft(rows, size) * spectrum, size), y)
        return filtered[..., : self.detectors]


class Radon(_Tomography):
    r"""The Radon transform: line integrals of an image along parallel rays, view by view.

    The ray of angle :math:`\theta` and detector coordinate :math:`s` is the line
    :math:`x \cos \theta + y \sin \theta + c = s`, where :math:`c` is the offset. Images have shape
    ``(*batch, channels, height, width)``, measurements ``(*batch, channels, views, detectors)``, in units of the image
    times those of ``pixel``. The adjoint is the transpose of the very matrix.

    Angles and offset may be latent sites: an operator made in a Pyro program from a tensor with gradients is
    differentiable in them. The operator has the dtype of ``angles`` and is on their device.

    Args:
        shape: ``(channels, height, width)``.
        angles: Of the views, in radians, shape ``(views,)``: any of them, sparse or of a limited range.
        detectors: How many there are; as many as see the whole image if not given.
        spacing: From one detector to the next, and their width, in units of length.
        pixel: The side of a pixel, in units of length.
        offset: Where the axis of rotation stands on the detector, from its middle, in units of length: one for all
            views or one for each.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, channels, views, detectors)``.

    References:
        Long, Fessler and Balter 2010, "3D forward and back-projection for X-ray CT using separable footprints",
        https://doi.org/10.1109/TMI.2010.2050898

    Example:
        >>> angles = torch.arange(20) * torch.pi / 20
        >>> radon = Radon((1, 64, 64), angles, detectors=64, pixel=1 / 64, spacing=1 / 64)
        >>> radon(torch.ones(1, 64, 64))[0, 0, 32].item()  # through the middle of a square of side one
        1.0

        Counts of photons are Poisson, with the expected count :math:`N e^{-A x}`:

        >>> import pyro, pyro.distributions as dist
        >>> def scan(y=None):
        ...     x = pyro.sample("x", dist.HalfNormal(torch.ones(1, 64, 64)).to_event(3))
        ...     return pyro.sample("y", dist.Poisson(1e4 * torch.exp(-radon(x))).to_event(3), obs=y)
        >>> scan().shape
        torch.Size([1, 20, 64])
    """

    @takes_arrays
    def __init__(
        self,
        shape: tuple[int, ...],
        angles: Tensor,
        *,
        detectors: int | None = None,
        spacing: float = 1.0,
        pixel: float = 1.0,
        offset: float | Tensor = 0.0,
    ) -> None:
        super().__init__(
            shape,
            angles,
            detectors=detectors,
            spacing=spacing,
            pixel=pixel,
            offset=offset,
            widest=math.sqrt(2) * positive(pixel, "pixel"),
            reach=_radius(shape, pixel),
        )

    def _coordinate(self, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
        return x * angle.cos() + y * angle.sin()

    def _direction(self, x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        return -angle.sin() + 0 * x, angle.cos() + 0 * x

    def filtered_back_projection(self, y: Tensor, window: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The image by filtered back-projection: a baseline, right for many views spread evenly over half a turn.

        Args:
            y: Measurements ``(*batch, channels, views, detectors)``.
            window: What the ramp filter is multiplied by, a function of the frequency in cycles a detector, from 0 to
                0.5; nothing if not given.

        Shape:
            ``(*batch, *shape)``.
        """
        y = flattened(y, self.output_shape, "y").unflatten(-1, self.output_shape)
        filtered = self._filtered(y, self.spacing, window)
        return self._back_projection(filtered, math.pi / len(self.angles), lambda angle: 1.0)


class FanBeam(_Tomography):
    r"""Line integrals of an image along rays that spread from a source, which turns with its detector.

    At the angle :math:`\theta` a point lies :math:`p = x \cos \theta + y \sin \theta` beside the central ray and
    :math:`q = R - x \sin \theta + y \cos \theta` from the source, :math:`R` from the axis; its ray meets the detector,
    :math:`D` behind the axis, at :math:`(R + D) \, p / q + c`. As the source moves away this becomes :class:`Radon`.

    Args:
        shape: ``(channels, height, width)``.
        angles: Of the views, in radians, shape ``(views,)``.
        source: From the source to the axis of rotation, in units of length: outside the image.
        detector: From the axis to the detector; if not given, coordinates are those of a detector through the axis.
        curved: Whether the detector is an arc round the source, on which rays of equal angles are equally far apart:
            :math:`p / q` becomes :math:`\arctan(p / q)`.
        detectors: How many there are; as many as see the whole image if not given.
        spacing: From one detector to the next, and their width, in units of length.
        pixel: The side of a pixel, in units of length.
        offset: Where the central ray meets the detector, from its middle: one for all views or one for each.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, channels, views, detectors)``.

    References:
        Kak and Slaney 1988, "Principles of computerized tomographic imaging", chapter 3,
        https://doi.org/10.1137/1.9780898719277

    Example:
        >>> angles = torch.arange(30) * 2 * torch.pi / 30
        >>> fan = FanBeam((1, 64, 64), angles, source=100.0, detector=100.0)
        >>> fan(torch.ones(1, 64, 64)).shape
        torch.Size([1, 30, 203])
    """

    @takes_arrays
    def __init__(
        self,
        shape: tuple[int, ...],
        angles: Tensor,
        *,
        source: float,
        detector: float = 0.0,
        curved: bool = False,
        detectors: int | None = None,
        spacing: float = 1.0,
        pixel: float = 1.0,
        offset: float | Tensor = 0.0,
    ) -> None:
        radius = _radius(shape, pixel)
        if positive(source, "source") <= radius:
            raise ValueError(
                f"`source` must lie outside the image, farther than {radius:g} from the axis, got {source}"
            )
        if number(detector, "detector") < 0:
            raise ValueError(f"`detector` must not be negative, got {detector}")
        self.source, self.detector, self.curved = source, detector, switch(curved, "curved")
        whole, tangent = source + detector, math.sqrt(source**2 - radius**2)
        super().__init__(
            shape,
            angles,
            detectors=detectors,
            spacing=spacing,
            pixel=pixel,
            offset=offset,
            widest=math.sqrt(2) * pixel * whole / (source - radius) * source / tangent,
            reach=whole * (math.asin(radius / source) if curved else radius / tangent),
        )

    def _coordinate(self, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
        beside, ahead = self._seen(x, y, angle)
        return (self.source + self.detector) * ((beside / ahead).atan() if self.curved else beside / ahead)

    def _direction(self, x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        beside, ahead = self._seen(x, y, angle)
        return beside * angle.cos() - ahead * angle.sin(), beside * angle.sin() + ahead * angle.cos()

    def _seen(self, x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """How far points lie beside the central ray, and from the source along it."""
        return x * angle.cos() + y * angle.sin(), self.source - x * angle.sin() + y * angle.cos()

    def filtered_back_projection(self, y: Tensor, window: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The image by filtered back-projection: a baseline, right for many views spread evenly over a whole turn.

        Args:
            y: Measurements ``(*batch, channels, views, detectors)``.
            window: What the ramp filter is multiplied by, a function of the frequency in cycles a detector, from 0 to
                0.5; nothing if not given.

        Shape:
            ``(*batch, *shape)``.
        """
        y = flattened(y, self.output_shape, "y").unflatten(-1, self.output_shape)
        like = {"dtype": torch.double, "device": y.device}
        middle = (torch.arange(self.detectors, **like) - (self.detectors - 1) / 2) * self.spacing
        across = (middle - self.offset.to(**like).unsqueeze(-1)) / (self.source + self.detector)  # (V, D)
        spacing = self.spacing / (self.source + self.detector)
        slant = across.cos() if self.curved else 1 / (1 + across.square()).sqrt()
        filtered = self._filtered(y * slant.to(y.dtype), spacing, window, self._stretch if self.curved else None)
        centres = self._centres()

        def nearness(angle: Tensor) -> Tensor:
            beside, ahead = self._seen(*centres, angle)
            return self.source / (ahead.square() + (beside.square() if self.curved else 0))

        return self._back_projection(filtered, math.pi / len(self.angles), nearness)

    def _stretch(self, lag: Tensor) -> Tensor:
        """What the ramp filter is multiplied by where detectors are equally far apart in angle."""
        return 1 / torch.sinc(lag / math.pi).square()


def _ramp(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The integral up to ``u`` of what rises from 0 at ``low`` to 1 at ``high``, which may be one place."""
    risen = u.clamp(low, high) - low
    return 0.5 * risen.square() / (high - low).clamp_min(torch.finfo(u.dtype).eps) + (u - high).clamp_min(0)


def _radius(shape: tuple[int, ...], pixel: float) -> float:
    """Half the diagonal of an image."""
    return 0.5 * positive(pixel, "pixel") * math.hypot(*image_shape(shape)[1:])


def _offset(value: float | Tensor, angles: Tensor) -> Tensor:
    offset = value if isinstance(value, Tensor) else angles.new_tensor(number(value, "offset"))
    if offset.dim() and offset.shape != angles.shape:
        raise ValueError(
            f"`offset` must be one number or one for each of {len(angles)} views, got {tuple(offset.shape)}"
        )
    return floating(offset, "offset").to(angles.device).expand(len(angles))
