"""Simulation-based inference: learned posteriors, likelihoods and ratios of any Pyro program."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return __all__
