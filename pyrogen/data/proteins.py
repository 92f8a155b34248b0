r"""Torsions of protein backbones, from files of structures that the user has.

The chain of a protein, :math:`N, C_\alpha, C, N, C_\alpha, C, \ldots`, turns about two bonds at every residue:
:math:`\varphi` about :math:`N C_\alpha`, and :math:`\psi` about :math:`C_\alpha C`.

References:
    Ramachandran, Ramakrishnan and Sasisekharan 1963, "Stereochemistry of polypeptide chain configurations",
    https://doi.org/10.1016/S0022-2836(63)80023-6
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

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
