"""Text to speech: phones, how long each of them lasts, mel spectra by diffusion, and a sound.

How long phones last is a distribution given phones, drawn one after the other (a WaveNet of durations); so are pauses,
which may last nothing. A diffusion model draws mel spectra, with the phone that is spoken at each frame beside it, and
Griffin and Lim's iteration makes sounds of them. Beside the draws stands their mean, which is what a regression learns.

Without `--sounds` the speech is made (`pg.data.vowels`). With it, it is that of a folder with the files of Debian's
packages asterisk-core-sounds-en-g722 (`*.g722`, read by PyAV) and asterisk-core-sounds-en (`core-sounds-en.txt.gz`).
Pocketsphinx aligns phones with these, and recognizes words in what was synthesized.

    python examples/text_to_speech.py [--output output/text_to_speech] [--seed 0] [--steps 1500] [--prompts 60]
        [--guidance 1.25] [--sounds FOLDER]
"""

from __future__ import annotations

import argparse
import gzip
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

import pyrogen as pg
from pyrogen.data import audio, spectrograms, vowels
from pyrogen.distributions import families
from pyrogen.evaluation import Estimate, edit_distance

RATE, HOP, MELS = 16000, 160, 40  # samples a second and between frames, bands of a frame
LONGEST, NEAR = 128, 2  # a phone lasts fewer frames; phones on each side that its duration depends on
LOG_MELS = spectrograms.LogMels(mels=MELS, window=512, hop=HOP, rate=RATE)
NOVEL = """the weather in london is cold today
my mother called me from the station last night
please open the window and close the door
we will meet again on the first day of the year
he asked the teacher for a better answer
nobody knows what the president wants"""


class Prompt(NamedTuple):
    """Words and their phones by the dictionary; samples, log-mel spectra, phones in these and frames each lasts."""

    words: tuple[str, ...]
    spelled: Tensor
    samples: Tensor
    mels: Tensor
    phones: Tensor
    durations: Tensor


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/text_to_speech"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--guidance", type=float, default=1.25)
    parser.add_argument("--sounds", type=Path)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    recognizer = Recognizer() if options.sounds else None
    prompts, names = recorded(options.sounds, recognizer) if recognizer else made(options.prompts, options.seed + 1)
    held_out, train = prompts[::5], [prompt for number, prompt in enumerate(prompts) if number % 5]
    print(f"{len(prompts)} prompts, {sum(len(prompt.mels) for prompt in prompts) / 6000:.1f} minutes, a fifth held out")
    voice = Voice(train, len(names), guidance=options.guidance)
    voice.fit(train, options.steps)

    count = torch.tensor([float(len(prompt.phones)) for prompt in held_out])
    alone, given = (
        -torch.stack([score(prompt.phones, prompt.durations) for prompt in held_out])
        for score in (voice.log_prob_alone, voice.log_prob)
    )
    for name, nats in {"phone by phone": alone, "WaveNet": given, "difference": given - alone}.items():
        print(f"{name:<24}{Estimate.of_ratio(nats, count, unit='nats a held-out duration')}")

    shown = [prompt for prompt in held_out if recognizer is None or len(prompt.words) > 2]
    known = [(prompt.phones, prompt.durations) for prompt in shown]
    natural, means = [prompt.mels for prompt in shown], [voice.mean(*each) for each in known]
    draws, again = ([voice.draw(*each) for each in known] for _ in range(2))
    spread, error = (
        torch.stack([voice.distance(*pair) for pair in zip(*pairs, strict=True)])
        for pairs in ((draws, again), (natural, means))
    )
    print(f"{'variance of draws':<24}{Estimate.of_ratio(spread / 2, error, unit='of the error of their mean')}")

    spoken = [voice.draw(prompt.spelled) for prompt in shown]
    spectra = {"natural": natural, "mean of draws": means, "draw": draws, "draw, durations too": spoken}
    sounds = {name: list(map(sound, mels)) for name, mels in spectra.items()}
    varies = {name: torch.stack(list(map(voice.variance, mels))) for name, mels in spectra.items()}
    print(f"{'':<24}global variance     " + "words wrong         more than recorded" * (recognizer is not None))
    if recognizer:
        size = torch.tensor([float(len(prompt.words)) for prompt in shown])
        heard = recognizer.errors(shown, [prompt.samples for prompt in shown])
        row("recorded", Estimate(1.0, 0.0), Estimate.of_ratio(heard, size, unit=""))
    for name, variance in varies.items():
        estimates = [Estimate.of_ratio(variance, varies["natural"], unit="")]
        if recognizer:
            wrong = recognizer.errors(shown, sounds[name])
            estimates += [Estimate.of_ratio(errors, size, unit="") for errors in (wrong, wrong - heard)]
        row(name, *estimates)

    saved = {f"held_out_{name.replace(', ', '_').replace(' ', '_')}": each[0] for name, each in sounds.items()}
    for number, text in enumerate(NOVEL.splitlines() if recognizer else ()):
        said = saved[f"novel_{number}"] = sound(voice.draw(numbered(names, recognizer.spell(text.split()))))
        print(f"said: {text}\nheard: {' '.join(recognizer.words(said))}")
    for name, samples in saved.items():
        audio.write_wav(options.output / f"{name}.wav", samples, rate=RATE)
    picture(options.output / "text_to_speech.png", {name: mels[0] for name, mels in spectra.items()})


class Voice(nn.Module):
    """How long phones last, and mel spectra given these: a Pyro program with two sites."""

    def __init__(self, train: list[Prompt], phones: int, *, guidance: float) -> None:
        super().__init__()
        self.phones, self.guidance = phones, guidance
        mels = torch.cat([prompt.mels for prompt in train])
        self.loc, self.scale = mels.mean(0), mels.std(0)
        family = families.discretized_logistic_mixture(LONGEST, 4)
        self.alone = pg.Parametric(nn.Linear(phones, 12), family, event_shape=(), context_shape=(phones,))
        sizes = {"components": 4, "width": 32, "layers": 3, "skip": 32, "dropout": 0.4}
        self.durations = pg.autoregressive.wavenet((16,), (16, (2 * NEAR + 1) * phones), symbols=LONGEST, **sizes)
        beside = {"phone": (128,), "place": (128, 2)}
        sizes = {"channels": (128, 128), "depth": 1, "attention": 0, "context_dropout": 0.1}
        self.spectra = pg.diffusion.unet((128, MELS), beside, classes={"phone": phones}, **sizes)

    def durations_of(self, phones: Tensor) -> Distribution:
        """How many frames each of several phones lasts."""
        near = neighbours(phones, self.phones)
        return pg.rebuilt(self.durations, event_shape=phones.shape, context_shape=near.shape).eval()(near)

    def denoiser_of(self, length: int) -> pg.diffusion.Denoiser:
        """The denoiser of so many frames."""
        beside = {"phone": (length,), "place": (length, 2)}
        return pg.rebuilt(self.spectra, event_shape=(length, MELS), context_shape=beside).eval().denoiser

    def fit(self, train: list[Prompt], steps: int) -> None:
        """Trains both on windows of all prompts, one after the other."""
        durations = torch.cat([prompt.durations for prompt in train]).float()
        near = torch.cat([neighbours(prompt.phones, self.phones) for prompt in train])
        data = windows(durations, 16, 4), windows(near, 16, 4)
        fit(self.durations, data, steps // 5, rows=64, rate=5e-3, decay=1.0)
        spoken = one_hot(torch.cat([prompt.phones for prompt in train]), self.phones).float()
        fit(self.alone, (durations, spoken), steps // 5, rows=256, rate=3e-2)
        mels = torch.cat([(prompt.mels - self.loc) / self.scale for prompt in train])
        beside = [frames(prompt.phones, prompt.durations) for prompt in train]
        beside = {key: windows(torch.cat([each[key] for each in beside]), 128, 16) for key in beside[0]}
        # Phones are decided where there is much more noise than signal.
        weighting = pg.diffusion.EDMWeighting(data_scale=1.0, mean=1.2, scale=1.6)
        objective = pg.diffusion.DenoisingScoreMatching(self.spectra, weighting)
        fit(objective, (windows(mels, 128, 16), beside), steps, rows=16, rate=2e-3)

    def program(self, phones: Tensor) -> Tensor:
        """Standardized log-mel spectra of phones, ``(frames, mels)``, by way of durations."""
        durations = pyro.sample("durations", self.durations_of(phones))
        denoiser = self.denoiser_of(int(durations.sum()))
        guided = pg.diffusion.Diffusion(pg.diffusion.ClassifierFree(denoiser, weight=self.guidance))
        return pyro.sample("mels", guided(frames(phones, durations.long())))

    def draw(self, phones: Tensor, durations: Tensor | None = None) -> Tensor:
        """Log-mel spectra of phones, of given durations if there are any."""
        known = {} if durations is None else {"durations": durations.float()}
        return pyro.poutine.condition(self.program, known)(phones) * self.scale + self.loc

    @torch.no_grad()
    def mean(self, phones: Tensor, durations: Tensor) -> Tensor:
        """What the denoiser makes of nothing but noise: the mean of all draws of these durations, without guidance."""
        denoiser = self.denoiser_of(int(durations.sum()))
        found = denoiser(torch.randn(denoiser.event_shape), torch.ones(()), frames(phones, durations))
        return found * self.scale + self.loc

    @torch.no_grad()
    def log_prob(self, phones: Tensor, durations: Tensor) -> Tensor:
        """Of durations, in nats."""
        return self.durations_of(phones).log_prob(durations.float())

    @torch.no_grad()
    def log_prob_alone(self, phones: Tensor, durations: Tensor) -> Tensor:
        """Of durations that depend on their own phones alone, in nats."""
        return self.alone(one_hot(phones, self.phones).float()).log_prob(durations.float()).sum()

    def variance(self, mels: Tensor) -> Tensor:
        """Over time, in variances of the bands over all prompts: the global variance of Toda and Tokuda 2007."""
        return (mels / self.scale).var(0).mean()

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """The mean square, in the same unit."""
        return ((one - other) / self.scale).square().mean()


class Recognizer:
    """Pocketsphinx: phones of words, where they are in a sound, and words of a sound."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self.aligner, self.decoder = (Decoder(samprate=RATE, loglevel="FATAL") for _ in range(2))

    def knows(self, words: tuple[str, ...]) -> bool:
        return bool(words) and all(map(self.decoder.lookup_word, words))

    def spell(self, words: list[str]) -> list[str]:
        """The phones of words by the dictionary, with a pause, which may last nothing, between them and at the ends."""
        return ["SIL", *(phone for word in words for phone in [*self.decoder.lookup_word(word).split(), "SIL"])]

    def align(self, words: list[str], samples: Tensor) -> tuple[list[str], list[int]]:
        """The phones in a sound, with pauses as in :meth:`spell`, and how many frames each of them lasts."""
        for prepare in (partial(self.aligner.set_align_text, " ".join(words)), self.aligner.set_alignment):
            prepare()
            hear(self.aligner, samples)
        found = [("SIL", 0)]
        for word in self.aligner.get_alignment():
            spans = [(phone.name, phone.duration) for phone in word]
            if spans[0][0] == "SIL":
                found[-1] = "SIL", found[-1][1] + spans[0][1]
            else:
                found += [*spans, ("SIL", 0)]
        return tuple(map(list, zip(*found, strict=True)))

    def words(self, samples: Tensor) -> list[str]:
        hear(self.decoder, samples)
        return self.decoder.hyp().hypstr.split() if self.decoder.hyp() else []

    def errors(self, prompts: list[Prompt], sounds: list[Tensor]) -> Tensor:
        """How many words are wrong in each of several sounds."""
        pairs = zip(prompts, sounds, strict=True)
        return torch.tensor([float(edit_distance(self.words(sound), prompt.words)) for prompt, sound in pairs])


def hear(decoder, samples: Tensor) -> None:
    decoder.start_utt()
    decoder.process_raw((samples * (2**15 - 1)).short().numpy().tobytes(), full_utt=True)
    decoder.end_utt()


def recorded(folder: Path, recognizer: Recognizer) -> tuple[list[Prompt], list[str]]:
    """Prompts whose words the dictionary knows and the aligner finds, each text once, and the names of all phones."""
    import av

    with gzip.open(folder / "core-sounds-en.txt.gz", "rt", errors="replace") as lines:
        texts = [line.partition(": ")[::2] for line in lines]
    found = {}
    for name, text in texts:
        words, path = re.sub("[^a-z' ]", " ", text.lower()).split(), folder / f"{name}.g722"
        readable = not re.search(r"[\[\d]", text)  # no tones, and no numbers, which have no letters
        if tuple(words) in found or not readable or not recognizer.knows(words) or not path.exists():
            continue
        with av.open(str(path), format="g722") as file:
            samples = torch.cat([torch.from_numpy(part.to_ndarray())[0] for part in file.decode(audio=0)]) / 2**15
        if len(samples) > 12 * RATE:
            continue
        try:
            found[tuple(words)] = samples, *recognizer.align(words, samples)
        except RuntimeError:  # the words do not fit the sound
            continue
    names = sorted({phone for _, phones, _ in found.values() for phone in phones})
    return [
        prompt(words, numbered(names, recognizer.spell(words)), samples, numbered(names, phones), torch.tensor(lasts))
        for words, (samples, phones, lasts) in found.items()
    ], names


def made(count: int, seed: int) -> tuple[list[Prompt], list[str]]:
    speech, found = vowels.draw(count, seed=seed, length=2 * vowels.RATE), []
    for samples, spoken in zip(*speech, strict=True):
        phones, durations = spoken[:: vowels.RATE * HOP // RATE].unique_consecutive(return_counts=True)
        finer = audio.resample(samples, rate=vowels.RATE, new_rate=RATE)
        found.append(prompt((), phones, finer, phones, durations))
    return found, list(vowels.FORMANTS)


def prompt(words: tuple[str, ...], spelled: Tensor, samples: Tensor, phones: Tensor, durations: Tensor) -> Prompt:
    return Prompt(words, spelled, samples, LOG_MELS(samples)[: int(durations.sum())], phones, durations)


def numbered(names: list[str], phones: list[str]) -> Tensor:
    return torch.tensor([names.index(phone) for phone in phones])


def neighbours(phones: Tensor, count: int) -> Tensor:
    """Each phone and those around it, one-hot."""
    padded = pad(one_hot(phones, count).float(), (0, 0, NEAR, NEAR))
    return padded.unfold(0, 2 * NEAR + 1, 1).flatten(1)


def frames(phones: Tensor, durations: Tensor) -> dict[str, Tensor]:
    """The phone that each frame belongs to, how much of it is over there, and how long it lasts."""
    begins, lasts = (part.repeat_interleave(durations) for part in (durations.cumsum(0) - durations, durations))
    over = (torch.arange(len(lasts)) - begins + 0.5) / lasts
    return {"phone": phones.repeat_interleave(durations), "place": torch.stack([over, lasts.log()], -1)}


def windows(part: Tensor, length: int, hop: int) -> Tensor:
    """``(total, *shape)`` to ``(N, length, *shape)``."""
    return part.unfold(0, length, hop).movedim(-1, 1)


def fit(target: nn.Module, data: object, steps: int, *, rows: int, rate: float, decay: float = 0.0) -> None:
    optimizer = partial(torch.optim.AdamW, weight_decay=decay)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=steps)
    pg.fit(target, data, steps=steps, batch_size=rows, optimizer=optimizer, schedule=schedule, ema=0.99, seed=0)


def sound(mels: Tensor) -> Tensor:
    return LOG_MELS.sound(mels, steps=40).clamp(-1, 1)


def row(name: str, *estimates: Estimate) -> None:
    print(f"{name:<24}" + "".join(f"{estimate.rounded():<20}" for estimate in estimates))


def picture(path: Path, spectra: dict[str, Tensor]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(spectra), 1, figsize=(9, 8), sharex=True, layout="constrained")
    low, high = spectra["natural"].min(), spectra["natural"].max()
    for axis, (title, mels) in zip(axes, spectra.items(), strict=True):
        extent = 0, len(mels) * HOP / RATE, 0, MELS
        axis.imshow(mels.T.numpy(), origin="lower", aspect="auto", vmin=low, vmax=high, extent=extent, cmap="magma")
        axis.set(title=title, ylabel="mel band")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
