"""A lesion put in: how probable is it, how many views are enough, and what does an unknown scanner cost?

Patients are drawn from a Gaussian fitted to made heads, so that every answer of tempered SMC stands beside the exact
one. Half of them get a lesion where a radiologist points; the evidences with and without it give its probability.
Before anyone is scanned, simulated patients show how wide posteriors will be for one dose, spread over few views or
many. Then the axis and the noise are unknown, and last photons are counted. With another prior, such as the diffusion
model of ``ct.py``, the programs are the same.

    python examples/lesion.py [--output output/lesion] [--seed 0] [--steps 2000] [--patients 20] [--particles 32]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrogen as pg
from pyrogen.data import phantoms
from pyrogen.inverse import LinearGaussianSystem, TemperedSMC
from pyrogen.operators import Radon

SIDE, VIEWS, NOISE = 16, 8, 0.4  # noise of a line integral, in pixels of water
SHAPE, CONTRAST = (1, SIDE, SIDE), 0.3
PHOTONS, WATER = 2e3, 0.15  # of a ray; attenuation of a pixel of water


def scanner(views: int = VIEWS, axis: float | Tensor = 0.0) -> Radon:
    return Radon(SHAPE, torch.arange(views) * math.pi / views, detectors=SIDE, offset=axis)


def exact(law: dist.MultivariateNormal, radon: Radon, noise: float | Tensor) -> LinearGaussianSystem:
    """Scans in closed form: the prior is Gaussian."""
    prior = dist.MultivariateNormal(law.mean.double(), law.covariance_matrix.double())
    rows = radon(torch.eye(SIDE**2).unflatten(-1, SHAPE)).flatten(1).T.double()
    return LinearGaussianSystem(prior, rows, noise)


def scanner_found(law: dist.MultivariateNormal, y: Tensor) -> dict[str, dist.Empirical]:
    """The posteriors of the axis and the noise in closed form, but for a sum over a grid."""
    axes, noises = torch.linspace(-1.5, 1.5, 151).double(), torch.linspace(-2, 1, 91).double().exp()
    heights = dist.Normal(0.0, 0.5).log_prob(axes).unsqueeze(-1) + dist.Normal(0.0, 1.0).log_prob(noises.log())
    for row, axis in zip(heights, axes, strict=True):
        row += exact(law, scanner(4, axis.float()), noises.unsqueeze(-1)).marginal.log_prob(y.flatten(1).double())
    return {"axis": dist.Empirical(axes, heights.logsumexp(1)), "noise": dist.Empirical(noises, heights.logsumexp(0))}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/lesion"))
    parser.add_argument("--steps", type=int, default=2000, help="heads that the prior is fitted to")
    for name, default in {"seed": 0, "patients": 20, "particles": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)
    heads = phantoms.heads(options.steps, seed=options.seed, side=SIDE).flatten(1)
    law = dist.MultivariateNormal(heads.mean(0), heads.T.cov() + 1e-3 * torch.eye(SIDE**2))
    prior = pg.diffusion.Diffusion(pg.diffusion.GaussianMixtureDenoiser(law, pg.diffusion.LinearVP()))
    method = {"site": "image", "particles": options.particles, "steps": 5}  # its denoiser draws data exactly

    def scan(y: Tensor, radon: Radon, noise: float, lesion: Tensor | float = 0.0) -> None:
        with pyro.plate("patients", len(y)):
            image = pyro.sample("image", prior()).unflatten(-1, SHAPE)
            pyro.sample("y", dist.Normal(radon(image + lesion), noise).to_event(3), obs=y)

    print("1. Is there a lesion where the radiologist points?")
    places = phantoms.lesions(options.patients, seed=options.seed, side=SIDE, contrast=CONTRAST)
    ill = torch.arange(options.patients) % 2 == 0
    images = law.sample((options.patients,)).unflatten(-1, SHAPE) + ill.reshape(-1, 1, 1, 1) * places
    radon, smc = scanner(), TemperedSMC(scan, **method, moves=3)
    y = dist.Normal(radon(images), NOISE).sample()
    ratio = smc.run(y, radon, NOISE, places).log_evidence - smc.run(y, radon, NOISE).log_evidence
    healthy, flat = exact(law, radon, NOISE).marginal, y.flatten(1).double()
    truth = healthy.log_prob(flat - radon(places).flatten(1).double()) - healthy.log_prob(flat)
    back = (radon.filtered_back_projection(y) * places).sum((1, 2, 3)) / places.sum((1, 2, 3))
    scores = {"tempered SMC": ratio, "exact": truth, "filtered back-projection": back}
    for name, score in scores.items():
        print(f"   {name}: {pg.evaluation.auroc(-score[ill], -score[~ill])}")
    print(f"   probabilities of a lesion are off by {(ratio.sigmoid() - truth.sigmoid()).abs().mean():.3f} on average")

    print("2. How many views are enough for this dose? Expected posterior standard deviation of a pixel")
    widths = {}
    for views in (2, 4, 8):
        noise, radon = NOISE * (views / VIEWS) ** 0.5, scanner(views)
        y = dist.Normal(radon(law.sample((8,)).unflatten(-1, SHAPE)), noise).sample()
        found = smc.run(y, radon, noise).get_samples()["image"].std(0)
        truth = exact(law, radon, noise).posterior(y.flatten(1).double()).stddev
        widths[views] = [width.square().mean().sqrt().item() for width in (found, truth)]
        print(f"   {views} views: {widths[views][0]:.3f}, exact {widths[views][1]:.3f}")

    print(f"3. Four views; the axis is half a detector off, and the noise of {NOISE} is not known")

    def unknown(y: Tensor) -> None:
        axis = pyro.sample("axis", dist.Normal(0.0, 0.5))
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        image = pyro.sample("image", prior()).unflatten(-1, SHAPE)
        pyro.sample("y", dist.Normal(scanner(4, axis)(image), noise).to_event(3), obs=y)

    y = dist.Normal(scanner(4, 0.5)(images[1:2]), NOISE).sample()
    free = TemperedSMC(unknown, **method, moves=10, last_levels=10).run(y[0])
    bound = smc.run(y, scanner(4), NOISE)
    draws = {"axis and noise found": free.get_samples()["image"], "axis in the middle": bound.get_samples()["image"]}
    for site, truth in scanner_found(law, y).items():
        values = free.get_samples()[site]
        print(f"   {site}: {values.mean():.2f} ± {values.std():.2f}, exact {truth.mean:.2f} ± {truth.stddev:.2f}")
    print(f"   {free.diagnostics().warning or 'groups of particles agree'}")
    for name, x in draws.items():
        print(f"   {name}: {pg.evaluation.restoration_report(x.reshape(-1, *SHAPE), images[1], span=2.0)}")

    print(f"4. {PHOTONS:g} photons a ray are counted")

    def counts(image: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(PHOTONS * torch.exp(-WATER * scanner()(image))).to_event(3)

    def counted(y: Tensor, lesion: Tensor | float = 0.0) -> None:
        with pyro.plate("patients", len(y)):
            pyro.sample("y", counts(pyro.sample("image", prior()).unflatten(-1, SHAPE) + lesion), obs=y)

    y = counts(images[:8]).sample()
    counting = TemperedSMC(counted, **method, moves=8)
    odds = counting.run(y, places[:8]).log_evidence - counting.run(y).log_evidence
    for name, some in (("with", ill[:8]), ("without", ~ill[:8])):
        print(f"   patients {name} a lesion: probabilities {', '.join(f'{p:.2f}' for p in odds[some].sigmoid())}")
    picture(scores, ill, widths).savefig(options.output / "lesion.png", dpi=150)


def picture(scores: dict[str, Tensor], ill: Tensor, widths: dict[int, list[float]]) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for name, score in scores.items():
        sick = ill[score.argsort(descending=True)].double()
        left.step([0, *((1 - sick).cumsum(0) / (1 - sick).sum())], [0, *(sick.cumsum(0) / sick.sum())], label=name)
    right.plot(list(widths), list(widths.values()), "o-")
    left.set(xlabel="false alarms", ylabel="lesions found")
    right.set(xlabel="views, for one dose", ylabel="posterior standard deviation", xscale="log")
    right.set_xticks(list(widths), list(map(str, widths)))
    right.minorticks_off()
    left.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
