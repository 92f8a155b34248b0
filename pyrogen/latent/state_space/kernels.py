r"""Chains of states, one step or all at once.

A *kernel* gives the mean and the log-scale of each state given the one before, :math:`p(z_t \mid z_{t-1})`, a diagonal
normal, or given all before, of which a *memory* then holds what it needs. Its tensors have the steps in the dimension
before the last, so that it scores a whole trajectory in one pass; :meth:`StateKernel.steps` gives
the kernels of single steps, by which one is drawn.

A *message* is what observations say about a state. Joined with the kernel of the prior it makes that of the posterior:
a Gaussian potential :math:`\psi_t(z) = e^{h_t^\top z - z^\top J_t z / 2}` stands for
:math:`p(x_{t:T} \mid z_t)`, so that

.. math:: q(z_t \mid z_{t-1}) = \frac{p(z_t \mid z_{t-1}) \, \psi_t(z_t)}{Z_t(z_{t-1})}, \qquad
    Z_t(z_{t-1}) = \int p(z_t \mid z_{t-1}) \, \psi_t(z_t) \, dz_t,

which is the true posterior wherever the observations' message is Gaussian.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from pyrogen.networks.transition import Transition
from pyrogen.numerics.autograd import full

Normal = tuple[Tensor, Tensor]
"""A mean and a log-scale, each ``(*batch, states)``."""

Step = Callable[[Tensor, Tensor | None], tuple[Normal, Tensor | None]]
"""From a state, and the memory of those before it, to the distribution of the next and the memory of both."""


class StepKernel(ABC):
    """The distribution of the first state, and of each further one given the one before it, step by step; abstract."""

    @property
    @abstractmethod
    def first(self) -> Normal:
        """That of the first state."""

    @abstractmethod
    def steps(self) -> list[Step]:
        """For each step but the first, what gives the distribution of its state from the one before.

        A kernel without a memory leaves it as it is; before the first state it is ``None``.
        """


class StateKernel(StepKernel):
    """A kernel that gives the distributions of all states in one pass; abstract."""

    @abstractmethod
    def __call__(self, z: Tensor) -> Normal:
        """Those of the states after ``z``, ``(*batch, length - 1, states)``."""


@dataclass(frozen=True)
class Transitions(StateKernel):
    r"""The kernel of a transition network.

    Over a gap :math:`\Delta` the state relaxes towards where the network sends it, as an Ornstein-Uhlenbeck process
    does: of the way, the share :math:`1 - e^{-\lambda \Delta}`, with the variance :math:`(1 - e^{-2 \lambda \Delta})
    \sigma^2`.

    Attributes:
        network: The transition.
        start: The distribution of the first state.
        length: How many steps there are.
        inputs: What the network is given, ``(*batch, length - 1, features)``.
        rates: :math:`\lambda \Delta`, ``(*batch, length - 1, states)``.
    """

    network: Transition
    start: Normal
    length: int
    inputs: Tensor | None = None
    rates: Tensor | None = None

    @property
    def first(self) -> Normal:
        return self.start

    def __call__(self, z: Tensor) -> Normal:
        return relaxed(z, self.network(z, self.inputs), self.rates)

    def steps(self) -> list[Step]:
        inputs, rates = (_each_step(part, self.length - 1) for part in (self.inputs, self.rates))
        return [partial(self._step, *given) for given in zip(inputs, rates, strict=True)]

    def _step(
        self, inputs: Tensor | None, rates: Tensor | None, z: Tensor, memory: Tensor | None
    ) -> tuple[Normal, Tensor | None]:
        target, memory = self.network.step(z, inputs, memory)
        return relaxed(z, target, rates), memory


@dataclass(frozen=True)
class Message(ABC):
    """What observations say about each state, in tensors ``(*batch, length, n)``, or ``(*batch, n)`` of one step."""

    @abstractmethod
    def meet(self, prior: Normal) -> Normal:
        """The distribution of a state, from that before the observations."""

    @abstractmethod
    def log_normalizer(self, prior: Normal) -> Tensor:
        r""":math:`\log Z`, how probable what comes is from here on, ``(*batch)``; zeros where that is unknown."""

    def first(self) -> Message:
        """That at the first step."""
        return replace(self, **{part.name: getattr(self, part.name)[..., 0, :] for part in fields(self)})

    def rest(self) -> Message:
        """All but the first."""
        return replace(self, **{part.name: getattr(self, part.name)[..., 1:, :] for part in fields(self)})

    def steps(self) -> list[Message]:
        """The message at each step."""
        parts = zip(*(getattr(self, part.name).unbind(-2) for part in fields(self)), strict=True)
        return [type(self)(*part) for part in parts]


@dataclass(frozen=True)
class Potential(Message):
    """A Gaussian potential of independent elements.

    Attributes:
        linear: :math:`h`.
        precision: The diagonal of :math:`J`, not negative; zero where nothing is known.
    """

    linear: Tensor
    precision: Tensor

    def meet(self, prior: Normal) -> Normal:
        loc, log_scale = prior
        variance = (2 * log_scale).exp()
        wider = variance * self.precision
        news = torch.addcmul(self.linear, self.precision, loc, value=-1)
        return torch.addcmul(loc, variance / (1 + wider), news), torch.sub(log_scale, torch.log1p(wider), alpha=0.5)

    def log_normalizer(self, prior: Normal) -> Tensor:
        loc, log_scale = prior
        variance = (2 * log_scale).exp()
        wider = variance * self.precision
        square = variance * self.linear.square() + 2 * loc * self.linear - self.precision * loc.square()
        return 0.5 * (square / (1 + wider) - torch.log1p(wider)).sum(-1)


@dataclass(frozen=True)
class Replacement(Message):
    """A distribution of each state of its own, whatever the one before: the mean-field posterior.

    Attributes:
        loc: The means.
        log_scale: The log-scales.
        known: Where it counts, ``(*batch, length, 1)``; elsewhere states move on as under the prior.
    """

    loc: Tensor
    log_scale: Tensor
    known: Tensor

    def meet(self, prior: Normal) -> Normal:
        loc, log_scale = prior
        return torch.where(self.known, self.loc, loc), torch.where(self.known, self.log_scale, log_scale)

    def log_normalizer(self, prior: Normal) -> Tensor:
        return torch.zeros_like(prior[0][..., 0])


@dataclass(frozen=True)
class PosteriorKernel(StateKernel):
    """The kernel of a posterior: that of the prior, which messages meet.

    Attributes:
        kernel: That of the prior.
        message: What observations say about each state.
    """

    kernel: StateKernel
    message: Message

    @property
    def first(self) -> Normal:
        return self.message.first().meet(self.kernel.first)

    def __call__(self, z: Tensor) -> Normal:
        return self.message.rest().meet(self.kernel(z))

    def steps(self) -> list[Step]:
        pairs = zip(self.kernel.steps(), self.message.steps()[1:], strict=True)
        return [_GuidedStep(step, message) for step, message in pairs]


@dataclass(frozen=True)
class _GuidedStep:
    step: Step
    message: Message

    def __call__(self, z: Tensor, memory: Tensor | None) -> tuple[Normal, Tensor | None]:
        prior, memory = self.step(z, memory)
        return self.message.meet(prior), memory


def relaxed(z: Tensor, target: Normal, rates: Tensor | None) -> Normal:
    """Where the state gets over the gap, on its way to where the network sends it."""
    loc, log_scale = map(full, target)
    if rates is None:
        return loc, log_scale
    share, spread = -torch.expm1(-rates), -torch.expm1(-2 * rates)
    return torch.lerp(z, loc, share), log_scale + 0.5 * spread.log()


def _each_step(part: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    return (None,) * count if part is None else part.unbind(-2)
