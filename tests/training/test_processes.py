"""Several processes, devices and precisions, through Lightning Fabric: on the CPU, with gloo."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from small_programs import Gaussian, encoder, pair, same, weights
from torch.utils.data import DataLoader

import pyrogen as pg
from pyrogen.core import archive

fabric_package = pytest.importorskip("lightning_fabric")

# Fabric and torch's distributed package warn of their own matters.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes wrote."""
    folder = tmp_path_factory.mktemp("two")
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_processes.py"), folder],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return folder


def ranks(folder, name):
    return [archive.read(folder / f"{name}.{rank}", "outcome") for rank in (0, 1)]


def alone(name):
    """The same in one process, from the weights of the first."""
    torch.manual_seed(100)
    module, result, *_ = two_processes.SCENARIOS[name](pg.fit)
    return module, result


@pytest.mark.parametrize("name", [*two_processes.SCENARIOS, "checkpointed", "resumed", "stopped", "replayed"])
def test_both_processes_end_with_the_same_weights_and_history(name, folder):
    (first, first_weights), (second, second_weights) = ranks(folder, name)
    assert same(first_weights, second_weights)
    for key in ("losses", "norms", "validation", "best", "reason"):
        assert first[key] == second[key], key


@pytest.mark.parametrize("name", ["likelihood", "validated", "accumulated"])
def test_losses_are_those_of_one_process_with_the_joint_batch(name, folder):
    """Minibatches of 5 do not divide evenly, and the last of 31 rows holds one, so that one process has none."""
    outcome, tensors = ranks(folder, name)[0]
    module, result = alone(name)
    assert outcome["losses"][0] == pytest.approx(result.history.loss, rel=1e-4)
    assert outcome["norms"][0] == pytest.approx(result.history.gradient_norms[0], rel=1e-3)
    assert outcome["reason"] == result.reason
    assert outcome["best"] == result.best_step
    for name, value in weights(module).items():
        assert torch.allclose(tensors[name], value, atol=1e-4), name


def test_validation_and_early_stopping_agree_with_one_process(folder):
    outcome, _ = ranks(folder, "validated")[0]
    _, result = alone("validated")
    assert outcome["reason"] == "patience"
    assert [step for step, _ in outcome["validation"]] == list(result.history.validation)
    assert [value for _, value in outcome["validation"]] == pytest.approx(
        list(result.history.validation.values()), rel=1e-4
    )


@pytest.mark.parametrize("name", ["noise", "unseeded"])
def test_every_process_has_noise_of_its_own(name, folder):
    (first, _), (second, _) = ranks(folder, name)
    seen = set(first["extra"][0][-5:]), set(second["extra"][0][-5:])  # but for what comes before the steps
    assert len(seen[0]) == len(seen[1]) == 5
    assert not seen[0] & seen[1]


def test_checkpoints_are_written_once(folder):
    (first, _), (second, _) = ranks(folder, "checkpointed")
    assert first["extra"][0] == [*range(1, 11), 10]
    assert second["extra"][0] == []


def test_a_run_resumes_in_two_processes_and_in_one(folder, tmp_path):
    _, expected = two_processes.checkpointed(pg.fit, tmp_path, steps=20)
    resumed, _ = ranks(folder, "resumed")[0]
    assert resumed["losses"][0] == pytest.approx(expected.history.loss[:14], rel=1e-4)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "run", alone)
    _, result = two_processes.checkpointed(pg.fit, alone, steps=20)
    assert result.history.loss[:14] == resumed["losses"][0]
    assert result.history.loss == pytest.approx(expected.history.loss, rel=1e-4)


def test_a_callback_in_one_process_ends_the_run_in_both(folder):
    (first, _), _ = ranks(folder, "stopped")
    assert first["reason"] == "my clock"
    assert len(first["losses"][0]) == 3


def test_a_tracker_records_in_the_first_process_alone(folder):
    (first, _), (second, _) = ranks(folder, "tracked")
    names = ("loss", "gradient_norm", "learning_rate", "epoch")
    assert first["extra"][0] == [[name, step] for step in (1, 2) for name in names]
    assert second["extra"][0] == []


def test_a_failure_in_one_process_is_one_in_both(folder):
    (first, _), (second, _) = ranks(folder, "failures")
    assert second[:2] == ["KeyError: 'boom'"] * 2
    assert first[:2] == ["RuntimeError: process 1 failed: KeyError: 'boom'"] * 2
    assert "No space left on device" in first[2]
    assert first[2].startswith("OSError: `checkpoint` could not be saved after step 1")
    assert second[2].startswith("RuntimeError: `checkpoint` could not be saved after step 1: process 0 failed: OSError")
    assert first[3].startswith("FileNotFoundError: `checkpoint` must be in a folder that exists")
    assert second[3].startswith("RuntimeError: process 0 failed: FileNotFoundError")


def test_a_lazy_guide_is_made_and_trained(folder):
    _, tensors = ranks(folder, "lazy")[0]
    scales = [name for name in tensors if "scales" in name]
    assert scales
    module, _ = alone("lazy")
    assert set(weights(module)) == set(tensors)


def test_a_metric_of_the_whole_set_sees_it_in_every_process(folder):
    (first, _), (second, _) = ranks(folder, "whole")
    module, result, seen = two_processes.whole(pg.fit)
    assert first["extra"][0] == second["extra"][0] == seen == [9, 9, 9]


def test_every_process_has_buffers_of_its_own_and_they_resume(folder):
    (first, first_weights), (second, _) = ranks(folder, "replayed")
    (first_again, weights_again), (second_again, _) = ranks(folder, "replayed again")
    assert first["extra"][0] != second["extra"][0]
    assert (first_again["extra"], second_again["extra"]) == (first["extra"], second["extra"])
    assert first_again["losses"] == first["losses"]
    assert same(first_weights, weights_again)


# One process --------------------------------------------------------------------------------------------------------


def fabric(**arguments):
    return fabric_package.Fabric(accelerator="cpu", devices=1, **arguments)


def test_fabric_alone_changes_no_number():
    runs = []
    for arguments in ({}, {"fabric": fabric()}):
        torch.manual_seed(2)
        objective = pg.Elbo(*pair(dropout=0.2))
        pg.fit(objective, torch.randn(40, 2), steps=8, batch_size=16, seed=1, validation=0.2, ema=0.9, **arguments)
        runs.append(weights(objective))
    assert same(*runs)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16), ("64-true", torch.float64)]
)
def test_other_precisions_train(precision, dtype):
    module = encoder(data=3, hidden=32)
    before = weights(module)
    data = (torch.randn(40, 2), torch.randn(40, 3))
    result = pg.fit(module, data, epochs=2, batch_size=16, validation=0.2, fabric=fabric(precision=precision))
    assert all(p.dtype == dtype for p in module.parameters())
    assert all(not torch.equal(before[name], value) for name, value in weights(module).items())
    assert result.history.loss[-1] < float("inf")


def test_mixed_precision_really_is():
    seen = []
    module = encoder(data=3)
    module.network[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    pg.fit(module, (torch.randn(8, 2), torch.randn(8, 3)), steps=1, fabric=fabric(precision="bf16-mixed"))
    assert set(seen) == {torch.bfloat16}


def test_schedules_clipping_and_turns_work_through_fabric():
    players = two_processes.Game()
    before = weights(players)
    pg.fit(
        players.turns(),
        torch.randn(20, 2),
        steps=2,
        batch_size=8,
        clip=1.0,
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        fabric=fabric(),
    )
    assert all(not torch.equal(before[name], value) for name, value in weights(players).items())


def test_scaled_losses_are_refused_by_name():
    own = fabric()
    own.strategy.precision.scaler = object()
    own.strategy.precision.precision = "16-mixed"
    with pytest.raises(
        ValueError, match="`fabric` must not scale losses, as precision '16-mixed' does; use 'bf16-mixed'"
    ):
        pg.fit(Gaussian(), torch.zeros(3, 2), steps=1, fabric=own)


def test_a_loader_is_not_shared_among_processes():
    from pyrogen.core.batches import batches

    with pytest.raises(ValueError, match="`data` must be tensors or a dataset when several processes share it"):
        batches(DataLoader([torch.zeros(2)]), 8, rank=0, world=2)


def test_shares_of_a_minibatch_make_it_whole():
    from pyrogen.core.batches import batches

    x = torch.arange(33.0)
    for world in (1, 2, 3, 5):
        shares = [list(batches(x, 8, seed=1, rank=rank, world=world).epoch(0)) for rank in range(world)]
        for number, minibatch in enumerate(batches(x, 8, seed=1).epoch(0)):
            parts = [share[number] for share in shares]
            rows = torch.cat([part.entries[0] for part in parts if part.weight])
            assert sorted(rows.tolist()) == sorted(minibatch.entries[0].tolist())
            mean = sum(part.entries[0].mean() * part.weight for part in parts) / world
            assert mean.item() == pytest.approx(minibatch.entries[0].mean().item(), rel=1e-5)
