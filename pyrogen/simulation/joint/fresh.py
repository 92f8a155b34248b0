"""Simulations that are drawn as training goes, so that none is seen twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from pyrogen.arguments import checked, integer, whole_share
from pyrogen.core.sources import SimulatedData

from .drawing import Block, too_many, warn_of_failures
from .simulations import Simulations

Draw = Callable[[int], tuple[Simulations, Block]]


class FreshSimulations(SimulatedData):
    """Minibatches of simulations that are drawn as they are asked for: a loader for ``fit``.

    Args:
        draw: Gives so many simulations, and what is known of those that failed.
        batch_size: Simulations in a minibatch.
        batches: Minibatches in an epoch.
        failures: The largest share of the simulations of an epoch that may fail.
    """

    @checked(batches=integer, failures=whole_share)
    def __init__(self, draw: Draw, batch_size: int, batches: int, failures: float) -> None:
        self.draw, self.batch_size, self.batches, self.failures = draw, batch_size, batches, failures

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        failed, count = 0, self.batch_size * self.batches
        for _ in range(self.batches):
            simulations, block = self.draw(self.batch_size)
            if block.failed and not failed:
                warn_of_failures(block, self.batch_size, stacklevel=3)
            failed += block.failed
            if failed > self.failures * count:
                raise too_many(block, failed, count, self.failures)
            yield simulations.entries

    def __repr__(self) -> str:
        return f"<FreshSimulations: {self.batches} minibatches of {self.batch_size} in an epoch>"
