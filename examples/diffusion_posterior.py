"""The demo's half-hidden digit under a diffusion prior: its posterior, its evidence, and which digit it was.

`digits.py` restores this digit under a flow by NUTS. Here the prior is a class-conditional diffusion model and the
method tempered SMC, which has the evidence: one for each class, so Bayes' rule gives the probability of each.

    python examples/diffusion_posterior.py [--output output/demo] [--seed 0] [--steps 400] [--particles 96]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pyrogen as pg
from pyrogen import inverse

SHAPE, CLASSES, NOISE = (1, 8, 8), 10, 0.1


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--particles", type=int, default=96)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    pixels, labels, symbols = pg.data.digits()
    x = pg.data.dequantize(pixels, symbols, seed=options.seed)
    train, _, test = pg.data.split(x, labels, sizes=(1257, 180, 360), seed=options.seed)
    prior = pg.diffusion.unet(SHAPE, classes=CLASSES, channels=(16, 32), depth=1, data_scale=0.7)
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    images = 2 * train[0] - 1, train[1]
    pg.fit(prior, images, steps=options.steps, optimizer=optimizer, ema=0.99, seed=options.seed)

    upper = torch.zeros(SHAPE, dtype=torch.bool)
    upper[:, :4] = True
    seen = inverse.Mask(upper)

    def half_hidden(y: torch.Tensor) -> None:
        with pyro.plate("classes", CLASSES):
            image = pyro.sample("image", prior(torch.arange(CLASSES)))
            ink = (image + 1) / 2
            pyro.sample("y", dist.Normal(seen(ink), NOISE).to_event(1), obs=y.expand(CLASSES, -1))

    truth, label = test[0][0], test[1][0]
    y = dist.Normal(seen(truth), NOISE).sample()
    settings = {"particles": options.particles, "moves": 2, "steps": 16}
    posterior = inverse.TemperedSMC(half_hidden, site="image", **settings).run(y)
    draws = (posterior.get_samples()["image"] + 1) / 2  # (particles, classes, 1, 8, 8)

    probability = posterior.log_evidence.softmax(0)
    print("class   log evidence   probability")
    for number, evidence in enumerate(posterior.log_evidence.tolist()):
        print(f"{number:<8}{evidence:<15.1f}{probability[number]:.3f}{'   (the truth)' * (number == label)}")
    worth = posterior.diagnostics().independent[label]
    report = pg.evaluation.restoration_report(draws[:, label], truth)
    print(f"given the class: {report}; from draws worth {worth:.0f} independent ones")
    print(f"all ten classes: {posterior.diagnostics()}")
    likely = probability.argsort(descending=True)[:3]
    names = [f"a {number}: {probability[number]:.0%}" for number in likely]
    observation = torch.where(upper, seen.adjoint(y), torch.nan)
    same = (image.expand(3, *SHAPE) for image in (truth, observation))
    figure = pg.analysis.posterior_images(*same, draws[:, likely], rows=names, shown=5, limits=(0, 1))
    figure.savefig(options.output / "diffusion_posterior.png", dpi=150)


if __name__ == "__main__":
    main()
