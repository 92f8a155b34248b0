r"""Laplace's approximation, corrected by importance weights.

Around its mode :math:`\hat x` a posterior of few unknowns that the data determine well is nearly Gaussian. In
unconstrained coordinates, with :math:`\Lambda = -\nabla^2 \log p(\hat x, y)`,

.. math:: p(x \mid y) \approx \mathcal{N}(x; \hat x, \Lambda^{-1}), \qquad
          \log p(y) \approx \log p(\hat x, y) + \tfrac{D}{2} \log 2 \pi - \tfrac12 \log |\Lambda| .

Draws of a Student distribution of this location and shape, whose tails are heavier than a Gaussian's, are weighted by
the joint density over their own. The weights make them draws of the posterior, their mean is an estimate of the
evidence without bias, and the Pareto :math:`\hat k` of their tail says whether there are enough of them.

References:
    Tierney and Kadane 1986, "Accurate approximations for posterior moments and marginal densities",
    https://doi.org/10.1080/01621459.1986.10478240
    Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling",
    https://jmlr.org/papers/v25/19-556.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.infer.autoguide.initialization import init_to_sample
from torch import Tensor

from pyrogen.arguments import checked, integer, positive, switch
from pyrogen.core.density import density_of
from pyrogen.numerics.markov.state import evaluate
from pyrogen.numerics.pareto import pareto_shape
from pyrogen.numerics.randomness import seeded
from pyrogen.numerics.resampling import effective_sample_size, systematic

from .answer import Answer, Diagnostics, Results
from .free_sites import started, starting_points
from .latent_density import LatentDensity
from .noise import constant

_STARTS = 16
_FLAT = 1e-2  # the least curvature that is believed, in coordinates whose prior has a spread of about one
_TRUSTED = 0.7  # Pareto k-hat


@dataclass(frozen=True)
class LaplaceDiagnostics(Diagnostics):
    """How nearly Gaussian the posterior is.

    Attributes:
        draws: How many draws were weighted.
        effective_sample_size: How many equally weighted ones they are worth.
        pareto_k: The Pareto k-hat of their weights.
        log_evidence: The logarithm of the average weight, in nats.
        approximation: The evidence that the mode and the curvature there give, in nats.
        concave: Whether the density is concave at the point that was found; where it is not, that is no mode, and
            directions have the absolute values of their curvatures.
    """

    advice: ClassVar[str] = "start nearer to a mode, or use ManyChains"

    draws: int
    effective_sample_size: float
    pareto_k: float
    log_evidence: float
    approximation: float
    concave: bool

    @property
    def carried(self) -> Tensor:
        return torch.tensor(self.effective_sample_size)

    @property
    def contradicted(self) -> Tensor:
        return torch.tensor(not self.pareto_k <= _TRUSTED)

    @property
    def reason(self) -> str:
        return "the posterior is far from Gaussian"

    def numbers(self) -> dict[str, Any]:
        names = ("effective_sample_size", "pareto_k", "log_evidence", "approximation", "concave")
        return {name: vars(self)[name] for name in names}

    def lines(self) -> list[str]:
        return [
            f"{self.draws} draws about {'the mode' if self.concave else 'a point that is no mode'} worth "
            f"{self.effective_sample_size:.0f}, Pareto k-hat {self.pareto_k:.2f}",
            f"log evidence {self.log_evidence:.2f} nats, by mode and curvature alone {self.approximation:.2f} nats",
        ]


class Laplace(Answer):
    r"""The posterior near one mode: Laplace's approximation, its draws weighted by the true joint density.

    It takes a hundred gradients and one Hessian, and serves posteriors of tens of unknowns with one mode that matters,
    as of one explanation among several: the evidences of models, or of one model under several conditions, compare
    these. Sites of constrained support are functions of unconstrained coordinates; discrete sites are summed out, and
    drawn in the end.

    Args:
        model: The Pyro model.
        draws: How many draws are weighted.
        degrees: Of freedom of the Student distribution that they come from.
        steps: How many steps L-BFGS takes at most on its way to the mode.
        initial: Where it starts: the likeliest of 16 points that one of Pyro's strategies gives, by default draws of
            the prior, or of values of the continuous latent sites, each ``(points, *shape)``, such as draws of an
            amortized posterior.
        resample: Whether the draws are resampled to equal weights in the end.
        seed: Of all random numbers; torch's generator gives one if it is not given.

    Example:
        >>> import pyro
        >>> def model(y):
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(x, 1.0), obs=y)
        >>> posterior = Laplace(model, seed=0).run(torch.tensor(1.0))
        >>> round(posterior.log_evidence.item(), 1), round(posterior.diagnostics().approximation, 2)
        (-1.5, -1.52)
    """

    no_evidence = "a site has a density that is known up to a constant only, and so is the evidence"

    @checked(draws=partial(integer, least=25), degrees=positive, initial=starting_points, resample=switch)
    def __init__(
        self,
        model: Callable,
        *,
        draws: int = 1000,
        degrees: float = 10.0,
        steps: int = 100,
        initial: Callable | Mapping[str, Tensor] = init_to_sample,
        resample: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(model)
        self.draws, self.degrees, self.steps = draws, degrees, steps
        self.initial, self.resample, self.seed = initial, resample, seed

    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        with seeded(self.seed), constant(started(self.model, self.initial), args, kwargs):
            density = LatentDensity(self.model, args, kwargs, self.initial)
            start, spread = self._start(density), self._spread(density)

            def scaled(x: Tensor) -> Tensor:
                """The log-density in coordinates whose prior has a spread of about one."""
                return density(x * spread) + spread.log().sum()

            mode = self._mode(scaled, start / spread)
            curvatures, directions = torch.linalg.eigh(-_hessian(scaled, mode).double())
            curvature = curvatures.abs().clamp(min=_FLAT)
            root = torch.linalg.cholesky(directions / curvature @ directions.T)
            proposal = dist.MultivariateStudentT(self.degrees, mode.double(), root)
            x = proposal.sample((self.draws,))
            log_weights = _numbers(scaled, x.to(mode.dtype)) - proposal.log_prob(x)
            evidence = log_weights.logsumexp(0) - math.log(self.draws)
            volume = len(mode) * math.log(2 * math.pi) - curvature.log().sum()
            diagnostics = LaplaceDiagnostics(
                draws=self.draws,
                effective_sample_size=effective_sample_size(log_weights).item(),
                pareto_k=float(pareto_shape(log_weights[None].numpy(force=True))[0]),
                log_evidence=evidence.item(),
                approximation=_numbers(scaled, mode.unsqueeze(0)).item() + 0.5 * volume.item(),
                concave=bool((curvatures > 0).all()),
            )
            if self.resample:
                chosen = systematic(log_weights)
                x, log_weights = x[chosen[torch.randperm(self.draws)]], torch.zeros_like(log_weights)
            normalized = all(density_of(site.distribution) != "unnormalized" for site in density.statements.values())
            draws = density.completed(x.to(mode.dtype) * spread)
        return Results(draws, diagnostics, log_weights=log_weights, log_evidence=evidence if normalized else None)

    def _start(self, density: LatentDensity) -> Tensor:
        """The likeliest of the points to start from, ``(size,)``."""
        points = self._given(density) if isinstance(self.initial, Mapping) else density.initial(_STARTS)
        log_density = evaluate(density, points).log_density.reshape(-1)
        best = int(log_density.argmax())
        if not log_density[best].isfinite():
            raise ValueError(
                f"`model` must have a finite density and gradient where it starts, got none at {len(points)} points, "
                f"by the sites {density.blamed(points[best])}; give `initial` values"
            )
        return points[best]

    def _spread(self, density: LatentDensity) -> Tensor:
        """How far apart draws of the prior lie in each coordinate, ``(size,)``: one where it cannot be drawn."""
        try:
            points = LatentDensity(self.model, density.args, density.kwargs).initial(_STARTS)
        except NotImplementedError:
            points = density.initial(1)
        low, high = torch.quantile(points, points.new_tensor([0.25, 0.75]), dim=0)
        spread = (high - low) / 1.35  # of a normal one, its standard deviation
        return torch.where((spread > 0) & spread.isfinite(), spread, 1.0)

    def _given(self, density: LatentDensity) -> Tensor:
        shapes = {name: tuple(shape) for name, shape in density.shapes.items()}
        found = {name: tuple(value.shape) for name, value in self.initial.items()}
        counts = {shape[0] for shape in found.values()}
        if {name: shape[1:] for name, shape in found.items()} != shapes or len(counts) > 1:
            raise ValueError(
                f"`initial` must hold equally many values of the continuous latent sites {shapes}, got {found}"
            )
        return density.packed(self.initial)

    def _mode(self, density: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        """The highest point on the way, which climbs a bowl about the highest so far where there is no density."""
        x = start.detach().clone().requires_grad_()
        optimizer = torch.optim.LBFGS([x], max_iter=self.steps, line_search_fn="strong_wolfe")
        best, least = start, torch.tensor(torch.inf)

        def loss() -> Tensor:
            nonlocal best, least
            value = -density(x.unsqueeze(0)).sum()
            (x.grad,) = torch.autograd.grad(value, x)
            if not value.isfinite() or not x.grad.isfinite().all():
                away = x.detach() - best
                x.grad = 2 * away
                return least + 1 + away.square().sum()
            if value < least:
                best, least = x.detach().clone(), value.detach()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        return best


@torch.no_grad()
def _numbers(density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The density of points in double precision, minus infinity where there is none."""
    return density(x).reshape(len(x)).double().nan_to_num(nan=-torch.inf)


def _hessian(density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        found = torch.autograd.functional.hessian(lambda point: density(point.unsqueeze(0)).sum(), x)
    if not found.isfinite().all():
        raise ValueError("`model` must have finite second derivatives at its mode, got some that are not")
    return 0.5 * (found + found.T)
