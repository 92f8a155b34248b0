"""Text to speech: phones, how long each of them lasts, mel spectra by diffusion, and a sound.

How long phones last is a distribution given phones, drawn one after the other (a WaveNet of durations); so are pauses,
which may last nothing. A diffusion model draws mel spectra, with the phone that is spoken at each frame beside it, and
Griffin and Lim's iteration makes sounds of them. Beside the draws stands their mean, which is what a regression learns.

Without `--sounds` the speech is made (`pg.data.vowels`). With it, it is that of a folder with telephone prompts
(`pg.data.speech.prompts` names the files); pocketsphinx aligns their phones, and recognizes words in what is drawn.

    python examples/text_to_speech.py [--seed 0] [--steps 1500] [--prompts 60] [--sounds FOLDER [--say TEXT ...]]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen.data import audio, spectrograms, speech, vowels, windows
from pyrogen.evaluation import Estimate, error_rates, table

LOG_MELS = spectrograms.LogMels(mels=40, window=512, hop=speech.RATE // speech.FRAMES, rate=speech.RATE)
ratio = partial(Estimate.of_ratio, unit="")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/text_to_speech"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--sounds", type=Path)
    parser.add_argument("--say", nargs="+", default=[], help="texts in lower case")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    recognizer = speech.Recognizer() if options.sounds else None
    made = partial(vowels.utterances, options.prompts, seed=options.seed + 1)
    prompts = speech.prompts(options.sounds, recognizer) if recognizer else made()
    held_out, train = prompts[::5], [prompt for number, prompt in enumerate(prompts) if number % 5]
    print(f"{len(prompts)} prompts, {sum(prompt.seconds for prompt in prompts) / 60:.1f} minutes, a fifth held out")
    voice = Voice(train, 1 + max(int(prompt.phones.max()) for prompt in prompts), steps=options.steps)

    alone, given = torch.stack(list(map(voice.nats, held_out)), 1)
    count = torch.tensor([len(prompt.phones) for prompt in held_out])
    for name, nats in {"phone by phone": alone, "WaveNet": given, "difference": given - alone}.items():
        print(f"{name:<24}{Estimate.of_ratio(nats, count, unit='nats a held-out duration')}")

    shown = [prompt for prompt in held_out if not recognizer or len(prompt.words) > 2]
    natural, means = list(map(voice.spectra_of, shown)), list(map(voice.mean, shown))
    lasting = [pyro.condition(voice.program, {"durations": prompt.durations.float()}) for prompt in shown]
    draws, again = ([speak(prompt.phones) for speak, prompt in zip(lasting, shown, strict=True)] for _ in range(2))
    pairs = (draws, again), (natural, means)
    spread, error = (torch.stack([apart.square().mean() for apart in map(torch.sub, *pair)]) for pair in pairs)
    print(f"{'variance of draws':<24}{Estimate.of_ratio(spread / 2, error, unit='of the error of their mean')}")
    spoken = [voice.program(recognizer.spell(prompt.words) if recognizer else prompt.phones) for prompt in shown]
    spectra = {"natural": natural, "mean of draws": means, "draw": draws, "draw, durations too": spoken}
    sounds = {name: list(map(voice.sound, mels)) for name, mels in spectra.items()}

    variance = {name: torch.stack([mel.var(0).mean() for mel in mels]) for name, mels in spectra.items()}
    rows = {name: [ratio(found, variance["natural"])] for name, found in variance.items()}
    if recognizer:
        sounds = {"recorded": [prompt.samples for prompt in shown], **sounds}
        heard = {name: list(map(recognizer.recognize, each)) for name, each in sounds.items()}
        rates = error_rates(heard, [prompt.words for prompt in shown], baseline="recorded")
        rows = {name: [*rows.get(name, [Estimate(1.0, 0.0)]), *rate] for name, rate in rates.items()}
    print(table(["global variance", "words wrong", "more than recorded"], rows))

    for text in options.say:
        sounds[text] = [voice.sound(voice.program(recognizer.spell(text.split())))]
        print(f"said: {text}\nheard: {' '.join(recognizer.recognize(sounds[text][0]))}")
    for name, (sound, *_) in sounds.items():
        audio.write_wav(options.output / f"{name.replace(', ', '_').replace(' ', '_')}.wav", sound, rate=speech.RATE)
    first = {name: mels[0] * voice.scale + voice.loc for name, mels in spectra.items()}
    pg.analysis.spectrograms(first, rate=speech.FRAMES).savefig(options.output / "text_to_speech.png", dpi=100)


class Voice(nn.Module):
    """How long phones last, and mel spectra given these: a Pyro program with two sites, learned from windows."""

    def __init__(self, train: list[speech.Utterance], phones: int, *, steps: int) -> None:
        super().__init__()
        self.phones, self.loc, self.scale = phones, 0.0, 1.0
        mels = torch.cat(list(map(self.spectra_of, train)))
        self.loc, self.scale = mels.mean(0), mels.std(0)
        family = pg.families.discretized_logistic_mixture(128, 4)  # a phone lasts fewer than 128 frames
        self.alone = pg.Parametric(nn.Linear(phones, 12), family, event_shape=(), context_shape=(phones,))
        sizes = {"components": 4, "width": 32, "layers": 3, "skip": 32, "dropout": 0.4}
        self.durations = pg.autoregressive.wavenet((16,), (16, 5 * phones), symbols=128, **sizes)
        shapes = {"phone": (128,), "place": (128, 2)}
        sizes = {"channels": (128, 128), "depth": 1, "attention": 0, "context_dropout": 0.1}
        self.spectra = pg.diffusion.unet((128, 40), shapes, classes={"phone": phones}, **sizes)

        spoken, durations = (torch.cat([getattr(prompt, part) for prompt in train]) for part in ("phones", "durations"))
        near = torch.cat([speech.neighbours(prompt.phones, phones) for prompt in train])
        fit(self.durations, windows((durations.float(), near), 16, hop=4), steps // 5, rows=64, rate=5e-3, decay=1.0)
        fit(self.alone, (durations.float(), one_hot(spoken, phones).float()), steps // 5, rows=256, rate=3e-2)
        data = windows(((mels - self.loc) / self.scale, speech.frames(spoken, durations)), 128, hop=16)
        # Phones are decided where there is much more noise than signal.
        weighting = pg.diffusion.EDMWeighting(data_scale=1.0, mean=1.2, scale=1.6)
        fit(pg.diffusion.DenoisingScoreMatching(self.spectra, weighting), data, steps, rows=16, rate=2e-3)

    def durations_of(self, phones: Tensor) -> pyro.distributions.Distribution:
        return pg.lengthened(self.durations, len(phones))(speech.neighbours(phones, self.phones))

    def program(self, phones: Tensor) -> Tensor:
        """Standardized log-mel spectra of phones, ``(frames, mels)``, by way of durations."""
        beside = speech.frames(phones, pyro.sample("durations", self.durations_of(phones)))
        denoiser = pg.lengthened(self.spectra, len(beside["phone"])).denoiser
        guided = pg.diffusion.ClassifierFree(denoiser, weight=1.25)
        return pyro.sample("mels", pg.diffusion.Diffusion(guided)(beside))

    @torch.no_grad()
    def mean(self, prompt: speech.Utterance) -> Tensor:
        """What the denoiser makes of nothing but noise: the mean of all draws of these durations, without guidance."""
        beside = speech.frames(prompt.phones, prompt.durations)
        denoiser = pg.lengthened(self.spectra, len(beside["phone"])).denoiser
        return denoiser(torch.randn(denoiser.event_shape), torch.ones(()), beside)

    @torch.no_grad()
    def nats(self, prompt: speech.Utterance) -> Tensor:
        """Minus the log-probabilities of durations, phone by phone and one after the other, ``(2,)``."""
        durations = prompt.durations.float()
        alone = self.alone(one_hot(prompt.phones, self.phones).float()).log_prob(durations).sum()
        return -torch.stack([alone, self.durations_of(prompt.phones).log_prob(durations)])

    def spectra_of(self, prompt: speech.Utterance) -> Tensor:
        return (LOG_MELS(prompt.samples)[: int(prompt.durations.sum())] - self.loc) / self.scale

    def sound(self, mels: Tensor) -> Tensor:
        return LOG_MELS.sound(mels * self.scale + self.loc, steps=40).clamp(-1, 1)


def fit(target: nn.Module, data: object, steps: int, *, rows: int, rate: float, decay: float = 0.0) -> None:
    optimizer = partial(torch.optim.AdamW, weight_decay=decay)
    schedule = partial(OneCycleLR, max_lr=rate, total_steps=steps)
    pg.fit(target, data, steps=steps, batch_size=rows, optimizer=optimizer, schedule=schedule, ema=0.99, seed=0)


if __name__ == "__main__":
    main()
