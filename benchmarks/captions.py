"""Captions: how much of a picture is open when the words of its caption are known, all of them or all but shapes.

The variance of `pyrogen.data.scenes` over their layouts, summed over pixels that go from -1 to 1, in the mean over
captions; and the same where the two shapes are any of those there are.

    python benchmarks/captions.py [--captions 100] [--layouts 100] [--table FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import results_file
import torch
from torch import Tensor

from pyrogen.data import scenes

SCENES = [(4, 3, 1.0), (8, 6, 1.0), (8, 6, 0.3), (8, 6, 0.2), (8, 6, 0.1), (8, 6, 0.0)]
COLUMNS = ["colours", "shapes", "spread", "all known but shapes", "given the caption", "what shapes explain"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=100)
    parser.add_argument("--layouts", type=int, default=100)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for colours, shapes, spread in SCENES:
        drawn = scenes.draw(options.captions, seed=0, colours=colours, shapes=shapes).attributes
        known, unknown = torch.tensor(
            [[variance(each, spread, options.layouts, several) for several in (1, shapes)] for each in drawn]
        ).mean(0)
        share = f"{(1 - known / unknown).item():.0%}"
        rows.append([str(colours), str(shapes), f"{spread:g}", f"{unknown:.1f}", f"{known:.1f}", share])
    results_file.table(COLUMNS, rows, options.table)


def variance(attributes: Tensor, spread: float, layouts: int, shapes: int) -> float:
    """The variance of pictures with such attributes; with several ``shapes`` both are drawn from so many."""
    rows = attributes.repeat(layouts, 1)
    if shapes > 1:
        rows[:, [1, 4]] = torch.randint(shapes, (layouts, 2))
    pixels = scenes.render(rows, 0.5 + spread * (torch.rand(layouts, 2, 3) - 0.5))
    return (2 * pixels).var(0).sum().item()


if __name__ == "__main__":
    main()
