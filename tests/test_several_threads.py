"""Inference, evaluation and simulation in several threads: the numbers of one thread, and the process as it was.

Pyro has one stack of handlers and one parameter store for all threads.
"""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.util import is_validation_enabled
from small_programs import Gaussian
from torch import nn

import pyrogen as pg
from pyrogen import evaluation, inverse, latent, simulation
from pyrogen.numerics.exclusive import exclusive, released
from pyrogen.numerics.randomness import fixed_noise, held, seeded
from pyrogen.programs.run import isolated, run

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) + 1
PRIOR = pg.diffusion.Diffusion(
    pg.diffusion.GaussianMixtureDenoiser(dist.Normal(torch.zeros(1), 1.0).to_event(1), pg.diffusion.LinearVP())
)
PAIR = latent.vae((2,), latent_shape=(1,), hidden=(8,)).eval()


def program(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    time.sleep(1e-4)  # another thread's turn
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def denoised(y=None):
    z = pyro.sample("z", PRIOR())
    time.sleep(1e-4)
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def posterior_mean(answer, y):
    found = answer.run(y)
    z = found.get_samples()["z"].flatten()
    weights = torch.zeros(len(z)) if found.log_weights is None else found.log_weights.flatten()
    return float((weights.softmax(0) * z).sum())


def twisted(number):
    answer = inverse.TwistedSMC(denoised, site="z", particles=200, steps=10)
    return posterior_mean(answer, torch.tensor([2.0 * number])) == pytest.approx(number, abs=0.6)


def simulated(number):
    found = simulation.Joint(program, observed="y").draw(300, seed=number, progress=False)
    spread = float((found.observed["y"] - found.latents["z"]).std())
    return (found.latents["z"].mean().item(), spread == pytest.approx(1.0, abs=0.2))


def weighted(number):
    return float(evaluation.importance_weighted_log_probs(PAIR.model, PAIR.guide, X + number, draws=200).mean()) < 0


def process_state():
    validation = is_validation_enabled(), torch.distributions.Distribution._validate_args
    return validation, sorted(pyro.get_param_store().keys())


@pytest.mark.parametrize("work", [twisted, simulated, weighted])
def test_threads_find_what_one_finds_and_leave_the_process_as_it_was(work):
    pyro.param("mine", torch.ones(3))
    pyro.enable_validation(True)
    before, alone = process_state(), [work(number) for number in range(3)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == alone
    assert process_state() == before
    assert torch.equal(torch.get_rng_state(), state) or work is not simulated


def losses(callbacks=(), data=X):
    torch.manual_seed(0)
    return pg.fit(Gaussian(), data, steps=10, batch_size=8, seed=3, callbacks=callbacks).history.loss


def enters(scope, waiting=0.1):
    """Whether another thread gets into an exclusive scope while this one is in a scope; it does afterwards."""
    entered = threading.Event()

    def enter():
        with exclusive():
            entered.set()

    thread = threading.Thread(target=enter)
    with scope:
        thread.start()
        found = entered.wait(waiting)
    thread.join(20)
    assert entered.is_set()
    return found


def test_scopes_that_change_the_process_are_of_one_thread():
    assert not any(enters(scope) for scope in (exclusive(), isolated(), held(), seeded(0), fixed_noise(0)))
    assert all(enters(scope, 20) for scope in (nullcontext(), seeded(None)))


class Watched(nn.Module):
    """Maximum likelihood, and how many programs of other threads ran during its calls."""

    def __init__(self, pool):
        super().__init__()
        self.module, self.pool, self.calls, self.ran = Gaussian(), pool, 0, 0

    def forward(self, x):
        self.calls += 1
        self.ran += len(wait([self.pool.submit(run, program)], timeout=0.05).done)
        return -self.module().log_prob(x).mean()


def test_no_program_of_another_thread_runs_in_a_step_of_fit():
    with ThreadPoolExecutor(1) as pool:
        objective = Watched(pool)
        pg.fit(objective, X, steps=3, batch_size=8)
    assert objective.calls > 3
    assert objective.ran == 0


def test_callbacks_and_loaders_may_wait_for_programs_of_other_threads():
    with ThreadPoolExecutor(1) as pool:

        class Ahead:
            def __len__(self):
                return 2

            def __iter__(self):
                return (X[:8] + pool.submit(weighted, 1).result(20) for _ in range(2))

        seen = []
        found = losses([lambda progress: seen.append(pool.submit(weighted, 1).result(20))], Ahead())
    assert len(seen) == len(found) == 10


def test_a_fit_that_waits_lets_the_callbacks_of_another_run_programs():
    began, waiting = threading.Event(), threading.Event()

    def second():
        began.wait(20)
        with exclusive():
            waiting.set()
            assert len(losses()) == 10

    def call_back(progress):
        began.set()
        waiting.wait(20)
        assert weighted(1)

    thread = threading.Thread(target=second)
    thread.start()
    assert len(losses([call_back])) == 10
    thread.join(20)
    assert not thread.is_alive()


def test_all_scopes_of_a_thread_are_released():
    entered = threading.Event()

    def enter():
        with exclusive():
            entered.set()

    thread = threading.Thread(target=enter)
    with exclusive(), exclusive():
        thread.start()
        assert not entered.wait(0.2)
        with released():
            assert entered.wait(20)
    with released():
        pass
    thread.join(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_lacks():
    inside, done = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(20)
    child = os.fork()
    if not child:
        signal.alarm(20)
        with exclusive():
            os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join(20)
    assert status == 0
