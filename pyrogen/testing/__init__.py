"""The public contract: tests for your own distributions, bijections and objectives.

``check_distribution``, ``check_bijection`` and ``check_objective`` take a callable that makes a fresh module and give a
:class:`Report` with one finding for each check. Every recipe of pyrogen passes them in its tests.
"""

from .contract import check_bijection, check_distribution, check_objective
from .report import Report

__all__ = [
    "Report",
    "check_bijection",
    "check_distribution",
    "check_objective",
]


def __dir__() -> list[str]:
    return __all__
