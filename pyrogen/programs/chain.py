"""A noisy ``log_prob`` under a Markov chain: refused.

A chain compares densities of two points. Where each call of ``log_prob`` draws noise anew, it compares noise: it moves
to a point where the noise was large once and stays there, without a warning. Pyro's kernels (NUTS, HMC and all others)
score the sites of a model after it has run, outside of every handler, so that nothing but the stack of calls shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

_KERNELS = ("pyro.infer.mcmc.", "pyrogen.numerics.markov.")
_OBJECTIVES = ("pyro.infer.trace", "pyro.infer.renyi_elbo", "pyro.infer.reweighted_wake_sleep")


def refuse_chain(distribution: str, instead: str) -> None:
    """Refuses to score with fresh noise under a Markov chain, Pyro's or ours.

    Call it where a ``log_prob`` draws its noise.

    Args:
        distribution: What is scored.
        instead: What to use in its place.

    Raises:
        NotImplementedError: a kernel is running the model.
    """
    if under_a_chain():
        raise NotImplementedError(
            f"the log_prob of {distribution} draws fresh noise at every call, so a Markov chain (NUTS, HMC) would "
            f"compare noise and not densities; {instead}"
        )


def refuse_noise(distribution: TorchDistributionMixin, name: str) -> None:
    """Refuses a distribution that scores one value twice differently, while a Markov chain is set up.

    At other times nothing is done.

    Args:
        distribution: Any distribution, such as one whose ``log_prob`` does not call :func:`refuse_chain`.
        name: Whose it is.

    Raises:
        NotImplementedError: a chain is set up, and two calls of ``log_prob`` differ.
    """
    if not under_a_chain("initialize_model"):
        return
    with torch.no_grad(), torch.random.fork_rng():
        try:
            value = distribution.sample()
        except NotImplementedError:
            return
        first, second = distribution.log_prob(value), distribution.log_prob(value)
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-4, equal_nan=True):
        refuse_chain(name, "use a model with a density of its own, or freeze the noise")


def under_a_chain(function: str = "") -> bool:
    """Whether a Markov chain kernel, or that function of Pyro's, is among the callers."""
    return any(name.startswith(_KERNELS) and function in code for name, code in _callers())


def under_an_elbo(apart: str) -> bool:
    """Whether one of Pyro's variational objectives is among the callers.

    Args:
        apart: Calls by this module do not count: it knows what it is doing.
    """
    for name, _ in _callers():
        if name == apart:
            return False
        if name.startswith(_OBJECTIVES):
            return True
    return False


def _callers() -> Iterator[tuple[str, str]]:
    """The modules and functions that are running, from the innermost on; none in code that is compiled."""
    frame = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None:
        yield frame.f_globals.get("__name__", ""), frame.f_code.co_name
        frame = frame.f_back
