"""Completion: exact draws of the rest given a part, against enumeration."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.inverse import Completion, Mask


def lively(model):
    """Weights large enough that symbols depend on each other."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


def measured(prior, operator):
    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Delta(operator(x), event_dim=1), obs=y)

    return model


@pytest.mark.parametrize(("symbols", "dtype"), [(2, torch.float32), (3, torch.long)])
def test_against_enumeration(symbols, dtype):
    prior = lively(pg.autoregressive.made((4,), symbols=symbols, hidden=(16,)))
    whole = torch.cartesian_prod(*[torch.arange(symbols)] * 4).to(dtype)
    y = torch.tensor([1, 0], dtype=dtype)
    posterior = Completion(measured(prior, lambda x: x[..., [1, 0]]), site="x", draws=4000).run(y)
    with torch.no_grad():
        log_prob = prior().log_prob(whole)
    fits = (whole[:, 1] == y[0]) & (whole[:, 0] == y[1])
    assert torch.allclose(posterior.log_evidence, log_prob[fits].logsumexp(0), atol=1e-5)
    draws = posterior.get_samples()["x"]
    found = (draws[:, None] == whole[fits]).all(-1).float().mean(0)
    exact = log_prob[fits].softmax(0)
    assert abs(found.sum() - 1) < 1e-6
    assert ((found - exact).abs() < 5 * (exact * (1 - exact) / 4000).sqrt()).all(), (found, exact)


def test_any_part_in_plates():
    prior = lively(pg.autoregressive.any_order((2, 3), symbols=2, width=32, depth=1))
    keep = Mask(torch.tensor([[True, False, True], [False, True, False]]))

    def model(y):
        with pyro.plate("rows", 2):
            x = pyro.sample("x", prior())
            pyro.sample("y", dist.Delta(keep(x), event_dim=1), obs=y)

    y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    posterior = Completion(model, site="x", draws=50).run(y)
    draws = posterior.get_samples()["x"]
    assert draws.shape == (50, 2, 2, 3)
    assert torch.equal(keep(draws), y.expand(50, 2, 3))
    assert draws.flatten(2).float().std(0)[:, [1, 3, 5]].min() > 0
    assert posterior.log_evidence.shape == (2,)
    assert set(pg.analysis.to_arviz(posterior, y, log_likelihood=False, predictive=False).posterior) == {"x"}


def test_masked_measurements_are_not_known():
    prior = lively(pg.autoregressive.any_order((3,), symbols=2, width=32, depth=1))

    def model(y):
        x = pyro.sample("x", prior())
        with pyro.poutine.mask(mask=torch.tensor([True, False, True])):
            pyro.sample("y", dist.Delta(x), obs=y)

    draws = Completion(model, site="x", draws=50).run(torch.tensor([1.0, 0.0, 0.0])).get_samples()["x"]
    assert (draws[:, [0, 2]] == torch.tensor([1.0, 0.0])).all()
    assert 0 < draws[:, 1].mean() < 1


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (lambda x: x[:2] + 1, "got a function of them"),
        (lambda x: x.flip(0).cumsum(0), "got a function of them"),
        (lambda x: torch.stack([x[0], torch.tensor(1.0)]), "got a function of them"),
        (lambda x: x.abs(), "got a function of them"),
        (lambda x: x[[0, 0]], "twice with different values"),
    ],
)
def test_refuses_other_measurements(operator, words):
    prior = pg.autoregressive.made((3,), symbols=2, hidden=(8,))
    y = operator(torch.ones(3))
    y[-1] = 0
    with pytest.raises(ValueError, match=words):
        Completion(measured(prior, operator), site="x").run(y)


def test_refuses_other_models():
    prior, y = pg.autoregressive.made((3,), symbols=2, hidden=(8,)), torch.ones(3)

    def noisy(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", prior()), 1.0).to_event(1), obs=y)

    def beside(y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        pyro.sample("weight", dist.Normal(0.0, scale), obs=torch.tensor(1.0))
        measured(prior, lambda x: x)(y)

    flow = pg.flows.affine_coupling((3,))
    for model, words in (
        (noisy, "by Delta, got Normal at 'y'"),
        (beside, "no other latent site than 'x'"),
        (measured(flow, lambda x: x), "with `given"),
        (lambda y: pyro.sample("x", prior()), "must observe a site that depends on 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            Completion(model, site="x").run(y)
    with pytest.raises(ValueError, match="must come first"):
        Completion(noisy, site="x").get_samples()
