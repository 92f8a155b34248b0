"""The networks of noisy data: what they take, and what they must not depend on."""

import pytest
import torch

from pyrogen.networks.conditions import ContextEncoder
from pyrogen.networks.diffusion_transformer import DiffusionTransformer
from pyrogen.networks.places import channels_first
from pyrogen.networks.residual_mlp import ResidualMLP
from pyrogen.networks.unet import UNet

IMAGE = (2, 7, 5)
NETWORKS = {
    "unet": lambda *shapes, **more: UNet(*shapes, channels=(4, 8), depth=1, heads=2, width=16, **more),
    "transformer": lambda *shapes, **more: DiffusionTransformer(*shapes, width=16, depth=1, heads=2, **more),
    "mlp": lambda *shapes, **more: ResidualMLP(*shapes, width=16, depth=1, **more),
}
CONTEXTS = {
    "none": (None, None, None),
    "labels": ((), 3, torch.tensor([0, 2, 1])),
    "vectors": ((4,), None, torch.linspace(-1, 1, 12).reshape(3, 4)),
    "sequences": ((5, 2), None, torch.linspace(-1, 1, 30).reshape(3, 5, 2)),
    "captions": ((4,), 6, torch.arange(12).reshape(3, 4) % 6),
    "images": ((1, 7, 5), None, torch.linspace(-1, 1, 105).reshape(3, 1, 7, 5)),
    "several": (
        {"label": (), "number": (), "image": (1, 7, 5)},
        {"label": 3},
        {"label": torch.tensor([0, 2, 1]), "number": torch.rand(3), "image": torch.rand(3, 1, 7, 5)},
    ),
}


def awake(network):
    """In float64, with outputs that are not zero any more."""
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return network.double().eval()


def each(function, context):
    if context is None:
        return None
    return {key: function(value) for key, value in context.items()} if isinstance(context, dict) else function(context)


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_of_any_batch_shape_answer_as_alone(name, kind):
    torch.manual_seed(0)
    shape, classes, context = CONTEXTS[kind]
    network = NETWORKS[name](IMAGE, shape, classes=classes, outputs=3)
    x, level = torch.randn(2, 3, *IMAGE).double(), torch.randn(3).double()
    assert not network(x.float(), level.float(), context).any()
    awake(network)
    together = network(x, level, context)
    assert together.shape == (2, 3, 3, *IMAGE)
    alone = network(x[1, 2], level[2], each(lambda value: value[2], context))
    assert torch.allclose(together[1, 2], alone, atol=1e-10)
    empty = network(x[:, :0], level[:0], each(lambda value: value[:0], context))
    assert empty.shape == (2, 0, 3, *IMAGE)


@pytest.mark.parametrize("kind", CONTEXTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_noise_level_and_every_context_matter(name, kind):
    torch.manual_seed(0)
    shape, classes, context = CONTEXTS[kind]
    network = awake(NETWORKS[name](IMAGE, shape, classes=classes))
    x, level = torch.randn(3, *IMAGE).double(), torch.zeros(3).double()
    here = network(x, level, context)
    assert (network(x, level + 0.1, context) - here).abs().max() > 1e-6
    for key in context if isinstance(context, dict) else [None] if context is not None else []:
        other = {**context, key: context[key].flip(0)} if key else context.flip(0)
        assert (network(x, level, other) - here).abs().amax((1, 2, 3))[0] > 1e-6


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, at the first forward derivative
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_derivatives_agree_with_backward(name):
    torch.manual_seed(0)
    network = awake(NETWORKS[name](IMAGE, (5, 2)))
    x, tangent = torch.randn(2, 2, *IMAGE).double()
    context, weights = torch.randn(2, 5, 2).double(), torch.randn(2, *IMAGE).double()
    level = torch.zeros(2).double()
    _, forward = torch.func.jvp(lambda value: network(value, level, context), (x,), (tangent,))
    (backward,) = torch.autograd.grad((weights * network(x.requires_grad_(), level, context)).sum(), x)
    assert torch.allclose((weights * forward).sum(), (backward * tangent).sum())


@pytest.mark.parametrize("event_shape", [(6,), (4, 3), (1, 3, 3), (3, 2, 5, 3)])
def test_transformers_put_tokens_back_where_they_were(event_shape):
    torch.manual_seed(0)
    network = DiffusionTransformer(event_shape, width=16, outputs=2)
    numbers = torch.arange(float(torch.Size(event_shape).numel())).reshape(1, *event_shape)
    tokens = network.patches.cut(channels_first(numbers, len(event_shape)))
    both = torch.cat([tokens, -tokens], -1)
    network.output_shape = (2, *event_shape)
    x = network.patches.joined(both)
    assert torch.equal(x[0, 0].flatten(), torch.arange(float(torch.Size(event_shape).numel())))
    assert torch.equal(x[0, 1], -x[0, 0])


@pytest.mark.parametrize("kind", [kind for kind in CONTEXTS if kind != "none"])
def test_a_dropped_context_is_no_context(kind):
    torch.manual_seed(0)
    shape, classes, context = CONTEXTS[kind]
    network = UNet(IMAGE, shape, classes=classes, channels=(4,), depth=1, heads=2, context_dropout=0.5)
    awake(network)
    x, level = torch.randn(3, *IMAGE).double(), torch.zeros(3).double()
    without, with_context = network(x, level, None), network(x, level, context)
    assert torch.equal(with_context, network(x, level, context))
    network.train()
    seen = torch.stack([network(x, level, context) for _ in range(20)])
    dropped = (seen - without).abs().amax((2, 3, 4)) < 1e-10
    kept = (seen - with_context).abs().amax((2, 3, 4)) < 1e-10
    assert (dropped ^ kept).all()  # several contexts are dropped together
    assert 10 < dropped.sum() < 50
    without.sum().backward()
    assert all(null.grad.any() for null in network.context.nulls.values())


@pytest.mark.parametrize("kind", ["captions", "sequences"])
def test_every_member_of_a_sequence_knows_of_all_others_and_their_order(kind):
    torch.manual_seed(0)
    shape, classes, context = CONTEXTS[kind]
    encoder = awake(ContextEncoder(shape, 16, classes=classes))
    here = encoder(context, 3).sequence
    changed = context.clone()
    changed[:, -1] = context[:, 0]
    assert ((encoder(changed, 3).sequence - here).abs().amax(-1) > 1e-3).all()
    exchanged = encoder(context.flip(1), 3).sequence.flip(1)  # equal, if places did not count
    assert ((exchanged - here).abs().amax((1, 2)) > 0.1).all()


def test_captions_bind_adjectives_to_nouns():
    """Which of two adjectives stands before symbol 4: what a bag of words and their places does not say."""
    torch.manual_seed(0)
    encoder, last = ContextEncoder((4,), 16, classes=6), torch.nn.Linear(16, 2)
    order = torch.randint(2, (2, 512))
    adjective, noun = torch.stack([order[0], 1 - order[0]], 1), torch.stack([4 + order[1], 5 - order[1]], 1)
    captions = torch.stack([adjective, noun], -1).flatten(1)  # "0 4 1 5", "1 4 0 5", "0 5 1 4", "1 5 0 4"
    before = order[0] ^ order[1]
    optimizer = torch.optim.Adam([*encoder.parameters(), *last.parameters()], 1e-2)
    for _ in range(60):
        logits = last(encoder(captions, 512).sequence.mean(1))
        loss = torch.nn.functional.cross_entropy(logits, before)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # a sum over words that do not see each other stays at log 2


def test_without_dropout_a_context_is_needed():
    network = UNet((1, 4, 4), (), classes=3, channels=(4,), attention=0)
    with pytest.raises(ValueError, match="`context` must be given"):
        network(torch.zeros(2, 1, 4, 4), torch.zeros(2), None)
    with pytest.raises(ValueError, match="integer labels from 0 to 2"):
        network(torch.zeros(1, 1, 4, 4), torch.zeros(1), torch.tensor([3]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContextEncoder((2, 3), 4, classes=5), r"must be \(\) or \(length,\)"),
        (lambda: ContextEncoder(None, 4, classes=5), "must be given with `classes`"),
        (lambda: ContextEncoder({"a": ()}, 4, classes=5), "a dict for several"),
        (lambda: ContextEncoder({"a": ()}, 4, classes={"b": 5}), "must name entries"),
        (lambda: ContextEncoder((1, 2, 3, 4), 4), "at most three dimensions"),
        (lambda: ContextEncoder((2,), 4, dropout=1.0), "`dropout`"),
        (lambda: UNet((3,)), "`event_shape` must be"),
        (lambda: UNet((1, 4, 4), (1, 8, 8)), "must have sides"),
        (lambda: UNet((1, 4, 4), channels=(6,)), "`heads` must divide"),
        (lambda: DiffusionTransformer((4,), (1, 4, 4)), "only where events are images"),
        (lambda: DiffusionTransformer(()), "`event_shape` must be"),
        (lambda: ResidualMLP((3,))(torch.zeros(2, 4), torch.zeros(2)), "`x` must end in shape"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
