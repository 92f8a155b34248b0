"""Flows against their peers: time, held-out likelihood, precision of one spline.

One process, one thread, eager, interleaved: every library takes its turn at every repetition or seed, and times are
processor time, so that a busy machine slows all alike. Needs the ``bench`` extra.

    python benchmarks/flows.py --time --budget 8
    python benchmarks/flows.py --quality --seeds 10 11 12 13 14
    python benchmarks/flows.py --spline

With ``--output FILE`` raw results are kept as they come, and what is there is not run again; ``--table FILE`` writes
the table of the documentation.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from flows_peers import BINS, BOUND, KINDS, LIBRARIES, build
from results_file import keep, known, table
from torch import Tensor

PEERS = LIBRARIES[1:]
TITLES = {"zuko": "Zuko", "pyro": "Pyro"}
TASKS = {"log_prob": "log_prob", "train": "training step", "sample": "sample"}
STEPS = {"digits": 250, "moons": 400}
BATCH = {"digits": 128, "moons": 256}
AIMS = {"spline": 0.5, "affine": 0.9}
"""Of the time of the fastest peer, for densities and training steps."""
SAMPLING_AIMS = {
    ("spline autoregressive", 16): 0.125,
    ("spline autoregressive", 64): 0.083,
    ("affine autoregressive", 64): 0.33,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    for task in (times, qualities, precision):
        name = {"times": "--time", "qualities": "--quality", "precision": "--spline"}[task.__name__]
        what.add_argument(name, dest="run", action="store_const", const=task, help=task.__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=8.0, help="seconds for each setting")
    parser.add_argument("--seeds", nargs="+", type=int, default=(10, 11, 12, 13, 14), help="of --quality")
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--sizes", nargs="+", type=int, default=(16, 64))
    parser.add_argument("--data", nargs="+", default=("digits", "moons"))
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES, help="of --quality; ours comes first")
    parser.add_argument("--output", type=Path, help="a file that gets the raw numbers, one JSON object a line")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.run(options)


def times(options: argparse.Namespace) -> None:
    """Median milliseconds of log_prob, a training step and sampling."""
    lines, rows = known(options.output), []
    for kind in options.kinds:
        for size in options.sizes:
            mine = [line for line in lines if (line["kind"], line["size"]) == (kind, size)]
            if not mine:
                keep(_timed(kind, size, options.budget), lines, options.output)
                mine = lines[-len(TASKS) :]
            rows += [_compared(line) for line in mine]
    columns = ["flow", "D", "task", *(TITLES.get(library, library) for library in LIBRARIES)]
    table([*columns, "ours / best peer", "aim"], rows, options.table, lines)


def _timed(kind: str, size: int, budget: float) -> Iterator[dict]:
    """All libraries at each task of one kind of flow."""
    torch.manual_seed(0)
    flows = {library: build(library, kind, size) for library in LIBRARIES}
    for flow in flows.values():
        _perturb(flow)
    slow = kind.endswith("autoregressive") and size > 16
    for task in TASKS:
        rows = 128 if slow and task == "sample" else 1024
        found = interleaved({library: _task(task, flow, size, rows) for library, flow in flows.items()}, budget)
        yield {"kind": kind, "size": size, "task": task, "rows": rows, "ms": found}


def _compared(line: dict) -> list[str]:
    """A row of the table: milliseconds, and the ratio beside its aim, in bold if it misses that."""
    kind, size, task, found = (line[key] for key in ("kind", "size", "task", "ms"))
    ratio = found["pyrogen"] / min(found[library] for library in PEERS)
    aim = SAMPLING_AIMS.get((kind, size)) if task == "sample" else AIMS[kind.split()[0]]
    shown = f"**{ratio:.2f}**" if aim and ratio > aim else f"{ratio:.2f}"
    spent = (f"{found[library]:.1f}" if found[library] < 100 else f"{found[library]:.0f}" for library in LIBRARIES)
    return [kind, f"{size}", TASKS[task], *spent, shown, f"{aim or ''}"]


def _perturb(flow: torch.nn.Module) -> None:
    """Away from the identity, so that no branch is idle."""
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.05)


def _task(task: str, flow: torch.nn.Module, size: int, rows: int) -> Callable[[], object]:
    x = torch.randn(rows, size)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-5)

    def train() -> None:
        loss = -flow.log_prob(x + 0).mean()  # a new tensor, since Pyro caches by identity
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    if task == "train":
        return train
    return torch.no_grad()(lambda: flow.log_prob(x + 0) if task == "log_prob" else flow.sample(rows))


def interleaved(calls: dict[str, Callable[[], object]], budget: float) -> dict[str, float]:
    """Median milliseconds of each call, taking turns for ``budget`` seconds (at least three turns)."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    start, turns = time.process_time(), 0
    while turns < 3 or time.process_time() - start < budget:
        for name, call in calls.items():
            began = time.process_time()
            call()
            spent[name].append(1e3 * (time.process_time() - began))
        turns += 1
    return {name: statistics.median(values) for name, values in spent.items()}


def qualities(options: argparse.Namespace) -> None:
    """Held-out nats with early stopping on a validation split: means over seeds, and paired differences."""
    lines, rows = known(options.output), []
    for data in options.data:
        for kind in options.kinds:
            wanted = [(data, kind, seed, library) for seed in options.seeds for library in options.libraries]
            done = [tuple(line["run"]) for line in lines]
            missing = (run for run in wanted if run not in done)
            keep(({"run": run, "nats": _fit(*run)} for run in missing), lines, options.output)
            nats = {tuple(line["run"]): line["nats"] for line in lines}
            found = {name: [nats[data, kind, seed, name] for seed in options.seeds] for name in options.libraries}
            rows.append([f"{data}, {kind}", *_summary(found, 1 if data == "digits" else 3)])
    columns = ["data, flow", *(TITLES.get(library, library) for library in options.libraries)]
    table(columns, rows, options.table, lines)


def _fit(data: str, kind: str, seed: int, library: str) -> tuple[float, float]:
    """Test nats where the validation nats were lowest, and after the last step."""
    train, validation, test = {"digits": digits, "moons": moons}[data](seed)
    torch.manual_seed(seed)
    flow = build(library, kind, train.shape[1], **(_defaults(kind, data) if library == "pyrogen" else {}))
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    best, rows = (math.inf, math.nan), torch.Generator().manual_seed(seed)
    for step in range(1, STEPS[data] + 1):
        flow.train()
        batch = train[torch.randint(len(train), (BATCH[data],), generator=rows)]
        loss = -flow.log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            flow.eval()
            with torch.no_grad():
                nats = [-flow.log_prob(part + 0).mean().item() for part in (validation, test)]
            best = min(best, tuple(nats)) if math.isfinite(nats[0]) else best
    return best[1], nats[1]


def _defaults(kind: str, data: str) -> dict[str, bool]:
    """What our recipe does if it is not told otherwise."""
    return {"mixing": kind.endswith("coupling") or data == "moons", "standardize": True}


def _summary(found: dict[str, list[tuple[float, float]]], digits: int) -> Iterator[str]:
    """For each library the best nats, those after the last step, and ours less theirs, paired, with its interval."""
    first, *_ = found
    ours = torch.tensor(found[first])[:, 0]
    for library, values in found.items():
        best, last = torch.tensor(values).unbind(1)
        shown = f"{best.mean():.{digits}f} [{last.mean():.3g}]"
        if library != first and len(ours) > 1:
            difference = ours - best
            spread = T_975[len(ours)] * difference.std() / len(ours) ** 0.5
            shown += f" ({difference.mean():+.{digits}f} ± {spread:.{digits}f})"
        yield shown


T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Quantiles of Student's distribution for paired 95 % intervals, by the number of seeds."""


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """8x8 digits: uniform dequantization, logit of 0.05 + 0.9 x, standardized; 1257 / 180 / 360 rows."""
    from sklearn.datasets import load_digits

    generator = torch.Generator().manual_seed(seed)
    x = torch.tensor(load_digits().data, dtype=torch.float32)
    x = (x + torch.rand(x.shape, generator=generator)) / 17
    x = (0.05 + 0.9 * x).logit()[torch.randperm(len(x), generator=generator)]
    x = (x - x[:1437].mean(0)) / x[:1437].std(0)
    return x[:1257], x[1257:1437], x[1437:]


def moons(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two moons of noise 0.05, standardized; 16,000 / 2,000 / 4,000 rows."""
    from sklearn.datasets import make_moons

    x = torch.tensor(make_moons(22_000, noise=0.05, random_state=seed)[0], dtype=torch.float32)
    x = (x - x[:16_000].mean(0)) / x[:16_000].std(0)
    return x[:16_000], x[16_000:18_000], x[18_000:]


def precision(options: argparse.Namespace) -> None:
    """Round trip of one spline in single precision, with random parameters."""
    import zuko
    from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

    from pyrogen.transforms import Spline

    ours, rows = Spline(BINS, BOUND), []
    for sigma in (1.0, 3.0, 10.0):
        torch.manual_seed(0)
        raw = sigma * torch.randn(3 * BINS - 1, 200_000)
        x = BOUND * (2 * torch.rand(raw.shape[1]) - 1)
        parts = [part.T for part in raw.split([BINS, BINS, BINS - 1])]
        zuko_spline = zuko.transforms.MonotonicRQSTransform(*parts)

        def nflows(value: Tensor, inverse: bool, parts: list[Tensor] = parts) -> Tensor:
            return unconstrained_rational_quadratic_spline(value, *parts, inverse=inverse, tail_bound=BOUND)[0]

        trips = (
            lambda x=x, raw=raw: ours.inverse(raw, ours.forward(raw, x)[0])[0],
            lambda x=x, spline=zuko_spline: spline.inv(spline(x)),
            lambda x=x, nflows=nflows: nflows(nflows(x, False), True),
        )
        rows.append([f"{sigma:g}", *(_error(trip, x) for trip in trips)])
    table(["sigma", "pyrogen", "Zuko", "nflows"], rows, options.table)


def _error(trip: Callable[[], Tensor], x: Tensor) -> str:
    """The 99.9th percentile of the error, and how many are not numbers."""
    try:
        error = (trip() - x).abs()
    except AssertionError:  # of a negative discriminant
        return "AssertionError"
    ordered, missing = error.nan_to_num(math.inf).sort().values, int(error.isnan().sum())
    return f"{ordered[int(0.999 * len(ordered))]:.1e}" + (f", {missing} NaN" if missing else "")


if __name__ == "__main__":
    main()
