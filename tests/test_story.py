"""Stories: every example runs, with few steps."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/*.py"))
FEW = {"digits": ["--steps", "2", "--draws", "2"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([*FEW.get(path.stem, ["--steps", "2"]), "--output", str(tmp_path)])
    assert capsys.readouterr().out, "an example prints its numbers"
