"""Filling the gaps of real tables: error and coverage of the missing-data VAE, beside scikit-learn's imputers.

Entries of scikit-learn's breast cancer or wine data, standardized, are removed completely at random; each method sees
what is left and fills the gaps of the same rows. Reported are the root mean squared error on the removed entries
(standard deviations of the column) and how many of them lie in a central 90 % interval. The point imputers have no
intervals; ``iterative`` gets them from twenty imputations drawn from its posterior (Bayesian ridge regressions).

    python benchmarks/imputation.py --data breast_cancer --seeds 5
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from results_file import table
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import pyrogen as pg
from pyrogen import latent

Filled = tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]


def mean(x: np.ndarray, seed: int) -> Filled:
    """The mean of the column."""
    return SimpleImputer(keep_empty_features=True).fit_transform(x), None


def neighbours(x: np.ndarray, seed: int) -> Filled:
    """The mean of the ten nearest rows."""
    return KNNImputer(n_neighbors=10, keep_empty_features=True).fit_transform(x), None


def iterative(x: np.ndarray, seed: int) -> Filled:
    """Regressions of each column on the others, in turn; intervals from repeated draws."""
    point = IterativeImputer(max_iter=20, random_state=seed).fit_transform(x)
    draws = [
        IterativeImputer(max_iter=5, sample_posterior=True, random_state=100 * seed + draw).fit_transform(x)
        for draw in range(20)
    ]
    return point, tuple(np.quantile(draws, [0.05, 0.95], axis=0))


def miwae(x: np.ndarray, seed: int) -> Filled:
    """The missing-data VAE, trained by the importance-weighted bound of what is observed."""
    torch.manual_seed(seed)
    rows = torch.from_numpy(x).float()
    module = latent.missing_data_vae((x.shape[1],), latent_shape=(LATENTS,), hidden=(64,))
    pg.fit(
        latent.ImportanceWeighted(module, draws=5),
        rows,
        steps=STEPS,
        batch_size=64,
        seed=seed,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
    )
    filled = latent.impute(module, rows, draws=1000)
    low, high = filled.interval(0.9)
    return filled.mean.numpy(), (low.numpy(), high.numpy())


LATENTS, STEPS = 8, 1000
METHODS: dict[str, Callable[[np.ndarray, int], Filled]] = {
    "column means": mean,
    "nearest neighbours": neighbours,
    "iterative": iterative,
    "`missing_data_vae`": miwae,
}


def scored(method: Callable[[np.ndarray, int], Filled], complete: np.ndarray, share: float, seed: int) -> list[float]:
    """Error, coverage and seconds of one method on one pattern of gaps."""
    gaps = np.random.default_rng(seed).random(complete.shape) < share
    start = time.process_time()
    filled, interval = method(np.where(gaps, np.nan, complete), seed)
    seconds = time.process_time() - start
    error = np.sqrt(np.mean((filled - complete)[gaps] ** 2))
    inside = np.nan
    if interval is not None:
        inside = np.mean(((interval[0] <= complete) & (complete <= interval[1]))[gaps])
    return [error, inside, seconds]


def main(argv: list[str] | None = None) -> None:
    """Prints a table: means over seeds, with standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["breast_cancer", "wine"], default="breast_cancer")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)

    raw = getattr(datasets, f"load_{options.data}")().data
    complete = (raw - raw.mean(0)) / raw.std(0)
    print(f"{options.data}: {len(complete)} rows, {complete.shape[1]} columns, {options.seeds} seeds")
    rows = []
    for share in options.shares:
        for name in options.methods:
            runs = np.array([scored(METHODS[name], complete, share, seed) for seed in range(options.seeds)])
            (error, inside, seconds), spread = runs.mean(0), runs.std(0, ddof=1) / len(runs) ** 0.5
            shown = "" if np.isnan(inside) else f"{inside:.3f} ± {spread[1]:.3f}"
            rows.append([f"{share:.0%}", name, f"{error:.3f} ± {spread[0]:.3f}", shown, f"{seconds:.1f}"])
            print(*rows[-1], flush=True)
    table(["missing", "method", "error", "coverage of 90 % intervals", "CPU seconds"], rows, options.table)


if __name__ == "__main__":
    main()
