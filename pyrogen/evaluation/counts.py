r"""What a model of sequences has to beat: probabilities by counts, given more and more of a symbol's context.

With :math:`c` for what of the context is known, :math:`n_c(s)` for how often symbol :math:`s` followed it, :math:`n_c`
for how often anything did, and :math:`k_c` for how many different symbols, the probability is that of the shorter
context :math:`c'`, with the weight of having been surprised :math:`k_c` times in :math:`n_c`:

.. math:: p(s \mid c) = \frac{n_c(s) + k_c \, p(s \mid c')}{n_c + k_c} .

Below the empty context all symbols are equally likely.

References:
    Witten and Bell 1991, "The zero-frequency problem: estimating the probabilities of novel events in adaptive text
    compression", https://doi.org/10.1109/18.87000 (method C)
    Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling",
    https://doi.org/10.1006/csla.1999.0128 (the recursion)
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import checked, no_symbol, real_tensor
from pyrogen.arrays import takes_arrays


@takes_arrays
@checked
def witten_bell(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, symbols: int) -> Tensor:
    r"""Log-probabilities of symbols by counts, smoothed as by Witten and Bell: a baseline for models of sequences.

    The members of a context may be anything that is known before the symbol. With the symbols before it, the nearest
    first, row :math:`k` of the result is that of an n-gram model of order :math:`k + 1`.

    Args:
        train: Symbols that are counted, and their contexts, the member that tells most first.
        test: Symbols that are scored, and their contexts.
        symbols: How many there are: symbols are integers from 0 to ``symbols - 1``, members of contexts any numbers.

    Shape:
        ``(n,)`` and ``(n, depth)``, ``(m,)`` and ``(m, depth)`` to ``(depth + 1, m)``: given nothing, the first member,
        the first two, and so on; nats.

    Raises:
        TypeError: ``train`` or ``test`` is no pair of tensors.
        ValueError: shapes do not fit, nothing is counted, or a symbol is none.

    Example:
        >>> text = torch.tensor([1, 0, 2, 0, 1, 0, 2, 0])
        >>> pairs = text[1:], text[:-1, None]
        >>> witten_bell(pairs, pairs, symbols=3).exp().mean(1)  # as single symbols, and given the one before
        tensor([0.4000, 0.6648], dtype=torch.float64)
    """
    (counted, known), (scored, given) = _checked("train", train, symbols), _checked("test", test, symbols)
    if not len(counted) or known.shape[1] != given.shape[1]:
        shapes = tuple(known.shape), tuple(given.shape)
        raise ValueError(f"`train` and `test` must have contexts (n, depth) and (m, depth), n > 0, got {shapes}")
    x, members = torch.cat([counted, scored]), torch.cat([known, given]).T
    n = len(counted)
    context = torch.zeros_like(x)  # a number for what of it is known
    p = torch.full((len(scored),), 1 / symbols, dtype=torch.double, device=x.device)
    found = []
    for depth in range(1 + len(members)):
        if depth:
            context = _numbered(context, members[depth - 1])
        pairs = context * symbols + x
        times, total = _counts(pairs[:n], pairs[n:]), _counts(context[:n], context[n:])
        different = _counts(pairs[:n].unique() // symbols, context[n:])
        p = torch.where(total > 0, (times + different * p) / (total + different).clamp(min=1), p)
        found.append(p.log())
    return torch.stack(found)


def _numbered(context: Tensor, member: Tensor) -> Tensor:
    """Contexts with one member more, numbered from zero."""
    member = member.unique(return_inverse=True)[1]
    return (context * (1 + member.max()) + member).unique(return_inverse=True)[1]


def _counts(among: Tensor, wanted: Tensor) -> Tensor:
    """How often each number that is wanted is among others."""
    values, counts = among.unique(return_counts=True)
    place = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    return torch.where(values[place] == wanted, counts[place], 0)


def _checked(name: str, pair: tuple[Tensor, Tensor], symbols: int) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"`{name}` must be a pair of symbols and contexts, got {type(pair).__name__}")
    x, context = real_tensor(pair[0], f"{name}[0]"), real_tensor(pair[1], f"{name}[1]")
    if x.dim() != 1 or context.dim() != 2 or len(context) != len(x):
        raise ValueError(f"`{name}` must have shapes (n,) and (n, depth), got {tuple(x.shape)}, {tuple(context.shape)}")
    if bool((wrong := no_symbol(x, symbols)).any()):
        raise ValueError(f"`{name}` must hold integers from 0 to {symbols - 1}, got {x[wrong][0].item()}")
    return x.long(), context
