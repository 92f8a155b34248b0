"""The joint distribution of a program: its variables, its draws, and what cannot be simulated."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.simulation import Joint, Simulator


def program(x=None):
    theta = pyro.sample("theta", dist.Uniform(-1, 1).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", 5):
        pyro.sample("x", dist.Normal(theta, scale[..., None]).to_event(1), obs=x)


def by_index(x=None):
    theta = pyro.sample("theta", dist.Normal(0, 1).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(theta[0], theta[1].exp()), obs=x)


def hierarchy(x=None):
    mean = pyro.sample("mean", dist.Normal(0, 1))
    with pyro.plate("groups", 3):
        group = pyro.sample("group", dist.Normal(mean, 1))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.Normal(group, 1), obs=x)


def of_all_kinds(x=None):
    kind = pyro.sample("kind", dist.Categorical(torch.ones(3) / 3))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    count = pyro.sample("count", dist.Poisson(4.0))
    matrix = pyro.sample("matrix", dist.Normal(0, 1).expand([2, 2]).to_event(2))
    pyro.sample("x", dist.Normal(kind + count, share[..., 0] + 0.1))
    pyro.sample("label", dist.Categorical(share))
    pyro.deterministic("trace", matrix[..., 0, 0] + matrix[..., 1, 1])


class TestVariables:
    def test_are_sites_in_the_order_of_the_program(self):
        joint = Joint(program, observed="x")
        assert list(joint.latents) == ["theta", "scale"]
        x = joint.observed["x"]
        assert (x.shape, x.batch_shape, x.event_shape, x.size, x.axis("rows")) == ((5, 2), (5,), (2,), 10, 0)
        assert joint.latents["theta"].support.event_dim == 1

    def test_of_all_kinds(self):
        joint = Joint(of_all_kinds, observed=["x", "label", "trace"])
        assert [v.is_discrete for v in joint.latents.values()] == [True, False, True, False]
        assert joint.latents["kind"].dtype == torch.long
        assert joint.vectorized
        simulations = joint.draw(6, seed=0)
        assert simulations.latents["matrix"].shape == (6, 2, 2)
        matrix = simulations.latents["matrix"]
        torch.testing.assert_close(simulations.observed["trace"], matrix[:, 0, 0] + matrix[:, 1, 1])
        assert simulations.observed["label"].dtype == torch.long

    def test_dependence_has_observed_sites_free(self):
        parents = Joint(hierarchy, observed="x").dependence.parents
        assert parents == {"mean": frozenset(), "group": {"mean"}, "x": {"group"}}

    def test_iterated_plates_and_markov_chains(self):
        def chain(x=None):
            z = pyro.sample("z0", dist.Normal(0.0, 1))
            for t in pyro.markov(range(1, 3)):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1))
                pyro.sample(f"x{t}", dist.Normal(z, 1))
            for i in pyro.plate("outcomes", 2):
                pyro.sample(f"y{i}", dist.Normal(z, 1))

        joint = Joint(chain, observed=["x1", "x2", "y0", "y1"])
        assert list(joint.latents) == ["z0", "z1", "z2"]
        assert joint.vectorized
        assert joint.draw(3, seed=0).observed["y1"].shape == (3,)

    def test_data_of_the_program_are_freed(self):
        def with_data(x):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

        simulations = Joint(with_data, observed="x", args=(torch.zeros(9),)).draw(4, seed=0)
        assert simulations.observed["x"].shape == (4, 9)
        assert simulations.observed["x"].abs().min() > 0


class TestDraws:
    @pytest.mark.parametrize("vectorized", [True, False])
    def test_are_rows(self, vectorized):
        simulations = Joint(program, observed="x", vectorized=vectorized).draw(7, seed=0)
        assert len(simulations) == 7
        assert simulations.latents["theta"].shape == (7, 2)
        assert simulations.latents["scale"].shape == (7,)
        assert simulations.observed["x"].shape == (7, 5, 2)

    @pytest.mark.parametrize(("vectorized", "n"), [(True, 20_000), (False, 1000)])
    def test_have_the_law_of_the_program(self, vectorized, n):
        simulations = Joint(hierarchy, observed="x", vectorized=vectorized).draw(n, seed=0)
        mean, x = simulations.latents["mean"], simulations.observed["x"]
        # mean ~ N(0, 1), group | mean ~ N(mean, 1), x | group ~ N(group, 1):
        # the variance of x is 3, its covariance is 1 between groups and 2 within.
        columns = torch.stack([mean, x[:, 0, 0], x[:, 1, 0], x[:, 0, 1]])
        expected = torch.tensor([[1, 1, 1, 1], [1, 3, 2, 1], [1, 2, 3, 1], [1, 1, 1, 3.0]])
        # The standard error of a covariance is sqrt((v1 v2 + c^2) / n) <= sqrt(18 / n).
        assert (columns.cov() - expected).abs().max() < 5 * (18 / n) ** 0.5
        assert columns.mean(1).abs().max() < 5 * (3 / n) ** 0.5

    def test_of_a_seed_leave_all_as_it_was(self):
        joint = Joint(program, observed="x")
        torch.manual_seed(3)
        before = torch.get_rng_state()
        first = joint.draw(40, seed=1)
        assert torch.equal(torch.get_rng_state(), before)
        again, other = joint.draw(40, seed=1), joint.draw(40, seed=2)
        assert torch.equal(first.observed["x"], again.observed["x"])
        assert not torch.equal(first.observed["x"], other.observed["x"])

    def test_without_a_seed_follow_torch(self):
        joint = Joint(program, observed="x")
        torch.manual_seed(3)
        first = joint.draw(4)
        torch.manual_seed(3)
        assert torch.equal(first.observed["x"], joint.draw(4).observed["x"])
        assert not torch.equal(first.observed["x"], joint.draw(4).observed["x"])

    def test_leave_parameters_and_modes_alone(self):
        class Program(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())

            def forward(self, x=None):
                shift = pyro.param("shift", torch.zeros(2))
                z = pyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
                pyro.sample("x", dist.Normal(self.network(z) + shift, 1).to_event(1), obs=x)

        pyro.clear_param_store()
        module = Program()
        simulations = Joint(module, observed="x").draw(5, seed=0)
        assert not simulations.observed["x"].requires_grad
        assert list(pyro.get_param_store().keys()) == []
        assert module.network[1].training

    def test_of_double_precision(self):
        def double(x=None):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.double), 1))
            pyro.sample("x", dist.Normal(z, 1), obs=x)

        assert Joint(double, observed="x").draw(3).observed["x"].dtype == torch.double

    def test_are_not_those_of_the_same_small_seed(self):
        def one(x=None):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0))

        torch.manual_seed(0)
        assert torch.randn(()) != Joint(one, observed="x", vectorized=False).draw(1, seed=0).latents["z"]


class TestPriorAndSimulate:
    def test_prior_leaves_the_simulator_alone(self):
        calls = []

        def simulated(x=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Simulator(lambda z: calls.append(1) or z, z, event_shape=()), obs=x)

        for vectorized in (True, False):
            joint = Joint(simulated, observed="x", vectorized=vectorized)
            calls.clear()
            assert joint.prior(50, seed=0)["z"].shape == (50,)
            assert not calls
            joint.draw(50)
            assert len(calls) == 50

    def test_prior_is_that_of_the_draws(self):
        joint = Joint(program, observed="x")
        assert (joint.prior(1000, seed=0)["theta"].abs() <= 1).all()

    @pytest.mark.parametrize("vectorized", [True, False])
    def test_simulate_keeps_the_latents(self, vectorized):
        joint = Joint(hierarchy, observed="x", nuisance="group", vectorized=vectorized)
        latents = {"mean": torch.tensor([-100.0, 0.0, 100.0])}
        simulations = joint.simulate(latents, seed=0)
        assert torch.equal(simulations.latents["mean"], latents["mean"])
        assert (simulations.observed["x"].mean((1, 2)) - latents["mean"]).abs().max() < 5
        assert list(simulations.latents) == ["mean"]

    def test_simulate_refuses_what_does_not_fit(self):
        joint = Joint(program, observed="x")
        good = {"theta": torch.zeros(3, 2), "scale": torch.ones(3)}
        for wrong, message in [
            ({"theta": torch.zeros(3, 2)}, "must be a dict of values"),
            ({**good, "scale": torch.ones(4)}, "equally many rows"),
            ({**good, "theta": torch.zeros(3, 3)}, r"rows of shape \(2,\)"),
            ({**good, "theta": torch.full((3, 2), 2.0)}, "3 of 3 outside"),
            ({**good, "scale": torch.full((3,), torch.nan)}, "outside"),
        ]:
            with pytest.raises(ValueError, match=message):
                joint.simulate(wrong)


class TestCall:
    def test_runs_the_program_under_a_plate(self):
        joint = Joint(hierarchy, observed="x", nuisance="group")
        trace = pyro.poutine.trace(joint).get_trace(size=6)
        assert trace.nodes["mean"]["value"].shape == (6, 1, 1)
        assert trace.nodes["x"]["value"].shape == (6, 4, 3)
        assert trace.nodes["group"]["infer"]["is_auxiliary"]
        given = pyro.poutine.condition(joint, {"mean": torch.ones(6, 1, 1)})
        assert pyro.poutine.trace(given).get_trace(size=6).nodes["mean"]["is_observed"]

    def test_needs_a_program_that_allows_many(self):
        with pytest.raises(ValueError, match=r"simulations=joint\.draw"):
            Joint(by_index, observed="x", vectorized=False)(size=3)


class TestBadPrograms:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"observed": "y"}, r"`observed` must name sites of the program, \['theta', 'scale', 'x'\], got 'y'"),
            ({"observed": []}, "at least one site"),
            ({"observed": ["x", "x"]}, "once"),
            ({"observed": "theta"}, r"must name a site that depends on a latent one to learn, got \['theta'\]"),
            ({"observed": "x", "nuisance": "x"}, "`nuisance` must name latent sites, got 'x'"),
            ({"observed": "x", "nuisance": "z"}, "`nuisance` must name sites of the program"),
            ({"observed": "x", "nuisance": ["theta", "scale"]}, "must have a latent site to learn"),
        ],
    )
    def test_names(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Joint(program, **arguments)

    def test_types(self):
        with pytest.raises(TypeError, match="`program`"):
            Joint(3, observed="x")
        with pytest.raises(TypeError, match="`observed`"):
            Joint(program, observed=[3])
        with pytest.raises(TypeError, match="`n`"):
            Joint(program, observed="x").draw(2.0)
        with pytest.raises(ValueError, match="`n`"):
            Joint(program, observed="x").draw(0)

    def test_factors(self):
        def weighted(x=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("weight", z)
            pyro.sample("x", dist.Normal(z, 1.0))

        with pytest.raises(ValueError, match="no factors, which cannot be simulated, got 'weight'"):
            Joint(weighted, observed="x")
        with pytest.raises(ValueError, match="got the factor 'weight'"):
            Joint(weighted, observed="weight")

    def test_subsampled_plates(self):
        def subsampled(x=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 30, subsample_size=3):
                pyro.sample("x", dist.Normal(z, 1.0))

        with pytest.raises(ValueError, match="'data' with 3 of 30 rows"):
            Joint(subsampled, observed="x")

    def test_scales_and_masks_of_observed_sites(self):
        def handled(handler):
            def program(x=None):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with handler, pyro.plate("rows", 3):
                    pyro.sample("x", dist.Normal(z, 1.0))

            return program

        with pytest.raises(ValueError, match=r"must not scale its sites.*'x'"):
            Joint(handled(pyro.poutine.scale(scale=2.0)), observed="x")
        with pytest.raises(ValueError, match=r"must not mask its observed sites.*'x'"):
            Joint(handled(pyro.poutine.mask(mask=torch.tensor([True, False, True]))), observed="x")
        Joint(handled(pyro.poutine.mask(mask=torch.ones(3, dtype=torch.bool))), observed="x")

    def test_supports_that_depend_on_other_sites(self):
        def nested(x=None):
            low = pyro.sample("low", dist.Uniform(0.0, 1.0))
            high = pyro.sample("high", dist.Uniform(low, 2.0))
            pyro.sample("x", dist.Normal(high, 1.0))

        with pytest.raises(ValueError, match="fixed supports, got site 'high'"):
            Joint(nested, observed="x")
        assert list(Joint(nested, observed="x", nuisance="high").latents) == ["low"]

    def test_data_of_a_site_that_is_not_named(self):
        def two(x=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        with pytest.raises(ValueError, match="got none named 'y'"):
            Joint(two, observed="x")
        assert Joint(two, observed=["x", "y"]).draw(3).observed["y"].abs().min() > 0

    def test_sites_that_change(self):
        def branching(x=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if float(torch.rand(())) < 0.5:
                pyro.sample("extra", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0))

        with pytest.raises(ValueError, match="the same sites in every run.*'extra'"):
            Joint(branching, observed="x", vectorized=False).draw(50)

    def test_shapes_that_change(self):
        def ragged(x=None):
            length = int(torch.randint(1, 4, ()))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand([length]).to_event(1))

        with pytest.raises(ValueError, match="same shapes in every run, got site 'x'"):
            Joint(ragged, observed="x", vectorized=False).draw(50)

    def test_one_that_always_raises(self):
        def broken(x=None):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            raise ZeroDivisionError("no luck")

        with pytest.raises(ZeroDivisionError, match="no luck"):
            Joint(broken, observed="x")


class TestFit:
    @staticmethod
    def objective(flow):
        class Objective(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.flow = flow

            def forward(self, latents, observed):
                return -self.flow(observed["x"]).log_prob(latents["theta"]).mean()

        return Objective()

    def test_takes_simulations_and_holds_some_out(self):
        simulations = Joint(program, observed="x").draw(60, seed=0)
        flow = pg.flows.affine_coupling((2,), (5, 2))
        fit = pg.fit(self.objective(flow), simulations, steps=4, validation=0.1, batch_size=16)
        assert len(fit.history.loss) == 4
        assert fit.history.validation

    def test_takes_fresh_simulations_and_resumes(self, tmp_path):
        joint = Joint(program, observed="x")

        def trained(steps, checkpoint):
            torch.manual_seed(0)
            flow = pg.flows.affine_coupling((2,), (5, 2))
            data = joint.fresh(16, batches=3)
            pg.fit(
                self.objective(flow),
                data,
                steps=steps,
                seed=1,
                checkpoint=checkpoint,
                validation=joint.draw(20, seed=0),
            )
            return torch.cat([parameter.flatten() for parameter in flow.parameters()])

        whole = trained(5, tmp_path / "a")
        trained(2, tmp_path / "b")
        assert torch.equal(trained(5, tmp_path / "b"), whole)

    def test_iterates_over_epochs_that_differ(self):
        joint = Joint(program, observed="x")
        first, second = next(iter(joint)), next(iter(joint))
        assert len(first[0]["theta"]) == 128
        assert not torch.equal(first[0]["theta"], second[0]["theta"])
