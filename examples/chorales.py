"""Bach's chorales: a transformer over four voices, scored beside Markov chains, and a MIDI file to listen to.

The four-part chorales of music21's corpus, in quarter steps. At each step the soprano comes first, then alto, tenor
and bass; every note is one symbol. Training transposes at random within what the voices sing.

    python examples/chorales.py [--output output/chorales] [--seed 0] [--steps 700] [--chorales 371]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import Tensor
from torch.utils.data import Dataset

import pyrogen as pg
from pyrogen.autoregressive import transformer
from pyrogen.data import chorales
from pyrogen.evaluation import Estimate, witten_bell

VOICES, STEPS = 4, 24  # of a stretch
HALF = STEPS // 2


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/chorales"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--chorales", type=int, default=371, help="numbers of Riemenschneider's edition")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    songs = [song for song in chorales.load(options.chorales) if len(song) >= STEPS]
    lowest, highest = torch.cat(songs).aminmax()
    symbols = int(highest - lowest) + 1
    songs = [songs[place] - lowest for place in torch.randperm(len(songs))]
    train, held_out = songs[: 9 * len(songs) // 10], songs[9 * len(songs) // 10 :]
    print(f"{len(train)} chorales to learn from, {len(held_out)} held out, {symbols} notes, {STEPS} steps at a time")

    print("\n1. Held-out nats a quarter step (all four voices)")
    alone, _, voices = markov(train, held_out, symbols)
    print(f"   {'notes alone':<30}{Estimate.of_mean(alone)}")
    print(f"   {'Markov, with the voice above':<30}{Estimate.of_mean(voices)}")
    model = transformer((STEPS, VOICES), symbols=symbols, width=128, depth=4, heads=4, dropout=0.1)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=2e-3, total_steps=options.steps)
    data = Stretches(train, symbols)
    fit = pg.fit(model, data, steps=options.steps, batch_size=32, schedule=schedule, seed=options.seed)
    found = Estimate.of_mean(torch.stack([nats(model, song) for song in held_out]))
    print(f"   {'transformer':<30}{found}, {fit.history.seconds:.0f} s of training")

    print("\n2. A chorale of its own, and one that goes on from Bach's first bar -> new.mid, continued.mid")
    chorales.write_midi(options.output / "new.mid", model().sample() + lowest)
    first = torch.zeros(STEPS, VOICES, dtype=torch.bool)
    first[:4] = True
    continued = model().given(held_out[0][:STEPS], first).sample()
    chorales.write_midi(options.output / "continued.mid", continued + lowest)

    print("\n3. Voices held to a range: a hard constraint is a distribution, too")
    allowed = torch.zeros(STEPS * VOICES, symbols, dtype=torch.bool)
    for voice in range(VOICES):
        allowed[voice::VOICES, torch.cat(train)[:, voice].unique()] = True
    proper = pg.autoregressive.constrained(model, allowed)
    print(f"   what keeps to the ranges is {kept(model, proper):.2f} nats less likely without the constraint")


class Stretches(Dataset):
    """Stretches of songs, transposed within the notes there are."""

    def __init__(self, songs: list[Tensor], symbols: int) -> None:
        self.songs, self.symbols = songs, symbols
        self.places = [(song, start) for song in range(len(songs)) for start in range(len(songs[song]) - STEPS + 1)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        song, start = self.places[index]
        notes = self.songs[song][start : start + STEPS]
        low, high = max(-4, -int(notes.min())), min(4, self.symbols - 1 - int(notes.max()))
        return notes + torch.randint(low, high + 1, ())


def grams(song: Tensor, voice: int) -> Tensor:
    """Each note of a voice but the first, the one before it, and that of the voice above, ``(steps - 1, 3)``."""
    above = song[1:, voice - 1] if voice else torch.zeros_like(song[1:, 0])
    return torch.stack([song[1:, voice], song[:-1, voice], above], 1)


def markov(train: list[Tensor], held_out: list[Tensor], symbols: int) -> Tensor:
    """Nats of a step of each song by counts: given nothing, the voice's last note, that and the voice above."""
    scored, total = [song[HALF - 1 : len(song) - HALF + 1] for song in held_out], 0.0
    for voice in range(VOICES):
        parts = (torch.cat([grams(song, voice) for song in songs]) for songs in (train, scored))
        total = total - witten_bell(*((part[:, 0], part[:, 1:]) for part in parts), symbols=symbols)
    return torch.stack([song.mean(1) for song in total.split([len(song) - 1 for song in scored], 1)], 1)


@torch.no_grad()
def nats(model: pg.DistributionModule, song: Tensor) -> Tensor:
    """Nats of a step of a song, given at least half a stretch before it."""
    windows = song.unfold(0, STEPS, 1).transpose(1, 2)
    terms = model().symbol_log_probs(windows).unflatten(-1, (STEPS, VOICES)).sum(-1)
    return -terms[:, HALF].mean()


@torch.no_grad()
def kept(model: pg.DistributionModule, proper: pg.DistributionModule) -> float:
    """How much less likely the free model finds draws of the constrained one, on average."""
    draws = proper().sample((16,))
    return float((proper().log_prob(draws) - model().log_prob(draws)).mean())


if __name__ == "__main__":
    main()
