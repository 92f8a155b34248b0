"""Speech: a WaveNet of telephone prompts, with the phone that is spoken at each sample as its context.

Sounds of 8 kHz become 256 symbols by the mu-law. One WaveNet knows which phone is spoken when, another does not, and a
linear prediction from 16 samples is the baseline; all give mixtures of logistics, and bits a sample of prompts on which
none was trained. The first then speaks one of these, sample by sample, from its phones alone.

Without `--sounds` the speech is made (`pg.data.vowels`). With it, it is that of a folder with what Debian's packages
asterisk-core-sounds-en-wav and asterisk-core-sounds-en install; `pip install pocketsphinx` aligns its phones.

    python examples/speech.py [--output output/speech] [--seed 0] [--steps 1000] [--prompts 200] [--sounds FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import math
import re
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import pyrogen as pg
from pyrogen.data import audio, speech, vowels
from pyrogen.distributions import families

RATE, LENGTH, PAST, COMPONENTS = 8000, 1024, 16, 5  # samples a second, in a window and before one; logistics mixed
Prompt = tuple[Tensor, Tensor]  # samples and numbers of phones, both (length,)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/speech"))
    for name, default in {"seed": 0, "steps": 1000, "prompts": 200}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sounds", type=Path)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    made = partial(vowels.draw, options.prompts, seed=options.seed + 1, length=2 * RATE)
    prompts = aligned(options.sounds, options.prompts) if options.sounds else list(zip(*made(), strict=True))
    names = speech.PHONES if options.sounds else list(vowels.FORMANTS)
    held_out, train = prompts[::8], [prompt for number, prompt in enumerate(prompts) if number % 8]
    print(f"{len(prompts)} prompts, {sum(len(samples) for samples, _ in prompts) / RATE / 60:.1f} minutes")

    family = families.discretized_logistic_mixture(256, COMPONENTS)
    linear = pg.Parametric(LinearPrediction(), family, event_shape=(), context_shape=(PAST,))
    settings = {"components": COMPONENTS, "width": 24, "layers": 6, "kernel": 4, "skip": 64}
    alone = pg.autoregressive.wavenet((LENGTH,), **settings)
    spoken = pg.autoregressive.wavenet((LENGTH,), (LENGTH, len(names)), **settings)
    codes, phones = map(torch.cat, zip(*(windows(prompt, len(names)) for prompt in train), strict=True))
    fit(linear, tuple(map(torch.cat, zip(*map(predicted, train), strict=True))), options.steps, rows=4096, rate=2e-2)
    fit(alone, codes, options.steps)
    spoken.load_state_dict(alone.state_dict(), strict=False)
    for layer in spoken.network.layers:
        nn.init.zeros_(layer.condition.weight)  # what phones say begins at nothing, and both go on equally long
    fit(alone, codes, options.steps // 2, rate=3e-3)
    fit(spoken, (codes, phones), options.steps // 2, rate=3e-3)

    bits = []
    for prompt in held_out:
        (after, past), (codes, phones) = predicted(prompt), windows(prompt, len(names))
        of_windows = pg.log_prob(alone, codes) / LENGTH, pg.log_prob(spoken, codes, phones) / LENGTH
        bits.append([-nats.mean() / math.log(2) for nats in (pg.log_prob(linear, after, past), *of_windows)])
    bits = torch.tensor(bits)  # (prompts, models)
    for name, found in zip((f"linear prediction from {PAST}", "WaveNet", "WaveNet, given phones"), bits.T, strict=True):
        more = found - bits[:, 1]
        error = more.std() / len(more) ** 0.5
        print(f"{name:<26}{found.mean():.3f} bits a sample; {more.mean():+.3f}, standard error {error:.3f}")

    samples, phones = (part[: min(2 * RATE, RATE * options.steps // 100)] for part in held_out[0])
    begin = time.process_time()
    said = audio.inverse_mu_law(pg.lengthened(spoken, len(phones))(one_hot(phones, len(names)).float()).sample().long())
    print(f"{len(said)} samples drawn, {len(said) / (time.process_time() - begin):.0f} a processor second")
    for name, sound in {"held_out": samples, "drawn": said}.items():
        audio.write_wav(options.output / f"{name}.wav", sound, rate=RATE)
    picture(options.output / "speech.png", {"a held-out prompt": samples, "drawn from its phones": said}, phones, names)


class LinearPrediction(nn.Module):
    """A mixture about a linear function of the samples before; components lie at fixed places about its mu-law."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(one_hot(torch.tensor(PAST - 1), PAST).float())
        aside = torch.linspace(-0.1, 0.1, COMPONENTS)
        self.mixture = nn.Parameter(torch.stack([0 * aside, aside, 0 * aside - 3]))  # logits, places, log-scales

    def forward(self, past: Tensor) -> Tensor:
        sample = past @ self.weight
        bent = sample.sign() * (255 * sample.abs()).log1p() / math.log(256)
        return (self.mixture + bent[..., None, None] * torch.eye(3)[:, [1]]).flatten(-2)


def fit(model: nn.Module, data: object, steps: int, *, rows: int = 8, rate: float = 6e-3) -> None:
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=steps)
    pg.fit(model, data, steps=steps, batch_size=rows, schedule=schedule, ema=0.99, seed=0)


def windows(prompt: Prompt, phones: int) -> tuple[Tensor, Tensor]:
    """The symbols of a prompt in windows, ``(N, length)``, and its phones one-hot, ``(N, length, phones)``."""
    samples, spoken = (part.unfold(0, LENGTH, LENGTH) for part in prompt)
    return audio.mu_law(samples), one_hot(spoken, phones).float()


def predicted(prompt: Prompt) -> tuple[Tensor, Tensor]:
    """The symbols of a prompt's windows, but for the first ones, and the samples before each."""
    samples = prompt[0][: len(prompt[0]) // LENGTH * LENGTH]
    return audio.mu_law(samples[PAST:]).float(), samples[:-1].unfold(0, PAST, 1)


def aligned(folder: Path, count: int) -> list[Prompt]:
    """Prompts of one to four seconds, with the phones that pocketsphinx finds in them."""
    recognizer, prompts = speech.Recognizer(), []
    with gzip.open(folder / "core-sounds-en.txt.gz", "rt", errors="replace") as lines:
        texts = dict(line.split(":", 1) for line in lines if ":" in line and line[0] != ";")
    for name, text in texts.items():
        words, path = re.sub("[^a-z' ]", " ", text.lower()).split(), folder / f"{name}.wav"
        samples = audio.read_wav(path).samples if words and "[" not in text and path.exists() else torch.zeros(0)
        if RATE < len(samples) < 4 * RATE and len(prompts) < count:
            finer = audio.resample(samples, rate=RATE, new_rate=speech.RATE).clamp(-1, 1)
            with suppress(ValueError):  # unknown words, or others than are spoken
                spoken = recognizer.align(words, finer)
                phones = spoken.phones.repeat_interleave(spoken.durations * RATE // speech.FRAMES)
                prompts.append((samples[: len(phones)], phones[: len(samples)]))
    return prompts


def picture(path: Path, sounds: dict[str, Tensor], phones: Tensor, names: list[str]) -> None:
    figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    for axis, (title, sound) in zip(axes, sounds.items(), strict=True):
        axis.specgram(sound.numpy(), NFFT=128, Fs=RATE, noverlap=96, vmin=-120, vmax=-40)
        axis.set(title=title, ylabel="Hz")
    for place in [0, *((phones.diff() != 0).nonzero()[:, 0] + 1).tolist()]:
        axes[1].text(place / RATE, 100, names[phones[place]], color="white", fontsize=7)
    axes[1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
