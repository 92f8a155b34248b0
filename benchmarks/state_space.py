"""What a step of a deep Markov model costs beside the same step written by hand, and beside a Pyro site at each step.

Sequences of 60 steps of 88 binary numbers, latents of size 32, layers of 100 units, batch 20; one thread. All three
have the same networks: a gated transition, a recurrent network from the end, messages that meet the transition. By hand
the transition runs once, in the loop, and observations are scored after it, in one pass; the program with sites is
written as Pyro's own example of a deep Markov model is. They take turns; the figures are medians of process time.

    python benchmarks/state_space.py [--rounds 9] [--steps 5] [--table FILE]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO
from results_file import table
from torch import nn

from pyrogen import latent

LENGTH, NOTES, STATES, WIDTH, BATCH = 60, 88, 32, 100, 20


class Handwritten(nn.Module):
    """The bound of a model's parts, as one would write it without a library."""

    def __init__(self, model):
        super().__init__()
        self.parts = nn.ModuleDict({"prior": model.prior, "likelihood": model.likelihood, "posterior": model.posterior})

    def messages(self, x):
        network = self.parts["posterior"].network
        features = torch.cat([x, torch.ones_like(x)], -1).flip(1)
        loc, log_scale = network.out(network.future(features)[0].flip(1)).chunk(2, -1)
        precision = (-20 * torch.tanh(log_scale / 10)).exp()
        return loc, precision

    def forward(self, x):
        prior = self.parts["prior"]
        told, precision = self.messages(x)
        noise = torch.randn(BATCH, LENGTH, STATES)
        each = zip(told.unbind(1), precision.unbind(1), noise.unbind(1), strict=True)  # faster than indices
        loc, log_scale = prior.loc.expand(BATCH, -1), (10 * torch.tanh(prior.log_scale / 10)).expand(BATCH, -1)
        states, apart, ratios = [], [], []
        for message, weight, fresh in each:
            if states:
                loc, log_scale = prior.network(states[-1])
            variance = (2 * log_scale).exp()
            wider = variance * weight
            change = -0.5 * torch.log1p(wider)
            mean = loc + variance / (1 + wider) * weight * (message - loc)
            z = mean + (log_scale + change).exp() * fresh
            states.append(z)
            apart.append((z - loc) / log_scale.exp())
            ratios.append(change)
        log_ratio = (0.5 * (torch.stack(apart, 1).square() - noise.square()) - torch.stack(ratios, 1)).sum()
        logits = self.parts["likelihood"].network(torch.stack(states, 1))
        return (log_ratio + F.binary_cross_entropy_with_logits(logits, x, reduction="sum")) / BATCH


class Sites(Handwritten):
    """The same as a Pyro program with two sites at each step."""

    def model(self, x):
        pyro.module("parts", self)
        prior = self.parts["prior"]
        loc, log_scale = prior.loc.expand(BATCH, -1), (10 * torch.tanh(prior.log_scale / 10)).expand(BATCH, -1)
        with pyro.plate("data", BATCH):
            for step in range(LENGTH):
                z = pyro.sample(f"z_{step}", dist.Normal(loc, log_scale.exp()).to_event(1))
                logits = self.parts["likelihood"].network(z)
                pyro.sample(f"x_{step}", dist.Bernoulli(logits=logits).to_event(1), obs=x[:, step])
                loc, log_scale = prior.network(z)

    def guide(self, x):
        pyro.module("parts", self)
        prior = self.parts["prior"]
        told, precision = self.messages(x)
        loc, log_scale = prior.loc.expand(BATCH, -1), (10 * torch.tanh(prior.log_scale / 10)).expand(BATCH, -1)
        with pyro.plate("data", BATCH):
            for step in range(LENGTH):
                variance = (2 * log_scale).exp()
                wider = variance * precision[:, step]
                mean = loc + variance / (1 + wider) * precision[:, step] * (told[:, step] - loc)
                scale = (log_scale - 0.5 * torch.log1p(wider)).exp()
                z = pyro.sample(f"z_{step}", dist.Normal(mean, scale).to_event(1))
                loc, log_scale = prior.network(z)

    def forward(self, x):
        return Trace_ELBO().differentiable_loss(self.model, self.guide, x) / BATCH


def step(objective, optimizer, x):
    optimizer.zero_grad()
    objective(x).backward()
    optimizer.step()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    x = (torch.rand(BATCH, LENGTH, NOTES) < 0.1).float()
    model = latent.deep_markov((LENGTH, NOTES), latent_shape=STATES, binary=True, width=WIDTH, hidden=(WIDTH,))
    ways = {"`deep_markov`": model.objective(), "by hand": Handwritten(model), "a Pyro site at each step": Sites(model)}
    losses = {}
    for name, objective in ways.items():
        with torch.no_grad():
            losses[name] = statistics.mean(objective(x).item() for _ in range(20))
    if max(losses.values()) - min(losses.values()) > 0.01 * math.fabs(min(losses.values())):
        raise AssertionError(f"the three do not compute the same: {losses}")
    times = {name: [] for name in ways}
    optimizers = {name: torch.optim.Adam(objective.parameters(), 1e-4) for name, objective in ways.items()}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, objective in ways.items():
            began = time.process_time()
            for _ in range(options.steps):
                step(objective, optimizers[name], x)
            times[name].append((time.process_time() - began) / options.steps)
    rows = []
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in list(zip(own, times["by hand"], strict=True))[1:])
        rows.append([name, f"{1000 * statistics.median(own[1:]):.1f}", f"{ratio:.2f}"])
    table(["step", "ms", "times as long as by hand"], rows, options.table)


if __name__ == "__main__":
    main()
