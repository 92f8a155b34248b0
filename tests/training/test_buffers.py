"""Buffers of one process: moved with the module, in checkpoints, and copied by nobody else."""

import copy
import pickle

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.training import LocalBuffers
from pyrogen.training.buffers import MovingBuffers, buffers_of
from pyrogen.training.checkpoint import Checkpoint


class Replaying(nn.Module):
    """An objective with a replay buffer and batch statistics."""

    def __init__(self, rows=10_000):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(2), nn.Linear(2, 1)
        self.replay = LocalBuffers({"x": torch.zeros(rows, 2), "count": torch.zeros((), dtype=torch.long)})

    def forward(self, x):
        if self.training:
            self.replay["x"][: len(x)] = x
            self.replay["count"] += 1
        return self.linear(self.norm(x)).square().mean()


def test_they_are_changed_in_place_and_copied_by_nobody():
    objective = Replaying()
    seen = []

    def watch(progress):
        seen.append((objective.replay["x"].data_ptr(), objective.replay["count"].item()))

    x, pointer = torch.randn(20, 2), objective.replay["x"].data_ptr()
    pg.fit(objective, x, steps=6, batch_size=8, validation=0.2, validate_every=2, ema=0.9, callbacks=[watch])
    assert {found for found, _ in seen} == {pointer}
    assert [count for _, count in seen] == [1, 2, 3, 4, 5, 6]  # neither the dry run nor held-out data count
    assert objective.replay["count"] == 6  # the best weights may be of an earlier step
    before = buffers_of(objective.train())
    objective(x)
    buffers = MovingBuffers(objective, before)
    assert sum(buffer.numel() for buffer in buffers.kept) == 5  # mean, variance and count of the batch statistics


def test_they_move_and_copy_with_their_module():
    objective = Replaying(3)
    assert objective.double().replay["x"].dtype == torch.float64
    assert objective.replay["count"].dtype == torch.long
    assert objective.to("meta").replay["x"].is_meta
    original = Replaying(3)
    original.replay["x"] = torch.ones(4, 2)
    for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        twin.replay["x"] += 1
        assert torch.equal(twin.replay["x"], original.replay["x"] + 1)
    assert not [name for name in original.state_dict() if "replay" in name]


def test_checkpoints_hold_them(tmp_path):
    x = torch.randn(20, 2)
    for steps in (3, 5):
        objective = Replaying(100)
        pg.fit(objective, x, steps=steps, batch_size=8, seed=0, checkpoint=tmp_path / "run")
        assert objective.replay["count"] == steps
    (stored,) = Checkpoint(tmp_path / "run").load()["local"]
    assert torch.equal(stored[0]["x"], objective.replay["x"])

    class Other(Replaying):
        def __init__(self):
            super().__init__()
            self.replay = LocalBuffers({"y": torch.zeros(2, 2)})

        def forward(self, x):
            return self.linear(self.norm(x)).square().mean()

    with pytest.raises(ValueError, match=r"`checkpoint` does not fit the local buffers, which are \['y'\], not \["):
        pg.fit(Other(), x, steps=9, batch_size=8, seed=0, checkpoint=tmp_path / "run")


def test_bad_buffers_are_named():
    with pytest.raises(TypeError, match="`tensors` must be a dict of tensors"):
        LocalBuffers(torch.zeros(3))
    with pytest.raises(KeyError, match=r"`name` must be one of \['x'\], got 'y'"):
        LocalBuffers({"x": torch.zeros(3)})["y"] = torch.zeros(3)


def test_what_holds_no_tensors_is_refused_by_name():
    buffers = LocalBuffers({"x": torch.zeros(2)})
    for wrong, message in (
        ([torch.zeros(2)], "`tensors` must be a dict of tensors, got list"),
        ({"x": 3}, r"`tensors\['x'\]` must be a tensor, got int"),
        ({3: torch.zeros(2)}, "`tensors` must have names, got 3"),
    ):
        with pytest.raises(TypeError, match=message):
            LocalBuffers(wrong)
    with pytest.raises(TypeError, match="`value` must be a tensor, got int"):
        buffers["x"] = 3
    with pytest.raises(KeyError, match="`name` must be one of .*'x'.*, got 'y'"):
        buffers["y"]
