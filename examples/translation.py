"""Translation: what a string of a program means in French, how sure that is, and the way back through a noisy channel.

A small transformer reads an English string in both directions and writes a French one, p(fr | en), in byte pairs. It is
compared with a translation memory, the translation of the most similar string that is known, on held-out strings by how
similar that is. Its probabilities are calibrated by a temperature, so it may abstain. The way back needs no second
translator: with a language model p(en) and the same p(fr | en) as an observed site, SequenceSMC gives p(en | fr). The
strings are those of LibreOffice (Debian's package `libreoffice-l10n-fr`; BLEU and chrF need `pip install sacrebleu`);
without the package, a made-up little language stands in.

    python examples/translation.py [--output output/translation] [--seed 0] [--steps 3000] [--texts FOLDER]
"""

from __future__ import annotations

import argparse
import gettext
import re
from functools import partial
from itertools import compress, product
from pathlib import Path

import pyro
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen.autoregressive import beam_search, best_temperature, tempered, transformer
from pyrogen.data import BytePairs, as_source
from pyrogen.inverse import Lookahead, SequenceSMC

LITTLE = ("Open Close Print Save", "Ouvrir Fermer Imprimer Garder"), ("new last", "nouveau dernier"), (
    "file page table line word text", "fichier page tableau ligne mot texte")  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/translation"))
    parser.add_argument("--texts", type=Path, default=Path("/usr/lib/libreoffice/program/resource/fr/LC_MESSAGES"))
    numbers = {"seed": 0, "steps": 3000, "held-out": 600, "symbols": 2000, "length": 20, "particles": 128}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    pairs, length = strings(options.texts), options.length
    tokens = BytePairs.train([text for pair in pairs for text in pair], symbols=options.symbols)
    pairs = [pair for pair in pairs if max(tokens.lengths(pair)) < length]
    pairs = [pairs[place] for place in torch.randperm(len(pairs)).tolist()]
    tested = [pair for pair in pairs if len(pair[0].split()) >= 3][: min(options.held_out, len(pairs) // 5)]
    rest = [pair for pair in pairs if pair not in tested]
    others, known = rest[: len(tested)], rest[len(tested) :]
    parts = [[tokens.encode(texts, length) for texts in zip(*part, strict=True)] for part in (known, others, tested)]
    (x, y), (other, its), (source, truth) = parts
    print(f"{len(x):,} pairs of strings, of less than {length} of {tokens.symbols:,} symbols; {len(source)} held out")

    sizes = {"symbols": tokens.symbols, "end": tokens.end, "width": 128, "dropout": 0.1}
    channel = transformer((length,), (length,), classes=tokens.symbols, source=2, depth=3, **sizes)
    language = transformer((length,), depth=2, **sizes)
    settings = {"batch_size": 64, "clip": 1.0, "ema": 0.99, "seed": options.seed}
    for name, model, data in (("channel", channel, (y, as_source(x))), ("language", language, x)):
        steps = options.steps if name == "channel" else options.steps // 3 + 1
        schedule = partial(OneCycleLR, max_lr=2e-3, total_steps=steps + 1, pct_start=0.1)
        fit = pg.fit(model, data, steps=steps, schedule=schedule, checkpoint=options.output / f"{name}.fit", **settings)
        print(f"{name}: {steps} steps in {fit.history.seconds:.0f} s")
    temperature = round(best_temperature(channel, its, as_source(other)), 1)
    print(f"temperature {temperature}")
    channel, source = tempered(channel, temperature), as_source(source)
    nats = -pg.log_prob(channel, truth, source).sum() / channel(source).lengths(truth).sum()
    error = calibration_error(channel(source), truth)
    best, scores = beam_search(channel(source), 5)
    print(f"{nats:.2f} nats a held-out token; calibration error of the likeliest token {error:.3f}\n")
    english, french = zip(*tested, strict=True)
    memory, similarity = translation_memory(known, english)
    found, sure = tokens.decode(best[0]), scores[0] / channel(source).lengths(best[0])
    groups = {"all": sure.isfinite(), "unlike any known (< 0.6)": similarity < 0.6, "surer half": sure >= sure.median()}
    for name, chosen in groups.items():
        ours, theirs, right = (list(compress(texts, chosen)) for texts in (found, memory, french))
        if right:
            print(f"{name} ({len(right)}): model {quality(ours, right)}; memory {quality(theirs, right)}")
    print(f"\n{english[0]}")
    for score, text in zip(scores[:, 0].exp(), tokens.decode(best[:, 0]), strict=True):
        print(f"   {score:6.1%} {text}")

    def noisy_channel(heard: torch.Tensor) -> None:
        meant = pyro.sample("english", language())
        pyro.sample("french", channel(as_source(meant)), obs=heard)

    def so_far(prefixes: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """The log-probability of the French string were this all of the English one: half of it, to be mild."""
        padded = torch.nn.functional.pad(prefixes, (0, length - prefixes.shape[1]))
        return 0.5 * channel(as_source(padded)).log_prob(heard)

    for place in range(2):
        twist = Lookahead(partial(so_far, heard=truth[place]))
        method = SequenceSMC(noisy_channel, site="english", twist=twist, particles=options.particles)
        posterior = method.run(truth[place])
        print(f"\n{french[place]} (log evidence {posterior.log_evidence:.1f})")
        draws, counts = posterior.get_samples()["english"].unique(dim=0, return_counts=True)
        for row in counts.argsort(descending=True)[:3]:
            print(f"   {counts[row] / counts.sum():6.1%} {tokens.decode(draws[row])}")


def strings(folder: Path) -> list[tuple[str, str]]:
    """Pairs of strings of the translated messages of a program; without any, of a little language."""
    found = {}
    for path in sorted(folder.glob("*.mo")):
        with path.open("rb") as file:
            messages = gettext.GNUTranslations(file)._catalog
        for key in (key for key in messages if isinstance(key, str)):  # others have plurals
            texts = key.split("\x04")[-1], messages[key]
            source, target = (re.sub("[~_&]", "", text).strip() for text in texts)
            if source and target and max(len(source), len(target)) <= 120:
                found[source] = target
    made = product(*(zip(english.split(), french.split(), strict=True) for english, french in LITTLE))
    return list(found.items()) or [(f"{a} {b} {c}", f"{d} le {f} {e}") for (a, d), (b, e), (c, f) in made]


def translation_memory(known: list[tuple[str, str]], texts: tuple[str, ...]) -> tuple[list[str], torch.Tensor]:
    """The translation of the known string that is most similar to each, by its characters, and how similar it is."""
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    similarity = vectors.fit_transform([source for source, _ in known]) @ vectors.transform(texts).T
    best, place = torch.as_tensor(similarity.toarray()).max(0)
    return [known[row][1] for row in place], best


def calibration_error(translations: pyro.distributions.TorchDistribution, truth: torch.Tensor) -> torch.Tensor:
    """How far the probability of the likeliest token is from how often it is the true one, over ten equal bins."""
    there = torch.arange(truth.shape[1]) < translations.lengths(truth).unsqueeze(1)
    probability, symbol = translations.conditionals(truth).log_probs.exp().max(-1)
    probability, right = probability[there], (symbol == truth)[there].float()
    bins = torch.nn.functional.one_hot((10 * probability).long().clamp(max=9), 10).float()
    return (bins.T @ (probability - right)).abs().sum() / len(right)


def quality(found: list[str], truth: list[str]) -> str:
    """How good translations are: the share that is right, BLEU, and chrF."""
    right = sum(map(str.__eq__, found, truth)) / max(len(truth), 1)
    try:
        import sacrebleu
    except ImportError:
        return f"{right:.0%} exact"
    bleu, chrf = sacrebleu.corpus_bleu(found, [truth]).score, sacrebleu.corpus_chrf(found, [truth]).score
    return f"{right:.0%} exact, BLEU {bleu:.1f}, chrF {chrf:.1f}"


if __name__ == "__main__":
    main()
