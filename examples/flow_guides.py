"""Flow guides for models that a normal guide and plain NUTS get wrong: Neal's funnel, and the eight schools.

For each model: Pyro's AutoNormal and our AutoFlow, judged by the ELBO and by the Pareto k-hat of their importance
weights; then NUTS in the model's own coordinates and in those of the flow (NeuTra). The figure shows where the draws of
each went.

    python examples/flow_guides.py [--output output/demo] [--seed 0] [--steps 1500] [--draws 200] [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import NeuTraReparam
from pyro.ops.stats import effective_sample_size

import pyrogen as pg


class Funnel:
    """Neal's funnel: a normal log-variance, and nine normals of that variance. Its evidence is one."""

    log_evidence, leading, hard, easy = 0.0, 1, "neck", "x"

    def __init__(self, device):
        self.scale = torch.tensor(3.0, device=device)

    def __call__(self):
        neck = pyro.sample("neck", dist.Normal(0 * self.scale, self.scale))
        with pyro.plate("elements", 9):
            pyro.sample("x", dist.Normal(0, (neck / 2).exp()))
        pyro.factor("data", torch.zeros_like(neck))  # there are none

    def summary(self, samples):
        return f"{samples['neck'].mean():.2f} ± {samples['neck'].std():.2f} (exactly 0 ± 3)"


class EightSchools:
    """The eight schools of Rubin 1981: effects of coaching, whose spread is hardly known. Evidence by quadrature."""

    log_evidence, leading, hard, easy = -31.311, 2, "spread", "school"

    def __init__(self, device):
        self.effect = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], device=device)
        self.error = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], device=device)

    def __call__(self):
        mean = pyro.sample("mean", dist.Normal(self.effect.new_zeros(()), 5.0))
        spread = pyro.sample("spread", dist.HalfCauchy(self.effect.new_tensor(5.0)))
        with pyro.plate("schools", len(self.effect)):
            school = pyro.sample("school", dist.Normal(mean, spread))
            pyro.sample("y", dist.Normal(school, self.error), obs=self.effect)

    def summary(self, samples):
        low, middle, high = samples["spread"].quantile(samples["spread"].new_tensor([0.05, 0.5, 0.95]))
        return f"{middle:.1f} (90 %: {low:.2f} to {high:.1f})"


def recipe(shape, leading: int):
    """Each element looks at the leading ones before it; draws take one pass; Student noise covers the tails."""
    (size,) = shape
    dependence = [[column < min(leading, row) for column in range(size)] for row in range(size)]
    settings = {"layers": 2, "hidden": (32, 32), "fast_sampling": True, "base": pg.flows.StudentT(shape)}
    return pg.flows.affine_autoregressive(shape, dependence=dependence, **settings)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    for name, default in {"seed": 0, "steps": 1500, "draws": 200}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    drawn = {}
    for model in (Funnel(options.device), EightSchools(options.device)):
        print(f"{type(model).__name__}: log evidence {model.log_evidence}")
        flow_guide = pg.flows.AutoFlow(model, partial(recipe, leading=model.leading), init_scale=1.0)
        for name, guide in (("AutoNormal", AutoNormal(model)), ("AutoFlow", flow_guide)):
            pyro.set_rng_seed(options.seed)
            seconds = train(model, guide, options.steps)
            elbo, k, share = judge(model, guide)
            print(f"   {name:<11}ELBO {elbo:.2f}, k-hat {k:.2f}, effective draws {share:.1%}, {seconds:.0f} s")
            drawn[model, name] = Predictive(guide, num_samples=2 * options.draws)()
        neutra = NeuTraReparam(flow_guide.requires_grad_(False))
        coordinates = {"NUTS": (model, dict), "NeuTra": (neutra.reparam(model), partial(from_noise, neutra))}
        for name, (program, back) in coordinates.items():
            pyro.set_rng_seed(options.seed)
            drawn[model, name], size, divergences, seconds = walk(model, program, back, options.draws)
            print(f"   {name:<11}{model.hard} {model.summary(drawn[model, name])}; {2 * options.draws} draws, ", end="")
            print(f"{divergences} divergences, ESS({model.hard}) {size:.0f}, {seconds:.0f} s")
    pictured(drawn).savefig(options.output / "flow_guides.png", dpi=150)


def train(model, guide, steps: int) -> float:
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)(model, guide)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    return pg.fit(elbo, (), steps=steps, lr=1e-2, schedule=schedule, clip=10.0).history.seconds


def judge(model, guide, draws: int = 100_000) -> tuple[float, float, float]:
    """The ELBO, k-hat, and the share of the draws that the weights leave."""
    options = {"draws": draws, "whole": True, "batch_size": 20_000}  # the data are one datum: the latents are global
    elbo = pg.evaluation.importance_log_weights(model, guide, **options).mean().item()
    k = pg.evaluation.pareto_k(model, guide, **options)
    return elbo, k.values.item(), k.effective_sample_size.item() / draws


def from_noise(neutra, samples):
    """The latent sites of draws in the flow's noise, whose batch goes to the left of the plate."""
    (noise,) = samples.values()
    return {name: value.squeeze(-1) for name, value in neutra.transform_sample(noise.unsqueeze(-2)).items()}


def walk(model, program, back, draws: int, chains: int = 2) -> tuple[dict[str, torch.Tensor], float, int, float]:
    """The draws of all chains, how many the hard coordinate's are worth, divergences and seconds."""
    parts, divergences, start = [], 0, time.process_time()
    for _ in range(chains):
        mcmc = MCMC(NUTS(program), draws, warmup_steps=draws // 2, disable_progbar=True)
        mcmc.run()
        divergences += len(mcmc.diagnostics()["divergences"]["chain 0"])
        parts.append(back(mcmc.get_samples()))
    size = effective_sample_size(torch.stack([part[model.hard] for part in parts])).item()
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return together, size, divergences, time.process_time() - start


def pictured(drawn) -> plt.Figure:
    """The draws of each way in a plane of the hard coordinate, a row for each model."""
    figure, rows = plt.subplots(2, 4, figsize=(10, 5.2), sharex="row", sharey="row", layout="constrained")
    for axes, ((model, name), samples) in zip(rows.flat, drawn.items(), strict=True):
        axes.plot(samples[model.easy][..., 0].cpu(), samples[model.hard].cpu(), ".", markersize=3, alpha=0.5)
        axes.set(title=f"{type(model).__name__}: {name}", xlabel=f"{model.easy}[0]", ylabel=model.hard)
    rows[0, 0].set_xlim(-15, 15)  # a wide neck is up to 1,000 wide
    rows[1, 0].set_yscale("log")
    return figure


if __name__ == "__main__":
    main()
