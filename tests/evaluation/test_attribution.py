"""Attribution to models: exact posteriors over them, what bounds make of these, and what is refused."""

from math import sqrt

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.core.module import DistributionModule
from pyrogen.evaluation import attribution, reliability

SIDES = {"left": dist.Normal(-0.6, 1.0), "right": dist.Normal(0.6, 1.0)}


class Bounded(DistributionModule):
    """A standard normal whose log-probability is a bound: too small by a constant."""

    density = "lower bound"

    def __init__(self, mean, gap):
        super().__init__(())
        self.mean, self.gap = mean, gap

    def forward(self, context=None):
        return Shifted(self.mean, self.gap)


class Shifted(dist.Normal):
    density = "lower bound"

    def __init__(self, mean, gap):
        super().__init__(mean, 1.0)
        self.gap = gap

    def log_prob(self, value):
        return super().log_prob(value) - self.gap


def test_the_posterior_of_two_normals():
    torch.manual_seed(0)
    n, prior = 8000, 0.3
    from_right = torch.rand(n) < prior
    x = torch.where(from_right, SIDES["right"].sample((n,)), SIDES["left"].sample((n,)))
    log_prior = torch.tensor([1 - prior, prior]).log()
    found = attribution(SIDES, x, log_prior=log_prior)
    exact = (1.2 * x.double() + log_prior.double().diff()).sigmoid()  # log-ratio (0.6 + 0.6) x
    torch.testing.assert_close(found.posterior[:, 1], exact, rtol=1e-5, atol=1e-6)
    assert reliability(found.posterior[:, 1], from_right).test.p_value > 0.01
    # The best threshold is where both are equally probable.
    place = -float(log_prior.diff()) / 1.2
    right, left = (float(torch.special.ndtr(torch.tensor(0.6 + side * place))) for side in (-1, 1))
    accuracy = found.accuracy(from_right.long())
    assert abs(accuracy.value - (prior * right + (1 - prior) * left)) < 4 * accuracy.standard_error


def test_evidence_is_the_mean_log_probability():
    torch.manual_seed(0)
    x = SIDES["right"].sample((4000,))
    evidence = attribution(SIDES, x).evidence
    gap = evidence["right"].value - evidence["left"].value
    assert abs(gap - 1.2**2 / 2) < 4 * 1.2 / sqrt(4000)  # the divergence of the two, (1.2)^2 / 2
    assert evidence["right"].density == "exact"


def test_data_of_one_source_decide_together():
    torch.manual_seed(0)
    x = SIDES["right"].sample((30,))
    log_prior = torch.tensor([0.9, 0.1]).log()
    found = attribution(SIDES, x, log_prior=log_prior)
    groups = found.grouped(10)
    exact = (1.2 * x.double().view(3, 10).sum(1) + log_prior.double().diff()).sigmoid()  # the prior counts once
    torch.testing.assert_close(groups.posterior[:, 1], exact, rtol=1e-5, atol=1e-6)
    assert float(found.grouped(30).posterior[0, 1]) > 0.999 > float(found.posterior[:, 1].mean())
    assert groups.evidence["left"].value == pytest.approx(10 * found.evidence["left"].value)
    with pytest.raises(ValueError, match="`size` must divide the 30 data, got 7"):
        found.grouped(7)


@pytest.mark.parametrize(
    ("gaps", "meanings"),
    [
        ((None, None), {"a": "exact", "b": "exact"}),
        ((None, 0.7), {"a": "upper bound", "b": "lower bound"}),
        ((0.7, 0.2), {"a": None, "b": None}),
    ],
)
def test_a_bound_says_on_which_side_the_truth_is(gaps, meanings):
    torch.manual_seed(0)
    x = torch.randn(200)
    models = {
        name: dist.Normal(mean, 1.0) if gap is None else Bounded(mean, gap)
        for name, mean, gap in zip("ab", (-1.0, 1.0), gaps, strict=True)
    }
    found = attribution(models, x)
    assert found.meanings == meanings
    truth = (2.0 * x.double()).sigmoid()  # of b
    for place, (name, probability) in enumerate(zip("ab", (1 - truth, truth), strict=True)):
        if meanings[name] == "upper bound":
            assert (found.posterior[:, place] >= probability - 1e-9).all()
        elif meanings[name] == "lower bound":
            assert (found.posterior[:, place] <= probability + 1e-9).all()
        elif meanings[name] == "exact":
            torch.testing.assert_close(found.posterior[:, place], probability, rtol=1e-5, atol=1e-6)
    labels = {name: estimate.density for name, estimate in found.evidence.items()}
    assert labels == {name: "exact" if gap is None else "lower bound" for name, gap in zip("ab", gaps, strict=True)}


def test_what_no_model_can_have_made_is_from_none():
    models = {"low": dist.Uniform(0.0, 1.0), "high": dist.Uniform(2.0, 3.0)}
    with pyro.validation_enabled(False):
        found = attribution(models, torch.tensor([0.5, 1.5, 2.5]))
    assert found.sources.tolist() == [0, -1, 1]
    assert found.posterior[1].isnan().all()
    torch.testing.assert_close(found.posterior[0], torch.tensor([1.0, 0.0]).double())
    assert found.accuracy(torch.tensor([0, -1, 1])).value == 1.0


def test_modules_of_integers():
    torch.manual_seed(0)
    models = {name: pg.autoregressive.made((3,), symbols=4, hidden=(8,)) for name in "ab"}
    x = torch.randint(4, (20, 3))
    with torch.no_grad():
        joint = torch.stack([model().log_prob(x).double() for model in models.values()], -1)
    torch.testing.assert_close(attribution(models, x, batch_size=7).posterior, joint.softmax(1), rtol=1e-4, atol=1e-6)


def test_what_has_no_posterior_is_refused():
    x = torch.randn(5, 2)
    generator = pg.implicit.mlp((2,), noise=(2,), hidden=(8,))
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    with pytest.raises(NotImplementedError, match="no log_prob"):
        attribution({"game": generator, "normal": normal}, x)
    with pytest.raises(NotImplementedError, match="unnormalized"):
        attribution({"energy": pg.energy.mlp((2,), hidden=(8,)), "normal": normal}, x)
    with pytest.raises(ValueError, match="all be of integers, or all of real numbers"):
        attribution({"normal": dist.Normal(0.0, 1.0), "counts": dist.Poisson(2.0)}, torch.arange(4.0))
    with pytest.raises(ValueError, match="at least two models, got 1"):
        attribution({"normal": normal}, x)
    with pytest.raises(TypeError, match="`models` must be a dict"):
        attribution([normal, normal], x)
    with pytest.raises(ValueError, match=r"`log_prior` must have shape \(2,\), got \(3,\)"):
        attribution({"a": normal, "b": normal}, x, log_prior=torch.zeros(3))
    with pytest.raises(ValueError, match=r"`truth` must have shape \(5,\)"):
        attribution({"a": normal, "b": normal}, x).accuracy(torch.zeros(4).long())
    with pytest.raises(ValueError, match="`truth` must be integers from -1 to 1, got 2"):
        attribution({"a": normal, "b": normal}, x).accuracy(torch.full((5,), 2))


def test_events_of_two_shapes_are_named():
    models = {"three": dist.Normal(torch.zeros(3), 1.0).to_event(1), "one": dist.Normal(0.0, 1.0)}
    message = (
        r"`x` must have shape \(n, \*event_shape\), got \(5, 3\), where events of `models\['one'\]` have shape \(\)"
    )
    with pytest.raises(ValueError, match=message):
        attribution(models, torch.zeros(5, 3))


@pytest.mark.parametrize("wrong", [0.5, float("nan"), float("inf"), 2.0, -2.0])
def test_places_of_models_are_integers(wrong):
    found = attribution(SIDES, torch.tensor([-2.0, 2.0, 2.0]))
    for dtype in (torch.uint8, torch.int64, torch.float, torch.double):
        assert found.accuracy(torch.tensor([0, 1, 0], dtype=dtype)).value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=f"`truth` must be integers from -1 to 1, got {wrong}"):
        found.accuracy(torch.tensor([0.0, wrong, 1.0]))
    with pytest.raises(ValueError, match="`truth` must be integers from -1 to 1, got 255"):
        found.accuracy(torch.tensor([0, 255, 1], dtype=torch.uint8))
