"""Inverse graphics: generation is graphics, and inference is vision.

A Pyro program puts up to three cubes and cylinders on a table and photographs them, with noise. Its posterior is over
what stands there, where, how large and of what colour. A network learns it for all pictures from simulations, and so
proposes how many solids of which kinds there are. Occam's window searches on from these explanations: of each,
Laplace's approximation climbs to the mode, and importance weights give the posterior there and the evidence.

    python examples/inverse_graphics.py [--output output] [--seed 0] [--steps 1100] [--scenes 20]
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data.solids import KINDS, Solids, lamp, render
from pyrogen.evaluation import Estimate
from pyrogen.networks.embedding import ImageEmbedding

MOST, NOISE, SHAPE = 3, 0.1, (3, 32, 32)
SITES = ("number", "kind", "light", "gap", "right", "size", "turn", "colour")
COLOUR = dist.TransformedDistribution(dist.Normal(0.0, 1.2), dist.transforms.SigmoidTransform())
share = partial(Estimate.of_share, unit="")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--scenes", type=int, default=20, help="of which explanations are worked out")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(args.seed)
    few = args.steps < 100
    joint = pg.simulation.Joint(scene, observed="picture")
    posterior = pg.simulation.posterior(joint, embedding=ImageEmbedding(SHAPE, outputs=64, width=32))
    simulations = joint.draw(400 if few else 24_000, seed=args.seed + 2, batch_size=64)
    settings = {"schedule": partial(CosineAnnealingLR, T_max=args.steps), "ema": 0.99, "clip": 10.0, "seed": args.seed}
    pg.fit(posterior, simulations, steps=args.steps, batch_size=128, lr=2e-3, **settings)
    held_out = joint.draw(24 if few else 1000, seed=args.seed + 1)
    score("amortized posterior", posterior.eval().draw(held_out.observed, 100), held_out.latents)
    ready = {"simulations": held_out[:300], "draws": 49, "batch_size": 2048}
    print(f"  calibrated? {pg.evaluation.simulation_based_calibration(joint, posterior.draw, **ready).test()}")
    searched = [explained(posterior, x, 3 if few else 200) for x in held_out.observed["picture"][: args.scenes]]
    compared(searched, held_out[: args.scenes])
    shown(searched, held_out).savefig(args.output / "inverse_graphics.png", dpi=150)


def scene(picture=None):
    """Solids from the front to the back, and a picture of them; beyond their number they are cubes that nobody sees."""
    number = pyro.sample("number", dist.Categorical(torch.ones(MOST + 1)))
    there = (torch.arange(MOST) < number.unsqueeze(-1)).float()
    logits = torch.stack([torch.zeros_like(there), there.log()], -1)
    kind = pyro.sample("kind", dist.Categorical(logits=logits).to_event(1))
    light = pyro.sample("light", dist.Normal(0.0, 0.6))
    gap = pyro.sample("gap", dist.LogNormal(math.log(0.7), 0.2).expand([MOST]).to_event(1))
    right = pyro.sample("right", dist.Normal(0.0, 0.4).expand([MOST]).to_event(1))
    size = pyro.sample("size", dist.LogNormal(math.log(0.32), 0.15).expand([MOST]).to_event(1))
    turn = pyro.sample("turn", dist.Normal(math.pi / 4, 0.2).expand([MOST]).to_event(1))
    colour = pyro.sample("colour", COLOUR.expand([MOST, 3]).to_event(2))
    seen = drawn(number, kind, light, gap, right, size, turn, colour)
    pyro.sample("picture", dist.Normal(seen, NOISE).to_event(3), obs=picture)


def drawn(number, kind, light, gap, right, size, turn, colour):
    kinds = kinds_of({"number": number, "kind": kind})
    return render(Solids(kinds, colour, right, gap.cumsum(-1) - 1.4, size, turn), lamp(light), side=32, width=2.4)


def kinds_of(sites):
    """What stands there, ``(*batch, 3)``: the place in ``KINDS``, nothing beyond the number of solids."""
    return torch.where(torch.arange(MOST) < sites["number"].unsqueeze(-1), 1 + sites["kind"], 0)


def numbers_of(sites):
    """What answers are compared by, ``(*batch, 3, 5)``: how far to the right, how large, of what colour."""
    return torch.cat([sites["right"].unsqueeze(-1), sites["size"].unsqueeze(-1), sites["colour"]], -1)


def explained(posterior, picture, most=200):
    """The posterior given a picture: explanations of it, beginning from those that the network proposes."""
    settings = {"method": partial(pg.inverse.Laplace, draws=500, steps=60), "begin": 12, "most": most, "seed": 0}
    initial = posterior.sites(posterior(picture).sample((200,)))
    initial["kind"] = (kinds_of(initial) - 1).clamp(min=0)  # of what is not there the network may have it wrong
    return pg.inverse.OccamsWindow(scene, neighbours=others, initial=initial, draws=500, **settings).run(picture)


def others(sites):
    """Scenes in which one solid is of the other kind, or goes: what is left stays in its place."""
    for place in range(int(sites["number"][0])):
        yield {**sites, "kind": torch.where(torch.arange(MOST) == place, 1 - sites["kind"], sites["kind"])}
        order = [*(other for other in range(MOST) if other != place), place]
        left = {name: value[:, order] if value.dim() > 1 else value for name, value in sites.items()}
        left["kind"][:, -1], left["number"] = 0, sites["number"] - 1
        left["gap"][:, :-1] = sites["gap"].cumsum(-1)[:, order[:-1]].diff(prepend=torch.zeros(len(left["gap"]), 1))
        yield left


def score(name, sites, truths):
    """Of draws ``(draws, scenes, ...)``: how often number and kinds are right, and the numbers of what is there."""
    truth, kinds, numbers = kinds_of(truths), kinds_of(sites).mode(0).values, numbers_of(sites)
    counted, right = (kinds > 0).sum(-1) == (truth > 0).sum(-1), (kinds == truth).all(-1)
    there = (truth > 0) & counted.unsqueeze(-1)
    print(f"{name}, {len(truth)} scenes: number right {share(counted)}, number and kinds {share(right)}")
    error = (numbers.mean(0) - numbers_of(truths))[there].square().mean(0)
    print(f"  errors of place {error[0].sqrt():.4f}, size {error[1].sqrt():.4f}, colour {error[2:].mean().sqrt():.4f}")
    low, high = numbers.quantile(torch.tensor([0.05, 0.95]), 0)
    inside = ((numbers_of(truths) > low) & (numbers_of(truths) < high))[there].float().mean()
    print(f"  90% intervals hold {inside:.3f} of these numbers")


def compared(searched, held_out):
    """What the best explanation of each scene is worth."""
    best = [answer.explanations[0] for answer in searched]
    sites = {name: torch.stack([found.draws[name] for found in best], 1) for name in held_out.latents}
    score("best explanation", sites, held_out.latents)
    trusted = [found.answer.diagnostics().pareto_k < 0.7 for found in best]
    tried = torch.tensor([len(answer.explanations) for answer in searched]).float().mean()
    print(f"  {tried:.1f} explanations tried a scene; Pareto k-hat below 0.7 in {share(torch.tensor(trusted))}")


def shown(searched, held_out):
    """The scene with most solids, those decided least, and draws of their posteriors; explanations are printed."""
    doubtful = sorted(range(len(searched)), key=lambda row: searched[row].probabilities[0].item())
    crowded = max(doubtful, key=lambda row: searched[row].explanations[0].values["number"].item())
    rows = [*dict.fromkeys([crowded, *doubtful[:3]])]
    for row in rows:
        kinds = [kinds_of(found.values).tolist() for found in searched[row].explanations]
        words = [" ".join(KINDS[kind] for kind in found if kind) or "nothing" for found in kinds]
        probable = zip(words, searched[row].probabilities.tolist(), strict=True)
        print(f"scene {row}: " + "; ".join(f"{word}: {p:.2f}" for word, p in probable if p >= 0.005))
    samples = [searched[row].get_samples() for row in rows]
    pictures = torch.stack([drawn(*(sites[name] for name in SITES)) for sites in samples], 1)
    clean = drawn(*(held_out.latents[name][rows] for name in SITES))
    seen, names = held_out.observed["picture"][rows], [f"scene {row}" for row in rows]
    return pg.analysis.posterior_images(clean, seen, pictures, rows=names, limits=(0, 1))


if __name__ == "__main__":
    main()
