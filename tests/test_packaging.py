"""The package as it is shipped: its metadata, its archives, and the wheel in an empty environment."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import pyrogen as pg

ROOT = Path(__file__).parents[1]
TOOLS = {"all", "bench", "demo", "docs", "lint", "package", "test"}

settings = ConfigParser()
settings.read(ROOT / "setup.cfg")


def lines(section, key):
    return settings[section][key].strip().splitlines()


def floors(requirements):
    return dict(re.match(r"([\w.-]+)>=([\d.]+)", line).groups() for line in requirements if ">=" in line)


def test_the_version_is_written_once_and_cited_as_it_is():
    assert settings["metadata"]["version"] == "attr: pyrogen.__version__"
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == pg.__version__


def test_the_extra_of_everything_names_all_that_are_for_users():
    (everything,) = lines("options.extras_require", "all")
    assert (
        set(re.fullmatch(r"pyrogen\[(.*)\]", everything)[1].split(","))
        == set(settings["options.extras_require"]) - TOOLS
    )


def test_a_dependency_has_one_lowest_version():
    found = {}
    for requirements in (settings["options"]["install_requires"], *settings["options.extras_require"].values()):
        for name, version in floors(requirements.strip().splitlines()).items():
            assert found.setdefault(name, version) == version or name == "arviz", name


def test_python_versions_are_declared_from_the_lowest_on():
    declared = [line.rsplit(" ", 1)[1] for line in lines("metadata", "classifiers") if ":: 3." in line]
    assert f">={declared[0]}" == settings["options"]["python_requires"]
    assert declared == [f"3.{minor}" for minor in range(11, 11 + len(declared))]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The source archive, and the wheel made of it."""
    folder = tmp_path_factory.mktemp("archives")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder)], check=True, cwd=ROOT)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_archives_hold_the_package_and_what_is_said_about_it(archives):
    source, wheel = archives
    with tarfile.open(source) as files:
        names = {name.split("/", 1)[-1] for name in files.getnames()}
    assert {"README.md", "LICENSE", "setup.cfg", "pyproject.toml", "pyrogen/__init__.py"} <= names
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        (metadata,) = (files.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    files = {path for path in (ROOT / "pyrogen").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {str(path.relative_to(ROOT)) for path in files} == {name for name in names if name.startswith("pyrogen/")}
    assert {name.split("/")[0] for name in names} == {"pyrogen", f"pyrogen-{pg.__version__}.dist-info"}
    for line in (f"Version: {pg.__version__}", "License-Expression: Apache-2.0", "Author: The pyrogen developers"):
        assert f"\n{line}\n" in metadata
    assert "Provides-Extra: all" in metadata


@pytest.mark.slow
def test_the_archives_are_fit_for_an_index(archives):
    pytest.importorskip("twine")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)], check=True)


@pytest.mark.slow
def test_the_first_example_runs_from_the_wheel_in_an_empty_environment(archives, tmp_path):
    """The environment holds the wheel alone; what it depends on is seen through the path. Warnings are errors."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    dependencies = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    environment = {**os.environ, "PYTHONPATH": "", "DEPENDENCIES": dependencies}
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", archives[1]]
    subprocess.run(install, check=True, env=environment)
    example = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "example.py").write_text(
        "import os, sys\n"
        "sys.path += os.environ['DEPENDENCIES'].split(os.pathsep)\n"
        f"{example}\n"
        "print(pg.__file__, held_out, summary, sep='\\n')\n"
    )
    command = [python, "-W", "error", "example.py"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert out.returncode == 0, out.stderr
    assert str(tmp_path / "venv") in out.stdout
    assert "nats" in out.stdout
    assert "point[1]" in out.stdout
