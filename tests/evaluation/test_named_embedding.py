"""Embeddings: named, in evaluation mode, row by row; and the classifier that is trained on the data at hand."""

from functools import partial

import pytest
import torch
from torch import nn

from pyrogen.evaluation import (
    NamedEmbedding,
    density_coverage,
    frechet_distance,
    kernel_distance,
    label_counts,
    precision_recall,
    train_classifier,
)


def keyworded(measure):
    return lambda x, y, **rest: measure(data=x, samples=y, **rest)


MEASURES = {
    "frechet": partial(frechet_distance, divisions=2),
    "kernel": kernel_distance,
    "precision": keyworded(precision_recall),
    "density": keyworded(density_coverage),
}


def draws(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_no_figure_is_without_the_name_of_its_embedding(measure):
    x, y = draws(60, 1, 4, 4), draws(60, 1, 4, 4, seed=1)
    assert "the data's own coordinates" in str(measure(x, y))
    average = NamedEmbedding(lambda images: images.mean((-1, -2)), "the mean of the pixels")
    assert "the mean of the pixels" in str(measure(x, y, embedding=average))
    with pytest.raises(TypeError, match="`embedding` must be a NamedEmbedding or None, got function; name a function"):
        measure(x, y, embedding=lambda images: images.flatten(1))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_integers_beside_fractions_are_refused(measure):
    x = (255 * torch.rand(60, 3)).to(torch.uint8)
    with pytest.raises(TypeError, match="must both hold integers or both floating-point numbers, got torch.uint8"):
        measure(x, x / 255)
    measure(x, x.flip(0))


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_precision_and_scale_of_the_numbers_do_not_matter(measure):
    """Single precision far from zero, and half precision, are what they are in double precision."""
    x, y = (1000 * draws(2, 60, 3)).round().div(8).unbind()
    options = {} if measure is kernel_distance else {"generator": torch.Generator().manual_seed(0)}
    exact = str(measure(x.double(), y.double(), **options))
    options = {} if measure is kernel_distance else {"generator": torch.Generator().manual_seed(0)}
    assert str(measure(x, y, **options)) == exact


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_a_scale_without_squares_is_refused(measure, scale):
    x = scale * draws(60, 3, dtype=torch.double)
    with pytest.raises(ValueError, match="must have features with squares in double precision, got a spread of"):
        measure(x, -x)


def test_a_network_that_works_in_place_leaves_the_data_alone():
    x = draws(60, 3)
    before = x.clone()
    kernel_distance(x, draws(60, 3, seed=1), embedding=NamedEmbedding(nn.ReLU(inplace=True), "rectified"))
    assert torch.equal(x, before)


def test_a_network_is_in_evaluation_mode_and_then_as_it_was():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    network[1].eval()
    embedding, x = NamedEmbedding(network, "a network", batch_size=7), draws(60, 3)
    statistics = network[1].running_mean.clone()
    assert torch.equal(embedding(x), embedding(x))
    assert not embedding(x).requires_grad
    assert [part.training for part in (network, *network)] == [True, True, False, True]
    assert torch.equal(statistics, network[1].running_mean)
    torch.testing.assert_close(embedding(x)[5:6], embedding(x[5:6]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),
        lambda x: nn.functional.dropout(x, training=True),
        lambda x: x + torch.randn_like(x),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
    ],
    ids=["standardized by the batch", "dropout", "noise", "batch statistics"],
)
def test_features_that_depend_on_other_rows_or_on_chance_are_refused(function):
    with pytest.raises(ValueError, match="`embedding.* must"):
        NamedEmbedding(function, "unsteady")(draws(60, 3))


def test_values_beyond_what_an_embedding_was_made_for_are_refused_by_the_sample_s_name():
    embedding = NamedEmbedding(lambda x: x, "pixels", interval=(0, 1))
    data = torch.rand(60, 3)
    with pytest.raises(ValueError, match=r"`samples` must lie in the interval \(0, 1\) of the embedding 'pixels', got"):
        precision_recall(data=data, samples=2 * data - 1, embedding=embedding)
    with pytest.raises(ValueError, match="`y` must lie in the interval"):
        kernel_distance(data, 255 * data, embedding=embedding)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.reshape(len(x), 1, -1), r"features of shape \(60, n\), got \(60, 1, 3\); flatten or average"),
        (lambda x: x.mean(), "features of shape"),
        (lambda x: x / 0, r"`embedding\(...\)` must be finite"),
        (lambda x: (x - x).sqrt() / (x - x), r"`embedding\(...\)` must hold numbers"),
        (lambda x: torch.ones(len(x), 2), "`embedding` must tell rows apart, got the same features of all rows"),
    ],
)
def test_what_is_no_embedding_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(draws(60, 3), draws(60, 3, seed=1), embedding=NamedEmbedding(function, "strange"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"function": 3}, TypeError, "`function` must be callable"),
        ({"name": 3}, TypeError, "`name` must be a str"),
        ({"name": " "}, ValueError, "`name` must say what the embedding is"),
        ({"interval": (1, 0)}, ValueError, r"`interval` must be \(low, high\), got \(1, 0\)"),
        ({"interval": 3}, TypeError, "`interval` must be a tuple"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
    ],
)
def test_an_embedding_is_checked_where_it_is_made(arguments, error, message):
    with pytest.raises(error, match=message):
        NamedEmbedding(**({"function": torch.tanh, "name": "a tanh"} | arguments))


BAD = {
    "list": ([[1.0, 2.0]], TypeError),
    "NaN": (torch.full((60, 3), torch.nan), ValueError),
    "infinity": (torch.full((60, 3), torch.inf), ValueError),
    "one": (torch.zeros(1, 3), ValueError),
    "none": (torch.zeros(0, 3), ValueError),
    "no dimension": (torch.tensor(1.0), ValueError),
    "another event": (torch.zeros(60, 4), ValueError),
    "empty events": (torch.zeros(60, 0), ValueError),
    "complex": (torch.zeros(60, 3, dtype=torch.complex64), TypeError),
}


@pytest.mark.parametrize(("bad", "error"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("measure", MEASURES, ids=MEASURES)
def test_what_is_no_sample_is_refused_by_name(measure, bad, error):
    first, second = ("x", "y") if measure in ("frechet", "kernel") else ("data", "samples")
    with pytest.raises(error, match=f"`{second}|`{first}` and `{second}`"):
        MEASURES[measure](draws(60, 3), bad)
    with pytest.raises(error, match=f"`{first}"):
        MEASURES[measure](bad, draws(60, 3))


@pytest.mark.parametrize("measure", ["precision", "density"])
def test_neighbours_must_be_there(measure):
    x = draws(60, 3)
    with pytest.raises(ValueError, match="`data` and `samples` must hold at least 62 draws each, got 60 and 60"):
        MEASURES[measure](x, x, neighbours=30)
    with pytest.raises(ValueError, match="`neighbours` must be at least 1, got 0"):
        MEASURES[measure](x, x, neighbours=0)
    with pytest.raises(ValueError, match="`divisions` must be at least 1, got 0"):
        MEASURES[measure](x, x, divisions=0)


def clusters(shape):
    labels = torch.arange(600) % 3
    centers = 8 * draws(3, *shape, seed=3)
    return 50 + 10 * (centers[labels] + draws(600, *shape)), labels


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_a_classifier_is_trained_on_the_data_at_hand_and_says_so(shape):
    x, labels = clusters(shape)
    state = torch.get_rng_state()
    classifier = train_classifier(x, labels, features=5, steps=60, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert classifier.name == "5 standardized features of a classifier of 3 classes trained on 480 rows"
    assert classifier.accuracy.value > 0.9
    assert classifier.accuracy.unit == "held-out accuracy"
    assert (classifier.labels(x) == labels).double().mean() > 0.9
    assert classifier.embedding(x).shape == (600, 5)
    torch.testing.assert_close(classifier.embedding(x).std(0), torch.ones(5).double(), rtol=0.15, atol=0)
    assert label_counts(classifier.labels(x[labels < 2]), 3).captured == 2
    again = train_classifier(x, labels, features=5, steps=60, seed=0)
    assert torch.equal(again.embedding(x), classifier.embedding(x))
    distance = kernel_distance(x[labels < 2], x, embedding=classifier.embedding)
    assert distance.value > 4 * distance.standard_error
    assert distance.unit == f"squared MMD in {classifier.name}"


def test_a_classifier_takes_a_network_of_the_caller_s():
    x, labels = clusters((2,))
    classifier = train_classifier(x, labels, body=nn.Sequential(nn.Linear(2, 7), nn.BatchNorm1d(7)), steps=20, seed=0)
    assert classifier.name.startswith("7 standardized features of a classifier of 3 classes")
    assert classifier.embedding(x).shape == (600, 7)


@pytest.mark.parametrize(
    ("x", "labels", "error", "message"),
    [
        (torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 0, 1.0]), TypeError, "`labels` must hold integers"),
        (torch.randn(6, 2), torch.tensor([0, 1, 0]), ValueError, "`x` and `labels` must have shapes"),
        (torch.randn(6), torch.tensor([0, 1, 0, 1, 0, 1]), ValueError, "`x` and `labels` must have shapes"),
        (
            torch.randn(6, 2),
            torch.tensor([0, 2, 0, 2, 0, 2]),
            ValueError,
            r"each at least twice, got the counts \[3, 0",
        ),
        (torch.randn(6, 2), torch.zeros(6, dtype=torch.long), ValueError, "`labels` must hold at least two classes"),
        (torch.randn(6, 2), torch.tensor([-1, 1, 0, 1, 0, 1]), ValueError, "`labels` must be from zero, got -1"),
        (torch.randint(9, (6, 2)), torch.tensor([0, 1, 0, 1, 0, 1]), TypeError, "`x` must be a tensor of floating"),
        (torch.full((6, 2), torch.nan), torch.tensor([0, 1, 0, 1, 0, 1]), ValueError, "`x` must hold numbers"),
    ],
)
def test_what_cannot_be_classified_is_refused(x, labels, error, message):
    with pytest.raises(error, match=message):
        train_classifier(x, labels, steps=2)


def test_a_body_gives_vectors_of_features():
    x, labels = torch.randn(20, 2), torch.arange(20) % 2
    with pytest.raises(ValueError, match=r"`body` must give 2 rows features of shape \(2, n\), got \(4,\)"):
        train_classifier(x, labels, body=nn.Flatten(0), steps=2)
