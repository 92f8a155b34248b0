"""Held-out likelihood of small digits under variational autoencoders, beside pythae's.

scikit-learn's 1,797 digits of 8x8 pixels, binarized (ink above half), 1,437 to train and 360 held out, split by seed.
All models have the same networks (64-128 hidden-8 and back), Adam, minibatches of 128 and steps; ours and pythae's
start from the same weights. The figure is the importance-weighted bound of 1,000 draws on the held-out digits, the
mean over seeds with its standard error; differences are paired by seed. Times are CPU milliseconds of a training step
in one plain loop, the models in turns.

    python benchmarks/latent_digits.py [--seeds 5] [--steps 3000] [--draws 10] [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from functools import partial
from pathlib import Path

import pyro
import torch
from results_file import keep, known, table
from torch import nn

import pyrogen as pg
from pyrogen import flows, latent
from pyrogen.distributions import DiagonalNormal, families

PIXELS, HIDDEN, LATENT, BATCH = 64, 128, 8, 128
adam = partial(torch.optim.Adam, lr=1e-3, fused=True)


def networks() -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder."""
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    return encoder, decoder


def _by_log_variance(numbers, event_dim):
    loc, log_variance = numbers.unbind(-event_dim - 1)
    return DiagonalNormal(loc, log_variance / 2, event_dim)


LOG_VARIANCE = families.ElementFamily(2, _by_log_variance)
"""pythae's encoders give logarithms of variances."""


def assembled(encoder, decoder, *, prior=None, posterior=None, family=LOG_VARIANCE):
    """A VAE of these networks, or of the parts given in place of one."""
    if posterior is None:
        posterior = pg.Parametric(encoder, family, event_shape=(LATENT,), context_shape=(PIXELS,))
    likelihood = pg.Parametric(decoder, families.bernoulli, event_shape=(PIXELS,), context_shape=(LATENT,))
    prior = latent.StandardNormal((LATENT,)) if prior is None else prior(posterior)
    return latent.VAE(prior, likelihood, posterior, draws=1000)


def ours(x, draws):
    """Our objectives, by name; each makes networks of its own."""

    def vamp(posterior):
        prior = latent.VampPrior(posterior, x[:50].clone())
        prior.start_from(x)
        return prior

    def flow_prior(posterior):
        return flows.affine_coupling((LATENT,), layers=4, hidden=(64,))

    def flow_posterior():
        return flows.affine_autoregressive((LATENT,), (PIXELS,), layers=2, hidden=(HIDDEN,), fast_sampling=True)

    return {
        "VAE": lambda: latent.BetaElbo(assembled(*networks()), analytic_kl=True),
        "importance-weighted": lambda: latent.ImportanceWeighted(assembled(*networks()), draws=draws),
        "doubly reparameterized": lambda: latent.DoublyReparameterized(assembled(*networks()), draws=draws),
        "VAE, VampPrior (50 pseudo-data)": lambda: latent.BetaElbo(assembled(*networks(), prior=vamp)),
        "VAE, flow prior": lambda: latent.BetaElbo(assembled(*networks(), prior=flow_prior)),
        "VAE, flow posterior": lambda: latent.BetaElbo(assembled(*networks(), posterior=flow_posterior())),
    }


def theirs(draws):
    """Pythae's models on networks of the same shapes."""
    from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    class Objective(nn.Module):
        def __init__(self, make):
            super().__init__()
            encoder, decoder = networks()
            self.model = make(Encoder(encoder), Decoder(decoder))
            self.vae = assembled(encoder, decoder)

        def forward(self, x):
            return self.model({"data": x}).loss

    settings = {"input_dim": (PIXELS,), "latent_dim": LATENT, "reconstruction_loss": "bce"}
    return {
        "pythae's VAE": lambda: Objective(lambda e, d: VAE(VAEConfig(**settings), e, d)),
        "pythae's importance-weighted": lambda: Objective(
            lambda e, d: IWAE(IWAEConfig(**settings, number_samples=draws), e, d)
        ),
    }


def train(objective, x, steps, seed):
    """Trains, pythae's models too, by ``fit``: on the same minibatches."""
    pg.fit(objective, x, steps=steps, batch_size=BATCH, optimizer=adam, seed=seed)


def by_hand(objective, x, steps):
    """A plain loop."""
    optimizer = adam(objective.parameters())
    for step in range(steps):
        if step % 11 == 0:
            order = torch.randperm(len(x)).split(BATCH)
        objective(x[order[step % 11]]).backward()
        optimizer.step()
        optimizer.zero_grad()


def step_times(models, x, rounds=7, steps=200):
    """CPU milliseconds a step, the models in turns in the same loop."""
    times = {name: [] for name in models}
    objectives = {name: make() for name, make in models.items()}
    for number in range(rounds + 1):
        for name in random.sample(list(models), len(models)):
            start = time.process_time()
            with pyro.validation_enabled(False):
                by_hand(objectives[name], x, steps)
            if number:
                times[name].append(1e3 * (time.process_time() - start) / steps)
    return times


def held_out(vae, x):
    """The bound of 1,000 draws, nats a digit."""
    pyro.set_rng_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False):
        return torch.cat([vae().log_prob(part) for part in x.split(20)]).mean().item()


def mean_and_error(values):
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


def measured(x, seeds, steps, draws, lines):
    """The held-out bound of each model and seed that is not among the lines, one after the other."""
    done = [(line["model"], line["seed"], line["steps"]) for line in lines]
    for seed in seeds:
        (train_x,), (test_x,) = pg.data.split(x, sizes=(1437, 360), seed=seed)
        for name, make in {**ours(train_x, draws), **theirs(draws)}.items():
            if (name, seed, steps) in done:
                continue
            pyro.set_rng_seed(seed)
            objective = make()
            train(objective, train_x, steps, seed)
            yield {"model": name, "seed": seed, "steps": steps, "nats": held_out(objective.vae, test_x)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pixels, labels, symbols = pg.data.digits()
    x = (pixels.reshape(len(pixels), -1) >= symbols / 2).float()
    models = {**ours(x[:1437], arguments.draws), **theirs(arguments.draws)}
    seeds, steps = range(arguments.first, arguments.first + arguments.seeds), arguments.steps
    lines = known(arguments.output)
    keep(measured(x, seeds, steps, arguments.draws, lines), lines, arguments.output)
    mine = [line for line in lines if line["seed"] in seeds and line["steps"] == steps]
    scores = {name: [line["nats"] for line in mine if line["model"] == name] for name in models}
    times = step_times(models, x[:1437])
    rows = []
    for name, own in scores.items():
        less = [a - b for a, b in zip(own, scores["VAE"], strict=True)]
        difference = "" if name == "VAE" else mean_and_error(less)
        rows.append([name, mean_and_error(own), difference, f"{statistics.median(times[name]):.2f}"])
    columns = ["held-out nats a digit, 1,000 draws", f"mean over {len(seeds)} seeds", "less the VAE, paired"]
    table([*columns, "ms a step"], rows, arguments.table)
    for name in ("VAE", "importance-weighted"):
        own, other = scores[name], scores[f"pythae's {name}"]
        ratio = statistics.median(a / b for a, b in zip(times[name], times[f"pythae's {name}"], strict=True))
        difference = mean_and_error([a - b for a, b in zip(own, other, strict=True)])
        print(f"our {name} less pythae's: {difference} nats; time of a step {ratio:.2f} of theirs")


if __name__ == "__main__":
    main()
