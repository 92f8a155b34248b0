"""A table of entries and bad inputs: each is refused by name, by an error of ours; degenerate ones are right."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen import analysis, evaluation
from pyrogen.core.estimate import permutation_p_value
from pyrogen.core.module import DistributionModule
from pyrogen.evaluation import Amortized, EcdfNull, Estimate, TestResult

NAN, INF = float("nan"), float("inf")
GENERATOR = torch.Generator().manual_seed(0)
SAMPLE, OTHER = (torch.randn(20, 2, generator=GENERATOR) for _ in range(2))
SCORES, DATA = (torch.randn(20, generator=GENERATOR) for _ in range(2))
RANKS, WEIGHTS = torch.arange(100), torch.randn(100, 5, generator=GENERATOR)
IMAGES, IMAGE = torch.rand(2, 3, 8, 8, generator=GENERATOR), torch.rand(8, 8, generator=GENERATOR)
LEVELS, LATENT = torch.linspace(0, 1, 5), torch.zeros(4)
STANDARD = dist.Normal(torch.zeros(2), 1.0).to_event(1)


class Labelled(DistributionModule):
    def __init__(self):
        super().__init__((2,), ())

    def forward(self, context=None):
        return dist.Normal(context.float()[..., None] * torch.ones(2), 1.0).to_event(1)


class Energy(DistributionModule):
    """A module that declares a density that scores cannot use."""

    def __init__(self, density):
        super().__init__((2,))
        self.density = density

    def forward(self, context=None):
        return STANDARD


def model(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.5))


def decode(z):
    return dist.Normal(torch.zeros(*z.shape[:-1], 1, 8, 8), 1.0).to_event(3)


def with_first(values, number):
    changed = values.clone().double()
    changed[0] = number
    return changed


def no_tensors(values):
    return {
        "words": np.array(["a", "b"]),
        "list": values.tolist(),
        "None": None,
        "text": "x",
        "number": 3,
        "complex": values.to(torch.complex64),
    }


def no_samples(values):
    return no_tensors(values) | {
        "NaN": with_first(values, NAN),
        "infinity": with_first(values, INF),
        "minus infinity": with_first(values, -INF),
        "nothing": values[:0],
        "one": values[:1],
        "no dimension": torch.tensor(1.0),
    }


def no_scores(values):
    return no_tensors(values) | {"NaN": with_first(values, NAN)}


def no_figures(values):
    return {
        "text": "x",
        "None": None,
        "complex": values.to(torch.complex64),
        "NaN alone": values * NAN,
        "infinity": with_first(values, INF),
        "minus infinity": with_first(values, -INF),
        "nothing": values[:0],
        "words": ["a", "b"],
    }


NO_COUNTS = {"zero": 0, "negative": -1, "half": 2.5, "NaN": NAN, "text": "3", "None": None, "True": True, "list": [3]}
NO_LEVELS = {"zero": 0, "one": 1, "percent": 95, "NaN": NAN, "text": "a", "None": None, "negative": -0.5, "list": [0.5]}
NO_PROGRAMS = {"None": None, "text": "a", "number": 1}

TABLE = []


def entry(name, function, **bad):
    """Function is called with one argument replaced, for each of the bad values of each argument."""
    for argument, values in bad.items():
        TABLE.extend(
            pytest.param(partial(function, **{argument: value}), argument, id=f"{name}, {argument}: {kind}")
            for kind, value in values.items()
        )


def overridable(function, **defaults):
    return lambda **given: function(**(defaults | given))


for test in ("mmd_test", "energy_test", "classifier_test", "cross_validated_classifier_test"):
    few = overridable(getattr(evaluation, test), x=SAMPLE, y=OTHER, permutations=3)
    generators = {"seed": 3, "text": "a"}
    entry(test, few, x=no_samples(SAMPLE), y=no_samples(OTHER), permutations=NO_COUNTS, generator=generators)
for distance in ("squared_mmd", "energy_distance"):
    call = overridable(getattr(evaluation, distance), x=SAMPLE, y=OTHER)
    entry(distance, call, x=no_samples(SAMPLE), y=no_samples(OTHER))
mmd = overridable(evaluation.mmd_test, x=SAMPLE, y=OTHER, permutations=3)
entry("mmd_test", mmd, kernel={"text": "gaussian", "class": evaluation.kernels.GaussianKernel})
entry("mmd_test", mmd, x={"too large": 1e300 * SAMPLE.double()})
split = overridable(evaluation.classifier_test, x=SAMPLE, y=OTHER, permutations=3)
entry("classifier_test", split, held_out=NO_LEVELS | {"too little": 0.001}, classifier={"text": "a", "class": dict})
folds = overridable(evaluation.cross_validated_classifier_test, x=SAMPLE, y=OTHER, permutations=3)
entry("cross_validated_classifier_test", folds, folds=NO_COUNTS | {"one": 1, "many": 50})

for score in ("density_p_value", "two_sided_p_value", "typicality", "typicality_test"):
    call = overridable(getattr(evaluation, score), log_probs=SCORES, reference=SCORES)
    no_reference = no_scores(SCORES) | {"nothing": SCORES[:0], "a matrix": SAMPLE, "no dimension": torch.tensor(1.0)}
    entry(score, call, log_probs=no_scores(SCORES), reference=no_reference)
ratio = overridable(evaluation.likelihood_ratio, log_probs=SCORES, background=SCORES)
no_background = {name: value for name, value in no_scores(SCORES).items() if name != "None"} | {"short": SCORES[:3]}
entry("likelihood_ratio", ratio, log_probs=no_scores(SCORES), background=no_background)
joint = overridable(evaluation.joint_typicality, statistics=SAMPLE, reference=SAMPLE)
no_several = no_tensors(SAMPLE) | {"NaN": SAMPLE * NAN, "vector": SCORES, "infinity": SAMPLE * INF}
entry("joint_typicality", joint, statistics=no_several, reference=no_several | {"few": SAMPLE[:1]})
criterion = overridable(evaluation.waic, log_probs=SAMPLE)
entry("waic", criterion, log_probs=no_scores(SCORES) | {"one": SCORES[:1], "infinity": SAMPLE * INF})
length = overridable(evaluation.code_length, images=torch.zeros(1, 4, 4))
no_images = {"None": None, "text": "a", "matrix": torch.zeros(4, 4), "halves": torch.full((1, 4, 4), 0.5)}
no_images |= {"negative": -torch.ones(1, 4, 4), "NaN": torch.full((1, 4, 4), NAN), "large": torch.full((1, 4, 4), 256)}
entry("code_length", length, images=no_images | {"no pixels": torch.zeros(3, 0, 4)}, symbols=NO_COUNTS)
roc = overridable(evaluation.auroc, inliers=SCORES, outliers=SCORES)
no_group = no_scores(SCORES) | {"one": SCORES[:1], "nothing": SCORES[:0], "a matrix": SAMPLE}
entry("auroc", roc, inliers=no_group, outliers=no_group)

no_data = no_tensors(SAMPLE) | {"NaN": with_first(SAMPLE, NAN), "nothing": SAMPLE[:0], "vector": SCORES}
no_data |= {"booleans": SAMPLE > 0}
no_module = {"None": None, "text": "a", "function": model, "batch": STANDARD.expand([3])}
for score in ("log_probs", "log_likelihood"):
    call = overridable(getattr(evaluation, score), module=STANDARD, x=SAMPLE)
    entry(score, call, module=no_module, x=no_data, batch_size=NO_COUNTS, context={"unasked": SAMPLE})
bits = overridable(evaluation.bits_per_dimension, module=STANDARD, x=SAMPLE, log_volume=0.0)
no_volume = {"NaN": NAN, "infinity": INF, "text": "a", "None": None, "three": torch.zeros(3)}
entry("bits_per_dimension", bits, module=no_module, x=no_data, log_volume=no_volume, batch_size=NO_COUNTS)
difference = overridable(evaluation.log_likelihood_difference, module=STANDARD, baseline=STANDARD, x=SAMPLE)
entry("log_likelihood_difference", difference, x=no_data, module=no_module, baseline=no_module)
no_prior = {"list": [0.0, 0.0, 0.0], "two": torch.zeros(2), "NaN": torch.full((3,), NAN)}
no_prior |= {"no class": torch.full((3,), -INF), "infinity": torch.full((3,), INF)}
for rule in ("bayes_classifier", "class_marginal"):
    bayes = overridable(getattr(evaluation, rule), module=Labelled(), x=SAMPLE, classes=3)
    entry(rule, bayes, x=no_data, classes=NO_COUNTS, module=no_module, log_prior=no_prior)

no_batch = no_samples(DATA) | {"complex": DATA.to(torch.complex64)}
for score in (
    "importance_log_weights",
    "importance_weighted_log_probs",
    "importance_weighted_log_likelihood",
    "pareto_k",
    "collapse_report",
    "amortization_gap",
):
    function = getattr(evaluation, score)
    counts = {"draws": 3, "steps": 2, "evaluation_draws": 3} if score == "amortization_gap" else {"draws": 30}

    def on(batch, model=model, guide=guide, function=function, counts=counts, **given):
        return function(model, guide, batch, **(counts | given))

    bad = {key: value for key, value in no_batch.items() if key != "one"}
    entry(score, on, batch=bad)
    call = partial(on, DATA)
    entry(score, call, model=NO_PROGRAMS, guide=NO_PROGRAMS, draws=NO_COUNTS, batch_size=NO_COUNTS)
    if score == "amortization_gap":
        rates = {"zero": 0.0, "negative": -1.0, "NaN": NAN, "infinity": INF, "text": "a"}
        entry(score, call, steps=NO_COUNTS, evaluation_draws=NO_COUNTS, learning_rate=rates)
no_weights = no_tensors(WEIGHTS) | {"NaN": with_first(WEIGHTS, NAN), "infinity": with_first(WEIGHTS, INF)}
no_weights |= {"few": WEIGHTS[:24], "vector": WEIGHTS[:, 0], "no rows": WEIGHTS[:, :0], "nothing": WEIGHTS[:0]}
entry("pareto_k_of", evaluation.pareto_k_of, log_weights=no_weights)

no_ranks = no_tensors(RANKS) | {"floats": RANKS.float(), "too large": RANKS + 1, "negative": RANKS - 1}
no_ranks |= {"booleans": RANKS > 3, "nothing": RANKS[:0], "a matrix": RANKS[None]}
no_credibility = {"list": [0.5], "number": 0.5, "NaN": torch.tensor([NAN])}
no_credibility |= {"percent": torch.tensor([95.0]), "a matrix": torch.rand(2, 2)}
for test in ("chi_square_test", "highest_coverage", "central_coverage"):
    call = overridable(getattr(evaluation, test), ranks=RANKS, draws=99)
    entry(test, call, ranks=no_ranks, draws=NO_COUNTS)
    if test != "chi_square_test":
        entry(test, call, levels=no_credibility)
bins = {key: value for key, value in NO_COUNTS.items() if key != "None"} | {"one": 1, "too many": 21}
entry("chi_square_test", overridable(evaluation.chi_square_test, ranks=RANKS, draws=99), bins=bins)
null = overridable(EcdfNull, simulations=10, draws=9)
entry("EcdfNull", null, simulations=NO_COUNTS, draws=NO_COUNTS)
entry("EcdfNull.test", overridable(lambda ranks: EcdfNull(100, 99).test(ranks)), ranks=no_ranks)
entry("EcdfNull.band", lambda level: EcdfNull(100, 99).band(RANKS, level), level=NO_LEVELS)

calibrate = overridable(
    evaluation.simulation_based_calibration,
    model=model,
    posterior=Amortized(guide, "x"),
    observed="x",
    simulations=30,
    draws=9,
)
no_posterior = NO_PROGRAMS | {
    "array": lambda data, draws: {"z": np.zeros((draws, 30))},
    "NaN": lambda data, draws: {"z": torch.full((draws, 30), NAN)},
    "list": lambda data, draws: [1],
    "nothing": lambda data, draws: None,
    "shape": lambda data, draws: {"z": torch.zeros(draws)},
}
no_quantity = {"array": {"a": lambda latents, data: np.zeros(30)}, "constant": {"a": 3}, "list": [1]}
no_quantity |= {"NaN": {"a": lambda latents, data: latents["z"] * NAN}}
no_name = {"None": None, "number": 3, "nothing": [], "unknown": "w"}
entry(
    "simulation_based_calibration",
    calibrate,
    model=NO_PROGRAMS,
    posterior=no_posterior,
    observed=no_name,
    coordinates={"number": 3, "unknown": "w"},
    quantities=no_quantity,
    generator={"seed": 3},
    simulations=NO_COUNTS,
    draws=NO_COUNTS,
    batch_size={key: value for key, value in NO_COUNTS.items() if key != "None"},
)
entry("Amortized", overridable(Amortized, guide=guide), guide=NO_PROGRAMS, observed={"number": 3, "nothing": []})
entry(
    "compare", overridable(evaluation.compare, models={"a": STANDARD}, data=SAMPLE), data=no_data | {"3d": SAMPLE[None]}
)
entry("Estimate.of_mean", Estimate.of_mean, values=no_scores(SCORES) | {"nothing": SCORES[:0]})
entry("Estimate.of_mean", Estimate.of_mean, values={"both": torch.tensor([INF, -INF])})
entry("Estimate", overridable(Estimate, value=0.0, standard_error=1.0), value={"NaN": NAN}, standard_error={"-1": -1.0})
entry("Estimate.interval", Estimate(0.0, 1.0).interval, level=NO_LEVELS)
entry("TestResult", overridable(TestResult, statistic=0.0, p_value=0.5), statistic={"NaN": NAN})
entry("TestResult", overridable(TestResult, statistic=0.0, p_value=0.5), p_value={"NaN": NAN, "two": 2.0, "-1": -1.0})
entry("permutation_p_value", partial(permutation_p_value, 1.0), null={"NaN": torch.tensor([NAN, 1.0])})

grids = overridable(analysis.image_grid, data=IMAGES, samples=IMAGES)
no_limits = {"NaN": (NAN, 1), "reversed": (1, 0), "one": (1,), "text": "ab"}
no_images = no_figures(IMAGES) | {"one image": IMAGE}
entry("image_grid", grids, data=no_images, samples=no_images, limits=no_limits)
restored = overridable(analysis.posterior_images, truth=IMAGE, observation=IMAGE, draws=IMAGE.expand(5, 8, 8))
no_image = no_figures(IMAGE) | {"vector": SCORES}
entry("posterior_images", restored, draws=no_figures(IMAGE.expand(5, 8, 8)), observation=no_image, limits=no_limits)
entry("posterior_images", restored, truth={key: value for key, value in no_image.items() if key != "None"})
shown = {key: value for key, value in NO_COUNTS.items() if key != "zero"}
entry("posterior_images", restored, shown=shown)
histogram = overridable(analysis.posterior_histogram, draws=SCORES)
entry(
    "posterior_histogram", histogram, draws=no_figures(SCORES), truth={"NaN": NAN, "text": "a", "two": torch.zeros(2)}
)
entry("posterior_histogram", histogram, prior={"text": "a", "event": STANDARD})
for figure in ("rank_histogram", "rank_ecdf"):
    call = overridable(getattr(analysis, figure), ranks={"a": RANKS}, draws=99)
    no_rank = {"None": None, "tensor": RANKS, "nothing": {}, "empty": {"a": RANKS[:0]}, "floats": {"a": SCORES}}
    entry(figure, call, ranks=no_rank | {"words": {"a": ["x"]}}, draws=NO_COUNTS, level=NO_LEVELS)
entry("rank_histogram", overridable(analysis.rank_histogram, ranks={"a": RANKS}, draws=99), bins=NO_COUNTS)
curve = overridable(analysis.coverage_curve, levels=LEVELS, coverage={"a": LEVELS}, count=10)
no_coverage = {"None": None, "NaN": {"a": LEVELS * NAN}, "above one": {"a": LEVELS + 1}, "words": {"a": ["x"] * 5}}
no_level = no_figures(LEVELS) | {"percent": 100 * LEVELS}
entry("coverage_curve", curve, levels=no_level, coverage=no_coverage, count=NO_COUNTS, level=NO_LEVELS)
outliers = overridable(analysis.outlier_scores, inliers=SCORES, outliers={"a": SCORES})
no_kind = {"None": None, "tensor": SCORES, "nothing": {}, "NaN": {"a": SCORES * NAN}, "empty": {"a": SCORES[:0]}}
no_inliers = {"text": "x", "None": None, "NaN": with_first(SCORES, NAN), "nothing": SCORES[:0], "words": ["a"]}
entry("outlier_scores", outliers, inliers=no_inliers, outliers=no_kind, bins=NO_COUNTS)
entry("training_history", analysis.training_history, fit={"None": None, "list": [1.0], "text": "a"})
traversals = overridable(analysis.latent_traversals, decode=decode, z=LATENT)
no_latent = no_tensors(LATENT) | {"NaN": LATENT * NAN, "integers": LATENT.long(), "booleans": LATENT > 0}
no_value = {"NaN": [NAN], "nothing": [], "text": "ab", "number": 3}
no_element = {"too large": [9], "nothing": [], "half": [1.5], "number": 3, "text": "ab"}
no_decode = NO_PROGRAMS | {"tensors": lambda z: z}
entry("latent_traversals", traversals, z=no_latent, values=no_value, elements=no_element, decode=no_decode)
entry("latent_traversals", traversals, image_shape={"too small": (3, 3), "text": "a"})
paths = overridable(analysis.latent_paths, decode=decode, first=LATENT[None], last=LATENT[None] + 1)
no_end = no_tensors(LATENT[None]) | {"NaN": LATENT[None] * NAN, "vector": LATENT, "integers": LATENT[None].long()}
entry("latent_paths", paths, first=no_end, last=no_end, steps=NO_COUNTS | {"one": 1}, decode=no_decode)
to_arviz = overridable(analysis.to_arviz, posterior={"a": torch.randn(20)})
no_draws = {"None": None, "number": 3, "text": "a", "nothing": {}, "unequal": {"a": SCORES, "b": SCORES[:3]}}
no_draws |= {"one number": {"a": torch.tensor(1.0)}, "words": {"a": ["x"]}}
counts = {key: value for key, value in NO_COUNTS.items() if key != "None"}
entry("to_arviz", to_arviz, posterior=no_draws, chains=NO_COUNTS | {"seven": 7}, draws=counts, local_draws=NO_COUNTS)
entry("to_arviz", to_arviz, prior={key: value for key, value in NO_COUNTS.items() if key != "zero"})


@pytest.mark.parametrize(("call", "argument"), TABLE)
def test_a_bad_input_is_refused_by_name(call, argument):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert f"`{argument}" in str(caught.value) or _names_what_it_is_compared_with(argument, str(caught.value))


def _names_what_it_is_compared_with(argument, message):
    """Where two arguments have to agree, the error names the other one, or both."""
    partners = {"log_probs": "`background`", "x": "`x` and `y`", "y": "`x` and `y`", "levels": "`coverage["}
    partners |= {"module": "`context_shape`", "z": "`elements`", "samples": "`samples`", "batch": "`batch`"}
    return argument in partners and partners[argument] in message


@pytest.mark.parametrize("density", ["unnormalized", None])
@pytest.mark.parametrize(
    "call",
    [
        lambda module: evaluation.log_likelihood(module, SAMPLE),
        lambda module: evaluation.bits_per_dimension(module, SAMPLE, log_volume=0.0),
        lambda module: evaluation.log_likelihood_difference(module, STANDARD, SAMPLE),
        lambda module: evaluation.log_likelihood_difference(STANDARD, module, SAMPLE),
        lambda module: evaluation.compare({"a": module}, SAMPLE),
    ],
)
def test_a_density_that_cannot_be_compared_is_refused_by_name(call, density):
    with pytest.raises(NotImplementedError, match=f"Energy has density {density!r}"):
        call(Energy(density))


def test_log_probs_of_energies_serve_ranks_and_those_of_nothing_do_not():
    assert evaluation.log_probs(Energy("unnormalized"), SAMPLE).shape == (20,)
    with pytest.raises(NotImplementedError, match="Energy has density None"):
        evaluation.log_probs(Energy(None), SAMPLE)


# Degenerate, and right


def test_constant_data_are_data():
    constant = torch.ones(20, 2)
    assert evaluation.energy_test(constant, constant, permutations=19).p_value == 1.0
    assert evaluation.energy_test(constant, constant + 1, permutations=99).p_value == pytest.approx(0.01)
    assert evaluation.energy_distance(constant[:, :1], constant[:, :1] + 3) == pytest.approx(6.0)
    assert evaluation.classifier_test(constant, constant, permutations=19).p_value == 1.0
    with pytest.raises(ValueError, match="`kernel` must have a `bandwidth`"):
        evaluation.mmd_test(constant, constant)
    kernel = evaluation.kernels.GaussianKernel(1.0)
    assert evaluation.mmd_test(constant, constant, kernel=kernel, permutations=19).p_value == 1.0


def test_equal_scores_separate_nothing():
    equal = evaluation.auroc(torch.zeros(5), torch.zeros(7))
    assert (equal.value, equal.standard_error) == (0.5, 0.0)


def test_impossible_data_have_no_likelihood_and_a_certain_verdict():
    beyond = torch.tensor([[INF, 0.0]])
    estimate = evaluation.log_likelihood(STANDARD, beyond)
    assert estimate.value == -INF
    assert np.isnan(estimate.standard_error)
    uniform = dist.Uniform(torch.zeros(2), torch.ones(2)).to_event(1)
    with pytest.raises(ValueError, match="`x` must hold events of Independent"):
        evaluation.log_likelihood(uniform, torch.tensor([[2.0, 0.5]]))


def test_one_datum_has_a_value_and_no_error():
    estimate = evaluation.log_likelihood(STANDARD, SAMPLE[:1])
    assert estimate.value == pytest.approx(float(STANDARD.log_prob(SAMPLE[0])))
    assert np.isnan(estimate.standard_error)
    assert evaluation.density_p_value(torch.tensor([0.0]), torch.tensor([1.0])).tolist() == [0.5]


def test_weights_that_are_all_zero_are_worth_nothing():
    result = evaluation.pareto_k_of(torch.full((100, 3), -INF))
    assert result.effective_sample_size.tolist() == [0.0] * 3
    assert result.values.isposinf().all()
    assert result.share_above == 1.0


def test_few_ranks_have_no_chi_square():
    with pytest.raises(ValueError, match="`ranks` must be enough for five in each of the 2 `bins`, got 4"):
        evaluation.chi_square_test(torch.tensor([0, 3, 5, 9]), 9)
    assert EcdfNull(1, 9).test(torch.tensor([4])).p_value > 0.5
