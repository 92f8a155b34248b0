"""Flows against their peers: time, held-out likelihood, precision of one spline.

One process, one thread, eager, interleaved: every library takes its turn at every repetition or seed, and times are
processor time, so that a busy machine slows all alike. Needs the ``bench`` extra.

    python benchmarks/flows.py --time --budget 8
    python benchmarks/flows.py --quality --seeds 10 11 12 13 14
    python benchmarks/flows.py --spline
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from flows_peers import BINS, BOUND, KINDS, LIBRARIES, build
from torch import Tensor

PEERS = LIBRARIES[1:]
STEPS = {"digits": 250, "moons": 400}
BATCH = {"digits": 128, "moons": 256}


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
    parser.add_argument("--output", help="a file that gets the raw numbers, one JSON object a line")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.run(options)


def times(options: argparse.Namespace) -> None:
    """Median milliseconds of log_prob, a training step and sampling."""
    print("| flow | D | task | " + " | ".join(LIBRARIES) + " | ours / best peer |")
    print("|---|---|---|" + "---|" * (len(LIBRARIES) + 1))
    for kind in options.kinds:
        for size in options.sizes:
            torch.manual_seed(0)
            flows = {library: build(library, kind, size) for library in LIBRARIES}
            for flow in flows.values():
                _perturb(flow)
            slow = kind.endswith("autoregressive") and size > 16
            for task, rows in (("log_prob", 1024), ("train", 1024), ("sample", 128 if slow else 1024)):
                calls = {library: _task(task, flow, size, rows) for library, flow in flows.items()}
                found = interleaved(calls, options.budget)
                best = min(found[library] for library in PEERS)
                row = " | ".join(f"{found[library]:.1f}" for library in LIBRARIES)
                print(f"| {kind} | {size} | {task} [{rows}] | {row} | {found['pyrogen'] / best:.2f} |", flush=True)
                _write(options, {"kind": kind, "size": size, "task": task, "rows": rows, "ms": found})


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
    print("| data | flow | library | best | after the last step | ours minus theirs |")
    print("|---|---|---|---|---|---|")
    known = _read(options)
    for data in options.data:
        for kind in options.kinds:
            found: dict[str, list[tuple[float, float]]] = {library: [] for library in options.libraries}
            for seed in options.seeds:
                for library in options.libraries:
                    run = data, kind, seed, library
                    if run not in known:
                        known[run] = _fit(library, kind, data, seed)
                        _write(options, {"run": run, "nats": known[run]})
                    found[library].append(known[run])
            _report(data, kind, found)


def _fit(library: str, kind: str, data: str, seed: int) -> tuple[float, float]:
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


def _report(data: str, kind: str, found: dict[str, list[tuple[float, float]]]) -> None:
    first, *_ = found
    ours = torch.tensor(found[first])[:, 0]
    for library, values in found.items():
        best, last = torch.tensor(values).unbind(1)
        difference, interval = ours - best, ""
        if library != first and len(ours) > 1:
            spread = T_975[len(ours)] * difference.std() / len(ours) ** 0.5
            interval = f"{difference.mean():.3f} ± {spread:.3f}"
        print(f"| {data} | {kind} | {library} | {best.mean():.3f} | {last.mean():.4g} | {interval} |", flush=True)


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

    ours = Spline(BINS, BOUND)
    for sigma in (1.0, 3.0, 10.0):
        torch.manual_seed(0)
        raw = sigma * torch.randn(3 * BINS - 1, 200_000)
        x = BOUND * (2 * torch.rand(raw.shape[1]) - 1)
        parts = [part.T for part in raw.split([BINS, BINS, BINS - 1])]
        zuko_spline = zuko.transforms.MonotonicRQSTransform(*parts)

        def nflows(value: Tensor, inverse: bool, parts: list[Tensor] = parts) -> Tensor:
            return unconstrained_rational_quadratic_spline(value, *parts, inverse=inverse, tail_bound=BOUND)[0]

        trips = {
            "pyrogen": lambda x=x, raw=raw: ours.inverse(raw, ours.forward(raw, x)[0])[0],
            "zuko": lambda x=x, spline=zuko_spline: spline.inv(spline(x)),
            "nflows": lambda x=x, nflows=nflows: nflows(nflows(x, False), True),
        }
        for name, trip in trips.items():
            try:
                error = (trip() - x).abs()
            except AssertionError:
                print(f"sigma {sigma:4} {name:8} AssertionError: negative discriminant")
                continue
            ordered = error.nan_to_num(math.inf).sort().values
            print(
                f"sigma {sigma:4} {name:8} p99.9 {ordered[int(0.999 * len(ordered))]:.2e} max {ordered[-1]:.2e} "
                f"NaN {int(error.isnan().sum())}"
            )


def _read(options: argparse.Namespace) -> dict[tuple, tuple[float, float]]:
    """The runs of ``--quality`` that the output file holds already, so that it can be continued."""
    if not options.output or not Path(options.output).exists():
        return {}
    records = map(json.loads, Path(options.output).read_text().splitlines())
    return {tuple(record["run"]): tuple(record["nats"]) for record in records if "run" in record}


def _write(options: argparse.Namespace, record: dict) -> None:
    if options.output:
        with Path(options.output).open("a") as file:
            file.write(json.dumps(copy.copy(record)) + "\n")


if __name__ == "__main__":
    main()
