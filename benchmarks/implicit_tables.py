"""Generators of tables: two-sample tests against held-out rows, and classifiers trained on synthetic ones.

scikit-learn's tables ``cancer`` (569 rows of 30 numbers and a bit) and ``wine`` (178 rows of 13 numbers and a label of
three), two thirds to learn from. Two figures, each against the other third: the p-value of a permutation test of the
maximum mean discrepancy of as many draws (columns standardized, the label one-hot), and the balanced accuracy of a
forest that learns to predict the label from as many draws as there are rows to learn from. In the rows ``data`` these
themselves stand in place of draws. A generator that has learned by heart does as well as ``data``; ``near`` is the
share of draws that lie nearer to a row it learned from than half of all held-out rows do: one half for a fair sampler.

CTGAN (Xu et al. 2019) runs with its own settings and as many steps in an environment of its own, whose interpreter
``--ctgan`` names (``pip install torch ctgan`` there); without it there is no such row.

    python benchmarks/implicit_tables.py [--seeds 0 1 2 3 4] [--steps 3000] [--ctgan PYTHON] [--output tables.jsonl]
    python benchmarks/implicit_tables.py --read tables.jsonl [--table FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyro
import torch
from results_file import keep, known, table
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import LambdaLR

import pyrogen as pg
from pyrogen.implicit import R1, R2, Game, mlp_critic, tabular

TASKS = {"cancer": load_breast_cancer, "wine": load_wine}
CTGAN = """
import sys, pandas, torch
from ctgan import CTGAN
rows, draws, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(seed)
table = pandas.read_csv(rows)
torch.set_num_threads(1)
model = CTGAN(epochs=int(sys.argv[5]), enable_gpu=False)
model.set_random_state(seed)
model.fit(table, ["label"])
model.sample(count).to_csv(draws, index=False)
"""


def data(train: Tensor, count: int, options: argparse.Namespace, seed: int) -> Tensor:
    """Rows to learn from, in place of draws."""
    return (
        train[torch.randint(len(train), (count,))] if count > len(train) else train[torch.randperm(len(train))[:count]]
    )


def gan(train: Tensor, count: int, options: argparse.Namespace, seed: int, pack: int = 1) -> Tensor:
    """The default game of a table."""
    columns, classes = train.shape[1], int(train[:, -1].max()) + 1
    generator = tabular((columns,), categories={columns - 1: classes}, hidden=(128, 128))
    critic = mlp_critic(generator.represented_shape, hidden=(128, 128), pack=pack)
    game = Game(generator, critic, penalties=(R1(options.weight), R2(options.weight)))
    falling = partial(LambdaLR, lr_lambda=lambda step: min(1.0, 2 * (1 - step / options.steps)))
    rows = train[: len(train) // 64 * 64]  # whole packs in every minibatch
    pg.fit(game, rows, steps=options.steps, batch_size=64, schedule=falling, ema=0.995, seed=seed)
    return generator().sample((count,))


def vae(train: Tensor, count: int, options: argparse.Namespace, seed: int) -> Tensor:
    """The autoencoder of a table, of standardized columns."""
    columns, classes = train.shape[1], int(train[:, -1].max()) + 1
    mean, scale = train.mean(0), train.std(0)
    mean[-1], scale[-1] = 0.0, 1.0
    module = pg.latent.tabular_vae((columns,), latent_shape=(8,), categories={columns - 1: classes})
    pg.fit(module, (train - mean) / scale, steps=options.steps, batch_size=64, seed=seed)
    with torch.no_grad():
        return mean + scale * module().sample((count,))


def ctgan(train: Tensor, count: int, options: argparse.Namespace, seed: int) -> Tensor:
    """CTGAN of its authors."""
    import pandas

    names = [*(f"x{place}" for place in range(train.shape[1] - 1)), "label"]
    with TemporaryDirectory() as folder:
        rows, draws = Path(folder, "rows.csv"), Path(folder, "draws.csv")
        table = pandas.DataFrame(train.numpy(), columns=names).astype({"label": int})
        table.to_csv(rows, index=False)
        arguments = [str(rows), str(draws), str(seed), str(count), str(options.steps)]  # an epoch is a step of 500 rows
        subprocess.run([str(options.ctgan), "-c", CTGAN, *arguments], check=True)
        return torch.tensor(pandas.read_csv(draws)[names].to_numpy(), dtype=torch.float)


MODELS = {"data": data, "gan": gan, "packed": partial(gan, pack=4), "vae": vae, "ctgan": ctgan}


def measure(name: str, model: str, seed: int, options: argparse.Namespace) -> dict:
    """One row: a model trained, and what its draws are."""
    pyro.set_rng_seed(seed)
    bunch = TASKS[name]()
    rows = torch.cat([torch.tensor(bunch.data), torch.tensor(bunch.target)[:, None]], 1).float()
    (train,), (test,) = pg.data.split(rows, sizes=(len(rows) * 2 // 3, len(rows) - len(rows) * 2 // 3), seed=seed)
    began = processor_seconds()
    draws = MODELS[model](train, len(train), options, seed)
    seconds = processor_seconds() - began
    classes = int(rows[:, -1].max()) + 1
    x, y, seen = (standard(part, train, classes) for part in (draws, test, train))
    p_value = pg.evaluation.mmd_test(x[: len(y)], y).p_value
    forest = RandomForestClassifier(200, random_state=seed).fit(draws[:, :-1].numpy(), draws[:, -1].numpy())
    accuracy = balanced_accuracy_score(test[:, -1].numpy(), forest.predict(test[:, :-1].numpy()))
    near = (nearest(x, seen) < nearest(y, seen).median()).float().mean().item()
    row = {"data": name, "model": model, "seed": seed, "steps": options.steps, "weight": options.weight}
    return row | {"p": p_value, "accuracy": accuracy, "near": near, "seconds": seconds}


def processor_seconds() -> float:
    """Of this process and of those that it started."""
    return sum(os.times()[:4])


def standard(rows: Tensor, train: Tensor, classes: int) -> Tensor:
    """Standardized numbers, and the label one-hot."""
    numbers = (rows[:, :-1] - train[:, :-1].mean(0)) / train[:, :-1].std(0)
    return torch.cat([numbers, one_hot(rows[:, -1].long(), classes).float()], 1)


def nearest(rows: Tensor, seen: Tensor) -> Tensor:
    """The distance of each row from the nearest of those to learn from."""
    return torch.cdist(rows, seen).min(1).values


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """Means over seeds with standard errors, and all p-values."""
    for data, model in dict.fromkeys((row["data"], row["model"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["model"]) == (data, model)]
        figures = [mean_and_error([row[name] for row in mine]) for name in ("accuracy", "near")]
        p_values = ", ".join(f"{row['p']:.3f}" for row in mine)
        yield [data, model, p_values, *figures, f"{statistics.mean(row['seconds'] for row in mine):,.0f}"]


def mean_and_error(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


def runs(options: argparse.Namespace, rows: list[dict]) -> Iterator[dict]:
    """A row for each seed, data and model that no row is known of."""
    done = {(row["data"], row["model"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.data:
            for model in options.models:
                if (name, model, seed) not in done and (model != "ctgan" or options.ctgan is not None):
                    yield measure(name, model, seed, options)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--weight", type=float, default=1.0, help="of both penalties")
    parser.add_argument("--ctgan", type=Path, help="a Python interpreter with ctgan")
    parser.add_argument("--output", type=Path, help="a file of results, one JSON object a line; it is continued")
    parser.add_argument("--read", type=Path, help="tabulate this file of results, run nothing")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = known(options.read or options.output)
    if not options.read:
        keep(runs(options, rows), rows, options.output)
    table(["data", "model", "p-values", "accuracy", "near", "seconds"], list(summary(rows)), options.table, rows)


if __name__ == "__main__":
    main()
