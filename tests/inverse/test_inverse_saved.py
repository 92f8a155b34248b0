"""Runs that are interrupted and go on: the same to the last bit as those that are not."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

from pyrogen.diffusion import KarrasGrid
from pyrogen.inverse import SplitGibbs, TemperedSMC
from pyrogen.inverse.saved import Beginning, saved
from pyrogen.training.checkpoint import Checkpoint

COVARIANCE = 0.6 ** (torch.arange(6).unsqueeze(1) - torch.arange(6)).abs()
Y = torch.tensor([0.5, -1.0, 2.0])
SHORT = {
    TemperedSMC: {"particles": 24, "moves": 2, "groups": 3, "steps": 6},
    SplitGibbs: {"chains": 4, "warmup": 6, "draws": 6, "steps": 6},
}
FEW = {TemperedSMC: {"levels": (1.0, 0.0)}, SplitGibbs: {"warmup": 2, "draws": 4}}


class Stopped(Exception):
    pass


def model(likelihood, calls=10**9):
    """The problem, whose prior stops after so many denoised batches."""
    prior = gaussian(torch.zeros(6), COVARIANCE)
    prior.denoiser.has_posterior = False
    left = [calls]

    def count(*_):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    prior.denoiser.register_forward_hook(count)

    def program(y):
        x = pyro.sample("x", prior())
        likelihood(x, y)

    program.calls = lambda: calls - left[0]
    return program


def linear(x, y):
    pyro.sample("y", dist.Normal(x[::2], 0.3).to_event(1), obs=y)


def outliers(x, y):
    pyro.sample("y", dist.StudentT(3.0, x[::2], 0.3).to_event(1), obs=y)


def unknown_noise(x, y):
    scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
    pyro.sample("y", dist.Normal(x[::2], scale).to_event(1), obs=y)


@pytest.mark.parametrize("likelihood", [linear, outliers, unknown_noise])
@pytest.mark.parametrize("method", [TemperedSMC, SplitGibbs])
def test_a_run_that_was_interrupted_is_that_which_was_not(method, likelihood, tmp_path):
    whole = model(likelihood)
    pyro.set_rng_seed(3)
    expected = method(whole, site="x", **SHORT[method]).run(Y)
    after = torch.rand(3)
    for share in (0.75, 0.95):
        file = Checkpoint(tmp_path / f"{share}", every=0)
        pyro.set_rng_seed(3)
        with pytest.raises(Stopped):
            method(model(likelihood, int(share * whole.calls())), site="x", checkpoint=file, **SHORT[method]).run(Y)
        assert file.path.exists()
        pyro.set_rng_seed(4)
        found = method(model(likelihood), site="x", checkpoint=file, **SHORT[method]).run(Y)
        assert torch.equal(torch.rand(3), after)
        for name, value in expected.get_samples().items():
            assert torch.equal(found.get_samples()[name], value)
        assert str(found.diagnostics()) == str(expected.diagnostics())
        if method is TemperedSMC:
            assert torch.equal(found.log_evidence, expected.log_evidence)


def test_a_run_that_was_finished_goes_on(tmp_path):
    pyro.set_rng_seed(0)
    smc = {**SHORT[TemperedSMC], "site": "x", "checkpoint": tmp_path / "smc"}
    first = TemperedSMC(model(linear), **smc).run(Y)
    again = TemperedSMC(model(linear), **smc).run(Y)
    assert torch.equal(first.get_samples()["x"], again.get_samples()["x"])
    more = TemperedSMC(model(linear), **smc, last_levels=4).run(Y)
    assert more.diagnostics().widths == first.diagnostics().widths + [0.0] * 3
    with pytest.raises(ValueError, match="`last_levels` must be no fewer than in `checkpoint`, got 1"):
        TemperedSMC(model(linear), **smc).run(Y)
    gibbs = {**SHORT[SplitGibbs], "site": "x", "checkpoint": tmp_path / "gibbs"}
    kept = SplitGibbs(model(linear), **gibbs).run(Y).get_samples(group_by_chain=True)["x"]
    longer = SplitGibbs(model(linear), **(gibbs | {"draws": 9})).run(Y).get_samples(group_by_chain=True)["x"]
    assert torch.equal(longer[:, :6], kept)
    with pytest.raises(ValueError, match="`draws` must be at least the 9 in `checkpoint`, got 6"):
        SplitGibbs(model(linear), **gibbs).run(Y)


def test_a_file_of_another_run_is_refused(tmp_path):
    file = tmp_path / "run"
    TemperedSMC(model(linear), site="x", checkpoint=file, **SHORT[TemperedSMC]).run(Y)
    refusals = [
        (TemperedSMC, {"moves": 3}, Y, "moves must be as in the checkpoint, 2, got 3"),
        (TemperedSMC, {"particles": 12}, Y, "shape must be as in the checkpoint"),
        (TemperedSMC, {"steps": 7}, Y, "noises must be as in the checkpoint"),
        (TemperedSMC, {}, Y + 1, "`checkpoint` must hold a run of the same model and data"),
        (SplitGibbs, {}, Y, "method must be as in the checkpoint, TemperedSMC, got SplitGibbs"),
    ]
    for method, options, y, message in refusals:
        with pytest.raises(ValueError, match=message):
            method(model(linear), site="x", checkpoint=file, **(SHORT[method] | options)).run(y)
    Checkpoint(tmp_path / "other").save({"step": 3})
    with pytest.raises(ValueError, match="must hold a run of TemperedSMC or SplitGibbs"):
        SplitGibbs(model(linear), site="x", checkpoint=tmp_path / "other").run(Y)
    with pytest.raises(TypeError):
        SplitGibbs(model(linear), site="x", checkpoint=3)


@pytest.mark.parametrize("method", [TemperedSMC, SplitGibbs])
def test_another_prior_of_any_site_and_other_data_are_refused(method, tmp_path):
    """Under the same likelihood, noise levels and random numbers: particles have the same log-likelihoods."""
    options = {**SHORT[method], **FEW[method], "site": "x", "grid": KarrasGrid(6), "checkpoint": tmp_path / "run"}

    def of(scale, mean=0.0, count=6):
        prior = gaussian(torch.full((6,), mean), COVARIANCE)

        def program(y, hidden):
            noise = pyro.sample("scale", dist.LogNormal(-1.0, scale))
            x = pyro.sample("x", prior())
            shown = torch.arange(count) < count - 1
            values = torch.cat([y, torch.zeros(count - 4), torch.tensor([hidden])])
            located = torch.cat([x[::2], torch.zeros(count - 3)])
            pyro.sample("y", dist.Normal(located, noise).mask(shown).to_event(1), obs=values)
            pyro.sample("z", dist.Normal(noise, 1.0), obs=torch.tensor(0.5))

        return program

    pyro.set_rng_seed(0)
    kept = method(of(0.5), **options).run(Y, torch.nan).get_samples()["x"]
    assert torch.equal(method(of(0.5), **options).run(Y, 7.0).get_samples()["x"], kept)
    with pytest.raises(ValueError, match=r"same model and data, got other draws of the prior at \['scale'\]"):
        method(of(0.6), **options).run(Y, torch.nan)
    with pytest.raises(ValueError, match=r"same model and data, got other draws of the prior at \['x'\]"):
        method(of(0.5, mean=0.1), **options).run(Y, torch.nan)
    with pytest.raises(ValueError, match=r"same model and data, got other observed values at \['y'\]"):
        method(of(0.5), **options).run(Y + torch.tensor([0.0, 1e-4, 0.0]), torch.nan)


@pytest.mark.parametrize("method", [TemperedSMC, SplitGibbs])
def test_a_run_may_go_on_with_other_chunks(method, tmp_path):
    more = {"last_levels": 2} if method is TemperedSMC else {"draws": 5}
    options = {**SHORT[method], **FEW[method], "site": "x", "checkpoint": tmp_path / "run"}
    pyro.set_rng_seed(0)
    method(model(unknown_noise), **options).run(Y)
    assert method(model(unknown_noise), chunk=2, **options | more).run(Y).get_samples()["x"].isfinite().all()


def test_what_a_file_held_goes_where_the_run_is(tmp_path):
    """Files hold tensors of the CPU. On a device that computes nothing, since few machines have another."""

    class Run:
        def state_dict(self):
            return {"x": torch.zeros(2), "levels": [torch.zeros(1), (torch.ones(3), 2.0)], "number": 3}

        def load_state_dict(self, state):
            self.found = state

    file, run = Checkpoint(tmp_path / "run"), Run()
    with saved(file) as scope:
        scope.resume(run, lambda: Beginning({}, {"x": torch.zeros(0)}), moves=2)
        scope.save(run, last=True)
    with saved(file) as scope:
        scope.resume(run, lambda: Beginning({}, {"x": torch.zeros(0, device="meta")}), moves=2)
    assert run.found["x"].device.type == run.found["levels"][1][0].device.type == "meta"
    assert run.found["number"] == 3
