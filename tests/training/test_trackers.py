"""The callbacks for TensorBoard and Weights & Biases: what they record, and when."""

from functools import partial

import pytest
import torch
from small_programs import Game, Gaussian

import pyrogen as pg
from pyrogen.training import TensorBoard, WeightsAndBiases

X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
HALVING = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)


class Records:
    """A stand-in for a run of Weights & Biases, and for a writer of TensorBoard."""

    def __init__(self):
        self.rows = {}

    def log(self, data, step):
        self.rows[step] = dict(data)

    def add_scalar(self, tag, scalar_value, global_step):
        self.rows.setdefault(global_step, {})[tag] = scalar_value


def tracked(make, *, target=None, **arguments):
    records = Records()
    target = Gaussian() if target is None else target
    result = pg.fit(target, X, batch_size=16, seed=0, callbacks=[make(records)], **arguments)
    return records.rows, result


@pytest.mark.parametrize("tracker", [TensorBoard, WeightsAndBiases])
def test_every_step_is_recorded_with_its_loss_gradient_and_learning_rate(tracker):
    rows, result = tracked(tracker, steps=5, lr=0.1, schedule=HALVING, validation=X[:8], validate_every=2)
    assert list(rows) == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in rows.values()] == result.history.loss
    assert [row["gradient_norm"] for row in rows.values()] == result.history.gradient_norms[0]
    assert [row["learning_rate"] for row in rows.values()] == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert [row["epoch"] for row in rows.values()] == [0, 0, 0, 1, 1]
    assert {step: row["validation"] for step, row in rows.items() if "validation" in row} == {
        step: value for step, value in result.history.validation.items() if step != 5
    }


def test_some_steps_are_recorded_and_all_validations():
    rows, result = tracked(partial(WeightsAndBiases, every=3), steps=7, validation=0.25, validate_every=2)
    assert {step for step, row in rows.items() if "loss" in row} == {3, 6}
    assert {step for step, row in rows.items() if "validation" in row} == {2, 4, 6}
    assert rows[2] == {"validation": result.history.validation[2], "epoch": 0}
    assert rows[6]["loss"] == result.history.loss[5]


def test_turns_are_recorded_by_their_numbers_when_they_were_taken():
    turns = Game().turns()
    turns[1].every = 2
    rows, result = tracked(TensorBoard, target=turns, steps=4)
    first, second = result.history.losses
    assert [row["loss/0"] for row in rows.values()] == first
    assert {step: row["loss/1"] for step, row in rows.items() if "loss/1" in row} == {2: second[0], 4: second[1]}


def test_a_resumed_run_is_recorded_where_it_goes_on(tmp_path):
    whole, _ = tracked(WeightsAndBiases, steps=6, checkpoint=tmp_path / "whole")
    begun, _ = tracked(WeightsAndBiases, steps=4, checkpoint=tmp_path / "parts")
    ended, _ = tracked(WeightsAndBiases, steps=6, checkpoint=tmp_path / "parts")
    assert {**begun, **ended} == whole
    assert list(ended) == [5, 6]


@pytest.mark.parametrize("tracker", [TensorBoard, WeightsAndBiases])
def test_without_a_writer_nothing_is_recorded(tracker):
    assert pg.fit(Gaussian(), X, steps=2, callbacks=[tracker(None)]).reason == "steps"


def test_an_error_of_the_writer_ends_the_run():
    class Full(Records):
        def log(self, data, step):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        pg.fit(Gaussian(), X, steps=2, callbacks=[WeightsAndBiases(Full())])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorBoard("runs"), "`writer` must have `add_scalar`, as a .*SummaryWriter has, got str"),
        (lambda: WeightsAndBiases("project"), r"`run` must have `log`, as what `wandb.init\(\)` gives has, got str"),
        (lambda: TensorBoard(Records(), every=0.5), "`every` must be an int, got 0.5"),
    ],
)
def test_what_cannot_record_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_the_file_of_tensorboard_holds_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        result = pg.fit(
            Gaussian(), X, steps=5, seed=0, validation=0.25, validate_every=2, callbacks=[TensorBoard(writer)]
        )
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(result.history.loss)
    found = {event.step: event.value for event in events.Scalars("validation")}
    assert found == pytest.approx({step: result.history.validation[step] for step in (2, 4)})
