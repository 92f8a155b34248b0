"""A small classifier trained on the data at hand: an embedding, and labels of samples.

Where no network is at hand that sees what matters in the data, one that separates their classes is a beginning. It
sees what separates the classes and is blind to the rest, and two of them are two embeddings: figures are comparable
where they come from one and the same classifier, so train it once, and keep it beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, finite, inner_share, real_tensor, several
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.objective import Objective
from pyrogen.networks.convolution import ImageEncoder
from pyrogen.networks.mlp import MLP
from pyrogen.networks.statistics import Chained, Standardizer, Statistic
from pyrogen.numerics.randomness import seeded
from pyrogen.training.fit import fit

from .embedding import NamedEmbedding


class TrainedClassifier(nn.Module):
    """A classifier, its accuracy, and its features.

    Args:
        body: From rows ``(n, *event_shape)`` to features ``(n, features)``.
        head: From features to the logits of classes.
        standardizer: Brings features to mean zero and scale one over the data that it was trained on.
        name: What it is, for those who read figures.
    """

    accuracy: Estimate
    """Its accuracy on data that it was not trained on."""

    def __init__(self, body: nn.Module, head: nn.Module, standardizer: nn.Module, name: str) -> None:
        super().__init__()
        self.body, self.head, self.standardizer, self.name = body, head, standardizer, name

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the classes, ``(n, classes)``."""
        return self.head(self.body(x))

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        """The most probable class of each row, ``(n,)``, as :func:`~pyrogen.evaluation.label_counts` takes them."""
        with evaluating(self):
            return torch.cat([self(rows).argmax(1) for rows in x.split(500)])

    @property
    def embedding(self) -> NamedEmbedding:
        """Its features, of which the logits are linear functions, standardized over the data it was trained on."""
        return NamedEmbedding(nn.Sequential(self.body, self.standardizer), self.name)


@takes_arrays
@checked(features=several, held_out=inner_share)
def train_classifier(
    x: Tensor,
    labels: Tensor,
    *,
    body: nn.Module | None = None,
    features: int = 64,
    held_out: float = 0.2,
    steps: int = 1000,
    seed: int | None = None,
) -> TrainedClassifier:
    """Trains a small classifier on the data at hand; its features are an embedding, named as such.

    Rows are standardized first. Of images of three dimensions the body is convolutions that halve them twice, of all
    else a perceptron of two hidden layers of 128 units.

    Args:
        x: Labelled data, floating-point numbers.
        labels: Their classes, integers from zero.
        body: The network, from standardized rows ``(n, *event_shape)`` to features ``(n, features)``, in place of the
            ones above.
        features: How many features, the dimensions of the embedding.
        held_out: Which share of the rows the accuracy is from.
        steps: Of training, with minibatches of 128 rows.
        seed: Of weights, split and minibatches: the embedding depends on them.

    Shape:
        ``x`` is ``(n, *event_shape)``, ``labels`` is ``(n,)``.

    Raises:
        TypeError: ``x`` holds no floating-point numbers, or ``labels`` no integers.
        ValueError: the shapes do not fit, a class is missing or has one row, an entry is not finite, or ``body`` gives
            no vectors of features.

    Example:
        >>> x = torch.randn(300, 2)
        >>> classifier = train_classifier(x, (x[:, 0] > 0).long(), features=4, steps=50, seed=0)
        >>> classifier.name
        '4 standardized features of a classifier of 2 classes trained on 240 rows'
        >>> classifier.embedding(x).shape
        torch.Size([300, 4])
    """
    classes = _classes(finite(x, "x"), labels)
    with seeded(seed):
        order = torch.randperm(len(x)).to(x.device)
        network = body or _body(tuple(x.shape[1:]), features).to(x)
        features = _features(network, x[:2]) if body is not None else features
        standardized = Chained(Standardizer(tuple(x.shape[1:]), name="x"), network).to(x)
        head = nn.Linear(features, classes).to(x)
        test, learn = order[: ceil(held_out * len(x))], order[ceil(held_out * len(x)) :]
        fit(_CrossEntropy(standardized, head), (x[learn], labels[learn]), steps=steps)
    name = f"{features} standardized features of a classifier of {classes} classes trained on {len(learn):,} rows"
    trained = TrainedClassifier(standardized, head, _standardizer(standardized, x[learn]), name)
    right = trained.labels(x[test]) == labels[test]
    trained.accuracy = Estimate.of_share(right, unit="held-out accuracy")
    return trained


class _CrossEntropy(Objective):
    """The cross-entropy of labels."""

    def __init__(self, body: Chained, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.body(x)), labels)

    def read_data(self, x: Tensor, labels: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.body.read_data(x)


@torch.no_grad()
def _standardizer(body: nn.Module, x: Tensor) -> Standardizer:
    """Standardizes features by those of rows."""
    features = torch.cat([body(rows) for rows in x.split(500)])
    standardizer = Standardizer(tuple(features.shape[1:]), name="features").to(x)
    moments = standardizer.moments()
    moments.add(features)
    standardizer.learn(moments)
    return standardizer


def _features(body: nn.Module, rows: Tensor) -> int:
    """How many features a body gives."""
    with torch.no_grad(), evaluating(body):
        found = tuple(body(rows).shape)
    if len(found) != 2 or found[0] != len(rows) or not found[1]:
        raise ValueError(f"`body` must give {len(rows)} rows features of shape ({len(rows)}, n), got {found}")
    return found[1]


def _body(event_shape: tuple[int, ...], features: int) -> nn.Module:
    if len(event_shape) == 3:
        return ImageEncoder(event_shape, features)
    return nn.Sequential(nn.Flatten(), MLP(prod(event_shape), features))


def _classes(x: Tensor, labels: Tensor) -> int:
    """How many classes there are, from zero, each with at least two rows."""
    real_tensor(labels, "labels")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"`labels` must hold integers, got {labels.dtype}; convert booleans by `.long()`")
    if x.dim() < 2 or not x.numel() or labels.shape != x.shape[:1]:
        raise ValueError(
            f"`x` and `labels` must have shapes (n, *event) and (n,), got {tuple(x.shape)} and {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0:
        raise ValueError(f"`labels` must be from zero, got {int(labels.min())}")
    counts = labels.bincount()
    if len(counts) < 2 or int(counts.min()) < 2:
        raise ValueError(
            f"`labels` must hold at least two classes, each at least twice, got the counts {counts.tolist()}"
        )
    return len(counts)
