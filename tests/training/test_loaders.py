"""Loaders of one's own: every minibatch once in an epoch, and a resumed run goes on where it was."""

import random

import numpy as np
import pytest
import torch
from small_programs import Gaussian, same, weights
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyrogen as pg
from pyrogen.core.batches import LoaderBatches
from pyrogen.training.checkpoint import Checkpoint
from pyrogen.training.feed import Feed

X = torch.arange(24.0).reshape(12, 2)


class Rows(IterableDataset):
    """Rows in the order of the data, of unknown length."""

    def __iter__(self):
        yield from X


class Noisy(IterableDataset):
    """Rows in an order drawn anew each time, with noise from three generators."""

    def __iter__(self):
        for index in torch.randperm(12).tolist():
            yield X[index] + torch.randn(2) * 0.1 + random.random() + np.random.rand()


class Stream:
    """Minibatches in an order of Python's, of unknown length."""

    def __iter__(self):
        order = list(range(6))
        random.shuffle(order)
        for index in order:
            yield X[2 * index : 2 * index + 2]


class Sized(Stream):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


def shuffled(**arguments):
    return DataLoader(TensorDataset(X), batch_size=2, shuffle=True, **arguments)


LOADERS = {
    "iterable dataset": Rows,
    "iterable dataset with noise": Noisy,
    "loader of an iterable dataset": lambda: DataLoader(Noisy(), batch_size=2),
    "a class of one's own": Stream,
    "a class of one's own with a length": lambda: Sized(6),
    "shuffled": shuffled,
    "shuffled by a generator": lambda: shuffled(generator=torch.Generator().manual_seed(3)),
    "list": lambda: [X[:4], X[4:9], X[9:]],
}


def run(make, steps=None, epochs=None, **arguments):
    torch.manual_seed(0)
    module, seen = Gaussian(), []

    def loss(x):
        seen.append(x.flatten().tolist())
        return -module().log_prob(x).mean()

    keywords = {"batch_size": 2, "seed": 1, **arguments}
    result = pg.fit(pg.Turn(loss, module), make(), steps=steps, epochs=epochs, **keywords)
    return module, result, seen[1:]


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("seed", [1, None])
def test_a_resumed_run_sees_what_the_unbroken_one_sees(name, seed, tmp_path):
    make = LOADERS[name]
    torch.manual_seed(5)
    module, expected, whole = run(make, steps=15, seed=seed)
    pieces = []
    for steps in (1, 4, 6, 7, 12, 15):
        resumed, result, seen = run(make, steps=steps, seed=seed, checkpoint=tmp_path / "run")
        pieces += seen
    assert pieces == whole
    assert result.history.loss == expected.history.loss
    assert same(weights(resumed), weights(module))


@pytest.mark.parametrize("name", ["iterable dataset", "a class of one's own", "shuffled", "list"])
def test_every_epoch_holds_every_row_once(name):
    make = LOADERS[name]
    epochs = []
    _, result, seen = run(make, epochs=3, callbacks=[lambda progress: epochs.append(progress.epoch)])
    per_epoch = len(seen) // 3
    assert len(result.history.loss) == len(seen) == 3 * per_epoch
    for start in range(0, len(seen), per_epoch):
        rows = [value for batch in seen[start : start + per_epoch] for value in batch]
        assert sorted(rows) == X.flatten().tolist()
    assert result.reason == "epochs"
    assert epochs[-1] in (2, 3)


@pytest.mark.parametrize("name", ["iterable dataset", "iterable dataset with noise", "shuffled"])
def test_epochs_in_pieces_hold_every_row_once(name, tmp_path):
    make = LOADERS[name]
    module, expected, whole = run(make, epochs=3)
    pieces = []
    for epochs in (1, 2, 3):
        resumed, result, seen = run(make, epochs=epochs, checkpoint=tmp_path / "run")
        pieces += seen
    assert pieces == whole
    assert same(weights(resumed), weights(module))


def test_two_steps_a_turn_share_an_epoch():
    module = Gaussian()
    seen = []

    def loss(x):
        seen.append(x[0, 0].item())
        return -module().log_prob(x).mean()

    result = pg.fit(pg.Turn(loss, module, repeats=4), Rows(), epochs=2, batch_size=2, seed=0)
    assert len(result.history.loss) == 3
    assert sorted(seen[1:]) == sorted(X[::2, 0].tolist() * 2)


def test_an_order_that_cannot_be_found_again_is_refused(tmp_path):
    entropy = random.SystemRandom()

    class Secret:
        def __iter__(self):
            order = list(range(6))
            entropy.shuffle(order)
            yield from (X[2 * index : 2 * index + 2] + entropy.random() for index in order)

    run(Secret, steps=3, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="`data` must give the same minibatches in the same order to resume.*epoch 0"):
        run(Secret, steps=6, checkpoint=tmp_path / "run")


def test_between_two_epochs_any_order_resumes(tmp_path):
    entropy = random.SystemRandom()

    class Secret:
        def __iter__(self):
            yield from (X[2 * index : 2 * index + 2] for index in entropy.sample(range(6), 6))

        def __len__(self):
            return 6

    run(Secret, steps=6, checkpoint=tmp_path / "run")
    _, result, seen = run(Secret, steps=12, checkpoint=tmp_path / "run")
    assert sorted(value for batch in seen for value in batch) == X.flatten().tolist()


def test_fewer_minibatches_than_before_are_refused(tmp_path):
    run(lambda: [X[:4], X[4:8], X[8:]] * 2, steps=5, checkpoint=tmp_path / "run")
    with pytest.raises(
        ValueError, match="the minibatches in an epoch of `data` must be as in the checkpoint, 6, got 3"
    ):
        run(lambda: [X[:4], X[4:8], X[8:]], steps=9, checkpoint=tmp_path / "run")


def test_tensors_in_place_of_a_loader_are_refused(tmp_path):
    run(Rows, steps=3, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="the rows of `data` must be as in the checkpoint, None, got 12"):
        run(lambda: X, steps=6, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("length", [5, 7])
def test_a_length_that_is_not_true_is_refused(length):
    with pytest.raises(ValueError, match=rf"`data` must give {length} minibatches, its length"):
        run(lambda: Sized(length), steps=20)


class Once:
    def __init__(self):
        self.rows = iter([X[:4], X[4:8], X[8:]])

    def __iter__(self):
        return self.rows


class OnceDataset(IterableDataset):
    def __init__(self):
        self.rows = iter(X)

    def __iter__(self):
        return self.rows


@pytest.mark.parametrize("make", [Once, OnceDataset, lambda: DataLoader(OnceDataset(), batch_size=2)])
def test_what_runs_out_is_refused(make):
    with pytest.raises(ValueError, match="`data` must be a loader that begins anew each epoch.*runs out"):
        run(make, steps=2)


class Rewinding(IterableDataset):
    """Its own iterator, which starts again, in an order drawn anew."""

    def __iter__(self):
        self.left = torch.randperm(12).tolist()
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return X[self.left.pop()]


def test_what_starts_again_by_itself_trains():
    _, _, seen = run(lambda: DataLoader(Rewinding(), batch_size=2), epochs=2)
    assert sorted(value for batch in seen for value in batch) == sorted(X.flatten().tolist() * 2)


def test_an_epoch_of_nothing_is_refused():
    class Dwindling:
        def __init__(self):
            self.left = 4

        def __iter__(self):
            self.left -= 1
            return iter([X] * max(self.left, 0))

    with pytest.raises(ValueError, match="`data` must give at least one minibatch in every epoch, got 0 in epoch"):
        run(Dwindling, steps=20)


def test_a_checkpoint_of_before_says_what_it_lacks(tmp_path):
    path = tmp_path / "run"
    for make in (Rows, lambda: X):
        path.unlink(missing_ok=True)
        _, expected, _ = run(make, steps=4, checkpoint=path)
        state = Checkpoint(path).load()
        place = state.pop("feed")
        Checkpoint(path).save({**state, "drawn": 6 * place["epoch"] + place["place"]})
        if make is Rows:
            with pytest.raises(ValueError, match="`checkpoint` was written by an earlier pyrogen.*order of a loader"):
                run(make, steps=8, checkpoint=path)
        else:
            _, result, _ = run(make, steps=8, checkpoint=path)
            assert result.history.loss == run(make, steps=8)[1].history.loss


def test_a_loader_takes_no_noise_from_training():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    batches = LoaderBatches(Noisy(), seed=7)
    first = [minibatch.entries[0] for minibatch in batches.epoch(2)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(5)
    again = [minibatch.entries[0] for minibatch in batches.epoch(2, 4)]
    assert all(torch.equal(a, b) for a, b in zip(first[4:], again, strict=True))


def test_a_feed_draws_no_minibatch_before_it_is_needed():
    drawn = []

    class Counting:
        def __iter__(self):
            for index in range(3):
                drawn.append(index)
                yield X

    feed = Feed(LoaderBatches(Counting()))
    next(feed)
    assert drawn == [0]
    assert not feed.exhausted()
    assert drawn == [0, 1]
    assert [next(feed) and feed.place for _ in range(2)] == [2, 3]
    assert feed.exhausted()
    assert (feed.epoch, feed.place) == (1, 0)


@pytest.mark.slow
def test_workers_give_the_same_minibatches_again(tmp_path):
    def make():
        return DataLoader(TensorDataset(X), batch_size=2, shuffle=True, num_workers=2)

    _, expected, whole = run(make, steps=9)
    pieces = []
    for steps in (4, 9):
        _, result, seen = run(make, steps=steps, checkpoint=tmp_path / "run")
        pieces += seen
    assert pieces == whole
