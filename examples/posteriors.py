"""Posteriors one can trust: train two amortized guides, interrupt and resume, and find out which of them is wrong.

The model is a straight line through ten noisy points; intercept and slope are correlated in the posterior. One guide is
a conditional flow. The other is a diagonal normal, which cannot be correlated and so comes out too narrow. A bound by
itself does not show which is right; simulation-based calibration does.

    python examples/posteriors.py [--output output/demo] [--seed 0] [--steps 1500] [--device cpu]
"""

from __future__ import annotations

import argparse
import signal
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

POINTS, NOISE = 10, 0.3


class Line(nn.Module):
    """A straight line: standard normal intercept and slope, ten points between 0 and 1."""

    def __init__(self):
        super().__init__()
        self.register_buffer("design", torch.stack((torch.ones(POINTS), torch.linspace(0, 1, POINTS))))

    def forward(self, y=None, size=None):
        with pyro.plate("data", size or len(y)):
            line = pyro.sample("line", pg.distributions.UnitNormal((2,), self.design))
            return pyro.sample("y", dist.Normal(line @ self.design, NOISE).to_event(1), obs=y)

    @property
    def exact(self):
        """Evidence and posterior in closed form."""
        prior = dist.MultivariateNormal(self.design.new_zeros(2), torch.eye(2).to(self.design))
        return pg.inverse.LinearGaussianSystem(prior, self.design.T, NOISE)


class Guide(nn.Module):
    """An amortized guide: a conditional distribution of the line given the points."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, y):
        with pyro.plate("data", len(y)):
            pyro.sample("line", self.module(y))


def flow_guide() -> Guide:
    return Guide(pg.flows.affine_coupling((2,), (POINTS,), layers=4, hidden=(32, 32), standardize=False))


def diagonal_guide() -> Guide:
    network = nn.Sequential(nn.Linear(POINTS, 32), nn.Tanh(), nn.Linear(32, 4))
    return Guide(pg.Parametric(network, pg.families.diagonal_normal, event_shape=(2,), context_shape=(POINTS,)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)
    model = Line().to(options.device)
    with torch.no_grad():
        simulated = model(size=20_000)

    print("1. Train a flow guide, interrupt it half-way, resume, and compare with a run that was left alone")
    flow = trained(options, model, flow_guide)
    path, half = options.output / "run.safetensors", options.steps // 2
    path.unlink(missing_ok=True)

    def press_ctrl_c(progress: pg.Progress) -> None:
        if progress.step == half:
            signal.raise_signal(signal.SIGINT)

    try:
        trained(options, model, flow_guide, checkpoint=path, callbacks=[press_ctrl_c])
    except KeyboardInterrupt:
        print(f"   interrupted at step {half}; the run is in {path.name}")
    resumed = trained(options, model, flow_guide, checkpoint=path, callbacks=[lambda progress: None])
    pairs = zip(flow.state_dict().values(), resumed.state_dict().values(), strict=True)
    print(f"   every weight equal to the last bit: {all(torch.equal(a, b) for a, b in pairs)}")

    print("\n2. The evidence lower bounds of both guides, nats per data set, beside the exact log-evidence")
    guides = {"flow": flow, "diagonal": trained(options, model, diagonal_guide)}
    with torch.no_grad():
        bounds = {name: -pg.Elbo(model, guide)(simulated) for name, guide in guides.items()}
    evidence = model.exact.marginal.log_prob(simulated).mean()
    print(f"   exact {evidence:.3f}" + "".join(f"   {name} {bound:.3f}" for name, bound in bounds.items()))

    print("\n3. Simulation-based calibration: ranks of the truth among 99 draws, 1,000 simulations")
    ranks = {}
    for name, guide in guides.items():
        posterior = pg.evaluation.Amortized(guide, ["y"])
        calibration = pg.evaluation.simulation_based_calibration(model, posterior, observed=["y"])
        ranks.update({f"{name}: {quantity}": values for quantity, values in calibration.ranks.items()})
        print(f"   {name:<10}{calibration.test()}")
    pg.analysis.rank_histogram(ranks, 99).savefig(options.output / "calibration.png", dpi=150, bbox_inches="tight")

    print("\n4. One data set, intercept and slope: NUTS and both guides through ArviZ, and the exact posterior")
    y = simulated[:1]
    mcmc = MCMC(NUTS(model), num_samples=600, warmup_steps=200, disable_progbar=True)
    mcmc.run(y)
    to_arviz = partial(pg.analysis.to_arviz, model=model, draws=2000, log_likelihood=False)
    posteriors = {name: to_arviz(posterior, y) for name, posterior in {"NUTS": mcmc, **guides}.items()}
    summarize(posteriors, model.exact.posterior(y))


def trained(options: argparse.Namespace, model: Line, make_guide, **arguments) -> Guide:
    """A guide trained on data simulated from the model, the same way each time."""
    pyro.set_rng_seed(options.seed)
    guide = make_guide().to(options.device)
    with torch.no_grad():
        simulated = model(size=20_000)
    adam, schedule = partial(torch.optim.Adam, lr=3e-3, fused=True), partial(CosineAnnealingLR, T_max=options.steps)
    settings = {"batch_size": 256, "optimizer": adam, "schedule": schedule, "seed": options.seed}
    pg.fit(pg.Elbo(model, guide), simulated, steps=options.steps, **settings, **arguments)
    return guide


def summarize(posteriors: dict, exact: dist.MultivariateNormal) -> None:
    import arviz

    for name, posterior in posteriors.items():
        table = arviz.summary(posterior, kind="stats")
        moments = zip(table["mean"], table["sd"], strict=True)
        print(f"   {name:<10}" + "   ".join(f"{mean:.3f} ± {scale:.3f}" for mean, scale in moments))
    moments = zip(exact.mean[0].tolist(), exact.variance[0].sqrt().tolist(), strict=True)
    print(f"   {'exact':<10}" + "   ".join(f"{mean:.3f} ± {scale:.3f}" for mean, scale in moments))


if __name__ == "__main__":
    main()
