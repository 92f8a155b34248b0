"""Which is real? Five generators make pictures, and detectors say how probable it is that a picture is real.

Families of pyrogen learn one half of the pictures; the other half is kept to tell fakes from. A detector is a density
ratio, calibrated on pictures that it has not seen, and then tested on fakes of generators that it has never met, where
it may fail. A batch of ten pictures has a p-value whose false alarms are as rare as promised, whatever the detector is
worth. Last, the likelihoods of the generators say whose fakes they are.

    python examples/which_is_real.py [--data digits|mnist|faces|photographs] [--output output] [--steps 600] [--seed 0]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import avg_pool2d
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.evaluation import Estimate, attribution, auroc, energy_test, ratio_test, reliability, two_sided_p_value
from pyrogen.implicit import R1, R2, Game, RatioEstimate, convolutional, convolutional_critic

BATCH, share = 10, partial(Estimate.of_share, unit="")


def pictures(name, seed):
    """Small pictures of few grey levels: a half for generators, a half for detectors, and how many levels."""
    if name == "photographs":  # from the left and from the right of each photograph
        left, right = pg.data.photographs(8, shrink=2, stride=4)
        return left.pixels // 16, right.pixels // 16, 16
    pixels, labels, symbols = getattr(pg.data, name)()
    if name != "digits":
        pixels = pixels[labels == 1, :, :24, :24] if name == "faces" else pixels
        pixels, symbols = avg_pool2d(pixels.float(), 2).long() // 16, 16
    (made_from,), (kept,) = pg.data.split(pixels, sizes=(0.5, 0.5), seed=seed)
    return made_from, kept, symbols


def fitted(module, data, steps, lr, seed, ema=0.99):
    schedule = partial(CosineAnnealingLR, T_max=steps)
    pg.fit(module, data, steps=steps, batch_size=64, lr=lr, schedule=schedule, ema=ema, seed=seed)
    return module.eval()


def generators(x, symbols, steps, seed):
    """One of each family, all of integers; that of the game draws, and has no density."""
    shape = tuple(x.shape[1:])
    flow = pg.flows.spline_coupling(shape, interval=(0.0, 1.0), hidden=(128, 128), dropout=0.2)
    game = convolutional(shape, noise=(16,), channels=(64, 32), interval=(0.0, 1.0))
    critic = convolutional_critic(shape, channels=(32, 64))
    made = {
        "VAE": pg.latent.categorical_vae(shape, latent_shape=(8,), symbols=symbols),
        "flow": pg.flows.Dequantized(flow, symbols),
        "pixels": pg.autoregressive.pixel_cnn(shape, symbols=symbols, width=32, depth=3),
        "diffusion": pg.diffusion.unet(shape, symbols=symbols, channels=(16, 32), depth=1),
    }
    for module, times, lr in zip(made.values(), (3, 1, 1, 1), (1e-3, 2e-3, 2e-3, 3e-3), strict=True):
        fitted(module, x, times * steps, lr, seed)
    made["flow"].draws = made["diffusion"].draws = 16  # for tighter bounds, after training
    real_numbers = pg.data.dequantize(x, symbols, seed=seed)
    fitted(Game(game, critic, penalties=(R1(0.5), R2(0.5))), real_numbers, steps, 2e-3, seed, ema=0.995)
    return made | {"game": pg.flows.Dequantized(game, symbols).eval()}


def detectors(real, fakes, steps, seed):
    """Ratios of real pictures to fakes: for each generator, one that learned from its fakes, and one that never did."""

    def trained(learn, calibrate):
        shape = tuple(learn.shape[1:])
        ratio = RatioEstimate(critics=convolutional_critic(shape, channels=(16, 32)), event_shape=shape)
        many = real[0].repeat(-(-len(learn) // len(real[0])), 1, 1, 1)[: len(learn)]  # as many as there are fakes
        fitted(ratio, (many, learn), steps, 1e-3, seed)
        ratio.calibrate(real[1], calibrate[: len(real[1])])  # on pictures that it has not seen
        return ratio

    def without(name, part):
        return torch.stack([fake[part] for other, fake in fakes.items() if other != name], 1).flatten(0, 1)

    seen = {name: trained(*fake[:2]) for name, fake in fakes.items()}
    return seen, {name: trained(without(name, 0), without(name, 1)) for name in fakes}


@torch.no_grad()
def scores(ratio, x):
    """Log-ratios, whose logistic function is the probability that a picture is real, of as many real ones as fakes."""
    return ratio(x).double()


def separated(real, fakes, seen, unseen):
    """The AUROC of each detector on each generator's fakes, printed."""

    def area(ratio, name):
        return auroc(-scores(ratio, real), -scores(ratio, fakes[name]))

    areas = {row: {name: area(ratio, name) for name in fakes} for row, ratio in seen.items()}
    areas["all others"] = {name: area(unseen[name], name) for name in fakes}
    print("AUROC (95 % interval); rows: whose fakes the detector learned from, columns: whose it is tested on")
    print(f"{'':10}" + "".join(f"{name:>22}" for name in fakes))
    for row, found in areas.items():
        cells = (f"{a.value:.3f} ({a.interval()[0]:.3f}-{a.interval()[1]:.3f})" for a in found.values())
        print(f"{row:10}" + "".join(f"{cell:>22}" for cell in cells))
    return areas


def probable(real, fakes, seen, unseen):
    """Whether stated probabilities of being real are right, printed; of as many fakes as there are real pictures."""
    first, found = next(iter(seen)), {}
    outcomes = torch.arange(2 * len(real)) < len(real)
    cases = {f"{first} detector on {name}": (seen[first], name) for name in fakes}
    cases |= {f"detector that never saw {name}": (unseen[name], name) for name in fakes}
    print("Is the stated probability of being real right?")
    for title, (ratio, name) in cases.items():
        log_ratios = scores(ratio, torch.cat([real, fakes[name][: len(real)]]))
        if not found:
            found["not calibrated"] = reliability(((log_ratios - ratio.offset) / ratio.slope).sigmoid(), outcomes)
            print(f"  not calibrated: {found['not calibrated']}")
        found[title] = reliability(log_ratios.sigmoid(), outcomes)
        print(f"  {title}: {found[title]}")
    return found


def alarms(real, fakes, seen, unseen, batches, seed):
    """How often ten pictures differ from other real ones at 5 %: real ones at random, and fakes; printed."""
    generator = torch.Generator().manual_seed(seed)

    def by_ratio(x, y, **settings):
        return ratio_test(lambda rows: rows[:, 0], x, y, **settings)

    ways = {
        "energy distance": lambda name: (energy_test, lambda x: x.flatten(1)),
        "detector, seen": lambda name: (by_ratio, lambda x: scores(seen[name], x)[:, None]),
        "detector, unseen": lambda name: (by_ratio, lambda x: scores(unseen[name], x)[:, None]),
    }
    rates = {row: [] for row in ["real", *fakes]}
    for way in ways.values():
        false = []
        for name, fake in fakes.items():
            test, features = way(name)
            test = partial(test, permutations=199, generator=generator)
            x, batched = features(real), features(fake).split(BATCH)[:batches]
            orders = [torch.randperm(len(x), generator=generator) for _ in batched]
            false += [test(x[order[BATCH:]], x[order[:BATCH]]).p_value <= 0.05 for order in orders]
            rates[name].append(share(torch.tensor([test(x[BATCH:], batch).p_value <= 0.05 for batch in batched])))
        rates["real"].append(share(torch.tensor(false)))
    print(f"Share of batches of {BATCH} with p at most 0.05, beside {len(real) - BATCH} real pictures")
    print(f"{'':10}" + "".join(f"{way:>18}" for way in ways))
    for row, found in rates.items():
        print(f"{row:10}" + "".join(f"{rate.rounded():>18}" for rate in found))


def attributed(models, sources, seed):
    """Whose pictures are these? By likelihoods, for all sources that have one, and for the two that have none."""
    models = {name: model for name, model in models.items() if model.density is not None}
    found = {source: attribution(models, x) for source, x in sources.items()}
    print("Evidence, nats a picture: rows: whose pictures, columns: under which model")
    print(f"{'':10}" + "".join(f"{name + ', ' + model.density:>25}" for name, model in models.items()))
    for source, answer in found.items():
        print(f"{source:10}" + "".join(f"{mean.rounded():>25}" for mean in answer.evidence.values()))
    print("what the posterior of each model is:", found["VAE"].meanings)
    right, ten = ([] for _ in range(2))
    for place, name in enumerate(models):
        right.append(found[name].sources == place)
        together = found[name].log_probs.unflatten(0, (-1, BATCH)).sum(1)
        ten.append(together.argmax(1) == place)
    print(f"right: {share(torch.cat(right))} of single pictures, {share(torch.cat(ten))} of batches of {BATCH}")
    shares = torch.stack(
        [answer.sources.bincount(minlength=len(models)) / len(answer.sources) for answer in found.values()]
    )
    known = {name: found[name].log_probs[::2, place] for place, name in enumerate(models)}
    print("like none of the draws of the model that they are attributed to, p at most 0.05:")
    for source, answer in found.items():
        every = torch.stack(
            [two_sided_p_value(answer.log_probs[1::2, k], known[name]) for k, name in enumerate(known)], 1
        )
        p = every.gather(1, answer.sources[1::2, None])
        print(
            f"  {source}: {share(p[:, 0] <= 0.05)}; mean of the highest posterior {answer.posterior.amax(1).mean():.3f}"
        )
    x = torch.stack([answer.log_probs for answer in found.values()])  # (sources, pictures, models)
    truth = torch.arange(len(x))[:, None].expand(x.shape[:2])
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    reader.fit(x[:, ::2].flatten(0, 1).numpy(), truth[:, ::2].flatten().numpy())
    stated, chosen = torch.from_numpy(reader.predict_proba(x[:, 1::2].flatten(0, 1).numpy())).max(1)
    hit = chosen == truth[:, 1::2].flatten()
    print(f"the same log-probabilities read by a regression, for all {len(x)} sources:")
    print(f"  right: {share(hit)} of single pictures; {reliability(stated, hit)}")
    return shares


def drawn(real, fakes, areas, shares, models):
    """Pictures, the AUROC of all detectors, and to whom pictures are attributed."""
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained", width_ratios=(1.5, 1.1, 1))
    rows = [real, *fakes.values()]
    mosaic = torch.cat([torch.cat([*row[:12]], -1) for row in rows], -2)
    axes[0].imshow(mosaic.movedim(0, -1) / mosaic.max(), cmap="gray", interpolation="nearest")
    height = mosaic.shape[1] / len(rows)
    axes[0].set_yticks([(place + 0.5) * height for place in range(len(rows))], ["real", *fakes])
    axes[0].set_xticks([])
    tables = (
        (torch.tensor([[a.value for a in row.values()] for row in areas.values()]), areas, fakes, 0.5),
        (shares, ["real", *fakes], models, 0.0),
    )
    for axis, (values, names, columns, low) in zip(axes[1:], tables, strict=True):
        axis.imshow(values, cmap="Blues", vmin=low, vmax=1, aspect="auto")
        for row, column in [(row, column) for row in range(len(names)) for column in range(len(columns))]:
            value = float(values[row, column])
            colour = "white" if value > (1 + low) / 2 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(names)), names)
    axes[1].set(title="AUROC of detectors", xlabel="fakes of", ylabel="learned from")
    axes[2].set(title="attributed by likelihood", xlabel="to", ylabel="pictures of")
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--data", choices=("digits", "mnist", "faces", "photographs"), default="digits")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(args.seed)

    few = args.steps < 100
    made_from, kept, symbols = pictures(args.data, args.seed)
    real = [part.float() for (part,) in pg.data.split(kept, sizes=(0.5, 0.15, 0.35), seed=args.seed)]
    print(f"{args.data}: {len(made_from)} for generators; for detectors {', '.join(str(len(part)) for part in real)}")
    models = generators(made_from, symbols, args.steps, args.seed)
    counts = (60, 150, 400) if few else (1000, 150, 1000)
    with torch.no_grad():
        fakes = {name: model().sample((sum(counts),)).float().split(counts) for name, model in models.items()}
    seen, unseen = detectors(real, fakes, args.steps // 2, args.seed)
    tested = {name: fake[2] for name, fake in fakes.items()}
    areas = separated(real[2], tested, seen, unseen)
    found = probable(real[2], tested, seen, unseen)
    alarms(real[2], tested, seen, unseen, 2 if few else 100, args.seed)
    some = 20 if few else 200
    shares = attributed(models, {"real": real[2][:some]} | {name: x[:some] for name, x in tested.items()}, args.seed)
    named = [name for name, model in models.items() if model.density is not None]
    drawn(real[2], tested, areas, shares, named).savefig(args.output / "which_is_real.png", dpi=150)
    pg.analysis.reliability_diagram(found).savefig(args.output / "reliability.png", dpi=150)


if __name__ == "__main__":
    main()
