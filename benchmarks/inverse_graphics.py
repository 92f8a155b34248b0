"""Vision as inverse graphics, scene by scene: are number and kinds right, and is the posterior calibrated?

The program, the networks and the search among explanations are those of ``examples/inverse_graphics.py``. Draws of
the whole posterior, of all explanations by their probabilities, are ranked against the truth, in scenes that ``render``
draws: simulation-based calibration. Pictures of the same scenes by POV-Ray, with shadows on solids and sharp edges,
come from another program than the one that is assumed: of them only counts, errors and intervals are reported. Beside
them a network that was trained to read the scene off the picture. One thread; processor time.

    python benchmarks/inverse_graphics.py --scenes 100 --renderer pyrogen [--output FILE]
    python benchmarks/inverse_graphics.py --regression --scenes 100 --renderer pyrogen [--output FILE]
    python benchmarks/inverse_graphics.py --read FILE [--table FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyro
import torch
from example_file import example
from povray import rendered
from results_file import keep, known, table
from solids_regression import trained
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.core.estimate import Estimate
from pyrogen.data.solids import Solids, lamp
from pyrogen.evaluation import Calibration, simulation_based_calibration
from pyrogen.networks.embedding import ImageEmbedding

graphics = example("inverse_graphics")
NUMBERS = ("right", "size", "colour")
"""What intervals and errors are of, one number or three for each solid."""
DRAWS, CANDIDATES = 99, 200
ANSWERS = (("regression", "regressed", "read"), ("network", "amortized", "network"), ("evidence", "found", "explained"))
"""Titles, and the keys of kinds and of numbers in a row."""


def learned(joint: pg.simulation.Joint, steps: int, seed: int) -> torch.nn.Module:
    """The amortized posterior, trained as in the example."""
    pyro.set_rng_seed(seed)
    posterior = pg.simulation.posterior(joint, embedding=ImageEmbedding(graphics.SHAPE, outputs=64, width=32))
    settings = {"lr": 2e-3, "schedule": partial(CosineAnnealingLR, T_max=steps), "ema": 0.99, "clip": 10.0}
    simulations = joint.draw(24_000 if steps > 100 else 400, seed=seed + 2, batch_size=64)
    pg.fit(posterior, simulations, steps=steps, batch_size=128, seed=seed, **settings)
    return posterior.eval()


def by_povray(latents: dict[str, Tensor], seed: int) -> Tensor:
    """The scenes in another renderer's eyes, with noise."""
    away = latents["gap"].cumsum(-1) - 1.4
    kinds = graphics.kinds_of(latents)
    solids = Solids(kinds, latents["colour"], latents["right"], away, latents["size"], latents["turn"])
    pictures = rendered(solids, lamp(latents["light"]), side=graphics.SHAPE[-1], width=2.4)
    generator = torch.Generator().manual_seed(seed)
    return pictures + graphics.NOISE * torch.randn(pictures.shape, generator=generator)


def scene(posterior: torch.nn.Module, joint: pg.simulation.Joint, truth: pg.simulation.Simulations) -> dict:
    """What was found of one scene."""
    began = time.process_time()
    picture, kinds = truth.observed["picture"][0], graphics.kinds_of(truth.latents)[0]
    answer = graphics.explained(posterior, picture)
    seconds = time.process_time() - began
    best, samples = answer.explanations[0], answer.get_samples()
    draws = {name: samples[name][:DRAWS] for name in truth.latents}  # they are in random order
    first = posterior.sites(posterior(picture).sample((CANDIDATES,)))
    row = {
        "kinds": kinds.tolist(),
        "found": graphics.kinds_of(best.values).tolist(),
        "amortized": graphics.kinds_of(first).mode(0).values.tolist(),
        "probability": answer.probabilities[0].item(),
        "explanations": len(answer.explanations),
        "pareto_k": best.answer.diagnostics().pareto_k,
        "seconds": seconds,
    }
    ranked = simulation_based_calibration(joint, lambda *_: of_one_row(draws), simulations=truth, draws=DRAWS)
    row["ranks"] = {name: int(ranks) for name, ranks in ranked.ranks.items()}
    return row | {"explained": compared(draws, truth.latents, kinds), "network": compared(first, truth.latents, kinds)}


def of_one_row(draws: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.unsqueeze(1) for name, values in draws.items()}


def compared(draws: dict[str, Tensor], truth: dict[str, Tensor], kinds: Tensor) -> dict[str, list[float]]:
    """Of the numbers of the solids that are there: how far off the mean is, and whether 90 % intervals hold them."""
    there, found = kinds > 0, {}
    if not there.any():
        return {key: [] for name in NUMBERS for key in (name, f"{name} held")}
    for name in NUMBERS:
        values, true = draws[name][:, there], truth[name][0, there]
        low, high = values.quantile(torch.tensor([0.05, 0.95]), 0)
        found[name] = (values.mean(0) - true).flatten().tolist()
        found[f"{name} held"] = ((true > low) & (true < high)).flatten().tolist()
    return found


def measured(options: argparse.Namespace, found: list[dict]) -> Iterator[dict]:
    """A row for each scene of a renderer that is not known yet."""
    torch.set_num_threads(1)
    joint = pg.simulation.Joint(graphics.scene, observed="picture")
    held_out = joint.draw(options.scenes, seed=1)
    if options.renderer == "povray":
        held_out = pg.simulation.Simulations(held_out.latents, {"picture": by_povray(held_out.latents, seed=2)})
    there = {
        row["scene"] for row in found if (row["renderer"], "read" in row) == (options.renderer, options.regression)
    }
    if options.regression:
        network = trained(joint, graphics.SHAPE, graphics.kinds_of, graphics.numbers_of, options.steps)
        answer = partial(read_off, network)
    else:
        answer = partial(scene, learned(joint, options.steps, seed=0), joint)
    for number in range(options.scenes):
        if number not in there:
            row = answer(held_out[number : number + 1])
            yield {"renderer": options.renderer, "scene": number, "steps": options.steps} | row


def read_off(network: torch.nn.Module, truth: pg.simulation.Simulations) -> dict:
    """What the regression network says of one scene."""
    kinds = graphics.kinds_of(truth.latents)[0]
    with torch.no_grad():
        scores, normal = network.answers(truth.observed["picture"])
    draws, true = normal.sample((10_000,)), graphics.numbers_of(truth.latents)
    sites, known_ = ({"right": x[..., 0], "size": x[..., 1], "colour": x[..., 2:]} for x in (draws[:, 0], true))
    found = scores[0].argmax(-1)
    return {"kinds": kinds.tolist(), "regressed": found.tolist(), "read": compared(sites, known_, kinds)}


def share(hits: list[bool]) -> str:
    """A share and its standard error."""
    return f"{Estimate.of_share(torch.tensor(hits), unit='scenes'):.3f}"


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """A line for each renderer and way to answer."""
    for renderer in dict.fromkeys(row["renderer"] for row in rows):
        for title, found, answer in ANSWERS:
            mine = [row for row in rows if row["renderer"] == renderer and answer in row]
            if not mine:
                continue
            counted = [sum(k > 0 for k in row[found]) == sum(k > 0 for k in row["kinds"]) for row in mine]
            right = [row[found] == row["kinds"] for row in mine]
            same = [row[answer] for row, hit in zip(mine, counted, strict=True) if hit and row[answer]["size"]]
            errors = [math.sqrt(mean_square([e for row in same for e in row[name]])) for name in NUMBERS]
            held = [[h for name in NUMBERS for h in row[f"{name} held"]] for row in same]
            yield [
                renderer,
                title,
                str(len(mine)),
                share(counted),
                share(right),
                *(f"{error:.4f}" for error in errors),
                of_clusters(held),
                share([row["pareto_k"] < 0.7 for row in mine]) if found == "found" else "",
                uniform(mine) if (renderer, found) == ("pyrogen", "found") else "",
                f"{sum(row['seconds'] for row in mine) / len(mine):.0f}" if found == "found" else "",
            ]


def uniform(rows: list[dict]) -> str:
    """The p-value of the test that all ranks are uniform."""
    ranks = {name: torch.tensor([row["ranks"][name] for row in rows]) for name in rows[0]["ranks"]}
    return f"{Calibration(ranks, DRAWS).test().p_value:.2g}"


def mean_square(errors: list[float]) -> float:
    return sum(error**2 for error in errors) / len(errors)


def of_clusters(held: list[list[bool]]) -> str:
    """The share that intervals hold; the numbers of one scene are not independent."""
    counts, sizes = torch.tensor([[sum(row), len(row)] for row in held]).double().T
    return f"{Estimate.of_ratio(counts, sizes, unit='numbers'):.3f}"


COLUMNS = ["renderer", "answer by", "scenes", "number right", "number and kinds", "error of place", "of size"]
COLUMNS += ["of colour", "90 % intervals hold", "k-hat below .7", "ranks uniform, p", "seconds a scene"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--renderer", choices=["pyrogen", "povray"], default="pyrogen")
    parser.add_argument("--regression", action="store_true", help="answer by the regression network")
    parser.add_argument("--steps", type=int, default=1100, help="of training")
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--read", type=Path, help="make the table of these results")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    rows = known(options.read or options.output)
    if options.read is None:
        keep(measured(options, list(rows)), rows, options.output)
    table(COLUMNS, [*summary(rows)], options.table, rows)


if __name__ == "__main__":
    main()
