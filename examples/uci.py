"""The published UCI protocol: a spline flow on POWER, GAS, HEPMASS, MINIBOONE or BSDS300, beside published numbers.

The data are yours: give the folder of the prepared "MAF data sets" (see pyrogen.data.uci). Without one, a small file of
the same format is generated, so that everything runs; its result says nothing about the data set.

    python examples/uci.py --folder DATA --table gas [--steps 400000] [--batch-size 512] [--device cpu] [--seed 0]
    python examples/uci.py [--table power] [--steps 400] [--output output/demo]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

TABLES = {  # loader, path in the folder, columns
    "power": (pg.data.uci.power, "power/data.npy", 6),
    "gas": (pg.data.uci.gas, "gas/ethylene_CO.pickle", 8),
    "hepmass": (pg.data.uci.hepmass, "hepmass", 21),
    "miniboone": (pg.data.uci.miniboone, "miniboone/data.npy", 43),
    "bsds300": (pg.data.uci.bsds300, "BSDS300/BSDS300.hdf5", 63),
}
# Test log-likelihood in nats, table 1 of Durkan et al. 2019, "Neural spline flows", in the order of TABLES.
PUBLISHED = {
    "Glow": (0.42, 12.24, -16.99, -10.55, 156.95),
    "MAF": (0.45, 12.35, -17.03, -10.92, 156.95),
    "FFJORD": (0.46, 8.59, -14.92, -10.43, 157.40),
    "NAF": (0.62, 11.96, -15.09, -8.86, 157.73),
    "Block-NAF": (0.61, 12.06, -14.71, -8.95, 157.36),
    "SOS": (0.60, 11.99, -15.15, -8.90, 157.48),
    "RQ-NSF (coupling)": (0.64, 13.09, -14.75, -9.67, 157.54),
    "RQ-NSF (autoregressive)": (0.66, 13.09, -14.01, -9.22, 157.31),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=TABLES, default="power")
    parser.add_argument("--folder", type=Path, help="of the prepared data; a small file is generated without one")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)

    load, path, columns = TABLES[options.table]
    folder = options.folder
    if folder is None:
        folder = options.output / "generated"
        generate(options.table, folder / path, np.random.default_rng(options.seed))
        print(f"No --folder: generated a small file of the format of {options.table.upper()} in {folder}.")
        print("Its figure below says nothing about the data set, and compares with no published one.")
    train, validation, test = (part.to(options.device) for part in load(folder / path))
    print(
        f"{options.table.upper()}: {len(train):,} / {len(validation):,} / {len(test):,} rows, {test.shape[1]} columns"
    )

    flow = pg.flows.spline_autoregressive(
        (columns,),
        layers=options.layers,
        hidden=(options.hidden, options.hidden),
        bins=8,
        bound=3.0,
        dropout=options.dropout,
    )
    fit = pg.fit(
        flow.to(options.device),
        train,
        steps=options.steps,
        batch_size=options.batch_size,
        optimizer=partial(torch.optim.Adam, lr=options.learning_rate, fused=True),
        schedule=partial(CosineAnnealingLR, T_max=options.steps),
        clip=5.0,
        validation=validation,
        seed=options.seed,
    )
    pg.save(flow, options.output / f"{options.table}.safetensors")
    print(f"{options.steps} steps in {fit.history.seconds:.0f} s, best on the validation rows at step {fit.best_step}")
    what = "here" if options.folder else "here (generated data)"
    print(f"Test log-likelihood, nats (higher is better)\n   {what:<26}{pg.evaluation.log_likelihood(flow, test)}")
    print("   published, on the real data (Durkan et al. 2019, table 1)")
    for name, figures in PUBLISHED.items():
        print(f"   {name:<26}{figures[list(TABLES).index(options.table)]:.2f}")


def generate(table: str, path: Path, random: np.random.Generator, rows: int = 10_000) -> None:
    """A small file of the format of a data set: a curved, correlated cloud."""

    def cloud(columns: int, count: int = rows) -> np.ndarray:
        noise = random.normal(size=(count, columns))
        noise[:, 1:] += np.sin(2 * noise[:, :-1])
        return noise

    if table == "hepmass":
        path.mkdir(parents=True, exist_ok=True)
        write_hepmass(path, cloud, random)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if table == "power":
        np.save(path, cloud(8))  # two columns are dropped
    elif table == "miniboone":
        np.save(path, cloud(43))
    elif table == "gas":
        import pandas

        sensors = cloud(8)
        columns = np.column_stack((cloud(3), sensors, sensors + 0.01 * random.normal(size=sensors.shape)))
        names = ["Time", "Meth", "Eth", *(f"R{index}" for index in range(1, 17))]
        pandas.DataFrame(columns, columns=names).to_pickle(path)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            for part, share in (("train", rows), ("validation", rows // 10), ("test", rows // 10)):
                file[part] = cloud(63, share).astype("float32")


def write_hepmass(folder: Path, cloud, random: np.random.Generator) -> None:
    import pandas

    for part in ("train", "test"):
        features = cloud(27)
        features[:, 21:] = features[:, 21:] > 0  # six discrete features, which the protocol drops
        label = random.integers(0, 2, len(features))
        names = ["# label", *(f"f{index}" for index in range(27))]
        frame = pandas.DataFrame(np.column_stack((label, features)), columns=names)
        if part == "test":
            frame["mass"] = 1000.0
        frame.to_csv(folder / f"1000_{part}.csv", index=False)


if __name__ == "__main__":
    main()
