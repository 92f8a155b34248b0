"""Torsions of proteins: how the backbone turns at each residue, which turns are outliers, and what a measurement says.

The chain of a protein turns about two bonds at every residue, by the angles phi and psi. A flow on the torus learns
their density for four kinds of residues: glycine, proline, those before a proline, and all others. It is scored on
proteins that it has not seen, beside the product kernels of von Mises that structural biology uses. Its density tells
which turns are outliers. As the prior of a Pyro program it gives the posterior of the angles from a coupling constant
of nuclear magnetic resonance, which the Karplus equation predicts from phi, and the evidence which kind it was. The
structures are those that Biopython tests itself with: `pip download --no-deps --no-binary biopython biopython`, unpack,
and give the folder `Tests/PDB`; without it, angles drawn around the two best known turns stand in.

    python examples/torsions.py [--output output/torsions] [--structures FOLDER] [--seed 0] [--steps 1000]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen import flows
from pyrogen.data import proteins
from pyrogen.data.proteins import KINDS

HELD_OUT = ("1A7G", "1GBT", "2OFG", "4CUP", "4ZHL", "6WQA")
LEFT_OUT = ("7CFN_aligned", "a_structure")  # the same proteins once more
MEASURED, NOISE = torch.tensor(6.0), 0.7  # a coupling constant and its error, in hertz
mean = partial(pg.evaluation.Estimate.of_mean, unit="", density=None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/torsions"))
    parser.add_argument("--structures", type=Path, help="a folder of .cif files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    if options.structures:
        chains = structures(options.structures)
    else:
        names = *HELD_OUT[:2], *map(str, range(8))
        chains = {name: proteins.draw(200, seed=options.seed + place) for place, name in enumerate(names)}
    held_out = [chains.pop(name) for name in HELD_OUT if name in chains]
    (angles, kind), (test, test_kind) = together(chains.values()), together(held_out)
    print(f"{len(angles):,} residues of {len(chains)} proteins; {len(test):,} of {len(held_out)} others held out")

    flow = flows.circular((2,), classes=len(KINDS), autoregressive=True, layers=2, hidden=(64, 64), dropout=0.2)
    settings = {"lr": 3e-3, "schedule": partial(CosineAnnealingLR, T_max=options.steps), "ema": 0.99}
    pg.fit(flow, (angles, kind), steps=options.steps, batch_size=256, seed=options.seed, **settings)

    nats, kernels = pg.log_prob(flow, test, test_kind), smoothed(angles, kind, test, test_kind)
    print("\nnats a held-out residue (a uniform turn has -3.68)")
    for name, values in {"flow": nats, "kernels": kernels, "flow - kernels": nats - kernels}.items():
        print(f"   {name:<16}{mean(values):.3f}")
    for place, name in enumerate(KINDS):
        here = test_kind == place
        print(f"   {name:<16}{mean(nats[here]):.3f} flow, {mean(kernels[here]):.3f} kernels, of {int(here.sum())}")

    every = torch.arange(len(KINDS))
    own = pg.log_prob(flow, flow(every).sample((20_000,)), every)  # (draws, kinds)
    rarity = (own[:, test_kind] < nats).double().mean(0)  # of draws that are less probable
    mirrored = (own[:, test_kind] < pg.log_prob(flow, -test, test_kind)).double().mean(0)
    print(f"\nof 2 % expected, {mean(100 * (rarity < 0.02).double()):.3f} % of held-out turns are rarer than 2 %")
    print(f"mirror images told from the turns by their rarity: {pg.evaluation.auroc(-rarity, -mirrored)}")

    shares = torch.bincount(kind, minlength=len(KINDS)) / len(kind)

    def residue(coupling: Tensor) -> None:
        label = pyro.sample("kind", dist.Categorical(shares))
        turn = pyro.sample("turn", flow(label))
        pyro.sample("coupling", dist.Normal(karplus(turn[..., 0]), NOISE), obs=coupling)

    with torch.no_grad(), pyro.poutine.trace() as weighted, pyro.plate("draws", 50_000):
        residue(MEASURED)
    weighted.trace.compute_log_prob()
    drawn, likelihood = weighted.trace.nodes, weighted.trace.nodes["coupling"]["log_prob"]
    rows = torch.multinomial(likelihood.softmax(0), 4000, replacement=True)
    kinds, turns = (drawn[site]["value"][rows] for site in ("kind", "turn"))
    print(f"\na coupling of {MEASURED:.0f} ± {NOISE} Hz: log evidence {likelihood.logsumexp(0) - math.log(50_000):.2f}")
    for place, name in enumerate(KINDS):
        print(f"   {name:<16}{shares[place]:.3f} before, {(kinds == place).double().mean():.3f} after")
    print(f"   left-handed (phi positive): {(angles[:, 0] > 0).double().mean():.3f} of the residues, "
          f"{(turns[:, 0] > 0).double().mean():.3f} of the posterior")  # fmt: skip

    grid = torch.cartesian_prod(*2 * [torch.linspace(-math.pi, math.pi, 181)[:-1] + math.pi / 180])
    picture(angles, kind, pg.log_prob(flow, grid.unsqueeze(1), every), turns, options.output / "torsions.png")


def karplus(phi: Tensor) -> Tensor:
    """The coupling constant of a residue's two hydrogens in hertz (Vuister and Bax 1993, doi 10.1021/ja00070a024)."""
    cosine = (phi - math.pi / 3).cos()
    return 6.51 * cosine.square() - 1.76 * cosine + 1.60


def smoothed(angles: Tensor, kind: Tensor, test: Tensor, test_kind: Tensor) -> Tensor:
    """Log-densities by a product of von Mises kernels for each kind, as sharp as suits each datum left out."""
    found = torch.empty(len(test))
    for place in range(len(KINDS)):
        rows, here = angles[kind == place], test_kind == place
        scores = {}
        for sharpness in (5.0, 10.0, 20.0, 40.0, 80.0, 160.0):
            kernel = dist.VonMises(0.0, torch.tensor(sharpness))
            others = kernel.log_prob(rows[:800, None] - rows).sum(-1).fill_diagonal_(-math.inf)
            scores[kernel] = others.logsumexp(1).mean()
        kernel = max(scores, key=scores.get)
        found[here] = kernel.log_prob(test[here, None] - rows).sum(-1).logsumexp(1) - math.log(len(rows))
    return found


def structures(folder: Path) -> dict[str, proteins.Torsions]:
    """The torsions of each protein of a folder that has any."""
    files = [path for path in sorted(folder.glob("*.cif")) if path.stem not in LEFT_OUT]
    chains = {path.stem: proteins.torsions(path) for path in files if "\n_atom_site.Cartn_x" in path.read_text()}
    return {name: chain for name, chain in chains.items() if chain.residues}


def together(chains: Collection[proteins.Torsions]) -> tuple[Tensor, Tensor]:
    """Angles ``(n, 2)`` and kinds ``(n,)`` of all residues."""
    return torch.cat([chain.angles for chain in chains]), torch.cat([chain.kinds for chain in chains])


def picture(angles: Tensor, kind: Tensor, log_density: Tensor, turns: Tensor, path: Path) -> None:
    """The density of each kind with its data, and the posterior of a turn."""
    figure, axes = plt.subplots(1, 5, figsize=(13, 2.9), sharex=True, sharey=True, layout="constrained")
    for place, (axis, values, name) in enumerate(zip(axes[:-1], log_density.T, KINDS, strict=True)):
        shown = values.reshape(180, 180).T.numpy()
        axis.imshow(shown, origin="lower", extent=(-180, 180, -180, 180), cmap="Blues", vmin=-6, vmax=2)
        axis.scatter(*angles[kind == place][:1500].rad2deg().T.numpy(), s=1, color="black", alpha=0.4)
        axis.set(title=name, xlabel=r"$\phi$", xticks=[-180, 0, 180], yticks=[-180, 0, 180])
    axes[0].set_ylabel(r"$\psi$")
    axes[-1].scatter(*turns.rad2deg().T.numpy(), s=1, color="black", alpha=0.4)
    axes[-1].set(title=f"any, given {MEASURED:.0f} Hz", xlabel=r"$\phi$", aspect="equal")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
