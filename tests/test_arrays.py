"""NumPy arrays and tables of pandas: what becomes of them, and the same numbers from every entry that takes data."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_programs import Gaussian
from torch import Tensor, nn

import pyrogen as pg
from pyrogen import analysis, evaluation, inverse, operators, simulation
from pyrogen.arrays import as_tensors, takes_arrays

FLOATS = arrays.floating_dtypes(endianness="?")
WHOLE = arrays.integer_dtypes(endianness="?") | arrays.unsigned_integer_dtypes(endianness="?", sizes=(8, 16, 32))
VIEWS = [lambda a: a, np.transpose, lambda a: a[::-1], lambda a: a[..., ::2]]


@given(st.data(), FLOATS | WHOLE | arrays.boolean_dtypes(), arrays.array_shapes(min_dims=1, max_dims=3, min_side=0))
def test_an_array_becomes_the_tensor_of_its_numbers(data, dtype, shape):
    elements = {"min_value": -60000, "max_value": 60000} if dtype.kind == "f" else {}
    array = data.draw(arrays.arrays(dtype, shape, elements=elements))
    array = data.draw(st.sampled_from(VIEWS))(array)
    array.flags.writeable = data.draw(st.booleans())
    found = as_tensors(array, "x")
    assert found.shape == array.shape
    assert found.is_floating_point() == (dtype.kind == "f")
    if dtype.kind == "f":
        assert found.dtype == torch.get_default_dtype()
    assert found.is_contiguous()
    assert np.array_equal(found.numpy(), array.astype(np.float32) if dtype.kind == "f" else array, equal_nan=True)


@pytest.mark.parametrize("default", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floating_point_numbers_take_torchs_default_dtype(default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for kind in (np.float16, np.float32, np.float64, np.longdouble):
            assert as_tensors(np.array([0.5], kind), "x").dtype == default
        assert as_tensors(np.array([1j]), "x").dtype == (
            torch.complex128 if default == torch.float64 else torch.complex64
        )
        assert as_tensors(np.array([3], np.int32), "x").dtype == torch.int32
        assert as_tensors(np.array([True]), "x").dtype == torch.bool
    finally:
        torch.set_default_dtype(before)


def test_memory_is_shared_where_it_can_be():
    array, table = np.zeros((3, 2), np.float32), pd.DataFrame(np.zeros((3, 2)))
    assert np.shares_memory(as_tensors(array, "x").numpy(), array)
    fixed = array.copy()
    fixed.flags.writeable = False
    assert not np.shares_memory(as_tensors(fixed, "x").numpy(), fixed)
    assert as_tensors(table, "x").add_(1).sum() == 6
    assert table.to_numpy().sum() == 0


def test_everything_else_passes_as_it_is():
    values = (torch.zeros(2), nn.Linear(1, 1), np.float64(0.5), 3, "x", None, [1.0], {"a": torch.zeros(1)}, (1, 2))
    for value in values:
        assert as_tensors(value, "x") is value
    nested = as_tensors(({"a": np.zeros(2)}, 3, torch.zeros(1)), "x")
    assert isinstance(nested[0]["a"], Tensor)
    assert nested[1:] == (3, torch.zeros(1))


@takes_arrays
def entry(x, *rest, context=None, **sites):
    return x


NUMBERS = pd.DataFrame({"age": [30.0, 41.0], "children": [0, 2], "insured": [True, False]})
WRONG = {
    "words": (
        NUMBERS.assign(city=["Lima", "Oslo"]),
        TypeError,
        r"`{}` must hold numbers, got the column 'city' \(str\)",
    ),
    "categories": (
        NUMBERS.astype({"children": "category"}),
        TypeError,
        r"`{}` must.*'children' \(category\).*encode them.*get_dummies.*cat.codes",
    ),
    "dates": (NUMBERS.assign(born=pd.Timestamp("1990-01-01")), TypeError, r"`{}` must.*'born' \(datetime64"),
    "objects": (NUMBERS.astype({"age": object}), TypeError, r"`{}` must hold numbers.*'age' \(object\)"),
    "many": (pd.DataFrame([["a"] * 9]), TypeError, r"columns 0 \(.*, 4 \(.*\) and 4 more"),
    "holes": (
        NUMBERS.assign(age=[30.0, None]),
        ValueError,
        r"`{}` must hold no missing.*'age' \(1 missing\).*to_numpy",
    ),
    "no integer": (
        NUMBERS.assign(children=pd.array([0, None], dtype="Int64")),
        ValueError,
        r"`{}` must hold no missing values, got the column 'children' \(1 missing\)",
    ),
    "a column of words": (pd.Series(["a", "b"], name="city"), TypeError, r"`{}` must hold numbers.*'city'"),
    "a categorical": (pd.Categorical([1, 2]), TypeError, r"`{}` must hold numbers, got the column 0 \(category\)"),
    "a masked entry": (
        np.ma.masked_array([1.0, 2.0], [False, True]),
        ValueError,
        "`{}` must hold no masked entries, got 1",
    ),
    "an array of words": (np.array(["a", "b"]), TypeError, "`{}` must hold numbers, got an array of <U1"),
    "records": (NUMBERS.to_records(), TypeError, "`{}` must hold numbers, got an array of"),
    "too large": (np.array([1e300]), ValueError, "`{}` must hold numbers that fit torch.float32"),
    "too large integers": (
        np.array([2**64 - 1], np.uint64),
        ValueError,
        "`{}` must hold integers that fit torch.int64",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_holds_no_numbers_is_refused_by_the_name_of_the_argument_and_its_columns(case):
    value, error, message = WRONG[case]
    for call, name in (
        (entry, "x"),
        (partial(entry, 0), r"rest\[0\]"),
        (lambda v: entry(0, context=v), "context"),
        (lambda v: entry(0, y=v), "y"),
        (lambda v: entry({"a": v}), r"x\['a'\]"),
        (lambda v: pg.fit(Gaussian(), v, steps=1), "data"),
        (lambda v: pg.fit(Gaussian(), (torch.zeros(2, 2), v), steps=1), r"data\[1\]"),
        (lambda v: pg.fit(Gaussian(), torch.zeros(2, 2), validation=v, steps=1), "validation"),
        (lambda v: evaluation.energy_test(torch.zeros(2, 2), v), "y"),
    ):
        with pytest.raises(error, match=message.format(name)):
            call(value)


def test_tables_of_several_dtypes_become_numbers_of_one():
    found = as_tensors(NUMBERS, "x")
    assert found.tolist() == [[30.0, 0.0, 1.0], [41.0, 2.0, 0.0]]
    kinds = NUMBERS.astype({"age": "Float64", "children": "Int64", "insured": "boolean"})
    assert as_tensors(kinds, "x").tolist() == found.tolist()
    assert as_tensors(kinds["children"], "x").dtype == torch.int64
    assert as_tensors(kinds["insured"], "x").dtype == torch.bool
    holes = kinds.shift().to_numpy(float, na_value=np.nan)  # the way that the error names
    assert as_tensors(holes, "x").isnan().sum() == 3


def test_pandas_is_not_imported_for_others():
    code = (
        "import sys, numpy as np; from pyrogen.arrays import as_tensors; "
        "as_tensors(np.eye(4), 'x'); sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The same seed gives the same numbers, whatever holds the data.

NOISE = torch.Generator().manual_seed(1)
X, Y = torch.randn(24, 2, generator=NOISE), torch.randn(24, 2, generator=NOISE) + 0.5
SCORES, OTHERS = torch.randn(60, generator=NOISE), torch.randn(60, generator=NOISE)
WEIGHTS, RANKS = torch.randn(30, 3, generator=NOISE), torch.arange(40) % 10
IMAGES = torch.rand(6, 1, 8, 8, generator=NOISE)
LABELS = torch.arange(24) % 3
LEVELS = torch.tensor([0.5, 0.9])


def array_of(value):
    return value.double().numpy() if value.is_floating_point() else value.numpy()


def table_of(value):
    if value.dim() == 2:
        return pd.DataFrame(array_of(value), columns=[f"column {place}" for place in range(value.shape[1])])
    return pd.Series(array_of(value)) if value.dim() == 1 else array_of(value)


def flow(context_shape=None, classes=None):
    pyro.set_rng_seed(0)
    return pg.flows.affine_coupling((2,), context_shape, classes=classes, layers=1, hidden=(4,))


def fitted(*data, context_shape=None, classes=None, **options):
    module = flow(context_shape, classes)
    result = pg.fit(module, data if len(data) > 1 else data[0], epochs=1, batch_size=8, seed=0, **options)
    return result.history.losses, result.history.validation, module.state_dict()


def program(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.8 * x, 0.5))


def simulator(x=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 0.5).to_event(1), obs=x)


JOINT = simulation.Joint(simulator, observed="x")
SIMULATIONS = JOINT.draw(60, seed=0, progress=False)


def learned():
    pyro.set_rng_seed(0)
    return simulation.posterior(JOINT, partial(pg.flows.affine_autoregressive, layers=1, hidden=(4,)))


def gaussian(y):
    x = pyro.sample("image", pg.diffusion.Diffusion(DENOISER)())
    pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


def flowing(y):
    x = pyro.sample("image", flow().eval()())
    pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


NORMAL = dist.Normal(torch.zeros(2), 1.0).to_event(1)
PAIR = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
DENOISER = pg.diffusion.GaussianMixtureDenoiser(NORMAL, pg.diffusion.CosineVP())


def hyper(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def answered(answer, y):
    done = answer.run(y)
    return done.get_samples(), done.log_weights


def of_pair(name, **options):
    return lambda x: getattr(evaluation, name)(program, guide, x, **options)


def named(name, **options):
    return lambda *values: getattr(evaluation, name)(*values, **options)


def generator():
    return torch.Generator().manual_seed(0)


def by_test(name, **options):
    return lambda *values: getattr(evaluation, name)(*values, generator=generator(), **options)


def samples(name, **options):
    return lambda x, y: getattr(evaluation, name)(data=x, samples=y, generator=generator(), **options)


def features():
    return evaluation.NamedEmbedding(torch.nn.Identity(), "as they are")


def calibrated(x):
    return evaluation.local_calibration_test(
        learned().eval().draw, SIMULATIONS, observed={"x": x}, draws=4, permutations=19, generator=generator()
    )


def grids(x):
    def pair():
        vae = pg.latent.vae((2,), latent_shape=(1,), hidden=(4,))
        return vae.model, vae.guide

    return evaluation.grid({"vae": pair}, {"ELBO": pg.Elbo}, (x,), (x,), fit=partial(pg.fit, steps=2), draws=25).runs


def traversed(name, *values):
    pyro.set_rng_seed(0)
    decode = lambda z: dist.Normal(z.sum(-1)[..., None, None, None].expand(*z.shape[:-1], 1, 4, 4), 1.0).to_event(3)  # noqa: E731
    figure = getattr(analysis, name)(decode, *values)
    return [image.get_array() for axes in figure.axes for image in axes.images]


def drawn(posterior_data):
    tree = analysis.to_arviz(pyro.infer.autoguide.AutoDelta(hyper), posterior_data, model=hyper, draws=5, seed=0)
    return [tree[group][name].values for group in ("posterior", "observed_data") for name in tree[group].data_vars]


def joined_batches(x):
    posterior = {"z": torch.zeros(5)}

    def scored(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    tree = analysis.to_arviz(posterior, model=scored, batches=[x, x], seed=0, predictive=False)
    return [tree["log_likelihood"][name].values for name in tree["log_likelihood"].data_vars]


ENTRIES = {
    "fit": (fitted, X),
    "fit given contexts": (partial(fitted, context_shape=(2,)), X, Y),
    "fit given labels": (partial(fitted, classes=3), X, LABELS),
    "fit with held-out data": (lambda x, y: fitted(x, validation=y), X, Y),
    "fit with a share held out": (partial(fitted, validation=0.25), X),
    "fit on minibatches of a loader": (lambda x, y: fitted([x, y]), X, Y),
    "fit of a turn with data of its own": (
        lambda x: pg.fit(pg.Turn(o := flow().objective(), o, data=x), (), steps=3, seed=0).history.losses,
        X,
    ),
    "learn_statistics": (lambda x: (module := flow()).learn_statistics(x) or module.state_dict(), X),
    "log_prob": (lambda x, c: pg.log_prob(flow((2,)).eval(), x, c), X, Y),
    "a module": (lambda c: flow((2,)).eval()(c).log_prob(X), Y),
    "Estimate.of_mean": (evaluation.Estimate.of_mean, SCORES),
    "Estimate.of_share": (lambda hits: evaluation.Estimate.of_share(hits, unit=""), SCORES > 0),
    "EcdfNull": (lambda r: (evaluation.EcdfNull(40, 9).test(r), evaluation.EcdfNull(40, 9).band(r).ecdf), RANKS),
    "RegressionScore": (
        lambda z, x: evaluation.RegressionScore({"z": z}, {"x": x})({"z": z}, {"x": x}),
        SCORES,
        OTHERS,
    ),
    "amortization_gap": (of_pair("amortization_gap", steps=2, draws=3, evaluation_draws=5), X[:, 0]),
    "attribution": (
        lambda x, p: evaluation.attribution({"a": NORMAL, "b": flow().eval()}, x, log_prior=p),
        X,
        torch.zeros(2),
    ),
    "auroc": (evaluation.auroc, SCORES, OTHERS),
    "bayes_classifier": (lambda x, p: evaluation.bayes_classifier(flow(classes=3).eval(), x, 3, p), X, torch.zeros(3)),
    "bits_per_dimension": (lambda x: evaluation.bits_per_dimension(NORMAL, x, log_volume=0.0), X),
    "central_coverage": (lambda r, levels: evaluation.central_coverage(r, 9, levels=levels), RANKS, LEVELS),
    "chi_square_test": (named("chi_square_test", draws=9), RANKS),
    "class_marginal": (lambda x, p: evaluation.class_marginal(flow(classes=3).eval(), x, 3, p), X, torch.zeros(3)),
    "classifier_test": (by_test("classifier_test", permutations=9), X, Y),
    "code_length": (lambda x: evaluation.code_length(x, 3), LABELS.reshape(1, 2, -1)),
    "collapse_report": (of_pair("collapse_report", draws=3), X[:, 0]),
    "compare": (lambda x: evaluation.compare({"a": NORMAL}, x).log_likelihood("a"), X),
    "cross_validated_classifier_test": (by_test("cross_validated_classifier_test", permutations=3, folds=2), X, Y),
    "density_coverage": (samples("density_coverage", embedding=features()), X, Y),
    "density_p_value": (evaluation.density_p_value, SCORES, OTHERS),
    "energy_distance": (evaluation.energy_distance, X, Y),
    "energy_test": (by_test("energy_test", permutations=9), X, Y),
    "frechet_distance": (by_test("frechet_distance", embedding=features(), divisions=2), X, Y),
    "gaussian_baseline": (lambda x, y: evaluation.gaussian_baseline(x, y, [1]).log_prob(X.double()), X, Y),
    "gaussian_frechet_distance": (evaluation.gaussian_frechet_distance, X[0], torch.eye(2), Y[0], 2 * torch.eye(2)),
    "grid": (grids, X),
    "highest_coverage": (lambda r, levels: evaluation.highest_coverage(r, 9, levels=levels), RANKS, LEVELS),
    "importance_log_weights": (of_pair("importance_log_weights", draws=30), X[:, 0]),
    "importance_weighted_log_likelihood": (of_pair("importance_weighted_log_likelihood", draws=30), X[:, 0]),
    "importance_weighted_log_probs": (of_pair("importance_weighted_log_probs", draws=30), X[:, 0]),
    "joint_coverage": (
        lambda z, d: evaluation.joint_coverage({"z": z}, {"z": d}, generator=generator()).ranks,
        X,
        torch.randn(9, 24, 2, generator=NOISE),
    ),
    "joint_typicality": (evaluation.joint_typicality, X, Y),
    "kernel_distance": (lambda x, y: evaluation.kernel_distance(x, y, embedding=features()), X, Y),
    "label_counts": (named("label_counts", classes=3), LABELS),
    "likelihood_ratio": (evaluation.likelihood_ratio, SCORES, OTHERS),
    "local_calibration_test": (calibrated, torch.zeros(2)),
    "log_likelihood": (lambda x, c: evaluation.log_likelihood(flow((2,)).eval(), x, c), X, Y),
    "log_likelihood_difference": (lambda x: evaluation.log_likelihood_difference(flow().eval(), NORMAL, x), X),
    "log_probs": (lambda x, c: evaluation.log_probs(flow((2,)).eval(), x, c), X, Y),
    "marginal_calibration": (
        lambda x, c: evaluation.marginal_calibration(flow((2,)).eval(), x, c, generator=generator()).ranks,
        X,
        Y,
    ),
    "misspecification_test": (
        lambda y, x: evaluation.misspecification_test(y, {"x": x}, permutations=9, generator=generator()),
        Y[0],
        X,
    ),
    "mmd_test": (by_test("mmd_test", permutations=9), X, Y),
    "matched_clusters": (evaluation.matched_clusters, LABELS, LABELS.flip(0)),
    "mode_counts": (named("mode_counts", scale=0.01), X, Y[:3]),
    "neighbours": (evaluation.neighbours, IMAGES),
    "pareto_k": (of_pair("pareto_k", draws=30), X[:, 0]),
    "pareto_k_of": (evaluation.pareto_k_of, WEIGHTS),
    "precision_recall": (samples("precision_recall", embedding=features()), X, Y),
    "predictive_check": (
        lambda many, y: evaluation.predictive_check({"x": many}, y).observed,
        torch.randn(30, 24, generator=NOISE),
        X[:, 0],
    ),
    "predictive_p_values": (evaluation.predictive_p_values, torch.randn(30, 2, generator=NOISE), Y[0]),
    "psnr": (evaluation.psnr, IMAGES[0], IMAGES[1]),
    "ratio_test": (
        lambda x, y: evaluation.ratio_test(lambda v: v.sum(-1), x, y, permutations=9, generator=generator()),
        X,
        Y,
    ),
    "reliability": (by_test("reliability", simulations=9), SCORES.sigmoid(), SCORES > OTHERS),
    "restoration_report": (evaluation.restoration_report, IMAGES, IMAGES[0]),
    "self_consistency": (
        lambda x: (
            evaluation.self_consistency(
                pg.diffusion.Diffusion(DENOISER), x, noises=(0.5,), moves=(1,), permutations=9, generator=generator()
            )
            .changes[0]
            .change
        ),
        X,
    ),
    "squared_mmd": (by_test("squared_mmd"), X, Y),
    "ssim": (evaluation.ssim, IMAGES[0], IMAGES[1]),
    "train_classifier": (
        lambda x, labels: evaluation.train_classifier(x, labels, features=2, steps=2, seed=0).state_dict(),
        IMAGES.repeat(4, 1, 1, 1),
        LABELS,
    ),
    "two_sided_p_value": (evaluation.two_sided_p_value, SCORES, OTHERS),
    "typicality": (evaluation.typicality, SCORES, OTHERS),
    "typicality_test": (by_test("typicality_test", permutations=9), SCORES, OTHERS),
    "waic": (evaluation.waic, X),
    "witten_bell": (lambda s, c: evaluation.witten_bell((s, c), (s, c), symbols=3), LABELS, X),
    "to_arviz": (drawn, Y[:, 0]),
    "to_arviz of batches": (joined_batches, Y[:, 0]),
    "report": (
        lambda x, held_out: [
            verdict.text for verdict in analysis.report(flow(), x, held_out=held_out, seed=0).verdicts
        ],
        X,
        Y,
    ),
    "latent_traversals": (partial(traversed, "latent_traversals"), Y[0]),
    "latent_paths": (partial(traversed, "latent_paths"), X[:2], Y[:2]),
    "ManyChains": (lambda y: answered(inverse.ManyChains(hyper, chains=2, draws=4, warmup=4, seed=0), y), Y[:, 0]),
    "SMCSampler": (lambda y: answered(inverse.SMCSampler(hyper, particles=32, moves=1, seed=0), y), Y[:, 0]),
    "TwistedSMC": (lambda y: answered(inverse.TwistedSMC(gaussian, site="image", particles=9, steps=5), y), Y[0]),
    "GuidedSampling": (
        lambda y: answered(inverse.GuidedSampling(gaussian, site="image", guidance=inverse.DPS(), draws=9, steps=5), y),
        Y[0],
    ),
    "NoiseVI": (
        lambda y: answered(inverse.NoiseVI(flowing, site="image", draws=9, steps=3), y),
        Y[0],
    ),
    "LinearGaussianSystem": (
        lambda a, y: inverse.LinearGaussianSystem(PAIR, a, 1.0).posterior(y).mean,
        X,
        Y[:, 0],
    ),
    "Matrix": (lambda a: operators.Matrix(a)(X), Y[:2]),
    "Mask": (lambda kept: operators.Mask(kept)(X), Y[0] > -5),
    "Convolution": (lambda kernel: operators.Convolution((1, 8, 8), kernel)(IMAGES), torch.ones(3, 3) / 9),
    "Radon": (lambda angles: operators.Radon((1, 8, 8), angles)(IMAGES), torch.linspace(0, 3, 5)),
    "Fourier": (lambda mask: operators.Fourier((2, 8, 8), mask)(torch.ones(2, 8, 8)), torch.eye(8) > 0),
    "Simulations": (lambda z, x: simulation.Simulations({"z": z}, {"x": x}).entries, X[:, 0], Y),
    "fit of simulations": (
        lambda z, x: pg.fit(learned(), simulation.Simulations({"z": z}, {"x": x}), steps=3, seed=0).history.losses,
        X[:, 0],
        Y,
    ),
    "Joint.simulate": (lambda z: JOINT.simulate({"z": z}, seed=0, progress=False).entries, X[:, 0]),
    "posterior": (lambda y: learned().eval()(y).sample((3,)), Y),
    "posterior.draw": (lambda y: learned().eval().draw({"x": y}, 3), Y),
    "posterior.log_posterior": (lambda z, y: learned().eval().log_posterior({"z": z}, {"x": y}), X[:, 0], Y),
    "posterior.truncated": (
        lambda y: learned().eval().truncated(y, least_acceptance=0.0, draws=100).threshold,
        Y[0],
    ),
    "weighted_draws": (
        lambda y: simulation.weighted_draws(learned().eval(), simulator, y, draws=9, seed=0).log_weights,
        Y[0],
    ),
}


def numbers(value):
    """All the numbers in a result, in order."""
    if isinstance(value, Tensor):
        return [value.detach().numpy()]
    if dataclasses.is_dataclass(value):
        value = {
            field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "seconds"
        }
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in numbers(part)]
    return [np.asarray(value)] if isinstance(value, (int, float, str, np.ndarray)) else []


@pytest.mark.parametrize("form", [array_of, table_of])
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_gives_the_same_numbers_for_arrays_and_tables(name, form):
    call, *values = ENTRIES[name]
    results = []
    for given_values in (values, [form(value) for value in values]):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        results.append(numbers(call(*given_values)))
    expected, found = results
    assert expected
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_function_of_evaluation_is_in_the_table():
    without_data = {"coverage_of_equals", "denoised_by", "simulation_based_calibration", "table"}
    without_data |= {"edit_distance", "error_rates"}  # of sequences of anything
    without_data |= {"adversarial"}  # takes them, for a function of tensors; `test_adversarial`
    functions = {name for name in evaluation.__all__ if name.islower() and callable(getattr(evaluation, name))}
    assert functions - without_data <= set(ENTRIES)
