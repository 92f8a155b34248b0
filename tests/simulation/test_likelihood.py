"""Learned likelihoods: the rows that they are about, and what they are held to."""

import copy
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.simulation import Joint, Simulator, likelihood, ratio
from pyrogen.simulation.rows.row import row_of


def rows(x=None, count=5):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", count if x is None else len(x)):
        pyro.sample("x", dist.Normal(theta, scale), obs=x)


def nested(x=None):
    level = pyro.sample("level", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("groups", 3, dim=-2):
        group = pyro.sample("group", dist.Normal(level[..., 0], 1.0))
        with pyro.plate("rows", 4, dim=-1):
            size = pyro.sample("size", dist.Gamma(3.0, 3.0))
            middle = pyro.deterministic("middle", group * 2)
            pyro.sample("x", dist.Normal(middle, size).expand([3, 4]), obs=x)


def test_parents_are_what_a_row_is_computed_from_also_through_deterministic_statements():
    row = row_of(Joint(nested, observed="x", vectorized=False))
    assert list(row.parents) == ["group", "size"]
    assert row.context_shape == {"group": (), "size": ()}
    assert row.event_shape == ()


def test_rows_of_plates_come_with_their_own_local_values():
    joint = Joint(nested, observed="x", vectorized=False)
    simulations = joint.draw(6, seed=0)
    row = row_of(joint)
    x, context = row.flat(row.pairs(*simulations.entries))
    assert x.shape == (6 * 12,)
    groups = simulations.latents["group"].reshape(6, 3, 1).expand(6, 3, 4)
    assert torch.equal(context["group"], groups.flatten())
    assert torch.equal(context["size"], simulations.latents["size"].flatten())
    assert torch.equal(x, simulations.observed["x"].flatten())


def test_a_row_sees_all_of_a_parent_in_other_plates():
    def program(x=None):
        with pyro.plate("parts", 3, dim=-2):
            part = pyro.sample("part", dist.Normal(0.0, 1.0).expand([3, 1, 2]).to_event(1))
        with pyro.plate("rows", 4, dim=-1):
            local = pyro.sample("local", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(part.sum((-3, -1)) * local, 1.0), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    row = row_of(joint)
    assert row.context_shape == {"part": (3, 2), "local": ()}
    value = torch.randn(7, 3, 1, 2)
    assert torch.equal(row.parents["part"].seen(value), value.reshape(7, 1, 1, 3, 2))


def test_plates_of_one_dimension_that_follow_each_other_are_two():
    """As many parts as groups: a row of a group sees all parts, and not the part of its number."""

    def program(x=None):
        with pyro.plate("parts", 3, dim=-2):
            part = pyro.sample("part", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", 3, dim=-2), pyro.plate("rows", 4, dim=-1):
            pyro.sample("x", dist.Normal(part.sum(-2, keepdim=True), 1.0), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    row, (latents, observed) = row_of(joint), joint.draw(6, seed=0).entries
    assert row.context_shape == (3,)
    context = row.flat(row.pairs(latents, observed))[1]["part"]
    assert torch.equal(context, latents["part"].reshape(6, 1, 3).expand(6, 12, 3).reshape(72, 3))

    def apart(x=None):
        with pyro.plate("locals", 4):
            local = pyro.sample("local", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.Normal(local, 1.0), obs=x)

    with pytest.raises(ValueError, match="equally distributed rows in plate 'rows'.*in the same plate"):
        row_of(Joint(apart, observed="x"))


def test_absent_rows_are_left_out():
    row = row_of(Joint(rows, observed="x"))
    latents = {"theta": torch.arange(2.0), "scale": torch.ones(2)}
    x = torch.arange(10.0).reshape(2, 5)
    x[0, 3:] = torch.nan
    flat, context = row.flat(row.pairs(latents, {"x": x}))
    assert flat.tolist() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert context["theta"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_an_earlier_observed_site_is_a_parent():
    def program(x=None, y=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        x = pyro.sample("x", dist.Normal(theta, 1.0), obs=x)
        pyro.sample("y", dist.Normal(x * theta, 1.0), obs=y)

    joint = Joint(program, observed=("x", "y"))
    module = likelihood(joint, site="y")
    assert module.context_shape == {"theta": (), "x": ()}
    pg.fit(module, joint.draw(30, seed=0), steps=1)
    assert likelihood(joint, site="x").context_shape == ()


def test_a_nuisance_of_each_row_is_summed_out_and_a_shared_one_refused():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        shared = pyro.sample("shared", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            own = pyro.sample("own", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(own + shared, 1.0), obs=x)

    assert list(row_of(Joint(program, observed="x", nuisance="own")).parents) == ["theta", "shared"]
    with pytest.raises(ValueError, match="'shared' outside plate 'rows'"):
        row_of(Joint(program, observed="x", nuisance="shared"))


def test_rows_that_differ_by_fixed_covariates_are_refused():
    covariate = torch.arange(4.0)

    def program(x=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.Normal(slope * covariate, 1.0), obs=x)

    def simulated(x=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", Simulator(lambda a: a, slope * covariate, event_shape=()), obs=x)

    for each in (program, simulated):
        with pytest.raises(ValueError, match="equally distributed rows in plate 'rows'.*covariate"):
            likelihood(Joint(each, observed="x"))


def test_rows_that_see_other_rows_are_refused():
    """Centred effects: all equal, they look like rows of their own."""

    def centred(x=None):
        with pyro.plate("rows", 4):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(effect - effect.mean(-1, keepdim=True), 1.0), obs=x)

    def lagged(x=None):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            x = pyro.sample("x", dist.Normal(level, 1.0), obs=x)
            pyro.sample("y", dist.Normal(level + x.roll(1, -1), 1.0))

    with pytest.raises(ValueError, match="rows of site 'x' that see their own rows"):
        likelihood(Joint(centred, observed="x"))
    joint = Joint(lagged, observed=("x", "y"))
    assert row_of(joint, "x").context_shape == ()
    with pytest.raises(ValueError, match="rows of site 'y' that see their own rows"):
        ratio(joint, site="y")

    def whole(x=None):
        with pyro.plate("effects", 4):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(effect - effect.mean(-1, keepdim=True), 1.0).to_event(1), obs=x)

    assert row_of(Joint(whole, observed="x", vectorized=False)).context_shape == (4,)


def test_hidden_noise_is_no_covariate():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.Normal(theta + torch.randn(4), 1.0), obs=x)

    assert list(row_of(Joint(program, observed="x", vectorized=False)).parents) == ["theta"]


def test_bad_sites_and_data_are_refused_by_name():
    joint = Joint(rows, observed="x")
    with pytest.raises(ValueError, match="one of the observed sites .*'nothing'"):
        likelihood(joint, site="nothing")
    with pytest.raises(ValueError, match="got a latent site 'theta'"):
        likelihood(joint, site="theta")
    with pytest.raises(TypeError, match="`joint` must be a Joint"):
        likelihood(rows)
    for wrong in ("flow", pg.flows.affine_coupling(())):
        with pytest.raises(TypeError, match="`recipe` must be a function that builds a module"):
            likelihood(joint, wrong)
    module = likelihood(joint)
    latents, observed = joint.draw(8, seed=0).entries
    with pytest.raises(ValueError, match="`latents` must be a dict with an entry 'scale'"):
        pg.fit(module, ({"theta": latents["theta"]}, observed), steps=1)
    with pytest.raises(ValueError, match=r"`observed\['x'\]` must have shape \(rows, 5\)"):
        pg.fit(module, (latents, {"x": torch.zeros(8, 3)}), steps=1)
    x = observed["x"].clone()
    x[2, 3] = torch.inf
    with pytest.raises(ValueError, match=r"`observed\['x'\]` must be finite"):
        pg.fit(module, (latents, {"x": x}), steps=1)
    with pytest.raises(ValueError, match=r"`latents\['scale'\]` must lie within the support"):
        pg.fit(module, ({**latents, "scale": -latents["scale"]}, observed), steps=1)
    with pytest.raises(ValueError, match="`context` must be a dict with the keys"):
        module({"theta": torch.zeros(())})


def test_a_support_that_depends_on_latent_sites_is_refused():
    def program(x=None):
        top = pyro.sample("top", dist.HalfNormal(1.0))
        pyro.sample("x", dist.Uniform(0.0, top), obs=x)

    with pytest.raises(ValueError, match="fixed support"):
        likelihood(Joint(program, observed="x"))


@pytest.mark.parametrize(
    ("family", "end"),
    [
        (lambda a: dist.Exponential(a.exp()), 0.0),
        (lambda a: dist.Beta(a.exp(), 2.0), 1.0),
        (lambda a: dist.Dirichlet(torch.stack([a.exp(), 1 + 0 * a, 1 + 0 * a], -1)), [0.0, 0.5, 0.5]),
    ],
)
def test_rows_at_an_end_of_their_support_have_no_density(family, end):
    """Censored and clamped data: a ratio learns from them, a density cannot."""

    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", family(theta), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    latents, observed = joint.draw(9, seed=0).entries
    x = observed["x"].clone()
    x[7, 2] = torch.tensor(end)
    with pytest.raises(ValueError, match=r"`observed\['x'\]` must lie strictly within .* in row 7 of `data`"):
        pg.fit(likelihood(joint), (latents, {"x": x}), steps=1)
    assert pg.fit(ratio(joint), (latents, {"x": x}), steps=1).reason == "steps"


def test_what_the_recipe_cannot_take_is_named_by_its_simulation():
    joint = Joint(rows, observed="x")
    narrow = likelihood(joint, partial(pg.flows.spline_autoregressive, interval=(-9.0, 9.0)))
    latents, observed = joint.draw(8, seed=0).entries
    x = observed["x"].clamp(-8, 8)
    x[5, 4] = 10.0
    with pytest.raises(ValueError, match="got 10, outside of -9 to 9 in row 5 of `data`"):
        pg.fit(narrow, (latents, {"x": x}), steps=1)


def test_the_loss_is_that_of_a_row_with_all_jacobians():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.LogNormal(theta, 1000.0**0.1).expand([3, 2]).to_event(1), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    module = likelihood(joint)
    simulations = joint.draw(20, seed=0)
    pg.fit(module, simulations, steps=2, seed=0)
    context = simulations.latents["theta"].reshape(20, 1)
    expected = -module(context).log_prob(simulations.observed["x"]).mean()
    torch.testing.assert_close(module.objective()(*simulations.entries), expected)
    x = simulations.observed["x"].clone()
    x[3, 1:] = torch.nan
    kept = module(context).log_prob(simulations.observed["x"])[~x.isnan().all(-1)]
    loss = module.objective()(simulations.latents, {"x": x})
    torch.testing.assert_close(loss, -kept.mean())


@pytest.mark.parametrize("kind", ["real", "positive", "interval"])
def test_the_contract(kind):
    families = {
        "real": lambda theta, s: dist.Normal(theta, s),
        "positive": lambda theta, s: dist.LogNormal(theta, s),
        "interval": lambda theta, s: dist.Beta(theta.exp(), s),
    }

    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("rows", 3):
            family = families[kind](theta, scale)
            pyro.sample("x", family.expand([*family.batch_shape[:-1], 2]).to_event(1), obs=x)

    joint = Joint(program, observed="x", vectorized=False)
    context = {"theta": torch.randn(5), "scale": torch.rand(5) + 0.1}
    report = pg.testing.check_distribution(lambda: likelihood(joint, _small), event_shape=2, context=context)
    report.raise_if_failed()


def _small(event_shape, context_shape, *, embedding):
    return pg.flows.spline_autoregressive(event_shape, context_shape, layers=1, hidden=(16,), embedding=embedding)


@pytest.mark.filterwarnings("ignore:.*loads with `into=` alone")
def test_copies_pickles_and_files_score_alike(tmp_path):
    joint = Joint(rows, observed="x")
    module = likelihood(joint, _small)
    pg.fit(module, joint.draw(20, seed=0), steps=2)
    pg.save(module, tmp_path / "likelihood.safetensors")
    loaded = pg.load(tmp_path / "likelihood.safetensors", into=likelihood(joint, _small))
    context = {"theta": torch.zeros(()), "scale": torch.ones(())}
    x = torch.randn(6)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(twin(context).log_prob(x), module(context).log_prob(x))
    assert copy.deepcopy(module).program is not None
    with pytest.raises(ValueError, match="a pickle does not hold"):
        pickle.loads(pickle.dumps(module)).program  # noqa: B018


def test_another_recipe_and_an_embedding_of_the_parents():
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 4)

        def forward(self, parents):
            return self.linear(torch.stack([parents["theta"], parents["scale"]], -1))

    joint = Joint(rows, observed="x")
    for recipe in (pg.flows.affine_coupling, pg.flows.continuous, pg.diffusion.mlp):
        module = likelihood(joint, recipe, embedding=Both())
        fitted = pg.fit(module, joint.draw(20, seed=0), steps=2, validation=0.2)
        assert fitted.reason == "steps"
    with pytest.raises(TypeError, match="`recipe` must give a DistributionModule"):
        likelihood(joint, lambda *shapes, embedding: torch.nn.Linear(1, 1))
