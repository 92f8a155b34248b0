r"""Lattice models of statistical physics: the Ising model of spins and the Potts model of colours, on any graph.

Sites are the nodes of a graph, and neighbours :math:`i \sim j` interact along its edges. Ising spins
:math:`s_i = 2 x_i - 1` are :math:`\pm 1`, of bits :math:`x_i`, with

.. math:: E(x) = -\sum_{i \sim j} J_{ij} s_i s_j - \sum_i h_i s_i ,

and a Potts model has one of :math:`K` colours at each site, of which equal neighbours gain :math:`J_{ij}`,

.. math:: E(x) = -\sum_{i \sim j} J_{ij} \, [x_i = x_j] - \sum_i h_{i, x_i} .

The inverse temperature is in :math:`J` and :math:`h`. Given their neighbours the sites of one colour of a coloured
graph are independent, and are drawn at once. Where a lattice has at most :math:`2^{16}` states, as 4 by 4 spins have,
its normalizer is their sum: the density is exact, and so are draws.

References:
    Ising 1925, "Beitrag zur Theorie des Ferromagnetismus", https://doi.org/10.1007/BF02980577
    Potts 1952, "Some generalized order-disorder transformations", https://doi.org/10.1017/S0305004100027419
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked, instance_of, number, numbers, switch
from pyrogen.core.shapes import Context, Shape, as_shape
from pyrogen.numerics.markov.discrete import block_gibbs
from pyrogen.numerics.markov.paths import BlockPath, DensityPath, Elements
from pyrogen.numerics.markov.state import evaluate

from .chains import Chains, FreshChains
from .enumerable import EnumerableEnergy, digits
from .kernels import EnergyTarget, Moved, TransitionKernel
from .model import EnergyModule

_ENUMERABLE = 2**16  # states
_CHUNK = 2**13  # of them at once


class Lattice(EnumerableEnergy):
    """An energy of bits or symbols at the nodes of a graph, of which neighbours interact; abstract.

    Its density is exact where there are at most ``2 ** 16`` states, over which every call of ``log_prob`` sums.

    Args:
        event_shape: How the sites are laid out: a vector, a grid.
        edges: Pairs of sites that interact, ``(edges, 2)``, numbered along the flattened event.
        coupling: Of each edge, ``(edges,)``, or one for all.
        symbols: How many values a site has.
        chains: How it draws: sweeps of :class:`LatticeGibbs` if ``None``.

    Attributes:
        coupling: :math:`J`, a parameter, ``(edges,)``.
        blocks: Which sites are drawn at once, ``(blocks, sites)``.
    """

    edges: Tensor
    blocks: Tensor

    def __init__(
        self, event_shape: Shape, edges: Tensor, coupling: float | Tensor, symbols: int, chains: Chains | None
    ) -> None:
        support = constraints.boolean if symbols == 2 else constraints.integer_interval(0, symbols - 1)
        super().__init__(event_shape, support=support, chains=chains)
        self.sites = prod(self.event_shape)
        self.register_buffer("edges", _checked_edges(edges, self.sites))
        self.register_buffer("blocks", _independent_blocks(self.edges, self.sites), persistent=False)
        self.coupling = nn.Parameter(_filled(coupling, (len(self.edges),), "coupling"))

    @property
    def enumerable(self) -> bool:
        return self.symbols ** prod(self.event_shape) <= _ENUMERABLE

    def log_normalizer(self, context: Context = None) -> Tensor:
        return torch.stack([(-self.energies(x)).logsumexp(0) for x in self._all()]).logsumexp(0)

    @torch.no_grad()
    def exact_draws(self, rows: int, context: Context = None) -> Tensor:
        weights = torch.cat([-self.energies(x) for x in self._all()]).softmax(0)
        return self._numbers(weights.multinomial(rows, replacement=True))

    @abstractmethod
    def states(self, x: Tensor) -> Tensor:
        """What interacts, ``(N, sites, values)``, of events as numbers: neighbours gain by its inner product."""

    def energies(self, x: Tensor, context: Context = None) -> Tensor:
        states = self.states(x)  # (N, sites, values)
        agreement = (states[:, self.edges[:, 0]] * states[:, self.edges[:, 1]]).sum(-1)  # (N, edges)
        return -agreement @ self.coupling - (states * self.field).flatten(1).sum(1)

    def path(self, base: Elements, context: Context = None) -> DensityPath:
        return BlockPath(base, self.of_vectors(), blocks=list(self.blocks))

    def default_chains(self) -> Chains:
        return FreshChains(LatticeGibbs(), steps=100)

    def _all(self) -> Iterator[Tensor]:
        """All states as numbers, some at a time."""
        count = self.symbols**self.sites
        if count > _ENUMERABLE:
            raise NotImplementedError(
                f"up to {_ENUMERABLE} states can be summed, got {self.symbols} ** {self.sites}; estimate the "
                "normalizer by `pg.energy.log_normalizer`"
            )
        return map(self._numbers, torch.arange(count, device=self.edges.device).split(_CHUNK))

    def _numbers(self, states: Tensor) -> Tensor:
        """States by their numbers, as numbers."""
        symbols = digits(states, self.symbols, self.sites).reshape(len(states), *self.event_shape)
        return self.numbers(symbols).to(self.coupling)


class Ising(Lattice):
    r"""The Ising model, :math:`E = -\sum_{i \sim j} J_{ij} s_i s_j - \sum_i h_i s_i` with spins :math:`s = 2 x - 1`.

    Args:
        event_shape: How the sites are laid out.
        edges: Pairs of sites that interact, ``(edges, 2)``; of a grid :func:`grid_edges`.
        coupling: :math:`J` of each edge, ``(edges,)``, or one for all.
        field: :math:`h` of each site, of the event's shape, or one for all.
        chains: How it draws: sweeps of :class:`LatticeGibbs` if ``None``.

    Raises:
        ValueError: an edge has an end that is no site, or leads back to where it begins; a shape does not fit.

    Example:
        >>> ising = Ising((4, 4), grid_edges((4, 4), periodic=True), coupling=0.4)
        >>> round(ising.energies(torch.ones(1, 4, 4)).item(), 3)  # all 32 neighbours agree
        -12.8
        >>> ising.density
        'exact'
    """

    @checked(chains=instance_of(Chains))
    def __init__(
        self,
        event_shape: Shape,
        edges: Tensor,
        *,
        coupling: float | Tensor = 1.0,
        field: float | Tensor = 0.0,
        chains: Chains | None = None,
    ) -> None:
        super().__init__(event_shape, edges, coupling, 2, chains)
        self.field = nn.Parameter(_filled(field, self.event_shape, "field").reshape(self.sites, 1))

    def states(self, x: Tensor) -> Tensor:
        return (2 * x - 1).reshape(len(x), self.sites, 1)


class Potts(Lattice):
    r"""The Potts model, :math:`E = -\sum_{i \sim j} J_{ij} [x_i = x_j] - \sum_i h_{i, x_i}`, of integers.

    Args:
        event_shape: How the sites are laid out.
        edges: Pairs of sites that interact, ``(edges, 2)``; of a grid :func:`grid_edges`.
        symbols: How many values (colours) a site has.
        coupling: :math:`J` of each edge, ``(edges,)``, or one for all.
        field: :math:`h` of each site and value, ``(*event_shape, symbols)``, or one for all.
        chains: How it draws: sweeps of :class:`LatticeGibbs` if ``None``.

    Raises:
        ValueError: an edge has an end that is no site, or leads back to where it begins; a shape does not fit.

    Example:
        >>> potts = Potts((3,), grid_edges((3,)), symbols=3)
        >>> potts.energies(potts.numbers(torch.tensor([[0, 0, 0], [1, 1, 2]]))).tolist()
        [-2.0, -1.0]
    """

    @checked(chains=instance_of(Chains))
    def __init__(
        self,
        event_shape: Shape,
        edges: Tensor,
        *,
        symbols: int,
        coupling: float | Tensor = 1.0,
        field: float | Tensor = 0.0,
        chains: Chains | None = None,
    ) -> None:
        super().__init__(event_shape, edges, coupling, symbols, chains)
        self.field = nn.Parameter(_filled(field, (*self.event_shape, symbols), "field").reshape(self.sites, symbols))

    def states(self, x: Tensor) -> Tensor:
        one_hot = torch.stack([1 - x, x], -1) if self.symbols == 2 else x
        return one_hot.reshape(len(x), self.sites, self.symbols)


class LatticeGibbs(TransitionKernel):
    """Sweeps in which the sites of a lattice that do not interact are drawn at once."""

    def require(self, module: EnergyModule) -> None:
        if not isinstance(module, Lattice):
            raise NotImplementedError(
                f"LatticeGibbs moves lattices such as Ising or Potts models, got {type(module).__name__}; use Gibbs or "
                "GibbsWithGradients"
            )

    def __call__(self, target: EnergyTarget, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        lattice = target.module
        log_density = lattice.of_vectors()
        vectors = x.reshape(len(x), lattice.sites, *x.shape[1 + len(lattice.event_shape) :])
        found = block_gibbs(lambda x: evaluate(log_density, x).gradient, vectors, list(lattice.blocks), sweeps=steps)
        return Moved(found.reshape(x.shape), x.new_ones(len(x)))


def grid_edges(shape: int | Shape, *, periodic: bool = False) -> Tensor:
    """The pairs of neighbours on a grid of any number of dimensions.

    Args:
        shape: Of the grid.
        periodic: Whether opposite ends are neighbours too: a ring, a torus. Along two sites they are already.

    Returns:
        ``(edges, 2)``, sites numbered along the flattened grid.

    Example:
        >>> grid_edges(3).tolist()
        [[0, 1], [1, 2]]
        >>> len(grid_edges((4, 4), periodic=True))
        32
    """
    sizes = as_shape(shape, "shape")
    switch(periodic, "periodic")
    sites = torch.arange(prod(sizes)).reshape(sizes)
    pairs = []
    for axis, size in enumerate(sizes):
        ahead = sites.roll(-1, axis)
        kept = size if periodic and size > 2 else size - 1
        pairs.append(torch.stack([sites, ahead], -1).narrow(axis, 0, kept).reshape(-1, 2))
    return torch.cat(pairs)


def _independent_blocks(edges: Tensor, sites: int) -> Tensor:
    """A colouring of a graph, ``(colours, sites)``: no two neighbours have one colour, the first that is free."""
    neighbours: list[list[int]] = [[] for _ in range(sites)]
    for first, second in edges.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    colours = [-1] * sites
    for site in range(sites):
        taken = {colours[other] for other in neighbours[site]}
        colours[site] = next(colour for colour in range(sites) if colour not in taken)
    found = torch.tensor(colours, device=edges.device)
    return torch.arange(max(colours) + 1, device=edges.device).unsqueeze(1) == found


def _checked_edges(edges: Tensor, sites: int) -> Tensor:
    if not isinstance(edges, Tensor) or edges.is_floating_point() or edges.dim() != 2 or edges.shape[1] != 2:
        got = f"{edges.dtype} of shape {tuple(edges.shape)}" if isinstance(edges, Tensor) else type(edges).__name__
        raise ValueError(f"`edges` must be a tensor of integers of shape (edges, 2), got {got}")
    edges = edges.long()
    bad = ((edges < 0) | (edges >= sites)).any(1) | (edges[:, 0] == edges[:, 1])
    if bad.any():
        first = edges[bad][0].tolist()
        raise ValueError(f"`edges` must join two of the sites 0 to {sites - 1}, got {int(bad.sum())} like {first}")
    return edges


def _filled(value: float | Tensor, shape: Shape, name: str) -> Tensor:
    if value is None or isinstance(value, (bool, str)):
        number(value, name)  # is refused
    value = numbers(torch.as_tensor(value, dtype=torch.get_default_dtype()), name)
    if value.requires_grad:
        raise ValueError(
            f"`{name}` must be numbers without a gradient, which would end here, as they become a parameter; train "
            f"`model.{name}`"
        )
    if value.dim() and tuple(value.shape) != tuple(shape):
        raise ValueError(f"`{name}` must be one number or have shape {tuple(shape)}, got {tuple(value.shape)}")
    return value.expand(shape).clone()
