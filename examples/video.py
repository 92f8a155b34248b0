"""Video: what comes next, and what came between, when a ball bounces between walls.

A diffusion model over space and time learns videos of a ball in a box (`pg.data.bouncing`). Noisy frames of other
videos are measured: the first ones, to predict the rest, or both ends, to find what came between. Both are draws of a
posterior under one prior. Places are read from the pictures drawn, and compared with the true ones after a bounce,
beside those of a deep Markov model and of a straight line through true places.

    python examples/video.py [--output output/video] [--seed 0] [--steps 1400] [--videos 16] [--chains 10]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrogen as pg
from pyrogen import inverse
from pyrogen.data import bouncing

FRAMES, SIDE, NOISE = 8, 12, 0.3  # the noise is of a pixel, whose light is between 0 and 1
QUESTIONS = {"what comes next": [0, 1, 2], "what came between": [0, 1, 6, 7]}  # and the frames that are measured


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/video"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--chains", type=int, default=10)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    shape = FRAMES, 1, SIDE, SIDE
    train = bouncing.draw(20_000, seed=options.seed + 1, frames=FRAMES, side=SIDE).pixels
    mean, scale = train.mean().item(), train.std().item()
    prior = pg.diffusion.transformer(shape, patch=6, width=64, depth=3)
    weighting = pg.diffusion.EDMWeighting(data_scale=1.0, mean=0.7, scale=1.3)
    fit(pg.diffusion.DenoisingScoreMatching(prior, weighting), (train - mean) / scale, options)
    markov = pg.latent.deep_markov((FRAMES, SIDE**2), latent_shape=8, memory=64, hidden=(128,))
    fit(markov, measured(train).flatten(2), options)

    def film(y: Tensor, seen: inverse.Mask) -> None:
        with pyro.plate("videos", len(y)):
            video = pyro.sample("video", prior())
            pyro.sample("y", dist.Normal(mean + scale * seen(video), NOISE).to_event(1), obs=y)

    test = bouncing.draw(options.videos, seed=options.seed + 2, frames=FRAMES, side=SIDE)
    films = measured(test.pixels)
    shown = {"as it was": test.pixels[0]}
    print("places of the ball, after a bounce          CRPS in pixels   intervals of 90% cover")
    for question, frames in QUESTIONS.items():
        seen = torch.zeros(shape, dtype=torch.bool)
        seen[frames] = True
        method = inverse.SplitGibbs(film, site="video", chains=options.chains, draws=4, warmup=14, steps=16)
        posterior = method.run(films[:, seen], inverse.Mask(seen))
        draws = mean + scale * posterior.get_samples()["video"]  # (draws, videos, frames, 1, side, side)
        hidden = [frame for frame in range(FRAMES) if frame not in frames]
        answers = {"diffusion": bouncing.centre_of_light(draws[:, :, hidden])}
        if frames == list(range(len(frames))):
            ahead = markov.forecast(films[:, frames].flatten(2), len(hidden))
            states, _ = ahead.sample_with_states((len(draws),))
            light = markov.likelihood.at(states, None).mean.detach().unflatten(-1, shape[1:])
            answers["deep Markov model"] = bouncing.centre_of_light(light)
        answers["straight line"] = straight(test.centres[:, :, 0], frames, hidden).unsqueeze(0)
        after = (test.velocities[:, hidden] != test.velocities[:, hidden[0] - 1, None]).any(-1)  # one ball
        for name, places in answers.items():
            found = scores(places[:, after[..., 0]], test.centres[:, hidden][after])
            covered = f"{found[2]:.2f}" if len(places) > 1 else "-"
            print(f"{question + ': ' + name:<44}{found[0]:.2f} ± {found[1]:.2f}      {covered}")
        shown[f"measured,\n{question}?"] = films[0].where(seen, torch.nan)
        shown |= {f"draw {number}\nof {question}": draws[4 * number - 1, 0] for number in range(1, 4)}
    picture(options.output / "video.png", shown)
    animation(options.output / "video.gif", shown)


def fit(target: torch.nn.Module, data: Tensor, options: argparse.Namespace) -> None:
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=3e-3, total_steps=options.steps)
    pg.fit(target, data, steps=options.steps, batch_size=64, schedule=schedule, ema=0.995, seed=options.seed)


def measured(pixels: Tensor) -> Tensor:
    return pixels + NOISE * torch.randn_like(pixels)


def straight(centres: Tensor, frames: list[int], hidden: list[int]) -> Tensor:
    """Places on the line through two true ones: the last before the hidden frames, and the next or the one before."""
    last = hidden[0] - 1
    other = next((frame for frame in frames if frame > last), last - 1)
    steps = (torch.tensor(hidden) - last) / (other - last)
    return centres[:, [last]] + steps.unsqueeze(-1) * (centres[:, [other]] - centres[:, [last]])


def scores(places: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """The continuous ranked probability score in pixels, its standard error, and the coverage of intervals of 90 %."""
    apart = (places.unsqueeze(0) - places.unsqueeze(1)).abs().sum((0, 1)) / max(len(places) * (len(places) - 1), 1)
    score = SIDE * ((places - truth).abs().mean(0) - apart / 2)  # (places, 2)
    low, high = places.quantile(torch.tensor([0.05, 0.95]), 0)
    inside = (low <= truth) & (truth <= high)
    return score.mean().item(), score.mean(1).std().item() / len(score) ** 0.5, inside.float().mean().item()


def picture(path: Path, shown: dict[str, Tensor]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(shown), figsize=(6, 0.8 * len(shown)))
    for axis, (name, video) in zip(axes, shown.items(), strict=True):
        axis.imshow(torch.cat(video.squeeze(1).unbind(), -1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[side * SIDE - 0.5 for side in range(FRAMES)], yticks=[], xticklabels=[])
        axis.set_ylabel(name, rotation=0, horizontalalignment="right", verticalalignment="center", fontsize=8)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def animation(path: Path, shown: dict[str, Tensor]) -> None:
    """All videos side by side."""
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, axis = plt.subplots(figsize=(1.2 * len(shown), 1.8))
    frames = torch.cat(list(shown.values()), -1).squeeze(1).numpy()  # (frames, side, side of all)
    image = axis.imshow(frames[0], cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([SIDE * (number + 0.5) for number in range(len(shown))], shown, fontsize=6)
    axis.set_yticks([])

    def show(frame: int) -> list[object]:
        image.set_data(frames[frame])
        return [image]

    FuncAnimation(figure, show, frames=FRAMES).save(path, writer=PillowWriter(fps=3), dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
