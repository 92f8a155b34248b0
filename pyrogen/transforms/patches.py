r"""Autoregressive transforms of images, patch by patch.

An image becomes a sequence of patches :math:`x_1, \dots, x_L` of :math:`P` elements each, and each element is mapped
with parameters from the patches before its own, :math:`y_i = g(x_i; \theta(x_1, \dots, x_{i-1}))`. The Jacobian is
block triangular with diagonal blocks, so all of :math:`y` takes one pass of a causal transformer. The inverse goes
patch by patch, what the transformer has computed of earlier ones kept.

The gradient of the inverse is implicit: :math:`J^\top \lambda = g` with :math:`J = D + N`, :math:`D` diagonal and
:math:`N` strictly block triangular, is solved by :math:`\lambda \leftarrow \lambda + D^{-1} (g - J^\top \lambda)`,
which is exact after :math:`L` steps and mostly settles sooner. For second derivatives and under ``torch.func`` the
inverse is defined as :math:`L` passes.

References:
    Zhai et al. 2024, "Normalizing flows are capable generative models", https://arxiv.org/abs/2412.06329
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pyrogen.networks.patch_transformer import PatchTransformer
from pyrogen.networks.patches import Patches
from pyrogen.numerics.autograd import differentiated, in_full_precision, is_functional, tensors_of, with_tensors
from pyrogen.numerics.rows import by_datum

from .elements import Element
from .images import RowsOf
from .transform import Transform

Outputs = tuple[Tensor, Tensor]
_IMAGE = 3


class PatchAutoregressive(Transform):
    """An autoregressive transform of images ``(channels, height, width)``, patch by patch.

    Args:
        network: From patches ``(N, L, P)`` to ``(N, L, size * P)``, each place seeing those before it.
        element: How each element is mapped.
        patches: How an image is cut; patches must divide its sides.
        reverse: Whether the last patch comes first.
        context: What the network takes besides, ``(*batch, C)``.
    """

    def __init__(
        self,
        network: PatchTransformer,
        element: Element,
        patches: Patches,
        *,
        reverse: bool = False,
        context: Tensor | None = None,
    ) -> None:
        super().__init__(_IMAGE, torch.Size() if context is None else context.shape[:-1])
        self.network, self.element, self.context = network, element, context
        self.patches, self.reverse = patches, reverse
        self.state = tensors_of(network)

    def forward_and_log_det(self, x: Tensor) -> Outputs:
        return self._of_patches(x, lambda equation, x: equation.there(x), self.network)

    def inverse_and_log_det(self, y: Tensor) -> Outputs:
        network = self.network.undropped if self.network.training else self.network  # as in steps
        return self._of_patches(y, lambda equation, y: equation.back(y), network)

    @in_full_precision
    def _of_patches(self, x: Tensor, direction: Callable[[_Equation, Tensor], Outputs], network: Callable) -> Outputs:
        rows = RowsOf(x, self.context, _IMAGE, 1)
        sequence = self.patches.cut(rows.x)
        sequence = sequence.flip(1) if self.reverse else sequence
        y, log_slope = direction(_Equation(self, network, *rows.context), sequence)
        image = self.patches.joined(y.flip(1) if self.reverse else y)[:, 0]
        return rows.restored(image), rows.restored(by_datum(log_slope, 2).sum(-1))


class _Equation:
    """The equations ``f(x) = y`` of rows of patches ``(N, L, P)``, given their contexts.

    Args:
        transform: Their transform.
        network: Its network, in one pass.
        context: The contexts of the rows, ``(N, C)``.
    """

    def __init__(self, transform: PatchAutoregressive, network: Callable, context: Tensor | None = None) -> None:
        self.element, self.context = transform.element, context
        self.network, self.tensors = transform.network, tuple(transform.state.values())
        self.function, self.call = network, with_tensors(network, self.network, self.tensors)

    def given(self, context: Tensor | None, *tensors: Tensor) -> _Equation:
        """The same equation for other contexts and tensors of the network."""
        other = copy.copy(self)
        other.context, other.tensors = context, tensors
        other.call = with_tensors(self.function, self.network, tensors)
        return other

    def parameters(self, x: Tensor) -> Tensor:
        """Of each element, ``(size, N, L, P)``."""
        return self._by_element(self.call(x, self.context))

    def there(self, x: Tensor) -> Outputs:
        """``f(x)`` and the log-slopes of all elements."""
        return self.element.forward(self.parameters(x), x)

    def back(self, y: Tensor) -> Outputs:
        """The solution for ``y``, and the log-slopes of the inverse."""
        if is_functional((y, *self.tensors)):
            return self.defined(y)
        with torch.no_grad():
            x, log_slope = self.sweep(y)
        if not torch.is_grad_enabled():
            return x, log_slope
        x = x + _Implicit.apply(y - self.there(x)[0], self, x, y, self.context, *self.tensors)
        return x, -self.there(x)[1]

    def defined(self, y: Tensor) -> Outputs:
        """The same by one pass for each patch, which makes that patch exact; differentiable."""
        x, log_slope = y, torch.zeros_like(y)
        for _ in range(y.shape[1]):
            x, log_slope = self.element.inverse(self.parameters(x), y)
        return x, log_slope

    def sweep(self, y: Tensor) -> Outputs:
        """The same patch by patch, with what the network has computed of earlier ones kept."""
        start, step = (
            with_tensors(part, self.network, self.tensors) for part in (self.network.start, self.network.step)
        )
        state, symbol, found = start((len(y),), self.context), None, []
        for given in y.unbind(1):
            output, state = step(symbol, state)
            symbol, log_slope = self.element.inverse(self._by_element(output), given)
            found.append((symbol, log_slope))
        x, log_slopes = zip(*found, strict=True)
        return torch.stack(x, 1), torch.stack(log_slopes, 1)

    def transposed_solve(self, gradient: Tensor, x: Tensor) -> Tensor:
        r"""Solves :math:`J^\top \lambda = g` for the Jacobian of ``f`` at ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y, log_slope = self.there(x)
        slope, tolerance = log_slope.detach().exp(), 16 * torch.finfo(x.dtype).eps
        solution = gradient / slope
        for _ in range(x.shape[1] - 1):
            (pulled,) = torch.autograd.grad(y, x, solution, retain_graph=True)
            change = (gradient - pulled) / slope
            solution = solution + change
            settled = (change.abs() <= tolerance * (1 + solution.abs())) | change.isnan()
            if bool(settled.all()):
                break
        return solution

    def _by_element(self, output: Tensor) -> Tensor:
        """Outputs ``(..., size * P)`` as parameters ``(size, ..., P)``."""
        return output.unflatten(-1, (self.element.size, -1)).movedim(-2, 0)


class _Implicit(Function):
    """Zero, with the gradient of the solution: the inverse Jacobian of what the solution leaves.

    Where that is differentiated again, the gradient is that of the definition in what it depends on.
    """

    @staticmethod
    def forward(ctx: Any, rest: Tensor, equation: _Equation, x: Tensor, *given: Tensor | None) -> Tensor:
        ctx.equation = equation
        ctx.save_for_backward(x, *given)
        return torch.zeros_like(rest)

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        x, *given = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return ctx.equation.transposed_solve(gradient, x), None, None, *(None for _ in given)

        def definition(y: Tensor, *others: Tensor | None) -> tuple[Tensor]:
            return (ctx.equation.given(*others).defined(y)[0],)

        return None, None, None, *differentiated(definition, given, (gradient,))
