r"""Penalties on the slope of a critic, by which games converge.

A game without one need not: near equilibrium the players of :math:`L(\theta, \psi)` turn around it forever (Dirac-GAN:
eigenvalues :math:`\pm i |f'(0)|`). A penalty on the critic's slope where the data are adds friction.

The slope is that by the event in units of the data's standard deviation, :math:`\sigma_i \, \partial D / \partial x_i`,
so a weight means the same for data in metres and in miles. It is squared, summed over the event, and then averaged over
the rows: a critic :math:`w \cdot x` has :math:`|w|^2` whatever the batch. The more numbers an event has, the larger it
is for a critic that is as good, so published weights are of one resolution; a common rule is
:math:`\gamma = 0.0002 \cdot \text{pixels} / \text{batch size}` (StyleGAN2-ADA, for pixels in [-1, 1]).

References:
    Mescheder, Geiger and Nowozin 2018, "Which training methods for GANs do actually converge?",
    https://arxiv.org/abs/1801.04406
    Karras et al. 2020, "Training generative adversarial networks with limited data", https://arxiv.org/abs/2006.06676
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import relu

from pyrogen.abstract import Abstract
from pyrogen.arguments import integer, non_negative, positive, switch
from pyrogen.numerics.rows import shaped

Scorer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scored:
    """Events that a critic has scored, with the graph between.

    Attributes:
        x: The events, ``(N, *event)``; they take a gradient.
        scores: Their scores, ``(N,)``, or one for each pack of rows.
        scale: The standard deviation of the data, which broadcasts with an event.
    """

    x: Tensor
    scores: Tensor
    scale: Tensor | float = 1.0

    def squared_slope(self) -> Tensor:
        r"""The squared norm of the gradient of each row's score by the event in units of ``scale``, ``(N,)``."""
        (gradient,) = torch.autograd.grad(self.scores.sum(), self.x, create_graph=True)
        return shaped((gradient * self.scale).square(), (len(gradient), prod(gradient.shape[1:]))).sum(1)


class Penalty(Abstract):
    """What is added to the loss of a critic; abstract.

    Args:
        weight: What it is multiplied by.
        every: If more than one, it is taken in each ``every``-th step alone, and counts so many times more there.
    """

    def __init__(self, weight: float, *, every: int = 1) -> None:
        self.weight = non_negative(weight, "weight")
        self.every = integer(every, "every")

    @abstractmethod
    def __call__(self, critic: Scorer, real: Scored, fake: Scored) -> Tensor:
        """The penalty of scored data and draws: a scalar.

        Args:
            critic: Scores other events with the same contexts.
            real: Data.
            fake: Draws.
        """

    def __repr__(self) -> str:
        lazy = f", every={self.every}" if self.every > 1 else ""
        return f"{type(self).__name__}({self.weight}{lazy})"


class R1(Penalty):
    r"""A zero-centred penalty on the slope at the data, :math:`\frac{\gamma}{2} \mathbb{E}_p |\nabla D(x)|^2`.

    In equilibrium the critic is flat and the penalty is zero: it moves no solution. In the Dirac-GAN (a datum at
    zero, a generator that is a point :math:`\theta`, a critic :math:`\psi x`, learning rates equal) it makes the
    eigenvalues at equilibrium

    .. math:: \lambda = -\frac{\gamma}{2} \pm \sqrt{\frac{\gamma^2}{4} - f'(0)^2},

    whose real parts are negative for every :math:`\gamma > 0`; :math:`f'(0)` is 1/2 of the logistic losses and 1 of the
    Wasserstein loss. Without it a zero-sum game circles forever.

    Args:
        weight: :math:`\gamma`.
        every: If more than one, it is taken in each ``every``-th step alone, and counts so many times more there.

    References:
        Mescheder, Geiger and Nowozin 2018, "Which training methods for GANs do actually converge?",
        https://arxiv.org/abs/1801.04406
    """

    def __init__(self, weight: float = 1.0, *, every: int = 1) -> None:
        super().__init__(weight, every=every)

    def __call__(self, critic: Scorer, real: Scored, fake: Scored) -> Tensor:
        return 0.5 * self.weight * real.squared_slope().mean()


class R2(Penalty):
    r"""A zero-centred penalty on the slope at the draws, :math:`\frac{\gamma}{2} \mathbb{E}_q |\nabla D(y)|^2`.

    Args:
        weight: :math:`\gamma`.
        every: If more than one, it is taken in each ``every``-th step alone, and counts so many times more there.

    References:
        Roth, Lucchi, Nowozin and Hofmann 2017, "Stabilizing training of generative adversarial networks through
        regularization", https://arxiv.org/abs/1705.09367
    """

    def __init__(self, weight: float = 1.0, *, every: int = 1) -> None:
        super().__init__(weight, every=every)

    def __call__(self, critic: Scorer, real: Scored, fake: Scored) -> Tensor:
        return 0.5 * self.weight * fake.squared_slope().mean()


class GradientPenalty(Penalty):
    r"""A penalty on slopes other than one, :math:`\lambda \, \mathbb{E}\,(|\nabla D(u x + (1 - u) y)| - 1)^2`.

    It is taken between a datum and a draw, with :math:`u` uniform, and makes the critic of the
    :class:`~pyrogen.implicit.losses.Wasserstein` loss one of slope about one. Unlike R1 it does not vanish in
    equilibrium, around which a game with it keeps moving.

    The one-sided penalty :math:`\lambda \, \mathbb{E}\,\max(0, |\nabla D| - 1)^2` lets smaller slopes be, which the
    Wasserstein distance allows. Where a generator has gone too far its critic has to turn around, through a slope of
    zero, and the two-sided one holds it back: :math:`D(x) = w x` stays at :math:`w = 1 + m / 2 \lambda` for distances
    down to :math:`m = -2 \lambda`, twenty standard deviations with the usual weight.

    Args:
        weight: :math:`\lambda`.
        target: The slope that costs nothing.
        one_sided: Whether smaller slopes cost nothing either.
        every: If more than one, it is taken in each ``every``-th step alone, and counts so many times more there.

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville 2017, "Improved training of Wasserstein GANs",
        https://arxiv.org/abs/1704.00028
        Petzka, Fischer and Lukovnikov 2018, "On the regularization of Wasserstein GANs",
        https://arxiv.org/abs/1709.08894
    """

    def __init__(self, weight: float = 10.0, *, target: float = 1.0, one_sided: bool = False, every: int = 1) -> None:
        super().__init__(weight, every=every)
        self.target = positive(target, "target")
        self.one_sided = switch(one_sided, "one_sided")

    def __call__(self, critic: Scorer, real: Scored, fake: Scored) -> Tensor:
        u = torch.rand(len(real.x), *(1,) * (real.x.dim() - 1), dtype=real.x.dtype, device=real.x.device)
        between = torch.lerp(fake.x.detach(), real.x.detach(), u).requires_grad_()
        square = Scored(between, critic(between), real.scale).squared_slope()
        slope = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)  # the root of zero has no gradient
        excess = slope - self.target
        return self.weight * (relu(excess) if self.one_sided else excess).square().mean()
