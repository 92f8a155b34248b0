"""Planning: plans of walks from a start to a goal, both ways round a pillar, and whether a goal can be reached at all.

A diffusion model learns what walks of experts look like in a maze (`pg.data.maze`). Planning is conditioning it: start
and goal are measured, pillar and walls are sites, and so is a box that no expert knew; what is worth a detour is a
factor. The evidence shows which goals cannot be reached. Beside it stands a behaviour model p(action | past, ends).

    python examples/planning.py [--output output/planning] [--seed 0] [--steps 3500] [--pairs 16] [--particles 512]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.patches import Circle, Rectangle
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen import inverse
from pyrogen.data import maze

LENGTH, SCALE = 16, 0.7  # points of a plan, and their standard deviation
NOISE, MARGIN = 0.02, 0.04  # how exactly plans start, end and keep clear; what they should keep from pillar and walls
PLACE, RADIUS = torch.tensor([0.0, 0.5]), 0.15  # above the pillar: of a box that no expert knew, or of a kiosk
WORTH = 3.0  # what passing the kiosk is worth, in nats


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/planning"))
    for name, default in {"seed": 0, "steps": 3500, "pairs": 16, "particles": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    walks = maze.draw(20_000, seed=options.seed + 1, length=LENGTH)
    prior = pg.diffusion.mlp((LENGTH, 2), width=256, depth=4, data_scale=SCALE)
    weighting = pg.diffusion.EDMWeighting(data_scale=SCALE, mean=-1.2, scale=1.4)
    schedule = partial(OneCycleLR, max_lr=2e-3, total_steps=options.steps)
    fit = partial(pg.fit, steps=options.steps, batch_size=128, schedule=schedule, ema=0.995, seed=options.seed)
    fit(pg.diffusion.DenoisingScoreMatching(prior, weighting), walks.points)
    behaviour = pg.autoregressive.made((LENGTH - 1, 2), (2, 2), hidden=(256, 256))
    fit(behaviour, (walks.points.diff(dim=1), walks.points[:, [0, -1]]))

    def plan(ends: Tensor, *wishes: Callable[[Tensor], None]) -> None:
        with pyro.plate("pairs", len(ends)):
            points = pyro.sample("plan", prior())
            pyro.sample("ends", dist.Normal(points[..., [0, -1], :], NOISE).to_event(2), obs=ends)
            pyro.sample("clear", dist.Normal(maze.depth(points, margin=MARGIN), NOISE), obs=torch.zeros(()))
            for wish in wishes:
                wish(nearest(points))

    settings = {"site": "plan", "steps": 25, "twist": inverse.MomentMatched()}
    planner = inverse.TwistedSMC(plan, particles=options.particles, **settings)
    generator = torch.Generator().manual_seed(options.seed + 5)
    ends = torch.stack([maze.places(options.pairs, generator=generator) for _ in range(2)], 1)
    posterior = planner.run(ends)
    plans = posterior.get_samples()["plan"]  # (particles, pairs, length, 2)
    steps = behaviour(ends).sample((options.particles,))
    walked = torch.cat([ends[:, :1].expand(options.particles, -1, 1, 2), steps], -2).cumsum(-2)

    print(f"{options.pairs} unseen pairs of start and goal, {options.particles} plans of each")
    print("                        free of collisions   from the goal   left of the pillar, error")
    expected = maze.probability_left(*ends.unbind(1))
    for name, points in {"diffusion, given ends": plans, "behaviour model": walked}.items():
        free, left = maze.collision_free(points).float().mean(), maze.leaves_left(points).float().mean(0)
        far = (points[..., -1, :] - ends[:, 1]).norm(dim=-1).mean()
        print(f"{name:<24}{free:<21.3f}{far:<16.3f}{(left - expected).abs().mean():.3f}")

    in_room = torch.tensor([sum(maze.ROOM) / 2, 0.0]) + torch.tensor([0.0, 0.5]) * torch.randn(options.pairs, 2)
    hall, room = posterior.log_evidence, planner.run(torch.stack([ends[:, 0], in_room], 1)).log_evidence
    higher = (hall[:, None] > room).float().mean()
    print(f"log evidence of ends in the hall: at least {hall.min():.1f}; ", end="")
    print(f"in hall and closed room: at most {room.max():.1f}")
    print(f"a goal that can be reached has the higher evidence in {higher:.3f} of all pairs of goals")

    across = torch.tensor([[[-0.8, 0.0], [0.8, 0.05]]])
    wishes = {"as experts": (), "with a box in the way": (past_box,), "with a kiosk worth passing": (past_kiosk,)}
    answers = {}
    for name, wished in wishes.items():
        answers[name] = planner.run(across, *wished).get_samples()["plan"][:, 0]
        left, free = (judge(answers[name]).float().mean() for judge in (maze.leaves_left, maze.collision_free))
        near = (nearest(answers[name]) < RADIUS - NOISE).float().mean()
        print(f"{name:<28}left of the pillar {left:.2f}, free {free:.2f}, through the place {near:.2f}")
    shown = {"walks of experts": walks.points[:60], "plans of pair 1": plans[:40, 0]}
    shown |= {"plans of pair 2": plans[:40, 1 % len(ends)]} | {name: points[:40] for name, points in answers.items()}
    picture(options.output / "planning.png", shown)
    animation(options.output / "planning.gif", answers["as experts"][:24])


def nearest(points: Tensor) -> Tensor:
    """How near to the place plans come."""
    return (points - PLACE).norm(dim=-1).amin(-1)


def past_box(distance: Tensor) -> None:
    """No point lies in the box."""
    pyro.sample("clear of the box", dist.Normal((RADIUS - distance).clamp(min=0), NOISE), obs=torch.zeros(()))


def past_kiosk(distance: Tensor) -> None:
    """It is worth something to come near the kiosk."""
    pyro.factor("reward", WORTH * (-(distance / RADIUS).square()).exp())


def draw_maze(axis) -> None:
    low, high = maze.ROOM
    axis.add_patch(Rectangle((-1, -1), 2, 2, fill=False))
    axis.add_patch(Rectangle((low, -1), high - low, 2, fill=False))
    axis.add_patch(Circle((0, 0), maze.PILLAR, color="0.6"))
    axis.set(xlim=(-1.1, 1.9), ylim=(-1.1, 1.1), aspect="equal", xticks=[], yticks=[], frame_on=False)


def picture(path: Path, shown: dict[str, Tensor]) -> None:
    """Plans by name, coloured by their way round the pillar; box and kiosk are in the last two panels."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.4), layout="constrained")
    for axis, (title, points) in zip(axes.flat, shown.items(), strict=True):
        draw_maze(axis)
        for line, left in zip(points, maze.leaves_left(points), strict=True):
            axis.plot(*line.T, color="C0" if left else "C1", linewidth=0.7, alpha=0.6)
        axis.plot(*points[:, 0].T, ".", color="0.2", markersize=3)
        axis.set_title(title, fontsize=9)
    axes[1, 1].add_patch(Circle(PLACE.tolist(), RADIUS, color="C3"))
    axes[1, 2].plot(*PLACE, "*", color="C2", markersize=14)
    figure.savefig(path, dpi=150)


def animation(path: Path, plans: Tensor) -> None:
    """Walkers along plans, who all go from one start to one goal."""
    figure, axis = plt.subplots(figsize=(4.2, 3), layout="constrained")
    draw_maze(axis)
    for line in plans:
        axis.plot(*line.T, color="0.8", linewidth=0.5, zorder=0)
    walkers = axis.scatter(*plans[:, 0].T, s=14, c=maze.leaves_left(plans).int(), cmap="coolwarm", vmin=0, vmax=1)
    film = FuncAnimation(figure, lambda place: [walkers.set_offsets(plans[:, place].numpy())], frames=plans.shape[1])
    film.save(path, PillowWriter(fps=12), dpi=80)


if __name__ == "__main__":
    main()
