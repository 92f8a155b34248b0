r"""Restricted Boltzmann machines: visible and hidden units, and no connection within a layer.

.. math:: p(v, h \mid c) \propto m(v) \exp \left( (a + a(c)) \cdot t(v) + (b + b(c)) \cdot h + t(v)^\top W h \right),
    \qquad h \in \{0, 1\}^H .

Each layer is independent given the other, so that both are drawn at once (block Gibbs sampling), and hidden units are
summed out in closed form: the *free energy* of the visible ones is

.. math:: E(v \mid c) = -\log m(v) - (a + a(c)) \cdot t(v) - \sum_j \log(1 + e^{b_j + b_j(c) + t(v)^\top W_j}) .

The normalizer is a sum over the states of either layer, with the other one summed in closed form. Where the smaller one
has few states, up to :math:`2^{20}`, it is computed: the density is exact, and so are draws.

References:
    Smolensky 1986, "Information processing in dynamical systems: foundations of harmony theory"
    Hinton 2012, "A practical guide to training restricted Boltzmann machines",
    https://doi.org/10.1007/978-3-642-35289-8_32
    Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks",
    https://doi.org/10.1145/1390156.1390266
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import log, log2, prod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from pyrogen.arguments import checked, instance_of, integer
from pyrogen.core.batch import map_tensors
from pyrogen.core.shapes import Context, context_batch_shape
from pyrogen.networks.context import context_rows
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.markov.paths import DensityPath, Elements

from .chains import Chains, FreshChains
from .enumerable import EnumerableEnergy, digits
from .kernels import EnergyTarget, Moved, TransitionKernel
from .model import EnergyModule
from .units import Units

_ENUMERABLE = 20
"""The logarithm to base two of the most states that are summed."""
_CHUNK = 2**20
"""How many numbers are held at once while states are summed."""


class RBM(EnumerableEnergy):
    """A restricted Boltzmann machine of binary hidden units.

    Its density is exact where a layer has at most ``2 ** 20`` states, and unnormalized otherwise. An exact
    ``log_prob`` costs a sum over all of them each time it is called. ``pg.MaximumLikelihood(machine)`` trains by it,
    which is fast for ten hidden units and slow for twenty; the default objective is contrastive divergence with
    persistent chains.

    Args:
        visible: The layer of visible units.
        hidden: How many hidden units there are.
        context: What becomes of a context, one vector, on which the biases depend; ``None`` if there is none.
        chains: How it draws where it cannot exactly; block Gibbs sampling if ``None``.

    Attributes:
        weight: :math:`W`, ``(features, hidden)``.
        visible_bias, hidden_bias: :math:`a` and :math:`b`.

    Example:
        >>> machine = pg.energy.rbm((4,), symbols=2, units=3)
        >>> states = torch.cartesian_prod(*[torch.arange(2.0)] * 4)
        >>> machine.density, round(machine().log_prob(states).exp().sum().item(), 4)
        ('exact', 1.0)
    """

    @checked(visible=instance_of(Units), chains=instance_of(Chains), hidden=integer)
    def __init__(
        self,
        visible: Units,
        *,
        hidden: int,
        context: VectorContext | None = None,
        chains: Chains | None = None,
    ) -> None:
        context = context if context is not None and context.size else None
        context_shape = None if context is None else context.context_shape
        super().__init__(visible.event_shape, context_shape, support=visible.support, chains=chains)
        self.visible, self.hidden, self.context = visible, hidden, context
        self.weight = nn.Parameter(0.01 * torch.randn(visible.size, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible.size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.shift = None if context is None else nn.Linear(context.size, visible.size + hidden, bias=False)

    @property
    def enumerable(self) -> bool:
        return min(self.hidden, self._visible_bits) <= _ENUMERABLE

    def energies(self, x: Tensor, context: Context = None) -> Tensor:
        features = self.visible.features(x)
        of_visible, of_hidden = self.biases(context)
        visible = self.visible.log_measure(features) + (features * of_visible).sum(-1)
        return -visible - softplus(features @ self.weight + of_hidden).sum(-1)

    def biases(self, context: Context = None) -> tuple[Tensor, Tensor]:
        """Those of both layers given contexts, ``([N,] features)`` and ``([N,] hidden)``."""
        if self.shift is None:
            return self.visible_bias, self.hidden_bias
        of_visible, of_hidden = self.shift(self.context(context)).split([self.visible.size, self.hidden], -1)
        return self.visible_bias + of_visible, self.hidden_bias + of_hidden

    def hidden_given(self, x: Tensor, context: Context = None) -> Tensor:
        """The probabilities that hidden units are one given visible ones, ``(N, *event)`` to ``(N, hidden)``."""
        return (self.visible.features(x) @ self.weight + self.biases(context)[1]).sigmoid()

    def visible_given(self, h: Tensor, context: Context = None) -> Tensor:
        """Visible units as numbers, drawn given hidden ones: ``(N, hidden)`` to ``(N, *event)``."""
        return self.visible.sample(self.biases(context)[0] + h @ self.weight.T)

    def log_normalizer(self, context: Context = None) -> Tensor:
        batch = context_batch_shape(context, self.context_shape)
        if context is None:
            return self._log_weights(None, summed=True)
        distinct, places = self._distinct(context_rows(context, self.context_shape, batch), batch.numel())
        return self._log_weights(distinct, summed=True)[places].reshape(batch)

    def path(self, base: Elements, context: Context = None) -> DensityPath:
        return MachinePath(self, base, context)

    def default_chains(self) -> Chains:
        return FreshChains(BlockGibbs(), steps=200)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from self.visible.read_data(x)
        if self.context is not None:
            yield from self.context.read_data(context)

    @torch.no_grad()
    def exact_draws(self, rows: int, context: Context = None) -> Tensor:
        states = self._drawn_states(rows, context)
        if self._by_hidden:
            return self.visible_given(digits(states, 2, self.hidden).to(self.weight), context)
        return self._numbers(states)

    def _drawn_states(self, rows: int, context: Context) -> Tensor:
        """States of the enumerated layer by their numbers, ``(rows,)``."""
        if context is None:
            return self._log_weights(None, summed=False).softmax(-1).multinomial(rows, replacement=True)
        distinct, places = self._distinct(context, rows)
        counts, order = places.bincount(), places.argsort()
        rank = torch.empty_like(places)  # of each row among those of its context
        rank[order] = torch.arange(rows, device=places.device) - (counts.cumsum(0) - counts)[places[order]]
        drawn = []
        for some in torch.arange(len(counts), device=places.device).split(max(1, _CHUNK // self._states)):
            (contexts,) = map_tensors((distinct,), lambda entries, some=some: entries[some])
            weights = self._log_weights(contexts, summed=False).softmax(-1)
            drawn.append(weights.multinomial(int(counts.max()), replacement=True))
        return torch.cat(drawn)[places, rank]

    def _distinct(self, context: Context, rows: int) -> tuple[Context, Tensor]:
        """Contexts, of labels each one once, since all have sums over all states; and which of them each row has."""
        if isinstance(context, Tensor) and not (context.is_floating_point() or is_functional((context,))):
            return context.unique(dim=0, return_inverse=True)
        return context, torch.arange(rows, device=self.weight.device)

    @property
    def _visible_bits(self) -> float:
        states = self.visible.states
        return float("inf") if states is None else prod(self.event_shape) * log2(states)

    @property
    def _by_hidden(self) -> bool:
        return self.hidden <= self._visible_bits

    def _log_weights(self, context: Context, *, summed: bool) -> Tensor:
        """Those of all states of the enumerated layer, ``([N,] states)``, or the logarithm of their sum, ``([N])``."""
        bits = min(self.hidden, self._visible_bits)
        if bits > _ENUMERABLE:
            raise NotImplementedError(
                f"a layer can be enumerated up to {_ENUMERABLE} bits, got {self.hidden} hidden and "
                f"{self._visible_bits:.0f} visible ones; estimate the normalizer by `pg.energy.log_normalizer`"
            )
        biases = [bias if self.shift is None else bias.unsqueeze(-2) for bias in self.biases(context)]  # ([N, 1,] size)
        per_state = max(1, len(biases[0]) if self.shift is not None else 1) * (self.visible.size + self.hidden)
        parts = []
        for states in torch.arange(self._states, device=self.weight.device).split(max(1, _CHUNK // per_state)):
            part = partial(self._of_states, states, *biases, summed=summed)
            # Without their graph, where there are many: that of twenty bits takes gigabytes.
            again = torch.is_grad_enabled() and len(states) < self._states and not is_functional(biases)
            parts.append(checkpoint(part, use_reentrant=False) if again else part())
        return torch.stack(parts, -1).logsumexp(-1) if summed else torch.cat(parts, -1)

    @property
    def _states(self) -> int:
        """How many states the enumerated layer has."""
        return 2**self.hidden if self._by_hidden else self.visible.states ** prod(self.event_shape)

    def _of_states(self, states: Tensor, of_visible: Tensor, of_hidden: Tensor, *, summed: bool) -> Tensor:
        """The log-weights of states by their numbers, with the other layer summed out."""
        if self._by_hidden:
            h = digits(states, 2, self.hidden).to(self.weight)
            weights = (h * of_hidden).sum(-1) + self.visible.log_partition(of_visible + h @ self.weight.T)
        else:
            v = self.visible.features(self._numbers(states))
            weights = self.visible.log_measure(v) + (v * of_visible).sum(-1)
            weights = weights + softplus(v @ self.weight + of_hidden).sum(-1)
        return weights.logsumexp(-1) if summed else weights

    def _numbers(self, states: Tensor) -> Tensor:
        """States of the visible layer by their numbers, as numbers."""
        symbols = digits(states, self.visible.states, prod(self.event_shape))
        return self.numbers(symbols.reshape(len(states), *self.event_shape)).to(self.weight)


class MachinePath(DensityPath):
    r"""Machines on the way from independent visible units to a machine of discrete ones, drawn from by block Gibbs.

    At inverse temperature :math:`\beta` visible units have the bias :math:`(1 - \beta) a_0 + \beta a`; hidden biases
    and weights are :math:`\beta b` and :math:`\beta W`. Hidden units are summed out at every temperature.

    Args:
        machine: The machine.
        base: The visible units at inverse temperature 0.
        context: A single one.

    References:
        Salakhutdinov and Murray 2008, "On the quantitative analysis of deep belief networks", section 4.1,
        https://doi.org/10.1145/1390156.1390266
    """

    def __init__(self, machine: RBM, base: Elements, context: Context) -> None:
        self.machine, self.base = machine, base
        of_one = machine.biases(context_rows(context, machine.context_shape, (1,)))
        self.visible_bias, self.hidden_bias = (bias.reshape(-1) for bias in of_one)

    def draw(self, chains: int) -> Tensor:
        return self.base.draw(chains)

    def increment(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        field = self._hidden_field(x)
        linear = x.flatten(1) @ self.visible_bias - self.base.log_prob(x) + self.machine.hidden * log(2)
        return self._summed(field, end) - self._summed(field, start) + (end - start) * linear.double()

    def move(self, x: Tensor, at: Tensor) -> Tensor:
        at = at.to(x).unsqueeze(-1)
        h = torch.bernoulli((at * self._hidden_field(x)).sigmoid())
        field = torch.lerp(self.base.logits.reshape(-1), self.visible_bias + h @ self.machine.weight.T, at)
        return self.machine.visible.sample(field).reshape(x.shape)

    def _hidden_field(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.machine.weight + self.hidden_bias

    def _summed(self, field: Tensor, at: Tensor) -> Tensor:
        """The hidden units summed out, ``(chains, hidden)`` to ``(chains,)``."""
        return softplus(at.to(field).unsqueeze(-1) * field).sum(-1).double()


class BlockGibbs(TransitionKernel):
    """All hidden units of a machine given the visible ones, and then all visible ones given these."""

    def require(self, module: EnergyModule) -> None:
        if not isinstance(module, RBM):
            raise NotImplementedError(
                f"BlockGibbs needs the layers of an RBM, got {type(module).__name__}; use Gibbs, GibbsWithGradients "
                "or AdjustedLangevin"
            )

    def __call__(self, target: EnergyTarget, x: Tensor, steps: int, step_size: Tensor) -> Moved:
        machine, context = target.module, target.context
        for _ in range(steps):
            x = machine.visible_given(torch.bernoulli(machine.hidden_given(x, context)), context)
        return Moved(x, x.new_ones(len(x)))
