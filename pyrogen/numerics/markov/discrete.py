r"""Markov chains of discrete states: Gibbs sampling, and Gibbs sampling with gradients.

A state is a vector of bits, ``(chains, D)``, or of symbols as one-hot vectors, ``(chains, D, K)``; both are
floating-point numbers, so that a log-density can be differentiated in them. Each function here takes a batch of
independent chains some moves further, and leaves the law with that log-density as it is.

- :func:`gibbs` draws one element at a time given all others, from any log-density.
- :func:`block_gibbs` draws many at once, where elements of a block are independent given the rest: the layers of a
  restricted Boltzmann machine, the colours of a lattice.
- :func:`gibbs_with_gradients` proposes the changes that the gradient promises to be good, for log-densities of many
  elements of which few matter at a time.

References:
    Geman and Geman 1984, "Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images",
    https://doi.org/10.1109/TPAMI.1984.4767596
    Zanella 2020, "Informed proposals for local MCMC in discrete spaces", https://arxiv.org/abs/1711.07424
    Grathwohl, Swersky, Hashemi, Duvenaud and Maddison 2021, "Oops I took a gradient: scalable sampling for discrete
    distributions", https://arxiv.org/abs/2102.04509
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .state import refuse_inference_mode

LogDensity = Callable[[Tensor], Tensor]
"""States of a batch of chains to their log-densities, ``(chains,)``, up to a constant."""


def gibbs(log_density: LogDensity, x: Tensor, *, sweeps: int = 1, random_scan: bool = False) -> Tensor:
    r"""Draws one element after the other given all others, :math:`x_i \sim p(x_i \mid x_{-i})`.

    Each element costs as many log-densities as it has values, which are computed in one batch.

    Args:
        log_density: The logarithm of the density.
        x: The states.
        sweeps: How often as many elements are drawn as there are.
        random_scan: Whether each chain draws elements at random places, which makes the chain reversible; otherwise
            they are drawn from the first to the last.

    Shape:
        ``x`` is ``(chains, D)``, bits, or ``(chains, D, K)``, one-hot, and so is what is returned.
    """
    chains, size = x.shape[:2]
    for step in range(sweeps * size):
        place = torch.randint(size, (chains,), device=x.device) if random_scan else step % size
        x = _redrawn(log_density, x, place)
    return x


def block_gibbs(logits: Callable[[Tensor], Tensor], x: Tensor, blocks: Sequence[Tensor], *, sweeps: int = 1) -> Tensor:
    r"""Draws block after block, the elements of each at once.

    Args:
        logits: Gives the logits of every element given all others, in the shape of the states: of bits
            :math:`\log p(x_i = 1 \mid x_{-i}) / p(x_i = 0 \mid x_{-i})`, of symbols :math:`\log p(x_i = k \mid x_{-i})`
            up to a constant. Where a log-density is multilinear, such as that of an Ising or Potts model, they are its
            gradient.
        x: The states.
        blocks: For each block which elements are in it, boolean, ``(D,)``; they must be independent given the others.
        sweeps: How often all blocks are drawn.

    Shape:
        ``x`` is ``(chains, D)``, bits, or ``(chains, D, K)``, one-hot, and so is what is returned.
    """
    for _ in range(sweeps):
        for block in blocks:
            x = torch.where(block if x.dim() == 2 else block.unsqueeze(-1), drawn(logits(x)), x)
    return x


def gibbs_with_gradients(log_density: LogDensity, x: Tensor, *, steps: int = 1) -> tuple[Tensor, Tensor]:
    r"""Metropolis steps of one change each, proposed in proportion to the square root of what they promise.

    The gradient gives to first order by how much each change of one element would raise the log-density,
    :math:`\tilde d(x)`. A change is proposed with probability :math:`q \propto e^{\tilde d(x) / 2}` and accepted with
    probability :math:`\min(1, e^{\log p(x') - \log p(x)} q(x \mid x') / q(x' \mid x))`: the chain is exact however bad
    the linear promise is, and good where it is right, as it is for multilinear log-densities. A step costs one
    gradient.

    Args:
        log_density: The logarithm of the density, defined and differentiable also between the states. Each chain's
            must depend on its own state only. Where it has no gradient, all changes are proposed equally.
        x: The states.
        steps: How many steps.

    Shape:
        ``x`` is ``(chains, D)``, bits, or ``(chains, D, K)``, one-hot.

    Returns:
        The states after the steps, and the share of steps that each chain accepted, ``(chains,)``.

    References:
        Grathwohl et al. 2021, "Oops I took a gradient", algorithm 1, https://arxiv.org/abs/2102.04509
    """
    gains, changed = (_flips, _flipped) if x.dim() == 2 else (_exchanges, _exchanged)
    value, logits = _promises(log_density, gains, x)
    accepted = torch.zeros_like(value)
    for _ in range(steps):
        change = _chosen(logits)
        proposed, back = changed(x, change)
        new_value, new_logits = _promises(log_density, gains, proposed)
        log_ratio = new_value + _log_share(new_logits, back) - value - _log_share(logits, change)
        accept = torch.rand_like(log_ratio).log() < log_ratio
        x = torch.where(_beside(accept, x), proposed, x)
        value = torch.where(accept, new_value, value)
        logits = torch.where(_beside(accept, logits), new_logits, logits)
        accepted += accept
    return x, accepted / max(steps, 1)


def drawn(logits: Tensor) -> Tensor:
    """Independent elements by their logits: bits ``(chains, D)``, or one-hot symbols ``(chains, D, K)``."""
    if logits.dim() == 2:
        return (torch.rand_like(logits) < logits.sigmoid()).to(logits)
    return one_hot(_chosen(logits), logits.shape[-1]).to(logits)


def _redrawn(log_density: LogDensity, x: Tensor, place: Tensor | int) -> Tensor:
    """The states with the element at one place, or at one place for each chain, drawn given the others."""
    here = torch.arange(len(x), device=x.device), place
    values = torch.eye(x.shape[-1]).to(x) if x.dim() == 3 else torch.tensor([0.0, 1.0]).to(x)
    candidates = x.repeat(len(values), *(1,) * x.dim())  # (K, chains, D, ...)
    for candidate, value in zip(candidates, values, strict=True):
        candidate[here] = value
    log_densities = log_density(candidates.flatten(0, 1)).detach().reshape(len(values), -1)
    return candidates[_chosen(log_densities.T), here[0]]


def _chosen(logits: Tensor) -> Tensor:
    """An entry along the last dimension, drawn in proportion to the exponentials: the first of exponential clocks."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


def _promises(log_density: LogDensity, gains: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The log-density, and half of what each change promises to add to it: nothing, where it has no gradient."""
    refuse_inference_mode()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = log_density(x)
        gradient = torch.zeros_like(x)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, materialize_grads=True)
    return value.detach(), gains(x.detach(), gradient) / 2


def _log_share(logits: Tensor, change: Tensor) -> Tensor:
    return logits.gather(1, change.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)


def _flips(x: Tensor, gradient: Tensor) -> Tensor:
    return (1 - 2 * x) * gradient


def _flipped(x: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """The bits with one of them flipped, and the change that takes it back: the same."""
    here = torch.arange(len(x), device=x.device), change
    return x.index_put(here, 1 - x[here]), change


def _exchanges(x: Tensor, gradient: Tensor) -> Tensor:
    gain = gradient - (gradient * x).sum(-1, keepdim=True)
    return torch.where(x > 0.5, -torch.inf, gain).flatten(1)  # (chains, D K)


def _exchanged(x: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """The symbols with one of them exchanged for another, and the change that takes it back."""
    symbols = x.shape[-1]
    here = torch.arange(len(x), device=x.device), change // symbols
    before = x[here].argmax(-1)
    after = one_hot(change % symbols, symbols).to(x)
    return x.index_put(here, after), here[1] * symbols + before


def _beside(rows: Tensor, like: Tensor) -> Tensor:
    """One number for each chain, with dimensions added on the right."""
    return rows.reshape(-1, *(1,) * (like.dim() - 1))
