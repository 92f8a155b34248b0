r"""Masked networks: each output depends only on the inputs that its mask allows.

Feature :math:`i` may depend on input :math:`j` only where :math:`A_{ij}` is true. Every hidden unit is given a set of
inputs it may see, one of the sets that the features have; a unit sees units whose set lies within its own, and a
feature sees units whose set lies within its row of :math:`A`.

If :math:`A` is acyclic, inputs that are only known once their feature's output is (as in inverting an autoregressive
transform) are found level by level: the first level depends on nothing, the next on the first, and so on. Features and
units are sorted by level: so at each level the units already known form a prefix, no unit is computed twice, and the
masks are staircases.

References:
    Germain, Gregor, Murray and Larochelle 2015, "MADE: Masked autoencoder for distribution estimation",
    https://arxiv.org/abs/1502.03509
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

from .blocks import staircase
from .mlp import places_of, rectifier
from .weighted import Projection, Structure, Weighted


class MaskedConditioner(nn.Module):
    """A perceptron that computes, for each feature, the parameters of its map from the inputs it may see.

    Its output is parameter-major, ``(parameters, features, *batch)``, and starts at zero, like that of
    :class:`~pyrogen.networks.mlp.Conditioner`. It is called through :meth:`weighted`; what is called takes and
    gives features sorted by level, in the order :attr:`order`, back by :attr:`places`.

    Args:
        dependence: Boolean, ``(features, features)``: whether the row's feature may see the column's input. Acyclic.
        parameters: How many parameters each feature gets.
        hidden: Sizes of the hidden layers, at least one.
        context: Size of the context vector, zero for none.
        activation: Makes the nonlinearity after each hidden layer, which must act on each number alone.
        dropout: Share of the hidden units that are dropped in training.
        angles: Which inputs are angles, if any, one truth value for each: their cosines and sines are seen.

    Raises:
        ValueError: ``hidden`` is empty, ``dependence`` is not square or has a cycle, or ``angles`` does not have one
            entry for each feature.
    """

    @checked
    def __init__(
        self,
        dependence: Tensor,
        parameters: int,
        *,
        hidden: Sequence[int] = (128, 128),
        context: int = 0,
        activation: Callable[[], nn.Module] = rectifier,
        dropout: float = 0.0,
        angles: Sequence[bool] = (),
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("`hidden` must name at least one layer, got none")
        features = len(dependence)
        if places_of(angles, features) is None or features == 1:  # a single feature sees no other
            angles = ()
        sizes = (features + sum(angles), *hidden)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip(sizes, hidden, strict=False))
        self.context = nn.Linear(context, hidden[0], bias=False) if context else None
        self.activation, self.dropout = activation(), dropout
        self.weight = nn.Parameter(torch.zeros(parameters, features, hidden[-1]))
        self.bias = nn.Parameter(torch.zeros(parameters, features))
        grouped = levels(dependence)
        order = [feature for level in grouped for feature in level]
        seen = places_of(angles and [angles[feature] for feature in order], features)
        self.register_buffer("angles", seen, persistent=False)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("places", torch.tensor(order).argsort(), persistent=False)
        self.is_sorted = order == sorted(order)
        self.levels = [len(level) for level in grouped]
        self._mask(dependence.bool()[order][:, order], hidden, bool(context))

    def _mask(self, dependence: Tensor, hidden: Sequence[int], context: bool) -> None:
        sets, set_levels = _unit_sets(dependence, self.levels, context)
        chosen = [_spread(len(sets), units) for units in hidden]
        self.unit_levels = [set_levels[indices].tolist() for indices in chosen]
        seen = [sets[indices] for indices in chosen]
        masks = [
            seen[0],
            *(_contained(before, after) for before, after in zip(seen, [*seen[1:], dependence], strict=True)),
        ]
        if self.angles is not None:  # a sine is seen by what sees the cosine
            masks[0] = torch.cat([masks[0], masks[0][:, self.angles]], 1)
        if not masks[0].any():  # one feature, which sees only the context
            self.layers[0].weight.requires_grad_(False)
        for index, mask in enumerate(masks):
            self.register_buffer(f"mask_{index}", mask.to(self.bias.dtype), persistent=False)
        steps = [2 if min(mask.shape) >= 64 else 1 for mask in masks[:-1]]  # measured: smaller blocks cost more
        blocks = tuple(staircase(mask, step) for mask, step in zip(masks, steps, strict=False))
        parts = max(1, min(4, self.bias.numel() // 350))
        self.structure = Structure(self.activation, blocks, staircase(masks[-1], parts))

    def weighted(self, context: Tensor | None = None) -> Weighted:
        """The network in one call, for a context ``(*batch, context)`` that is projected whenever it is used."""
        layers = [*((layer.weight, layer.bias) for layer in self.layers), (self.weight, self.bias)]
        masks = [self.get_buffer(f"mask_{index}") for index in range(len(layers))]
        projection = None if context is None else Projection(context, self.context.weight, self.context.bias)
        dropout = self.dropout * self.training
        return Weighted(self.structure, layers, masks, projection=projection, dropout=dropout, angles=self.angles)

    def sweep(self, weighted: Weighted, rows: int) -> Sweep:
        """The network ready to be computed level by level for ``rows`` data; see :class:`Sweep`."""
        return Sweep(weighted, _stages(self.levels, self.unit_levels), rows)


class Sweep:
    """A masked network computed level by level, every hidden unit once; not differentiable.

    Numbers are kept feature-major, ``(features, N)``, features sorted by level.

    Args:
        weighted: The network; a context must have been expanded to the rows.
        stages: What becomes known at each level.
        rows: How many data there are (N).
    """

    def __init__(self, weighted: Weighted, stages: list[Stage], rows: int) -> None:
        layers = [(weight.detach(), bias.detach()) for weight, bias in weighted.masked]
        self.activation, self.stages = weighted.structure.activation, stages
        self.weights = [weight for weight, _ in layers]
        self.offsets = [bias.unsqueeze(-1) for _, bias in layers]
        self.offsets[0] = self.offsets[0].expand(-1, rows)
        if weighted.projected is not None:
            self.offsets[0] = self.offsets[0] + weighted.projected.detach().expand(rows, -1).T
        self.x = self.weights[0].new_empty(self.weights[0].shape[1], rows)
        self.units = [self.x.new_empty(len(bias), rows) for _, bias in layers[:-1]]

    def forward(self, solve: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Fills ``x`` level by level.

        Args:
            solve: Gives the inputs of a level, ``(n, N)``, from their parameters ``(parameters, n, N)`` and their place
                in the order of levels.
        """
        for stage in self.stages:
            self._units(stage)
            self.x[stage.features] = solve(self._parameters(stage), stage.features)
        return self.x

    def fill(self, x: Tensor) -> None:
        """Takes inputs ``(features, N)`` as the solution and computes all hidden units."""
        self.x = below = x
        for index, (weight, offset) in enumerate(zip(self.weights[:-1], self.offsets[:-1], strict=True)):
            below = self.units[index] = self.activation(weight @ below + offset)

    def _units(self, stage: Stage) -> None:
        below, known = self.x, stage.features.start
        for weight, offset, units, new in zip(self.weights, self.offsets, self.units, stage.units, strict=False):
            if new.stop > new.start:
                shift = offset[new]
                inner = torch.addmm(shift, weight[new, :known], below[:known]) if known else shift.clone()
                units[new] = self.activation(inner)
            below, known = units, new.stop

    def _parameters(self, stage: Stage) -> Tensor:
        known = stage.units[-1].stop
        weight, bias = self.weights[-1][:, stage.features, :known], self.offsets[-1][:, stage.features]
        out = weight.flatten(0, 1) @ self.units[-1][:known]
        return out.unflatten(0, weight.shape[:2]).add_(bias)

    def transposed_solve(self, gradient: Tensor, slope: Tensor, pull: Tensor) -> Tensor:
        r"""Solves :math:`J^\top \lambda = g` for the Jacobian :math:`J` of the map from ``x`` to the features' outputs.

        Args:
            gradient: The right-hand side :math:`g`, sorted by level.
            slope: The Jacobian's diagonal.
            pull: Of each feature, the derivatives of its output by its parameters, ``(parameters, features, N)``.

        Shape:
            All but ``pull`` are ``(features, N)``; :meth:`forward` must have been run.
        """
        derivatives = [_derivative(self.activation, units) for units in self._inner()]
        from_units = [torch.zeros_like(units) for units in self.units]
        rest = gradient.clone()
        solution = torch.empty_like(gradient)
        for stage in reversed(self.stages):
            here = solution[stage.features] = rest[stage.features] / slope[stage.features]
            known = stage.units[-1].stop
            weight = self.weights[-1][:, stage.features, :known].flatten(0, 1)
            from_units[-1][:known] += weight.T @ (pull[:, stage.features] * here).flatten(0, 1)
            for layer in reversed(range(len(self.units))):
                new = stage.units[layer]
                if new.stop == new.start:
                    continue
                through = from_units[layer][new] * derivatives[layer][new]
                known = stage.units[layer - 1].stop if layer else stage.features.start
                change = self.weights[layer][new, :known].T @ through
                if layer:
                    from_units[layer - 1][:known] += change
                else:
                    rest[:known] -= change
        return solution

    def _inner(self) -> list[Tensor]:
        """The hidden units before their nonlinearity."""
        below = [self.x, *self.units[:-1]]
        return [
            weight @ values + offset for weight, values, offset in zip(self.weights, below, self.offsets, strict=False)
        ]


class Stage(NamedTuple):
    """What becomes known at one level: features, by place in the sorted order, and the new units of each layer."""

    features: slice
    units: list[slice]


def levels(dependence: Tensor) -> list[list[int]]:
    """Features grouped by level: those of a level depend on features of lower levels only.

    Raises:
        ValueError: ``dependence`` is not square or has a cycle.
    """
    if dependence.dim() != 2 or dependence.shape[0] != dependence.shape[1]:
        raise ValueError(f"`dependence` must be a square matrix, got shape {tuple(dependence.shape)}")
    users = dependence.bool().T.contiguous()  # who needs a feature: its row
    missing = users.sum(0)  # how many features each one still waits for
    found: list[list[int]] = []
    while bool((missing >= 0).any()):
        ready = (missing == 0).nonzero().flatten()
        if not len(ready):
            cycle = (missing > 0).nonzero().flatten().tolist()
            raise ValueError(f"`dependence` must be acyclic, got a cycle among the features {cycle}")
        found.append(ready.tolist())
        missing = missing - users[ready].sum(0)
        missing[ready] = -1
    return found


def chain(order: Sequence[int]) -> Tensor:
    """The dependence of a full autoregressive order: ``order[k]`` sees ``order[0] … order[k - 1]``."""
    place = torch.as_tensor(order).argsort()
    return place.unsqueeze(1) > place.unsqueeze(0)


def _unit_sets(dependence: Tensor, levels: list[int], context: bool) -> tuple[Tensor, Tensor]:
    """The sets of inputs that hidden units may see, sorted by the level at which all of a set is known."""
    known_after = torch.repeat_interleave(torch.arange(1, 1 + len(levels)), torch.tensor(levels))
    rows = dependence if context or not dependence.any() else dependence[dependence.any(1)]
    rows = rows.unique(dim=0)
    known_at = (rows * known_after).amax(1)
    order = known_at.argsort(stable=True)
    return rows[order], known_at[order]


def _contained(sets: Tensor, others: Tensor) -> Tensor:
    """Whether each of ``sets`` (columns) lies within each of ``others`` (rows)."""
    outside = sets.float() @ (~others.bool()).float().T
    return (outside == 0).T


def _spread(sets: int, units: int) -> Tensor:
    """Units dealt out evenly over the sets, in order."""
    return torch.arange(units) * sets // units


def _stages(levels: list[int], unit_levels: list[list[int]]) -> list[Stage]:
    stages, start, known = [], 0, [0] * len(unit_levels)
    for level, count in enumerate(levels):
        ends = [bisect_right(owns, level) for owns in unit_levels]  # units are sorted by level
        units = [slice(begin, end) for begin, end in zip(known, ends, strict=True)]
        stages.append(Stage(slice(start, start + count), units))
        start, known = start + count, ends
    return stages


def _derivative(activation: nn.Module, inner: Tensor) -> Tensor:
    with torch.enable_grad():
        inner = inner.detach().requires_grad_()
        return torch.autograd.grad(activation(inner + 0).sum(), inner)[0]  # the activation may work in place
