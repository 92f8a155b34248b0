"""Implicit models: generators, and learning by comparing samples."""

from .model import Generator
from .recipes import mlp

__all__ = [
    "Generator",
    "mlp",
]


def __dir__() -> list[str]:
    return __all__
