"""Beam search: likely sequences, kept the best few at each place."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer
from pyrogen.numerics.autograd import full

from .conditionals import finite_discrete
from .distribution import AutoregressiveDistribution
from .generation import Ending
from .given import Known


@checked(width=integer)
@torch.no_grad()
def beam_search(distribution: AutoregressiveDistribution, width: int) -> tuple[Tensor, Tensor]:
    """The likeliest events that a beam of some width finds, best first.

    With a width of as many prefixes as there are it finds the mode; with one it takes the likeliest symbol each time.

    Args:
        distribution: An autoregressive distribution over few symbols, possibly with a part given.
        width: How many prefixes of each row are kept.

    Returns:
        Events ``(width, *batch, *event)`` and their log-probabilities ``(width, *batch)``; where there are fewer events
        than ``width``, the last have log-probability minus infinity.

    Raises:
        TypeError: ``width`` is no integer.
        ValueError: ``width`` is not positive.
        NotImplementedError: the distribution is not that of one autoregressive model in one order, or the symbols are
            not few single numbers.

    Example:
        >>> model = pg.autoregressive.transformer((4,), symbols=3, width=16, depth=1)
        >>> events, scores = beam_search(model(), 5)
        >>> events.shape, torch.allclose(model().log_prob(events), scores, atol=1e-5)
        (torch.Size([5, 4]), True)
    """
    if not isinstance(distribution, AutoregressiveDistribution):
        raise NotImplementedError(
            "`distribution` must be that of an autoregressive model of one order, without `to_event` and the like, "
            f"got {type(distribution).__name__}"
        )
    if distribution.orders is not None:
        raise NotImplementedError("a search needs one order for all rows; search a model `along(order)` instead")
    rows = distribution.batch_shape.numel()
    beams = torch.arange(rows).repeat_interleave(width)
    wide = distribution.select(beams.to(next(distribution.network.parameters()).device))
    network, known, ending, length = wide.network, wide.known, wide.ending, wide.layout.length
    output, state = network.step(None, network.start((rows * width,), wide.context))
    precise = torch.promote_types(output.dtype, torch.float32)  # half precision would tie what is summed
    scores = output.new_full((rows, width), -torch.inf, dtype=precise)
    scores[:, 0] = 0.0
    symbols = None
    for place in range(length):
        options, values = _options(wide.conditional, output, place, known, ending, symbols)
        total = scores.unsqueeze(-1) + options.reshape(rows, width, options.shape[-1])  # (rows, width, K)
        scores, best = total.flatten(1).topk(width, -1)
        parents = torch.arange(rows, device=best.device).unsqueeze(1) * width + best // options.shape[-1]
        symbol = values[best % options.shape[-1]].flatten()
        parents = parents.flatten()
        before = symbol.new_empty(len(parents), 0) if symbols is None else symbols[parents]
        symbols = torch.cat([before, symbol.unsqueeze(1)], 1)
        if ending is not None and bool((symbols == ending.end).any(-1).all()):
            padding = symbols.new_full((len(symbols), length - place - 1), ending.padding)
            symbols = torch.cat([symbols, padding], 1)
            break
        if place + 1 < length:
            output, state = network.step(symbol, state.reindex(parents))
    events = wide.layout.unflatten(symbols)
    events = events.reshape(*distribution.batch_shape, width, *events.shape[1:])
    batch_dim = len(distribution.batch_shape)
    return events.movedim(batch_dim, 0), scores.reshape(*distribution.batch_shape, width).movedim(-1, 0)


def _options(
    conditional: object, output: Tensor, place: int, known: Known | None, ending: Ending | None, symbols: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The log-probability of each next symbol, ``(N, K)``, and the symbols, ``(K,)``."""
    now = finite_discrete(conditional(full(output)))
    options = now.log_probs
    values = torch.arange(options.shape[-1], device=options.device) if now.values is None else now.values
    if ending is not None and symbols is not None:
        ended = (symbols == ending.end).any(-1, keepdim=True)
        options = torch.where(ended, torch.where(values == ending.padding, 0.0, -torch.inf), options)
    if known is not None:
        symbol, mask = known.symbols[:, place, None], known.mask[:, place, None]
        options = torch.where(mask, torch.where(values == symbol, 0.0, -torch.inf), options)
    return options, values
