"""The programs of ``benchmarks/simulation.py`` are what their paper says, and its sampler is right."""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pyro
import torch
from torch import Tensor

import pyrogen as pg
from pyrogen.simulation import Joint


def _loaded(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    found = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # for its dataclasses
    found.loader.exec_module(module)
    return module


tasks, sampling = _loaded("simulation_tasks"), _loaded("simulation_sampling")


def _simulated(program: object, theta: Tensor, n: int, nuisance: tuple[str, ...] = ()) -> Tensor:
    joint = Joint(program, observed="x", nuisance=nuisance)
    return joint.simulate({"theta": theta.expand(n, -1)}, seed=0, progress=False).observed["x"]


def _log_prob(program: object, theta: Tensor, x: Tensor) -> Tensor:
    conditioned = pyro.poutine.condition(program, {"theta": theta})
    return pyro.poutine.trace(conditioned).get_trace(x).log_prob_sum()


def test_two_moons_are_arcs_of_a_tenth_around_a_shift_that_a_reflection_leaves() -> None:
    theta = torch.tensor([0.3, 0.5])
    x = _simulated(tasks.two_moons, theta, 4000, ("angle", "radius"))
    shift = torch.tensor([-0.8, 0.2]) / math.sqrt(2)
    arc = x - shift - torch.tensor([0.25, 0.0])
    assert (arc[:, 0] > 0).all()
    torch.testing.assert_close(arc.norm(dim=-1).mean(), torch.tensor(0.1), atol=1e-3, rtol=0)
    torch.testing.assert_close(arc.mean(0), torch.tensor([0.2 / math.pi, 0.0]), atol=5e-3, rtol=0)
    reflected = _simulated(tasks.two_moons, -theta.flip(0), 4000, ("angle", "radius"))
    torch.testing.assert_close(reflected, x)


def test_slcp_has_four_points_of_a_gaussian_and_four_symmetries() -> None:
    theta = torch.tensor([0.5, -1.0, -1.2, 0.8, 0.6])
    points = _simulated(tasks.slcp, theta, 20_000).flatten(0, 1)
    first, second = 1.2**2, 0.8**2
    across = math.tanh(0.6) * first * second
    expected = torch.tensor([[first**2, across], [across, second**2]])
    torch.testing.assert_close(points.mean(0), theta[:2], atol=0.02, rtol=0)
    torch.testing.assert_close(points.T.cov(), expected, atol=0.04, rtol=0)
    twin = theta * torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    torch.testing.assert_close(_log_prob(tasks.slcp, twin, points[:4]), _log_prob(tasks.slcp, theta, points[:4]))


def test_the_two_gaussians_of_the_mixture_have_deviations_one_and_a_tenth() -> None:
    theta, n = torch.tensor([3.0, -2.0]), 20_000
    away = _simulated(tasks.gaussian_mixture, theta, n) - theta
    fourth = 3 * (1 + 1e-4) / 2
    torch.testing.assert_close(away.square().mean(0), torch.full((2,), 1.01 / 2), atol=0.03, rtol=0)
    torch.testing.assert_close(away.pow(4).mean(0), torch.full((2,), fourth), atol=0.2, rtol=0)
    narrow = (away.abs() < 0.4).all(-1).float().mean()  # one scale for both elements: half, and a little of the wide
    torch.testing.assert_close(narrow, torch.tensor(0.5 + 0.5 * math.erf(0.4 / math.sqrt(2)) ** 2), atol=0.02, rtol=0)


def test_the_neuron_gives_sufficient_statistics_under_a_smooth_prior() -> None:
    design = torch.cat([torch.ones(40, 1), torch.randn(40, 9, generator=torch.Generator().manual_seed(0))], -1)
    program, theta = partial(tasks.bernoulli_glm, design=design), torch.linspace(-0.5, 0.5, 10)
    x = _simulated(program, theta, 20_000, ("spikes",))
    rate = torch.sigmoid(design @ theta)
    torch.testing.assert_close(x.mean(0), rate @ design, atol=0.12, rtol=0)
    torch.testing.assert_close(x.T.cov(), design.T @ (rate * (1 - rate)).diag() @ design, atol=0.5, rtol=0)
    precision = tasks.smoothness()
    weights = theta[1:]
    before = torch.nn.functional.pad(weights, (2, 0))
    rough = weights - 2 * before[1:-1] + before[:-2] + (torch.arange(9.0) / 9).sqrt() * weights
    torch.testing.assert_close(theta @ precision @ theta, 0.5 * theta[0].square() + rough.square().sum())


def test_predators_and_prey_keep_what_lotka_and_volterra_say_they_keep() -> None:
    theta = torch.tensor([[0.7, 0.1, 0.9, 0.12], [0.5, 0.02, 0.8, 0.02]])
    growth, predation, death, gain = theta.unsqueeze(1).unbind(-1)
    prey, predators = tasks.populations(theta).unflatten(-1, (2, 10)).unbind(1)
    kept = gain * prey - death * prey.log() + predation * predators - growth * predators.log()
    torch.testing.assert_close(kept, kept[:, :1].expand_as(kept), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prey[:, 0], torch.full((2,), 30.0))
    torch.testing.assert_close(tasks.populations(theta, steps=42), tasks.populations(theta), rtol=1e-3, atol=1e-3)


def test_particles_of_the_linear_gaussian_task_reach_its_posterior() -> None:
    joint = Joint(tasks.gaussian_linear, observed="x")
    x = joint.draw(1, seed=3, progress=False).observed["x"][0]
    torch.manual_seed(0)
    draws = sampling.tempered_draws(joint, tasks.gaussian_linear, x, 2000)
    deviation = math.sqrt(0.05)
    torch.testing.assert_close(draws.mean(0), x / 2, atol=5 * deviation / math.sqrt(1000), rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full((10,), deviation), atol=0.02, rtol=0)


def test_a_likelihood_learns_a_site_whose_distribution_is_a_mixture() -> None:
    joint = Joint(tasks.gaussian_mixture, observed="x")
    learned = pg.simulation.likelihood(joint)
    pg.fit(learned, joint.draw(100, seed=0, progress=False), steps=2, seed=0)
    assert learned(torch.zeros(3, 2)).log_prob(torch.zeros(3, 2)).isfinite().all()
    assert learned(torch.zeros(3, 2)).sample().shape == (3, 2)
