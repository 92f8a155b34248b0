"""What a program does rarely is found: in plates, among many simulations, in its values, whatever the validation."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.simulation import Joint, Simulations, Simulator, posterior
from pyrogen.simulation.latents.structure import dependence_matrix

TIMES = torch.arange(5.0)


def theta_of(name="theta"):
    return pyro.sample(name, dist.Normal(0.0, 1.0))


def drifting_seldom(x=None):
    drifts = pyro.sample("drifts", dist.Bernoulli(0.05))
    with pyro.plate("rows", 5):
        pyro.sample("x", dist.Normal(drifts * TIMES, 1.0), obs=x)


def drifting_above(x=None):
    theta = theta_of()
    with pyro.plate("rows", 5):
        pyro.sample("x", dist.Normal(torch.where(theta > 2, theta * TIMES, theta), 1.0), obs=x)


@pytest.mark.parametrize("program", [drifting_seldom, drifting_above])
def test_rows_that_differ_at_few_latent_values_are_no_set(program):
    assert Joint(program, observed="x").exchangeable == frozenset()
    with pytest.raises(ValueError, match="exchangeable, got 'rows': site 'x' differs from row to row"):
        Joint(program, observed="x", sizes={"rows": (1, 5)})


def test_rows_that_differ_seldom_are_found_one_by_one():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("rows", 5):
            pyro.sample("x", dist.Normal(theta[0] + TIMES * (theta[1] > 1), 1.0), obs=x)

    joint = Joint(program, observed="x")
    assert not joint.vectorized
    assert joint.exchangeable == frozenset()


def test_a_program_that_fails_now_and_then_keeps_its_sets():
    def program(x=None):
        theta = theta_of()
        with pyro.plate("rows", 5):
            pyro.sample("x", dist.Normal(theta, theta + 2.0), obs=x)  # a negative scale in two of a hundred

    torch.manual_seed(0)
    assert Joint(program, observed="x").exchangeable == {"rows"}


def test_rows_that_are_computed_from_others_seldom_are_joined():
    def program(x=None):
        mixes = pyro.sample("mixes", dist.Bernoulli(0.05))
        with pyro.plate("rows", 5):
            z = theta_of("z")
            pyro.sample("x", dist.Normal(z + mixes * z.roll(1, -1), 1.0), obs=x)

    assert dependence_matrix(Joint(program, observed="x")).tril(-1).any()


def branch_that_few_values_take(x=None):
    theta = theta_of()
    pyro.sample("x", dist.Normal(theta + (5.0 if bool((theta > 2).any()) else 0.0), 1.0), obs=x)


def mean_behind_a_gate(x=None):
    theta, gate = theta_of(), pyro.sample("gate", dist.Bernoulli(0.05))
    pyro.sample("x", dist.Normal(theta - gate * theta.mean(), 1.0), obs=x)


def computed_mean_behind_a_gate(x=None):
    theta, gate = theta_of(), pyro.sample("gate", dist.Bernoulli(0.05))
    pyro.deterministic("x", theta - gate * theta.mean())


def one_number_of_numpy(x=None):
    pyro.sample("x", dist.Normal(theta_of() + np.random.normal(), 1.0), obs=x)


def centred(theta):
    return theta - theta.mean()


def batched_that_mixes(x=None):
    pyro.sample("x", Simulator(centred, theta_of(), event_shape=(), batched=True), obs=x)


@pytest.mark.parametrize(
    "program",
    [
        branch_that_few_values_take,
        mean_behind_a_gate,
        computed_mean_behind_a_gate,
        one_number_of_numpy,
        batched_that_mixes,
    ],
)
def test_programs_that_mix_simulations_seldom_run_one_by_one(program):
    assert not Joint(program, observed="x").vectorized


def doubled(theta, rng):
    return 2 * theta + rng.normal(size=theta.shape)


def test_programs_that_do_not_still_run_at_once():
    def numpy_by_row(x=None):
        theta = theta_of()
        noise = torch.as_tensor(np.random.normal(size=tuple(theta.shape)), dtype=torch.float32)
        pyro.sample("x", dist.Normal(theta + noise, 1.0), obs=x)

    def batched(x=None):
        pyro.sample("x", Simulator(doubled, theta_of(), event_shape=(), batched=True), obs=x)

    for program in (numpy_by_row, batched, drifting_seldom):
        assert Joint(program, observed="x").vectorized


def test_a_simulator_may_change_what_it_gets():
    def function(theta):
        theta *= 100
        return theta

    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        pyro.sample("x", Simulator(function, theta, event_shape=(3,), event_dims=(1,)), obs=x)

    simulations = Joint(program, observed="x").draw(50, seed=0)
    assert simulations.latents["theta"].abs().max() < 5
    torch.testing.assert_close(simulations.observed["x"], 100 * simulations.latents["theta"])


def in_place(x=None):
    theta = theta_of()
    theta.mul_(100)
    pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def in_numpy(x=None):
    theta = theta_of()
    array = theta.numpy()
    array += 1
    pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


@pytest.mark.parametrize("program", [in_place, in_numpy])
def test_values_that_a_program_changes_are_refused(program):
    with pytest.raises(
        ValueError, match="leave the values of its sites as they are, got site 'theta' changed in place"
    ):
        Joint(program, observed="x")


def negative_shape(x=None):
    shape = pyro.sample("shape", dist.Uniform(-1.0, 1.0))
    pyro.sample("x", dist.Gamma(shape, 1.0), obs=x)


def missing_count(x=None):
    def function(theta):
        return float("nan") if theta > 0.5 else 3

    theta = pyro.sample("theta", dist.Uniform(0.0, 1.0))
    pyro.sample("x", Simulator(function, theta, event_shape=(), support=constraints.nonnegative_integer), obs=x)


@pytest.mark.filterwarnings("ignore:simulations run one by one", "ignore:.* simulations failed")
@pytest.mark.parametrize("program", [negative_shape, missing_count])
def test_what_fails_does_not_depend_on_the_validation_of_the_moment(program):
    joint = Joint(program, observed="x")
    with_validation = joint.draw(60, seed=0, failures=1.0)
    with pyro.validation_enabled(False):
        without = joint.draw(60, seed=0, failures=1.0)
    assert 10 < without.failed == with_validation.failed
    torch.testing.assert_close(without.observed, with_validation.observed)
    with pytest.raises(pg.simulation.FailedSimulations):
        pg.fit(posterior(joint), joint, steps=20)


@pytest.mark.filterwarnings("ignore:simulations run one by one", "ignore:.* simulations failed")
def test_what_is_missing_is_no_integer_without_validation_either():
    with pyro.validation_enabled(False):
        simulations = Joint(missing_count, observed="x").draw(60, seed=0, failures=1.0)
    assert (simulations.observed["x"] == 3).all()


def of_a_set(x=None):
    theta = theta_of()
    with pyro.plate("rows", 4):
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def test_missing_rows_of_a_plate_of_fixed_size_are_refused():
    joint = Joint(of_a_set, observed="x")
    simulations = joint.draw(20, seed=0)
    simulations.observed["x"][3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"`context` must hold finite numbers, got nan in row 3 of `data`"):
        pg.fit(posterior(joint), simulations, steps=2)
    sized = Joint(of_a_set, observed="x", sizes={"rows": (3, 4)})
    pg.fit(posterior(sized), Simulations(simulations.latents, simulations.observed), steps=2)


def two_sites(first, second):
    def program(x=None):
        values = theta_of(first), theta_of(second)
        pyro.sample("x", dist.Normal(torch.stack(values, -1), 1.0).to_event(1), obs=x)

    return program


@pytest.mark.filterwarnings("ignore:.*loads with `into=` alone")
def test_a_file_fits_no_posterior_of_other_sites(tmp_path):
    learned = posterior(Joint(two_sites("a", "b"), observed="x"))
    pg.save(learned, tmp_path / "file")
    pg.load(tmp_path / "file", into=posterior(Joint(two_sites("a", "b"), observed="x")))
    with pytest.raises(ValueError, match="does not fit the module"):
        pg.load(tmp_path / "file", into=posterior(Joint(two_sites("b", "a"), observed="x")))


def test_wrong_types_are_errors_by_name():
    joint = Joint(of_a_set, observed="x")
    with pytest.raises(TypeError, match="`joint` must be a Joint, got function"):
        posterior(of_a_set)
    with pytest.raises(TypeError, match="`recipe` must be"):
        posterior(joint, "flow")
    with pytest.raises(TypeError, match="`observed` must be the name of a site"):
        Joint(of_a_set, observed=3)
    with pytest.raises(TypeError, match=r"`latents\['theta'\]` must be a tensor, got list"):
        joint.simulate({"theta": [0.0, 0.0, 0.0]})


def test_a_plate_of_random_size_is_an_error_that_names_the_way_out():
    def program(x=None):
        rows = 3 + int(pyro.sample("rows", dist.Poisson(20.0)))
        theta = theta_of()
        with pyro.plate("plate", rows):
            pyro.sample("x", dist.Normal(theta, 1.0), obs=x)

    with pytest.raises(ValueError, match="the same shapes in every run, .* and `sizes` to `Joint`"):
        Joint(program, observed="x")


def test_a_mask_inside_a_distribution_is_a_mask():
    def program(x=None, mask=(True, True, False)):
        theta = theta_of()
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(theta, 1.0).mask(torch.tensor(mask)), obs=x)

    with pytest.raises(ValueError, match="must not mask its observed sites .*, got site 'x'"):
        Joint(program, observed="x")
    assert Joint(program, observed="x", kwargs={"mask": (True, True, True)}).vectorized


def test_sites_of_one_name_are_refused():
    def program(x=None):
        theta = theta_of()
        pyro.sample("x", dist.Normal(theta, 1.0))
        pyro.sample("x", dist.Normal(theta, 2.0))

    with pytest.raises(ValueError, match="must have sites of different names, got 'x' again"):
        Joint(program, observed="x")


def test_rows_that_depend_on_their_neighbours_are_no_set():
    def moving_average(x=None):
        theta = theta_of()
        with pyro.plate("times", 6):
            z = theta_of("z")
            pyro.sample("x", dist.Normal(z + theta * z.roll(1, -1), 0.1), obs=x)

    assert Joint(moving_average, observed="x", nuisance="z").exchangeable == frozenset()
    with pytest.raises(ValueError, match="got 'times': a site in it depends on other rows than its own"):
        Joint(moving_average, observed="x", nuisance="z", sizes={"times": (2, 6)})


def test_rows_with_noise_of_their_own_are_a_set():
    def program(x=None):
        theta = theta_of()
        with pyro.plate("rows", 6):
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    assert Joint(program, observed="x", nuisance="z").exchangeable == {"rows"}


def test_simulations_of_other_shapes_do_not_join():
    first, second = (Simulations({"theta": torch.zeros(2, n)}, {"x": torch.zeros(2)}) for n in (3, 4))
    with pytest.raises(ValueError, match="rows of the shapes of"):
        first + second


def test_noise_that_rows_share_leaves_them_a_set():
    def program(x=None):
        offset = theta_of() + torch.randn(())
        with pyro.plate("rows", 6):
            z = pyro.sample("z", dist.Normal(offset, 1.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    assert Joint(program, observed="x", nuisance="z").exchangeable == {"rows"}
