"""Held-out data: when it is looked at, what it decides, and what remains."""

from functools import partial

import numpy as np
import pytest
import torch
from small_programs import Gaussian, pair, same, weights
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrogen as pg
from pyrogen.training import WholeSet

sgd = partial(torch.optim.SGD, lr=0.1)


class Script(nn.Module):
    """A metric that follows a script, and remembers the weights it saw."""

    def __init__(self, module, values):
        super().__init__()
        self.values = iter(values)
        self.seen = []
        self.module = [module]

    def forward(self, x):
        self.seen.append(weights(self.module[0]))
        return torch.tensor(next(self.values))


def scripted(values, **arguments):
    module = Gaussian()
    script = Script(module, values)
    x = torch.randn(8, 2) + 3
    result = pg.fit(module, x, batch_size=4, optimizer=sgd, validation=x[:2], metric=script, **arguments)
    return module, script, result


def test_the_best_weights_are_restored():
    module, script, result = scripted([3.0, 1.0, 2.0, 2.0], epochs=4)
    assert list(result.history.validation.items()) == [(2, 3.0), (4, 1.0), (6, 2.0), (8, 2.0)]
    assert result.best_step == 4
    assert same(weights(module), script.seen[1])
    assert not same(weights(module), script.seen[2])


def test_patience_stops():
    _, _, result = scripted([3.0, 1.0, 1.0, 2.0, 0.0], patience=2)
    assert (result.reason, result.best_step, len(result.history.loss)) == ("patience", 4, 8)


def test_the_end_of_a_run_is_validated():
    _, script, result = scripted([3.0, 2.0], steps=3)
    assert list(result.history.validation) == [2, 3]
    assert result.best_step == 3


def test_long_epochs_are_validated_every_thousand_steps_and_at_the_end():
    x = torch.randn(1500, 2)
    result = pg.fit(Gaussian(), x, epochs=1, batch_size=1, validation=x[:4])
    assert list(result.history.validation) == [1000, 1500]


def test_a_run_stopped_before_its_first_validation_keeps_its_last_weights():
    def stop(progress):
        progress.stop("now")

    module = Gaussian()
    result = pg.fit(module, torch.randn(8, 2), epochs=9, batch_size=4, validation=0.5, callbacks=[stop])
    assert (result.best_step, result.reason) == (1, "now")
    assert not torch.equal(module.loc, torch.zeros(2))


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(FloatingPointError, match="`metric` gives NaN on the held-out data after step 4"):
        scripted([5.0, float("nan"), 4.0], epochs=3)
    _, script, result = scripted([float("inf"), 5.0], epochs=2)
    assert result.best_step == 4


def test_a_metric_may_give_a_plain_number():
    for value in (1.5, 1, True):
        result = pg.fit(Gaussian(), torch.randn(8, 2), steps=1, validation=0.5, metric=lambda x, value=value: value)
        assert result.history.validation == {1: float(value)}


def test_validation_comes_as_often_as_is_asked():
    _, _, result = scripted([4.0, 3.0, 2.0], steps=7, validate_every=3)
    assert list(result.history.validation) == [3, 6, 7]
    assert result.best_step == 7


def test_callbacks_see_the_validations_between_the_steps():
    seen = []
    scripted([4.0, 3.0, 2.0], steps=5, callbacks=[lambda p: seen.append((p.step, p.validation))])
    assert seen == [(1, None), (2, 4.0), (3, None), (4, 3.0), (5, None)]


def test_a_plateau_follows_the_validations():
    rates = []

    def optimizer(parameters):
        made = sgd(parameters)
        rates.append(lambda: made.param_groups[0]["lr"])
        return made

    seen = []
    module = Gaussian()
    script = Script(module, [3.0, 3.0, 3.0, 1.0, 2.0])
    x = torch.randn(8, 2)
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=1)
    pg.fit(
        module,
        x,
        epochs=5,
        batch_size=4,
        validation=x[:4],
        metric=script,
        optimizer=optimizer,
        schedule=plateau,
        callbacks=[lambda progress: seen.append(rates[0]())],
    )
    assert seen == [0.1] * 5 + [0.05] * 5


def test_a_learning_rate_is_that_of_adam():
    runs = []
    for arguments in ({"lr": 0.05}, {"optimizer": partial(torch.optim.Adam, lr=0.05, fused=True)}, {}):
        module = Gaussian()
        pg.fit(module, torch.ones(8, 2), steps=3, seed=0, **arguments)
        runs.append(weights(module))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_the_mean_weighs_minibatches_by_their_rows():
    x = torch.randn(10, 2)
    module = Gaussian()
    result = pg.fit(
        module, x, steps=1, batch_size=4, validation=x, optimizer=sgd, metric=lambda x: -module().log_prob(x).mean()
    )
    assert result.history.validation[1] == pytest.approx(-module().log_prob(x).mean().item(), rel=1e-6)
    result = pg.fit(module, x, steps=1, batch_size=4, validation=x, optimizer=partial(sgd, lr=0.0))
    assert result.history.validation[1] == pytest.approx(-module().log_prob(x).mean().item(), rel=1e-6)


def test_averaged_weights_are_validated_and_kept():
    module = Gaussian()
    seen = []

    def metric(x):
        seen.append(weights(module))
        return torch.tensor(float(-len(seen)))

    pg.fit(module, torch.randn(8, 2) + 3, steps=6, batch_size=4, ema=0.9, validation=0.5, metric=metric, optimizer=sgd)
    assert same(weights(module), seen[-1])


def test_a_fraction_is_held_out_and_repeatable():
    seen = [[], []]

    class Watching(Gaussian):
        def forward(self, context=None):
            return super().forward(context)

    for run in (0, 1):
        module = Watching()

        def objective(x, module=module, run=run):
            seen[run].append((module.training, x[:, 0].tolist()))
            return -module().log_prob(x).mean()

        x = torch.arange(20.0).unsqueeze(-1).expand(20, 2)
        pg.fit(pg.Turn(objective, module), x, epochs=1, batch_size=4, seed=1, validation=0.25)
    assert seen[0] == seen[1]
    trained = {value for mode, rows in seen[0] for value in rows if mode}
    held_out = {value for mode, rows in seen[0] for value in rows if not mode}
    assert len(held_out) == 5
    assert trained | held_out == set(range(20))
    assert not trained & held_out


def test_held_out_noise_is_the_same_every_time_and_disturbs_nothing():
    x = torch.randn(40, 2)
    model, guide = pair()
    objective = pg.Elbo(model, guide)
    still = partial(torch.optim.SGD, lr=0.0)
    result = pg.fit(objective, x, epochs=3, batch_size=8, validation=x[:10], optimizer=still, seed=0)
    assert len(set(result.history.validation.values())) == 1
    plain = pg.fit(objective, x, epochs=3, batch_size=8, optimizer=still, seed=0)
    assert plain.history.loss == result.history.loss


def test_dropout_is_off_on_held_out_data():
    modes = []
    module = Gaussian()

    def metric(x):
        modes.append(module.training)
        return torch.zeros(())

    pg.fit(module, torch.randn(8, 2), epochs=2, batch_size=4, validation=0.5, metric=metric)
    assert modes == [False, False]
    assert not module.training


def test_validation_may_be_a_dataset_or_a_loader():
    x = torch.randn(10, 2)
    for validation in (TensorDataset(x), DataLoader(TensorDataset(x), batch_size=3), (x,)):
        module = Gaussian()
        result = pg.fit(module, x, steps=1, validation=validation, optimizer=partial(sgd, lr=0.0))
        assert result.history.validation[1] == pytest.approx(-module().log_prob(x).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (0.0, "`validation` must be data, or a fraction between 0 and 1, got 0.0"),
        (1.0, "`validation` must be data, or a fraction between 0 and 1, got 1.0"),
        (1, "`validation` must be data, or a fraction between 0 and 1, got 1"),
        (torch.zeros(0, 2), "`validation` must hold at least one row, got none"),
        ([], "`validation` must hold at least one minibatch, got none"),
    ],
)
def test_what_cannot_be_held_out_is_named(validation, message):
    with pytest.raises(ValueError, match=message):
        pg.fit(Gaussian(), torch.randn(8, 2), steps=1, validation=validation)


def test_a_loader_has_no_fraction():
    loader = DataLoader(TensorDataset(torch.randn(8, 2)), batch_size=4)
    with pytest.raises(ValueError, match="`validation` must be data of its own when `data` is a loader"):
        pg.fit(Gaussian(), loader, steps=1, validation=0.5)


class Rooted(nn.Module):
    """A metric that is NaN where a row is negative."""

    def forward(self, x):
        return x[:, 0].sqrt().mean()


def test_rows_that_have_no_value_are_named():
    x = torch.rand(300, 2)
    x[[41, 207], 0] = -1.0
    for batch_size in (300, 50):
        with pytest.raises(FloatingPointError, match=r"`metric` gives NaN .* from rows? 41.* of `validation`"):
            pg.fit(Gaussian(), x.abs(), steps=1, validation=x, metric=Rooted(), batch_size=batch_size)
    with pytest.raises(FloatingPointError, match="no single row of minibatch 0 of `validation`"):
        pg.fit(Gaussian(), x, steps=1, validation=x, metric=lambda x: x.sum() * float("nan") if len(x) > 1 else x.sum())
    loader = DataLoader(x, batch_size=100)
    with pytest.raises(FloatingPointError, match="row 41 of minibatch 0 of `validation`"):
        pg.fit(Gaussian(), x.abs(), steps=1, validation=loader, metric=Rooted())


# A metric of the whole set -------------------------------------------------------------------------------------------


def whole(function, validation, **arguments):
    module = Gaussian()
    metric = WholeSet(lambda *batch: function(module, *batch))
    arguments = {"steps": 4, "validate_every": 2, "batch_size": 4, "seed": 0, "optimizer": sgd, **arguments}
    return module, pg.fit(module, torch.randn(32, 2) + 3, validation=validation, metric=metric, **arguments)


@pytest.mark.parametrize(
    "held_out",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: TensorDataset(x),
        lambda x: DataLoader(TensorDataset(x), batch_size=3),
        lambda x: [x[:4], x[4:]],
    ],
)
def test_a_metric_may_see_the_whole_held_out_set_at_once(held_out):
    x, seen = torch.randn(10, 2), []

    def metric(module, x):
        seen.append((x, module.training, [p.requires_grad for p in module.parameters()]))
        return (module.loc - x.mean(0)).norm()

    module, result = whole(metric, held_out(x))
    assert [step for step, _ in result.history.validation.items()] == [2, 4]
    assert all(torch.equal(rows, x) and not training and not any(grads) for rows, training, grads in seen)
    value = result.history.validation[result.best_step]
    assert value == pytest.approx((module.loc - x.mean(0)).norm().item(), rel=1e-6)


def test_a_metric_of_the_whole_set_chooses_the_weights():
    seen = []

    def metric(module):
        return (seen.append(weights(module)), [5.0, 1.0, 2.0, 3.0][len(seen) - 1])[1]

    module, result = whole(lambda module, x: metric(module), 0.25, steps=8)
    assert (result.best_step, list(result.history.validation.values())) == (4, [5.0, 1.0, 2.0, 3.0])
    assert same(weights(module), seen[1])


def test_a_metric_of_the_whole_set_has_the_same_noise_every_time():
    _, result = whole(lambda module, x: torch.randn(()), 0.25, steps=6)
    assert len(set(result.history.validation.values())) == 1


def test_a_metric_of_the_whole_set_that_is_no_number_is_refused():
    with pytest.raises(FloatingPointError, match="`metric` gives NaN on the held-out data after step 2.* as a whole"):
        whole(lambda module, x: float("nan"), 0.25)
    with pytest.raises(ValueError, match="`validation` must hold at least one minibatch, got none"):
        whole(lambda module, x: 0.0, [])
    with pytest.raises(TypeError, match="`function` must be a function of the held-out set, got int"):
        WholeSet(3)


@pytest.mark.parametrize("metric", [lambda x: x, WholeSet(lambda x: None)])
def test_a_metric_without_a_number_is_named(metric):
    module = pg.flows.affine_coupling((2,), layers=1, hidden=(4,))
    with pytest.raises(ValueError, match="`metric` must give a scalar tensor"):
        pg.fit(module, torch.randn(16, 2), steps=1, validation=0.5, metric=metric)


def test_a_metric_may_give_a_number_of_numpy():
    module = pg.flows.affine_coupling((2,), layers=1, hidden=(4,))
    result = pg.fit(module, torch.randn(16, 2), steps=1, validation=0.5, metric=lambda x: np.float32(0.5))
    assert result.history.validation == {1: 0.5}


def test_a_metric_needs_held_out_data():
    module = pg.flows.affine_coupling((2,), layers=1, hidden=(4,))
    with pytest.raises(ValueError, match="`validation` must be given with `metric`, got None"):
        pg.fit(module, torch.randn(16, 2), steps=1, metric=lambda x: 0.0)
