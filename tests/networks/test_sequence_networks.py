"""Sequence networks compute in steps what they compute in one pass."""

import pytest
import torch
from sequence_checks import check_steps

from pyrogen.networks.attention import attend, attend_at_once
from pyrogen.networks.causal_transformer import AnyOrderTransformer, CausalStack, CausalTransformer, RotaryEmbedding
from pyrogen.networks.masked_sequence import MaskedSequence
from pyrogen.networks.sequence import Numbers, Tokens

LENGTH, SYMBOLS, WIDTH = 7, 5, 16


def stack(ahead=0, **settings):
    return CausalStack(WIDTH, LENGTH + ahead, depth=2, heads=4, **settings)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["alone", "prefix", "cross"])
def test_causal_transformer(kind, key_heads):
    context = None if kind == "alone" else torch.randn(3, 2, WIDTH)
    blocks = stack(2, key_heads=key_heads, cross=kind == "cross")
    network = CausalTransformer(Tokens(SYMBOLS, WIDTH), blocks, width=WIDTH, features=SYMBOLS)
    check_steps(network, torch.randint(SYMBOLS, (3, LENGTH)), context)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_causal_transformer_over_numbers(shape):
    network = CausalTransformer(Numbers(shape, WIDTH), stack(), width=WIDTH, features=6)
    check_steps(network, torch.randn(3, LENGTH, *shape))


@pytest.mark.parametrize("kind", ["alone", "prefix", "cross"])
def test_any_order_transformer(kind):
    context = None if kind == "alone" else torch.randn(3, 2, WIDTH)
    blocks = stack(2, rotary=False, cross=kind == "cross")
    network = AnyOrderTransformer(Tokens(SYMBOLS, WIDTH), blocks, length=LENGTH, width=WIDTH, features=SYMBOLS)
    symbols = torch.randint(SYMBOLS, (3, LENGTH))
    check_steps(network.ordered(torch.randperm(LENGTH)), symbols, context)
    check_steps(network.ordered(torch.stack([torch.randperm(LENGTH) for _ in range(3)])), symbols, context)


@pytest.mark.parametrize("classes", [None, SYMBOLS])
@pytest.mark.parametrize("hidden", [(3,), (20,), (12, 24)])
@pytest.mark.parametrize("context", [0, 4])
def test_masked_sequence(classes, hidden, context):
    order = torch.randperm(LENGTH).tolist()
    network = MaskedSequence(LENGTH, 5, symbols=classes, order=order, hidden=hidden, context=context)
    symbols = torch.randn(3, LENGTH) if classes is None else torch.randint(SYMBOLS, (3, LENGTH))
    check_steps(network, symbols, torch.randn(3, context) if context else None)


def test_check_steps_notices_a_look_ahead():
    network = CausalTransformer(Tokens(SYMBOLS, WIDTH), stack(), width=WIDTH, features=SYMBOLS)
    forward = network.forward
    network.forward = lambda symbols, context=None: forward(symbols.roll(-1, 1), context)
    with pytest.raises(AssertionError, match="differ"):
        check_steps(network, torch.randint(SYMBOLS, (3, LENGTH)))


def test_rotated_products_depend_on_distances_only():
    rotation = RotaryEmbedding(50, 8)
    query, key = torch.randn(2, 1, 1, 8)
    first = (rotation(query, 3) * rotation(key, 10)).sum()
    second = (rotation(query, 33) * rotation(key, 40)).sum()
    assert torch.allclose(first, second, atol=1e-5)
    assert torch.allclose(rotation(query, 17).norm(), query.norm(), atol=1e-5)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attend_agrees_with_torch(key_heads):
    queries, keys, values = torch.randn(2, 4, 6, 8), torch.randn(2, key_heads, 6, 8), torch.randn(2, key_heads, 6, 8)
    for causal in (False, True):
        expected = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=causal, enable_gqa=True
        )
        found = attend(queries, keys, values, causal=causal)
        assert torch.allclose(found, expected.transpose(1, 2).flatten(2), atol=1e-5)


def test_orders_of_a_masked_network_share_all_weights():
    network = MaskedSequence(LENGTH, SYMBOLS, symbols=SYMBOLS, hidden=(32, 32))
    twins = [network.reordered([*range(first, LENGTH), *range(first)]) for first in range(1, LENGTH)]
    for twin in twins:
        assert {id(p) for p in network.parameters()} == {id(p) for p in twin.parameters()}
    for mask, weight in (("first_mask", network.first.weight), ("last_mask", network.weight[:, 0])):
        used = sum(getattr(each, mask) for each in (network, *twins))
        assert used.shape == weight.shape
        assert used.gt(0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "`width` must be a multiple of twice `heads`"),
        ({"heads": 0}, "`heads` must be at least 1, got 0"),
        ({"heads": 4, "key_heads": 0}, "`key_heads` must be at least 1, got 0"),
        ({"heads": 4, "key_heads": 3}, "`key_heads` must divide `heads`"),
    ],
)
def test_sizes_that_do_not_divide(settings, message):
    with pytest.raises(ValueError, match=message):
        CausalStack(WIDTH, LENGTH, **settings)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_at_once_is_that_written_out_and_so_are_its_derivatives(causal, key_heads):
    given = [torch.randn(2, heads, 3, 2, dtype=torch.float64) for heads in (4, key_heads, key_heads)]

    def at_once(*given):
        return attend_at_once(*given, causal=causal)

    expected = attend(*given, causal=causal)
    assert torch.allclose(at_once(*given), expected)
    given = [part.requires_grad_() for part in given]
    assert torch.allclose(at_once(*given), expected)
    assert torch.autograd.gradcheck(at_once, given)
    assert torch.autograd.gradgradcheck(at_once, given)
    assert torch.allclose(
        torch.func.vmap(lambda x: at_once(x[None], *(part[:1] for part in given[1:])))(given[0])[0, 0], expected[0]
    )
