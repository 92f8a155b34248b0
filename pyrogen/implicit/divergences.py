r"""f-divergences, bounded from below by comparing samples.

For a convex :math:`f` with :math:`f(1) = 0` and its conjugate :math:`f^*(t) = \sup_u \, (t u - f(u))`,

.. math::
    D_f(p \,\|\, q) = \mathbb{E}_q\!\left[f\!\left(\frac{p}{q}\right)\right]
    = \sup_T \; \mathbb{E}_p[T(x)] - \mathbb{E}_q[f^*(T(y))] ,

and the supremum is attained by :math:`T = f'(p/q)`. Every witness :math:`T` therefore gives a lower bound, of which
samples of both are all that is needed. Here witnesses are functions of one thing, the critic's estimate :math:`h` of
:math:`\log p/q`:

.. math:: T = f'(e^h), \qquad f^*(T) = e^h f'(e^h) - f(e^h) ,

so that one critic serves all divergences, and attains all where :math:`h = \log p/q`:

=====================  ============================  ============================  ==============================
divergence             :math:`D_f(p \,\|\, q)`       :math:`T`                     :math:`f^*(T)`
=====================  ============================  ============================  ==============================
``KL``                 :math:`\int p \log (p/q)`     :math:`1 + h`                 :math:`e^h`
``REVERSE_KL``         :math:`\int q \log (q/p)`     :math:`-e^{-h}`               :math:`h - 1`
``JS``                 of both to :math:`(p + q)/2`  :math:`\log(2\sigma(h)) / 2`  :math:`-\log(2\sigma(-h)) / 2`
``PEARSON``            :math:`\int (p - q)^2 / q`    :math:`2 (e^h - 1)`           :math:`e^{2h} - 1`
``SQUARED_HELLINGER``  :math:`1 - \int \sqrt{p q}`   :math:`-e^{-h/2} / 2`         :math:`e^{h/2} / 2 - 1`
``TOTAL_VARIATION``    :math:`\int |p - q| / 2`      :math:`\mathrm{sign}(h) / 2`  the same
=====================  ============================  ============================  ==============================

References:
    Nguyen, Wainwright and Jordan 2010, "Estimating divergence functionals and the likelihood ratio by convex risk
    minimization", https://arxiv.org/abs/0809.0853
    Nowozin, Cseke and Tomioka 2016, "f-GAN: training generative neural samplers using variational divergence
    minimization", https://arxiv.org/abs/1606.00709
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from enum import Enum
from math import hypot, isnan, log

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyrogen.arguments import function, real_tensor, without_nan
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.shapes import Context
from pyrogen.numerics.pareto import pareto_shape

_HEAVY = 0.5  # the variance is infinite above it, and a mean has no standard error
_FEWEST = 25  # draws whose tail can be fitted


class FDivergence(Enum):
    r"""An f-divergence :math:`D_f(p \,\|\, q)`, as a function of a critic's estimate :math:`h` of :math:`\log p/q`.

    ``FDivergence("kl")`` is ``FDivergence.KL``. The Jensen-Shannon divergence is in nats and at most :math:`\log 2`;
    the squared Hellinger distance and the total variation are at most 1.

    Example:
        >>> x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[-1.0], [1.0]])  # of N(1, 1) and N(0, 1)
        >>> print(FDivergence("js").bound(lambda x: x.squeeze(-1) - 0.5, x, y))
        0.11 ± 0.27 nats (lower bound)
    """

    KL = "kl"
    REVERSE_KL = "reverse kl"
    JS = "js"
    PEARSON = "pearson"
    SQUARED_HELLINGER = "squared hellinger"
    TOTAL_VARIATION = "total variation"

    def witness(self, log_ratio: Tensor) -> Tensor:
        r""":math:`T = f'(e^h)`. That of the total variation is a step, which has no gradient to learn by."""
        return _WITNESS[self](log_ratio)

    def conjugate(self, log_ratio: Tensor) -> Tensor:
        r""":math:`f^*(T) = e^h f'(e^h) - f(e^h)`."""
        return _CONJUGATE[self](log_ratio)

    @property
    def unit(self) -> str:
        """Nats, or none."""
        return "nats" if self in (FDivergence.KL, FDivergence.REVERSE_KL, FDivergence.JS) else ""

    def bound(self, critic: Callable[..., Tensor], x: Tensor, y: Tensor, context: Context = None) -> Estimate:
        r"""An estimate of a lower bound, :math:`\frac1n \sum_i T(x_i) - \frac1m \sum_j f^*(T(y_j))`.

        Its expectation is at most the divergence for every critic that was not trained on these samples. A single
        estimate exceeds it by chance, as its standard error says; the more so where the averages are of heavy-tailed
        numbers, which is where a divergence is large.

        Args:
            critic: Gives estimates of :math:`\log p/q`: any module or function, called ``critic(x)``, or
                ``critic(x, context)``.
            x: Samples of :math:`p`.
            y: Samples of :math:`q`, as many or others.
            context: What both depend on, row by row, of as many rows of each.

        Shape:
            ``(n, *event)`` and ``(m, *event)``; the critic gives ``(n,)`` and ``(m,)``.

        Raises:
            ValueError: the critic gives another shape, NaN, or infinities that have no mean.

        Warns:
            UserWarning: an average is of numbers with a heavy tail (Pareto k-hat above 0.5), so that a few of them
                make up most of it: neither it nor its standard error can be trusted.
        """
        real, fake = log_ratios_of_both(critic, x, y, context)
        terms, others = self.witness(real), self.conjugate(fake)
        first, second = Estimate.of_mean(terms), Estimate.of_mean(others)
        if isnan(first.value - second.value):
            raise ValueError(
                "`critic` must give log-ratios whose averages have a difference, got infinite ones on both"
            )
        for log_weights, name in zip((_GROWTH[self][0] * real, _GROWTH[self][1] * fake), "xy", strict=True):
            warn_of_tail(log_weights, f"the bound of the divergence {self.value!r} over `{name}`")
        if context is None:
            error = hypot(first.standard_error, second.standard_error)
        else:  # what two rows have in common is their context
            error = Estimate.of_mean(terms - others).standard_error
        return Estimate(first.value - second.value, error, self.unit, "lower bound")


def warn_of_tail(log_weights: Tensor, what: str) -> None:
    """Warns where positive numbers, given by their logarithms ``(n,)``, have no variance.

    Args:
        log_weights: What they are the logarithms of is averaged.
        what: Averages them.

    Warns:
        UserWarning: their tail is that of numbers without a variance (Pareto k-hat above 0.5).
    """
    if len(log_weights) < _FEWEST or not log_weights.isfinite().all():
        return
    shape = float(pareto_shape(log_weights[None].cpu().numpy())[0])
    if shape > _HEAVY:
        warnings.warn(
            f"{what} averages numbers with a heavy tail (Pareto k-hat {shape:.2f}, above {_HEAVY}): a few of "
            f"{len(log_weights)} make up much of it, and its standard error may be too small; bound 'js' or 'total "
            "variation', whose terms have no such tail",
            UserWarning,
            stacklevel=3,
        )


_Function = Callable[[Tensor], Tensor]

_WITNESS: Mapping[FDivergence, _Function] = {
    FDivergence.KL: lambda h: 1 + h,
    FDivergence.REVERSE_KL: lambda h: -(-h).exp(),
    FDivergence.JS: lambda h: 0.5 * (log(2) + logsigmoid(h)),
    FDivergence.PEARSON: lambda h: 2 * h.expm1(),
    FDivergence.SQUARED_HELLINGER: lambda h: -0.5 * (-0.5 * h).exp(),
    FDivergence.TOTAL_VARIATION: lambda h: 0.5 * h.sign(),
}
_CONJUGATE: Mapping[FDivergence, _Function] = {
    FDivergence.KL: torch.exp,
    FDivergence.REVERSE_KL: lambda h: h - 1,
    FDivergence.JS: lambda h: -0.5 * (log(2) + logsigmoid(-h)),
    FDivergence.PEARSON: lambda h: (2 * h).expm1(),
    FDivergence.SQUARED_HELLINGER: lambda h: 0.5 * (0.5 * h).exp() - 1,
    FDivergence.TOTAL_VARIATION: lambda h: 0.5 * h.sign(),
}
_GROWTH: Mapping[FDivergence, tuple[float, float]] = {
    FDivergence.KL: (0, 1),
    FDivergence.REVERSE_KL: (-1, 0),
    FDivergence.JS: (0, 0),
    FDivergence.PEARSON: (1, 2),
    FDivergence.SQUARED_HELLINGER: (-0.5, 0.5),
    FDivergence.TOTAL_VARIATION: (0, 0),
}
"""The exponents of e^h in the witness and in its conjugate: what makes their averages heavy-tailed."""


def log_ratios_of_both(
    critic: Callable[..., Tensor], x: Tensor, y: Tensor, context: Context = None
) -> tuple[Tensor, Tensor]:
    """What a critic gives for samples of two distributions, as :func:`log_ratios_of` does for one.

    Raises:
        TypeError: the critic cannot be called, or a sample is no tensor.
        ValueError: a sample is empty, they are of different events, or differ in number where there are contexts; and
            as for :func:`log_ratios_of`.
    """
    function(critic, "critic"), real_tensor(x, "x"), real_tensor(y, "y")
    contexts = context.values() if isinstance(context, Mapping) else [context]
    rows = [len(part) for part in contexts if part is not None]
    if not (x.dim() and y.dim() and len(x) and len(y)) or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"`x` and `y` must hold rows (m, *event) and (n, *event), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if rows and {len(x), len(y), *rows} != {len(x)}:
        raise ValueError(
            f"`x`, `y` and `context` must hold as many rows, one context for each, got {len(x)}, {len(y)} and {rows[0]}"
        )
    return log_ratios_of(critic, x, context), log_ratios_of(critic, y, context, name="y")


def log_ratios_of(critic: Callable[..., Tensor], events: Tensor, context: Context = None, *, name: str = "x") -> Tensor:
    """What a critic gives, in evaluation mode and double precision: exponentials of it reach far.

    Args:
        critic: Any module or function, called ``critic(x)`` or ``critic(x, context)``.
        events: What it is called with, ``(N, *event)``.
        context: Their contexts.
        name: What errors call the events.

    Raises:
        ValueError: it does not give ``(N,)``, or gives NaN.
    """
    with torch.no_grad(), evaluating(critic) if isinstance(critic, nn.Module) else nullcontext():
        found = critic(events) if context is None else critic(events, context)
    if not isinstance(found, Tensor) or found.shape != (len(events),):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"`critic` must give log-ratios ({len(events)},) of the rows of `{name}`, got {got}")
    return without_nan(found, f"critic({name})").cpu().double()
