"""Trains in two processes, and writes down what each of them saw.

    python two_processes.py FOLDER

Fabric starts the second process itself. ``tests/training/test_processes.py`` compares with one process.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from small_programs import Game, Gaussian, Guide, Model, decoder, encoder, weights
from torch import nn

import pyrogen as pg
from pyrogen.core import archive
from pyrogen.training import Checkpoint, LocalBuffers, TensorBoard, WholeSet


class Watched(Gaussian):
    """A module that keeps the rows and the noise it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, context=None):
        self.seen.append(torch.randn(()).item())
        return super().forward(context)


class Program(nn.Module):
    """A global latent variable, for a lazy guide."""

    def __init__(self):
        super().__init__()
        self.likelihood = decoder()

    def forward(self, x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", self.likelihood(z.expand(len(x), 2)), obs=x)


class Normalized(nn.Module):
    """Batch statistics, which differ between the processes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))

    def forward(self, x):
        return self.net(x).square().mean()


def data(rows=33):
    """The same everywhere; 33 rows in minibatches of 8 leave a last one of a single row, 31 in fives do so too."""
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(1)) + 1


def likelihood(fit):
    module = pg.flows.affine_coupling((2,), layers=2, hidden=(8,))
    result = fit(module, data(31), epochs=3, seed=5, batch_size=5)
    return module, result


def noise(fit):
    module = Watched()
    result = fit(module, data(), epochs=1, seed=5, batch_size=8)
    return module, result, module.seen


def unseeded(fit):
    module = Watched()
    result = fit(module, data(), epochs=1, batch_size=8)
    return module, result, module.seen


def validated(fit):
    module = Gaussian()
    optimizer = partial(torch.optim.SGD, lr=1.5)  # jumps about, so that patience ends it
    result = fit(
        module, data(), patience=3, validation=0.25, seed=5, batch_size=8, ema=0.5, clip=3.0, optimizer=optimizer
    )
    return module, result


def elbo(fit):
    objective = pg.Elbo(Model(Gaussian(), decoder()), Guide(encoder()))
    return objective, fit(objective, data(), epochs=2, seed=5, batch_size=8, validation=data(5))


def lazy(fit):
    program = Program()
    guide = AutoNormal(program)
    objective = pg.Elbo(program, guide, size=33)
    return objective, fit(objective, data(), epochs=2, seed=5, batch_size=8)


def game(fit):
    players = Game()
    return players, fit(players.turns(), data(), steps=4, seed=5, batch_size=8)


def normalized(fit):
    module = Normalized()
    return module, fit(module, data(32), epochs=2, seed=5, batch_size=8)


def accumulated(fit):
    module = pg.flows.affine_coupling((2,), layers=2, hidden=(8,))
    result = fit(module, data(31), epochs=2, seed=5, batch_size=5, accumulate=3)
    return module, result


def whole(fit):
    """A metric of the whole held-out set, whose noise and value are the same everywhere."""
    module = Gaussian()
    held_out = data(9)
    seen = []

    def metric(x):
        seen.append(x.shape[0])
        return (x.mean(0) - module().sample((50,)).mean(0)).norm()

    result = fit(
        module, data(), steps=6, seed=5, batch_size=8, validation=held_out, validate_every=2, metric=WholeSet(metric)
    )
    return module, result, seen


class Replaying(Gaussian):
    """An objective that keeps what it has seen, in each process."""

    def objective(self):
        return Replay(self)


class Replay(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        self.replay = LocalBuffers({"x": torch.zeros(8, 2)})

    def forward(self, x):
        loss = -self.module().log_prob(torch.cat([x, self.replay["x"]])).mean()
        self.replay["x"] = torch.cat([x + 0.1 * torch.randn_like(x), self.replay["x"]])[:8]
        return loss


def replayed(fit, folder, steps):
    torch.manual_seed(3)
    objective = Replaying().objective()
    arguments = {} if folder is None else {"checkpoint": Checkpoint(folder / "replay", every=0)}
    result = fit(objective, data(), steps=steps, seed=5, batch_size=8, **arguments)
    return objective, result, objective.replay["x"].tolist()


def checkpointed(fit, folder, steps=10):
    torch.manual_seed(3)
    module = pg.flows.affine_coupling((2,), layers=2, hidden=(8,), standardize=False)
    checkpoint = Checkpoint(folder / "run", every=0)
    return module, fit(module, data(), steps=steps, seed=5, batch_size=8, checkpoint=checkpoint)


def stopped(fit, rank, folder):
    """A callback ends the run, in the second process alone."""

    def clock(progress):
        if progress.step == 3 and rank == 1:
            progress.stop("my clock")

    module = Gaussian()
    checkpoint = Checkpoint(folder / "stopped", every=0)
    return module, fit(module, data(), steps=50, seed=5, batch_size=8, callbacks=[clock], checkpoint=checkpoint)


class Written(list):
    """What a writer of TensorBoard is given."""

    def add_scalar(self, name, value, step):
        self.append([name, step])


def tracked(fit):
    """A callback that the first process alone records by."""
    writer, module = Written(), Gaussian()
    result = fit(module, data(), steps=2, seed=5, batch_size=8, callbacks=[TensorBoard(writer)])
    return module, result, writer


def failures(fit, rank, folder):
    """What each process hears of a failure in the second one (or in the first, which writes the file)."""

    def boom(*_):
        if rank == 1:
            raise KeyError("boom")
        return torch.zeros(())

    def full(self, state):
        raise OSError(28, "No space left on device")

    heard = []
    save = Checkpoint.save
    for arguments in (
        {"callbacks": [boom]},
        {"validation": 0.3, "metric": boom, "validate_every": 1},
        {"checkpoint": folder / "full"},
        {"checkpoint": folder / "missing" / "run"},
    ):
        Checkpoint.save = full
        try:
            fit(Gaussian(), data(), steps=5, seed=5, batch_size=8, **arguments)
        except (KeyError, RuntimeError, OSError) as error:
            heard.append(f"{type(error).__name__}: {error}")
        finally:
            Checkpoint.save = save
    return heard


SCENARIOS = {
    f.__name__: f for f in (likelihood, noise, unseeded, validated, elbo, lazy, game, normalized, accumulated, whole)
}


def write(folder, name, rank, outcome):
    module, result, *extra = outcome
    document = {
        "losses": result.history.losses,
        "norms": result.history.gradient_norms,
        "validation": list(result.history.validation.items()),
        "best": result.best_step,
        "reason": result.reason,
        "extra": extra,
    }
    archive.write(folder / f"{name}.{rank}", "outcome", document, weights(module))


def main(folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from lightning_fabric import Fabric

    folder = Path(folder)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    fit = partial(pg.fit, fabric=fabric)
    rank = fabric.global_rank
    for name, scenario in SCENARIOS.items():
        torch.manual_seed(100 + rank)  # different weights, which only communication makes equal
        write(folder, name, rank, scenario(fit))
    write(folder, "stopped", rank, stopped(fit, rank, folder))
    write(folder, "tracked", rank, tracked(fit))
    archive.write(folder / f"failures.{rank}", "outcome", failures(fit, rank, folder), {})
    saves = []
    save = Checkpoint.save
    Checkpoint.save = lambda self, state: (saves.append(state["step"]), save(self, state))
    write(folder, "checkpointed", rank, (*checkpointed(fit, folder), saves))
    write(folder, "resumed", rank, checkpointed(fit, folder, steps=14))
    write(folder, "replayed", rank, replayed(fit, None, 9))
    replayed(fit, folder, 4)
    write(folder, "replayed again", rank, replayed(fit, folder, 9))


if __name__ == "__main__":
    main(sys.argv[1])
