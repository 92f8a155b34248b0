r"""Sequence SMC: the posterior of an autoregressive prior at a site of a Pyro program.

``constrained`` models and other rules that act symbol by symbol do not give it: they take each step as if nothing came
after. Particles do, since each is weighed by all of the program in the end, and before by what a twist knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of, integer, whole_share
from pyrogen.numerics.resampling import systematic, take
from pyrogen.training.progress import watched

from ..answer import Answer, Results
from .diagnostics import SequenceDiagnostics
from .filter import SequenceFilter
from .program import SequenceProgram
from .twist import PrefixTwist


class SequenceSMC(Answer):
    r"""The posterior of an autoregressive prior under any Pyro program, exact as particles are added.

    The program may score whole sequences in any way: by other sites, ``pyro.factor``, a parser, another model. What is
    known of prefixes comes as a ``twist``, which decides how few particles do, and never what the posterior is, as long
    as it excludes no beginning of a possible sequence. Without one, draws of the prior are weighed: enough for what is
    likely anyway.

    Sequences may end at different lengths, and begin with what is known (``given``, ``complete``). Plates hold
    independent problems, which run side by side. Other latent sites are drawn by the program, a value for each
    particle, so that few and mild ones do.

    Args:
        model: The Pyro model. Its distribution at ``site`` is that of an autoregressive model.
        site: The name of the latent site.
        particles: How many particles, a multiple of ``groups``.
        twist: What is known of prefixes: :class:`Admissible`, :class:`Lookahead`, :class:`LearnedTwist`, or a subclass
            of :class:`PrefixTwist`.
        groups: How many independent groups the particles form. Each gives an unbiased estimate of the evidence; their
            spread is its standard error.
        threshold: Resampling where the effective sample size of a group falls below this share of it.
        resample: Whether draws are resampled to equal weights in the end.

    Raises:
        ValueError: a number is out of range.
        NotImplementedError: by ``run``: the prior is not autoregressive, or in several orders or random ones.

    References:
        Lew, Zhi-Xuan, Grand and Mansinghka 2023, "Sequential Monte Carlo steering of large language models using
        probabilistic programs", https://arxiv.org/abs/2306.03081
        Zhao, Brekelmans, Makhzani and Grosse 2024, "Probabilistic inference in language models via twisted sequential
        Monte Carlo", https://arxiv.org/abs/2404.17546

    Example:
        >>> import pyro
        >>> from pyrogen.inverse import Admissible
        >>> prior = pg.autoregressive.transformer((4,), symbols=3, width=16, depth=1)
        >>> rule = Admissible(torch.tensor([True, False, True]))
        >>> def model():
        ...     x = pyro.sample("x", prior())
        ...     pyro.factor("rule", rule(x))
        >>> posterior = SequenceSMC(model, site="x", twist=rule, particles=64).run()
        >>> posterior.get_samples()["x"].shape, (posterior.get_samples()["x"] == 1).any().item()
        (torch.Size([64, 4]), False)
        >>> round(posterior.log_evidence.exp().item(), 4)  # (2 / 3) ** 4
        0.1975
    """

    @checked(twist=instance_of(PrefixTwist), groups=integer, threshold=whole_share)
    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        particles: int = 256,
        twist: PrefixTwist | None = None,
        groups: int = 4,
        threshold: float = 0.5,
        resample: bool = True,
    ) -> None:
        super().__init__(model, site=site)
        if particles % groups:
            raise ValueError(f"`particles` must be a multiple of `groups` = {groups}, got {particles}")
        self.particles, self.twist, self.groups = particles, twist or PrefixTwist(), groups
        self.threshold, self.resample = threshold, resample

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        program = SequenceProgram(self.model, args, kwargs, self.site)
        prior, before = program.start(self.particles)
        run = SequenceFilter(prior, self.twist, program.shape(self.particles), self.groups, self.threshold)
        with watched(unit="symbol") as bar:
            run.run(bar)
        before = {name: value[run.roots[:, 0]] for name, value in before.items()}
        scores, after = program.score({self.site: program.values(run.sequences()), **before})
        run.finish(scores)
        return self._results_of(program, run, before | after)

    def _results_of(self, program: SequenceProgram, run: SequenceFilter, others: dict[str, Tensor]) -> Results:
        weights, shape = run.log_weights, program.problems.shape
        by_group = weights.unflatten(0, (-1, self.groups))  # (K, G, N)
        evidence = run.log_evidence + by_group.logsumexp(0) - math.log(len(by_group))
        weights = (by_group + run.log_evidence).flatten(0, 1)
        chosen = self._chosen(weights)
        draws = take(run.sequences(), chosen)
        values = {self.site: program.values(draws)}
        values |= {name: value[chosen[:, 0]] for name, value in others.items()}
        diagnostics = SequenceDiagnostics.of(run, draws, take(run.roots, chosen), evidence, program.map.mapped)
        return Results(
            values,
            diagnostics,
            log_weights=torch.zeros(self.particles) if self.resample else weights.reshape(-1, *shape),
            log_evidence=diagnostics.log_evidence.to(torch.get_default_dtype()).reshape(shape),
        )

    def _chosen(self, log_weights: Tensor) -> Tensor:
        """Which particles are the draws, ``(P, N)``: equally weighted and in random order, if they are resampled."""
        if not self.resample:
            return torch.arange(self.particles, device=log_weights.device).unsqueeze(1).expand_as(log_weights)
        return systematic(log_weights)[torch.randperm(self.particles, device=log_weights.device)]
