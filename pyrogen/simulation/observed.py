"""The observed sites of a program as the context of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrogen.core.shapes import Context, ContextShape
from pyrogen.networks.embedding import Embedding
from pyrogen.networks.embedding_defaults import default_embedding
from pyrogen.networks.statistics import RefusedDataError
from pyrogen.numerics.autograd import is_functional

from .joint.joint import Joint
from .joint.variable import Variable
from .rows.coordinates import form_of

Values = Mapping[str, Tensor]


class ObservedSites:
    """What is observed as one context: of a single site its value, of several a dict.

    In plates that have fewer rows than they can have, the rows that are absent are NaN.

    Args:
        joint: The program, and what of it is observed.
    """

    def __init__(self, joint: Joint) -> None:
        self.variables, self.sizes, self.exchangeable = joint.observed, joint.sizes, joint.exchangeable
        self.names = list(joint.observed)
        shapes = {name: variable.shape for name, variable in joint.observed.items()}
        self.shape: ContextShape = shapes if len(shapes) > 1 else next(iter(shapes.values()))

    def context(self, observed: Values | Tensor) -> Context:
        """Values by site as a context; what is one already stays as it is.

        Raises:
            ValueError: a site is missing or unknown.
        """
        if not isinstance(observed, Mapping):
            return observed
        if set(observed) != set(self.names):
            raise ValueError(f"`observed` must hold values of the sites {self.names}, got {list(observed)}")
        return observed if isinstance(self.shape, dict) else observed[self.names[0]]

    def by_site(self, context: Context) -> dict[str, Tensor]:
        """A context as values by site."""
        return dict(context) if isinstance(context, Mapping) else {self.names[0]: context}

    def embedding(self) -> Embedding:
        """The embedding that fits: sets for the plates whose rows are exchangeable, all else by its shape."""
        sets = {}
        for name, variable in self.variables.items():
            axes = {variable.axis(plate.name) for plate in variable.plates if plate.name in self.exchangeable}
            sets[name] = tuple(axis in axes for axis in range(len(variable.batch_shape)))
        forms = {name: form_of(variable.support) for name, variable in self.variables.items()}
        if isinstance(self.shape, dict):
            return default_embedding(self.shape, sets=sets, forms=forms)
        return default_embedding(self.shape, sets=sets[self.names[0]], forms=forms[self.names[0]])

    def padded(self, context: Context) -> Context:
        """The context with absent rows at the end of plates that have fewer rows than they can have.

        Raises:
            ValueError: a plate has too few rows, or too many.
        """
        if not self.sizes or context is None or isinstance(context, Mapping) and set(context) != set(self.names):
            return context
        values = self.by_site(context)
        padded = {name: self._padded(values[name], variable) for name, variable in self.variables.items()}
        return padded if isinstance(context, Mapping) else padded[self.names[0]]

    def require_numbers(self, context: Context) -> None:
        """Refuses what is not finite, except NaN in rows that are absent, and too many or too few rows.

        Raises:
            ValueError: there is one.
        """
        for name, value in self.by_site(context).items():
            if is_functional((value,)) or not value.is_floating_point():
                continue
            shown = f"context[{name!r}]" if isinstance(context, Mapping) else "context"
            wrong, missing = ~value.isfinite(), value.isnan()
            for plate, dim in self._sized(self.variables[name]):
                others = [other for other in range(-len(self.variables[name].shape), 0) if other != dim]
                absent = missing.all(others, keepdim=True) if others else missing
                present = (~absent).sum(dim)
                least, most = self.sizes[plate]
                if not bool(((present >= least) & (present <= most)).all()):
                    raise ValueError(
                        f"`{shown}` must have from {least} to {most} rows in plate {plate!r} of site {name!r}, got "
                        f"{int(present.min())} to {int(present.max())}"
                    )
                wrong, missing = wrong & ~absent, missing & ~absent
            if bool(wrong.any()):
                many = value.dim() == 1 + len(self.variables[name].shape)
                rows = wrong.reshape(len(wrong), -1).any(1).nonzero().flatten().tolist() if many else []
                raise RefusedDataError(f"`{shown}` must hold finite numbers", f"{value[wrong][0].item():g}", rows)

    def _sized(self, variable: Variable) -> Iterator[tuple[str, int]]:
        """The plates of varying size around a site, each with its dimension counted from the right of a value."""
        for plate in variable.plates:
            if plate.name in self.sizes:
                yield plate.name, variable.axis(plate.name) - len(variable.shape)

    def _padded(self, value: Tensor, variable: Variable) -> Tensor:
        for plate, dim in self._sized(variable):
            if value.dim() < -dim:
                return value
            rows, (least, most), all_rows = value.shape[dim], self.sizes[plate], variable.shape[dim]
            if not (least <= rows <= most or rows == all_rows):
                raise ValueError(
                    f"`context` must have from {least} to {most} rows in plate {plate!r} of site {variable.name!r}, "
                    f"got {rows} in shape {tuple(value.shape)}"
                )
            shape = list(value.shape)
            shape[dim] = all_rows - rows
            value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
            value = torch.cat([value, value.new_full(shape, torch.nan)], dim) if rows < all_rows else value
        return value
