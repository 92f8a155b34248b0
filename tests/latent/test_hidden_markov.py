"""Hidden Markov models against sums over all paths, and Pyro's own."""

import copy
from itertools import product

import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen import latent
from pyrogen.testing import check_distribution


def model(**more):
    torch.manual_seed(0)
    module = latent.hidden_markov((4, 2), regimes=3, **more).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return module


def paths(module, x, context=None):
    """All paths of regimes, and the log-probability of each together with a sequence."""
    start, move = module.start.log_softmax(-1), module.logits.log_softmax(-1)
    scores = module(context).observations.log_prob(x.unsqueeze(-2))  # (4, 3)
    found = [*product(range(3), repeat=4)]
    joint = [
        start[path[0]] + sum(move[a, b] for a, b in zip(path, path[1:], strict=False))
        + sum(scores[step, regime] for step, regime in enumerate(path))
        for path in found
    ]  # fmt: skip
    return torch.tensor(found), torch.stack(joint)


def test_a_distribution_of_regimes_is_copied():
    kept = model()()
    x = kept.sample((3,))
    assert torch.equal(copy.deepcopy(kept).log_prob(x), kept.log_prob(x))


@pytest.mark.parametrize("more", [{}, {"symbols": 4}, {"counts": True}, {"controls": 1}])
def test_regimes_are_summed_out(more):
    module = model(**more)
    context = {"controls": torch.randn(4, 1).double()} if "controls" in more else None
    x = module(context).sample().double()
    x[1, 0] = x[3] = torch.nan
    found, joint = paths(module, x, context)
    torch.testing.assert_close(module(context).log_prob(x), joint.logsumexp(0), rtol=0, atol=1e-10)
    weights = joint.softmax(0)
    for step in range(4):
        smoothed = torch.stack([weights[found[:, step] == regime].sum() for regime in range(3)])
        torch.testing.assert_close(module.smooth(x, context).probs[step], smoothed, rtol=0, atol=1e-10)
    torch.testing.assert_close(module.filter(x, context).probs[3], smoothed, rtol=0, atol=1e-10)


def test_log_prob_is_that_of_pyros():
    module = model()
    x = module().sample((5,))
    with torch.no_grad():  # Pyro's first regime comes after one transition
        module.start.copy_((module.start.log_softmax(-1).unsqueeze(-1) + module.logits.log_softmax(-1)).logsumexp(-2))
    before = model().start
    hmm = dist.DiscreteHMM(before, module.logits, module().observations.base_dist, duration=4)
    torch.testing.assert_close(module().log_prob(x), hmm.log_prob(x), rtol=0, atol=1e-10)


def test_forecasts_are_conditional():
    module = model()
    x = module().sample((3,))
    x[0, 1] = torch.nan
    forecast = module.forecast(x[:, :2], 2)
    known = x.clone()
    known[:, 2:] = torch.nan
    whole = module().log_prob(x) - module().log_prob(known)
    torch.testing.assert_close(forecast.log_prob(x[:, 2:]), whole, rtol=0, atol=1e-10)
    assert forecast.sample((7,)).shape == (7, 3, 2, 2)
    with pytest.raises(ValueError, match="`prefix` must have shape"):
        module.forecast(x[0, 0], 2)


def test_regimes_that_never_follow_each_other():
    module, never = model(), -torch.inf
    with torch.no_grad():
        module.start.copy_(torch.tensor([0.0, never, never]))
        module.logits[1:, 0] = module.logits[2, 1] = module.logits[0, 2] = never
    x = module().sample((3,))
    for row in x:
        found, joint = paths(module, row)
        torch.testing.assert_close(module().log_prob(row), joint.logsumexp(0), rtol=0, atol=1e-10)
    smoothed, filtered = module.smooth(x).probs, module.filter(x).probs
    assert (smoothed[:, 0] == torch.tensor([1.0, 0, 0])).all()
    assert (filtered[:, 1, 2] == 0).all()
    module().log_prob(x).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    pg.fit(module, x, steps=2, lr=0.1, seed=0)
    assert module.start.isneginf().tolist() == [False, True, True]
    assert module.logits.isneginf().sum() == 4


def test_lengths_leave_out_later_steps():
    module = model()
    x = module().sample((3,))
    found = module().log_prob(x, lengths=[4, 2, 1])
    expected = [module.over(length)().log_prob(row[:length]) for row, length in zip(x, (4, 2, 1), strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_a_bad_context_costs_no_gradient_of_others(batch, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    module = latent.hidden_markov((4,), (2,), regimes=2)
    context = torch.randn(3, 2)
    context[1] = torch.nan
    score = module(context).expand(batch).log_prob(torch.randn(3, 4))
    assert (score.isnan() == torch.tensor([False, True, False])).all()
    score[..., 0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_sequences_that_have_no_regimes_are_refused():
    module = latent.hidden_markov((4,), regimes=2)
    x = torch.zeros(3, 4)
    for method in (module.filter, module.smooth):
        with pytest.raises(ValueError, match=r"`value` must end in shape \(4,\), got \(2, 4, 1\)"):
            method(torch.zeros(2, 4, 1))
        for bad in (torch.inf, 1e30):
            x[1, 2] = bad
            with pytest.raises(ValueError, match="`value` must have a finite log-probability, got -inf in row 1"):
                method(x)
    assert module().log_prob(x)[1] == -torch.inf


@pytest.mark.slow
@pytest.mark.parametrize("with_context", [False, True])
def test_contract_of_hidden_markov(with_context):
    shapes = {"context_shape": (3,), "controls": 2} if with_context else {}
    context = {"context": torch.randn(4, 3), "controls": torch.randn(4, 3, 2)} if with_context else None
    check_distribution(
        lambda: latent.hidden_markov((3, 1), regimes=2, **shapes), event_shape=(3, 1), context=context
    ).raise_if_failed()


@pytest.mark.slow
def test_maximum_likelihood_finds_the_regimes():
    torch.manual_seed(0)
    regimes = (torch.rand(100, 30) < 0.1).cumsum(1) % 2
    x = (2.0 * regimes + 0.3 * torch.randn(100, 30)).unsqueeze(-1)
    module = latent.hidden_markov((30, 1), regimes=2)
    pg.fit(module, x, steps=100, lr=0.05, batch_size=100, seed=0)
    found = module.smooth(x).probs.argmax(-1)
    right = (found == regimes).float().mean()
    assert max(right, 1 - right) > 0.97
