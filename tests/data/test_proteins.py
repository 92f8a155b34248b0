"""Torsions of proteins: read back from chains that were built with them."""

import math

import pytest
import torch

from pyrogen.data.proteins import KINDS, Torsions, dihedral, draw, torsions

COLUMNS = ("group_PDB", "id", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id", "Cartn_x", "Cartn_y",
           "Cartn_z", "pdbx_PDB_model_num")  # fmt: skip


def placed(a, b, c, turn, bond=1.45, angle=1.9):
    """The fourth point of a chain that turns by an angle about its middle bond, after ``c``."""
    axis = (c - b) / (c - b).norm()
    normal = torch.linalg.cross(b - a, axis)
    normal = normal / normal.norm()
    across = torch.linalg.cross(normal, axis)
    away = -math.cos(angle) * axis + math.sin(angle) * (math.cos(turn) * across + math.sin(turn) * normal)
    return c + bond * away


def chain(turns):
    """Places of N, CA and C of as many residues as there are ``(phi, psi)``, peptide bonds flat."""
    points = [torch.tensor(p, dtype=torch.double) for p in ([0.0, 0.0, 0.0], [1.46, 0.0, 0.0], [2.0, 1.4, 0.0])]
    for (_, psi), (phi, _) in zip(turns, turns[1:], strict=False):
        for turn in (psi, math.pi, phi):
            points.append(placed(*points[-3:], turn))
    return points


def written(path, points, residues, *, name="A", model=1, first=1, header=True):
    """A file of one chain."""
    lines = [f"_atom_site.{column}" for column in COLUMNS] if header else []
    for place, point in enumerate(points):
        atom, number = ("N", "CA", "C")[place % 3], place // 3
        x, y, z = (f"{value:.6f}" for value in point.tolist())
        lines.append(f"ATOM {place + 1} {atom} {residues[number]} {name} {first + number} {x} {y} {z} {model}")
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")


TURNS = [(-1.1, -0.8), (-2.0, 2.4), (1.0, 0.7), (-1.2, 2.9), (3.0, -3.0)]
NAMES = ["ALA", "SER", "GLY", "ALA", "PRO"]


def test_torsions_are_those_that_a_chain_was_built_with(tmp_path):
    written(tmp_path / "a.cif", chain(TURNS), NAMES)
    found = torsions(tmp_path / "a.cif")
    torch.testing.assert_close(found.angles, torch.tensor(TURNS[1:-1]), atol=1e-4, rtol=0)
    assert found.residues == NAMES[1:-1]
    assert found.following == NAMES[2:]


def test_kinds_are_told_by_a_residue_and_the_next():
    names = ["GLY", "GLY", "PRO", "PRO", "SER", "SER"]
    after = ["ALA", "PRO", "ALA", "PRO", "PRO", "GLY"]
    found = Torsions(torch.zeros(6, 2), names, after).kinds
    assert [KINDS[kind] for kind in found] == [
        "glycine",
        "glycine",
        "proline",
        "proline",
        "before proline",
        "any other",
    ]
    assert Torsions(torch.zeros(0, 2), [], []).kinds.dtype == torch.long


def test_made_residues_turn_about_a_helix_and_a_sheet():
    state = torch.get_rng_state()
    found = draw(20_000, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draw(20_000, seed=1).angles, found.angles)
    assert found.following[:-1] == found.residues[1:]
    assert (found.angles.abs() <= math.pi).all()
    shares = found.kinds.bincount() / 20_000
    expected = torch.tensor([0.89 * 0.96, 0.07, 0.04, 0.89 * 0.04])
    assert ((shares - expected).abs() < 5 * (expected / 20_000).sqrt()).all()
    means = torch.tensor([[-1.1, -0.75], [-2.1, 2.4], [1.1, 0.75], [2.1, -2.4]])
    apart = (found.angles.unsqueeze(1) - means + math.pi) % (2 * math.pi) - math.pi  # (size, 4, 2)
    nearest = apart.norm(dim=-1).argmin(1)
    near = apart[torch.arange(20_000), nearest]
    assert abs(near.std() - 0.3) < 0.01
    assert ((nearest > 1) == (found.angles[:, 0] > 0)).double().mean() > 0.99  # phi of helix and sheet is negative
    sheet, mirrored = (nearest % 2).double().mean(), (nearest[found.kinds == 1] > 1).double().mean()
    assert abs(sheet - 0.4) < 0.02
    assert abs(mirrored - 0.5) < 0.07
    assert (nearest[found.kinds != 1] > 1).double().mean() < 0.01
    assert draw(0, seed=0).angles.shape == (0, 2)


def test_residues_at_a_gap_and_of_other_models_are_left_out(tmp_path):
    points = chain(TURNS)
    written(tmp_path / "a.cif", points[:9], NAMES[:3])
    written(tmp_path / "a.cif", [point + 9 for point in points[9:]], NAMES[3:], first=4, header=False)  # not bound
    written(tmp_path / "a.cif", points, NAMES, model=2, header=False, name="B")
    assert torsions(tmp_path / "a.cif").residues == ["SER"]


def test_of_several_models_the_first_is_read_whatever_its_number(tmp_path):
    written(tmp_path / "a.cif", chain(TURNS), NAMES, model=3)
    written(
        tmp_path / "a.cif",
        [point * torch.tensor([1.0, 1.0, -1.0]) for point in chain(TURNS)],
        NAMES,
        model=1,
        header=False,
    )
    torch.testing.assert_close(torsions(tmp_path / "a.cif").angles, torch.tensor(TURNS[1:-1]), atol=1e-4, rtol=0)


def test_atoms_of_no_chain_are_left_out(tmp_path):
    written(tmp_path / "a.cif", chain(TURNS), NAMES)
    with (tmp_path / "a.cif").open("a") as file:
        file.write("ATOM 99 CA GLY A . 0.0 0.0 0.0 1\n")
    assert torsions(tmp_path / "a.cif").residues == NAMES[1:-1]


def test_the_older_format_is_refused(tmp_path):
    row = "ATOM      1  N   GLY A   1      11.104   6.134  -6.504  1.00  0.00           N"
    (tmp_path / "a.pdb").write_text(row)
    with pytest.raises(ValueError, match="`path` must be a file of atoms in mmCIF, got a.pdb without"):
        torsions(tmp_path / "a.pdb")


def test_a_mirrored_chain_turns_the_other_way(tmp_path):
    written(tmp_path / "a.cif", [point * torch.tensor([1.0, 1.0, -1.0]) for point in chain(TURNS)], NAMES)
    torch.testing.assert_close(torsions(tmp_path / "a.cif").angles, -torch.tensor(TURNS[1:-1]), atol=1e-4, rtol=0)


def test_a_dihedral_is_clockwise_as_seen_along_the_bond():
    a, b, c = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1]])
    for turn in (-2.0, 0.0, 0.5, 3.0):
        d = torch.tensor([math.cos(turn), math.sin(turn), 1.0])
        torch.testing.assert_close(dihedral(a, b, c, d), torch.tensor(turn), atol=1e-6, rtol=0)


def test_a_file_without_atoms_is_refused(tmp_path):
    (tmp_path / "a.cif").write_text("data_A")
    with pytest.raises(ValueError, match="`path` must be a file of atoms in mmCIF"):
        torsions(tmp_path / "a.cif")
    written(tmp_path / "b.cif", [], [])
    assert torsions(tmp_path / "b.cif").angles.shape == (0, 2)
