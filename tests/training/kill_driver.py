"""Trains in child processes that are killed at random moments, and says whether anything was lost.

    python kill_driver.py FOLDER KILLS

One parent imports everything once and forks each child, so that a start costs a few milliseconds.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import torch
from small_programs import pair, weights

import pyrogen as pg
from pyrogen.core import archive
from pyrogen.training.checkpoint import Checkpoint


class Sum:
    """A callback with a state."""

    def __init__(self, pause):
        self.total = 0.0
        self.pause = pause

    def __call__(self, progress):
        self.total += progress.history.loss[-1]
        time.sleep(self.pause)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def train(checkpoint, out, steps, pause=0.0):
    """A run with everything that has a state."""
    torch.manual_seed(1)
    objective, total = pg.Elbo(*pair(dropout=0.2)), Sum(pause)
    x = torch.randn(60, 2) + 1
    result = pg.fit(
        objective,
        x,
        steps=steps,
        batch_size=16,
        ema=0.99,
        clip=5.0,
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        validation=0.2,
        checkpoint=checkpoint,
        callbacks=[total],
        seed=7,
    )
    history = [result.history.losses, result.history.gradient_norms, list(result.history.validation.items())]
    document = {"history": history, "best": result.best_step, "total": total.total}
    archive.write(out, "result", document, weights(objective))


def child(work):
    """Runs work in a fork, and gives its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(pid):
    """Waits for a child that must not fail."""
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"a child failed with status {status}")


def main(folder, kills):
    torch.set_num_threads(1)
    folder, chance = Path(folder), random.Random(0)
    steps = 60 * kills  # a pause in every step keeps a fast machine from getting there between the kills
    train(None, folder / "warm", 2)  # torch imports a good deal at the first step
    began = time.monotonic()
    train(None, folder / "warm", 2)
    start = time.monotonic() - began  # on a busy machine a run takes longer to begin
    finish(child(partial(train, None, folder / "whole", steps)))
    path, done, reached, unreadable = folder / "run", 0, [], 0
    while done < kills:
        pid = child(lambda: train(Checkpoint(path, every=0), folder / "broken", steps, pause=0.005))
        time.sleep(chance.uniform(0.5, 5) * start)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"a child ended by itself with status {status} after {done} kills")
        done += 1
        before = reached[-1] if reached else None
        try:
            reached.append(archive.read(path, "training run")[0]["dict"] if path.exists() else None)
            if reached[-1] == before:
                start *= 1.5  # the machine has become busier: killed before it went on
        except ValueError:
            unreadable += 1
    finish(child(lambda: train(Checkpoint(path), folder / "broken", steps)))
    at = [next(value for key, value in document if key == "step") for document in reached if document]
    whole, broken = (archive.read(folder / name, "result") for name in ("whole", "broken"))
    report = {
        "kills": done,
        "unreadable": unreadable,
        "steps": at,
        "all": steps,
        "same history": whole[0] == broken[0],
        "same weights": all(torch.equal(whole[1][name], broken[1][name]) for name in whole[1]),
        "left behind": sorted(os.listdir(folder)),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
