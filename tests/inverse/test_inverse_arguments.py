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


def model(y=None):
    x = pyro.sample("x", PRIOR())
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.sum() + z, 0.5), obs=y)


def smc(**options):
    return inverse.TwistedSMC(**{"model": model, "site": "x", **options})


def tempered(**options):
    return inverse.TemperedSMC(**{"model": model, "site": "x", **options})


def sequence(**options):
    return inverse.SequenceSMC(**{"model": model, "site": "x", **options})


def split(**options):
    return inverse.SplitGibbs(**{"model": model, "site": "x", **options})


def guided(**options):
    return inverse.GuidedSampling(**{"model": model, "site": "x", "guidance": inverse.DPS(), **options})


def chain(**options):
    return inverse.NoiseMCMC(**{"model": model, "site": "x", **options})


def guide(**options):
    return inverse.NoiseVI(**{"model": model, "site": "x", **options})


def completion(**options):
    return inverse.Completion(**{"model": model, "site": "x", **options})


COUNTS = (0, -1, 2.5, "3", NAN, None, True)
POSITIVE = (0.0, -1.0, NAN, "1", None)
TABLE = [
    *((smc, name, COUNTS) for name in ("particles", "steps", "sweeps", "chunk")),
    *((tempered, name, COUNTS) for name in ("particles", "moves", "groups", "steps", "chunk")),
    *((sequence, name, COUNTS) for name in ("particles", "groups")),
    (tempered, "ess", (0, 1, -0.1, NAN, "0.5", None)),
    (tempered, "grid", (100, "uniform")),
    *((method, "backward", (-1, 2.5, None)) for method in (tempered, split)),
    *((split, name, COUNTS) for name in ("chains", "draws", "steps", "chunk")),
    (tempered, "last_levels", COUNTS),
    (split, "draws", (3,)),
    (split, "warmup", (-1, 2.5, NAN, None)),
    (split, "coupling", (-0.1, NAN, "1", None)),
    (smc, "warmup", (-1, 2.5, NAN, None)),
    (smc, "threshold", (-0.1, 1.1, NAN, "0.5")),
    (smc, "resample", (1, "yes", None)),
    (smc, "twist", ("MomentMatched", inverse.DPS(), inverse.Isotropic)),
    (smc, "grid", (100, "uniform")),
    *((method, "model", (None, 3, "model")) for method in (smc, tempered, split, guided, chain, guide, completion)),
    *((method, "site", (None, 3, model)) for method in (smc, tempered, split, guided, chain, guide, completion)),
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
