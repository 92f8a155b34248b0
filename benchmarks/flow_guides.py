"""The tables of ``examples/flow_guides.py``: its guides, and NUTS without and within them.

python benchmarks/flow_guides.py [--steps 1500] [--draws 200] [--tables benchmarks/results/tables/flows]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import torch
from example_file import example
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import NeuTraReparam
from results_file import table

import pyrogen as pg

GUIDES = example("flow_guides")
MODELS = {"funnel": GUIDES.Funnel, "schools": GUIDES.EightSchools}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=200, help="of each of two chains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", type=Path, help="a folder for the tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.models:
        measure(name, MODELS[name]("cpu"), options)


def measure(name: str, model: Callable, options: argparse.Namespace) -> None:
    """Two tables of one model: of guides, and of chains."""
    columns = ["", f"ELBO (exact log evidence {model.log_evidence:.2f})", "k-hat", "effective draws"]
    recipe = partial(GUIDES.recipe, leading=model.leading)
    flow_guide = pg.flows.AutoFlow(model, recipe, init_scale=1.0)
    rows = []
    for title, guide in (("AutoNormal", AutoNormal(model)), ("AutoFlow", flow_guide)):
        pyro.set_rng_seed(options.seed)
        GUIDES.train(model, guide, options.steps)
        elbo, k, share = GUIDES.judge(model, guide)
        rows.append([title, f"{elbo:.2f}", f"{k:.2f}", f"{100 * share:.1f} %"])
    table(columns, rows, options.tables and options.tables / f"guides_{name}.json")
    neutra = NeuTraReparam(flow_guide.requires_grad_(False))
    programs = {
        "NUTS": (model, dict),
        "NUTS in the flow's noise": (neutra.reparam(model), partial(GUIDES.from_noise, neutra)),
    }
    rows = []
    for title, (program, back) in programs.items():
        pyro.set_rng_seed(options.seed)
        drawn, size, divergences, seconds = GUIDES.walk(model, program, back, options.draws)
        counts = f"{divergences}", f"{size:.0f} of {2 * options.draws}", f"{seconds:.0f}"
        rows.append([title, model.summary(drawn), *counts])
    columns = ["", model.hard, "divergences", f"effective draws of the {model.hard}", "processor seconds"]
    table(columns, rows, options.tables and options.tables / f"guides_{name}_nuts.json")


if __name__ == "__main__":
    main()
