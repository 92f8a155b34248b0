"""Which model: the likelihoods of generators say which of them made a picture, with a probability.

Five families of pyrogen learn one half of the digits. Four of them have a likelihood, and by Bayes' rule these tell
whose a picture is, one at a time and ten at a time; where a likelihood is only bounded, so is the probability, or it is
not known at all. Real digits and those of the fifth, a game, are of none of the four, and attributed to one of them all
the same. Their ranks among each model's own draws may show that, and a regression on all log-probabilities tells the
six sources apart.

    python examples/which_model.py [--output output] [--steps 400] [--seed 0]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.evaluation import Estimate, attribution, reliability, table, two_sided_p_value
from pyrogen.implicit import R1, R2, Game, convolutional, convolutional_critic

BATCH, SHAPE, SYMBOLS = 10, (1, 8, 8), 17
share = partial(Estimate.of_share, unit="")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(args.seed)

    (made_from,), (kept,) = pg.data.split(pg.data.digits().pixels, sizes=(0.5, 0.5), seed=args.seed)
    count = 20 if args.steps < 100 else 300
    print(f"{len(made_from)} digits for generators; {count} of others, and of each generator, to attribute")
    models = generators(made_from, args.steps, args.seed)
    with torch.no_grad():
        sources = {"real": kept[:count]} | {name: model().sample((count,)) for name, model in models.items()}
    models = {name: model for name, model in models.items() if model.density is not None}
    found = {source: attribution(models, x) for source, x in sources.items()}
    attributed(models, found)
    unknown(found)
    told_apart(found)
    chosen = [answer.sources.bincount(minlength=len(models)) / count for answer in found.values()]
    shaded(torch.stack(chosen), list(found), list(models)).savefig(args.output / "which_model.png", dpi=150)


def fitted(module, data, steps, lr, seed, ema=0.99):
    falling = partial(CosineAnnealingLR, T_max=steps)
    pg.fit(module, data, steps=steps, batch_size=64, lr=lr, schedule=falling, ema=ema, seed=seed)


def generators(x, steps, seed):
    """One of each family, all of integers; that of the game draws, and has no density."""
    flow = pg.flows.spline_coupling(SHAPE, interval=(0.0, 1.0), hidden=(128, 128), dropout=0.2)
    game = convolutional(SHAPE, noise=(16,), channels=(64, 32), interval=(0.0, 1.0))
    critic = convolutional_critic(SHAPE, channels=(32, 64))
    made = {
        "VAE": pg.latent.categorical_vae(SHAPE, latent_shape=(8,), symbols=SYMBOLS),
        "flow": pg.flows.Dequantized(flow, SYMBOLS),
        "pixels": pg.autoregressive.pixel_cnn(SHAPE, symbols=SYMBOLS, width=32, depth=3),
        "diffusion": pg.diffusion.unet(SHAPE, symbols=SYMBOLS, channels=(16, 32), depth=1),
    }
    for module, times, lr in zip(made.values(), (3, 1, 1, 1), (1e-3, 2e-3, 2e-3, 3e-3), strict=True):
        fitted(module, x, times * steps, lr, seed)
    made["flow"].draws = made["diffusion"].draws = 16  # for tighter bounds, after training
    real_numbers = pg.data.dequantize(x, SYMBOLS, seed=seed)
    fitted(Game(game, critic, penalties=(R1(0.5), R2(0.5))), real_numbers, steps, 2e-3, seed, ema=0.995)
    return made | {"game": pg.flows.Dequantized(game, SYMBOLS)}


def attributed(models, found):
    """How probable pictures are under each model, and how often the most probable model is the right one."""
    columns = [f"{name} ({model.density})" for name, model in models.items()]
    print("\nNats a picture; rows: whose it is, columns: under which model")
    print(table(columns, {source: list(answer.evidence.values()) for source, answer in found.items()}))
    print("What the posterior probability of a model is:", found["real"].meanings)
    for size in (1, BATCH):
        right = torch.cat([found[name].grouped(size).sources == place for place, name in enumerate(models)])
        print(f"the right one of {len(models)}, given {size} of its pictures: {share(right)}")
    of_models = [(found[name].posterior, place) for place, name in enumerate(models)]
    stated, chosen = torch.cat([posterior for posterior, _ in of_models]).max(1)
    truth = torch.cat([torch.full((len(posterior),), place) for posterior, place in of_models])
    print(f"  the probability of the one chosen: {reliability(stated, chosen == truth)}")


def halves(found):
    """Log-probabilities of one half of the pictures of each source, and of the other, (sources, pictures, models)."""
    x = torch.stack([answer.log_probs for answer in found.values()])
    return x[:, ::2], x[:, 1::2]


def unknown(found):
    """Pictures whose log-probability is strange among the draws of every model."""
    first, second = halves(found)
    own = {name: first[[*found].index(name), :, place] for place, name in enumerate(found["real"].names)}
    p = torch.stack([two_sided_p_value(second[..., place], x) for place, x in enumerate(own.values())]).amax(0)
    shares = [f"{source} {share(row <= 0.05)}" for source, row in zip(found, p, strict=True)]
    print("\nlike the draws of none of them, p at most 0.05:", ", ".join(shares))


def told_apart(found):
    """All sources, those without a likelihood too, by a regression on the log-probabilities under the models."""
    first, second = halves(found)
    truth = [torch.arange(len(found)).repeat_interleave(half.shape[1]) for half in (first, second)]
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=5000))
    reader.fit(first.flatten(0, 1).numpy(), truth[0].numpy())
    stated, chosen = torch.from_numpy(reader.predict_proba(second.flatten(0, 1).numpy())).max(1)
    right = chosen == truth[1]
    print(f"the right one of {len(found)} sources, by a regression on these log-probabilities: {share(right)}")
    print(f"  its probabilities: {reliability(stated, right)}")


def shaded(shares, sources, models):
    """To which model the pictures of each source are attributed."""
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in torch.cartesian_prod(*map(torch.arange, shares.shape)).tolist():
        value = shares[row, column].item()
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    axes.set_xticks(range(len(models)), models)
    axes.set_yticks(range(len(sources)), sources)
    axes.set(title="attributed by likelihood", xlabel="to", ylabel="pictures of")
    return figure


if __name__ == "__main__":
    main()
