"""Every recipe passes the contract: binary, categorical and real symbols, with and without context."""

import pytest
import torch

from pyrogen.autoregressive import any_order, constrained, made, nucleus, tempered, top_k, transformer
from pyrogen.testing import check_distribution
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

SMALL = {"width": 16, "depth": 1, "heads": 2}
EVEN = torch.tensor([True, False, True])
CASES = {
    "made, binary": (lambda: made((4,), symbols=2, hidden=(16,)), (4,), None),
    "made, categorical": (lambda: made((3,), (2,), symbols=4, hidden=(16, 16)), (3,), torch.randn(4, 2)),
    "made, real": (lambda: made((2,), classes=4, components=3, hidden=(16,)), (2,), torch.arange(4)),
    "made, several orders": (
        lambda: made((2, 2), (2,), symbols=2, orders=3, hidden=(16,)),
        (2, 2),
        torch.randn(4, 2),
    ),
    "transformer, tokens": (lambda: transformer((4,), symbols=3, **SMALL), (4,), None),
    "transformer, cross": (
        lambda: transformer((3,), (2, 3), symbols=2, cross=True, key_heads=1, **SMALL),
        (3,),
        torch.randn(4, 2, 3),
    ),
    "transformer, source": (
        lambda: transformer((3,), (4,), classes=5, symbols=3, end=0, source=1, **SMALL),
        (3,),
        torch.tensor([[4, 1, -1, -1], [0, 3, 2, 2], [-1, 2, 0, -1], [1, -1, -1, -1]]),
    ),
    "transformer, real": (lambda: transformer((2,), (3,), components=3, **SMALL), (2,), torch.randn(4, 3)),
    "transformer, lengths": (lambda: transformer((4,), symbols=5, end=0, **SMALL), (4,), None),
    "any order": (lambda: any_order((4,), classes=4, symbols=3, **SMALL), (4,), torch.arange(4)),
    "constrained": (lambda: constrained(transformer((3,), symbols=3, **SMALL), EVEN), (3,), None),
}
SLOW = {
    "tempered": (lambda: tempered(transformer((3,), (2,), symbols=3, **SMALL), 0.7), (3,), torch.randn(4, 2)),
    "transformer, prefix": (lambda: transformer((2, 2), (3,), symbols=3, **SMALL), (2, 2), torch.randn(4, 3)),
    "transformer, padding": (
        lambda: transformer((4,), classes=4, symbols=5, end=0, padding=1, **SMALL),
        (4,),
        torch.arange(4),
    ),
    "transformer, source of vectors": (
        lambda: transformer((3,), (3, 2), symbols=3, source=2, **SMALL),
        (3,),
        torch.randn(4, 3, 2),
    ),
    "any order, source": (
        lambda: any_order(
            (3,), {"source": (4,), "style": ()}, classes={"source": 5, "style": 2}, symbols=3, source=1, **SMALL
        ),
        (3,),
        {"source": torch.randint(-1, 5, (4, 4)), "style": torch.tensor([0, 1, 1, 0])},
    ),
    "any order, real": (lambda: any_order((4,), components=2, **SMALL), (4,), None),
    "along an order": (lambda: any_order((3,), symbols=3, **SMALL).along((2, 0, 1)), (3,), None),
    "made, one symbol": (lambda: made((1,), symbols=3, hidden=(16,)), (1,), None),
    "made, several real orders": (lambda: made((3,), orders=3, components=2, hidden=(16,)), (3,), None),
    "any order, binary": (lambda: any_order((2, 2), (3,), symbols=2, orders=3, **SMALL), (2, 2), torch.randn(4, 3)),
}
TRUNCATED = {
    "top-k": lambda: top_k(transformer((4,), symbols=4, **SMALL), 2),
    "nucleus": lambda: nucleus(made((4,), symbols=4, hidden=(16,)), 0.8),
}


def cases():
    return [pytest.param(case, id=name) for name, case in CASES.items()] + [
        pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNCATED)
def test_contract_of_truncated_models(name):
    # As a guide it draws what another model of its kind leaves out, so that ELBO is infinite.
    only = [check.__name__ for check in DISTRIBUTION_CHECKS if check.__name__ != "svi_guide"]
    check_distribution(TRUNCATED[name], event_shape=(4,), only=only).raise_if_failed()


def test_an_event_of_one_symbol():
    report = check_distribution(
        lambda: transformer((), symbols=3, **SMALL),
        event_shape=(),
        only=["sample_shapes", "expand", "support", "normalization", "samples_follow_log_prob"],
    )
    report.raise_if_failed()


@pytest.mark.parametrize("case", cases())
def test_contract(case):
    make, event_shape, context = case
    check_distribution(make, event_shape=event_shape, context=context).raise_if_failed()
