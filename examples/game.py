"""A generator learns eight Gaussians from a critic, and other comparisons show how far it has come.

The losses of a game are those of two moving opponents: they show neither progress nor the end. So beside them stand two
curves that do. The energy distance of draws from held-out data needs no critic. And every so often a copy of the critic
is trained further while the generator is held fixed; on data that it has not seen it gives a lower bound of the
Jensen-Shannon divergence, in nats, with a standard error. At the end its log-ratio shows where draws are too many or
too few, and the generator is the prior of a measurement, whose posterior is found in the space of its noise.

    python examples/game.py [--output output] [--seed 0] [--steps 3000] [--device cpu]
"""

from __future__ import annotations

import argparse
import math
from copy import deepcopy
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data import ring_of_gaussians
from pyrogen.implicit import R1, R2, FDivergence, Game, NonSaturating, mlp, mlp_critic

RADIUS, NOISE = 2.0, 0.1
JS = FDivergence("js")


def ratio_of(generator, critic, x, steps, seed):
    """The critic, trained further as a classifier while the generator rests: an estimate of the log-ratio."""
    game = Game(generator, deepcopy(critic), loss=NonSaturating(), penalties=())
    schedule = partial(CosineAnnealingLR, T_max=steps)
    pg.fit(game.turns()[0], x, steps=steps, batch_size=512, lr=1e-3, schedule=schedule, seed=seed)
    return game.critic


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    torch.manual_seed(args.seed)

    rows = 20_000 if args.steps > 100 else 500
    x = ring_of_gaussians(rows, seed=args.seed, radius=RADIUS, noise=NOISE).to(args.device)
    held_out = ring_of_gaussians(rows // 8, seed=args.seed + 1, radius=RADIUS, noise=NOISE).to(args.device)
    generator = mlp((2,), noise=(2,), hidden=(128, 128, 128))
    game = Game(generator, mlp_critic((2,), hidden=(128, 128, 128)), penalties=(R1(0.1), R2(0.1))).to(args.device)
    every, ratio_steps = max(1, args.steps // 8), min(400, args.steps)
    bounds, distances = {}, {}

    def draws(count):
        with torch.no_grad():
            return generator().sample((count,))

    def compare(progress: pg.Progress) -> None:
        if progress.step % every == 0:
            ratio = ratio_of(generator, game.critic, x, ratio_steps, args.seed)
            bounds[progress.step] = JS.bound(ratio, held_out, draws(len(held_out)))
            distances[progress.step] = pg.evaluation.energy_distance(held_out, draws(len(held_out)))

    fit = pg.fit(
        game,
        x,
        steps=args.steps,
        batch_size=256,
        lr=3e-3,
        schedule=partial(CosineAnnealingLR, T_max=args.steps),
        ema=0.995,
        callbacks=[compare],
        seed=args.seed,
    )
    for step, bound in bounds.items():
        print(f"step {step}: energy distance {distances[step]:.4f}, Jensen-Shannon divergence {bound}")

    angle = 2 * math.pi / 8 * torch.arange(8)
    centers = RADIUS * torch.stack((angle.cos(), angle.sin()), -1)
    print(f"the average of the generator: {pg.evaluation.mode_counts(draws(2500).cpu(), centers, NOISE)}")
    ratio = ratio_of(generator, game.critic, x, 3 * ratio_steps, args.seed)
    print(f"Jensen-Shannon divergence {JS.bound(ratio, held_out, draws(len(held_out)))}, at most log 2 = 0.693")
    print(f"are draws and data alike? {pg.evaluation.ratio_test(ratio, held_out, draws(len(held_out)))}")

    y = torch.tensor([1.2, 1.2], device=args.device)

    def model():
        place = pyro.sample("x", generator())
        pyro.sample("y", dist.Normal(place, 0.4).to_event(1), obs=y)

    found = pg.inverse.NoiseVI(model, site="x", draws=1000, steps=min(300, args.steps)).run()
    posterior = found.get_samples()["x"].cpu()
    mean = ", ".join(f"{value:.2f}" for value in posterior.mean(0))
    print(f"given the measurement ({y[0]:.1f}, {y[1]:.1f}) the place is ({mean}) on average")

    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    for sample, name in ((held_out, "data"), (draws(2000), "draws"), (posterior, "posterior")):
        axes[0].scatter(*sample[:2000].cpu().numpy().T, s=3, alpha=0.5, label=name)
    axes[0].legend(loc="center", markerscale=3)
    axes[0].set_title("samples")
    grid = torch.linspace(-3, 3, 121)
    points = torch.cartesian_prod(grid, grid).to(args.device)
    with torch.no_grad():
        log_ratio = ratio.eval()(points).reshape(121, 121).clamp(-3, 3).cpu().numpy()
    grid = grid.numpy()
    shown = axes[1].pcolormesh(grid, grid, log_ratio.T, cmap="RdBu", vmin=-3, vmax=3, shading="nearest")
    axes[1].contour(grid, grid, log_ratio.T, levels=[0.0], colors="black", linewidths=0.5)
    figure.colorbar(shown, label="log data / draws (nats)")
    axes[1].set_title("blue: too few draws, red: too many")
    for axis in axes[:2]:
        axis.set_aspect("equal")
    values, errors = zip(*((bound.value, 2 * bound.standard_error) for bound in bounds.values()), strict=True)
    axes[2].errorbar(list(bounds), values, yerr=errors, marker="o", label="JS divergence, by a rested critic (nats)")
    axes[2].plot(*zip(*distances.items(), strict=True), marker=".", label="energy distance (data units)")
    axes[2].axhline(0, color="grey", linewidth=0.8)
    axes[2].set(title="what has been learned, on held-out data", xlabel="step")
    axes[2].set_yscale("symlog", linthresh=0.01)
    axes[2].legend()
    for losses, name in zip(fit.history.losses, ("critic", "generator"), strict=True):
        axes[3].plot(losses, linewidth=0.4, label=name)
    axes[3].set(title="the losses of the game show neither", xlabel="step", ylim=(0, 2))
    axes[3].legend()
    figure.savefig(args.output / "game.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
