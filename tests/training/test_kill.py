"""Nothing is lost: a real process is killed again and again, and the run ends as if it never had been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 24


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_any_moment_ends_as_if_it_never_had_been(tmp_path):
    driver = Path(__file__).with_name("kill_driver.py")
    run = subprocess.run(
        [sys.executable, driver, tmp_path, str(KILLS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["kills"] == KILLS
    assert report["unreadable"] == 0
    assert report["same history"], report
    assert report["same weights"], report
    # The kills fell into training, and every run went on from where the one before was saved.
    assert len(set(report["steps"])) > KILLS / 3, report
    assert report["steps"] == sorted(report["steps"])
    assert 0 < report["steps"][-1] < report["all"]
    assert not [name for name in report["left behind"] if name.endswith(".partial")]
