"""The base class of pyrogen's distributions: Pyro's, with declared abilities and one way to expand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrogen.numerics.autograd import deepcopied
from pyrogen.numerics.representation import by_shapes
from pyrogen.numerics.values import require_expandable

from .abilities import Abilities


class PyrogenDistribution(Abilities, TorchDistribution):
    """A distribution of pyrogen; abstract.

    Subclasses define :meth:`_expanded`, ``support``, ``log_prob`` unless their density is ``None``, and ``sample``, or
    ``rsample`` with ``has_rsample = True``. What they can do beyond that is declared in
    :class:`~pyrogen.distributions.abilities.Abilities`.
    """

    arg_constraints = {}

    @abstractmethod
    def _expanded(self, batch_shape: torch.Size) -> Self:
        """The same distribution with other batch dimensions, to which its own expand; unvalidated."""

    def expand(self, batch_shape: Iterable[int], _instance: None = None) -> Self:
        expanded = self._expanded(require_expandable(self, batch_shape))
        expanded._validate_args = self._validate_args
        if "has_rsample" in vars(self):  # Pyro's `has_rsample_` sets it
            expanded.has_rsample = self.has_rsample
        return expanded

    def __deepcopy__(self, memo: dict) -> Self:
        return deepcopied(self, memo)

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} has density {self.density!r}: it draws samples and has no log_prob; compare "
            "draws by two-sample tests, and infer in the space of its noise (`pyrogen.inverse.in_noise`)"
        )

    def entropy(self) -> Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} has no closed-form entropy; average minus the log_prob of draws instead"
        )

    def cdf(self, value: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no closed-form cdf; take the share of draws instead")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no support that is enumerated; draw from it instead")

    def __repr__(self) -> str:
        return super().__repr__() if self.arg_constraints else by_shapes(self)

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no closed-form mean; average draws instead")

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no closed-form variance; use that of draws instead")
