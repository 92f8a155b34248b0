"""The grid of experiments on a conjugate regression, whose evidence is known, and on a pair with a data plate."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import pyrogen as pg
from pyrogen.evaluation import grid, importance_log_weights, pareto_k

torch.manual_seed(0)
INPUTS = torch.stack([torch.ones(12), torch.linspace(0.5, 1.5, 12)], 1)  # nearly collinear: a correlated posterior
TARGETS = INPUTS @ torch.tensor([0.5, -1.0]) + 0.3 * torch.randn(12)
EVIDENCE = dist.MultivariateNormal(torch.zeros(12), INPUTS @ INPUTS.T + 0.09 * torch.eye(12)).log_prob(TARGETS)


def regression(inputs, targets):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(inputs)):
        pyro.sample("y", dist.Normal(inputs @ weights, 0.3), obs=targets)


PAIRS = {
    "mean field": lambda: (regression, AutoNormal(regression, init_scale=0.1)),
    "full covariance": lambda: (regression, AutoMultivariateNormal(regression, init_scale=0.1)),
}
FIT = partial(
    pg.fit,
    steps=300,
    optimizer=partial(torch.optim.Adam, lr=0.05),
    schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=300),
)


@pytest.fixture(scope="module")
def result():
    batch = (INPUTS, TARGETS)
    objectives = {"ELBO": Trace_ELBO(num_particles=4)}
    return grid(PAIRS, objectives, batch, batch, fit=FIT, seeds=(0, 1), draws=100, whole=True)


def test_the_full_guide_reaches_the_evidence_and_the_other_does_not(result):
    mean_field, full = result.cells()
    exact = float(EVIDENCE)
    assert full.elbo.value == pytest.approx(exact, abs=0.1)
    assert full.bound.value == pytest.approx(exact, abs=0.12)
    assert mean_field.elbo.value < exact - 0.3
    assert full.pareto_k.value < mean_field.pareto_k.value


def test_a_difference_is_paired_over_seeds(result):
    difference = result.difference(("full covariance", "ELBO"), ("mean field", "ELBO"))
    first, second, *others = (float(run.bound) for run in result.runs)
    pairs = [others[0] - first, others[1] - second]
    assert difference.value == pytest.approx(sum(pairs) / 2)
    assert difference.standard_error == pytest.approx(abs(pairs[0] - pairs[1]) / 2)


def test_the_table_has_a_line_for_each_cell(result):
    header, *lines = str(result).splitlines()
    assert header.split()[:3] == ["guide", "objective", "ELBO"]
    assert [line.split("  ")[0] for line in lines] == ["mean field", "full covariance"]
    assert len(result.runs) == 4


def test_runs_do_not_share_parameters(result):
    sums = [sum(float(p.detach().sum()) for p in run.pair[1].parameters()) for run in result.runs]
    assert len(set(sums)) == 4


def test_the_same_seed_gives_the_same_run(result):
    batch = (INPUTS, TARGETS)
    again = grid(
        {"mean field": PAIRS["mean field"]},
        {"ELBO": Trace_ELBO(num_particles=4)},
        batch,
        batch,
        fit=FIT,
        seeds=(1,),
        draws=100,
        whole=True,
    )
    assert torch.equal(again.runs[0].log_weights, result.runs[1].log_weights)


def test_a_pair_with_a_data_plate_is_judged_by_datum():
    def small():
        vae = pg.latent.vae((3,), latent_shape=(2,), hidden=(8,))
        return vae.model, vae.guide

    x = torch.randn(60, 3)
    result = grid(
        {"vae": small}, {"ELBO": pg.Elbo}, (x,), (x[:10],), fit=partial(pg.fit, steps=3), seeds=(0,), draws=25
    )
    assert result.runs[0].bound.shape == (10,)
    with pytest.raises(ValueError, match=r"must be cells of the grid"):
        result.difference(("vae", "ELBO"), ("vae", "nothing"))


@pytest.mark.parametrize("name", ["pairs", "objectives", "seeds"])
def test_an_empty_grid_is_refused(name):
    arguments = {"pairs": PAIRS, "objectives": {"ELBO": Trace_ELBO()}, "seeds": (0,)} | {name: {}}
    with pytest.raises(ValueError, match=f"`{name}` must hold at least one entry"):
        grid(data=(), held_out=(), fit=FIT, **arguments)


def test_few_draws_are_refused():
    with pytest.raises(ValueError, match="`draws` must be at least 25"):
        grid(PAIRS, {"ELBO": Trace_ELBO()}, (), (), fit=FIT, draws=24)


def test_all_data_as_one_datum_sum_the_data():
    torch.manual_seed(0)
    guide = PAIRS["full covariance"]()[1]
    guide(INPUTS, TARGETS)
    weights = importance_log_weights(regression, guide, INPUTS, TARGETS, draws=500, whole=True)
    assert weights.shape == (500, 1)
    # An untrained narrow guide, centred at a random place: the bound is below the evidence.
    assert float(weights.logsumexp(0) - torch.tensor(500.0).log()) < float(EVIDENCE)
    assert pareto_k(regression, guide, INPUTS, TARGETS, draws=100, whole=True).values.shape == (1,)


def test_latents_outside_the_plate_are_still_refused_for_single_data():
    guide = PAIRS["mean field"]()[1]
    with pytest.raises(ValueError, match="weights"):
        importance_log_weights(regression, guide, INPUTS, TARGETS, draws=30)


# What fails


def tiny():
    vae = pg.latent.vae((3,), latent_shape=(2,), hidden=(8,))
    return vae.model, vae.guide


def other_shape():
    vae = pg.latent.vae((4,), latent_shape=(2,), hidden=(8,))
    return vae.model, vae.guide


X = torch.randn(40, 3)


def test_every_cell_is_tried_before_anything_is_trained():
    def never(*arguments, **options):
        raise AssertionError("nothing may be trained")

    def broken(model, guide):
        return lambda x: x.no_such_thing

    for pairs, objectives, error in (
        ({"good": tiny, "bad": other_shape}, {"ELBO": pg.Elbo}, Exception),
        ({"good": tiny}, {"ELBO": pg.Elbo, "bad": broken}, AttributeError),
    ):
        with pytest.raises(error) as caught:
            grid(pairs, objectives, (X,), (X[:5],), fit=never, seeds=(0,), draws=25)
        assert any("'bad'" in note and "nothing was trained" in note for note in caught.value.__notes__)


def test_finished_runs_survive_one_that_fails():
    def fit(objective, data, *, seed):
        if seed == 1:
            raise FloatingPointError("the loss is not finite")

    with pytest.warns(UserWarning, match="1 of 3 runs failed: vae by ELBO, seed 1"):
        result = grid({"vae": tiny}, {"ELBO": pg.Elbo}, (X,), (X[:5],), fit=fit, seeds=(0, 1, 2), draws=25)
    assert [run.seed for run in result.runs] == [0, 2]
    assert [(lost.seed, lost.reason) for lost in result.failures] == [(1, "FloatingPointError: the loss is not finite")]
    (cell,) = result.cells()
    assert cell.failed == 1
    assert "1 failed" in str(result)
    frame = result.to_dataframe()
    assert list(frame["seed"]) == [0, 2, 1]
    assert frame["failure"].isna().tolist() == [True, True, False]
    assert frame["bound"][0] == pytest.approx(float(result.runs[0].bound.mean()))
    assert "tensor(" not in repr(result) + repr(result.runs[0])


def test_if_all_fail_the_first_error_is_raised():
    def fit(objective, data, *, seed):
        raise FloatingPointError(f"seed {seed}")

    with pytest.raises(FloatingPointError, match="seed 3"):
        grid({"vae": tiny}, {"ELBO": pg.Elbo}, (X,), (X[:5],), fit=fit, seeds=(3, 4), draws=25)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": (0, 0)}, ValueError, "`seeds` must differ"),
        ({"seeds": ("a",)}, TypeError, "`seeds` must be an int"),
        ({"pairs": {"a": tiny()}}, TypeError, "`pairs` must hold functions, got tuple for 'a'"),
        ({"fit": 3}, TypeError, "`fit` must hold functions"),
    ],
)
def test_impossible_options_are_refused(options, error, message):
    arguments = {"pairs": {"vae": tiny}, "objectives": {"ELBO": pg.Elbo}, "fit": FIT, "draws": 25} | options
    with pytest.raises(error, match=message):
        grid(data=(X,), held_out=(X,), **arguments)
