"""Answers: what every inference method of this package gives, and when not to trust it.

A method is made for a Pyro model, runs with the arguments of that model, and then holds draws, for some methods weights
and the evidence, and diagnostics. A new method is a subclass of :class:`Answer` with one method, :meth:`~Answer.infer`.

There is one rule for "do not trust this", in :class:`Diagnostics`: an answer has *collapsed* where fewer than 20
independent draws carry some part of it, since quantiles and spreads then mean little, or where two estimates contradict
each other that ought to agree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pyrogen.arguments import checked, function
from pyrogen.arrays import takes_arrays
from pyrogen.markup import notebook_table
from pyrogen.numerics.exclusive import exclusive

FEW = 20
"""Independent draws that must carry an answer."""


class Diagnostics(ABC):
    """How far an answer can be trusted.

    Subclasses define what happened, as numbers, :meth:`numbers`, and in words, :meth:`lines`, and how many independent
    draws the answer is worth, :attr:`carried`.

    Attributes:
        draws: How many draws there are.
    """

    draws: int
    advice: ClassVar[str] = "run it longer, or use another method"

    @property
    @abstractmethod
    def carried(self) -> Tensor:
        """How many independent draws carry the answer of each problem, ``(problems,)``, or the answer as a whole."""

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """What happened, in single numbers and words."""

    @abstractmethod
    def lines(self) -> list[str]:
        """What happened, in sentences."""

    @property
    def contradicted(self) -> Tensor:
        """For each problem, whether two estimates that ought to agree do not."""
        return torch.zeros_like(self.carried, dtype=torch.bool)

    @property
    def collapsed_problems(self) -> Tensor:
        """For each problem, or for the answer as a whole, whether it is not to be trusted."""
        return ~(self.carried >= min(FEW, self.draws)) | self.contradicted

    @property
    def collapsed(self) -> bool:
        """Whether the answer of some problem is not to be trusted."""
        return bool(self.collapsed_problems.any())

    @property
    def reason(self) -> str:
        """Why the answer has collapsed."""
        return "too few draws carry the answer"

    def attributes(self) -> dict[str, Any]:
        """The same as :meth:`numbers`, and whether the answer has collapsed, as files keep them."""
        return {**self.numbers(), "collapsed": int(self.collapsed)}

    @property
    def warning(self) -> str:
        """That the answer has collapsed, why, and what to do; empty where it has not."""
        bad = self.collapsed_problems
        where = f" in {int(bad.sum())} of {len(bad)} problems" if bad.dim() and len(bad) > 1 else ""
        return f"COLLAPSED{where}: {self.reason}; {self.advice}" if self.collapsed else ""

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *([self.warning] if self.warning else [])])


@dataclass(frozen=True)
class DrawDiagnostics(Diagnostics):
    """Of independent draws that nothing weighs.

    Attributes:
        draws: How many there are.
        law: What they are draws of.
    """

    draws: int
    law: str

    @property
    def carried(self) -> Tensor:
        return torch.tensor(float(self.draws))

    def numbers(self) -> dict[str, Any]:
        return {"draws": self.draws, "law": self.law}

    def lines(self) -> list[str]:
        return [f"{self.draws} independent draws of {self.law}"]


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        draws: By site, each of shape ``(draws, *shape of the site)``.
        diagnostics: How far they can be trusted.
        log_weights: The logarithms of their weights; ``None`` where the method has none.
        log_evidence: The estimate of the log-evidence; ``None`` where there is none.
        sample_stats: Statistics of the draws, each of shape ``(draws,)``.
        chains: How many chains the draws are of, one after the other.
    """

    draws: dict[str, Tensor]
    diagnostics: Diagnostics
    log_weights: Tensor | None = None
    log_evidence: Tensor | None = None
    sample_stats: dict[str, Tensor] = field(default_factory=dict)
    chains: int = 1


class Answer(ABC):
    """The posterior of a Pyro model, by a method that a subclass defines in :meth:`infer`.

    Args:
        model: The Pyro model.
        site: The name of the latent site whose posterior is wanted, if it is one.
    """

    no_evidence: ClassVar[str] = (
        "this method does not estimate the evidence; SMCSampler, TwistedSMC, TemperedSMC, NoiseVI and Laplace do"
    )

    @checked
    def __init__(self, model: Callable, *, site: str | None = None) -> None:
        self.model, self.site = function(model, "model"), site
        self._results: Results | None = None

    @abstractmethod
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        """The posterior given the arguments of the model."""

    @takes_arrays
    def run(self, *args: Any, **kwargs: Any) -> Self:
        """Infers the latent sites given the arguments of the model, arrays and tables as tensors.

        Runs in several threads take turns: Pyro's handlers are those of the whole process.

        Returns:
            The posterior of these arguments, which a further run leaves as it is. Until then the method holds the same.

        Raises:
            ValueError: the model has no such latent site, nothing that depends on it is observed, data are missing or
                impossible, or the method does not serve such a model.
        """
        with exclusive():
            self._results = self.infer(args, kwargs)
            return copy(self)

    def get_samples(self, *, group_by_chain: bool = False) -> dict[str, Tensor]:
        """The draws by site, each of shape ``(draws, *shape of the site)``; weighted by :attr:`log_weights`.

        Args:
            group_by_chain: Whether they come as ``(chains, draws, *shape of the site)`` instead.
        """
        draws = self._finished.draws
        if group_by_chain:
            return {name: value.unflatten(0, (self.chains, -1)) for name, value in draws.items()}
        return dict(draws)

    @property
    def log_weights(self) -> Tensor | None:
        """The logarithms of the weights of the draws, ``(draws,)``; ``None`` where the method has none.

        All are zero after resampling. Draws of several problems that were not resampled have a weight for each,
        ``(draws, *problems)``.
        """
        return self._finished.log_weights

    @property
    def log_evidence(self) -> Tensor:
        r"""The estimate of :math:`\log p(y)` in nats, one for each independent problem.

        Raises:
            NotImplementedError: there is none.
        """
        if self._finished.log_evidence is None:
            raise NotImplementedError(self.no_evidence)
        return self._finished.log_evidence

    @property
    def sample_stats(self) -> dict[str, Tensor]:
        """Statistics of the draws, each of shape ``(draws,)``, for ``to_arviz``."""
        return dict(self._finished.sample_stats)

    @property
    def chains(self) -> int:
        """How many chains the draws are of, one after the other."""
        return self._finished.chains

    @property
    def attrs(self) -> dict[str, Any]:
        """The facts about the run that ``to_arviz`` keeps as attributes."""
        return self.diagnostics().attributes()

    def diagnostics(self) -> Diagnostics:
        """How far the answer can be trusted."""
        return self._finished.diagnostics

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._results is None:
            return f"<{name}, not run>"
        draws, diagnostics = self._results.draws, self._results.diagnostics
        warning = f"; COLLAPSED: {diagnostics.reason}" if diagnostics.collapsed else ""
        return f"<{name}: {diagnostics.draws} draws of {', '.join(draws)}{warning}>"

    def _repr_html_(self) -> str:
        name = type(self).__name__
        if self._results is None:
            return notebook_table(f"{name}, not run", {})
        draws, diagnostics = self._results.draws, self._results.diagnostics
        facts = {site: f"{len(value):,} draws of shape {tuple(value.shape[1:])}" for site, value in draws.items()}
        facts |= {"diagnostics": "; ".join(diagnostics.lines())}
        return notebook_table(name, facts, warning=diagnostics.warning)

    @property
    def _finished(self) -> Results:
        if self._results is None:
            raise ValueError("`run(*args)` must come first")
        return self._results
