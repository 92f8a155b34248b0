"""Bach's chorales: a transformer over four voices, scored beside Markov chains, and a MIDI file to listen to.

The 368 four-part chorales of music21's corpus, in quarter steps. At each step the soprano comes first, then alto, tenor
and bass; every note is one symbol. Training transposes at random within what the voices sing.

    python examples/chorales.py [--output output/chorales] [--seed 0] [--steps 700] [--chorales 368]
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import torch
from torch.utils.data import Dataset

import pyrogen as pg
from pyrogen.autoregressive import transformer

VOICES, STEPS = 4, 24


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/chorales"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--chorales", type=int, default=368)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    songs = chorales(options.chorales)
    lowest, highest = min(song.min() for song in songs), max(song.max() for song in songs)
    songs = [song - lowest for song in songs]
    symbols = int(highest - lowest) + 1
    order = torch.randperm(len(songs)).tolist()
    train, held_out = ([songs[i] for i in part] for part in np.split(order, [9 * len(songs) // 10]))
    print(f"{len(train)} chorales to learn from, {len(held_out)} held out, {symbols} notes, {STEPS} steps at a time")

    print("\n1. Held-out nats a quarter step (all four voices)")
    for name, ago in {"notes alone": 0, "Markov, with the voice above": 1}.items():
        print(f"   {name:<30}{estimate(markov(train, held_out, symbols, ago))}")
    model = transformer((STEPS, VOICES), symbols=symbols, width=128, depth=4, heads=4, dropout=0.1)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=2e-3, total_steps=options.steps)
    fit = pg.fit(
        model, Stretches(train, symbols), steps=options.steps, batch_size=32, schedule=schedule, seed=options.seed
    )
    print(f"   {'transformer':<30}{estimate(nats(model, held_out))}, {fit.history.seconds:.0f} s of training")

    print("\n2. A chorale of its own, and one that goes on from Bach's first bar -> new.mid, continued.mid")
    write(options.output / "new.mid", model().sample() + lowest)
    first = torch.zeros(STEPS, VOICES, dtype=torch.bool)
    first[:4] = True
    continued = model().given(torch.from_numpy(held_out[0][:STEPS]), first).sample()
    write(options.output / "continued.mid", continued + lowest)

    print("\n3. Voices held to a range: a hard constraint is a distribution, too")
    allowed = torch.zeros(STEPS * VOICES, symbols, dtype=torch.bool)
    for voice in range(VOICES):
        sung = np.unique(np.concatenate([song[:, voice] for song in train]))
        allowed[voice::VOICES, sung] = True
    proper = pg.autoregressive.constrained(model, allowed)
    print(f"   what keeps to the ranges is {kept(model, proper):.2f} nats less likely without the constraint")


def chorales(count: int) -> list[np.ndarray]:
    """Notes as MIDI numbers, ``(steps, voices)``, of chorales with four voices; held rests repeat the note before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import music21

        found = []
        for score in music21.corpus.chorales.Iterator(1, count + 3):
            if len(score.parts) == VOICES:
                voices = [quarters(part.flatten().notes) for part in score.parts]
                length = min(map(len, voices))
                if length >= STEPS:
                    found.append(np.stack([voice[:length] for voice in voices], 1))
    return found


def quarters(notes) -> list[int]:
    """The note that sounds at each quarter."""
    starts = [float(note.offset) for note in notes]
    pitches = [note.pitches[-1].midi for note in notes]
    end = starts[-1] + float(notes[-1].quarterLength)
    places = np.searchsorted(starts, np.arange(np.ceil(starts[0]), end), side="right") - 1
    return [pitches[place] for place in places]


class Stretches(Dataset):
    """Stretches of songs, transposed within the notes there are."""

    def __init__(self, songs: list[np.ndarray], symbols: int) -> None:
        self.songs, self.symbols = songs, symbols
        self.places = [(song, start) for song in range(len(songs)) for start in range(len(songs[song]) - STEPS + 1)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        song, start = self.places[index]
        notes = torch.from_numpy(self.songs[song][start : start + STEPS])
        low, high = max(-4, -int(notes.min())), min(4, self.symbols - 1 - int(notes.max()))
        return notes + torch.randint(low, high + 1, ())


@torch.no_grad()
def nats(model: pg.DistributionModule, songs: list[np.ndarray]) -> np.ndarray:
    """For each song, the nats of a step given at least half a stretch before it."""
    half, found = STEPS // 2, []
    for song in songs:
        windows = torch.from_numpy(song).unfold(0, STEPS, 1).transpose(1, 2)
        terms = model().symbol_log_probs(windows).unflatten(-1, (STEPS, VOICES)).sum(-1)
        found.append(-float(terms[:, half].mean()))
    return np.array(found)


def markov(train: list[np.ndarray], held_out: list[np.ndarray], symbols: int, ago: int) -> np.ndarray:
    """The same by counts: each note given its voice's last note and the voice above, in Witten and Bell's mixture."""
    half, table = STEPS // 2, np.zeros((VOICES, symbols, symbols, symbols))
    for song in train:
        for voice in range(VOICES):
            above = song[1:, voice - 1] if voice else np.zeros(len(song) - 1, int)
            np.add.at(table, (voice, song[:-1, voice], above, song[1:, voice]), 1)
    alone, last = table.sum((1, 2)), table.sum(2)

    def mixed(counts: np.ndarray, note: np.ndarray, fallback: np.ndarray) -> np.ndarray:
        kinds, chosen = (counts > 0).sum(-1), np.take_along_axis(counts, note[:, None], -1)[:, 0]
        return (chosen + np.maximum(kinds, 1e-9) * fallback) / (counts.sum(-1) + np.maximum(kinds, 1e-9))

    found = []
    for song in held_out:
        now, total = song[half : len(song) - STEPS + half + 1], 0.0
        for voice in range(VOICES):
            note, before = now[:, voice], song[half - 1 : len(song) - STEPS + half, voice]
            above = now[:, voice - 1] if voice else np.zeros(len(now), int)
            p = mixed(np.repeat(alone[voice][None], len(note), 0), note, np.full(len(note), 1 / symbols))
            if ago:
                p = mixed(table[voice, before, above], note, mixed(last[voice, before], note, p))
            total -= np.log(p)
        found.append(total.mean())
    return np.array(found)


@torch.no_grad()
def kept(model: pg.DistributionModule, proper: pg.DistributionModule) -> float:
    """How much less likely the free model finds draws of the constrained one, on average."""
    draws = proper().sample((16,))
    return float((proper().log_prob(draws) - model().log_prob(draws)).mean())


def write(path: Path, notes: torch.Tensor) -> None:
    """A MIDI file of one chorale, ``(steps, voices)``."""
    import music21

    score = music21.stream.Score()
    for voice in notes.T.tolist():
        part = music21.stream.Part()
        for pitch in voice:
            part.append(music21.note.Note(pitch, quarterLength=1))
        score.insert(0, part)
    score.write("midi", path)


def estimate(nats: np.ndarray) -> pg.evaluation.Estimate:
    """The mean over songs."""
    return pg.evaluation.Estimate.of_mean(torch.from_numpy(nats))


if __name__ == "__main__":
    main()
