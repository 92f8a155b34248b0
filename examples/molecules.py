"""Molecules: what a language model of chemistry writes, and what it writes given a property, with the evidence.

A small transformer learns the symbols of drug-like molecules (SMILES, of the MOSES benchmark). A factor of a Pyro
program then demands three things: that a string is a molecule at all, that its octanol-water partition coefficient,
logP, lies in a band, and that its drug-likeness, QED, is high. SequenceSMC gives the posterior; what steers it is a
regression of logP on the beginnings of known molecules. The evidence of the condition is its base rate, which plain
draws estimate as well. The run takes half an hour of one core, `pip install rdkit fcd_torch` and
`pip install --no-deps molsets`; without these, letters and brackets stand in for chemistry.

    python examples/molecules.py [--output output/molecules] [--seed 0] [--steps 6000] [--draws 10000]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import re
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pyro
import torch
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen.data import Alphabet
from pyrogen.inverse import SequenceSMC, transformer_regression

SYMBOL = r"\[[^]]+]|Br|Cl|."  # an atom, a bond, a bracket or a number
MOSES = "its CharRNN, trained on all molecules, valid 0.960, FCD 0.32"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/molecules"))
    for name, default in {"seed": 0, "steps": 6000, "draws": 10_000, "particles": 1000, "molecules": 400_000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--band", type=float, nargs=2, default=(4.0, 4.5), help="of logP")
    parser.add_argument("--quality", type=float, default=0.7, help="the least QED")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    measure, known, reference = chemistry(options.molecules)
    alphabet = Alphabet.of(known, pattern=SYMBOL)
    x = alphabet.encode(known, 1 + max(alphabet.lengths(known)))
    print(f"{len(x):,} molecules of at most {x.shape[1] - 1} of {len(alphabet.letters)} symbols")
    sizes = {"symbols": alphabet.symbols, "end": alphabet.end}
    prior = pg.autoregressive.transformer(x.shape[1:], **sizes, width=128, depth=3)
    schedule = partial(OneCycleLR, max_lr=3e-3, total_steps=options.steps + 1, pct_start=0.1)
    settings = {"seed": options.seed, "clip": 1.0, "checkpoint": options.output / "prior.fit"}
    fit = pg.fit(prior, x, steps=options.steps, batch_size=64, schedule=schedule, ema=0.99, **settings)

    plain = alphabet.decode(prior().sample((options.draws,)))
    valid = [string for string in plain if measure(string) is not None]
    unique = set(valid)
    print(f"{fit.history.seconds:.0f} s of training. Plain draws: {len(valid) / len(plain):.3f} valid; of these "
          f"{len(unique) / max(len(valid), 1):.4f} unique, {len(unique - set(known)) / max(len(unique), 1):.3f} new"
          f"{frechet(valid, reference)}")  # fmt: skip

    low, high = options.band

    def inside(string: str) -> bool:
        found = measure(string)
        return found is not None and low <= found[0] < high and found[1]() >= options.quality

    rate = sum(map(inside, plain)) / len(plain)
    print(f"\nlogP from {low} to {high} and QED of at least {options.quality}: "
          f"{rate:.4f} ± {(rate * (1 - rate) / len(plain)) ** 0.5:.4f} of plain draws")  # fmt: skip

    measured = {row: found[0] for row, found in enumerate(map(measure, known[: 20 * options.draws])) if found}
    data = x[list(measured)], torch.tensor(list(measured.values()))
    regression = transformer_regression(x.shape[1:], **sizes, width=64, depth=2)
    steps = min(options.steps, 2500)
    schedule = partial(OneCycleLR, max_lr=3e-3, total_steps=steps + 1, pct_start=0.1)
    pg.fit(regression, data, steps=steps, batch_size=128, schedule=schedule, clip=1.0, seed=options.seed)

    def model() -> None:
        string = alphabet.decode(pyro.sample("molecule", prior()))
        pyro.factor("band", torch.tensor(0.0 if inside(string) else -torch.inf))

    for name, used in {"prior alone": None, "regression": regression.eval().within(low, high)}.items():
        posterior = SequenceSMC(model, site="molecule", particles=options.particles, twist=used).run()
        draws = alphabet.decode(posterior.get_samples()["molecule"])
        evidence, error = posterior.log_evidence.exp().item(), posterior.diagnostics().standard_error.item()
        hits = sorted(set(filter(inside, draws)))
        print(f"{name}: evidence {evidence:.4f} ± {evidence * error:.4f}; {len(hits)} different molecules that fit "
              f"of {len(draws)} particles, {len(set(hits) - set(known))} of them new")  # fmt: skip
    (options.output / "molecules.smi").write_text("\n".join(hits) + "\n")
    print("   " + "\n   ".join(hits[:: len(hits) // 5 + 1]))


def chemistry(most: int) -> tuple[Callable[[str], tuple | None], list[str], list[str]]:
    """What measures a string; known molecules; and others to compare draws with.

    A string's logP and, called only where it is needed as it takes longer, its QED; ``None`` where it is no molecule.
    Without RDKit and MOSES, letters and the same backwards in brackets, and the share of N in them.
    """
    if find_spec("rdkit") is None or find_spec("moses") is None:
        random.seed(0)
        made = ["".join(random.choices("CCCNO", k=random.randint(1, 6))) for _ in range(min(most, 2000))]
        made = [f"{string}({string[::-1]})" for string in made]
        pattern = re.compile(r"[CNO]+\([CNO]+\)")
        share = lambda string: 8 * string.count("N") / len(string)  # noqa: E731
        return lambda string: (share(string), lambda: 1.0) if pattern.fullmatch(string) else None, made, made
    from rdkit import Chem, RDLogger
    from rdkit.Chem.Crippen import MolLogP
    from rdkit.Chem.QED import qed

    RDLogger.DisableLog("rdApp.*")

    @lru_cache(100_000)
    def measure(string: str) -> tuple[float, Callable[[], float]] | None:
        molecule = Chem.MolFromSmiles(string) if string else None
        return None if molecule is None else (MolLogP(molecule), partial(qed, molecule))

    folder = Path(find_spec("moses").submodule_search_locations[0]) / "dataset/data"
    return measure, molecules(folder / "train.csv.gz", most), molecules(folder / "test.csv.gz", 10_000)


def molecules(path: Path, most: int) -> list[str]:
    """The first strings of a file of MOSES."""
    with gzip.open(path, "rt") as file:
        return [row["SMILES"] for row in islice(csv.DictReader(file), most)]


def frechet(strings: list[str], reference: list[str]) -> str:
    """The Frechet ChemNet distance to as many other known molecules, beside what MOSES published."""
    if find_spec("fcd_torch") is None or len(strings) < 1000 or find_spec("rdkit") is None:
        return ""
    from fcd_torch import FCD

    distance = FCD(device="cpu", n_jobs=1)(strings, random.Random(0).sample(reference, len(strings)))
    return f"; FCD {distance:.2f} of {len(strings):,}. MOSES: {MOSES}"


if __name__ == "__main__":
    main()
