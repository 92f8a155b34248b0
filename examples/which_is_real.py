"""Which is real: five generators make pictures, and detectors say how probable it is that a picture is real.

Families of pyrogen learn one half of the digits; the other half is kept to tell fakes from. A detector is a density
ratio, calibrated on pictures that it has not seen, and then tested on fakes of generators that it has never met, where
it may fail. A batch of ten has a p-value whose false alarms are as rare as promised, whatever the detector is worth.

    python examples/which_is_real.py [--output output] [--steps 400] [--seed 0]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch

import pyrogen as pg
from pyrogen.evaluation import Estimate, auroc, energy_test, ratio_test, reliability, table
from pyrogen.implicit import R1, R2, Game, RatioEstimate, convolutional, convolutional_critic

BATCH, SYMBOLS = 10, 17


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(args.seed)
    few = args.steps < 100
    (made_from,), (kept,) = pg.data.split(pg.data.digits().pixels, sizes=(0.5, 0.5), seed=args.seed)
    parts = pg.data.split(kept[:100] if few else kept, sizes=(0.5, 0.15, 0.35), seed=args.seed)
    real, counts = [part.float() for (part,) in parts], (60, 20, 40) if few else (1000, 150, 1000)
    print(f"{len(made_from)} digits for generators; for detectors {', '.join(str(len(part)) for part in real)}")
    models = generators(made_from, SYMBOLS, args.steps, args.seed)
    with torch.no_grad():
        fakes = {name: model().sample((sum(counts),)).float().split(counts) for name, model in models.items()}
    pictures = {"real": real[2]} | {name: fake[2] for name, fake in fakes.items()}
    trained = {name: detector(real, fake, args.steps, args.seed) for name, fake in fakes.items()}
    seen = {name: scores(ratio, pictures) for name, ratio in trained.items()}
    unseen = {name: scores(detector(real, others(fakes, name), args.steps, args.seed), pictures) for name in fakes}

    drawn(pictures, separated(seen, unseen)).savefig(args.output / "which_is_real.png", dpi=150)
    shown = dict([*probable(seen, unseen, trained["VAE"]).items()][:4])
    alarms(pictures, seen, unseen, 2 if few else 100, args.seed)
    pg.analysis.reliability_diagram(shown).savefig(args.output / "which_is_real_reliability.png", dpi=150)


def fitted(module, data, steps, lr, seed, ema=0.99):
    falling = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    pg.fit(module, data, steps=steps, batch_size=64, lr=lr, schedule=falling, ema=ema, seed=seed)
    return module


def generators(x, symbols, steps, seed):
    """One of each family, all of integers."""
    shape = x.shape[1:]
    flow = pg.flows.spline_coupling(shape, interval=(0.0, 1.0), hidden=(128, 128), dropout=0.2)
    game = convolutional(shape, noise=(16,), channels=(64, 32), interval=(0.0, 1.0))
    made = {
        "VAE": pg.latent.categorical_vae(shape, latent_shape=(8,), symbols=symbols),
        "flow": pg.flows.Dequantized(flow, symbols),
        "pixels": pg.autoregressive.pixel_cnn(shape, symbols=symbols, width=32, depth=3),
        "diffusion": pg.diffusion.unet(shape, symbols=symbols, channels=(16, 32), depth=1),
    }
    for module, times, lr in zip(made.values(), (3, 1, 1, 1), (1e-3, 2e-3, 2e-3, 3e-3), strict=True):
        fitted(module, x, times * steps, lr, seed)
    critic, numbers = convolutional_critic(shape, channels=(32, 64)), pg.data.dequantize(x, symbols, seed=seed)
    fitted(Game(game, critic, penalties=(R1(0.5), R2(0.5))), numbers, steps, 2e-3, seed, ema=0.995)
    return made | {"game": pg.flows.Dequantized(game, symbols)}


def detector(real, fakes, steps, seed):
    """The log-ratio of real pictures to fakes, learned from the first part of both and calibrated on the second."""
    shape = real[0].shape[1:]
    ratio = RatioEstimate(critics=convolutional_critic(shape, channels=(32, 64)), event_shape=shape)
    many = real[0][torch.arange(len(fakes[0])) % len(real[0])]  # as many as there are fakes
    fitted(ratio, (many, fakes[0]), steps, 2e-3, seed).calibrate(real[1], fakes[1][: len(real[1])])
    return ratio


def others(fakes, name):
    """The fakes of all other generators, in turn, to learn and to calibrate."""
    return [torch.stack([x[part] for other, x in fakes.items() if other != name], 1).flatten(0, 1) for part in (0, 1)]


def scores(ratio, pictures):
    """Log-ratios, whose logistic function is the probability of being real, among as many real pictures as fakes."""
    return {source: ratio(x).detach().double() for source, x in pictures.items()}


def separated(seen, unseen):
    """The AUROC of each detector on each generator's fakes."""
    areas = {row: [auroc(-found["real"], -found[name]) for name in seen] for row, found in seen.items()}
    areas["all others"] = [auroc(-found["real"], -found[name]) for name, found in unseen.items()]
    print("\nAUROC; rows: whose fakes a detector learned from, columns: on whose it is tested")
    print(table(list(seen), {row: [str(area)[6:] for area in found] for row, found in areas.items()}))
    return areas


def probable(seen, unseen, first):
    """Whether stated probabilities of being real are right, of as many fakes as real pictures."""
    cases = {f"VAE detector on {name}": (seen["VAE"], name) for name in seen}
    cases |= {f"detector that never saw {name}": (found, name) for name, found in unseen.items()}
    log_ratios = {title: torch.cat([x["real"], x[name][: len(x["real"])]]) for title, (x, name) in cases.items()}
    log_ratios = {"not calibrated": (log_ratios["VAE detector on VAE"] - first.offset) / first.slope} | log_ratios
    happened = torch.tensor([True, False]).repeat_interleave(len(seen["VAE"]["real"]))
    found = {title: reliability(x.sigmoid(), happened) for title, x in log_ratios.items()}
    print("\nIs the stated probability of being real right?")
    print(*(f"{title}: {answer}" for title, answer in found.items()), sep="\n")
    return found


def alarms(pictures, seen, unseen, batches, seed):
    """How often ten pictures differ from other real ones at 5 %: real ones at random, and fakes, by three tests."""
    generator, rates = torch.Generator().manual_seed(seed), {source: [] for source in pictures}
    of_scores = partial(ratio_test, lambda rows: rows[:, 0])
    for test, views in ((energy_test, dict.fromkeys(seen, pictures)), (of_scores, seen), (of_scores, unseen)):
        false = []
        for name, view in views.items():
            x, fake = (view[source].reshape(len(view[source]), -1) for source in ("real", name))
            mixed = [x[torch.randperm(len(x), generator=generator)] for _ in range(batches)]
            pairs = [(rows[BATCH:], rows[:BATCH]) for rows in mixed]
            pairs += [(x[BATCH:], rows) for rows in fake.split(BATCH)[:batches]]
            p = torch.tensor([test(*pair, permutations=199, generator=generator).p_value for pair in pairs])
            false.append(p[:batches] <= 0.05)
            rates[name].append(Estimate.of_share(p[batches:] <= 0.05, unit=""))
        rates["real"].append(Estimate.of_share(torch.cat(false), unit=""))
    print(f"\nBatches of {BATCH} that differ from {len(pictures['real']) - BATCH} real pictures, p at most 0.05")
    print(table(["pixels", "detector, seen", "detector, unseen"], rates))
    return rates


def drawn(pictures, areas):
    """Fakes, with the AUROC of the detector that knows their generator, and of the one that does not; real pictures."""
    (_, real), *fakes = pictures.items()
    known, other = ([areas[row or name][k].value for k, (name, _) in enumerate(fakes)] for row in ("", "all others"))
    rows = [f"{name}: {mine:.2f}, {theirs:.2f}" for (name, _), mine, theirs in zip(fakes, known, other, strict=True)]
    tiles = torch.stack([x[:12] for _, x in fakes]), real[: 6 * len(fakes)].unflatten(0, (-1, 6))
    names = ("fakes, and the AUROC of a detector that knows their generator, and of one that does not", "real")
    return pg.analysis.image_grid(*tiles, rows=rows, names=names, limits=(0, SYMBOLS - 1))


if __name__ == "__main__":
    main()
