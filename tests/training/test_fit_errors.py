"""What goes wrong, and what is said about it."""

import re
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from small_programs import Gaussian, Implicit, pair, same, weights
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
        ({"steps": 1, "clip": 0.0}, "`clip` must be positive, got 0.0"),
        ({"steps": 1, "ema": 1.0}, r"`ema` must be at least 0 and less than 1, got 1.0"),
        ({"steps": 1, "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"steps": 1, "optimizer": torch.optim.Adam([torch.zeros(1)])}, "`optimizer` must be a function.*got Adam"),
        ({"steps": 1, "optimizer": pyro.optim.Adam({"lr": 1.0})}, "`optimizer` must be a function.*got PyroOptim"),
        ({"steps": 1, "optimizer": lambda parameters: 3}, "`optimizer` must be a function.*got int"),
        ({"steps": 1, "schedule": lambda optimizer: 3}, "`schedule` must be a function.*got int"),
        (
            {"steps": 1, "schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "`validation` must be given with a ReduceLROnPlateau as `schedule`, got None",
        ),
        ({"steps": 1, "schedule": partial(torch.optim.lr_scheduler.StepLR, size=3)}, "`schedule` could not be made"),
        ({"steps": 1, "optimizer": partial(torch.optim.Adam, lr=-1.0)}, "`optimizer` could not be made: Invalid lea"),
        ({"steps": 1, "optimizer": torch.optim.LBFGS}, "`optimizer` must step on one gradient, got LBFGS"),
        ({"steps": 1, "lr": 0.1, "optimizer": torch.optim.SGD}, "`lr` is of the default optimizer.*got both"),
        ({"steps": 1, "lr": -0.1}, "`lr` must be positive, got -0.1"),
        ({"steps": 1, "seed": 2**63}, r"`seed` must be less than 2\*\*63"),
        ({"steps": 1, "validate_every": 2}, "`validation` must be given with `validate_every`, got None"),
        ({"steps": 1, "validation": float("nan")}, "`validation` must be data, or a fraction between 0 and 1, got nan"),
        ({"steps": 1, "validation": -0.5}, "`validation` must be data, or a fraction between 0 and 1, got -0.5"),
        ({"steps": 1, "checkpoint": ""}, "`checkpoint` must be a path or a Checkpoint: `path` must name a file"),
        ({"steps": 1, "fabric": "cuda"}, "`fabric` must be a lightning.fabric.Fabric, got str"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pg.fit(Gaussian(), X, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": "3"}, "`steps` must be an int, got '3' of type str"),
        ({"steps": 2.5}, "`steps` must be an int, got 2.5 of type float"),
        ({"epochs": np.int64(2)}, "`epochs` must be an int, got int64"),
        ({"steps": True}, "`steps` must be an int"),
        ({"patience": 2.0}, "`patience` must be an int"),
        ({"steps": 1, "validate_every": 2.0}, "`validate_every` must be an int"),
        ({"steps": 1, "batch_size": 2.5}, "`batch_size` must be an int"),
        ({"steps": 1, "seed": np.int64(3)}, "`seed` must be an int, got int64"),
        ({"steps": 1, "seed": 3.0}, "`seed` must be an int"),
        ({"steps": 1, "clip": "1"}, "`clip` must be a number, got '1' of type str"),
        ({"steps": 1, "ema": "1"}, "`ema` must be a number"),
        ({"steps": 1, "lr": [1e-3]}, "`lr` must be a number, got list"),
        ({"steps": 1, "metric": 3}, "`metric` must be a function of a minibatch, got int"),
        ({"steps": 1, "callbacks": print}, "`callbacks` must be a list of functions.*; put it into a list"),
        ({"steps": 1, "callbacks": [3]}, "`callbacks` must be a list of functions of a Progress, got list"),
        ({"steps": 1, "callbacks": None}, "`callbacks` must be a list of functions of a Progress, got NoneType"),
        ({"steps": 1, "compile": "yes"}, "`compile` must be True or False, got 'yes' of type str"),
        ({"steps": 1, "checkpoint": 3}, "`checkpoint` must be a path or a Checkpoint: `path` must be a path, got int"),
    ],
)
def test_arguments_of_another_type_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        pg.fit(Gaussian(), X, **arguments)


def test_a_refusal_that_names_an_argument_is_not_laid_to_the_dtype_of_labels():
    class Refuses(nn.Linear):
        def forward(self, x, labels):
            raise ValueError("`context` must be None")

    with pytest.raises(ValueError, match="^`context` must be None"):
        pg.fit(Refuses(2, 1), (X, torch.zeros(len(X), dtype=torch.long)), steps=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X.double(), r"`data` holds torch.float64, the parameters are torch.float32"),
        (X.long(), r"`data` holds torch.int64, the parameters are torch.float32"),
        ((X, X.double()), r"`data` holds torch.float64, the parameters are torch.float32"),
    ],
)
def test_data_of_another_dtype_are_named(data, message):
    class Linear(nn.Linear):
        def forward(self, *batch):
            return sum(super(Linear, self).forward(x).mean() for x in batch)

    with pytest.raises(ValueError, match=message):
        pg.fit(Linear(2, 2), data, steps=1)


@pytest.mark.parametrize("data", [(), (X, X, X)])
def test_data_with_too_many_or_too_few_entries_are_named(data):
    with pytest.raises(TypeError, match=f"`data` gives {len(data)} entries a minibatch, which do not fit: .*argument"):
        pg.fit(Gaussian(), data, steps=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "`data` must be a tensor, an array, a table, a tuple of them, a dataset or a loader, got int"),
        ("xy", "`data` must be a tensor.*got str"),
        ({"x": X}, "`data` must be a tensor.*got dict"),
        (torch.zeros(0, 2), "`data` must hold at least one row, got none"),
        (torch.tensor(3.0), r"`data` must hold tensors with rows, got among them a tensor of shape \(\)"),
        ((X, [0.0] * 10), "`data` must hold tensors with rows, got among them list"),
        ((X, np.zeros(9)), r"the tensors of `data` must have equal lengths, got \[9, 10\]"),
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
        (
            lambda: pg.energy.JointEnergy(nn.Linear(2, 3), (2,), classes=3),
            r"`target` must be called with a minibatch, got JointEnergy.*`objective\(\)`",
        ),
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
        ({"parameters": 3}, "`parameters` must be a module or parameters, got int"),
        ({"parameters": [Gaussian()]}, "`parameters` must be a module or parameters, got among them Gaussian"),
        ({"parameters": ["loc"]}, "`parameters` must be a module or parameters, got among them str"),
    ],
)
def test_turns_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        pg.Turn(**{"objective": len, "parameters": Gaussian(), **arguments})


def test_rows_that_are_dicts_are_named():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"x": torch.zeros(2), "context": torch.zeros(3)}

    flow = pg.flows.affine_coupling((2,), (3,), layers=1, hidden=(4,))
    with pytest.raises(ValueError, match=r"`data` gives each minibatch as one dict, with the keys \['x', 'context'\]"):
        pg.fit(flow, Rows(), steps=1)


def test_rows_with_dicts_in_them_train():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return torch.randn(2), {"a": torch.randn(3)}

    flow = pg.flows.affine_coupling((2,), {"a": (3,)}, layers=1, hidden=(4,))
    assert pg.fit(flow, Rows(), steps=2, batch_size=4, validation=0.5).reason == "steps"


def test_repeats_are_whole():
    with pytest.raises(TypeError, match="`repeats` must be an int, got 2.5"):
        pg.Turn(len, Gaussian(), repeats=2.5)


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
    assert re.search(r"rows? (17|33|17, 33|33, 17) of `data`", text)
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
    with pytest.raises(FloatingPointError, match="row 3 of the minibatch"):
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
    with pytest.raises(FloatingPointError, match="row 5 of `data`"):
        pg.fit(Trace_ELBO()(model, guide), x, steps=9, batch_size=8)


# Nothing of a module is left changed ---------------------------------------------------------------------------------


def state(module):
    return (
        [part.training for part in module.modules()],
        [parameter.requires_grad for parameter in module.parameters()],
        [parameter.grad for parameter in module.parameters()],
    )


def boom(*_):
    raise RuntimeError("boom")


def press(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "arguments",
    [
        {"callbacks": [boom]},
        {"callbacks": [press]},
        {"validation": 0.3, "metric": boom, "validate_every": 1},
        {"optimizer": boom},
        {"schedule": boom},
        {"validation": 0.3, "metric": lambda x: float("nan"), "validate_every": 1},
        {"data": X.double()},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_failure_leaves_modes_freezing_and_gradients_as_they_were(arguments, training):
    module = nn.ModuleDict({"flow": pg.flows.affine_coupling((2,), layers=1, hidden=(4,)), "extra": nn.Dropout()})
    module.flow.train(training)
    module.extra.train(not training)
    first, *_, last = module.parameters()
    last.requires_grad_(False)
    first.grad = torch.full_like(first, 7.0)
    before = state(module)
    turn = pg.Turn(lambda x: -module.flow().log_prob(x).mean() + module.extra(x).mean() * 0, module)
    with pytest.raises((RuntimeError, KeyboardInterrupt, FloatingPointError, ValueError)):
        pg.fit(turn, **{"data": torch.randn(20, 2), "steps": 3, **arguments})
    assert state(module)[:2] == before[:2]
    assert all(now is then for now, then in zip(state(module)[2], before[2], strict=True))
    assert (first.grad == 7).all()


def test_gradients_of_before_are_no_part_of_the_first_step():
    runs = []
    for left in (None, 100.0):
        module = Gaussian()
        if left is not None:
            module.loc.grad = torch.full_like(module.loc, left)
        result = pg.fit(module, torch.ones(10, 2), steps=1, optimizer=partial(torch.optim.SGD, lr=0.1), seed=0)
        runs.append((weights(module), result.history.gradient_norms))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_a_missing_label_is_asked_for_as_the_module_takes_it():
    with pytest.raises(ValueError, match=r"^`context` must end in shape \(\), got None"):
        pg.fit(pg.flows.affine_coupling((2,), classes=3, layers=1, hidden=(4,)), X, steps=1)


def test_inference_mode_is_refused_and_a_scope_without_gradients_is_none_for_training():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"outside of torch\.inference_mode"):
        pg.fit(Gaussian(), X, steps=1)
    inside, outside = Gaussian(), Gaussian()
    with torch.no_grad():
        pg.fit(inside, X + 1, steps=3, seed=0)
    pg.fit(outside, X + 1, steps=3, seed=0)
    assert same(weights(inside), weights(outside))
