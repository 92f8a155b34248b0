"""Reports are readable, checks cannot abort them, and nothing outside is touched."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from sound_modules import SoundBijection, SoundDistribution, SoundObjective
from torch import nn
from torch.distributions import Distribution

from pyrogen.testing import Report, check_bijection, check_distribution, check_objective
from pyrogen.testing.report import Finding

CONTEXT = torch.linspace(-1, 1, 15).reshape(5, 3)


def raising():
    raise KeyError("no module today")


class Vandal(SoundDistribution):
    """Changes every global thing and leaves a message open."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        torch.set_default_dtype(torch.float64)
        Distribution.set_default_validate_args(False)
        pyro.enable_validation(False)
        pyro.get_param_store().clear()
        pyro.param("left behind", torch.zeros(1))
        pyro.plate("left open", 3).__enter__()
        raise ValueError("vandal")


def state():
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_default_dtype(),
        Distribution._validate_args,
        dist.is_validation_enabled(),
        pyro.infer.util.is_validation_enabled(),
        pyro.poutine.util.is_validation_enabled(),
        {name: value.tolist() for name, value in pyro.get_param_store().items()},
        list(_PYRO_STACK),
    )


@pytest.mark.parametrize("make", [SoundDistribution, Vandal])
@pytest.mark.parametrize("validate", [True, False])
def test_global_state_is_as_before(make, validate):
    with pyro.get_param_store().scope(), pyro.validation_enabled(validate):
        pyro.param("mine", torch.ones(2))
        before = state()
        check_distribution(make, event_shape=(2,), context=CONTEXT)
        assert state() == before
        assert not torch.is_grad_enabled() or torch.ones(1, requires_grad=True).exp().requires_grad


def test_checks_run_inside_a_model_without_touching_it():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        return check_distribution(SoundDistribution, event_shape=(2,), context=CONTEXT, only=["plates", "svi_guide"])

    with torch.no_grad():
        trace = pyro.poutine.trace(model).get_trace()
    assert trace.nodes["_RETURN"]["value"].passed
    assert set(trace.nodes) == {"_INPUT", "z", "_RETURN"}


def test_results_repeat():
    first, second = (check_distribution(SoundDistribution, event_shape=(2,), context=CONTEXT) for _ in range(2))
    assert [finding.sentence for finding in first.findings] == [finding.sentence for finding in second.findings]


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_distribution(raising, event_shape=(2,)),
        lambda: check_bijection(raising, event_shape=(2,)),
        lambda: check_objective(raising, torch.zeros(3, 1)),
    ],
)
def test_a_factory_that_fails_is_one_finding(check):
    report = check()
    sentence = "`make` raised KeyError: 'no module today'; no check can run"
    assert [(finding.name, finding.sentence) for finding in report.failures] == [("make", sentence)]
    assert len(report.findings) == 1


def test_a_failed_report_raises_with_its_sentences():
    report = Report("Mine", (Finding("inverse", "failed", "misses by 2"), Finding("vmap", "passed", "agrees")))
    with pytest.raises(AssertionError, match="inverse: misses by 2"):
        report.raise_if_failed()
    assert not report.passed
    assert str(report).startswith("Mine: 1 passed, 1 failed, 0 skipped")


def test_a_kept_contract_raises_nothing():
    report = check_bijection(SoundBijection, event_shape=(2,), context=CONTEXT)
    report.raise_if_failed()
    assert report.passed
    assert report.seconds > 0
    assert all(str(finding) in str(report) for finding in report.findings)


def test_only_must_name_checks():
    with pytest.raises(ValueError, match="`only` must name checks among .* got \\['typo'\\]"):
        check_objective(SoundObjective, torch.zeros(3, 3), only=["typo"])


@pytest.mark.parametrize("context", [torch.zeros(2, 3), torch.zeros(()), {"a": torch.zeros(4), "b": torch.zeros(5)}])
def test_contexts_need_rows_to_compare(context):
    with pytest.raises(ValueError, match="`context` must have one batch dimension of at least 3 rows"):
        check_distribution(SoundDistribution, event_shape=(2,), context=context)


def test_anything_with_a_forward_can_be_checked():
    report = check_distribution(lambda: nn.Linear(2, 2), event_shape=(2,))
    assert not report.passed


def test_inputs_take_the_precision_of_the_module():
    context = CONTEXT.double()
    check_distribution(SoundDistribution, event_shape=(2,), context=context).raise_if_failed()
    check_bijection(SoundBijection, event_shape=(2,), context=context).raise_if_failed()
    check_objective(SoundObjective, torch.linspace(-1, 1, 60).reshape(20, 3).double()).raise_if_failed()


def test_the_default_precision_may_be_double():
    torch.set_default_dtype(torch.float64)
    try:
        report = check_distribution(SoundDistribution, event_shape=(2,), context=CONTEXT)
    finally:
        torch.set_default_dtype(torch.float32)
    report.raise_if_failed()
