"""``TwistedSMC`` with likelihoods that are not Gaussian, of one unknown, beside quadrature.

The prior is a standard normal or a mixture of three, whose denoisers are exact; each likelihood has two measurements
simulated under each. The table has the least and the largest error of the log evidence in nats, and how many of the
runs are reported as collapsed, with the twist of the defaults and with Laplace's approximation.

    python benchmarks/inverse_quadrature.py [--particles 1000] [--steps 50] [--table FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import table
from torch import Tensor

from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
from pyrogen.inverse import Averaged, MomentMatched, Twist, TwistedSMC

Likelihood = Callable[[Tensor], dist.TorchDistribution]


def either(x: Tensor) -> dist.TorchDistribution:
    """One of two values, with noise of 0.3."""
    places = torch.stack((x - 2, x + 2), -1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(places, 0.3))


LIKELIHOODS: dict[str, Likelihood] = {
    "Poisson, rate $e^{2x + 1}$": lambda x: dist.Poisson((2 * x + 1).exp()),
    "Laplace, scale 0.1": lambda x: dist.Laplace(x, 0.1),
    "$x - 2$ or $x + 2$, noise 0.3": either,
    "$x^3$, noise 0.5": lambda x: dist.Normal(x**3, 0.5),
    "$x^2$, noise 0.2": lambda x: dist.Normal(x**2, 0.2),
    "$\\tanh 3 x$, noise 0.05": lambda x: dist.Normal((3 * x).tanh(), 0.05),
}


def priors() -> list[dist.TorchDistribution]:
    """A standard normal, and a mixture of three normals."""
    normal = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    places = dist.Normal(torch.tensor([[-2.0], [0.0], [1.5]]), 0.4).to_event(1)
    return [normal, dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.3, 0.3, 0.4])), places)]


def evidence(prior: dist.TorchDistribution, likelihood: Likelihood, y: Tensor) -> float:
    """The log evidence by a sum over a grid."""
    grid = torch.linspace(-8, 8, 32_001)
    log_joint = prior.log_prob(grid.unsqueeze(-1)) + likelihood(grid).log_prob(y)
    return (log_joint.double().logsumexp(0) + (grid[1] - grid[0]).double().log()).item()


def error(prior: dist.TorchDistribution, likelihood: Likelihood, twist: Twist, seed: int, smc: dict) -> tuple:
    """How far the log evidence is off, and whether the run is reported as collapsed."""
    pyro.set_rng_seed(seed)
    y = likelihood(prior.sample().squeeze(-1)).sample()

    def model(y: Tensor) -> None:
        x = pyro.sample("x", Diffusion(GaussianMixtureDenoiser(prior, LinearVP()))())
        pyro.sample("y", likelihood(x.squeeze(-1)), obs=y)

    answer = TwistedSMC(model, site="x", twist=twist, **smc).run(y)
    off = answer.log_evidence.item() - evidence(prior, likelihood, y)
    return abs(off), bool(answer.diagnostics().collapsed)


def summary(likelihood: Likelihood, twist: Twist, options: argparse.Namespace) -> str:
    """The range of errors, and how many runs collapsed."""
    smc = {"particles": options.particles, "steps": options.steps}
    found = [error(prior, likelihood, twist, seed, smc) for prior in priors() for seed in range(options.seeds)]
    errors, collapsed = zip(*found, strict=True)
    flagged = f", {sum(collapsed)} of {len(found)} COLLAPSED" if any(collapsed) else ""
    return f"{min(errors):.2f} to {max(errors):.2f}{flagged}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2, help="measurements under each prior")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name, likelihood in LIKELIHOODS.items():
        rows.append([name, *(summary(likelihood, twist, options) for twist in (MomentMatched(), Averaged()))])
        print(*rows[-1], flush=True)
    table(["likelihood", "`MomentMatched`", "`Averaged`"], rows, options.table)


if __name__ == "__main__":
    main()
