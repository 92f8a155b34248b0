r"""Guidance: a denoiser made of denoisers, so that every sampler and every density takes it.

All guidance adds to a denoiser a multiple of the direction in which it differs from something weaker. For the weight
:math:`w`, with :math:`D` the denoiser to be guided,

.. math::
    D_w = D_\text{weak} + w\, (D - D_\text{weak}), \qquad
    \text{that is, } \quad p_w(x_t) \propto p_\text{weak}(x_t)^{1 - w}\, p(x_t)^w \quad \text{at every time } t .

The weak one is the same denoiser without context in classifier-free guidance, a smaller or less trained one in
autoguidance; a classifier gives the difference by its gradient. At weight one the guided denoiser is :math:`D` itself.
At other weights there is no distribution whose noisy data have the densities :math:`p_w(x_t)` at all times, so samples
are not draws from :math:`p_w(x_0)`.

References:
    Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", https://arxiv.org/abs/2105.05233
    Ho and Salimans 2022, "Classifier-free diffusion guidance", https://arxiv.org/abs/2207.12598
    Lin, Liu, Li and Yang 2024, "Common diffusion noise schedules and sample steps are flawed",
    https://arxiv.org/abs/2305.08891
    Kynkäänniemi, Aittala, Karras, Laine, Aila and Lehtinen 2024, "Applying guidance in a limited interval improves
    sample and distribution quality in diffusion models", https://arxiv.org/abs/2404.07724
    Karras, Aittala, Kynkäänniemi, Lehtinen, Aila and Laine 2024, "Guiding a diffusion model with a bad version of
    itself", https://arxiv.org/abs/2406.02507
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from pyrogen.arguments import instance_of, number, orderable
from pyrogen.core.shapes import Context, ContextShape, context_batch_shape

from .denoiser import Denoiser


class Guided(Denoiser):
    r"""A denoiser that goes on from a weaker one: :math:`D_\text{weak} + w (D - D_\text{weak})`.

    Subclasses define :meth:`weak`.

    Args:
        denoiser: What is guided.
        weight: How far to go; 1 is the denoiser itself.
        interval: Smallest and largest noise-to-signal ratio :math:`\sigma / \alpha`, in data units, at which to guide
            (Kynkäänniemi et al. 2024); outside the denoiser is left alone, and the weak one not evaluated if one time
            serves all data.
        rescaling: In [0, 1]: how far to bring the standard deviation of each guided datum back to that of the
            unguided (Lin et al. 2024, section 3.4).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        weight: float,
        interval: tuple[float, float] = (0.0, math.inf),
        rescaling: float = 0.0,
    ) -> None:
        instance_of(Denoiser)(denoiser, "denoiser")
        super().__init__(denoiser.event_shape, denoiser.schedule, context_shape=denoiser.context_shape)
        low, high = interval
        if not 0 <= low < high:
            raise ValueError(f"`interval` must satisfy 0 <= low < high, got {interval}")
        if not 0 <= orderable(rescaling, "rescaling") <= 1:
            raise ValueError(f"`rescaling` must lie in [0, 1], got {rescaling}")
        if rescaling and math.prod(self.event_shape) < 2:
            raise ValueError(f"`rescaling` needs events of at least two numbers, got event_shape {self.event_shape}")
        self.denoiser = denoiser
        self.weight, self.interval, self.rescaling = number(weight, "weight"), (low, high), rescaling

    @property
    def data_scale(self) -> Tensor | float:
        return self.denoiser.data_scale

    @abstractmethod
    def weak(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        """The weaker denoiser's output, of the shape of ``x``."""

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        t = self.times(x, t)
        strong = self.denoiser(x, t, context)
        if self.weight == 1:
            return strong
        inside = self._inside(t)
        if _readable(inside) and not inside.item():
            return strong
        excess = self.over_events(torch.where(inside, self.weight - 1.0, 0.0).to(x))
        guided = strong + excess * (strong - self.weak(x, t, context))
        return guided if not self.rescaling else self._rescaled(guided, strong)

    def _inside(self, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        low, high = self.interval
        return (sigma >= low * alpha) & (sigma <= high * alpha)

    def _rescaled(self, guided: Tensor, strong: Tensor) -> Tensor:
        event = tuple(range(-len(self.event_shape), 0))
        wanted, found = _deviation(strong, event), _deviation(guided, event)
        # A datum of one colour has no deviation but that of rounding, and nothing to rescale.
        rounding = 8 * torch.finfo(guided.dtype).eps * guided.detach().abs().amax(event, keepdim=True)
        flat = found <= rounding
        ratio = torch.where(flat, 1.0, wanted / torch.where(flat, 1.0, found))
        return guided * (self.rescaling * ratio + (1 - self.rescaling))


class ClassifierFree(Guided):
    """Classifier-free guidance: away from the denoiser without the context.

    Args:
        denoiser: Conditional; if ``unconditional`` is not given it must take ``context=None``, as the recipes do
            that are trained with ``context_dropout``.
        weight: How far to go; 1 is the conditional, 0 the unconditional.
        unconditional: A denoiser without context, under the same schedule.
        interval: As for :class:`Guided`.
        rescaling: As for :class:`Guided`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        weight: float,
        unconditional: Denoiser | None = None,
        interval: tuple[float, float] = (0.0, math.inf),
        rescaling: float = 0.0,
    ) -> None:
        super().__init__(denoiser, weight=weight, interval=interval, rescaling=rescaling)
        if denoiser.context_shape is None:
            raise ValueError("`denoiser` must have a context to be guided by, got one without `context_shape`")
        if unconditional is not None:
            require_alike(denoiser, unconditional, "unconditional")
        self.unconditional = unconditional

    def weak(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        return (self.denoiser if self.unconditional is None else self.unconditional)(x, t, None)


class Autoguidance(Guided):
    """Autoguidance: away from a worse version of the same denoiser.

    Args:
        denoiser: What is guided.
        guide: A smaller or less trained denoiser of the same data and context, under the same schedule.
        weight: How far to go; 1 is the denoiser itself.
        interval: As for :class:`Guided`.
        rescaling: As for :class:`Guided`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Denoiser,
        *,
        weight: float,
        interval: tuple[float, float] = (0.0, math.inf),
        rescaling: float = 0.0,
    ) -> None:
        super().__init__(denoiser, weight=weight, interval=interval, rescaling=rescaling)
        require_alike(denoiser, guide, "guide", contexts=True)
        self.guide = guide

    def weak(self, x: Tensor, t: Tensor, context: Context) -> Tensor:
        return self.guide(x, t, context)


class ClassifierGuidance(Denoiser):
    r"""Guidance by the gradient of a classifier of noisy data, or of any log-likelihood of the context.

    .. math:: D_w(x, t) = D(x, t) + w\, \frac{\sigma_t^2}{\alpha_t} \nabla_x \log p(c \mid x_t = x)

    With the exact likelihood and weight one this is the denoiser of :math:`p(x_0 \mid c)`, by Bayes' rule.

    Args:
        denoiser: Without context.
        log_likelihood: Called as ``log_likelihood(x, t, context)`` with times of shape ``()`` or ``batch``; gives
            :math:`\log p(c \mid x_t)` of shape ``batch``.
        context_shape: Of the context that the likelihood takes.
        weight: How strongly the likelihood counts.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_likelihood: Callable[[Tensor, Tensor, Context], Tensor],
        *,
        context_shape: ContextShape,
        weight: float = 1.0,
    ) -> None:
        instance_of(Denoiser)(denoiser, "denoiser")
        super().__init__(denoiser.event_shape, denoiser.schedule, context_shape=context_shape)
        if denoiser.context_shape is not None:
            raise ValueError(f"`denoiser` must have no context, got context_shape {denoiser.context_shape}")
        self.denoiser, self.log_likelihood, self.weight = denoiser, log_likelihood, number(weight, "weight")

    @property
    def data_scale(self) -> Tensor | float:
        return self.denoiser.data_scale

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        context_batch_shape(context, self.context_shape)
        t = self.times(x, t)
        alpha, sigma = self.path(x, t)
        slope = torch.func.grad(lambda value: self.log_likelihood(value, t, context).sum())(x)
        return self.denoiser(x, t) + self.weight * sigma**2 / alpha * slope


def _deviation(x: Tensor, event: tuple[int, ...]) -> Tensor:
    """The standard deviation over each event, with gradient zero where it is zero."""
    variance = x.var(event, keepdim=True)
    flat = variance == 0
    return torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt())


def require_alike(denoiser: Denoiser, other: Denoiser, name: str, *, contexts: bool = False) -> None:
    """Refuses a denoiser of other events than another, or under another schedule, and perhaps one of other contexts."""
    instance_of(Denoiser)(other, name)
    if other.event_shape != denoiser.event_shape:
        raise ValueError(f"`{name}` must have event_shape {denoiser.event_shape}, got {other.event_shape}")
    if contexts and other.context_shape != denoiser.context_shape:
        raise ValueError(f"`{name}` must have context_shape {denoiser.context_shape}, got {other.context_shape}")
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    with torch.no_grad():
        pairs = zip(denoiser.schedule(t), other.schedule(t), strict=True)
        alike = all(torch.allclose(one, two, rtol=1e-5, atol=0) for one, two in pairs)
    if not alike:
        names = type(denoiser.schedule).__name__, type(other.schedule).__name__
        raise ValueError(f"`{name}` must have the schedule of `denoiser` ({names[0]}), got a different {names[1]}")


def _readable(flag: Tensor) -> bool:
    """Whether one flag serves all data and can be read."""
    hidden = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(flag)
    return flag.dim() == 0 and not hidden
