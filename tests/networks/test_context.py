"""Contexts become vectors, sequences or vectors for each place, by one path with one set of checks."""

import inspect

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.core.known_recipes import RECIPES
from pyrogen.core.recipe import recipe
from pyrogen.networks.conditions import ContextEncoder
from pyrogen.networks.context import context_rows
from pyrogen.networks.context_embeddings import PlaceContext, SequenceContext, VectorContext, WithContext

SEVERAL = {"a": (2,), "b": (), "c": (2, 2)}
ROWS = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([1]), "c": torch.arange(4.0).reshape(1, 2, 2)}


class Applied(nn.Module):
    """An embedding without parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Sum(nn.Module):
    """Features of several entries; counts its calls in training."""

    def __init__(self, features=3):
        super().__init__()
        self.linear, self.dropout, self.calls = nn.Linear(2, features), nn.Dropout(0.5), 0

    def forward(self, context):
        self.calls += self.training
        return self.linear(context["a"] + context["b"].unsqueeze(-1).to(context["a"]))


def learned(network, context):
    for statistic, rows in list(network.read_data(context)):
        moments = pg.networks.statistics.Moments()
        moments.add(rows)
        statistic.learn(moments)


def test_vectors_put_entries_side_by_side():
    context = VectorContext(SEVERAL, classes={"b": 3})
    assert context.size == 2 + 3 + 4
    assert context(ROWS).tolist() == [[1.0, 2.0, 0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 3.0]]


def test_numbers_are_standardized_and_missing_entries_are_passed_over():
    context = VectorContext(SEVERAL, classes={"b": 3})
    learned(context, {"a": torch.tensor([[0.0, 0.0], [2.0, 4.0]]), "b": torch.tensor([0, 1])})
    assert context(ROWS)[0, :2].tolist() == [0.0, 0.0]
    assert not context.standardizers["entry_c"].learned


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VectorContext((3,), classes=2), "`context_shape` must be None where `classes` is given"),
        (lambda: VectorContext({"a": (3,)}, classes={"a": 2}), r"must be \(\) for the labels 'a'"),
        (lambda: VectorContext({"a": ()}, classes=2), "a dict for several"),
        (lambda: VectorContext({"a": ()}, classes={"b": 2}), "must name entries"),
        (lambda: VectorContext(None, embedding=nn.Linear(2, 3)), "`embedding` needs a context"),
        (lambda: VectorContext((3,), embedding=nn.Linear(2, 3)), r"`embedding` must take contexts .* shape \(3,\)"),
        (lambda: VectorContext((2,), embedding=nn.Flatten(0)), r"`embedding` must give features .* got \(4,\)"),
        (
            lambda: VectorContext((2,), embedding=Applied(lambda x: x[:, 5])),
            "`embedding` must take contexts .* index 5",
        ),
        (lambda: VectorContext((), classes=5, embedding=nn.Embedding(4, 3)), "`embedding` must take .* out of range"),
        (
            lambda: VectorContext((2,), embedding=Applied(lambda x: x[:2]))(torch.zeros(5, 2)),
            r"`embedding` must give features \(5, 2\) of 5 contexts, .* got \(2, 2\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
    with pytest.raises(TypeError, match="`embedding` must be an nn.Module, got function"):
        VectorContext((2,), embedding=lambda x: x)


def test_labels_out_of_range_are_refused():
    context = VectorContext((), classes=3)
    with pytest.raises(ValueError, match="integer labels from 0 to 2, got 3 in row 1"):
        context(torch.tensor([0, 3]))


@pytest.mark.parametrize(("short", "classes"), [(torch.uint8, 256), (torch.uint8, 300), (torch.int8, 200)])
def test_labels_and_symbols_may_have_short_types(short, classes):
    labels = torch.tensor([0, 100], dtype=short)
    assert VectorContext((), classes=classes)(labels).argmax(-1).tolist() == [0, 100]
    x = torch.tensor([[0, 100, 3]], dtype=short)
    for module in (
        pg.autoregressive.made((3,), symbols=classes, hidden=(4,)),
        pg.flows.Dequantized(pg.flows.affine_coupling((3,), interval=(0, classes)), classes),
    ):
        torch.manual_seed(0)
        found = module().log_prob(x)
        torch.manual_seed(0)
        torch.testing.assert_close(found, module().log_prob(x.long()))
    vae = pg.latent.categorical_vae((3,), symbols=classes, latent_shape=2, hidden=(4,))
    assert vae().log_prob(x).isfinite().all()


def test_features_of_an_embedding_stand_in_the_place_of_the_context():
    embedding = Sum()
    context = VectorContext({"a": (2,), "b": ()}, classes={"b": 3}, embedding=embedding)
    assert context.size == 3
    assert embedding.training
    assert embedding.dropout.training
    assert embedding.calls == 0
    rows = {"a": torch.randn(5, 2), "b": torch.arange(5) % 3}
    learned(context, rows)
    expected = embedding({"a": context.standardizers["entry_a"](rows["a"]), "b": rows["b"]})
    torch.testing.assert_close(context(rows), expected)


@pytest.mark.parametrize(
    "embedding", [nn.Linear(2, 3).double(), nn.Linear(2, 3).bfloat16(), Applied(lambda x: (x > 0).long())]
)
@pytest.mark.parametrize("build", [pg.flows.affine_coupling, pg.autoregressive.made, pg.diffusion.mlp])
def test_an_embedding_has_a_precision_of_its_own(build, embedding):
    module = build((2,), (2,), embedding=embedding)
    assert module(torch.randn(4, 2)).sample().dtype == torch.float32
    double = build((2,), (2,), embedding=embedding).double()
    assert double(torch.randn(4, 2).double()).sample().dtype == torch.float64


def test_an_embedding_reads_the_data_that_reach_it():
    inner = pg.networks.Chained(pg.networks.Standardizer((2,)), nn.Linear(2, 2))
    context = VectorContext((2,), embedding=inner)
    learned(context, 5 + torch.randn(100, 2))
    assert not inner[0].learned  # its rows depend on what is learned before it
    learned(context, 5 + torch.randn(100, 2))
    assert inner[0].learned
    assert inner[0].mean.abs().max() < 0.5


def test_the_shape_of_features_says_how_they_enter():
    words = nn.Linear(4, 6)
    assert SequenceContext((3, 4), 8, embedding=words)(torch.zeros(2, 3, 4)).shape == (2, 3, 8)
    assert SequenceContext((4,), 8, embedding=words)(torch.zeros(2, 4)).shape == (2, 1, 8)
    assert PlaceContext((5, 4), (5,), 8, embedding=words)(torch.zeros(2, 5, 4)).shape == (2, 5, 6)
    image = nn.Unflatten(1, (1, 3, 3))
    assert PlaceContext((9,), (3, 3), 8, embedding=image)(torch.zeros(2, 9)).shape == (2, 9, 8)
    kinds = ContextEncoder({"words": (3, 4)}, 8, embedding=_Only("words", nn.Linear(4, 5)))
    assert kinds({"words": torch.zeros(2, 3, 4)}, 2).sequence.shape == (2, 3, 8)


class _Only(nn.Module):
    def __init__(self, name, network):
        super().__init__()
        self.name, self.network = name, network

    def forward(self, context):
        return self.network(context[self.name])


class Both(nn.Module):
    def forward(self, x, context):
        return torch.cat([x, context], -1)


def test_contexts_stand_beside_the_input_of_a_network():
    label = VectorContext({"class": ()}, classes={"class": 3})
    network = WithContext(Both(), "x", [label, VectorContext((1,))], prepare=pg.networks.Standardizer((1, 2)), size=2)
    inputs = {"x": torch.tensor([[[1, 2]], [[3, 6]]]), "class": torch.tensor([2, 0]), "context": torch.ones(2, 1)}
    assert network(inputs).tolist() == [[1, 2, 0, 0, 1, 1], [3, 6, 1, 0, 0, 1]]
    learned(network, {"x": inputs["x"].float(), "class": inputs["class"], "context": torch.tensor([[1.0], [3.0]])})
    assert network(inputs)[:, :2].sum(0).tolist() == [0, 0]
    assert (network(inputs)[:, -1] < 0).all()
    with pytest.raises(ValueError, match="integer labels from 0 to 2"):
        list(network.read_data({"class": torch.tensor([3])}))


def test_rows_of_several_broadcast():
    shapes = {"a": (2,), "b": ()}
    rows = context_rows({"a": torch.zeros(3, 1, 2), "b": torch.arange(4)}, shapes, (3, 4))
    assert rows["a"].shape == (12, 2)
    assert rows["b"].tolist() == [0, 1, 2, 3] * 3
    assert context_rows(None, None, ()) is None


@pytest.mark.parametrize(
    "build",
    [
        lambda **c: pg.autoregressive.made((3,), hidden=(8,), components=2, **c),
        lambda **c: pg.autoregressive.transformer((3,), symbols=4, width=8, depth=1, heads=2, **c),
        lambda **c: pg.autoregressive.any_order((3,), symbols=4, width=8, depth=1, heads=2, **c),
        lambda **c: pg.autoregressive.pixel_cnn((2, 2), symbols=4, width=8, depth=1, **c),
        lambda **c: pg.autoregressive.wavenet((3,), symbols=4, width=8, layers=2, **c),
        lambda **c: pg.latent.vae((3,), latent_shape=(2,), hidden=(8,), draws=2, **c),
        lambda **c: pg.latent.conditional_vae((3,), latent_shape=(2,), symbols=3, hidden=(8,), draws=2, **c),
        lambda **c: pg.latent.vamp_vae((3,), latent_shape=(2,), binary=True, hidden=(8,), draws=2, **c),
        lambda **c: pg.latent.missing_data_vae((3,), latent_shape=(2,), counts=[1], hidden=(8,), draws=2, **c),
        lambda **c: pg.latent.convolutional_vae((1, 4, 4), latent_shape=(2,), channels=(4,), hidden=8, draws=2, **c),
    ],
)
def test_recipes_take_embeddings_and_labels_among_several(build):
    torch.manual_seed(0)
    embedding = Sum()
    module = build(context_shape={"a": (2,), "b": ()}, classes={"b": 3}, embedding=embedding)
    context = {"a": torch.randn(5, 1, 2), "b": torch.arange(3)}
    x = module(context).sample()
    assert x.shape[:2] == (5, 3)
    pg.fit(module, (x.flatten(0, 1), {"a": torch.randn(15, 2), "b": torch.arange(15) % 3}), steps=2, batch_size=15)
    module(context).log_prob(x).sum().backward()
    assert embedding.linear.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="integer labels"):
        module({**context, "b": torch.tensor([3])}).sample()


@recipe
def words(width):
    """A recipe of these tests'."""
    return nn.Sequential(nn.Flatten(), nn.Linear(6, width))


@pytest.mark.filterwarnings("ignore:.*loads with `into=` alone")
def test_an_embedding_built_by_a_recipe_comes_back_from_a_file(tmp_path):
    model = pg.autoregressive.made((3,), (3, 2), symbols=4, hidden=(8,), embedding=words(5))
    context, x = torch.randn(4, 3, 2), torch.randint(4, (4, 3))
    pg.fit(model, (x, context), steps=2)
    pg.save(model, tmp_path / "model")
    loaded = pg.load(tmp_path / "model", recipes=[words])
    torch.testing.assert_close(loaded(context).log_prob(x), model(context).log_prob(x))
    by_hand = pg.autoregressive.made((3,), (3, 2), symbols=4, hidden=(8,), embedding=nn.Flatten())
    pg.save(by_hand, tmp_path / "model")
    with pytest.raises(ValueError, match="`embedding` holds a Flatten that was put together by hand.*into="):
        pg.load(tmp_path / "model")


@pytest.mark.parametrize("package", ["autoregressive", "flows", "latent", "diffusion", "implicit"])
def test_recipes_describe_all_their_arguments(package):
    names = RECIPES[package]
    for build in (getattr(getattr(pg, package), name) for name in names):
        for argument in inspect.signature(build).parameters:
            assert f"\n    {argument}: " in inspect.cleandoc(build.__doc__), f"{build.__name__}: {argument}"
