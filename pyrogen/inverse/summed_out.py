"""Discrete sites summed out of the density of a Pyro program, for many chains at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from opt_einsum import contract_path
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LogRing
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrogen.programs.site import is_statement


def summed_log_prob(trace: Trace, chains: str | None = None, *, added: Mapping[str, Tensor] | None = None) -> Tensor:
    """The log-probability of all statements of a trace, its enumerated sites summed out.

    Args:
        trace: Of a run under :class:`Enumerated`.
        chains: The plate of chains, if there is one, over which nothing is summed.
        added: Numbers added to the log-probabilities of some sites, in their shapes. The gradient in them is the
            probability of each value of the site, given all that is not summed out.

    Shape:
        ``()``, or with a plate of chains ``(chains,)``.
    """
    trace.compute_log_prob()
    for name, number in (added or {}).items():
        trace.nodes[name]["log_prob"] = trace.nodes[name]["log_prob"] + number
    trace.pack_tensors()
    symbols = trace.plate_to_symbol
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for node in trace.nodes.values():
        if is_statement(node):
            plates = frozenset(symbols[plate.name] for plate in node["cond_indep_stack"] if plate.vectorized)
            factors.setdefault(plates, []).append(node["packed"]["log_prob"])
    enumerated = set(trace.symbol_to_dim) - set(symbols.values())
    terms = [term for found in contract_tensor_tree(factors, enumerated, ring=_Sums()).values() for term in found]
    return sum(_over_all_but(term, symbols.get(chains, "")) for term in terms)


class Enumerated(EnumMessenger):
    """Pyro's enumeration, also under ``torch.vmap``: there a value has a shape, but no ``data``."""

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        if isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value):
            msg = {**msg, "value": torch.empty(value.shape)}
        super()._pyro_post_sample(msg)


class _Sums(LogRing):
    """Sums of products in the space of logarithms, of two terms at a time, by operations that ``vmap`` maps."""

    def sumproduct(self, terms: Sequence[Tensor], dims: Any) -> Tensor:
        terms = list(terms)
        output = "".join(sorted(set("".join(term._pyro_dims for term in terms)) - set(dims)))
        equation = ",".join(term._pyro_dims for term in terms) + "->" + output
        path, _ = contract_path(equation, *(tuple(term.shape) for term in terms), shapes=True)
        for places in path:
            picked = [terms.pop(place) for place in sorted(places, reverse=True)]
            terms.append(_product(picked, set(output).union(*(term._pyro_dims for term in terms))))
        return terms[0]


def _product(terms: Sequence[Tensor], kept: set[str]) -> Tensor:
    """The product of terms, summed over the dimensions that are not kept."""
    names = "".join(sorted(set("".join(term._pyro_dims for term in terms))))
    product = sum(_aligned(term, names) for term in terms)
    summed = [place for place, name in enumerate(names) if name not in kept]
    result = product.logsumexp(summed) if summed else product + 0
    result._pyro_dims = "".join(name for name in names if name in kept)
    return result


def _aligned(term: Tensor, names: str) -> Tensor:
    """A term whose dimensions are these, of size one where it has none."""
    own = term._pyro_dims
    ordered = term.permute([own.index(name) for name in names if name in own])
    return ordered[tuple(slice(None) if name in own else None for name in names)]


def _over_all_but(term: Tensor, name: str) -> Tensor:
    others = [place for place, own in enumerate(term._pyro_dims) if own != name]
    return term.sum(others) if others else term
