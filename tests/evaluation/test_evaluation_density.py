"""Log-likelihoods, bits and Bayes' rule against closed forms; what a density cannot support is refused."""

from math import log, pi, sqrt

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrogen.core.module import DistributionModule
from pyrogen.evaluation import (
    bayes_classifier,
    bits_per_dimension,
    class_marginal,
    log_likelihood,
    log_likelihood_difference,
    log_probs,
)

STANDARD = dist.Normal(torch.zeros(2), 1.0).to_event(1)


class Shifted(DistributionModule):
    """A unit normal around its context."""

    def __init__(self, size=2):
        super().__init__((size,), (size,))

    def forward(self, context=None):
        return dist.Normal(context, 1.0).to_event(1)


class Labelled(DistributionModule):
    """Two dimensions, one mean for each class."""

    def __init__(self, means):
        super().__init__((2,), ())
        self.means = means

    def forward(self, context=None):
        return dist.Normal(self.means[context], 1.0).to_event(1)


class Claiming(Labelled):
    """A module whose log_prob means something else."""

    def __init__(self, density):
        super().__init__(torch.zeros(3, 2))
        self.density = density


class WithDropout(DistributionModule):
    def __init__(self):
        super().__init__((2,))
        self.dropout = nn.Dropout(0.5)
        self.rest = nn.Dropout(0.5).eval()

    def forward(self, context=None):
        return dist.Normal(self.dropout(torch.ones(2)), 1.0).to_event(1)


def test_the_log_likelihood_of_a_gaussian_is_minus_its_entropy():
    torch.manual_seed(0)
    estimate = log_likelihood(STANDARD, torch.randn(20_000, 2))
    assert (estimate.unit, estimate.density) == ("nats", "exact")
    # The log-density is -log(2 pi) minus half a chi-square with two degrees of freedom: variance 1.
    assert estimate.standard_error == pytest.approx(1 / sqrt(20_000), rel=0.05)
    assert abs(estimate.value + log(2 * pi) + 1) < 4 * estimate.standard_error


def test_intervals_hold_the_truth_as_often_as_they_say():
    torch.manual_seed(0)
    repeats, truth, hits = 1000, -log(2 * pi) - 1, 0
    for x in torch.randn(repeats, 200, 2):
        low, high = log_likelihood(STANDARD, x).interval(0.95)
        hits += low < truth < high
    assert abs(hits / repeats - 0.95) < 4 * sqrt(0.95 * 0.05 / repeats)


def test_chunks_and_batch_shapes_change_nothing():
    torch.manual_seed(0)
    module, x, context = Shifted(), torch.randn(3, 5, 2), torch.randn(5, 2)
    expected = dist.Normal(context, 1.0).to_event(1).log_prob(x).double()
    for batch_size in (1, 4, 100):
        torch.testing.assert_close(log_probs(module, x, context, batch_size=batch_size), expected)


def test_modules_are_evaluated_as_such_and_left_as_they_were():
    module = WithDropout()
    first = log_probs(module, torch.ones(4, 2))
    torch.testing.assert_close(first, torch.full((4,), -log(2 * pi), dtype=torch.double))
    assert module.training
    assert module.dropout.training
    assert not module.rest.training
    assert not first.requires_grad


def test_a_paired_difference_has_a_smaller_error():
    torch.manual_seed(0)
    x = 3 * torch.randn(1000, 2)
    wide = dist.Normal(torch.zeros(2), 3.0).to_event(1)
    slightly_wrong = dist.Normal(torch.zeros(2) + 0.1, 3.0).to_event(1)
    difference = log_likelihood_difference(wide, slightly_wrong, x)
    separate = log_likelihood(wide, x)
    # KL between the two: 2 * 0.1**2 / (2 * 9).
    assert abs(difference.value - 0.01 / 9) < 4 * difference.standard_error
    assert difference.standard_error < separate.standard_error / 10
    assert difference.value == pytest.approx(separate.value - log_likelihood(slightly_wrong, x).value)


def test_bounds_keep_their_label_and_are_no_baseline():
    x, labels = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    bound = Claiming("lower bound")
    assert log_likelihood(bound, x, labels).density == "lower bound"
    assert log_likelihood_difference(bound, STANDARD, x, context=labels).density == "lower bound"
    with pytest.raises(NotImplementedError, match="`baseline` Claiming has density 'lower bound'"):
        log_likelihood_difference(STANDARD, bound, x, baseline_context=labels)


def test_what_a_density_cannot_support_is_refused_by_name():
    x, labels = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    implicit, energy, bound = Claiming(None), Claiming("unnormalized"), Claiming("lower bound")
    for compute in (log_probs, log_likelihood):
        with pytest.raises(NotImplementedError, match="Claiming has density None"):
            compute(implicit, x, labels)
    with pytest.raises(NotImplementedError, match="Claiming has density 'unnormalized'"):
        log_likelihood(energy, x, labels)
    with pytest.raises(NotImplementedError, match="not a coding cost"):
        bits_per_dimension(energy, x, labels, log_volume=0.0)
    assert log_probs(energy, x, labels).shape == (4,)  # ranks and typicality need no constant
    with pytest.raises(NotImplementedError, match="Claiming has density None"):
        bayes_classifier(implicit, x, 3)
    for module in (energy, bound):
        with pytest.raises(NotImplementedError, match=r"Claiming has density '.*such as pyrogen.diffusion.Probability"):
            bayes_classifier(module, x, 3)


def test_errors_name_the_argument():
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="`x` must end in shape"):
        log_likelihood(STANDARD, torch.randn(4, 3))
    with pytest.raises(ValueError, match="`context` must broadcast to the batch"):
        log_likelihood(Shifted(), x, torch.randn(3, 4, 2))
    with pytest.raises(ValueError, match="`x` must hold at least one datum"):
        log_likelihood(STANDARD, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        log_likelihood(STANDARD, x, batch_size=0)
    with pytest.raises(ValueError, match="`module` must have an empty batch shape"):
        log_likelihood(dist.Normal(torch.zeros(4, 2), 1.0).to_event(1), x)
    with pytest.raises(ValueError, match="`module` must take labels"):
        bayes_classifier(Shifted(), x, 3)
    with pytest.raises(ValueError, match="`log_prior` must have shape"):
        bayes_classifier(Labelled(torch.zeros(3, 2)), x, 3, torch.zeros(2))


def test_nan_is_reported_with_its_row_and_minus_infinity_kept():
    x = torch.zeros(5, 2)
    x[3] = float("nan")
    with pytest.raises(ValueError, match="NaN at 1 of 5 rows, the first is 3"):
        log_likelihood(dist.Normal(torch.zeros(2), 1.0, validate_args=False).to_event(1), x)
    box = dist.Uniform(torch.zeros(1), torch.ones(1), validate_args=False).to_event(1)
    assert log_likelihood(box, torch.tensor([[0.5], [2.0]])).value == float("-inf")


def test_bits_count_the_volume_of_a_cell():
    torch.manual_seed(0)
    levels, dimension = 16, 3
    codes = torch.randint(levels, (500, dimension))
    continuous = (codes + torch.rand(500, dimension)) / levels
    uniform = dist.Uniform(torch.zeros(dimension), torch.ones(dimension)).to_event(1)
    bits = bits_per_dimension(uniform, continuous, log_volume=-dimension * log(levels))
    assert bits.value == pytest.approx(4.0, abs=1e-6)
    assert (bits.unit, bits.density) == ("bits per dimension", "lower bound")
    assert "upper bound" in str(bits)
    # Standardized data and a model of them: the same bits.
    scale = 0.3
    stretched = dist.Uniform(torch.zeros(dimension), torch.full((dimension,), 1 / scale)).to_event(1)
    volume = -dimension * (log(levels) + log(scale))
    assert bits_per_dimension(stretched, continuous / scale, log_volume=volume).value == pytest.approx(4.0, abs=1e-5)


def test_a_map_of_the_data_changes_no_bits():
    torch.manual_seed(0)
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    y = torch.randn(300, 2)
    mapped = dist.TransformedDistribution(normal, [torch.distributions.transforms.SigmoidTransform()])
    unit = y.sigmoid()
    logit_volume = -(unit * (1 - unit)).log().sum(-1) - 2 * log(256)
    direct = bits_per_dimension(mapped, unit, log_volume=-2 * log(256))
    assert bits_per_dimension(normal, y, log_volume=logit_volume).value == pytest.approx(direct.value, abs=1e-4)


def test_dequantized_bits_are_an_upper_bound_of_the_discrete_cost():
    torch.manual_seed(0)
    edges = torch.linspace(0, 1, 9)
    beta = dist.Beta(2.0, 5.0)
    fine = (torch.arange(8000) + 0.5) / 8000
    mass = beta.log_prob(fine).exp().reshape(8, 1000).mean(1) / 8
    codes = torch.multinomial(mass, 4000, replacement=True)
    x = (edges[codes] + torch.rand(4000) / 8).unsqueeze(-1)
    bits = bits_per_dimension(beta.expand([1]).to_event(1), x, log_volume=-log(8))
    discrete = dist.Categorical(mass).expand([1]).to_event(1)
    cost = bits_per_dimension(discrete, codes.unsqueeze(-1), log_volume=0.0)
    assert cost.density == "exact"
    entropy = float(-(mass * mass.log2()).sum())
    assert abs(cost.value - entropy) < 4 * cost.standard_error
    assert bits.value > cost.value


def test_bits_refuse_a_volume_where_there_is_none():
    discrete = dist.Categorical(torch.ones(4)).expand([2]).to_event(1)
    with pytest.raises(ValueError, match="`log_volume` must be 0 for Independent"):
        bits_per_dimension(discrete, torch.zeros(3, 2), log_volume=-1.0)
    with pytest.raises(ValueError, match="`log_volume` must be one number or of shape"):
        bits_per_dimension(STANDARD, torch.zeros(3, 2), log_volume=torch.zeros(2))


def test_bayes_rule_gives_the_closed_form():
    torch.manual_seed(0)
    means, log_prior = torch.randn(4, 2), torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    x = torch.randn(3, 5, 2)
    expected = (x @ means.T - 0.5 * means.square().sum(1) + log_prior).log_softmax(-1).double()
    posterior = bayes_classifier(Labelled(means), x, 4, log_prior, batch_size=4)
    torch.testing.assert_close(posterior, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posterior.exp().sum(-1), torch.ones(3, 5, dtype=torch.double))
    uniform = bayes_classifier(Labelled(means), x, 4)
    torch.testing.assert_close(uniform, bayes_classifier(Labelled(means), x, 4, torch.full((4,), -7.0)))


def test_a_class_summed_out_is_a_mixture():
    torch.manual_seed(0)
    means, log_prior = torch.randn(4, 2), torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    x = torch.randn(3, 5, 2)
    for prior, weights in ((log_prior, log_prior), (log_prior - 3, log_prior), (None, torch.zeros(4))):
        parts = dist.Normal(means, 1.0).to_event(1)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=weights), parts)
        found = class_marginal(Labelled(means), x, 4, prior, batch_size=4)
        torch.testing.assert_close(found, mixture.log_prob(x).double(), atol=1e-5, rtol=1e-5)


def test_a_single_datum_and_a_shared_label():
    torch.manual_seed(0)
    means, x = torch.randn(4, 2), torch.randn(3, 5, 2)
    module = Labelled(means)
    whole = bayes_classifier(module, x, 4)
    torch.testing.assert_close(bayes_classifier(module, x[1, 2], 4), whole[1, 2])
    expected = module(torch.tensor(3)).log_prob(x).double()
    torch.testing.assert_close(log_probs(module, x, torch.tensor(3), batch_size=4), expected)
    torch.testing.assert_close(log_probs(module, x[0, 0], torch.tensor(3)), expected[0, 0])


def test_classifiers_need_labels_and_classes():
    with pytest.raises(ValueError, match="`classes` must be at least 1, got 0"):
        bayes_classifier(Labelled(torch.zeros(2, 2)), torch.zeros(3, 2), 0)
    with pytest.raises(ValueError, match="`module` must take labels"):
        bayes_classifier(STANDARD, torch.zeros(3, 2), 2)


def test_a_difference_needs_equal_events():
    with pytest.raises(ValueError, match=r"`baseline` must have events of shape \(2,\), got \(\)"):
        log_likelihood_difference(STANDARD, dist.Normal(0.0, 1.0), torch.zeros(2, 2))
