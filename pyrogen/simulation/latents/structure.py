r"""Which latent numbers must depend on which in a posterior, read off the program.

The factorization of a program's joint distribution says which variables are independent given others; in the posterior
this is not the same. It is found by elimination in the undirected graph of the program:

1. each number depends on its parents; what has a child in common is joined (*moralisation*);
2. what is observed is given, and leaves the graph;
3. variables are eliminated one by one, the neighbours of each being joined. In the reverse order, each depends on those
   that were its neighbours when it was eliminated, and on no others.

For a Markov chain this gives a chain again, for a hierarchical program local variables that depend on the global ones
and not on each other. Rows of one plate depend on each other only where the program computes a row from others, which
is found by changing one of them.

References:
    Webb, Golinski, Zinkov, Siddharth, Rainforth, Teh and Wood 2018, "Faithful inversion of generative models for
    effective amortized inference", https://arxiv.org/abs/1712.00287
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product

import torch
from torch import Tensor

from pyrogen.numerics.randomness import held, seed_all
from pyrogen.numerics.supports import Packed
from pyrogen.transforms.packed import Packing

from ..joint.exchangeable import rows_mix
from ..joint.joint import Joint
from ..joint.runs import undisturbed
from ..joint.variable import Variable
from .packing import PackedSites

Node = tuple[str, tuple[int, ...]]
"""A site, and one place of its batch."""
Graph = dict[Node, set[Node]]


def dependence_matrix(joint: Joint) -> Tensor:
    """Which unconstrained continuous number (row) must see which (column) in the posterior, ``(numbers, numbers)``.

    The matrix has no cycle. Discrete sites are given to the continuous ones, and do not count.
    """
    packing = PackedSites(joint.latents)
    continuous = {name: each for name, each in joint.latents.items() if not each.is_discrete}
    with held(), undisturbed(joint.program):
        seed_all(0)
        parents = _inverted(joint, continuous)
    nodes = [node for name, each in continuous.items() for node in _nodes(each)]
    parts = zip(continuous.values(), packing.continuous.parts, strict=True)
    counts = {variable.name: _numbers(variable, part) for variable, part in parts}
    starts, total = {}, 0
    for node in nodes:
        starts[node] = range(total, total + counts[node[0]])
        total += counts[node[0]]
    matrix = torch.zeros(total, total, dtype=torch.bool)
    for node, own in starts.items():
        for row, column in combinations(reversed(own), 2):
            matrix[row, column] = True
        for parent in parents[node]:
            matrix[own.start : own.stop, starts[parent].start : starts[parent].stop] = True
    return matrix


def _inverted(joint: Joint, wanted: Mapping[str, Variable]) -> Graph:
    """For each node of the wanted sites, those that it depends on in the posterior."""
    kept = {*wanted, *joint.nuisance}  # all else is given
    graph = {
        node: {other for other in others if other[0] in kept}
        for node, others in _moral(joint).items()
        if node[0] in kept
    }
    _eliminate(graph, [node for node in graph if node[0] in joint.nuisance])
    return _eliminate(graph, list(graph))


def _moral(joint: Joint) -> Graph:
    """The undirected graph of all numbers: each joined with its parents, and these with each other."""
    variables = {**joint.latents, **joint.nuisance, **joint.observed}
    mixing = _mixing_plates(joint, variables)
    nodes = {name: list(_nodes(variable)) for name, variable in variables.items()}
    graph: Graph = {node: set() for group in nodes.values() for node in group}
    for name, variable in variables.items():
        above = [parent for parent in joint.dependence.parents.get(name, ()) if parent in variables]
        for node in nodes[name]:
            family = [node]
            for parent in above:
                family += _aligned(node, variable, nodes[parent], variables[parent], mixing)
            _join(graph, family)
    return graph


def _aligned(
    node: Node, variable: Variable, others: Iterable[Node], parent: Variable, mixing: frozenset[str]
) -> Iterator[Node]:
    """The nodes of a parent in the same rows of all plates that both are in."""
    shared = [
        (variable.axis(plate.name), parent.axis(plate.name))
        for plate in variable.plates
        if plate.name not in mixing and variable.axis(plate.name) is not None and parent.axis(plate.name) is not None
    ]
    for other in others:
        if all(node[1][ours] == other[1][theirs] for ours, theirs in shared):
            yield other


def _mixing_plates(joint: Joint, variables: Mapping[str, Variable]) -> frozenset[str]:
    """The plates in which a site is computed from other rows than its own, or may be."""
    names = {plate.name for each in variables.values() for plate in each.plates if plate.dim is not None}
    return frozenset(name for name in names if rows_mix(joint._runs, joint.observed, name, together=joint.vectorized))


def _eliminate(graph: Graph, nodes: list[Node]) -> Graph:
    """Eliminates nodes, each time one whose neighbours are nearly joined, the last of the program first.

    The graph loses them. Gives the neighbours that each had.
    """
    waiting, found = dict.fromkeys(reversed(nodes)), {}
    while waiting:
        node = min(waiting, key=lambda candidate: _missing(graph, candidate))
        del waiting[node]
        neighbours = graph.pop(node)
        for other in neighbours:
            graph[other].discard(node)
        _join(graph, neighbours)
        found[node] = neighbours
    return found


def _missing(graph: Graph, node: Node) -> int:
    """How many pairs of its neighbours are not joined."""
    neighbours = graph[node]
    joined = sum(len(graph[other] & neighbours) for other in neighbours) // 2
    return len(neighbours) * (len(neighbours) - 1) // 2 - joined


def _join(graph: Graph, family: Iterable[Node]) -> None:
    family = set(family)
    for node in family:
        graph[node] |= family - {node}


def _nodes(variable: Variable) -> Iterator[Node]:
    return ((variable.name, place) for place in product(*map(range, variable.batch_shape)))


def _numbers(variable: Variable, part: tuple) -> int:
    """How many unconstrained numbers one place of a site's batch has."""
    (size,) = Packing(Packed([part])).inverse_shape(torch.Size((variable.size,)))
    return size // max(1, len(list(_nodes(variable))))
