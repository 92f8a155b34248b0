"""Analysis: from any posterior to ArviZ, and figures."""

from .arviz import to_arviz

__all__ = ["to_arviz"]
