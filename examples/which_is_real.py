"""Which is real: five generators make pictures, and detectors say how probable it is that a picture is real.

Families of pyrogen learn one half of the pictures; the other half is kept to tell fakes from. A detector is a density
ratio, calibrated on pictures that it has not seen, and then tested on fakes of generators that it has never met, where
it may fail. A batch of ten pictures has a p-value whose false alarms are as rare as promised, whatever the detector is
worth. Last, the likelihoods of the generators say whose fakes they are.

    python examples/which_is_real.py [--data digits|mnist|faces|photographs] [--output output] [--steps 400] [--seed 0]
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
from torch.nn.functional import avg_pool2d, pad
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.evaluation import Estimate, attribution, auroc, energy_test, ratio_test, reliability, two_sided_p_value
from pyrogen.implicit import R1, R2, Game, RatioEstimate, convolutional, convolutional_critic

BATCH, share = 10, partial(Estimate.of_share, unit="")


def pictures(name, seed):
    """Small pictures of few grey levels: a half for generators, a half for detectors, and how many levels."""
    if name == "photographs":  # from the left and from the right of each photograph
        left, right = pg.data.photographs(8, shrink=2, stride=4)
        return *(part.pixels.float().mean(1, keepdim=True).long() // 16 for part in (left, right)), 16
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
        ratio = RatioEstimate(critics=convolutional_critic(shape, channels=(32, 64)), event_shape=shape)
        many = real[0].repeat(-(-len(learn) // len(real[0])), 1, 1, 1)[: len(learn)]  # as many as there are fakes
        fitted(ratio, (many, learn), steps, 2e-3, seed)
        ratio.calibrate(real[1], calibrate[: len(real[1])])  # on pictures that it has not seen
        return ratio

    def without(name, part):
        return torch.stack([fake[part] for other, fake in fakes.items() if other != name], 1).flatten(0, 1)

    seen = {name: trained(*fake[:2]) for name, fake in fakes.items()}
    return seen, {name: trained(without(name, 0), without(name, 1)) for name in fakes}


def table(title, columns, rows, width):
    print(f"\n{title}\n{'':10}" + "".join(f"{name:>{width}}" for name in columns))
    for name, cells in rows.items():
        print(f"{name:10}" + "".join(f"{cell!s:>{width}}" for cell in cells))


@torch.no_grad()
def scores(ratio, x):
    """Log-ratios, whose logistic function is the probability of being real, among as many real pictures as fakes."""
    return ratio(x).double()


def separated(real, fakes, seen, unseen):
    """The AUROC of each detector on each generator's fakes."""

    def area(ratio, name):
        return auroc(-scores(ratio, real), -scores(ratio, fakes[name]))

    areas = {row: [area(ratio, name) for name in fakes] for row, ratio in seen.items()}
    areas["all others"] = [area(unseen[name], name) for name in fakes]
    cells = {row: [str(area).removeprefix("AUROC ") for area in found] for row, found in areas.items()}
    table("AUROC; rows: whose fakes a detector learned from, columns: on whose it is tested", fakes, cells, 24)
    return areas


def probable(real, fakes, seen, unseen):
    """Whether stated probabilities of being real are right, of as many fakes as there are real pictures."""
    first, found = next(iter(seen)), {}
    cases = {f"{first} detector on {name}": (seen[first], name) for name in fakes}
    cases |= {f"detector that never saw {name}": (unseen[name], name) for name in fakes}
    for title, (ratio, name) in cases.items():
        log_ratios = scores(ratio, torch.cat([real, fakes[name][: len(real)]]))
        outcomes = torch.arange(len(log_ratios)) < len(real)
        if not found:
            found["not calibrated"] = reliability(((log_ratios - ratio.offset) / ratio.slope).sigmoid(), outcomes)
        found[title] = reliability(log_ratios.sigmoid(), outcomes)
    print("\nIs the stated probability of being real right?")
    print("\n".join(f"{title}: {answer}" for title, answer in found.items()))
    return found


def alarms(real, fakes, seen, unseen, batches, seed):
    """How often ten pictures differ from other real ones at 5 %: real ones at random, and fakes."""
    generator = torch.Generator().manual_seed(seed)

    def differ(way, x, y):
        test = energy_test if way == "pixels" else partial(ratio_test, lambda rows: rows[:, 0])
        return test(x, y, permutations=199, generator=generator).p_value <= 0.05

    views = {
        "pixels": {name: lambda x: x.flatten(1) for name in fakes},
        "detector, seen": {name: lambda x, ratio=ratio: scores(ratio, x)[:, None] for name, ratio in seen.items()},
        "detector, unseen": {name: lambda x, ratio=ratio: scores(ratio, x)[:, None] for name, ratio in unseen.items()},
    }
    rates = {row: [] for row in ("real", *fakes)}
    for way, view in views.items():
        false = []
        for name, fake in fakes.items():
            x, batched = view[name](real), view[name](fake).split(BATCH)[:batches]
            mixed = [x[torch.randperm(len(x), generator=generator)] for _ in batched]
            false += [differ(way, rows[BATCH:], rows[:BATCH]) for rows in mixed]
            rates[name].append(share(torch.tensor([differ(way, x[BATCH:], batch) for batch in batched])))
        rates["real"].append(share(torch.tensor(false)))
    table(f"Batches of {BATCH} that differ from {len(real) - BATCH} real pictures, p at most 0.05", views, rates, 20)


def attributed(models, sources):
    """Whose are these? By the likelihoods of the generators that have one, of pictures of all sources."""
    found = {source: attribution(models, x) for source, x in sources.items()}
    evidence = {source: [mean.rounded() for mean in answer.evidence.values()] for source, answer in found.items()}
    columns = [f"{name} ({model.density})" for name, model in models.items()]
    table("Nats a picture; rows: whose it is, columns: under which model", columns, evidence, 25)
    print("What the posterior probability of a model is:", found["real"].meanings)
    for size in (1, BATCH):
        right = torch.cat([found[name].grouped(size).sources == place for place, name in enumerate(models)])
        print(f"the right one of {len(models)}, given {size} of its pictures: {share(right)}")
    x = torch.stack([answer.log_probs for answer in found.values()])  # (sources, pictures, models)
    first, second, truth = x[:, ::2], x[:, 1::2], torch.arange(len(x)).repeat_interleave(x.shape[1] // 2)
    own = {name: first[list(found).index(name), :, place] for place, name in enumerate(models)}
    p = torch.stack([two_sided_p_value(second[..., place], own[name]) for place, name in enumerate(models)]).amax(0)
    strange = [f"{source} {share(row <= 0.05)}" for source, row in zip(found, p, strict=True)]
    print("like the draws of none of them, p at most 0.05:", ", ".join(strange))
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=5000))
    reader.fit(first.flatten(0, 1).numpy(), truth.numpy())
    stated, chosen = torch.from_numpy(reader.predict_proba(second.flatten(0, 1).numpy())).max(1)
    print(f"the right one of {len(x)} sources, by a regression on these log-probabilities: {share(chosen == truth)}")
    print(f"  its probabilities: {reliability(stated, chosen == truth)}")
    return torch.stack([answer.sources.bincount(minlength=len(models)) / x.shape[1] for answer in found.values()])


def drawn(real, fakes, areas, shares, models):
    """Pictures, the AUROC of all detectors, and to whom pictures are attributed."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=(1.7, 1.1, 0.9))
    rows = [real, *fakes.values()]
    framed = [pad(row[:10] / real.max(), (1, 1, 1, 1), value=1.0) for row in rows]
    mosaic = torch.cat([torch.cat([*row], -1) for row in framed], -2)
    axes[0].imshow(mosaic[0].numpy(), cmap="gray", interpolation="nearest")
    height = mosaic.shape[1] / len(rows)
    axes[0].set_yticks([(place + 0.5) * height for place in range(len(rows))], ["real", *fakes])
    axes[0].set_xticks([])
    axes[0].spines[:].set_visible(False)
    tables = (
        (torch.tensor([[area.value for area in row] for row in areas.values()]), areas, fakes, 0.5),
        (shares, ["real", *fakes], models, 0.0),
    )
    for axis, (values, names, columns, low) in zip(axes[1:], tables, strict=True):
        axis.imshow(values.numpy(), cmap="Blues", vmin=low, vmax=1, aspect="auto")
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
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--data", choices=("digits", "mnist", "faces", "photographs"), default="digits")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(args.seed)

    few = args.steps < 100
    made_from, kept, symbols = pictures(args.data, args.seed)
    kept = kept[:100] if few else kept
    real = [part.float() for (part,) in pg.data.split(kept, sizes=(0.5, 0.15, 0.35), seed=args.seed)]
    print(f"{args.data}: {len(made_from)} for generators; for detectors {', '.join(str(len(part)) for part in real)}")
    models = generators(made_from, symbols, args.steps, args.seed)
    counts = (60, 20, 40) if few else (1000, 150, 1000)
    with torch.no_grad():
        fakes = {name: model().sample((sum(counts),)).float().split(counts) for name, model in models.items()}
    seen, unseen = detectors(real, fakes, args.steps, args.seed)
    tested = {name: fake[2] for name, fake in fakes.items()}
    areas = separated(real[2], tested, seen, unseen)
    found = probable(real[2], tested, seen, unseen)
    alarms(real[2], tested, seen, unseen, 2 if few else 100, args.seed)
    scored = {name: model for name, model in models.items() if model.density is not None}
    count = min(20 if few else 200, len(real[2]) // BATCH * BATCH)
    shares = attributed(scored, {name: x[:count] for name, x in {"real": real[2], **tested}.items()})
    drawn(real[2], tested, areas, shares, scored).savefig(args.output / "which_is_real.png", dpi=150)
    shown = dict([*found.items()][:4])
    pg.analysis.reliability_diagram(shown).savefig(args.output / "which_is_real_reliability.png", dpi=150)


if __name__ == "__main__":
    main()
