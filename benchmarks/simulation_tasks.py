"""Tasks of the benchmark of simulation-based inference, as Pyro programs, and their observations and reference draws.

The programs follow appendix T of Lueckmann, Boelts, Greenberg, Goncalves and Macke 2021, "Benchmarking
simulation-based inference", https://arxiv.org/abs/2101.04653. Observations, 10,000 reference draws of each posterior
and the stimulus of the neuron are read from the wheel of their package, version 1.1.0 (MIT licence), which need not be
installed: ``pip download --no-deps sbibm==1.1.0``.
"""

from __future__ import annotations

import bz2
import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Program = Callable[..., object]


def two_moons(x: Tensor | None = None) -> None:
    """A posterior of two crescents: one arc for each sign of the sum of the parameters."""
    theta = pyro.sample("theta", dist.Uniform(-torch.ones(2), 1.0).to_event(1))
    angle = pyro.sample("angle", dist.Uniform(-math.pi / 2, math.pi / 2))
    radius = pyro.sample("radius", dist.Normal(0.1, 0.01))
    arc = torch.stack((radius * angle.cos() + 0.25, radius * angle.sin()), -1)
    first, second = theta.unbind(-1)
    shift = torch.stack((-(first + second).abs(), second - first), -1) / math.sqrt(2)
    pyro.sample("x", dist.Delta(arc + shift, event_dim=1), obs=x)


def slcp(x: Tensor | None = None) -> None:
    """Simple likelihood, complex posterior: four points of a Gaussian whose covariance has four symmetries."""
    theta = pyro.sample("theta", dist.Uniform(torch.full((5,), -3.0), 3.0).to_event(1))
    first, second, correlation = theta[..., 2].square(), theta[..., 3].square(), theta[..., 4].tanh()
    across = correlation * first * second
    rows = torch.stack((first.square() + 1e-6, across, across, second.square() + 1e-6), -1)
    with pyro.plate("points", 4):
        pyro.sample("x", dist.MultivariateNormal(theta[..., :2], rows.unflatten(-1, (2, 2))), obs=x)


def gaussian_linear(x: Tensor | None = None) -> None:
    """A Gaussian prior and Gaussian noise, both of variance 1/10: the posterior is N(x / 2, 1/20)."""
    scale = math.sqrt(0.1)
    theta = pyro.sample("theta", dist.Normal(torch.zeros(10), scale).to_event(1))
    pyro.sample("x", dist.Normal(theta, scale).to_event(1), obs=x)


def gaussian_mixture(x: Tensor | None = None) -> None:
    """A common mean of two Gaussians, a wide one and a narrow one."""
    theta = pyro.sample("theta", dist.Uniform(torch.full((2,), -10.0), 10.0).to_event(1))
    scales = theta.new_tensor([1.0, 0.1]).unsqueeze(-1)
    parts = dist.Normal(theta.unsqueeze(-2), scales).to_event(1)
    pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(theta.new_ones(2)), parts), obs=x)


def bernoulli_glm(x: Tensor | None = None, *, design: Tensor) -> None:
    """A neuron's spikes given a stimulus, under a prior of smooth filters; x are the sufficient statistics."""
    theta = pyro.sample("theta", dist.MultivariateNormal(torch.zeros(10), precision_matrix=smoothness()))
    spikes = pyro.sample("spikes", dist.Bernoulli(logits=theta @ design.T).to_event(1))
    pyro.sample("x", dist.Delta(spikes @ design, event_dim=1), obs=x)


def smoothness() -> Tensor:
    """Precision of the neuron's offset and nine filter weights, whose second differences are small."""
    differences = torch.eye(9) - torch.diag(torch.ones(8), -1)
    weights = differences @ differences + (torch.arange(9.0) / 9).sqrt().diag()
    return torch.block_diag(torch.tensor([[0.5]]), weights.T @ weights)


def lotka_volterra(x: Tensor | None = None) -> None:
    """Predators and prey at ten times, with log-normal noise; x has the ten counts of prey first."""
    loc = torch.tensor([-0.125, -3.0, -0.125, -3.0])
    theta = pyro.sample("theta", dist.LogNormal(loc, 0.5).to_event(1))
    counts = populations(theta).clamp(1e-10, 1e4)
    pyro.sample("x", dist.LogNormal(counts.log(), 0.1).to_event(1), obs=x)


def populations(theta: Tensor, steps: int = 84) -> Tensor:
    """Prey and predators at 0, 2.1, …, 18.9 days, ``(*batch, 20)``.

    Args:
        theta: Growth of prey, predation, death of predators and growth by predation, ``(*batch, 4)``.
        steps: Runge-Kutta steps (of fourth order, in logarithms) between two times.
    """
    growth, predation, death, gain = theta.unbind(-1)

    def slope(log: Tensor) -> Tensor:
        prey, predators = log.clamp(max=30.0).exp().unbind(0)
        return torch.stack((growth - predation * predators, gain * prey - death))

    step = 2.1 / steps
    log = torch.stack((torch.full_like(growth, math.log(30.0)), torch.zeros_like(growth)))
    found = [log]
    for index in range(9 * steps):
        first = slope(log)
        second = slope(log + step / 2 * first)
        third = slope(log + step / 2 * second)
        fourth = slope(log + step * third)
        log = log + step / 6 * (first + 2 * second + 2 * third + fourth)
        if (index + 1) % steps == 0:
            found.append(log)
    return torch.stack(found, -1).clamp(-30.0, 30.0).exp().movedim(0, -2).flatten(-2)


@dataclass(frozen=True)
class Task:
    """A program, what of it is summed out, the shape of its datum, and the wheel with its data."""

    name: str
    program: Program
    nuisance: tuple[str, ...]
    shape: tuple[int, ...]
    wheel: Path

    def observation(self, number: int) -> Tensor:
        """Observed datum ``number`` of ten, from 1."""
        return self._table(number, "observation.csv").reshape(self.shape)

    def reference(self, number: int) -> Tensor:
        """Draws of its posterior, ``(10000, D)``."""
        return self._table(number, "reference_posterior_samples.csv.bz2")

    def true(self, number: int) -> Tensor:
        """The parameters that it was simulated from, ``(D,)``."""
        return self._table(number, "true_parameters.csv").squeeze(0)

    def _table(self, number: int, name: str) -> Tensor:
        content = _read(self.wheel, self.name, f"num_observation_{number}/{name}")
        content = bz2.decompress(content) if name.endswith("bz2") else content
        return torch.tensor([[float(word) for word in line.split(",")] for line in content.decode().split()[1:]])


def task(name: str, wheel: Path) -> Task:
    """The task of this name."""
    programs = {
        "two_moons": (two_moons, ("angle", "radius"), (2,)),
        "slcp": (slcp, (), (4, 2)),
        "gaussian_linear": (gaussian_linear, (), (10,)),
        "gaussian_mixture": (gaussian_mixture, (), (2,)),
        "bernoulli_glm": (bernoulli_glm, ("spikes",), (10,)),
        "lotka_volterra": (lotka_volterra, (), (20,)),
    }
    program, nuisance, shape = programs[name]
    if name == "bernoulli_glm":
        design = torch.load(io.BytesIO(_read(wheel, name, "design_matrix.pt")), weights_only=True)
        program = partial(program, design=design)
    return Task(name, program, nuisance, shape, wheel)


def found_wheel() -> Path:
    """The wheel in the working directory."""
    return next(iter(Path().glob("sbibm-1.1.0-*.whl")), Path("sbibm-1.1.0-py2.py3-none-any.whl"))


def _read(wheel: Path, name: str, file: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"sbibm/tasks/{name}/files/{file}")
