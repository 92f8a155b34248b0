"""Recipes of diffusion over symbols."""

from __future__ import annotations

from torch import nn

from pyrogen.arguments import anything, checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes, described
from pyrogen.networks.symbol_transformer import SymbolTransformer

from .discrete.denoiser import NetworkSymbolDenoiser, Symbols, symbol_counts
from .discrete.masked import MaskedDiffusion
from .discrete.schedules import SymbolSchedule
from .discrete.uniform import UniformDiffusion

_TEXTS = {
    "event_shape": "Shape of one event: ``(length,)`` of a text, ``(columns,)`` of a table, ``(length, features)`` of a"
    " sequence of rows, ``(channels, height, width)`` of an image, ``(frames, channels, height, width)`` of a video.",
    "context_shape": "``None``, the shape of one context tensor, or a dict of shapes. Numbers and labels modulate the"
    " norms, sequences ``(length, features)`` are attended to or, where they are as long as the event, stand beside it,"
    " images stand beside an event that is one, or beside each frame.",
    "symbols": "How many symbols there are, counted from zero; or so many for each element of a vector, such as the"
    " columns of a table.",
    "classes": "How many values integer contexts take: labels (``context_shape`` ``()``, the default with ``classes``)"
    " or sequences of symbols (``(length,)``); a dict for several contexts.",
    "depth": "How many blocks.",
    "heads": "Of the attention; ``width`` is a multiple of twice as many.",
    "patch": "Side of the patches into which images and frames are cut.",
    "context_dropout": "Share of the rows that lose their context in training, which classifier-free guidance needs.",
    "schedule": "The share of noise at every time. A model with one of its own is saved without its recipe, and loads"
    " with ``into=``.",
    "draws": "How many noisy events ``log_prob`` averages over.",
}


@recipe(texts=_TEXTS)
@checked(symbols=anything)
def masked(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: Symbols,
    patch: int = 2,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    schedule: SymbolSchedule | None = None,
    draws: int = 8,
) -> MaskedDiffusion:
    """Masked diffusion: a transformer finds hidden symbols, and completes any part given any other.

    Raises:
        ValueError: sizes do not divide, or there are fewer than two symbols.

    Example:
        >>> model = masked((4,), symbols=3, width=16, depth=1)
        >>> x, known = torch.tensor([0, 2, 1, 0]), torch.tensor([False, True, False, True])
        >>> model().given(x, known).sample((5,))[:, 1].tolist()
        [2, 2, 2, 2, 2]
    """
    network = SymbolTransformer(
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        symbols=_most(symbols, event_shape),
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        classes=classes,
        embedding=embedding,
        context_dropout=context_dropout,
        dropout=dropout,
    )
    return MaskedDiffusion(_denoiser(network, symbols, timed=False), schedule=schedule, draws=draws)


@recipe(texts=_TEXTS)
@checked(symbols=anything)
def uniform(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: Symbols,
    patch: int = 2,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    context_dropout: float = 0.0,
    dropout: float = 0.0,
    schedule: SymbolSchedule | None = None,
    draws: int = 8,
) -> UniformDiffusion:
    """Diffusion with uniform noise: a transformer finds symbols among wrong ones, and corrects what it drew before.

    Raises:
        ValueError: sizes do not divide, or there are fewer than two symbols.

    Example:
        >>> uniform((4,), symbols=3, width=16, depth=1)().sample((5,)).shape
        torch.Size([5, 4])
    """
    network = SymbolTransformer(
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        symbols=_most(symbols, event_shape),
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        classes=classes,
        embedding=embedding,
        context_dropout=context_dropout,
        dropout=dropout,
    )
    return UniformDiffusion(_denoiser(network, symbols, timed=True), schedule=schedule, draws=draws)


def _most(symbols: Symbols, event_shape: Shape) -> int:
    return int(symbol_counts(symbols, as_shape(event_shape, "event_shape")).max())


def _denoiser(network: SymbolTransformer, symbols: Symbols, *, timed: bool) -> NetworkSymbolDenoiser:
    shapes = {"event_shape": network.event_shape, "context_shape": network.context_shape}
    return NetworkSymbolDenoiser(network, symbols, timed=timed, **shapes)
