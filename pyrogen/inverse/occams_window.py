r"""Occam's window: the posterior of discrete and continuous sites, by a search over values of the discrete ones.

Values :math:`d` of the discrete sites are an *explanation* of the data :math:`y`: which solids are in a picture, which
variables matter, how many peaks a spectrum has. With the continuous sites :math:`x`,

.. math:: p(d, y) = p(d) \int p(x \mid d) \, p(y \mid x, d) \, dx, \qquad p(d \mid y) = \frac{p(d, y)}{\sum_k p(k, y)} .

There are too many explanations to sum over, and few that matter. Beginning from some, the search tries those next to
the best one that it has not looked around yet, such as those that differ from it in one number, until it has looked
around all that are not less probable than the best by a factor of ``odds``. Each integral is the evidence that another
method estimates once the discrete sites are given, by default :class:`~pyrogen.inverse.laplace.Laplace`; the draws are
those of all explanations, each with its probability. Explanations that the search begins from are tried once more, from
draws of one next to them, and keep the answer of the greater evidence: their first one may be that of a lesser mode.

References:
    Madigan and Raftery 1994, "Model selection and accounting for model uncertainty in graphical models using Occam's
    window", https://doi.org/10.1080/01621459.1994.10476894
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyrogen.arguments import checked, function, integer, number
from pyrogen.numerics.randomness import seeded
from pyrogen.numerics.resampling import systematic

from .answer import Answer, Diagnostics, Results
from .explanations import Explanation, Search
from .free_sites import starting_points
from .laplace import Laplace

_DOUBTFUL = 0.05  # of the probability, that collapsed answers may hold


@dataclass(frozen=True)
class OccamsWindowDiagnostics(Diagnostics):
    """How far the search went, and how far its answers can be trusted.

    Attributes:
        draws: How many there are.
        effective_sample_size: How many independent ones they are worth.
        tried: How many explanations were tried, the impossible ones left out.
        failed: At how many more the method failed, which have no probability here.
        probabilities: Of the explanations among all that were tried, falling, ``(tried,)``.
        doubtful: The probability of explanations whose own answers have collapsed.
        complete: Whether the search looked around all explanations in the window.
        log_evidence: Of all explanations that were tried, in nats.
    """

    advice: ClassVar[str] = "try more explanations, begin from others, or give a `method` that serves them"

    draws: int
    effective_sample_size: float
    tried: int
    failed: int
    probabilities: Tensor = field(repr=False)
    doubtful: float
    complete: bool
    log_evidence: float

    @property
    def carried(self) -> Tensor:
        return torch.tensor(self.effective_sample_size)

    @property
    def contradicted(self) -> Tensor:
        return torch.tensor(not self.complete or self.doubtful > _DOUBTFUL)

    @property
    def reason(self) -> str:
        if not self.complete:
            return f"the search ended after {self.tried} explanations, with others still to be tried"
        return super().reason if self.doubtful <= _DOUBTFUL else "answers of probable explanations have collapsed"

    def numbers(self) -> dict[str, Any]:
        names = ("effective_sample_size", "tried", "failed", "doubtful", "complete", "log_evidence")
        return {name: vars(self)[name] for name in names} | {"probability": float(self.probabilities[0])}

    def lines(self) -> list[str]:
        most = 1 + int((self.probabilities.cumsum(0) < 1 - _DOUBTFUL).sum())
        failures = [f"the method failed at {self.failed} more, which are left out"] if self.failed else []
        return [
            f"{self.tried} explanations tried, {most} of them with 95 % of the probability, the best with "
            f"{self.probabilities[0]:.3f}",
            *failures,
            f"{self.draws} draws worth {self.effective_sample_size:.0f} independent ones",
            f"log evidence of the explanations tried {self.log_evidence:.2f} nats",
        ]


def _odds(value: Any, name: str) -> float:
    if number(value, name) < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}")
    return value


class OccamsWindow(Answer):
    """The posterior of a model with discrete sites that have too many values to be summed out, by a search over them.

    It serves models of which few explanations are probable and each determines the rest well: variable selection,
    numbers and kinds of objects, terms of a formula. An explanation that the search never meets, because all those
    between it and others are improbable, is missing from the posterior, and ``log_evidence`` is that of the
    explanations that were tried: a lower bound but for the noise of each. So begin from explanations that differ, such
    as draws of an amortized posterior. Those at which ``method`` fails, as where the data have no density, are left out
    with a warning.

    Args:
        model: The Pyro model.
        sites: The names of the discrete sites whose values are searched, all latent ones if not given; others are left
            to ``method``, and :class:`~pyrogen.inverse.laplace.Laplace` sums them out.
        method: What gives the posterior of the other sites, and its evidence, once these have values: it is called with
            a model and, where values to start from are known, ``initial``, as ``partial(Laplace, draws=500)`` can be.
        neighbours: What comes next to an explanation: called with at most 16 of its draws by site, each ``(points,
            *shape)``, it gives values of this form for each explanation next to it, where things change places, say. By
            default those that differ in one number, which takes any other value in its range, or the next ones where
            that has no end.
        odds: By what factor the best explanation is more probable than those that are not looked around.
        begin: From how many explanations the search begins at most: the possible ones that are most
            frequent in ``initial``.
        most: How many explanations are tried at most.
        draws: How many draws there are in the end.
        initial: Values of latent sites, each ``(points, *shape)``, such as draws of an amortized posterior: of all that
            are searched, and of all continuous ones or none. Draws of the prior if not given.
        seed: Of all random numbers; torch's generator gives one if it is not given.

    Raises:
        ValueError: a number is out of range; by ``run``: the model has no discrete latent site or not those that are
            named, ``initial`` or ``neighbours`` has not their values, none of ``initial`` is possible, or explanations
            have not the same other sites.
        NotImplementedError: by ``run``: values of a discrete site are no integers, or the method has no evidence.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     chosen = pyro.sample("chosen", dist.Bernoulli(0.2).expand([4]).to_event(1))
        ...     weight = pyro.sample("weight", dist.Normal(torch.zeros(4), 3.0).to_event(1))
        ...     pyro.sample("y", dist.Normal(chosen * weight, 0.2).to_event(1), obs=y)
        >>> posterior = OccamsWindow(model, draws=200, seed=0).run(torch.tensor([3.0, 0.1, -2.0, 0.0]))
        >>> posterior.explanations[0].values
        {'chosen': tensor([1., 0., 1., 0.])}
        >>> posterior.get_samples()["chosen"].mean(0) > 0.9
        tensor([ True, False,  True, False])
    """

    @checked(method=function, neighbours=function, odds=_odds, begin=integer, most=integer)
    def __init__(
        self,
        model: Callable,
        *,
        sites: Sequence[str] | None = None,
        method: Callable[..., Answer] = Laplace,
        neighbours: Callable[[dict[str, Tensor]], Iterable[dict[str, Tensor]]] | None = None,
        odds: float = 20.0,
        begin: int = 4,
        most: int = 200,
        draws: int = 1000,
        initial: Mapping[str, Tensor] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(model)
        if initial is not None and not isinstance(initial, Mapping):
            raise TypeError(f"`initial` must be a dict of tensors by site, got {type(initial).__name__}")
        if isinstance(sites, str):
            raise TypeError(f"`sites` must be a sequence of names, got the name {sites!r}")
        self.sites, self.method, self.neighbours = sites, method, neighbours
        self.odds, self.begin, self.most, self.draws, self.seed = odds, begin, most, draws, seed
        self.initial = None if initial is None else starting_points(initial, "initial")
        self._explanations: tuple[Explanation, ...] = ()

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """All explanations that were tried, the most probable first."""
        return self._explanations

    @property
    def probabilities(self) -> Tensor:
        """Of the explanations, among all that were tried, ``(explanations,)``."""
        return self.diagnostics().probabilities

    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        with seeded(self.seed):
            search = Search(self.model, args, kwargs, self.method, self.sites, self.neighbours)
            search.begin(self.initial, min(self.begin, self.most))
            while (place := search.next(self.odds)) is not None and len(search.found) < self.most:
                search.look_around(place, self.most)
            found = tuple(sorted(search.found, key=lambda explanation: -explanation.log_joint))
            draws = _mixed(found, self.draws)
        self._explanations = found
        if search.failed:
            values, error = search.failed[0]
            warnings.warn(
                f"explanations are left out, as the method failed there: {len(search.failed)}, first {values}: {error}",
                UserWarning,
                stacklevel=3,
            )
        diagnostics = _diagnostics(found, self.draws, complete=place is None, failed=len(search.failed))
        log_evidence = torch.tensor(diagnostics.log_evidence)
        return Results(draws, diagnostics, log_weights=torch.zeros(self.draws), log_evidence=log_evidence)


def _mixed(explanations: Sequence[Explanation], count: int) -> dict[str, Tensor]:
    """Draws of all explanations, each with its probability."""
    parts = [explanation.draws for explanation in explanations]
    chosen = systematic(torch.cat([explanation.log_weights for explanation in explanations]), count=count)
    chosen = chosen[torch.randperm(count)]
    return {name: torch.cat([part[name] for part in parts])[chosen] for name in parts[0]}


def _diagnostics(
    explanations: Sequence[Explanation], draws: int, *, complete: bool, failed: int
) -> OccamsWindowDiagnostics:
    log_joint = torch.tensor([explanation.log_joint for explanation in explanations], dtype=torch.double)
    probabilities = log_joint.softmax(0)
    inner = [explanation.answer.diagnostics() for explanation in explanations]
    carried = torch.stack([found.carried.double().min() for found in inner])
    collapsed = torch.tensor([found.collapsed for found in inner])
    return OccamsWindowDiagnostics(
        draws=draws,
        effective_sample_size=min(draws, 1 / (probabilities.square() / carried).sum().item()),
        tried=len(explanations),
        failed=failed,
        probabilities=probabilities,
        doubtful=probabilities[collapsed].sum().item(),
        complete=complete,
        log_evidence=log_joint.logsumexp(0).item(),
    )
