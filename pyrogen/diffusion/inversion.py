r"""Editing by inversion: what a picture would be under another context, with the noise that made it.

The probability flow of a context is a bijection of noise and data. A picture's noise under the old context is what that
context does not say of it: sizes, places, style. Followed back to data under the new context, the noise becomes the
picture with what the two contexts differ in changed. With one context for both ways it is the picture itself, up to
the solver; nothing is drawn at random. To stop early on the way to noise, at a :math:`t < 1`, keeps more of the picture
and lets less be changed.

Where two contexts disagree about a picture is seen from their denoisers: the difference of the data that they expect
behind one and the same noisy picture. It marks what an edit has to change, so that all else can be kept: on the way
back, or as the measurement of an inverse problem under the new context.

References:
    Song, Meng and Ermon 2021, "Denoising diffusion implicit models", section 5.4, https://arxiv.org/abs/2010.02502
    Su, Song, Meng and Ermon 2023, "Dual diffusion implicit bridges for image-to-image translation",
    https://arxiv.org/abs/2203.08382
    Hertz, Mokady, Tenenbaum, Aberman, Pritch and Cohen-Or 2023, "Prompt-to-prompt image editing with cross-attention
    control", https://arxiv.org/abs/2208.01626
    Couairon, Verbeek, Schwenk and Cord 2023, "DiffEdit: diffusion-based semantic image editing with mask guidance",
    https://arxiv.org/abs/2210.11427
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import instance_of, integer, positive_share
from pyrogen.core.shapes import Context, common_batch_shape, flatten_batch
from pyrogen.distributions.abilities import Abilities
from pyrogen.networks.context import context_rows
from pyrogen.numerics.ode import AdaptiveSolver, Solver

from .denoiser import Denoiser
from .editing import check_picture
from .guidance import require_alike


@torch.no_grad()
def edit_by_inversion(
    before: Any,
    after: Any,
    pictures: Tensor,
    *,
    time: float = 1.0,
    kept: Tensor | None = None,
    solver: Solver = AdaptiveSolver(1e-3),
) -> Tensor:
    """Pictures as another distribution has them: encoded to noise under one, decoded under the other.

    Args:
        before: What the pictures are, ``prior(caption)``: a distribution with a denoiser.
        after: What they shall be, ``prior(other_caption)``, under the same schedule. Guidance wraps the denoiser of
            either.
        pictures: What to start from; their batch dimensions broadcast with those of the distributions.
        time: How far to go into the noise, in (0, 1].
        kept: Which elements of the pictures shall stay: they go back under the old distribution, the others under the
            new one beside them. Of booleans, ``(*batch, *event_shape)`` or what broadcasts to it.
        solver: Chooses the steps of either way.

    Shape:
        ``(*batch, *event_shape)`` to the same.

    Raises:
        ValueError: a distribution has no denoiser, the two are of different events or schedules, ``time`` is out of
            range, ``kept`` is not boolean or has another shape, batches do not broadcast, a picture holds NaN or has
            another precision, or the flow cannot be followed.
        TypeError: pictures are no floating-point numbers.

    Example:
        >>> import pyrogen as pg
        >>> prior = pg.diffusion.mlp((2,), (), classes=3)
        >>> red, blue = prior(torch.tensor(0)), prior(torch.tensor(1))
        >>> edit_by_inversion(red, blue, torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """
    first, last = _denoiser(before, "before"), _denoiser(after, "after")
    batch = _common_batch(before, after, pictures)
    positive_share(time, "time")
    instance_of(Solver)(solver, "solver")
    old, new = _Velocity(first, before.context, batch), _Velocity(last, after.context, batch)
    alpha, _ = first.path(pictures, 0.0)
    x = flatten_batch(alpha * pictures.expand(*batch, *first.event_shape), first.event_shape)
    noisy = _followed(old, x, 0.0, time, solver)
    if kept is None:
        found = _followed(new, noisy, time, 0.0, solver)
    else:
        shown = flatten_batch(_boolean(kept, "kept", (*batch, *first.event_shape)), first.event_shape)
        pair = torch.stack([noisy, noisy], 1)
        found = _followed(partial(_beside, old, new, shown), pair, time, 0.0, solver)[:, 1]
    return found.reshape(*batch, *first.event_shape) / alpha


@torch.no_grad()
def difference_map(before: Any, after: Any, pictures: Tensor, *, time: float = 0.5, draws: int = 16) -> Tensor:
    """Where two distributions disagree about pictures: how far apart the data are that they expect behind noisy ones.

    Args:
        before: A distribution with a denoiser.
        after: Another, under the same schedule.
        pictures: What is made noisy; their batch dimensions broadcast with those of the distributions.
        time: How noisy, in (0, 1].
        draws: How many draws of the noise the root mean square is over.

    Shape:
        ``(*batch, *event_shape)``, at least zero, in data units.

    Raises:
        ValueError: as :func:`edit_by_inversion`.
    """
    first, last = _denoiser(before, "before"), _denoiser(after, "after")
    batch = _common_batch(before, after, pictures)
    positive_share(time, "time")
    noise = torch.randn(
        integer(draws, "draws"), *batch, *first.event_shape, dtype=pictures.dtype, device=pictures.device
    )
    noisy = first.path(noise, time).mix(pictures, noise)
    apart = last(noisy, time, after.context) - first(noisy, time, before.context)
    return apart.square().mean(0).sqrt()


def _denoiser(distribution: Any, name: str) -> Denoiser:
    if not isinstance(distribution, Abilities) or not distribution.has_denoiser:
        raise ValueError(f"`{name}` must have a denoiser, got {type(distribution).__name__}")
    return distribution.denoiser


def _common_batch(before: Any, after: Any, pictures: Tensor) -> torch.Size:
    """The batch shape of an edit.

    Raises:
        TypeError: pictures are no floating-point numbers.
        ValueError: events, precisions, schedules or batches do not fit, or a picture holds NaN or infinity.
    """
    require_alike(before.denoiser, after.denoiser, "after")
    check_picture(pictures, after.denoiser, "pictures")
    rows = check_picture(pictures, before.denoiser, "pictures")
    return common_batch_shape({"pictures": rows, "before": before.batch_shape, "after": after.batch_shape})


class _Velocity:
    """The velocity of the probability flow under the contexts of some rows.

    Args:
        denoiser: What it is of.
        context: Of all rows.
        batch: Their batch shape, flattened to number the rows.
    """

    def __init__(self, denoiser: Denoiser, context: Context, batch: torch.Size) -> None:
        self.denoiser, self.context = denoiser, context_rows(context, denoiser.context_shape or (), batch)

    def __call__(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        context = self.context
        if isinstance(context, dict):
            return self.denoiser.velocity(x, t, {key: value[rows] for key, value in context.items()})
        return self.denoiser.velocity(x, t, None if context is None else context[rows])


def _beside(old: _Velocity, new: _Velocity, kept: Tensor, pair: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """The velocity of pictures and of what becomes of them, side by side: the second is the first where it is kept."""
    velocity = old(pair[:, 0], t, rows)
    return torch.stack([velocity, torch.where(kept[rows], velocity, new(pair[:, 1], t, rows))], 1)


def _followed(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, start: float, end: float, solver: Solver
) -> Tensor:
    """Rows at time ``end`` of the flow through ``x`` at time ``start``."""

    def field(t: Tensor, x: Tensor, inputs: tuple[Tensor, ...], with_rate: bool) -> tuple[Tensor, None]:
        return velocity(x, t, *inputs), None

    return solver.solve(field, x, start, end, inputs=(torch.arange(len(x), device=x.device),)).check().value


def _boolean(kept: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool:
        got = kept.dtype if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(f"`{name}` must be a tensor of booleans, got {got}")
    try:
        return kept.expand(shape)
    except RuntimeError:
        raise ValueError(f"`{name}` must broadcast to {shape}, got {tuple(kept.shape)}") from None
