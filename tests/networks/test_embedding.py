"""Embeddings of simulated data: sets of any number of rows, series, images, several side by side."""

import math

import pytest
import torch

import pyrogen as pg
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.embedding import EachRow, ImageEmbedding, SideBySide, VectorEmbedding, tamed
from pyrogen.networks.embedding_defaults import default_embedding
from pyrogen.networks.forms import OneHot, WithLogarithm
from pyrogen.networks.series import SequenceEmbedding
from pyrogen.networks.sets import SetEmbedding
from pyrogen.networks.statistics import Moments, RefusedDataError


def a_set(*event, rows=6):
    return SetEmbedding(VectorEmbedding(event), rows=rows, width=8, outputs=4)


def groups():
    return SetEmbedding(a_set(2, rows=3), rows=4, width=8, outputs=4)


EMBEDDINGS = {
    "vector": lambda: VectorEmbedding((2, 3)),
    "number": lambda: VectorEmbedding(()),
    "series": lambda: SequenceEmbedding((70,), outputs=4, width=8),
    "short series of vectors": lambda: SequenceEmbedding((5, 2), outputs=4, width=8),
    "long series": lambda: SequenceEmbedding((300, 2), outputs=4, width=8),
    "image": lambda: ImageEmbedding((2, 20, 12), outputs=4, width=8),
    "small image": lambda: ImageEmbedding((1, 3, 3), outputs=4, width=8),
    "counts": lambda: VectorEmbedding((2, 3), form=WithLogarithm(counts=True)),
    "series of positive numbers": lambda: SequenceEmbedding((70, 2), form=WithLogarithm(-1e6), outputs=4, width=8),
    "image with logarithms": lambda: ImageEmbedding(
        (2, 9, 12), form=WithLogarithm(1e6, above=False), outputs=4, width=8
    ),
    "set of numbers": lambda: a_set(),
    "set of vectors": lambda: a_set(3),
    "set of sets": groups,
    "sets with places": lambda: EachRow(a_set(2), rows=3),
    "several": lambda: SideBySide({"x": a_set(2), "other.y": VectorEmbedding((3,))}),
}


def contexts(embedding, rows=5):
    shape = embedding.context_shape
    if isinstance(shape, dict):
        return {name: torch.randn(rows, *part) for name, part in shape.items()}
    return torch.randn(rows, *shape)


def with_rows(context, change):
    """Contexts of the same keys, each changed."""
    return {key: change(part) for key, part in context.items()} if isinstance(context, dict) else change(context)


def learn(embedding, context):
    for statistic, rows in list(embedding.read_data(context)):
        moments = Moments()
        moments.add(rows)
        statistic.learn(moments)


def sizes(embedding, context, counts):
    """Sets that keep so many of their first rows."""
    context = context.clone()
    context[torch.arange(context.shape[1]) >= torch.as_tensor(counts).unsqueeze(-1)] = math.nan
    return context


@pytest.mark.parametrize("build", EMBEDDINGS.values(), ids=EMBEDDINGS.keys())
class TestContract:
    def test_vectors_of_the_size_declared_and_gradients_in_every_parameter(self, build):
        embedding = build()
        context = contexts(embedding)
        found = embedding(context)
        assert found.shape == (5, embedding.size)
        if found.requires_grad:
            found.square().sum().backward()
        assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in embedding.parameters())
        assert embedding(with_rows(context, lambda part: part[:0])).shape == (0, embedding.size)

    def test_statistics_are_learned_and_precision_follows(self, build):
        embedding = build()
        context = with_rows(contexts(embedding), lambda part: 100 + 7 * part)
        learn(embedding, context)
        assert embedding(context).abs().max() < 30
        double = embedding.double()(with_rows(context, torch.Tensor.double))
        assert double.dtype == torch.float64

    def test_a_row_does_not_depend_on_the_others_of_its_batch(self, build):
        embedding = build()
        context = contexts(embedding)
        found = embedding(context)
        spoilt = with_rows(context, lambda part: torch.cat([part[:3], part[3:] * math.inf]))
        torch.testing.assert_close(embedding(with_rows(context, lambda part: part[:3])), found[:3])
        torch.testing.assert_close(embedding(spoilt)[:3], found[:3])

    def test_infinities_are_refused_by_row(self, build):
        embedding = build()
        context = contexts(embedding)
        part = next(iter(context.values())) if isinstance(context, dict) else context
        part[3].view(-1)[-1] = math.inf
        with pytest.raises(RefusedDataError, match="must .*finite.* got inf in row 3$"):
            list(embedding.read_data(context))

    def test_it_stands_before_a_flow(self, build):
        embedding = build()
        flow = pg.flows.affine_coupling((2,), embedding.context_shape, embedding=embedding, layers=2, hidden=(8,))
        context = with_rows(contexts(embedding, 40), lambda part: 100 + part)
        pg.fit(flow, (torch.randn(40, 2), context), steps=2, seed=0)
        scores = flow(context).log_prob(torch.zeros(40, 2))
        assert scores.isfinite().all()
        assert not any(statistic for _, statistic in flow.read_data(torch.zeros(40, 2), context) if not statistic.shape)


@pytest.mark.parametrize("event", [(), (3,)])
def test_absent_rows_change_nothing_and_order_neither(event):
    embedding, context = a_set(*event), torch.randn(4, 6, *event)
    counts = [1, 3, 6, 0]
    context = sizes(embedding, context, counts)
    learn(embedding, context)
    found = embedding(context)
    assert found.isfinite().all()
    torch.testing.assert_close(embedding(context[:, torch.randperm(6)]), found)
    for row, count in enumerate(counts[:3]):
        few = torch.full_like(context[:1], math.nan)
        few[:, 6 - count :] = context[row, :count]
        torch.testing.assert_close(embedding(few), found[row : row + 1])


def test_moments_are_those_of_the_rows_that_are_there():
    embedding = a_set(2)
    context = sizes(embedding, 3 + torch.randn(50, 6, 2), torch.randint(1, 7, (50,)))
    learn(embedding, context)
    present = context.flatten(0, 1)
    present = present[~present.isnan().any(-1)]
    torch.testing.assert_close(embedding.row.standardizer.mean, present.mean(0))
    torch.testing.assert_close(embedding.row.standardizer.scale, present.std(0))


def test_number_scale_and_mean_are_passed_on():
    embedding = a_set(2)
    context = sizes(embedding, torch.randn(2, 6, 2), [2, 6])
    found = embedding(context)[:, : embedding.fixed]
    number, scale, mean = found.split([1, 2, 2], -1)
    torch.testing.assert_close(number[1] - number[0], torch.tensor([math.log(3) / math.log(12)]))
    for row, count in enumerate([2, 6]):
        kept = context[row, :count]
        torch.testing.assert_close(mean[row], kept.mean(0))
        torch.testing.assert_close((2 * scale[row]).exp() * (count + 1) - 1, kept.var(0, correction=0) * count)


@pytest.mark.parametrize("build", EMBEDDINGS.values(), ids=EMBEDDINGS.keys())
def test_fixed_elements_depend_on_no_parameter(build):
    embedding = build()
    context = contexts(embedding)
    before = embedding(context)
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.copy_(torch.randn_like(parameter))
    same = (embedding(context) == before).all(0)
    assert same[: embedding.fixed].all()
    assert not same[embedding.fixed :].any()


def test_forms_of_numbers():
    numbers = torch.tensor([[1.0, math.e], [math.inf, math.nan]])
    found = WithLogarithm()(numbers)
    torch.testing.assert_close(found[0], torch.tensor([[1.0, 0.0], [math.e, 1.0]]))
    assert found[1, 0].tolist() == [math.inf, math.inf]
    assert found[1, 1].isnan().all()
    torch.testing.assert_close(WithLogarithm(3.0, above=False)(torch.tensor(2.0)), torch.tensor([2.0, 0.0]))
    assert WithLogarithm(counts=True)(torch.tensor([0, 3])).tolist() == [[0.0, 0.0], [3.0, pytest.approx(math.log(4))]]
    assert OneHot(3)(torch.tensor([1, 0])).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert OneHot(2)(numbers)[1].isnan().all()


def test_absent_rows_of_labels_and_of_counts():
    for form in (OneHot(3), WithLogarithm(counts=True), WithLogarithm()):
        embedding = SetEmbedding(VectorEmbedding((), form=form), rows=6)
        context = sizes(embedding, torch.randint(1, 3, (5, 6)).float(), [1, 2, 6, 0, 3])
        learn(embedding, context)
        assert embedding(context).isfinite().all()
        torch.testing.assert_close(embedding(context[:, torch.randperm(6)]), embedding(context))


def test_outliers_count_by_their_logarithm():
    far = torch.tensor([-50.0, -4.9, 0.0, 5.0, 5e4, math.inf, math.nan], dtype=torch.float64, requires_grad=True)
    found = tamed(far)
    expected = [-5 - 5 * math.log(10), -4.9, 0.0, 5.0, 5 + 5 * math.log(1e4), math.inf, math.nan]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    (slope,) = torch.autograd.grad(found[:5].sum(), far)
    assert slope[:5].tolist() == pytest.approx([0.1, 1.0, 1.0, 1.0, 1e-4])


def test_rows_absent_in_part_are_refused_by_name():
    embedding = a_set(2)
    context = torch.randn(5, 6, 2)
    context[3, 1, 0] = math.nan
    with pytest.raises(RefusedDataError, match="or NaN in all of a row that is absent, got nan in row 3"):
        list(embedding.read_data(context))
    assert embedding(context)[3].isnan().any()
    context = torch.randn(5, 4, 3, 2)
    context[4, 2, 1, 0] = math.nan
    with pytest.raises(RefusedDataError, match="got nan in row 4"):
        list(groups().read_data(context))


def test_groups_of_rows_may_lack_rows_and_groups():
    embedding, context = groups(), torch.randn(2, 4, 3, 2)
    context[:, 1:] = math.nan
    context[:, 0, 2:] = math.nan
    learn(embedding, context)
    found = embedding(context)
    assert found.isfinite().all()
    torch.testing.assert_close(embedding(context[:, [2, 0, 1, 3]][:, :, [1, 2, 0]]), found)


def test_absent_rows_reach_the_density_and_gradients_of_a_flow():
    flow = pg.flows.spline_autoregressive((2,), (6, 3), embedding=a_set(3), layers=2, hidden=(8,))
    context = sizes(flow, torch.randn(5, 6, 3), [1, 2, 6, 0, 3])
    flow.learn_statistics((torch.randn(5, 2), context))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(5, 2)
    found = flow(context).log_prob(x)
    assert found.isfinite().all()
    spoilt = context.clone()
    spoilt[1, 0, 0] = math.nan
    again = flow(spoilt).log_prob(x)
    assert again[1].isnan()
    torch.testing.assert_close(again[[0, 2, 3, 4]], found[[0, 2, 3, 4]])
    kept = [0, 2, 3, 4]
    expected = torch.autograd.grad(found[kept].sum(), flow.embedding.parameters())
    torch.testing.assert_close(torch.autograd.grad(again[kept].sum(), flow.embedding.parameters()), expected)


def test_statistics_of_a_set_are_learned_once_and_saved_with_it():
    context = VectorContext((6, 2), embedding=a_set(2))
    assert not len(context.standardizers)
    found = list(context.read_data(torch.randn(5, 6, 2)))
    assert [type(statistic).__name__ for statistic, _ in found] == ["Standardizer"]


@pytest.mark.parametrize(
    ("shape", "sets", "kind"),
    [
        ((), (), "VectorEmbedding"),
        ((5,), (), "VectorEmbedding"),
        ((5, 4), (False,), "VectorEmbedding"),
        ((100,), (), "SequenceEmbedding"),
        ((50, 4), (), "SequenceEmbedding"),
        ((3, 16, 16), (), "ImageEmbedding"),
        ((3, 50, 2), (), "VectorEmbedding"),
        ((20,), (True,), "SetEmbedding"),
        ((20, 3), (True,), "SetEmbedding"),
        ((20, 3, 2), (True, True), "SetEmbedding"),
        ((20, 3, 2), (False, True), "EachRow"),
    ],
)
def test_defaults_fit_the_shape(shape, sets, kind):
    embedding = default_embedding(shape, sets=sets)
    assert type(embedding).__name__ == kind
    assert embedding.context_shape == shape
    assert embedding(torch.zeros(2, *shape)).shape == (2, embedding.size)


def test_defaults_of_several():
    embedding = default_embedding({"x": (20, 3), "y": (100,), "z": ()}, sets={"x": (True,)})
    assert [type(part).__name__ for part in embedding.parts.values()] == [
        "SetEmbedding",
        "SequenceEmbedding",
        "VectorEmbedding",
    ]
    with pytest.raises(ValueError, match=r"`sets` must name entries of the context among \['x'\], got \['y'\]"):
        default_embedding({"x": (2,)}, sets={"y": (True,)})
    with pytest.raises(ValueError, match="`sets` must have at most 1 entries"):
        default_embedding((2,), sets=(True, True))


def test_contexts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`context` must have shape \(N, 6, 3\), got \(2, 6, 2\)"):
        a_set(3)(torch.zeros(2, 6, 2))
