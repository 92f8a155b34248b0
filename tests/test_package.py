"""The package as a user meets it: importing, installing, and what importing must not do."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import pyrogen as pg

ROOT = Path(__file__).parents[1]


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, *arguments, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_importing_brings_no_heavy_packages():
    code = "import sys, json, pyrogen; print(json.dumps([m for m in sys.modules]))"
    modules = set(json.loads(run(code)))
    assert not modules & {"arviz", "matplotlib", "sklearn", "scipy", "pandas", "lightning_fabric", "zuko"}


def test_importing_changes_nothing_in_torch_or_pyro():
    code = """
import pyro, torch
from torch.distributions import Distribution
def state():
    return (torch.get_default_dtype(), torch.initial_seed(), torch.get_rng_state().tolist(), torch.get_num_threads(),
            Distribution._validate_args, pyro.infer.util.is_validation_enabled(), len(pyro.get_param_store()),
            torch.is_grad_enabled(), sorted(vars(torch.distributions.Transform)))
before = state()
import pyrogen
assert state() == before
print("same")
"""
    assert run(code).strip() == "same"


def test_importing_costs_little_over_pyro():
    code = """
import time
began = time.perf_counter()
import pyro, pyro.infer
between = time.perf_counter()
import pyrogen
print((time.perf_counter() - between) / (between - began))
"""
    assert min(float(run(code)) for _ in range(3)) < 0.4


def packages():
    found = (getattr(pg, name) for name in pg.__all__)
    return [package for package in found if isinstance(package, ModuleType)]


def test_completion_offers_the_public_names_alone():
    for package in (pg, *(p for p in packages() if hasattr(p, "__all__"))):
        assert sorted(package.__all__) == [name for name in dir(package) if not name.startswith("__")], package
        assert all(hasattr(package, name) for name in package.__all__), package


def test_a_public_class_name_is_defined_once():
    defined = Counter()
    for path in (ROOT / "pyrogen").rglob("*.py"):
        tree = ast.parse(path.read_text())
        defined.update(node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")
    assert not [name for name, count in defined.items() if count > 1]


@pytest.mark.parametrize(
    ("package", "before", "today"),
    [
        (pg.inverse, "psnr", pg.evaluation.psnr),
        (pg.inverse, "report", pg.evaluation.restoration_report),
        (pg.analysis, "simulation_report", pg.analysis.simulation_checks),
        (pg.inverse, "edit", pg.diffusion.edit),
        (pg.latent, "Elbo", pg.latent.BetaElbo),
        (pg.flows, "Mixture", pg.flows.GaussianMixture),
        (pg.distributions, "StandardNormal", pg.distributions.UnitNormal),
        (pg.transforms, "Autoregressive", pg.transforms.MaskedAutoregressive),
        (pg.diffusion, "LevelDenoiser", pg.diffusion.IntegerDenoiser),
        (pg.networks, "Table", pg.networks.ColumnFeatures),
    ],
)
def test_names_of_before_still_work_and_name_those_of_today(package, before, today):
    with pytest.warns(DeprecationWarning, match=today.__name__):
        assert getattr(package, before) is today
    assert before not in dir(package)


def test_a_name_that_never_was_is_refused():
    with pytest.raises(AttributeError, match=r"'pyrogen.flows' has no attribute 'nothing'"):
        _ = pg.flows.nothing
