"""Bach's chorales: nats a step of state-space models, beside Pyro's example written by hand, and a transformer.

Stretches of 24 quarter steps of four voices, from ``examples/chorales.py``: nine tenths of the chorales to learn from,
by stretches transposed at random, the others held out, in stretches that do not overlap. All models are trained by Adam
on minibatches of 32 for the same steps with the same schedule. The score of a chorale is minus the log-probability of
its stretches over their steps, in nats; the table has the mean over held-out chorales with its standard error. Models
with latents are scored by bounds: the importance-weighted one of 200 trajectories, and where there is a particle
filter its estimate with 200 particles, a bound in expectation as well.

The model by hand has the equations of Pyro's example of a deep Markov model (structured inference with a combiner, a
recurrent network towards the past, scales by softplus), in a plain loop, with categorical observations.

    python benchmarks/state_space_chorales.py [--steps 600] [--seed 0] [--chorales 371] [--table FILE]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from functools import partial
from pathlib import Path

import pyro
import torch
import torch.nn.functional as F
from results_file import table
from torch import nn
from torch.distributions import Normal

import pyrogen as pg
from pyrogen import latent

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from chorales import STEPS, VOICES, Stretches  # noqa: E402

STATES, WIDTH, DRAWS, RATE = 32, 128, 200, 6e-3


class ByHand(nn.Module):
    """Pyro's example as equations in a loop; called, it is minus the bound."""

    def __init__(self, symbols):
        super().__init__()
        self.symbols = symbols
        self.first, self.before = nn.Parameter(torch.zeros(STATES)), nn.Parameter(torch.zeros(STATES))
        self.gate, self.proposal = _two_layers(STATES, WIDTH, STATES), _two_layers(STATES, WIDTH, STATES)
        self.linear, self.scale = nn.Linear(STATES, STATES), nn.Linear(STATES, STATES)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.emit = _two_layers(STATES, WIDTH, VOICES * symbols)
        self.past = nn.RNN(VOICES * symbols, WIDTH, batch_first=True)
        self.join, self.loc, self.spread = (nn.Linear(*sizes) for sizes in [(STATES, WIDTH), *[(WIDTH, STATES)] * 2])

    def log_weights(self, x):
        """Logarithms of the importance weights of one trajectory for each row."""
        seen = F.one_hot(x, self.symbols).flatten(2).float()
        messages = self.past(seen.flip(1))[0].flip(1)
        z, prior, total = self.before.expand(len(x), -1), None, 0.0
        states = []
        for step in range(STEPS):
            joined = 0.5 * (torch.tanh(self.join(z)) + messages[:, step])
            if step:
                gate, proposal = torch.sigmoid(self.gate(z)), self.proposal(z)
                scale = F.softplus(self.scale(proposal.relu()))
                prior = Normal((1 - gate) * self.linear(z) + gate * proposal, scale, validate_args=False)
            else:
                prior = Normal(self.first, torch.ones(STATES), validate_args=False)
            posterior = Normal(self.loc(joined), F.softplus(self.spread(joined)), validate_args=False)
            z = posterior.rsample()
            total = total + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
            states.append(z)
        logits = self.emit(torch.stack(states, 1)).unflatten(-1, (VOICES, self.symbols)).log_softmax(-1)
        return total + logits.gather(-1, x.unsqueeze(-1)).sum((1, 2, 3))

    def forward(self, x):
        return -self.log_weights(x).mean()

    def score(self, x):
        """The importance-weighted bound of each row."""
        return torch.stack([self.log_weights(x) for _ in range(DRAWS)]).logsumexp(0) - math.log(DRAWS)


def _two_layers(inputs, width, outputs):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def held_out_nats(score, songs):
    """Nats a step of each song."""
    found = []
    with torch.no_grad():
        for song in songs:
            x = song[: len(song) // STEPS * STEPS].reshape(-1, STEPS, VOICES)
            found.append(-score(x).mean() / STEPS)
    return f"{pg.evaluation.Estimate.of_mean(torch.stack(found)):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chorales", type=int, default=371)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)
    songs = [song for song in pg.data.chorales.load(options.chorales) if len(song) >= STEPS]
    lowest, highest = torch.cat(songs).aminmax()
    symbols = int(highest - lowest) + 1
    songs = [songs[place] - lowest for place in torch.randperm(len(songs))]
    train, held_out = songs[: 9 * len(songs) // 10], songs[9 * len(songs) // 10 :]

    sizes = {"symbols": symbols, "latent_shape": STATES, "width": WIDTH, "hidden": (WIDTH,), "draws": DRAWS}
    chain, remembering = (latent.deep_markov((STEPS, VOICES), memory=memory, **sizes) for memory in (0, WIDTH))
    recurrent = latent.stochastic_recurrent((STEPS, VOICES), **sizes)
    transformer = pg.autoregressive.transformer((STEPS, VOICES), symbols=symbols, width=WIDTH, depth=4, heads=4)
    models = {
        "by hand, as Pyro's example": ByHand(symbols),
        "`deep_markov`": chain,
        "`deep_markov(memory=128)`": remembering,
        "`stochastic_recurrent`": recurrent,
        "`transformer`": transformer,
    }
    rows = []
    for name, model in models.items():
        sequences = isinstance(model, latent.VAE)
        beta = latent.LinearAnnealing(max(options.steps // 2, 1))
        objective = latent.BetaElbo(model, beta=beta) if sequences else model
        schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=RATE, total_steps=options.steps)
        data = Stretches(train, symbols)
        began = time.process_time()
        pg.fit(objective, data, steps=options.steps, batch_size=32, clip=10.0, schedule=schedule, seed=options.seed)
        seconds = time.process_time() - began
        model.eval()
        if sequences:
            score = [lambda x, model=model: model().log_prob(x)]
            score.append(lambda x, model=model: model.filter(x, particles=DRAWS).log_evidence)
        else:
            score = [model.score if isinstance(model, ByHand) else model().log_prob]
        found = [held_out_nats(one, held_out) for one in score] + [""]
        rows.append([name, *found[:2], f"{1000 * seconds / options.steps:.0f}"])
        print(*rows[-1], sep="  ", flush=True)
    columns = ["model", "nats a step", "the same by particles", "ms a training step"]
    table(columns, rows, options.table)


if __name__ == "__main__":
    main()
