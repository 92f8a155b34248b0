"""Every public entry names the argument that makes no sense: a table of entries and bad values."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

import pyrogen as pg
from pyrogen import inverse

NAN, INF = math.nan, math.inf
PRIOR = gaussian(torch.zeros(2), torch.eye(2))
IMAGE = torch.rand(1, 8, 8)


def model(y=None):
    x = pyro.sample("x", PRIOR())
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.sum() + z, 0.5), obs=y)


def smc(**options):
    return inverse.TwistedSMC(**{"model": model, "site": "x", **options})


def guided(**options):
    return inverse.GuidedSampling(**{"model": model, "site": "x", "guidance": inverse.DPS(), **options})


def chain(**options):
    return inverse.NoiseMCMC(**{"model": model, "site": "x", **options})


def guide(**options):
    return inverse.NoiseVI(**{"model": model, "site": "x", **options})


def completion(**options):
    return inverse.Completion(**{"model": model, "site": "x", **options})


def edit(picture=None, time=0.5, **options):
    return inverse.edit(PRIOR(), torch.zeros(2) if picture is None else picture, time, **options)


COUNTS = (0, -1, 2.5, "3", NAN, None, True)
POSITIVE = (0.0, -1.0, NAN, "1", None)
TABLE = [
    *((smc, name, COUNTS) for name in ("particles", "steps", "sweeps", "chunk")),
    (smc, "warmup", (-1, 2.5, NAN, None)),
    (smc, "threshold", (-0.1, 1.1, NAN, "0.5")),
    (smc, "resample", (1, "yes", None)),
    (smc, "twist", ("MomentMatched", inverse.DPS(), inverse.Isotropic)),
    (smc, "grid", (100, "uniform")),
    *((method, "model", (None, 3, "model")) for method in (smc, guided, chain, guide, completion)),
    *((method, "site", (None, 3, model)) for method in (smc, guided, chain, guide, completion)),
    *((guided, name, COUNTS) for name in ("draws", "steps")),
    (guided, "guidance", (None, "DPS", inverse.DPS, inverse.Isotropic())),
    (guided, "calibrate", (1, None)),
    (guided, "grid", (100,)),
    (chain, "draws", (3, *COUNTS)),
    (chain, "warmup", (-1, 2.5, NAN)),
    (chain, "kernel", (3, "NUTS")),
    *((guide, name, COUNTS) for name in ("draws", "steps")),
    (guide, "guide", (3, None)),
    (guide, "optimizer", (3, None)),
    (guide, "resample", (1,)),
    (completion, "draws", COUNTS),
    *((method, "variance", (*POSITIVE, INF)) for method in (inverse.PiGDM, inverse.Isotropic, inverse.FiniteParticle)),
    (inverse.FiniteParticle, "draws", COUNTS),
    (inverse.Averaged, "points", (3, *COUNTS)),
    (inverse.DPS, "strength", (*POSITIVE, INF)),
    (inverse.DiffPIR, "strength", (*POSITIVE, INF)),
    (inverse.DDRM, "fresh", (-0.1, 1.1, NAN, "1")),
    (inverse.DDRM, "strength", (-0.1, 1.1, NAN, None)),
    (inverse.DAPS, "solver_steps", COUNTS),
    (inverse.DAPS, "variance", POSITIVE),
    (inverse.RePaint, "rounds", COUNTS),
    (edit, "time", (0.0, -0.1, 1.5, NAN, "0.5")),
    (edit, "draws", COUNTS),
    (edit, "steps", COUNTS),
    (edit, "picture", (torch.zeros(3), torch.full((2,), NAN), [0.0, 0.0])),
    *((lambda f=f, **o: f(**{"image": IMAGE, "truth": IMAGE, **o}), name, values)
      for f in (inverse.psnr, inverse.ssim)
      for name, values in (
          ("span", (0.0, -1.0, NAN, INF, "1")),
          ("image", (torch.full((1, 8, 8), INF), torch.full((1, 8, 8), NAN), torch.rand(1, 9, 9), [1.0])),
          ("truth", (torch.full((1, 8, 8), INF), None)),
      )),
    (lambda **o: inverse.ssim(IMAGE, IMAGE, **o), "window", (1, 0, 9, 2.5)),
    (lambda **o: inverse.report(**o), "draws", (torch.rand(8), torch.rand(1, 8, 8), None)),
    (lambda **o: inverse.report(torch.rand(5, 1, 8, 8), **o), "truth", (torch.rand(1, 9, 9),)),
    (lambda **o: inverse.report(torch.rand(5, 1, 8, 8), **o), "probability", (0.0, 1.0, NAN, "0.9")),
    (lambda **o: inverse.report(torch.rand(5, 1, 8, 8), **o), "span", (0.0, NAN)),
    (lambda **o: inverse.predictive_p_values(**{"replicated": torch.rand(5, 3), "y": torch.rand(3), **o}), "replicated",
     (torch.rand(5, 2), torch.rand(0, 3), torch.full((5, 3), NAN))),
    (lambda **o: inverse.predictive_p_values(torch.rand(5, 3), **o), "y", (torch.full((3,), NAN), None)),
    (inverse.Mask, "kept", (torch.ones(3), torch.zeros(3).bool(), [True])),
    (inverse.Matrix, "matrix", (torch.ones(3), torch.full((2, 2), NAN), [[1.0]])),
    (lambda **o: inverse.Grey(**{"shape": (3, 4, 4), **o}), "shape", ((1, 4, 4), (4, 4), (3, 0, 4))),
    (lambda **o: inverse.Grey((3, 4, 4), **o), "weights", ((1.0, NAN, 0.0), (1.0,))),
    *((lambda f=f, **o: f(**{"shape": (1, 4, 4), "factor": 2, **o}), name, values)
      for f in (inverse.box_downsampling, inverse.bicubic_downsampling)
      for name, values in (("shape", ((4, 4), (1, 4.0, 4))), ("factor", (0, 3, 2.0, NAN)))),
    (lambda **o: inverse.gaussian_blur((1, 4, 4), **o), "width", POSITIVE),
    (lambda **o: inverse.gaussian_blur(**{"width": 1.0, **o}), "shape", ((4,), (1, 4, -4))),
    (lambda **o: inverse.Convolution((1, 4, 4), **o), "kernel", (torch.ones(2, 2), torch.ones(3), [[1.0]])),
    (lambda **o: inverse.Separable(**{"shape": (1, 4, 4), "vertical": torch.eye(4), "horizontal": torch.eye(4), **o}),
     "vertical", (torch.eye(3), torch.full((4, 4), NAN))),
    (inverse.PhaseRetrieval, "oversampling", (0.5, NAN, "2")),
]  # fmt: skip
CASES = [(entry, name, value) for entry, name, values in TABLE for value in values]


@pytest.mark.parametrize(("entry", "name", "value"), CASES, ids=lambda part: str(part)[:20])
def test_a_bad_value_is_refused_by_the_name_of_its_argument(entry, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        entry(**{name: value})


def discrete(y):
    pyro.sample("y", dist.Normal(pyro.sample("x", dist.Poisson(3.0)), 1.0), obs=y)


def flow(y):
    pyro.sample("y", dist.Normal(pyro.sample("x", pg.flows.affine_coupling((2,))()).sum(), 1.0), obs=y)


@pytest.mark.parametrize(
    "method",
    [smc, guided, lambda **o: chain(draws=4, warmup=1, **o), lambda **o: guide(draws=4, steps=1, **o), completion],
    ids=["smc", "guided", "chain", "guide", "completion"],
)
def test_sites_and_data_that_do_not_fit_are_refused_by_every_method(method):
    y = torch.tensor(0.0)
    with pytest.raises(ValueError, match="`site` must be a latent site of the model, got 'image'"):
        method(model=flow, site="image").run(y)
    with pytest.raises(ValueError, match="`site` must be a latent site of the model, got 'y': it is observed"):
        method(model=flow, site="y").run(y)
    with pytest.raises(ValueError, match="`y` must be finite"):
        method(model=flow, site="x").run(torch.tensor(NAN))
    with pytest.raises(ValueError, match=r"`y` must have observed values of shape \(\), got \(3,\)"):
        method(model=flow, site="x").run(torch.zeros(3))
    with pytest.raises(ValueError, match="must come first"):
        method(model=flow, site="x").get_samples()


def test_sites_without_what_a_method_needs_are_refused():
    y = torch.tensor(0.0)
    for method in (smc, guided):
        with pytest.raises(ValueError, match="`site` must have a distribution with a denoiser"):
            method(model=flow).run(y)
    with pytest.raises(ValueError, match="`site` must have a prior over real numbers"):
        chain(model=discrete, draws=4).run(y)
    with pytest.raises(ValueError, match="`site` must have a distribution with `given"):
        completion(model=flow).run(y)
