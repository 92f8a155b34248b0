"""Programs with learned modules in the place of their simulators, here with modules that know the truth."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrogen as pg
from pyrogen.simulation import Joint, Simulator, likelihood, ratio, replaced


class Known(pg.DistributionModule):
    """The normal distribution whose mean and scale are the first two numbers of the context."""

    def __init__(self, event_shape, context_shape, *, embedding=None):
        super().__init__(event_shape, context_shape)
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, context=None):
        mean, scale = context[..., 0] + self.shift, context[..., 1]
        events = len(self.event_shape)
        fit = mean.shape + self.event_shape
        return (
            dist.Normal(mean.reshape(mean.shape + (1,) * events), scale.reshape(mean.shape + (1,) * events))
            .expand(fit)
            .to_event(events)
        )


def rows(x=None, count=5):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
    with pyro.plate("rows", count if x is None else len(x)):
        return pyro.sample("x", dist.Normal(theta, scale), obs=x)


def hierarchy(x=None, groups=3):
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    spread = pyro.sample("spread", dist.Gamma(4.0, 4.0))
    with pyro.plate("groups", groups, dim=-2):
        group = pyro.sample("group", dist.Normal(level, 1.0))
        with pyro.plate("rows", 4 if x is None else x.shape[-1], dim=-1):
            pyro.sample("x", dist.Normal(group, spread), obs=x)


ROWS = Joint(rows, observed="x")
HIERARCHY = Joint(hierarchy, observed="x")


def sums(program, data, values, *args):
    trace = poutine.trace(poutine.condition(program, data=values)).get_trace(data, *args)
    trace.compute_log_prob()
    return {name: site["log_prob_sum"] for name, site in trace.nodes.items() if "log_prob_sum" in site}


def ordered(joint):
    """A likelihood whose context has mean and scale in front, whatever the order of the program."""
    return likelihood(joint, Known)


def test_it_has_the_log_probabilities_of_the_program_in_plates_of_any_number_of_rows():
    program = ordered(ROWS).program
    values = {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2)}
    for count in (1, 5, 50):
        x = torch.randn(count)
        torch.testing.assert_close(sums(program, x, values)["x"], sums(rows, x, values)["x"])
    program = replaced(HIERARCHY, likelihood(HIERARCHY, _by_name))
    values = {"level": torch.tensor(0.1), "spread": torch.tensor(0.7), "group": torch.randn(3, 1)}
    for count in (4, 9):
        x = torch.randn(3, count)
        found, expected = sums(program, x, values), sums(hierarchy, x, values)
        for name in ("level", "spread", "group", "x"):
            torch.testing.assert_close(found[name], expected[name])


def _by_name(event_shape, context_shape, *, embedding=None):
    """Coordinates of the hierarchy: spread, its logarithm, group."""
    return Moved()


class Moved(pg.DistributionModule):
    def __init__(self):
        super().__init__((), (3,))

    def forward(self, context=None):
        return dist.Normal(context[..., 2], context[..., 0])


def test_plates_scales_and_frames_are_those_of_the_program():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 100, subsample_size=5 if x is None else len(x)):
            pyro.sample("x", dist.Normal(theta, scale), obs=x)

    learned = ordered(Joint(program, observed="x", args=(torch.zeros(100),))).program
    x, values = torch.randn(8), {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2)}
    torch.testing.assert_close(sums(learned, x, values)["x"], sums(program, x, values)["x"])
    found, expected = (poutine.trace(each).get_trace(x).nodes["x"] for each in (learned, program))
    assert [tuple(frame)[:3] for frame in found["cond_indep_stack"]] == [
        tuple(frame)[:3] for frame in expected["cond_indep_stack"]
    ]
    assert found["scale"] == expected["scale"] == 100 / 8


def test_the_simulator_does_not_run():
    calls = []

    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        calls.append(float(theta))
        with pyro.plate("rows", 5 if x is None else len(x)):
            pyro.sample(
                "x", Simulator(lambda a, b: calls.append("drawn") or a + b, theta, scale, event_shape=()), obs=x
            )

    joint = Joint(program, observed="x", vectorized=False)
    learned = ordered(joint).program
    x = torch.randn(7)
    poutine.trace(learned).get_trace(x)  # the first call of its kind finds out where the data stand
    calls.clear()
    for seed in range(3):
        trace = poutine.trace(learned).get_trace(torch.randn(7) + seed)
        assert trace.nodes["x"]["value"].shape == (7,)
    assert calls == []
    drawn = Predictive(learned, num_samples=4, return_sites=("x",))()["x"]
    assert drawn.shape == (4, 5)
    assert "drawn" not in calls
    assert len(calls) <= 1


def test_new_data_are_seen_wherever_they_come_from():
    data = {"x": torch.zeros(4)}

    def closed():
        rows(data["x"])

    def scaled(x=None):
        rows(None if x is None else x / 10)

    values = {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2)}
    for program, give in ((closed, lambda x: data.update(x=x) or ()), (scaled, lambda x: (x,)), (rows, lambda x: (x,))):
        joint = Joint(program, observed="x", kwargs={} if program is not rows else {"count": 3})
        learned = ordered(joint).program
        for x in (torch.zeros(4), torch.ones(4)):
            arguments = give(x)
            found, expected = (
                poutine.trace(poutine.condition(each, values)).get_trace(*arguments).log_prob_sum()
                for each in (learned, program)
            )
            torch.testing.assert_close(found, expected)


def test_data_that_were_one_tensor_in_the_first_call_are_two_in_the_next():
    def program(x=None, y=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        pyro.sample("x", dist.Normal(theta, scale), obs=x)
        pyro.sample("y", dist.Normal(theta, scale), obs=y)

    joint = Joint(program, observed=("x", "y"))
    learned = replaced(joint, *(likelihood(joint, Known, site=site) for site in ("x", "y")))
    same = torch.tensor(1.0)
    poutine.trace(learned).get_trace(same, same)
    nodes = poutine.trace(learned).get_trace(torch.tensor(2.0), torch.tensor(5.0)).nodes
    assert (nodes["x"]["value"], nodes["y"]["value"]) == (2, 5)


def test_masks_of_the_program_stay():
    def program(x=None, mask=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 4), poutine.mask(mask=torch.ones(4).bool() if mask is None else mask):
            pyro.sample("x", dist.Normal(theta, scale), obs=x)

    learned = ordered(Joint(program, observed="x")).program
    values = {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2)}
    x, mask = torch.randn(4), torch.tensor([True, False, True, True])
    torch.testing.assert_close(sums(learned, x, values, mask)["x"], sums(program, x, values, mask)["x"])


def test_inference_leaves_what_was_learned_as_it_is():
    module = ordered(ROWS)
    program = module.program
    x = torch.randn(20) + 1
    guide = AutoNormal(program)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert module.conditional.shift.item() == 0
    assert all(not parameter.requires_grad for parameter in program.parameters())


@pytest.mark.parametrize("kernel", [NUTS, lambda program: HMC(program, step_size=0.3, num_steps=5)])
def test_chains_and_arviz(kernel):
    pyro.set_rng_seed(0)
    x = torch.randn(20) * 0.5 + 1
    chain = MCMC(kernel(ordered(ROWS).program), num_samples=100, warmup_steps=100, disable_progbar=True)
    chain.run(x)
    assert abs(chain.get_samples()["theta"].mean() - x.mean()) < 0.1
    data = pg.analysis.to_arviz(chain)
    assert {"theta", "scale"} <= set(data["posterior"].data_vars)


def test_several_sites_are_replaced_by_several_modules():
    def program(x=None, y=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 3):
            x = pyro.sample("x", dist.Normal(theta, scale), obs=x)
        later = pyro.sample("later", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x.sum(-1) + later, 1.0), obs=y)

    joint = Joint(program, observed=("x", "y"), vectorized=False)
    first, second = likelihood(joint, Known, site="x"), likelihood(joint, Sums, site="y")
    values = {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2), "later": torch.tensor(0.5)}
    x, y = torch.randn(3), torch.tensor(0.7)
    for modules in ((first, second), (first,), (second,)):
        found = sums(replaced(joint, *modules), x, values, y)
        expected = sums(program, x, values, y)
        for name in ("x", "y", "later"):
            torch.testing.assert_close(found[name], expected[name])
    with pytest.raises(ValueError, match="different sites"):
        replaced(joint, first, first)
    with pytest.raises(ValueError, match="different sites"):
        replaced(joint)
    with pytest.raises(TypeError, match="learned likelihoods and ratios"):
        replaced(joint, torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="`joint` must be a Joint"):
        replaced(program, first)


class Sums(pg.DistributionModule):
    """The coordinates are those of x, then of later."""

    def __init__(self, event_shape, context_shape, *, embedding=None):
        super().__init__(event_shape, context_shape)

    def forward(self, context=None):
        return dist.Normal(context.sum(-1), 1.0)


def test_nuisance_that_was_summed_out_is_not_shown_to_inference():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 3):
            own = pyro.sample("own", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(theta + own, scale), obs=x)

    learned = ordered(Joint(program, observed="x", nuisance="own")).program
    trace = poutine.trace(learned).get_trace(torch.randn(3))
    assert set(trace.nodes) & {"theta", "scale", "own", "x"} == {"theta", "scale", "x"}

    def deeper(x=None):
        hyper = pyro.sample("hyper", dist.Normal(0.0, 1.0))
        theta = pyro.sample("theta", dist.Normal(hyper, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        pyro.sample("x", dist.Normal(theta, scale), obs=x)

    learned = ordered(Joint(deeper, observed="x", nuisance="hyper")).program
    assert "hyper" in poutine.trace(learned).get_trace(torch.zeros(())).nodes


def test_bad_data_are_refused_by_name():
    with pytest.raises(ValueError, match="data of site 'x' must hold no NaN"):
        poutine.trace(ordered(ROWS).program).get_trace(torch.tensor([0.0, torch.nan]))

    def vectors(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(theta[..., None], scale[..., None]).expand([3, 2]).to_event(1), obs=x)

    program = ordered(Joint(vectors, observed="x", vectorized=False)).program
    with pytest.raises(ValueError, match=r"data of site 'x' must end in shape \(2,\)"):
        poutine.trace(program).get_trace(torch.zeros(3, 4))


def test_missing_rows_are_those_that_a_mask_hides():
    def program(x=None, mask=None, other=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 3), poutine.mask(mask=torch.ones(3).bool() if mask is None else mask):
            pyro.sample("x", dist.Normal(theta, scale), obs=x, obs_mask=other)

    learned, hidden = likelihood(Joint(program, observed="x")).program, torch.tensor([True, False, True])
    values = {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2)}
    found = sums(learned, torch.tensor([0.5, torch.nan, 1.0]), values, hidden)["x"]
    assert found == sums(learned, torch.tensor([0.5, 7.0, 1.0]), values, hidden)["x"]
    with pytest.raises(ValueError, match="no NaN in rows that no mask hides, got 1"):
        sums(learned, torch.tensor([0.5, torch.nan, torch.nan]), values, hidden)
    with pytest.raises(ValueError, match="without \\['x'\\] .*`obs_mask`: write `poutine.mask`"):
        sums(learned, torch.zeros(3), values, None, hidden)


def test_a_size_among_the_arguments_may_be_a_tensor():
    def program(x=None, total=torch.tensor(3)):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", int(total), subsample_size=None if x is None else len(x)):
            pyro.sample("x", dist.Normal(theta, scale), obs=x)

    learned, x = ordered(Joint(program, observed="x")).program, torch.randn(5)
    values = {"theta": torch.tensor(0.3), "scale": torch.tensor(1.2)}
    for total in map(torch.tensor, (100, 1000)):
        torch.testing.assert_close(sums(learned, x, values, total)["x"], sums(program, x, values, total)["x"])


def test_evidence_and_weights_are_those_of_the_program():
    x = torch.tensor([0.5, 1.5, 0.2])

    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3 if x is None else len(x)):
            pyro.sample("x", dist.Normal(theta, 1.0), obs=x)

    class Unit(Known):
        def forward(self, context=None):
            return dist.Normal(context[..., 0], 1.0)

    def guide(x=None):
        pyro.sample("theta", dist.Normal(0.55, 0.55))

    learned = likelihood(Joint(program, observed="x"), Unit).program
    cov = torch.eye(3) + 1
    exact = dist.MultivariateNormal(torch.zeros(3), cov).log_prob(x)
    pyro.set_rng_seed(0)
    found = pg.evaluation.importance_weighted_log_likelihood(learned, guide, x, draws=500, whole=True)
    assert abs(found.value - exact) < 0.03
    assert float(pg.evaluation.pareto_k(learned, guide, x, draws=500, whole=True).values) < 0.7
    importance = Importance(learned, guide, num_samples=100).run(x)
    assert abs(importance.get_log_normalizer() - exact) < 0.1


def test_predictive_draws_data_of_the_learned_likelihood():
    program = ordered(ROWS).program
    posterior = {"theta": torch.full((200,), 3.0), "scale": torch.full((200,), 0.1)}
    for parallel in (False, True):
        x = Predictive(program, posterior, parallel=parallel, return_sites=("x",))()["x"]
        assert x.shape == (200, 5)
        assert abs(x.mean() - 3) < 0.05


def test_a_ratio_takes_the_same_place():
    program = ratio(ROWS).program
    trace = poutine.trace(program).get_trace(torch.randn(9))
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (9,)
    assert pg.density_of(trace.nodes["x"]["fn"]) == "unnormalized"
