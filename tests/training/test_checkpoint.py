"""Resuming: the same numbers as without the break, and who may not resume."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small_programs import Game, Gaussian, pair, same, weights
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import Dataset

import pyrogen as pg
from pyrogen.core import archive
from pyrogen.training.checkpoint import Checkpoint, flatten, unflatten

Named = namedtuple("Named", ["field"])


class Own(dict):
    """A dict of a kind of its own."""


class Broken(Exception):
    """The power went out."""


class Adder:
    """A callback with a state."""

    def __init__(self):
        self.total = 0.0
        self.steps = []

    def __call__(self, progress):
        self.total += progress.history.loss[-1]
        self.steps.append(progress.step)

    def state_dict(self):
        return {"total": self.total, "steps": self.steps}

    def load_state_dict(self, state):
        self.total, self.steps = state["total"], state["steps"]


class Noisy(Dataset):
    """A dataset that draws noise."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        return torch.full((2,), float(index) / 10) + torch.randn(2)


def breaking_at(step):
    def callback(progress):
        if progress.step == step:
            raise Broken

    return callback


def elbo(x=None, **arguments):
    """One objective, with everything that has a state."""
    torch.manual_seed(11)
    objective = pg.Elbo(*pair(dropout=0.3))
    data = torch.randn(50, 2) + 1 if x is None else x
    common = {
        "batch_size": 8,
        "ema": 0.95,
        "clip": 1.0,
        "schedule": partial(lr_scheduler.CosineAnnealingLR, T_max=40),
    }
    return objective, partial(pg.fit, objective, data, **{**common, **arguments})


def game(**arguments):
    torch.manual_seed(11)
    players = Game()
    x = torch.randn(50, 2) + 1
    return players, partial(pg.fit, players.turns(), x, **{"batch_size": 8, **arguments})


SCENARIOS = {
    "tensors": partial(elbo, steps=40),
    "dataset": partial(elbo, Noisy(), epochs=6),
    "validation": partial(elbo, epochs=5, validation=0.2),
    "patience": partial(elbo, patience=2, validation=0.2, optimizer=partial(torch.optim.Adam, lr=0.05)),
    "one cycle": partial(elbo, steps=40, schedule=partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=60)),
    "momentum": partial(elbo, steps=40, optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True)),
    "two turns": partial(game, steps=20),
    "two turns, averaged": partial(game, steps=20, ema=0.9),
}


def record(result):
    history = {name: value for name, value in vars(result.history).items() if name != "seconds"}
    return history, result.best_step, result.reason


@pytest.mark.parametrize("seed", [5, None])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name, seed, tmp_path):
    module, run = SCENARIOS[name]()
    torch.manual_seed(3)
    whole_counter = Adder()
    expected = record(run(seed=seed, callbacks=[whole_counter, breaking_at(-1)]))
    wanted = weights(module)

    checkpoint = partial(Checkpoint, tmp_path / "run", every=0)
    breaks, noise = iter((2, 3, 9, 16, 17)), 3
    while True:
        module, run = SCENARIOS[name]()
        torch.manual_seed(noise)
        counter, noise = Adder(), noise + 1
        callbacks = [counter, breaking_at(next(breaks, -1))]
        try:
            result = record(run(seed=seed, checkpoint=checkpoint(), callbacks=callbacks))
            break
        except Broken:
            continue
    assert result == expected
    assert same(weights(module), wanted)
    assert (counter.total, counter.steps) == (whole_counter.total, whole_counter.steps)


def test_a_finished_run_returns_at_once(tmp_path):
    module, run = elbo(epochs=3, validation=0.2)
    expected = record(run(checkpoint=tmp_path / "run", seed=1))
    wanted = weights(module)
    module, run = elbo(epochs=3, validation=0.2)

    def never(progress):
        raise AssertionError("a step was taken")

    del run.keywords["epochs"]
    with pytest.raises(ValueError, match="the number of `callbacks` must be as in the checkpoint, 0, got 1"):
        run(epochs=3, checkpoint=tmp_path / "run", callbacks=[never])
    assert record(run(epochs=3, checkpoint=tmp_path / "run")) == expected
    assert same(weights(module), wanted)


def test_a_finished_run_goes_on_if_more_is_asked_for(tmp_path):
    module, run = elbo(seed=1)
    run(steps=30)
    wanted = weights(module)
    for steps in (10, 30):
        module, run = elbo(seed=1)
        result = run(steps=steps, checkpoint=tmp_path / "run")
    assert len(result.history.loss) == 30
    assert same(weights(module), wanted)


def test_generators_are_left_alone_by_a_seeded_resume(tmp_path):
    for steps in (5, 10):
        _, run = elbo(seed=1)
        state = torch.get_rng_state()
        run(steps=steps, checkpoint=tmp_path / "run")
        assert torch.equal(torch.get_rng_state(), state)


def resumed(tmp_path, first, second):
    first(checkpoint=tmp_path / "run")
    second(checkpoint=tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "`seed` must be 1 to resume from the checkpoint, got 2"),
        ({"batch_size": 4}, "`batch_size` must be as in the checkpoint, 8, got 4"),
        ({"x": torch.zeros(49, 2)}, "the rows of `data` must be as in the checkpoint, 50, got 49"),
        ({"ema": None}, "whether there is an `ema` must be as in the checkpoint, True, got False"),
        ({"validation": 0.5}, "the rows of `data` must be as in the checkpoint, 50, got 25"),
        ({"validation": torch.zeros(3, 2)}, "whether there is a `validation` must be .*False, got True"),
        ({"schedule": None}, r"`schedule` must be as in the checkpoint, \['CosineAnnealingLR'\], got \['NoneType'\]"),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, r"the optimizers must be .*\['Adam'\], got \['SGD'\]"),
    ],
)
def test_other_settings_are_refused_by_name(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        resumed(tmp_path, elbo(steps=3, seed=1)[1], elbo(**{"steps": 3, "seed": 1, **change})[1])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 3), Total()), r"lacks nothing, has besides \['0.0.bias'\]"),
        (
            lambda: nn.Sequential(nn.Linear(2, 4, bias=False), Total()),
            r"'0.0.weight' must have shape \(4, 2\), got \(3, 2\)",
        ),
    ],
)
def test_another_model_is_refused_by_name(other, message, tmp_path):
    def first():
        return nn.Sequential(nn.Linear(2, 3, bias=False), Total())

    run = partial(pg.fit, data=torch.randn(50, 2), steps=3)
    with pytest.raises(ValueError, match=f"`checkpoint` does not fit the module.*{message}"):
        resumed(tmp_path, partial(run, first()), partial(run, other()))


class Total(nn.Module):
    def forward(self, x):
        return x.square().sum()


def test_other_turns_are_refused_by_name(tmp_path):
    players, run = game(steps=3)
    with pytest.raises(ValueError, match=r"the turns' repeats must be as in the checkpoint, \[2, 1\], got \[1\]"):
        resumed(tmp_path, run, partial(pg.fit, pg.Turn(players.fool, players.generator), torch.randn(50, 2), steps=3))
    frozen = Game()
    frozen.generator[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="`checkpoint` does not fit the optimizer"):
        pg.fit(frozen.turns(), torch.randn(50, 2), batch_size=8, steps=3, checkpoint=tmp_path / "run")


def test_a_missing_folder_is_named_before_any_training(tmp_path):
    seen = []
    with pytest.raises(FileNotFoundError, match="`checkpoint` must be in a folder that exists, got .*missing"):
        elbo(steps=3)[1](checkpoint=tmp_path / "missing" / "run", callbacks=[seen.append])
    assert not seen


def test_a_file_that_is_not_right_is_named(tmp_path):
    path = tmp_path / "run"
    elbo(steps=3)[1](checkpoint=path)
    content = path.read_bytes()
    for wrong, message in ((b"", "is empty"), (content[:-1], "truncated"), (b"{" * 99, "truncated")):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"run' (is )?.*{message}"):
            elbo(steps=5)[1](checkpoint=path)
    pg.save(Gaussian(), path)
    with pytest.raises(ValueError, match="holds a module, expected a training run"):
        elbo(steps=5)[1](checkpoint=path)


def test_bad_intervals_are_named(tmp_path):
    for every in (-1, float("nan"), float("inf"), "60"):
        with pytest.raises((ValueError, TypeError), match="`every` must"):
            Checkpoint(tmp_path / "run", every=every)
    with pytest.raises(TypeError, match="`path` must be a path, got int"):
        Checkpoint(3)


def test_saves_happen_at_intervals_and_at_the_end(tmp_path, monkeypatch):
    saves, save = [], Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", lambda self, state: (saves.append(state["step"]), save(self, state)))
    elbo(steps=4)[1](checkpoint=Checkpoint(tmp_path / "run", every=0))
    assert saves == [1, 2, 3, 4, 4]
    saves.clear()
    elbo(steps=4)[1](checkpoint=tmp_path / "other")
    assert saves == [1, 4]  # the first shows early what cannot be saved


def test_what_killed_writers_left_is_overwritten_and_nothing_else_is_touched(tmp_path):
    others = [".other.partial", ".run.abc.partial"]
    for name in (*others, ".run.partial", ".run.lock"):
        (tmp_path / name).write_text("left")
    elbo(steps=2)[1](checkpoint=tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == [*others, "run"]


# Runs that callbacks end ---------------------------------------------------------------------------------------------


def stopping_at(step):
    def callback(progress):
        if progress.step == step:
            progress.stop("good enough")

    return callback


def test_a_run_that_a_callback_ended_stays_ended_until_it_is_given_more(tmp_path):
    module, run = elbo(steps=40, seed=1)
    expected = record(run(callbacks=[stopping_at(7)]))
    wanted = weights(module)
    for _ in range(3):
        module, run = elbo(steps=40, seed=1)
        assert record(run(checkpoint=tmp_path / "run", callbacks=[stopping_at(7)])) == expected
        assert same(weights(module), wanted)
    module, run = elbo(steps=45, seed=1)
    assert run(checkpoint=tmp_path / "run", callbacks=[stopping_at(20)]).history.loss[:7] == expected[0]["losses"][0]
    module, run = elbo(steps=45, seed=1)
    assert len(run(checkpoint=tmp_path / "run", callbacks=[stopping_at(7)]).history.loss) == 20


# Runs in pieces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(3, 5, 8, 13, 40), (6, 7, 40), (40,)])
@pytest.mark.parametrize("every", [None, 4])
def test_a_run_in_pieces_with_patience_ends_as_the_unbroken_one(pieces, every, tmp_path):
    arguments = {"patience": 3, "validation": 0.2, "validate_every": every, "seed": 5}
    arguments["optimizer"] = partial(torch.optim.Adam, lr=0.05)
    module, run = elbo(steps=40, **arguments)
    expected = record(run())
    wanted = weights(module)
    for steps in pieces:
        module, run = elbo(steps=steps, **arguments)
        result = record(run(checkpoint=tmp_path / "run"))
    assert result == expected
    assert same(weights(module), wanted)


def test_a_finished_run_validates_its_end_again(tmp_path):
    results = []
    for _ in range(2):
        module, run = elbo(steps=7, validation=0.2, seed=5)
        results.append((record(run(checkpoint=tmp_path / "run")), weights(module)))
    assert 7 in results[0][0][0]["validation"]
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])


# What cannot be saved ------------------------------------------------------------------------------------------------


class Held:
    """A callback with a state of the test's choice."""

    def __init__(self, state):
        self.state = state

    def __call__(self, progress):
        pass

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        assert state == self.state
        assert [type(key) for key in state] == [type(key) for key in self.state]


def test_a_callback_with_tuples_for_keys_resumes(tmp_path):
    state = {("best", 1): 2.0, 3: {None: (1, 2)}}
    for steps in (3, 6):
        elbo(steps=steps)[1](checkpoint=tmp_path / "run", callbacks=[Held(state)])


def test_a_state_that_would_not_come_back_is_refused_at_the_first_save(tmp_path):
    seen = []
    with pytest.raises(
        ValueError, match=r"`checkpoint` could not be saved after step 1: .*got set in the state\['callbacks'\]\[0\]"
    ):
        elbo(steps=30)[1](checkpoint=tmp_path / "run", callbacks=[Held({"seen": {1}}), seen.append])
    assert len(seen) == 1
    assert os.listdir(tmp_path) == []


def test_parts_that_cannot_take_their_state_back_are_named_before_any_training(tmp_path):
    class Saves:
        def __call__(self, progress):
            raise AssertionError("a step was taken")

        def state_dict(self):
            return {}

    class Schedule:
        def __init__(self, optimizer):
            pass

        def step(self):
            raise AssertionError("a step was taken")

    with pytest.raises(ValueError, match=r"`callbacks` with state_dict\(\) must have load_state_dict.*got Saves"):
        elbo(steps=3)[1](checkpoint=tmp_path / "run", callbacks=[Saves()])
    with pytest.raises(ValueError, match=r"`schedule` must have state_dict\(\) and load_state_dict.*got Schedule"):
        elbo(steps=3, schedule=Schedule)[1](checkpoint=tmp_path / "run")


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o), lr_scheduler.MultiStepLR(o, [2, 5])], [9]),
        lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.StepLR(o, 3)]),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
        lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, step_size_up=5, cycle_momentum=False),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
        lambda o: torch.optim.swa_utils.SWALR(o, 1e-4, anneal_epochs=5),
    ],
)
def test_every_schedule_of_torchs_resumes(schedule, tmp_path):
    arguments = {"steps": 30, "seed": 1, "schedule": schedule, "validation": 0.2}
    module, run = elbo(**arguments)
    expected, wanted = record(run()), weights(module)
    for steps in (4, 11, 30):
        module, run = elbo(**{**arguments, "steps": steps})
        result = record(run(checkpoint=tmp_path / "run"))
    assert result == expected
    assert same(weights(module), wanted)


@pytest.mark.parametrize("fail_at", [1, 4, 10])
def test_a_failed_save_leaves_the_best_weights_and_says_so(fail_at, tmp_path, monkeypatch):
    write, count = archive.write, iter(range(1, 100))

    def full(*arguments, **keywords):
        if next(count) == fail_at:
            raise OSError(28, "No space left on device")
        return write(*arguments, **keywords)

    def run(steps, **arguments):
        module, run = elbo(steps=steps, seed=1, validation=0.2, validate_every=2, ema=None)
        run(**arguments)
        return module

    expected = weights(run(min(fail_at, 9)))
    monkeypatch.setattr(archive, "write", full)
    module, train = elbo(steps=9, seed=1, validation=0.2, validate_every=2, ema=None)
    match = r"`checkpoint` could not be saved after step (\d): .*No space left.* The modules hold the weights of step"
    with pytest.raises(OSError, match=match) as error:
        train(checkpoint=Checkpoint(tmp_path / "run", every=0))
    assert f"after step {min(fail_at, 9)}" in str(error.value)
    assert same(weights(module), expected)


# Pyro programs -------------------------------------------------------------------------------------------------------


class Discrete(nn.Module):
    """A guide with a site that is not reparameterized."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        shift = self.norm(x).mean()
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=self.logits + shift).to_event(1))


class Shifted(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(k, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("make", [pg.Elbo, lambda *pair: Trace_ELBO()(*pair)])
def test_a_guide_that_is_not_reparameterized_resumes(make, tmp_path):
    def run(steps, **arguments):
        objective = make(Shifted(), Discrete())
        data = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
        return record(pg.fit(objective, data, steps=steps, batch_size=10, seed=4, **arguments)), weights(objective)

    expected, wanted = run(8)
    for steps in (1, 4, 8):
        result, tensors = run(steps, checkpoint=tmp_path / "run")
    assert result == expected
    assert same(tensors, wanted)


# One writer at a time -----------------------------------------------------------------------------------------------


def test_a_second_run_on_one_file_is_refused_and_the_first_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrogen.training.lock._PATIENCE", 0.0)

    def second(progress):
        with pytest.raises(ValueError, match="`checkpoint` must be a file that no other run is writing"):
            elbo(steps=2)[1](checkpoint=tmp_path / "run")

    module, run = elbo(steps=3, seed=1)
    run(checkpoint=tmp_path / "run", callbacks=[second])
    assert Checkpoint(tmp_path / "run").load()["step"] == 3
    assert os.listdir(tmp_path) == ["run"]


def test_another_process_is_refused_until_the_first_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrogen.training.lock._PATIENCE", 0.0)
    path = tmp_path / "run"
    code = f"""
import time
from pathlib import Path
from pyrogen.training.lock import locked
with locked(Path({str(path)!r})):
    print("locked", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match="`checkpoint` must be a file that no other run is writing"):
        elbo(steps=2)[1](checkpoint=path)
    other.kill()
    other.wait()
    other.stdout.close()
    elbo(steps=2)[1](checkpoint=path)
    assert os.listdir(tmp_path) == ["run"]


def test_a_reader_does_not_disturb_a_run(tmp_path):
    path, done = tmp_path / "run", threading.Event()

    def read():
        while not done.is_set():
            Checkpoint(path).load()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        elbo(steps=15)[1](checkpoint=Checkpoint(path, every=0))
    finally:
        done.set()
        reader.join()


def test_a_folder_in_place_of_the_file_is_named_before_any_training(tmp_path):
    (tmp_path / "run").mkdir()
    seen = []
    with pytest.raises(IsADirectoryError, match="`checkpoint` must be a file, got the folder"):
        elbo(steps=3)[1](checkpoint=tmp_path / "run", callbacks=[seen.append])
    assert not seen


def test_a_folder_that_cannot_be_written_in_is_named_before_any_training(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    seen = []
    monkeypatch.setattr("pyrogen.training.lock.os.open", refuse)
    with pytest.raises(PermissionError, match="`checkpoint` cannot be written"):
        elbo(steps=3)[1](checkpoint=tmp_path / "run", callbacks=[seen.append])
    assert not seen


# Ctrl-C -------------------------------------------------------------------------------------------------------------


def test_an_interrupt_saves_and_is_raised(tmp_path):
    module, run = elbo(steps=40, seed=1)
    run()
    wanted = weights(module)

    def press(progress):
        if progress.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    module, run = elbo(steps=40, seed=1)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "run", callbacks=[press])
    assert signal.getsignal(signal.SIGINT) is handler
    assert archive.read(tmp_path / "run", "training run")
    assert Checkpoint(tmp_path / "run").load()["step"] == 7
    module, run = elbo(steps=40, seed=1)
    run(checkpoint=tmp_path / "run", callbacks=[lambda progress: None])
    assert same(weights(module), wanted)


def test_a_second_interrupt_is_not_held_back(tmp_path):
    def press(progress):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        elbo(steps=40)[1](checkpoint=tmp_path / "run", callbacks=[press])
    assert time.monotonic() - began < 4


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    results = []
    _, run = elbo(steps=3)
    thread = threading.Thread(target=lambda: results.append(run(checkpoint=tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].reason == "steps"


# The nest of states -------------------------------------------------------------------------------------------------


def test_states_come_back_as_they_were(tmp_path):
    state = {
        "numbers": [1, 2.5, True, None],
        "floats": [0.1, float("inf"), 1e-320],
        "pairs": ((1.0, 2.0), [], ()),
        3: {"tensor": torch.arange(3), "nested": [torch.ones(2, dtype=torch.float64)]},
        "text": "text",
    }
    tensors = {}
    document = flatten(copy.deepcopy(state), tensors)
    archive.write(tmp_path / "state", "training run", document, tensors)
    back = unflatten(*archive.read(tmp_path / "state", "training run"))
    assert torch.equal(back[3].pop("tensor"), state[3].pop("tensor"))
    assert torch.equal(back[3].pop("nested")[0], state[3].pop("nested")[0])
    assert back == state
    assert isinstance(back["pairs"][0], tuple)


def test_states_of_other_kinds_are_named():
    with pytest.raises(ValueError, match="holds numbers, strings, tensors and nests of them, got Linear"):
        flatten({"callback": nn.Linear(1, 1)}, {})


def test_keys_and_counters_come_back_as_they_were():
    state = {("best", 1): 2.0, 3: Counter([2, 2, 5]), None: OrderedDict(b=1, a=2), 1.5: [(), {}]}
    tensors = {}
    back = unflatten(json.loads(json.dumps(flatten(state, tensors))), tensors)
    assert back == state
    assert [type(value) for value in back.values()] == [type(value) for value in state.values()]


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", 1j, np.int64(3), np.zeros(2), Named(1), Own(), defaultdict(int)])
def test_what_would_come_back_as_something_else_is_named(value):
    with pytest.raises(ValueError, match=rf"got {type(value).__name__} in the state\['a'\]\[1\]"):
        flatten({"a": [0, value]}, {})


def test_a_history_of_a_million_steps_fits(tmp_path):
    """The JSON header of a safetensors file is limited to 100 MB."""
    history = torch.rand(2_000_000).tolist()
    checkpoint = Checkpoint(tmp_path / "run")
    checkpoint.save({"losses": [history, history, history], "validation": {1: 2.0}})
    assert checkpoint.load() == {"losses": [history, history, history], "validation": {1: 2.0}}
