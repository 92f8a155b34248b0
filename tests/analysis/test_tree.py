"""The last step gives each ArviZ line its own object, from one description, with numpy and ArviZ alone."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen.analysis.tree as tree_module
from pyrogen.analysis import to_arviz
from pyrogen.analysis.tree import NamedArray, to_tree

ARVIZ_1 = os.environ.get("PYROGEN_ARVIZ_1")  # a folder that holds ArviZ 1.x, where the environment has 0.x

STAND_IN = """
import warnings
__version__ = "1.0"
def __getattr__(name):  # 1.x answers to the old names with a warning and something else
    warnings.warn(f"arviz.{name} is no longer available")
    from xarray import DataTree
    return DataTree
"""

SCRIPT = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tree", sys.argv[1])
tree = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tree)
import numpy as np
generator = np.random.default_rng(0)
x = generator.normal(size=30)
location = x.mean() + generator.normal(size=(4, 500)) / 30**0.5
pointwise = -0.5 * (x - location[..., None]) ** 2 - 0.5 * np.log(2 * np.pi)
drawn = ("chain", "draw")
groups = {
    "posterior": {"location": tree.NamedArray(drawn, location)},
    "log_likelihood": {"y": tree.NamedArray((*drawn, "obs"), pointwise)},
    "observed_data": {"y": tree.NamedArray(("obs",), x)},
    "sample_stats": {},
}
result = tree.to_tree(groups, {"obs": np.arange(30) * 10}, {"inference_library": "pyro"})
assert not {"torch", "pyro", "pyrogen"} & set(sys.modules)
groups = list(result.children) if hasattr(result, "children") else result.groups()
report = {
    "class": type(result).__name__,
    "groups": sorted(groups),
    "dims": list(result["log_likelihood"]["y"].dims),
    "last": int(result["observed_data"]["obs"].values[-1]),
    "library": result["posterior"].attrs["inference_library"],
}
try:
    import arviz_base, arviz_stats
except ImportError:
    arviz_base = None
    report["line"] = "0.x or stand-in"
if arviz_base is not None and hasattr(result, "children"):
    report["line"] = "1.x"
    own = arviz_base.from_dict(
        {"posterior": {"location": location}, "log_likelihood": {"y": pointwise}, "observed_data": {"y": x}},
        dims={"y": ["obs"]}, coords={"obs": np.arange(30) * 10},
    )
    for group in own.children:
        assert own[group].to_dataset().equals(result[group].to_dataset()), group
    report["loo"] = float(arviz_stats.loo(result).elpd)
    report["loo of their own"] = float(arviz_stats.loo(own).elpd)
    report["mean"] = float(arviz_stats.summary(result, round_to="none").loc["location", "mean"])
print(json.dumps(report))
"""


def run_alone(path_first=None):
    environment = dict(os.environ)
    if path_first is not None:
        environment["PYTHONPATH"] = str(path_first)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT, tree_module.__file__],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_report(report):
    assert report["groups"] == ["log_likelihood", "observed_data", "posterior"]
    assert report["dims"] == ["chain", "draw", "obs"]
    assert report["last"] == 290
    assert report["library"] == "pyro"
    if report["line"] == "1.x":
        assert report["class"] == "DataTree"
        assert report["loo"] == pytest.approx(report["loo of their own"])
        assert abs(report["loo"] + 43) < 20


def test_the_last_step_needs_numpy_and_arviz_only(arviz):
    report = run_alone()
    check_report(report)
    assert report["class"] == ("InferenceData" if "InferenceData" in vars(arviz) else "DataTree")


def test_arviz_one(tmp_path):
    """ArviZ 1.x itself where it is at hand; if not, a stand-in that lacks what 1.x lacks, with the true DataTree."""
    folder = Path(ARVIZ_1) if ARVIZ_1 else tmp_path
    if not ARVIZ_1:
        (tmp_path / "arviz.py").write_text(STAND_IN)
    report = run_alone(folder)
    check_report(report)
    assert report["class"] == "DataTree"
    assert not ARVIZ_1 or report["line"] == "1.x"


def test_both_lines_hold_the_same(monkeypatch, arviz):
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    def make():
        return to_arviz({"z": torch.linspace(0, 1, 5)}, torch.randn(3), model=model, prior=4, seed=0)

    torch.manual_seed(1)
    here = make()
    monkeypatch.setitem(sys.modules, "arviz", types.ModuleType("arviz"))
    torch.manual_seed(1)
    one = make()
    assert type(one).__name__ == "DataTree"
    names = list(here.children) if hasattr(here, "children") else here.groups()
    assert set(names) == set(one.children)
    for name in names:
        there = here[name].to_dataset() if hasattr(here[name], "to_dataset") else here[name]
        assert there.equals(one[name].to_dataset())
    monkeypatch.setitem(sys.modules, "arviz", None)  # arviz-base alone has no `arviz`
    assert type(make()).__name__ == "DataTree"


def test_names_of_variables_and_dimensions_are_kept_apart():
    groups = {"observed_data": {"x": NamedArray(("x",), np.zeros(2)), "y": NamedArray(("x",), np.zeros(2))}}
    result = to_tree(groups, {"x": np.array(["a", "b"])}, {})
    assert result["observed_data"]["y"].dims == ("x_dim",)
    assert list(result["observed_data"]["x_dim"].values) == ["a", "b"]


def test_sizes_that_do_not_fit_are_named():
    groups = {"posterior": {"a": NamedArray(("k",), np.zeros(2)), "b": NamedArray(("k",), np.zeros(3))}}
    with pytest.raises(ValueError, match="dimension `k` of group 'posterior' must have one size, got 2 and, at `b`, 3"):
        to_tree(groups, {}, {})


def test_the_announcement_of_arviz_stays_quiet(tmp_path):
    """0.23 warns once a day of the 1.x line, on its first import, which is that of `to_arviz` or `pareto_k`."""
    calls = ("pg.analysis.to_arviz({'a': torch.randn(40)})", "pg.evaluation.pareto_k_of(torch.randn(100, 2))")
    for number, first in enumerate(calls):
        code = f"import torch, pyrogen as pg; {first}; import arviz"
        command = [sys.executable, "-W", "always::FutureWarning", "-c", code]
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / str(number))}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert "undergoing a major refactor" not in done.stderr
