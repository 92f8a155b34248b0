"""Point processes beside a Poisson process: held-out nats an event, and the time-rescaling test.

Two processes: two kinds of events that excite each other (a Hawkes process, whose density is known), and events of one
kind that come at almost regular times, the logarithms of waiting times being normal with standard deviation 0.3. There
are 200 windows of each to learn from and 200 to test, of some ten events. The Poisson process has the rates of the
training windows. Scores are the log-probability of the test windows over the mean number of their events, less that of
the Poisson process, with standard errors over windows; p-values are those of the Kolmogorov-Smirnov test of rescaled
times.

    python benchmarks/point_processes.py [--steps 200] [--table FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from results_file import table

import pyrogen as pg
from pyrogen import autoregressive

WINDOW, WINDOWS, LENGTH = 10.0, 200, 60


def mutual(rates=(0.4, 0.2), branching=((0.3, 0.4), (0.1, 0.3)), decay=1.5):
    """A Hawkes process of two kinds."""
    process = autoregressive.hawkes((LENGTH, 2), window=WINDOW, marks=2)
    numbers = torch.cat([torch.tensor(rates), torch.tensor(branching).flatten(), torch.tensor([decay])])
    with torch.no_grad():
        process.network.numbers.copy_(numbers.log())
    return process


def regular(process, count):
    """Windows of almost regular events, packed."""
    times = (0.3 * torch.randn(count, LENGTH)).exp().cumsum(-1)
    return process.pack([row[row < WINDOW] for row in times])


def poisson(x, marks):
    """The Poisson process with the rates of some windows."""
    process = autoregressive.hawkes(x.shape[1:], window=WINDOW, marks=marks)
    times = x[..., 0] if marks else x
    kinds = x[..., 1] if marks else torch.zeros_like(times)
    happened = times < WINDOW
    rates = torch.stack([(happened & (kinds == kind)).sum() for kind in range(marks or 1)]) / len(x) / WINDOW
    with torch.no_grad():
        process.network.numbers[: len(rates)] = rates.log()
        process.network.numbers[len(rates) : -1] = -20.0  # no event excites another
        process.network.numbers[-1] = 0.0
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    truth = mutual()
    one = autoregressive.hawkes((LENGTH,), window=WINDOW)
    data = {"two kinds, exciting": truth().sample((2 * WINDOWS,)), "one kind, regular": regular(one, 2 * WINDOWS)}
    rows = []
    for name, x in data.items():
        train, test = x.split(WINDOWS)
        marks = 2 if x.dim() == 3 else None
        base = poisson(train, marks)
        models = {"Poisson": base} | ({"truth": truth} if marks else {})
        hawkes = autoregressive.hawkes(x.shape[1:], window=WINDOW, marks=marks)
        pg.fit(hawkes, train, steps=options.steps, lr=2e-2, batch_size=WINDOWS, seed=0)
        neural = autoregressive.point_process(x.shape[1:], window=WINDOW, marks=marks, width=32, depth=1, components=8)
        pg.fit(neural, train, steps=options.steps, lr=3e-3, batch_size=50, seed=0)
        for model, process in (models | {"`hawkes`": hawkes, "`point_process`": neural.eval()}).items():
            with torch.no_grad():
                gain = (process().log_prob(test) - base().log_prob(test)) / process().lengths(test).double().mean()
            error = gain.std() / len(gain) ** 0.5
            p_value = process().time_rescaling(test).p_value
            rows.append([name, model, f"{gain.mean():+.3f} ± {error:.3f}", f"{p_value:.2g}"])
            print(*rows[-1], flush=True)
    table(["data", "model", "nats an event over Poisson", "p-value of time rescaling"], rows, options.table)


if __name__ == "__main__":
    main()
