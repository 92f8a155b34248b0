r"""The classifier two-sample test: if a classifier tells the samples apart, they differ.

The statistic is the balanced held-out accuracy, 1/2 on average under the hypothesis. One accuracy is no evidence yet:
with :math:`N` held-out draws it spreads by about :math:`1 / (2 \sqrt N)` around 1/2 by chance (0.016 for 1,000), and
more under cross-validation, whose folds share their training data. So both tests compare it with relabeled data.
:func:`ratio_test` judges a ratio estimate, or any critic, that was trained before, on held-out draws. A test
can only find what its classifier can learn; an accuracy near 1/2 does not show that the samples agree.

References:
    Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests", https://arxiv.org/abs/1610.06545
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrogen.arguments import anything, checked
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import TestResult, permutation_p_value
from pyrogen.core.shapes import Context
from pyrogen.implicit.divergences import log_ratios_of_both

from .samples import permuted, pool

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin


@takes_arrays
@checked
def classifier_test(
    x: Tensor,
    y: Tensor,
    *,
    classifier: ClassifierMixin | None = None,
    held_out: float = 0.5,
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> TestResult:
    """A classifier two-sample test with one fit: it learns from one part of the draws and is tested on the other.

    Given the classifier, the held-out labels are exchangeable under the hypothesis, so permuting those alone gives a
    valid p-value, at the price of one fit. Any classifier is affordable here.

    Args:
        x: Independent draws; dimensions after the first are flattened.
        y: Independent draws.
        classifier: A scikit-learn classifier (never changed: a clone is fitted); regularized regression on random
            Fourier features if ``None``. For samples of different sizes one that weighs both alike
            (``class_weight="balanced"``): what predicts the larger one throughout finds nothing.
        held_out: Which share of the draws the classifier is tested on.
        permutations: How many relabelings of the held-out draws.
        generator: Of the split and the permutations.

    Raises:
        TypeError: as for :func:`pyrogen.evaluation.samples.mmd_test`, or ``classifier`` is none.
        ValueError: as for :func:`pyrogen.evaluation.samples.mmd_test`, or a part holds no draw of a sample.
    """
    from sklearn.base import clone
    from sklearn.model_selection import train_test_split

    require_classifier(classifier)
    draws, labels, seed = _numbers(x, y, generator)
    for count in (len(x), len(y)):
        if not 1 <= held_out * count <= count - 1:
            raise ValueError(
                f"`held_out` must leave a draw of `x` and of `y` in both parts, got {held_out} of {len(x)} and {len(y)}"
            )
    learn, test = train_test_split(np.arange(len(labels)), test_size=held_out, random_state=seed, stratify=labels)
    fitted = clone(classifier or _default(seed)).fit(draws[learn], labels[learn])
    predicted = fitted.predict(draws[test])
    statistic = _balanced_accuracy(labels[test][None], predicted)[0]
    shuffled = np.random.default_rng(seed).permuted(np.tile(labels[test], (permutations, 1)), axis=1)
    return _result(statistic, _balanced_accuracy(shuffled, predicted))


@takes_arrays
@checked
def cross_validated_classifier_test(
    x: Tensor,
    y: Tensor,
    *,
    classifier: ClassifierMixin | None = None,
    folds: int = 5,
    permutations: int = 99,
    generator: torch.Generator | None = None,
) -> TestResult:
    """A classifier two-sample test in which every draw is held out once, and every permutation refits.

    It has more power than one split, at the price of ``folds * (permutations + 1)`` fits. The permutations must refit:
    the folds share their training data, so the accuracies under relabeled predictions alone spread too little. Other
    arguments and errors are those of :func:`classifier_test`.

    Args:
        x: Independent draws.
        y: Independent draws.
        classifier: Cloned for every fit.
        folds: In how many parts the draws are divided, no more than a sample has draws.
        permutations: How many relabelings.
        generator: Of the parts and the permutations.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    require_classifier(classifier)
    draws, labels, seed = _numbers(x, y, generator)
    if min(labels.sum(), (1 - labels).sum()) < folds:
        raise ValueError(f"`x` and `y` must hold at least `folds` = {folds} draws each, got {len(x)} and {len(y)}")
    learner = classifier or _default(seed)

    def accuracy(labels: np.ndarray) -> float:
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
        return _balanced_accuracy(labels[None], cross_val_predict(learner, draws, labels, cv=parts))[0]

    shuffle = np.random.default_rng(seed).permutation
    null = np.array([accuracy(shuffle(labels)) for _ in range(permutations)])
    return _result(accuracy(labels), null)


@takes_arrays
@checked(context=anything)
def ratio_test(
    critic: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    context: Context = None,
    *,
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> TestResult:
    r"""A two-sample test by a trained estimate of the log-ratio, such as a ``RatioEstimate``, on held-out draws.

    Train it on one part of the draws, calibrate it there if at all, and test it on the rest: given the estimate,
    the labels of draws it has not seen are exchangeable under the hypothesis, so permuting them gives a valid p-value,
    however well or badly it was trained. The statistic is its lower bound of the Jensen-Shannon divergence, in nats,

    .. math::
        \log 2 + \frac{1}{2m} \sum_i \log \sigma(h(x_i)) + \frac{1}{2n} \sum_j \log \sigma(-h(y_j)) .

    With contexts it tests whether both have one distribution given any context. Then only the two events of a context
    are exchangeable, and each pair is exchanged or left with probability 1/2, which is exact for contexts of whatever
    distribution: they may be chosen, or all alike.

    Args:
        critic: Gives estimates ``(N,)`` of the log-ratio of the distributions of ``x`` and ``y``: called
            ``critic(x)``, or ``critic(x, context)``.
        x: Independent draws, which the critic was not trained on.
        y: Independent draws, likewise.
        context: In what context both rows were drawn; as many rows as ``x`` and ``y`` have.
        permutations: How many relabelings.
        generator: Of the permutations.

    Raises:
        ValueError: the critic gives another shape, or NaN; a sample is empty; or shapes do not fit.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [-2.0], [0.5]])
        >>> generator = torch.Generator().manual_seed(0)
        >>> print(ratio_test(lambda x: 2 * x.squeeze(-1), x, y, generator=generator))
        Jensen-Shannon bound 0.4255, p = 0.049
    """
    real, fake = log_ratios_of_both(critic, x, y, context)
    log_ratios = torch.cat([real, fake])
    first = torch.cat([torch.ones_like(real), torch.zeros_like(fake)])
    shuffled = (
        permuted(first, permutations, generator) if context is None else _exchanged(real, permutations, generator)
    )
    labels = torch.cat([first.unsqueeze(1), shuffled], 1)
    above = _sums(logsigmoid(log_ratios), labels) / len(x)
    below = _sums(logsigmoid(-log_ratios), 1 - labels) / len(y)
    bounds = log(2) + 0.5 * (above + below)
    statistic, null = float(bounds[0]), bounds[1:]
    return TestResult(statistic, permutation_p_value(statistic, null), "Jensen-Shannon bound", null)


def _exchanged(values: Tensor, permutations: int, generator: torch.Generator | None) -> Tensor:
    """Labels (1: first sample) of pairs of which each is exchanged or not, ``(2 n, permutations)`` for ``n`` values."""
    device = generator.device if generator is not None else "cpu"
    stays = torch.rand(len(values), permutations, generator=generator, device=device).to(values) < 0.5
    return torch.cat([stays, ~stays]).to(values)


def _sums(values: Tensor, labels: Tensor) -> Tensor:
    """The sum of the values under each column of labels; minus infinity counts where its label is one."""
    finite = values.isfinite()
    infinite = (~finite).to(labels) @ labels
    return (values.where(finite, 0.0) @ labels).masked_fill(infinite > 0, -torch.inf)


def _numbers(x: Tensor, y: Tensor, generator: torch.Generator | None) -> tuple[np.ndarray, np.ndarray, int]:
    pooled, first = pool(x, y)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return pooled.cpu().numpy(), first.long().cpu().numpy(), seed


def require_classifier(classifier: ClassifierMixin | None) -> ClassifierMixin | None:
    """A scikit-learn classifier, or ``None``.

    Raises:
        TypeError: it is something else.
    """
    from sklearn.base import BaseEstimator, is_classifier

    if classifier is not None and not (isinstance(classifier, BaseEstimator) and is_classifier(classifier)):
        raise TypeError(f"`classifier` must be a scikit-learn classifier, got {classifier!r}")
    return classifier


def _default(seed: int) -> ClassifierMixin:
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = RBFSampler(gamma="scale", n_components=200, random_state=seed)
    return make_pipeline(StandardScaler(), features, RidgeClassifier(class_weight="balanced"))


def _balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """For each row of labels, the mean over both classes of the share predicted right."""
    first = (labels * (predicted == 1)).sum(1) / labels.sum(1)
    second = ((1 - labels) * (predicted == 0)).sum(1) / (1 - labels).sum(1)
    return (first + second) / 2


def _result(statistic: float, null: np.ndarray) -> TestResult:
    shuffled = torch.as_tensor(null)
    p_value = permutation_p_value(float(statistic), shuffled)
    return TestResult(float(statistic), p_value, "held-out accuracy", shuffled)
