"""The training loop on one objective: against loops written by hand, its data, its options."""

import copy
import time
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from small_programs import Gaussian, encoder, pair, same, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pyrogen as pg
from pyrogen.core.batches import batches

sgd = partial(torch.optim.SGD, lr=0.1)
adam = partial(torch.optim.Adam, lr=1e-3, fused=True)


class Recorder(nn.Module):
    """An objective that remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, *batch):
        self.calls.append(batch)
        return self.weight.square() + self.weight

    def rows(self):
        """The first entries of all calls but the dry run."""
        return [batch[0] for batch in self.calls[1:]]


def by_hand(objective, x, steps, *, make=adam, seed=0, batch_size=16, clip=None, schedule=None, after=None):
    """The loop that fit is, without what fit adds."""
    torch.manual_seed(seed)
    minibatches = batches(x, batch_size, seed=seed)
    order = (index for epoch in range(10**6) for index in minibatches.order(epoch).tensor_split(len(minibatches)))
    parameters = list(objective.parameters())
    optimizer = make(parameters)
    schedule = schedule(optimizer) if schedule else None
    losses = []
    objective.train()
    for _ in range(steps):
        index = next(order)
        optimizer.zero_grad()
        loss = objective(x[index])
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if schedule:
            schedule.step()
        losses.append(loss.item())
        if after:
            after(parameters)
    return losses


@pytest.mark.parametrize("make", [adam, sgd, torch.optim.AdamW])
def test_one_objective_equals_a_loop_by_hand_bit_for_bit(make):
    x = torch.randn(50, 2) + 1
    model, guide = pair(dropout=0.2)
    ours, theirs = pg.Elbo(model, guide), copy.deepcopy(pg.Elbo(model, guide))
    result = pg.fit(ours, x, steps=23, batch_size=16, seed=5, optimizer=make)
    with pyro.validation_enabled(False):
        losses = by_hand(theirs, x, 23, make=make, seed=5)
    assert result.history.loss == losses
    assert same(weights(ours), weights(theirs))
    assert (result.reason, result.best_step) == ("steps", 23)


def test_clip_and_schedule_equal_a_loop_by_hand():
    x = torch.randn(50, 2) * 9
    ours = Gaussian().objective()
    theirs = copy.deepcopy(ours)
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=5, gamma=0.5)
    result = pg.fit(ours, x, steps=20, batch_size=16, seed=5, optimizer=sgd, clip=0.3, schedule=schedule)
    by_hand(theirs, x, 20, make=sgd, seed=5, clip=0.3, schedule=schedule)
    assert same(weights(ours), weights(theirs))
    assert max(result.history.gradient_norms[0]) > 0.3  # the norms are those before clipping


def test_ema_equals_the_average_by_hand():
    x = torch.randn(50, 2) + 1
    ours = Gaussian().objective()
    theirs = copy.deepcopy(ours)
    average = [p.detach().clone() for p in theirs.parameters()]
    updates = 0

    def after(parameters):
        nonlocal updates
        decay = min(0.9, (1 + updates) / (10 + updates))
        for mean, parameter in zip(average, parameters, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
        updates += 1

    pg.fit(ours, x, steps=120, batch_size=16, seed=5, ema=0.9)
    by_hand(theirs, x, 120, seed=5, after=after)
    for parameter, mean in zip(ours.parameters(), average, strict=True):
        assert torch.equal(parameter, mean)
    assert not torch.equal(ours.module.loc, theirs.module.loc)


def test_maximum_likelihood_reaches_the_closed_form():
    x = torch.randn(300, 2) * torch.tensor([3.0, 0.5]) + torch.tensor([1.0, -1.0])
    module = Gaussian()
    pg.fit(module, x, epochs=500, batch_size=300, optimizer=partial(torch.optim.Adam, lr=0.05))
    assert torch.allclose(module.loc, x.mean(0), atol=1e-3)
    assert torch.allclose(module.log_scale.exp(), x.std(0, unbiased=False), rtol=1e-3)
    assert not module.training


# Data ---------------------------------------------------------------------------------------------------------------


def test_tensors_tuples_and_dicts_arrive_entry_by_entry():
    x, y = torch.arange(10.0), torch.arange(10) * 2
    recorder = Recorder()
    pg.fit(recorder, (x, {"double": y, "label": y % 3}), epochs=1, batch_size=4)
    for first, context in recorder.calls:
        assert torch.equal(context["double"], first.long() * 2)
        assert set(context) == {"double", "label"}
    assert sorted(torch.cat(recorder.rows()).tolist()) == x.tolist()
    assert [len(rows) for rows in recorder.rows()] == [4, 3, 3]


def test_every_epoch_has_an_order_of_its_own():
    recorder = Recorder()
    pg.fit(recorder, torch.arange(10.0), epochs=3, batch_size=4, seed=1)
    epochs = [torch.cat(recorder.rows()[start : start + 3]).tolist() for start in (0, 3, 6)]
    assert len(set(map(tuple, epochs))) == 3
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)


class Squares(Dataset):
    """A dataset of dicts, with noise of its own."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"x": torch.tensor(float(index)), "noise": torch.rand(())}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(10.0))


def test_datasets_are_shuffled_and_collated():
    recorder = Recorder()
    pg.fit(recorder, TensorDataset(torch.arange(10.0), torch.arange(10.0)), epochs=1, batch_size=4, seed=1)
    assert torch.cat(recorder.rows()).tolist() != list(range(10))
    assert all(torch.equal(*batch) for batch in recorder.calls)
    recorder = Recorder()
    pg.fit(recorder, Squares(), epochs=1, batch_size=4, seed=1)
    assert sorted(torch.cat([batch["x"] for batch in recorder.rows()]).tolist()) == list(range(10))


def test_loaders_are_used_as_they_are():
    recorder = Recorder()
    result = pg.fit(recorder, DataLoader(TensorDataset(torch.arange(10.0)), batch_size=3), epochs=2, batch_size=99)
    assert [len(rows) for rows in recorder.rows()] == [3, 3, 3, 1] * 2
    assert (len(result.history.loss), result.reason) == (8, "epochs")
    recorder = Recorder()
    pg.fit(recorder, [(torch.zeros(2), "name"), (torch.ones(3), "other")], epochs=1)
    assert recorder.calls[1:] == [(recorder.rows()[0], "name"), (recorder.rows()[1], "other")]


@pytest.mark.parametrize("data", [Stream(), DataLoader(Stream(), batch_size=4)])
def test_streams_of_unknown_length_end_their_epochs(data):
    recorder = Recorder()
    result = pg.fit(recorder, data, epochs=2, batch_size=4)
    assert torch.cat(recorder.rows()).tolist() == [*range(10)] * 2
    assert (len(result.history.loss), result.reason) == (6, "epochs")


def test_an_objective_may_take_no_data():
    recorder = Recorder()
    assert len(pg.fit(recorder, (), steps=4).history.loss) == 4
    assert recorder.calls == [()] * 5


def test_full_batches_keep_the_order_of_the_data():
    recorder, x = Recorder(), torch.arange(10.0)
    pg.fit(recorder, x, steps=3, batch_size=10, seed=0)
    assert all(torch.equal(rows, x) for rows in recorder.rows())


# Randomness ---------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_the_run_and_leaves_the_generators_alone():
    x, runs = torch.randn(50, 2), []
    objective = pg.Elbo(*pair(dropout=0.3))
    for noise in (1, 2):
        torch.manual_seed(noise)
        own = copy.deepcopy(objective)
        state = torch.get_rng_state()
        pg.fit(own, x, steps=10, batch_size=16, seed=7, validation=0.2)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(weights(own))
    assert same(*runs)


def test_without_a_seed_the_global_one_decides():
    x, runs = torch.randn(50, 2), []
    objective = pg.Elbo(*pair())
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        own = copy.deepcopy(objective)
        pg.fit(own, x, steps=10, batch_size=16)
        runs.append(weights(own))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


# Pyro ---------------------------------------------------------------------------------------------------------------


def test_pyros_elbo_is_in_nats_per_datum():
    x = torch.randn(50, 2)
    model, guide = pair()
    ours = copy.deepcopy(pg.Elbo(model, guide))
    pyros = pg.fit(Trace_ELBO()(model, guide), x, steps=8, batch_size=16, seed=3).history.loss
    assert pyros == pytest.approx(pg.fit(ours, x, steps=8, batch_size=16, seed=3).history.loss, rel=1e-4)


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("objective", [pg.Elbo, lambda model, guide: Trace_ELBO()(model, guide)])
def test_a_lazy_guide_is_initialised_and_trained(make, objective):
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    class Program(nn.Module):
        def forward(self, x):
            return model(x)

    x = torch.randn(20, 2) * 0.1 + 2
    guide = make(Program())
    pg.fit(objective(guide.model, guide), x, steps=600, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.03))
    expected = x.sum(0) / 21  # the posterior mean of a conjugate model
    assert torch.allclose(guide.median(x)["z"], expected, atol=0.15)
    assert len(pyro.get_param_store()) == 0


def test_two_guides_of_the_same_names_do_not_share_parameters():
    class Program(nn.Module):
        def forward(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)

    first, second = AutoNormal(Program()), AutoNormal(Program())
    train = partial(pg.fit, steps=300, batch_size=5, optimizer=partial(torch.optim.Adam, lr=0.05))
    train(pg.Elbo(first.model, first), torch.full((5,), 3.0))
    before = weights(first)
    train(pg.Elbo(second.model, second), torch.full((5,), -3.0))
    assert same(weights(first), before)
    assert first.median(torch.zeros(5))["z"].item() == pytest.approx(3, abs=0.3)
    assert second.median(torch.zeros(5))["z"].item() == pytest.approx(-3, abs=0.3)


def test_pyro_modules_train_their_params():
    class Program(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(()))
            self.scale = PyroParam(torch.tensor(1.0), dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(self.loc, self.scale), obs=x)

    program, x = Program(), torch.randn(40) * 0.5 + 2
    pg.fit(pg.Elbo(program, Nothing()), x, steps=500, batch_size=40, optimizer=partial(torch.optim.Adam, lr=0.03))
    assert program.loc.item() == pytest.approx(x.mean().item(), abs=0.02)
    assert program.scale.item() == pytest.approx(x.std(unbiased=False).item(), rel=0.05)


def test_parameters_that_no_module_owns_are_refused_by_name():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            loc = pyro.param("stranger", torch.tensor(0.0))
            pyro.sample("x", dist.Normal(loc + self.own, 1.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"`pyro.param`.*\['stranger'\].*pyro.infer.SVI"):
        pg.fit(Trace_ELBO()(Program(), Nothing()), torch.zeros(3), steps=1)


def test_a_program_that_registers_its_own_networks_trains():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(1, 1)

        def forward(self, x):
            pyro.module("network", self.network)
            pyro.sample("x", dist.Normal(self.network(x), 1.0).to_event(2), obs=x)

    program = Program()
    before = weights(program)
    pg.fit(pg.Elbo(program, Nothing()), torch.randn(8, 1), steps=3)
    assert not same(weights(program), before)


@pytest.mark.parametrize("validation", [True, False])
def test_pyros_settings_are_put_back(validation):
    seen = []

    class Watching(Recorder):
        def forward(self, *batch):
            seen.append(pyro.infer.util.is_validation_enabled())
            return super().forward(*batch)

    class Failing(Recorder):
        def forward(self, *batch):
            if self.calls:
                raise RuntimeError("mine")
            return super().forward(*batch)

    kept = pyro.param("kept", torch.zeros(2))
    with pyro.validation_enabled(validation):
        pg.fit(Watching(), torch.zeros(3), steps=2)
        assert seen == [True, False, False]
        with pytest.raises(RuntimeError, match="mine"):
            pg.fit(Failing(), torch.zeros(3), steps=2)
        assert pyro.infer.util.is_validation_enabled() is validation
        assert torch.distributions.Distribution._validate_args is validation
    assert dict(pyro.get_param_store().items()) == {"kept": kept}


# Objectives that need gradients of their own ------------------------------------------------------------------------


class Nothing(nn.Module):
    """A guide without latent variables."""

    def forward(self, x):
        pass


class ScoreMatching(nn.Module):
    """An objective that differentiates by its input."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = (x.square() / (2 * (2 * self.log_scale).exp())).sum()
        (score,) = torch.autograd.grad(-energy, x, create_graph=True)
        (second,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        return (0.5 * score.square() + second).mean()


def test_objectives_may_differentiate_by_their_input_also_when_validated():
    x = torch.randn(400) * 2
    objective = ScoreMatching()
    result = pg.fit(objective, x, steps=500, batch_size=400, validation=x, optimizer=partial(torch.optim.Adam, lr=0.02))
    assert objective.log_scale.exp().item() == pytest.approx(x.square().mean().sqrt().item(), rel=0.02)
    assert result.history.validation
    assert objective.log_scale.grad is None


# Progress -----------------------------------------------------------------------------------------------------------


def test_callbacks_see_every_step_and_may_stop():
    steps = []

    def watch(progress):
        steps.append((progress.step, progress.epoch, len(progress.history.loss)))
        if progress.step == 5:
            progress.stop("enough")

    result = pg.fit(Recorder(), torch.zeros(10), epochs=100, batch_size=4, callbacks=[watch])
    assert steps == [(1, 0, 1), (2, 0, 2), (3, 1, 3), (4, 1, 4), (5, 1, 5)]
    assert (result.reason, result.best_step) == ("enough", 5)


def test_nothing_is_printed_where_no_person_watches(capsys):
    result = pg.fit(Recorder(), torch.zeros(10), steps=3)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert len(repr(result)) < 200


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    pg.fit(Gaussian(), torch.randn(10, 2), steps=8, validation=0.5, callbacks=[lambda progress: time.sleep(0.03)])
    assert "held-out" in capsys.readouterr().err


def test_an_interrupt_ends_the_run():
    def press(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pg.fit(Gaussian(), torch.randn(10, 2), steps=3, callbacks=[press])


def test_contexts_reach_a_module():
    module = encoder(data=3)
    before = weights(module)
    pg.fit(module, (torch.randn(20, 2), torch.randn(20, 3)), steps=2)
    assert not same(weights(module), before)


def test_a_history_has_the_unit_of_its_objective():
    class Bits(pg.core.objective.Objective):
        unit = "bits"

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return -self.module().log_prob(x).mean() / 0.6931

    module = Gaussian()
    assert pg.fit(Bits(module), torch.randn(8, 2), steps=1).history.unit == "bits"
    assert pg.fit(module, torch.randn(8, 2), steps=1).history.unit == "nats per datum"
    game = pg.Turn(lambda x: (x * module.loc).sum(), module)
    assert pg.fit(game, torch.randn(8, 2), steps=1).history.unit == ""
