"""Drawing: simulations that fail, worker processes, numbers of rows that vary."""

import os
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.simulation import FailedSimulations, Joint, Simulations, Simulator


def program_of(function, **settings):
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        pyro.sample("x", Simulator(function, theta, event_shape=(), **settings), obs=x)

    return program


def raising(theta, rng):
    if theta > 2:  # 2.3 % of the prior
        raise ZeroDivisionError("theta is large")
    return theta + rng.normal()


def undefined(theta, rng):
    return np.nan if theta > 2 else np.inf if theta < -2 else theta + rng.normal()


class TestFailures:
    @pytest.mark.parametrize("vectorized", [True, False])
    def test_rows_that_raise_are_left_out(self, vectorized):
        joint = Joint(program_of(raising), observed="x", vectorized=vectorized)
        with pytest.warns(UserWarning, match=r"simulations failed.*at site 'x': ZeroDivisionError: theta is large"):
            simulations = joint.draw(500, seed=0, failures=0.1)
        # 500 * 0.0228 = 11.4 fail, with standard deviation 3.3.
        assert 0 < simulations.failed < 11.4 + 5 * 3.3
        assert len(simulations) == 500 - simulations.failed
        assert simulations.latents["theta"].max() <= 2
        assert str(simulations.failed) in repr(simulations)

    def test_rows_that_raise_are_those_of_the_first_draw(self):
        joint = Joint(program_of(raising), observed="x", vectorized=True)
        theta = joint.prior(500, seed=0)["theta"]
        with pytest.warns(UserWarning, match="failed"):
            simulations = joint.draw(500, seed=0, failures=0.1)
        assert torch.equal(simulations.latents["theta"], theta[theta <= 2])

    @pytest.mark.parametrize("vectorized", [True, False])
    def test_nan_and_infinity_are_left_out(self, vectorized):
        joint = Joint(program_of(undefined), observed="x", vectorized=vectorized)
        with pytest.warns(UserWarning, match="at site 'x': it is (NaN|infinity)"):
            simulations = joint.draw(500, seed=0, failures=0.1)
        assert simulations.observed["x"].isfinite().all()
        assert simulations.latents["theta"].abs().max() <= 2

    def test_too_many_are_an_error(self):
        joint = Joint(program_of(raising), observed="x", vectorized=True)
        with pytest.raises(FailedSimulations, match="the first at site 'x': ZeroDivisionError: theta is large") as info:
            joint.draw(2000, failures=0.001)
        assert isinstance(info.value.__cause__, ZeroDivisionError)

    def test_all_of_them_are_an_error(self):
        latents = {"theta": torch.full((4,), 9.0)}
        with pytest.raises(FailedSimulations, match="4 of 4"):
            Joint(program_of(raising), observed="x").simulate(latents, failures=1.0)

    def test_in_fresh_minibatches_they_are_counted_over_the_epoch(self):
        joint = Joint(program_of(raising), observed="x")
        minibatches = joint.fresh(64, batches=20, failures=0.06)
        with pytest.warns(UserWarning, match="failed"):
            sizes = [len(latents["theta"]) for latents, _ in minibatches]
        assert len(sizes) == 20
        assert min(sizes) < 64
        with pytest.warns(UserWarning, match="failed"), pytest.raises(FailedSimulations):
            list(joint.fresh(64, batches=20, failures=0.0001))

    def test_a_torch_program_that_raises_for_one_row_loses_that_row(self):
        def program(x=None):
            scale = pyro.sample("scale", dist.Normal(3.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, scale, validate_args=True), obs=x)  # refuses negative scales

        joint = Joint(program, observed="x", vectorized=True)
        with pytest.warns(UserWarning, match="failed"):
            simulations = joint.draw(3000, seed=0)
        assert simulations.latents["scale"].min() > 0
        assert 0 < simulations.failed < 25


class TestWorkers:
    @pytest.mark.parametrize("vectorized", [True, False])
    def test_draws_do_not_depend_on_them(self, vectorized):
        shift = 3.0
        joint = Joint(program_of(lambda theta, rng: theta + shift + rng.normal()), observed="x", vectorized=vectorized)
        alone = joint.draw(100, seed=4)
        shared = joint.draw(100, seed=4, workers=2)
        assert torch.equal(alone.observed["x"], shared.observed["x"])
        assert torch.equal(alone.latents["theta"], shared.latents["theta"])

    def test_they_do_the_work(self):
        parent = os.getpid()
        joint = Joint(program_of(lambda theta: float(os.getpid() != parent)), observed="x", vectorized=True)
        assert joint.draw(64, workers=2).observed["x"].all()

    def test_failures_come_back(self):
        joint = Joint(program_of(raising), observed="x", vectorized=True)
        with pytest.raises(FailedSimulations, match="ZeroDivisionError: theta is large"):
            joint.draw(2000, failures=0.001, workers=2)

    def test_many_blocks_leave_no_open_files(self):
        joint = Joint(program_of(lambda theta: theta), observed="x", vectorized=True)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        simulations = joint.draw(400, workers=2, batch_size=2)
        assert len(simulations) == 400
        assert not before or len(os.listdir("/proc/self/fd")) < before + 20


class TestGenerators:
    @pytest.mark.parametrize("vectorized", [True, False])
    def test_of_numpy_and_python_are_as_before(self, vectorized):
        def function(theta):
            return theta + np.random.randn() + random.random()

        joint = Joint(program_of(function), observed="x", vectorized=vectorized)
        states = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
        first = joint.draw(10, seed=0)
        assert (np.random.get_state()[1] == states[0]).all()
        assert random.getstate() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])
        np.random.seed(5)
        assert torch.equal(first.observed["x"], joint.draw(10, seed=0).observed["x"])


def counted(x=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 6):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        pyro.sample("y", dist.Poisson(mean.exp()))


class TestSizes:
    def test_rows_beyond_a_random_number_are_nan(self):
        joint = Joint(counted, observed=["x", "y"], sizes={"rows": (2, 5)})
        assert joint.sizes == {"rows": (2, 5)}
        simulations = joint.draw(4000, seed=0)
        x, y = simulations.observed["x"], simulations.observed["y"]
        assert torch.equal(x.isnan(), y.isnan())
        present = (~x.isnan()).sum(1)
        assert torch.equal(x.isnan(), torch.arange(6) >= present[:, None])
        # A number n has the share of log(n + 1) - log(n).
        expected = torch.arange(2.0, 7.0).log().diff() / torch.tensor(3.0).log()
        found = present.bincount(minlength=7)[2:6] / 4000
        assert ((found - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()
        assert present.bincount(minlength=7)[[0, 1, 6]].sum() == 0

    def test_are_drawn_apart_from_the_values(self):
        free, cut = Joint(counted, observed=["x", "y"]), Joint(counted, observed=["x", "y"], sizes={"rows": (2, 5)})
        x, shorter = free.draw(50, seed=0).observed["x"], cut.draw(50, seed=0).observed["x"]
        assert torch.equal(torch.where(shorter.isnan(), shorter, x).nan_to_num(), shorter.nan_to_num())

    def test_in_two_plates_of_integers(self):
        def table(x=None):
            rate = pyro.sample("rate", dist.Dirichlet(torch.ones(3)))
            with pyro.plate("columns", 4, dim=-1), pyro.plate("rows", 5, dim=-2):
                pyro.sample("x", dist.Categorical(rate))

        joint = Joint(table, observed="x", sizes={"rows": (1, 5), "columns": (1, 4)})
        x = joint.draw(40, seed=0).observed["x"]
        assert x.shape == (40, 5, 4)
        assert x.is_floating_point()
        assert (x[:, 0, 0].isnan() == 0).all()
        absent = x.isnan()
        assert torch.equal(absent, absent[:, :, :1] | absent[:, :1, :])

    @pytest.mark.parametrize(
        ("sizes", "error", "message"),
        [
            ({"row": (1, 3)}, ValueError, r"plates around observed sites, \['rows'\], got 'row'"),
            ({"rows": (1, 7)}, ValueError, "at most the 6 rows"),
            ({"rows": (3, 2)}, ValueError, "in order"),
            ({"rows": (0, 2)}, ValueError, "at least 1"),
            ({"rows": 3}, TypeError, "least and the largest"),
            ({"rows": (1, 2.5)}, TypeError, "must be an int"),
            ([("rows", (1, 2))], TypeError, "must be a dict"),
        ],
    )
    def test_refuse_what_does_not_fit(self, sizes, error, message):
        with pytest.raises(error, match=message):
            Joint(counted, observed=["x", "y"], sizes=sizes)

    def test_refuse_rows_that_are_not_exchangeable(self):
        times = torch.linspace(0, 1, 6)

        def regression(x=None):
            slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 6):
                pyro.sample("x", dist.Normal(slope[..., None] * times if slope.dim() else slope * times, 1.0))

        def local(x=None):
            with pyro.plate("rows", 6):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0))

        def summed(x=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 6):
                x = pyro.sample("x", dist.Normal(z, 1.0))
            pyro.sample("y", dist.Normal(x.sum(-1, keepdim=True), 1.0).to_event(1))

        for program, observed, message in [
            (regression, "x", "'x' differs from row to row"),
            (local, "x", "the latent site 'z' lies in it"),
            (summed, ["x", "y"], "'y' outside depends on the rows"),
        ]:
            with pytest.raises(ValueError, match=message):
                Joint(program, observed=observed, sizes={"rows": (1, 3)}, vectorized=False)

    def test_local_nuisance_sites_leave_rows_exchangeable(self):
        def local(x=None):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 6):
                z = pyro.sample("z", dist.Normal(mean, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0))

        assert Joint(local, observed="x", nuisance="z").exchangeable == {"rows"}
        assert Joint(local, observed="x").exchangeable == frozenset()

    def test_rows_of_simulators_are_exchangeable(self):
        def program(x=None):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", 3):
                pyro.sample("x", Simulator(raising, mean, event_shape=()))
            with pyro.plate("others", 3):
                pyro.sample("y", Simulator(raising, mean.unsqueeze(-1) * torch.arange(3) / 9, event_shape=()))

        joint = Joint(program, observed=["x", "y"], vectorized=False)
        assert joint.exchangeable == {"rows"}


class TestSimulations:
    simulations = Simulations({"b": torch.arange(4.0), "a": torch.zeros(4, 2)}, {"x": torch.arange(4)}, failed=2)

    def test_rows_and_joining(self):
        both = self.simulations + self.simulations[torch.tensor([2, 0])]
        assert (len(both), both.failed) == (6, 2)
        assert both.observed["x"].tolist() == [0, 1, 2, 3, 2, 0]
        assert self.simulations[self.simulations.observed["x"] > 1].latents["b"].tolist() == [2, 3]
        latents, observed = self.simulations[3]
        assert (latents["b"], observed["x"]) == (3, 3)
        with pytest.raises(ValueError, match="`other` must have the sites"):
            self.simulations + Simulations({"a": torch.zeros(1)}, {"x": torch.zeros(1)})

    def test_files(self, tmp_path):
        path = tmp_path / "simulations.safetensors"
        self.simulations.save(path)
        loaded = Simulations.load(path)
        assert repr(loaded) == repr(self.simulations)
        assert list(loaded.latents) == ["b", "a"]
        assert torch.equal(loaded.observed["x"], self.simulations.observed["x"])
        pg.save(torch.nn.Linear(1, 1), path)
        with pytest.raises(ValueError, match="expected a simulations"):
            Simulations.load(path)

    def test_refuse_what_are_no_rows(self):
        for wrong in ({"a": torch.zeros(3)}, {"a": torch.zeros(())}, {}):
            with pytest.raises(ValueError, match="equally many rows"):
                Simulations(wrong, {"x": torch.zeros(4)} if wrong else {})
        with pytest.raises(TypeError, match="`latents` must be a dict"):
            Simulations(torch.zeros(3), {})

    def test_loaders_take_them(self):
        loader = torch.utils.data.DataLoader(self.simulations, batch_size=3)
        assert [len(latents["b"]) for latents, _ in loader] == [3, 1]
