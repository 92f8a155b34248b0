"""Answers have one shape, and one rule says which are not to be trusted."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

import pyrogen as pg
from pyrogen import inverse
from pyrogen.inverse.answer import Answer, DrawDiagnostics, Results

DIFFUSION = gaussian(torch.zeros(2), torch.eye(2))
FLOW = pg.flows.affine_coupling((2,))
ROWS = pg.autoregressive.any_order((4,), symbols=2, width=8, depth=1)


def under(prior):
    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x.sum(), 0.5), obs=y)

    return model


def half(y):
    x = pyro.sample("x", ROWS())
    pyro.sample("y", dist.Delta(x[:2], event_dim=1), obs=y.expand(2))


METHODS = {
    "smc": lambda: inverse.TwistedSMC(under(DIFFUSION), site="x", particles=30, steps=5),
    "tempered": lambda: inverse.TemperedSMC(under(DIFFUSION), site="x", particles=30, groups=2, steps=5),
    "split": lambda: inverse.SplitGibbs(under(DIFFUSION), site="x", chains=3, draws=10, warmup=5, steps=5),
    "guided": lambda: inverse.GuidedSampling(
        under(DIFFUSION), site="x", guidance=inverse.MomentMatching(), draws=30, steps=5
    ),
    "chain": lambda: inverse.NoiseMCMC(under(FLOW), site="x", draws=30, warmup=5),
    "many": lambda: inverse.ManyChains(under(FLOW), chains=3, draws=10, warmup=5),
    "guide": lambda: inverse.NoiseVI(under(FLOW), site="x", draws=30, steps=5),
    "completion": lambda: inverse.Completion(half, site="x", draws=30),
}


def test_a_further_run_leaves_earlier_posteriors_as_they_are():
    method = METHODS["guide"]()
    posteriors = [method.run(torch.tensor(x)) for x in (1.0, -1.0)]
    first, second = (posterior.get_samples()["x"] for posterior in posteriors)
    assert not first.equal(second)
    assert second.equal(method.get_samples()["x"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_an_answer_of_one_shape(name):
    answer = METHODS[name]()
    assert isinstance(answer, Answer)
    for read in (answer.get_samples, answer.diagnostics, lambda: answer.log_weights, lambda: answer.log_evidence):
        with pytest.raises(ValueError, match=r"run\(\*args\)"):
            read()
    first = answer.run(torch.tensor(1.0))
    assert first.get_samples()["x"].equal(answer.get_samples()["x"])
    assert len(answer.get_samples()["x"]) == 30
    assert answer.log_weights is None or answer.log_weights.shape == (30,)
    if name in ("split", "guided", "chain", "many"):
        with pytest.raises(NotImplementedError, match="evidence"):
            _ = answer.log_evidence
    else:
        assert answer.log_evidence.isfinite()
    diagnostics = answer.diagnostics()
    assert answer.attrs == diagnostics.attributes()
    assert answer.attrs["collapsed"] == diagnostics.collapsed == ("COLLAPSED" in str(diagnostics))
    assert answer.attrs.keys() <= dict(pg.analysis.to_arviz(answer, torch.tensor(1.0)).posterior.attrs).keys()


class Fixed(Answer):
    """A method of one's own."""

    def __init__(self, model, carried):
        super().__init__(model)
        self.carried = carried

    def infer(self, args, kwargs):
        return Results({"x": torch.zeros(100)}, Worth(100, law="nothing", worth=self.carried), chains=2)


class Worth(DrawDiagnostics):
    """Draws that are worth less."""

    def __init__(self, draws, law, worth):
        super().__init__(draws, law)
        object.__setattr__(self, "worth", torch.tensor(worth))

    @property
    def carried(self):
        return self.worth


def test_an_answer_that_few_draws_carry_has_collapsed():
    assert not Fixed(print, [20.0, 100.0]).run().diagnostics().collapsed
    for few in ([19.0, 100.0], [float("nan"), 100.0]):
        diagnostics = Fixed(print, few).run().diagnostics()
        assert diagnostics.collapsed_problems.tolist() == [True, False]
        assert "COLLAPSED in 1 of 2 problems" in str(diagnostics)
    assert Fixed(print, [20.0]).run().chains == 2


def test_an_answer_names_its_draws_and_whether_to_trust_them():
    assert repr(Fixed(print, [20.0])) == "<Fixed, not run>"
    assert repr(Fixed(print, [20.0]).run()) == "<Fixed: 100 draws of x>"
    assert repr(Fixed(print, [19.0]).run()) == "<Fixed: 100 draws of x; COLLAPSED: too few draws carry the answer>"
