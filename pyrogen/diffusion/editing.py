r"""Editing by partial noising: a stroke becomes an image.

A picture of strokes is made noisy up to a time :math:`t` and denoised again by the prior. Little noise keeps the
strokes as they are, *faithful*; much noise makes a draw of the prior of them, *realistic*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import finite, integer, number
from pyrogen.core.shapes import batch_shape_of, common_batch_shape
from pyrogen.distributions.abilities import Abilities
from pyrogen.numerics.grids import default_grid
from pyrogen.numerics.values import require_precision

from .denoiser import Denoiser


def edit(prior: Any, picture: Tensor, time: float, *, draws: int = 1, steps: int = 100) -> Tensor:
    """Draws of the prior near a picture.

    This is no posterior: the picture is no measurement, and has no likelihood.

    Args:
        prior: A distribution with a denoiser, such as that of a Diffusion.
        picture: What to start from, one or several; batch dimensions broadcast with those of the prior.
        time: How far to go into the noise, in (0, 1]: 0.3 to 0.6 for images.
        draws: How many draws.
        steps: How many steps the whole way from noise would have; the way back takes its share of them.

    Shape:
        ``(*batch, *event_shape)`` to ``(draws, *batch, *event_shape)``.

    Raises:
        ValueError: the prior has no denoiser, ``time`` is out of range, batches do not broadcast, or a picture holds
            NaN or has another precision.

    References:
        Meng, He, Song, Song, Wu, Zhu and Ermon 2022, "SDEdit: guided image synthesis and editing with stochastic
        differential equations", https://arxiv.org/abs/2108.01073
    """
    if not isinstance(prior, Abilities) or not prior.has_denoiser:
        raise ValueError(f"`prior` must have a denoiser, got {type(prior).__name__}")
    denoiser, context = prior.denoiser, prior.context
    if not 0 < number(time, "time") <= 1:
        raise ValueError(f"`time` must lie in (0, 1], got {time}")
    integer(draws, "draws")
    integer(steps, "steps")
    rows = check_picture(picture, denoiser, "picture")
    batch = common_batch_shape({"picture": rows, "prior": prior.batch_shape})
    picture = picture.expand(batch + prior.event_shape)
    with torch.no_grad():
        grid = default_grid(denoiser.schedule, steps)(denoiser.schedule)
        times = torch.cat([grid.new_tensor([time]), grid[grid < time - 1e-9]])
        start, end = denoiser.schedule(times).steps()
        steps = zip(*(each.tolist() for each in start.posterior(end)), strict=True)
        noise = torch.randn(draws, *picture.shape, dtype=picture.dtype, device=picture.device)
        x = denoiser.path(noise, time).mix(picture, noise)
        *times, last = times.to(x)
        for t, (noisy, data, variance) in zip(times, steps, strict=True):
            x = noisy * x + data * denoiser(x, t, context) + variance**0.5 * torch.randn_like(x)
        return denoiser(x, last, context)


def check_picture(picture: Tensor, denoiser: Denoiser, name: str) -> torch.Size:
    """The batch shape of pictures that a denoiser takes.

    Raises:
        TypeError: they are no floating-point numbers.
        ValueError: they are of other events or of another precision, or hold NaN or infinity.
    """
    rows = batch_shape_of(picture, denoiser.event_shape, name)
    require_precision(finite(picture, name), denoiser.parameters(), name)
    return rows


@dataclass(frozen=True)
class TradeOff:
    """Faithfulness and realism by time.

    Args:
        time: How far into the noise.
        distance: The root mean square distance to the picture, in data units: small is faithful.
        realism: The mean of the given score over the draws.
    """

    time: float
    distance: float
    realism: float


def trade_off(
    prior: Any,
    picture: Tensor,
    times: Sequence[float],
    realism: Callable[[Tensor], Tensor],
    *,
    draws: int = 16,
    steps: int = 100,
) -> list[TradeOff]:
    """The curve of realism against faithfulness of :func:`edit`.

    Args:
        prior: A distribution with a denoiser.
        picture: What to start from.
        times: How far to go, one point of the curve each.
        realism: Gives a score for each draw: a log-probability, a classifier's confidence.
        draws: How many draws for each time.
        steps: As for :func:`edit`.
    """
    curve = []
    for time in times:
        found = edit(prior, picture, time, draws=draws, steps=steps)
        distance = (found - picture).square().mean().sqrt().item()
        curve.append(TradeOff(time, distance, realism(found).float().mean().item()))
    return curve
