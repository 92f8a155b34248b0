"""Which flow for a small table: recipes with and without mixing and dropout, on tables that packages ship.

Six tables of measurements: breast cancer, wine, diabetes and iris of scikit-learn, the schools of California (star98)
and the economy of the United States by quarters (macrodata) of statsmodels. Columns of less than ten different numbers
are left out, as a density has no meaning for them; to the others uniform noise of their resolution is added, the least
gap between two of their numbers, so that ties cannot be learned by heart; then each is standardized.

Nested folds: a flow is trained on four fifths of the rows, of which a sixth is held out to stop at the best step, and
scored on the other fifth. What is *chosen* has the best likelihood of the rows that stop training, fold by fold, so
that the rows it is scored on choose nothing. Normals of full covariance, shrunk by Ledoit and Wolf's rule, are what
flows have to beat. One thread; lines are appended to a file, and what it holds is not run again:

    python benchmarks/table_flows.py --output results.jsonl [--tables wine] [--folds 0 1]
    python benchmarks/table_flows.py --output results.jsonl --table TABLE.json
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from results_file import keep, known, table
from sklearn import datasets
from sklearn.covariance import LedoitWolf
from torch import Tensor

import pyrogen as pg
from pyrogen import flows

RECIPES = {
    "affine coupling": flows.affine_coupling,
    "affine autoregressive": flows.affine_autoregressive,
    "spline coupling": flows.spline_coupling,
    "spline autoregressive": flows.spline_autoregressive,
}
FOLDS = 5


def columns(name: str) -> np.ndarray:
    """The measurements of a table, ``(rows, columns)``."""
    if name in ("star98", "macrodata"):
        from statsmodels import datasets as others

        frame = getattr(others, name).load_pandas().data
        return frame.drop(columns=["year", "quarter"], errors="ignore").to_numpy(float)
    load = {"breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine, "iris": datasets.load_iris}
    return load.get(name, partial(datasets.load_diabetes, scaled=False))().data.astype(float)


TABLES = ("breast cancer", "wine", "diabetes", "iris", "star98", "macrodata")


def prepared(name: str) -> Tensor:
    """The rows of a table in an order of their own, without ties and standardized."""
    random = np.random.default_rng(0)
    raw = columns(name)
    kept = []
    for column in raw.T:
        distinct = np.unique(column)
        if len(distinct) >= 10:
            gap = np.diff(distinct).min()
            kept.append(column + gap * (random.random(len(column)) - 0.5))
    x = random.permutation(np.stack(kept, 1))
    return torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)


def split(x: Tensor, fold: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to learn from, to stop by, and to score."""
    scored = torch.arange(len(x)) % FOLDS == fold
    rest = x[~scored]
    stopping = torch.arange(len(rest)) % 6 == 0
    return rest[~stopping], rest[stopping], x[scored]


def trained(name: str, flow: str, mixing: bool, dropout: float, fold: int) -> dict:
    """Nats of held-out rows under one flow."""
    learned, stopping, scored = split(prepared(name), fold)
    torch.manual_seed(fold)
    model = RECIPES[flow](learned.shape[1:], mixing=mixing, dropout=dropout)
    began = time.process_time()
    fit = pg.fit(model, learned, steps=1500, validation=stopping, validate_every=10, patience=20, ema=0.98,
                 seed=fold)  # fmt: skip
    seconds = time.process_time() - began
    with torch.no_grad():
        nats = {part: model().log_prob(rows).mean().item() for part, rows in (("inner", stopping), ("outer", scored))}
    return nats | {"steps": len(fit.history.loss), "best": fit.best_step, "seconds": seconds}


def normal(name: str, fold: int) -> float:
    """Nats of held-out rows under the normal of shrunk covariance."""
    learned, stopping, scored = split(prepared(name), fold)
    found = LedoitWolf().fit(torch.cat([learned, stopping]).double().numpy())
    return float(found.score(scored.double().numpy()))


def runs(options: argparse.Namespace, lines: list[dict]) -> Iterator[dict]:
    """A line for each table, fold and setting that no line is known of."""
    for dropout, fold, name, flow, mixing in product(
        options.dropout, options.folds, options.tables, RECIPES, (True, False)
    ):
        run = {"name": name, "flow": flow, "mixing": mixing, "dropout": dropout, "fold": fold}
        if not any(run.items() <= line.items() for line in lines):
            yield run | trained(**run)


def summary(lines: list[dict]) -> Iterator[list[str]]:
    """For each setting the nats above the normal, a table in each column, and the mean rank."""
    names = [name for name in TABLES if any(line["name"] == name for line in lines)]
    folds = {name: sorted({line["fold"] for line in lines if line["name"] == name}) for name in names}
    base = {(name, fold): normal(name, fold) for name in names for fold in folds[name]}
    gains: dict[tuple, dict] = {}
    best: dict[tuple, dict] = {}
    for line in lines:
        place = line["name"], line["fold"]
        gains.setdefault((line["flow"], line["mixing"], line["dropout"]), {})[place] = line["outer"] - base[place]
        if place not in best or line["inner"] > best[place]["inner"]:
            best[place] = line
    chosen = {place: line["outer"] - base[place] for place, line in best.items()}
    for (flow, mixing, dropout), found in gains.items():
        cells = [_cell([found[name, fold] for fold in folds[name] if (name, fold) in found]) for name in names]
        ranks = [1 + sum(other.get(place, -math.inf) > found[place] for other in gains.values()) for place in found]
        yield [
            flow,
            "yes" if mixing else "",
            f"{dropout:g}" if dropout else "",
            *cells,
            f"{statistics.mean(ranks):.1f}",
        ]
    yield ["chosen", "", "", *(_cell([chosen[name, fold] for fold in folds[name]]) for name in names), ""]


def _cell(values: list[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.2f}" for value in values)
    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.2f} ± {error:.2f}" if abs(mean) < 1000 else f"{mean:,.0f} ± {error:,.0f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--folds", nargs="+", type=int, default=range(FOLDS))
    parser.add_argument("--dropout", nargs="+", type=float, default=(0.2, 0.0))
    parser.add_argument("--output", type=Path, help="a file of results, one JSON object a line")
    parser.add_argument("--table", type=Path, help="tabulate the file of results into this one, run nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = known(options.output)
    if not options.table:
        keep(runs(options, lines), lines, options.output)
    table(["flow", "mixing", "dropout", *TABLES, "mean rank"], list(summary(lines)), options.table, lines)


if __name__ == "__main__":
    main()
