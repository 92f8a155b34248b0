"""What goes wrong, and what is said about it."""

import re
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from core_programs import Gaussian, Implicit, pair, same, weights
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import nn
from torch.utils.data import TensorDataset

import pyrogen as pg

X = torch.zeros(10, 2)


class Plain(nn.Module):
    def forward(self, x):
        return x.mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`steps`, `epochs` or `patience` must be given"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"epochs": -1}, "`epochs` must be at least 1, got -1"),
        ({"patience": 3}, "`validation` must be given with `patience`"),
        ({"steps": 1, "clip": 0.0}, "`clip` must be a positive gradient norm, got 0.0"),
        ({"steps": 1, "ema": 1.0}, r"`ema` must be a decay between 0 and 1, got 1.0"),
        ({"steps": 1, "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"steps": 1, "optimizer": torch.optim.Adam([torch.zeros(1)])}, "`optimizer` must be a function.*got Adam"),
        ({"steps": 1, "optimizer": pyro.optim.Adam({"lr": 1.0})}, "`optimizer` must be a function.*got PyroOptim"),
        ({"steps": 1, "optimizer": lambda parameters: 3}, "`optimizer` must be a function.*got int"),
        ({"steps": 1, "schedule": lambda optimizer: 3}, "`schedule` must be a function.*got int"),
        (
            {"steps": 1, "schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            r"`schedule` must be a function.*step\(\) takes no argument.*got ReduceLROnPlateau",
        ),
        ({"steps": 1, "fabric": "cuda"}, "`fabric` must be a lightning.fabric.Fabric, got str"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pg.fit(Gaussian(), X, **arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "`data` must be a tensor, a tuple of tensors, a dataset or a loader, got int"),
        ("xy", "`data` must be a tensor.*got str"),
        ({"x": X}, "`data` must be a tensor.*got dict"),
        (np.zeros((3, 2)), r"`data` must be a tensor.*got ndarray \(torch.as_tensor makes it a tensor\)"),
        (torch.zeros(0, 2), "`data` must hold at least one row, got none"),
        (torch.tensor(3.0), r"`data` must hold tensors with rows, got among them a tensor of shape \(\)"),
        ((X, np.zeros(10)), "`data` must hold tensors with rows, got among them ndarray"),
        ((X, torch.zeros(9)), r"the tensors of `data` must have equal lengths, got \[9, 10\]"),
        ((X, {"a": torch.zeros(10), "b": torch.zeros(8)}), r"equal lengths, got \[8, 10\]"),
        ([], "`data` must hold at least one minibatch, got none"),
        (TensorDataset(torch.zeros(0, 2)), "`data` must hold at least one row, got none"),
        ((x for x in X), "`data` must be a loader that begins anew each epoch, got a generator"),
    ],
)
def test_data_that_are_none_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        pg.fit(Gaussian(), data, steps=1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: 3, "`target` must be a DistributionModule.*got int"),
        (lambda: [Gaussian(), Gaussian()], "`target` must be.*got list"),
        (lambda: [], "`target` must be.*got list"),
        (lambda: lambda x: x, "`target` must be.*got function"),
        (Plain, "`target` has nothing to train"),
        (lambda: pg.Turn(lambda x: x.mean(), []), "`target` has nothing to train"),
        (lambda: RenyiELBO()(*pair()), "RenyiELBO lacks; train it with pyro.infer.SVI"),
    ],
)
def test_targets_that_cannot_be_trained_are_named(target, message):
    with pytest.raises(ValueError, match=message):
        pg.fit(target(), X, steps=1)


def test_an_implicit_module_names_its_objective():
    with pytest.raises(NotImplementedError, match="Implicit has density None"):
        pg.fit(Implicit(), X, steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": 3}, "`objective` must be callable, got int"),
        ({"repeats": 0}, "`repeats` must be at least 1, got 0"),
        ({"parameters": [Gaussian()]}, "`parameters` must be a module or parameters, got among them Gaussian"),
        ({"parameters": ["loc"]}, "`parameters` must be a module or parameters, got among them str"),
    ],
)
def test_turns_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        pg.Turn(**{"objective": len, "parameters": Gaussian(), **arguments})


def test_an_objective_that_gives_no_scalar_is_named():
    module = Gaussian()
    with pytest.raises(ValueError, match=r"`objective` must give a scalar tensor, got shape \(10,\)"):
        pg.fit(pg.Turn(lambda x: module().log_prob(x), module), X, steps=1)
    with pytest.raises(ValueError, match="`objective` must give a scalar tensor, got float"):
        pg.fit(pg.Turn(lambda x: 0.0, module), X, steps=1)
    with pytest.raises(ValueError, match="`objective` must give a scalar tensor, got Independent"):
        pg.fit(pg.Turn(module, module), (), steps=1)


def test_the_first_look_is_validated():
    module = Gaussian()
    x = torch.randn(10, 2)
    x[3] = float("nan")
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="support"):
        pg.fit(pg.Turn(lambda x: -module().log_prob(x).mean(), module), x, steps=3)


class Fragile(nn.Module):
    """A loss that is not finite, or has a gradient that is not, where rows are negative."""

    def __init__(self, gradient_only=False):
        super().__init__()
        self.good = nn.Parameter(torch.ones(()))
        self.bad = nn.Parameter(torch.ones(()))
        self.gradient_only = gradient_only

    def forward(self, x, unused=None):
        loss = (self.good * x).square().mean() + 0 * self.bad
        if (x < 0).any():
            loss = loss + ((self.bad - 1).abs().sqrt() if self.gradient_only else self.bad / 0)
        return loss


class Normalized(nn.Module):
    """A loss through batch statistics, which a bad row spoils for all."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x):
        return self.norm(x.unsqueeze(-1)).mean() + self.norm.weight.square().sum()


def data(bad=(17, 33)):
    x = torch.rand(40)
    x[list(bad)] = -1.0
    return x


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("extra", [(), (torch.zeros(40),)])
def test_a_step_that_is_not_finite_names_step_rows_and_parameters(gradient_only, extra):
    objective = Fragile(gradient_only)
    seen = [weights(objective)]

    def optimizer(parameters):  # bad stays 1, where its root has no derivative
        return torch.optim.SGD([parameters[0]], lr=0.1)

    with pytest.raises(FloatingPointError) as error:
        pg.fit(
            objective,
            (data(), *extra),
            epochs=1,
            batch_size=8,
            seed=0,
            optimizer=optimizer,
            callbacks=[lambda progress: seen.append(weights(objective))],
        )
    text = str(error.value)
    step = int(re.search(r"at step (\d+)", text).group(1))
    assert step == len(seen)
    assert re.search(r"rows (17|33|17, 33|33, 17) of the data", text)
    assert "the gradient is not finite in bad." in text
    assert same(weights(objective), seen[-1])
    assert all(p.grad is None for p in objective.parameters())


def test_batch_statistics_are_put_back_too():
    objective, seen = Normalized(), []
    x = torch.rand(40)
    x[17] = float("inf")
    with pytest.raises(FloatingPointError, match="no single row by itself"):
        pg.fit(
            objective,
            x,
            epochs=2,
            batch_size=8,
            seed=4,
            callbacks=[lambda progress: seen.append(weights(objective))],
        )
    assert seen
    assert same(weights(objective), seen[-1])
    assert all(value.isfinite().all() for value in weights(objective).values())


def test_a_learning_rate_too_large_is_said_to_be_so():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self):
            return 1e5 * self.weight.square()

    with pytest.raises(FloatingPointError, match="step 2: the step before left numbers that are not finite in weight"):
        pg.fit(Square(), (), steps=9, optimizer=partial(torch.optim.SGD, lr=1e38))


def test_dicts_and_scalars_in_a_batch_do_not_hide_the_row():
    objective = Fragile()

    def loss(x, context, weight):
        return objective(x) * weight + context["y"].mean() * 0

    x = data((3,))
    loader = [(x, {"y": torch.zeros(40)}, torch.tensor(2.0))]
    with pytest.raises(FloatingPointError, match="rows 3 of the minibatch"):
        pg.fit(pg.Turn(loss, objective), loader, steps=1)


def test_validation_is_put_back_after_a_failure():
    with pyro.validation_enabled(True):
        with pytest.raises(FloatingPointError):
            pg.fit(Fragile(), data(), steps=9)
        assert pyro.infer.util.is_validation_enabled()


def test_pyros_elbo_names_rows_too():
    model, guide = pair()
    x = torch.randn(40, 2)
    x[5] = 1e30
    with pytest.raises(FloatingPointError, match="rows 5 of the data"):
        pg.fit(Trace_ELBO()(model, guide), x, steps=9, batch_size=8)
