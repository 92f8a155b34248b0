r"""Conjunctions: several contexts at once, by the sum of their scores.

What several contexts say about the data is multiplied: for the weights :math:`w_k`, with :math:`D_k` the denoiser under
context :math:`c_k` and :math:`D_0` the one without,

.. math::
    D_w = D_0 + \sum_k w_k (D_k - D_0), \qquad
    \text{that is, } \quad p_w(x_t) \propto p(x_t) \prod_k \left( \frac{p(x_t \mid c_k)}{p(x_t)} \right)^{w_k}
    \quad \text{at every time } t .

With all weights one this is :math:`p(x_t \mid c_1, \dots, c_K)` where the contexts are independent given the *noisy*
data, as when each is about parts of the data that are independent of the others' parts. Contexts that are independent
given the data alone are it at :math:`t = 0` only, and samples are then no exact draws from the product. A negative
weight is a context that the data should not have.

References:
    Liu, Li, Du, Torralba and Tenenbaum 2022, "Compositional visual generation with composable diffusion models",
    https://arxiv.org/abs/2206.01714
    Du, Durkan, Strudel, Tenenbaum, Dieleman, Fergus, Sohl-Dickstein, Doucet and Grathwohl 2023, "Reduce, reuse,
    recycle: compositional generation with energy-based diffusion models and MCMC", https://arxiv.org/abs/2302.11552
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of, number
from pyrogen.core.shapes import Context, ContextShape, Shape, context_batch_shape

from .denoiser import Denoiser


class Conjunction(Denoiser):
    r"""A denoiser under several contexts at once, :math:`D_0 + \sum_k w_k (D_k - D_0)`.

    Its context is a stack of those of the denoiser, ``(K, *context_shape)`` for ``K`` weights; all are evaluated in one
    pass. If the weights sum to one, as in :math:`D_1 + (D_2 - D_1) + (D_3 - D_1)` with ``(-1, 1, 1)``, the denoiser
    without context is not needed.

    Args:
        denoiser: Conditional; it must take ``context=None``, as the recipes do that are trained with
            ``context_dropout``, unless the weights sum to one.
        weights: How strongly each context counts.

    Raises:
        TypeError: ``denoiser`` is none, or ``weights`` no sequence of numbers.
        ValueError: the denoiser has no context, or there are no weights.

    Example:
        >>> from pyrogen.diffusion import Diffusion, mlp
        >>> model = mlp((2,), (), classes=5, context_dropout=0.1)
        >>> both = Diffusion(Conjunction(model.denoiser.eval(), weights=(1.0, 1.0)))
        >>> both(torch.tensor([3, 4])).sample((7,)).shape
        torch.Size([7, 2])
    """

    @checked(denoiser=instance_of(Denoiser), weights=instance_of(Sequence))
    def __init__(self, denoiser: Denoiser, *, weights: Sequence[float]) -> None:
        if denoiser.context_shape is None:
            raise ValueError("`denoiser` must have contexts to be combined, got one without `context_shape`")
        if not len(weights):
            raise ValueError("`weights` must have one number for each context, got none")
        shape = _stacked(denoiser.context_shape, len(weights))
        super().__init__(denoiser.event_shape, denoiser.schedule, context_shape=shape)
        self.denoiser = denoiser
        self.weights = tuple(number(weight, "weights") for weight in weights)

    @property
    def data_scale(self) -> Tensor | float:
        return self.denoiser.data_scale

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        t = self.times(x, t)
        batch = torch.broadcast_shapes(
            context_batch_shape(context, self.context_shape), x.shape[: x.dim() - len(self.event_shape)]
        )
        x = x.expand(*batch, *self.event_shape)
        each = self.denoiser(x.expand(len(self.weights), *x.shape), t, self._first(context, len(batch)))
        combined = torch.einsum("k,k...->...", x.new_tensor(self.weights), each)
        rest = 1 - sum(self.weights)
        return combined if abs(rest) < 1e-12 else combined + rest * self.denoiser(x, t, None)

    def _first(self, context: Context, batch_dim: int) -> Context:
        """The contexts with their number in front of all batch dimensions."""
        if isinstance(context, Mapping):
            return {key: _to_front(value, self.context_shape[key], batch_dim) for key, value in context.items()}
        return _to_front(context, self.context_shape, batch_dim)


def _to_front(context: Tensor, shape: Shape, batch_dim: int) -> Tensor:
    missing = batch_dim - (context.dim() - len(shape))
    wide = context.reshape((1,) * missing + tuple(context.shape))
    return wide.movedim(batch_dim, 0)


def _stacked(shape: ContextShape, count: int) -> ContextShape:
    if isinstance(shape, dict):
        return {key: (count, *part) for key, part in shape.items()}
    return (count, *shape)
