"""Fits in several threads: one after the other, and nothing of the process is left changed."""

import threading

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from small_programs import Gaussian, same, weights

import pyrogen as pg

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) + 1


def train(seed, callbacks=()):
    module = Gaussian()
    pg.fit(module, X, steps=5, batch_size=8, seed=seed, callbacks=callbacks)
    return weights(module)


def test_fits_in_threads_take_turns_and_leave_the_process_as_it_was():
    alone = [train(seed) for seed in range(3)]
    pyro.param("mine", torch.ones(3))
    pyro.enable_validation(True)
    state, running, most = torch.get_rng_state(), [], []
    found = {}

    def entered(progress):
        if progress.step == 1:
            running.append(1)
        most.append(len(running))
        if progress.step == 5:
            running.pop()

    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: train(seed, [entered])})) for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) == 1
    assert all(same(found[seed], alone[seed]) for seed in range(3))
    assert "mine" in pyro.get_param_store().keys()  # noqa: SIM118
    assert is_validation_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fit_within_a_fit_goes_through():
    alone = train(3)
    inner = []
    outer = train(4, [lambda progress: inner.append(train(3))])
    assert all(same(found, alone) for found in inner)
    assert same(outer, train(4))


def test_a_failure_lets_the_next_one_in():
    def boom(progress):
        raise KeyError

    def fail():
        try:
            train(1, [boom])
        except KeyError:
            failed.append(True)

    failed = []
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join(60)
    assert failed
    train(1)
