r"""Losses of games: a critic maximizes a lower bound of a divergence, which a generator brings down.

A critic gives scores :math:`D(x)` of data :math:`x \sim p` and :math:`D(y)` of draws :math:`y \sim q`. For each loss
the expectation of :meth:`Loss.bound` over both is at most a divergence between :math:`p` and :math:`q`, and reaches it
where the critic is the best there is:

=======================  =================================  ==========================================================
loss                     the best critic :math:`D^*(x)`     its bound
=======================  =================================  ==========================================================
:class:`FGan`            :math:`\log p/q`                   the f-divergence :math:`D_f(p \,\|\, q)`
:class:`NonSaturating`   :math:`\log p/q`                   the Jensen-Shannon divergence
:class:`Relativistic`    :math:`\log p/q + c`               that of pairs :math:`p \otimes q` and :math:`q \otimes p`
:class:`LeastSquares`    :math:`(p - q)/(p + q)`            :math:`\frac12 \int (p - q)^2/(p + q)`
:class:`Hinge`           the sign of :math:`p - q`          the total variation
:class:`Wasserstein`     Kantorovich's potential            the Wasserstein-1 distance, if its slope is at most one
=======================  =================================  ==========================================================

A bound of a critic that is not the best is still a bound: it is too small. So a small bound alone proves nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from math import log

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, instance_of
from pyrogen.distributions.abilities import Density

from .divergences import FDivergence
from .penalties import R1, R2, GradientPenalty, Penalty


class Loss(Abstract):
    """What critic and generator of a game minimize, given scores of data and of draws; abstract.

    Subclasses define :meth:`critic`, :meth:`generator` and :meth:`bound`.

    Shape:
        Scores are ``(N,)``, of data and of draws alike; row by row they belong to the same context.
    """

    divergence: str = "a divergence"
    """What :meth:`bound` bounds, in words."""

    unit: str = ""
    """The unit of that divergence."""

    density: Density = "lower bound"
    """What the mean of :meth:`bound` is: of any critic at most the divergence, unless it is an estimate."""

    is_paired: bool = False
    """Whether the generator's loss depends on the scores of data, which are else not computed for it."""

    @abstractmethod
    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimizes: a scalar."""

    @abstractmethod
    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """What the generator minimizes: a scalar. Without :attr:`is_paired`, ``real`` may be ``None``."""

    @abstractmethod
    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        """Numbers ``(N,)`` whose expectation is at most the divergence."""

    def penalties(self) -> tuple[Penalty, ...]:
        """Those that a game of this loss is played with where nothing else is said."""
        return R1(), R2()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Relativistic(Loss):
    r"""Which of the two is the datum: pairs of a datum and a draw, separated by the difference of their scores.

    .. math::
        L_D = \mathbb{E}\,[-\log \sigma(D(x) - D(y))], \qquad L_G = \mathbb{E}\,[-\log \sigma(D(y) - D(x))]

    :math:`\sigma(D(x) - D(y))` is a classifier of ordered pairs, :math:`p(x) q(y)` against :math:`q(x) p(y)`, so the
    best critic is :math:`D^* = \log p/q + c` with any :math:`c`, and :math:`\log 2 - L_D` is at most the
    Jensen-Shannon divergence of :math:`p \otimes q` and :math:`q \otimes p`. Since every draw is compared with a
    datum, leaving out a mode of the data costs the generator. With zero-centred penalties on both sides
    (:class:`~pyrogen.implicit.penalties.R1`, :class:`~pyrogen.implicit.penalties.R2`) the game converges near its
    equilibrium.

    References:
        Jolicoeur-Martineau 2019, "The relativistic discriminator: a key element missing from standard GAN",
        https://arxiv.org/abs/1807.00734
        Huang, Gokaslan, Kuleshov and Tompkin 2024, "The GAN is dead; long live the GAN! A modern GAN baseline",
        https://arxiv.org/abs/2501.05441
    """

    divergence = "Jensen-Shannon divergence of pairs"
    unit = "nats"
    is_paired = True

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return -logsigmoid(real - fake).mean()

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return -logsigmoid(fake - real).mean()

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        return log(2) + logsigmoid(real - fake)


class NonSaturating(Loss):
    r"""Goodfellow's game: a classifier of data and draws, and a generator that raises the odds of its draws.

    .. math::
        L_D = \mathbb{E}\,[-\log \sigma(D(x))] + \mathbb{E}\,[-\log \sigma(-D(y))], \qquad
        L_G = \mathbb{E}\,[-\log \sigma(D(y))]

    The best critic is :math:`D^* = \log p/q`, where :math:`\log 2 - L_D / 2` is the Jensen-Shannon divergence. The
    gradient of :math:`L_G` by a score is :math:`-\sigma(-D(y))`: it is -1 where the critic is sure, and does not
    vanish. Against the best critic, its expectation is the gradient of :math:`KL(q \,\|\, p) - 2 \, JS`.

    References:
        Goodfellow et al. 2014, "Generative adversarial nets", https://arxiv.org/abs/1406.2661
        Arjovsky and Bottou 2017, "Towards principled methods for training generative adversarial networks",
        https://arxiv.org/abs/1701.04862
    """

    divergence = "Jensen-Shannon divergence"
    unit = "nats"

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return -logsigmoid(real).mean() - logsigmoid(-fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -logsigmoid(fake).mean()

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        return log(2) + (logsigmoid(real) + logsigmoid(-fake)) / 2


class FGan(Loss):
    r"""The game of an f-divergence: both players play for its variational bound.

    .. math::
        L_D = -\mathbb{E}\,[T(x)] + \mathbb{E}\,[f^*(T(y))], \quad T = f'(e^{D}), \qquad L_G = -\mathbb{E}\,[f^*(T(y))]

    The critic's score is its estimate of :math:`\log p/q`, whatever the divergence; there the bound is
    :math:`D_f(p \,\|\, q)`. Some of these games barely move a generator whose draws are far from all data (KL, Pearson:
    the draws that matter have small :math:`p/q`); the reverse KL divergence, whose :math:`L_G` is
    :math:`-\mathbb{E}\,[D(y)]` and a constant, does not have that fault.

    Args:
        divergence: Which, such as ``FDivergence("reverse kl")``; not the total variation, whose witness is a step
            without a gradient: its game is :class:`Hinge`.

    Raises:
        TypeError: ``divergence`` is none.
        NotImplementedError: it is the total variation.

    References:
        Nowozin, Cseke and Tomioka 2016, "f-GAN: training generative neural samplers using variational divergence
        minimization", https://arxiv.org/abs/1606.00709
    """

    @checked(divergence=instance_of(FDivergence))
    def __init__(self, divergence: FDivergence) -> None:
        if divergence is FDivergence.TOTAL_VARIATION:
            raise NotImplementedError(
                "the witness of the total variation is a step, without a gradient to learn by: play for it by `Hinge()`"
            )
        self.f = divergence
        self.unit = divergence.unit
        self.divergence = f"{divergence.value} divergence"

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.f.conjugate(fake).mean() - self.f.witness(real).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -self.f.conjugate(fake).mean()

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.f.witness(real) - self.f.conjugate(fake)

    def __repr__(self) -> str:
        return f"FGan({self.f.value!r})"


class LeastSquares(Loss):
    r"""Regression on labels: 1 for data and -1 for draws, which the generator wants to be 0.

    .. math::
        L_D = \tfrac12 \mathbb{E}\,[(D(x) - 1)^2] + \tfrac12 \mathbb{E}\,[(D(y) + 1)^2], \qquad
        L_G = \tfrac12 \mathbb{E}\,[D(y)^2]

    The best critic is :math:`D^* = (p - q)/(p + q)`, where :math:`1 - L_D` is the triangular discrimination
    :math:`\tfrac12 \int (p - q)^2 / (p + q)`, which lies between 0 and 1.

    References:
        Mao, Li, Xie, Lau, Wang and Smolley 2017, "Least squares generative adversarial networks",
        https://arxiv.org/abs/1611.04076
    """

    divergence = "triangular discrimination"

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * ((real - 1).square().mean() + (fake + 1).square().mean())

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return 0.5 * fake.square().mean()

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        return 1 - 0.5 * ((real - 1).square() + (fake + 1).square())


class Hinge(Loss):
    r"""The hinge loss: only what the critic is not yet sure of counts for it.

    .. math::
        L_D = \mathbb{E}\,[\max(0, 1 - D(x))] + \mathbb{E}\,[\max(0, 1 + D(y))], \qquad L_G = -\mathbb{E}\,[D(y)]

    The best critic is the sign of :math:`p - q`, where :math:`1 - L_D / 2` is the total variation
    :math:`\tfrac12 \int |p - q|`. It is flat almost everywhere: what teaches a generator is a critic that cannot jump,
    for it has few steps, a penalty or spectral normalization.

    References:
        Lim and Ye 2017, "Geometric GAN", https://arxiv.org/abs/1705.02894
        Miyato, Kataoka, Koyama and Yoshida 2018, "Spectral normalization for generative adversarial networks",
        https://arxiv.org/abs/1802.05957
    """

    divergence = "total variation"

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        return 1 - 0.5 * (relu(1 - real) + relu(1 + fake))


class Wasserstein(Loss):
    r"""The dual of the Wasserstein-1 distance; it needs a critic whose slope is at most one.

    .. math:: L_D = \mathbb{E}\,[D(y)] - \mathbb{E}\,[D(x)], \qquad L_G = -\mathbb{E}\,[D(y)]

    The best critic of slope at most one is Kantorovich's potential, where :math:`-L_D` is
    :math:`W_1(p, q)`: for :math:`\mathcal{N}(m, s^2)` and :math:`\mathcal{N}(0, s^2)` it is :math:`D^*(x) = x` for
    :math:`m > 0`, and the distance :math:`m`. Nothing here limits the slope: give the game a
    :class:`~pyrogen.implicit.penalties.GradientPenalty`, which does so softly, or a critic with spectral normalization.
    What a critic shows is therefore called an estimate: under a penalty of weight :math:`\lambda` the slope is about
    :math:`1 + W_1 / 2 \lambda`, and so much larger is the estimate. A game has the one-sided penalty where nothing else
    is said, under which a critic can turn around. The distance is in standard deviations of the data, in which slopes
    are measured.

    References:
        Arjovsky, Chintala and Bottou 2017, "Wasserstein GAN", https://arxiv.org/abs/1701.07875
        Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville 2017, "Improved training of Wasserstein GANs",
        https://arxiv.org/abs/1704.00028
    """

    divergence = "Wasserstein-1 distance"
    unit = "standard deviations"
    density = "estimate"

    def penalties(self) -> tuple[Penalty, ...]:
        return (GradientPenalty(one_sided=True),)

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return -fake.mean()

    def bound(self, real: Tensor, fake: Tensor) -> Tensor:
        return real - fake
