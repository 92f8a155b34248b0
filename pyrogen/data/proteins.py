r"""Torsions of protein backbones, from files of structures that the user has, or made.

The chain of a protein, :math:`N, C_\alpha, C, N, C_\alpha, C, \ldots`, turns about two bonds at every residue:
:math:`\varphi` about :math:`N C_\alpha`, and :math:`\psi` about :math:`C_\alpha C`.

References:
    Ramachandran, Ramakrishnan and Sasisekharan 1963, "Stereochemistry of polypeptide chain configurations",
    https://doi.org/10.1016/S0022-2836(63)80023-6
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import checked, count

KINDS = ("any other", "glycine", "proline", "before proline")
"""Kinds of residues that turn alike: glycine has no side chain, proline a ring, which is in the way of the one before.

They are those of Lovell et al. 2003, "Structure validation by C-alpha geometry", https://doi.org/10.1002/prot.10286
"""

_BACKBONE = ("N", "CA", "C")
_COLUMNS = {"label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id", "Cartn_x", "Cartn_y", "Cartn_z"}
_NONE = (".", "?")  # instead of a number, where there is none
_BOND = 2.0
"""Two residues are bound whose ``C`` and ``N`` are nearer than so many angstroms: 1.33 is usual."""


class Torsions(NamedTuple):
    """The residues of a structure that are bound to one before and one after."""

    angles: Tensor
    """phi and psi in radians, in (-pi, pi], of shape ``(n, 2)``."""

    residues: list[str]
    """Their names of three letters: ``GLY`` for glycine."""

    following: list[str]
    """The names of those after them."""

    @property
    def kinds(self) -> Tensor:
        """Which of :data:`KINDS` each residue is, by its number, of shape ``(n,)``."""
        named = zip(self.residues, self.following, strict=True)
        places = [1 if name == "GLY" else 2 if name == "PRO" else 3 if after == "PRO" else 0 for name, after in named]
        return torch.tensor(places, dtype=torch.long)


@checked(size=count)
def draw(size: int, *, seed: int) -> Torsions:
    """A made chain of alanine, glycine (7 %) and proline (4 %), where there is no file.

    Residues turn as in a helix (60 %) or a sheet, give or take 0.3 radians, and half of the glycines the other way
    round. What comes before does not matter, and prolines turn like all others.

    Args:
        size: How many residues.
        seed: Of the chain.

    Example:
        >>> chain = draw(100, seed=0)
        >>> chain.angles.shape, chain.residues[:3]
        (torch.Size([100, 2]), ['PRO', 'ALA', 'ALA'])
    """
    generator = torch.Generator().manual_seed(seed)
    name = torch.multinomial(torch.tensor([0.89, 0.07, 0.04]), size + 1, replacement=True, generator=generator)
    names = [("ALA", "GLY", "PRO")[place] for place in name.tolist()]
    sheet = torch.rand(size, 1, generator=generator) < 0.4
    angles = torch.where(sheet, torch.tensor([-2.1, 2.4]), torch.tensor([-1.1, -0.75]))
    angles = angles + 0.3 * torch.randn(size, 2, generator=generator)
    mirrored = (name[:-1] == 1) & (torch.rand(size, generator=generator) < 0.5)
    angles = torch.where(mirrored.unsqueeze(1), -angles, angles)
    return Torsions(math.pi - (math.pi - angles) % (2 * math.pi), names[:-1], names[1:])


def torsions(path: str | os.PathLike) -> Torsions:
    """Reads a structure in the format of the Protein Data Bank, mmCIF; of several models the first.

    Args:
        path: A file ``.cif``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no mmCIF, or has no table of atoms.
    """
    points, residues, following = [], [], []
    for chain in _chains(path).values():
        for number, (name, atoms) in chain.items():
            if number - 1 in chain and number + 1 in chain:
                (_, before), (next_name, after) = chain[number - 1], chain[number + 1]
                if _bound(before, atoms) and _bound(atoms, after):
                    points.append([before["C"], *(atoms[atom] for atom in _BACKBONE), after["N"]])
                    residues.append(name)
                    following.append(next_name)
    places = torch.tensor(points, dtype=torch.double).reshape(-1, 5, 3)
    angles = torch.stack([dihedral(*places[:, start : start + 4].unbind(1)) for start in (0, 1)], -1)
    return Torsions(angles.to(torch.get_default_dtype()), residues, following)


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The angle by which a chain of four points turns about its middle bond, seen along it; zero if ``d`` hides ``a``.

    Shape:
        Four times ``(*batch, 3)`` to ``(*batch,)``, in radians.

    Example:
        >>> a, b, c = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1]])
        >>> dihedral(a, b, c, torch.tensor([0.0, 1.0, 1.0]))
        tensor(1.5708)
    """
    axis = c - b
    first, second = torch.linalg.cross(b - a, axis), torch.linalg.cross(axis, d - c)
    along = axis.norm(dim=-1) * ((b - a) * second).sum(-1)
    return torch.atan2(along, (first * second).sum(-1))


def _chains(path: str | os.PathLike) -> dict[str, dict[int, tuple[str, dict[str, list[float]]]]]:
    """By chain and number, name and places of backbone atoms of the residues that have all three."""
    found: dict[str, dict[int, tuple[str, dict]]] = {}
    first = None
    for row in _atoms(path):
        model = row.get("pdbx_PDB_model_num")
        first = first or model
        if row["label_atom_id"] in _BACKBONE and model == first:
            chain = found.setdefault(row["label_asym_id"], {})
            _, atoms = chain.setdefault(int(row["label_seq_id"]), (row["label_comp_id"], {}))
            atoms.setdefault(row["label_atom_id"], [float(row[f"Cartn_{axis}"]) for axis in "xyz"])
    return {
        name: {number: residue for number, residue in chain.items() if len(residue[1]) == 3}
        for name, chain in found.items()
    }


def _atoms(path: str | os.PathLike) -> Iterator[dict[str, str]]:
    """The rows of a file's table of atoms that belong to a polymer."""
    lines = Path(path).read_text().splitlines()
    columns = [line.split(".")[1].strip() for line in lines if line.startswith("_atom_site.")]
    if missing := _COLUMNS - set(columns):
        raise ValueError(f"`path` must be a file of atoms in mmCIF, got {Path(path).name} without {sorted(missing)}")
    rows = (dict(zip(columns, line.split(), strict=False)) for line in lines if line.startswith("ATOM "))
    return (row for row in rows if row["label_seq_id"] not in _NONE)


def _bound(before: dict[str, list[float]], after: dict[str, list[float]]) -> bool:
    apart = torch.tensor(before["C"], dtype=torch.double) - torch.tensor(after["N"], dtype=torch.double)
    return bool(apart.norm() < _BOND)
