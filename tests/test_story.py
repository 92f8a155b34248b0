"""Stories: every example runs, with few steps."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/*.py"))
FEW = {
    "chorales": ["--steps", "2", "--chorales", "8"],
    "ct": ["--steps", "2", "--particles", "8", "--views", "2", "--noise", "50"],
    "colorization": ["--steps", "2", "--draws", "2"],
    "diffusion_posterior": ["--steps", "2", "--particles", "8"],
    "digits": ["--steps", "2", "--draws", "2"],
    "flow_guides": ["--steps", "2", "--draws", "5"],
    "inpainting": ["--steps", "2", "--particles", "4"],
    "imitation": ["--steps", "2", "--walks", "64"],
    "planning": ["--steps", "2", "--pairs", "2", "--particles", "4"],
    "parsing_code": ["--steps", "2", "--length", "48", "--particles", "16", "--functions", "40"],
    "molecules": ["--steps", "2", "--draws", "40", "--particles", "16", "--molecules", "2000"],
    "infilling": ["--steps", "2", "--length", "16"],
    "mri": ["--steps", "2", "--chains", "4"],
    "lesion": ["--steps", "40", "--patients", "4", "--particles", "8"],
    "inverse_graphics": ["--steps", "2", "--scenes", "1"],
    "super_resolution": ["--steps", "2", "--particles", "4"],
    "text": ["--steps", "2", "--length", "32"],
    "traffic_signs": ["--steps", "2", "--pictures", "80"],
    "translation": ["--steps", "2", "--texts", "none", "--symbols", "280", "--particles", "8", "--held-out", "4"],
    "speech": ["--steps", "4", "--prompts", "9"],
    "text_to_speech": ["--steps", "5", "--prompts", "5"],
    "video": ["--steps", "2", "--videos", "4", "--chains", "3"],
    "unknown_noise": ["--steps", "2", "--particles", "32"],
}
SLOW = {
    "text",
    "lesion",
    "ct",
    "mri",
    "inverse_graphics",
    "diffusion_posterior",
    "super_resolution",
    "traffic_signs",
    "unknown_noise",
}
"""Those that take ten seconds or more even so."""
NEEDED = {"chorales": "music21", "forecast": "statsmodels", "translation": "tokenizers"}


MOST = 150
"""Lines of an example: one story."""


def marked(path):
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= MOST


@pytest.mark.parametrize("path", [marked(path) for path in EXAMPLES])
def test_example_runs(path, tmp_path, capsys):
    if path.stem in NEEDED:
        pytest.importorskip(NEEDED[path.stem])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([*FEW.get(path.stem, ["--steps", "2"]), "--output", str(tmp_path)])
    assert capsys.readouterr().out, "an example prints its numbers"
