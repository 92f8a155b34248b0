"""Plain functions as sites of Pyro programs."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.simulation import Simulator


def noisy(loc, scale, rng):
    return loc + scale * rng.standard_normal(3)


def simulator(*arguments, **settings):
    return Simulator(noisy, *arguments, **{"event_shape": (3,), **settings})


class TestShapes:
    def test_arguments_broadcast(self):
        site = simulator(torch.zeros(4, 1), torch.ones(5))
        assert (site.batch_shape, site.event_shape, site.has_rsample) == ((4, 5), (3,), False)
        assert site.sample((2,)).shape == (2, 4, 5, 3)
        assert site.sample((0,)).shape == (0, 4, 5, 3)
        assert site.expand((6, 4, 5)).sample().shape == (6, 4, 5, 3)
        assert site.to_event(1).sample().shape == (4, 5, 3)

    def test_arguments_of_several_dimensions(self):
        site = Simulator(lambda a, b: a @ b, torch.ones(7, 2, 3), torch.ones(3), event_shape=(2,), event_dims=(2, 1))
        assert site.batch_shape == (7,)
        assert torch.equal(site.sample(), torch.full((7, 2), 3.0))

    def test_no_arguments_and_no_dimensions(self):
        assert Simulator(lambda rng: rng.normal(), event_shape=()).sample((3,)).shape == (3,)
        assert Simulator(lambda a: a, torch.tensor(2.0), event_shape=()).sample().item() == 2

    def test_each_row_gets_its_arguments(self):
        seen = []

        def function(loc, scale):
            seen.append((float(loc), float(scale)))
            return loc

        Simulator(function, torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 4.0]), event_shape=()).sample()
        assert seen == [(1, 3), (1, 4), (2, 3), (2, 4)]

    def test_functions_of_many_rows(self):
        def function(loc, rng):
            assert loc.shape == (8, 2)
            return loc.sum(-1) + rng.normal(size=8)

        site = Simulator(function, torch.ones(4, 2), event_shape=(), event_dims=(1,), batched=True)
        assert site.sample((2,)).shape == (2, 4)

    def test_precision_and_support(self):
        assert simulator(torch.zeros(2, dtype=torch.double), torch.ones(())).sample().dtype == torch.double
        counts = Simulator(
            lambda rate, rng: rng.poisson(rate), torch.ones(2), event_shape=(), support=constraints.nonnegative_integer
        )
        assert counts.sample().dtype == torch.long
        assert counts.support.is_discrete
        assert simulator(torch.zeros(()), torch.ones(())).support.event_dim == 1
        assert Simulator(lambda: 1, event_shape=(), dtype=torch.half).sample().dtype == torch.half

    def test_tensors_come_back_too(self):
        assert Simulator(lambda a: torch.as_tensor(a) + 1, torch.zeros(2), event_shape=()).sample().tolist() == [1, 1]


class TestNoise:
    @pytest.mark.parametrize(
        "function",
        [
            lambda loc, rng: loc + rng.normal(),
            lambda loc: loc + np.random.randn(),
            lambda loc: loc + random.gauss(0, 1),
            lambda loc: loc + float(torch.randn(())),
        ],
    )
    def test_follows_the_seed_of_torch(self, function):
        site = Simulator(function, torch.zeros(4), event_shape=())
        torch.manual_seed(1)
        first = site.sample()
        assert len(set(first.tolist())) == 4
        np.random.seed(9)
        random.seed(9)
        states = np.random.get_state()[1].copy(), random.getstate()
        torch.manual_seed(1)
        assert torch.equal(site.sample(), first)
        assert not torch.equal(site.sample(), first)
        assert (np.random.get_state()[1] == states[0]).all()
        assert random.getstate() == states[1]

    def test_is_as_it_was_after_an_exception(self):
        state, bits = np.random.get_state()[1].copy(), np.random.get_bit_generator()
        with pytest.raises(ZeroDivisionError):
            Simulator(lambda loc: np.random.randn() + 1 / 0, torch.zeros(1), event_shape=()).sample()
        assert np.random.get_bit_generator() is bits
        assert (np.random.get_state()[1] == state).all()

    def test_has_the_law_of_the_function(self):
        draws = simulator(torch.tensor(2.0), torch.tensor(0.5)).sample((4000,))
        assert abs(draws.mean() - 2) < 5 * 0.5 / 12000**0.5
        assert abs(draws.std() - 0.5) < 5 * 0.5 / 24000**0.5
        assert draws.T.corrcoef().fill_diagonal_(0).abs().max() < 5 / 4000**0.5


class TestPyro:
    @staticmethod
    def program(x=None):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            return pyro.sample("x", simulator(loc, torch.tensor(0.1)), obs=x)

    def test_in_plates_predictive_and_condition(self):
        assert self.program().shape == (4, 3)
        drawn = Predictive(self.program, num_samples=6)()
        assert drawn["x"].shape == (6, 4, 3)
        assert (drawn["x"].mean((1, 2)) - drawn["loc"].squeeze()).abs().max() < 0.2
        given = pyro.poutine.condition(self.program, {"loc": torch.tensor(100.0)})
        assert given().mean() > 90
        parallel = Predictive(self.program, num_samples=6, parallel=True)()
        assert (parallel["x"].mean((1, 2)) - parallel["loc"].squeeze()).abs().max() < 0.2
        with pyro.poutine.mask(mask=False):
            assert pyro.sample("x", simulator(torch.zeros(2), torch.ones(2)).mask(torch.tensor([True, False]))).shape

    def test_has_no_density(self):
        site = simulator(torch.zeros(2), torch.ones(2))
        assert pg.density_of(site) is None
        assert pg.density_of(site.to_event(1)) is None
        with pytest.raises(NotImplementedError, match=r"learn a likelihood of it \(`pyrogen.simulation.likelihood`\)"):
            site.log_prob(torch.zeros(2, 3))


class TestErrors:
    def test_arguments(self):
        for arguments, error, message in [
            ((3, torch.zeros(())), TypeError, "`function` must be callable"),
            ((noisy, 2.0), TypeError, "`arguments` must be tensors, got float at place 0"),
            ((noisy, torch.zeros(2), torch.zeros(3)), ValueError, "batch shapes that broadcast"),
        ]:
            with pytest.raises(error, match=message):
                Simulator(*arguments, event_shape=())
        with pytest.raises(ValueError, match="one number for each of 2 arguments"):
            simulator(torch.zeros(2), torch.zeros(2), event_dims=(1,))
        with pytest.raises(ValueError, match="at most the dimensions"):
            simulator(torch.zeros(2), torch.zeros(2), event_dims=(1, 2))
        with pytest.raises(TypeError, match="`batched`"):
            simulator(torch.zeros(2), torch.zeros(2), batched=1)

    def test_results(self):
        def site(result, **settings):
            return Simulator(lambda a: result, torch.zeros(2), **{"event_shape": (), "validate_args": True, **settings})

        with pytest.raises(ValueError, match=r"array of shape \(2,\), got \(3,\)"):
            site(np.zeros(3), event_shape=(2,)).sample()
        with pytest.raises(ValueError, match=r"array of shape \(2,\), got \(\)"):
            site(0.0, batched=True).sample()
        with pytest.raises(ValueError, match="real numbers"):
            site("text").sample()
        with pytest.raises(ValueError, match="real numbers"):
            site(None).sample()
        with pytest.raises(ValueError, match="in the support"):
            site(-1.0, support=constraints.positive).sample()
        with pytest.raises(ValueError, match="in the support"):
            site(1.5, support=constraints.nonnegative_integer).sample()
        assert site(np.nan, support=constraints.positive).sample().isnan().all()
        with pytest.raises(ValueError, match="in the support"):
            site([0.5, 0.6], event_shape=(2,), support=constraints.simplex).sample()


class TestSeveralResults:
    @staticmethod
    def program(total=None):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        both = pyro.sample("both", simulator(loc, torch.tensor(0.1)))
        pyro.deterministic("total", both.sum(-1))

    def test_what_is_taken_apart_is_learned_unless_it_is_a_nuisance(self):
        with pytest.warns(UserWarning, match=r"site 'both' .* is latent, while \['total'\].* give `nuisance='both'`"):
            joint = pg.simulation.Joint(self.program, observed="total")
        assert set(joint.latents) == {"loc", "both"}
        assert set(pg.simulation.Joint(self.program, observed="total", nuisance="both").latents) == {"loc"}

    def test_a_dict_is_refused(self):
        with pytest.raises(
            TypeError, match=r"`function` must give one array, got a dict of \['a', 'b'\]: .*`nuisance`"
        ):
            Simulator(lambda loc: {"a": loc, "b": loc}, torch.zeros(()), event_shape=(2,)).sample()
