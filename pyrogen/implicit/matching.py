r"""Matching: distances between draws and data that need no critic.

A generator :math:`q_\theta` is trained by making a distance between its draws and a minibatch of data small. There is
no game, so what is minimized is one number, which can be watched.

===================================  =============================================================================
:class:`MaximumMeanDiscrepancy`      :math:`E\,k(x, x') - 2 E\,k(x, y) + E\,k(y, y')` for a kernel :math:`k`
:class:`EnergyDistance`              the same with :math:`k = -|x - y|`: :math:`2 E|x - y| - E|x - x'| - E|y - y'|`
:class:`SlicedWasserstein`           the Wasserstein distance on lines, averaged over their directions
===================================  =============================================================================

Here :math:`x, x'` are data and :math:`y, y'` are draws. The first two are estimated *without bias*: so are their
gradients, and with minibatches of any size the minimum is where :math:`q_\theta = p`. The Wasserstein distance between
two minibatches is larger than that between their distributions, by an amount that depends on :math:`\theta`, so its
minimum is biased (Bellemare et al. 2017): draws are too narrow, the less so the larger the minibatch.

**With a context** the distance must be between :math:`p(x \mid c)` and :math:`q_\theta(x \mid c)` for nearly every
:math:`c`, of which the data have perhaps one :math:`x` each. For the first two that is no obstacle: of

.. math:: \mathrm{MMD}^2 = E\,k(x, x') - 2 E\,k(x, y) + E\,k(y, y')

the first term does not depend on :math:`\theta`, and the others need one datum and two draws in each context. Without
the first it is the *kernel score* (for the energy distance, the energy score), a strictly proper scoring rule: its mean
over contexts is smallest where the two conditional distributions are equal, and a context is never compared with
another (Gneiting and Raftery 2007). The Wasserstein distance has no such form, for its minimum given one datum is a
point. There the joint distributions of :math:`(x, c)` are compared, along lines through both; they agree where the
conditional ones do. But what lines show of the spread within a context is little where the contexts explain much, and
the bias of minibatches then weighs more: with a context, the scores above are the better choice.

References:
    Li, Swersky and Zemel 2015, "Generative moment matching networks", https://arxiv.org/abs/1502.02761
    Dziugaite, Roy and Ghahramani 2015, "Training generative neural networks via maximum mean discrepancy
    optimization", https://arxiv.org/abs/1505.03906
    Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
    https://doi.org/10.1198/016214506000001437
    Bellemare et al. 2017, "The Cramer distance as a solution to biased Wasserstein gradients",
    https://arxiv.org/abs/1705.10743
    Bouchacourt, Kumar and Nowozin 2016, "DISCO nets: dissimilarity coefficient networks",
    https://arxiv.org/abs/1606.02556
    Deshpande, Zhang and Schwing 2018, "Generative modeling using the sliced Wasserstein distance",
    https://arxiv.org/abs/1803.11188
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked, count, instance_of, integer, number
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context, context_of_each
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.statistics import Standardizer, Statistic
from pyrogen.numerics.kernels import DistanceKernel, Kernel, multiscale
from pyrogen.numerics.wasserstein import along, ascended, directions

from .draws import draws_of, represent, represented_shape
from .median import MedianDistance


def _power(value: Any, name: str) -> float:
    if number(value, name) < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}")
    return value


class Matching(Objective):
    """A distance between draws of a generator and data, in coordinates of the data's scale.

    Subclasses define :meth:`distance`.

    Args:
        generator: What is trained: a :class:`~pyrogen.implicit.Generator`, or any module whose draws carry gradients.
        draws: How many for each datum, of its context if there is one.
        standardize: Whether distances are measured after every element was divided by its standard deviation (images by
            that of the channel), which is learned from the data set before training. Otherwise in data units, where
            elements of large scale count most.
    """

    unit = "standard deviations"

    @checked(generator=anything)
    def __init__(self, generator: DistributionModule, *, draws: int, standardize: bool) -> None:
        super().__init__()
        check_part(generator, "generator")
        self.generator = generator
        self.draws = draws
        self.standardizer = Standardizer(represented_shape(generator), name="x")
        if not standardize:
            self.standardizer.reset(learned=True)
            self.unit = self.unit.replace("standard deviations", "data units")

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """The distance between data and draws.

        Shape:
            ``x`` is ``(rows, d)``, ``y`` ``(draws, rows, d)``, of the same contexts.
        """

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        context = context_of_each(x, context, self.generator.event_shape, self.generator.context_shape)
        y = draws_of(self.generator, self.draws, len(x), context)
        return self.distance(self._coordinates(represent(self.generator, x)), self._coordinates(y), context)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        found = list(self.generator.read_data(x, context))
        yield from found
        if all(statistic.learned for statistic, _ in found):  # the form for comparison may depend on them
            yield from self.read_represented(represent(self.generator, x), context)

    def read_represented(self, x: Tensor, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads data in the form in which they are compared, and their contexts."""
        yield from self.standardizer.read_data(x)

    def _coordinates(self, x: Tensor) -> Tensor:
        """Events as vectors; their scale is that of the data where it was learned."""
        shape = self.standardizer.shape
        return self.standardizer(x).reshape(*x.shape[: x.dim() - len(shape)], prod(shape))


class KernelMatching(Matching):
    """A distance that a kernel makes: without a context all pairs are compared, with one those of each context.

    Subclasses define :meth:`fitted_kernel`.
    """

    def __init__(self, generator: DistributionModule, *, draws: int | None, standardize: bool) -> None:
        check_part(generator, "generator")
        fewest = 1 if generator.context_shape is None else 2
        draws = fewest if draws is None else integer(draws, "draws", least=fewest)
        super().__init__(generator, draws=draws, standardize=standardize)
        if fewest == 2:
            self.unit = f"{self.unit}, up to a constant"

    @abstractmethod
    def fitted_kernel(self) -> Kernel:
        """The kernel, its bandwidths set."""

    def distance(self, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if context is not None:
            return kernel_score(x, y, self.fitted_kernel())
        if len(x) < 2:
            raise ValueError(f"`x` must hold at least two data, whose distances are needed, got {len(x)}")
        return unbiased_squared_mmd(x, y.flatten(0, 1), self.fitted_kernel())


class MaximumMeanDiscrepancy(KernelMatching):
    r"""The squared maximum mean discrepancy between draws and data, estimated without bias.

    .. math:: \frac{1}{m (m - 1)} \sum_{i \ne j} k(x_i, x_j) - \frac{2}{m n} \sum_{i, j} k(x_i, y_j)
        + \frac{1}{n (n - 1)} \sum_{i \ne j} k(y_i, y_j)

    Its expectation is zero where draws and data have one distribution, so a value may be negative. With a context it is
    the kernel score, see :mod:`pyrogen.implicit.matching`: smaller than the squared discrepancy by
    :math:`E\,k(x, x')`, which no generator changes.

    Args:
        generator: As for :class:`Matching`.
        kernel: How alike two points are. Bandwidths that are left open become multiples of the median distance in the
            data set, learned before training. ``None``: Gaussian kernels at five of them, a quarter to four times.
        draws: How many for each datum; one, or with a context two, if ``None``, and no fewer.
        standardize: As for :class:`Matching`.

    Raises:
        TypeError: ``kernel`` is no kernel, or ``draws`` no integer.
        ValueError: ``generator`` is no module that gives distributions, or there are too few draws.

    Example:
        >>> import pyrogen as pg
        >>> generator = pg.implicit.mlp((2,), noise=(2,))
        >>> _ = pg.fit(MaximumMeanDiscrepancy(generator), torch.randn(100, 2), steps=3)
    """

    unit = "squared MMD"

    @checked(generator=anything, kernel=instance_of(Kernel))
    def __init__(
        self,
        generator: DistributionModule,
        kernel: Kernel | None = None,
        *,
        draws: int | None = None,
        standardize: bool = True,
    ) -> None:
        super().__init__(generator, draws=draws, standardize=standardize)
        self.kernel = multiscale() if kernel is None else kernel
        self.median = MedianDistance() if self.kernel.needs_median else None

    def fitted_kernel(self) -> Kernel:
        return self.kernel if self.median is None else self.kernel.fitted(float(self.median.distance))

    def read_represented(self, x: Tensor, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_represented(x, context)
        if self.median is not None and self.standardizer.learned:
            yield self.median, self._coordinates(x)


class EnergyDistance(KernelMatching):
    r"""The energy distance between draws and data, :math:`2 E|x - y| - E|x - x'| - E|y - y'|`, estimated without bias.

    There is nothing to tune. In one dimension it is :math:`2 \int (F - G)^2` for the distribution functions. With a
    context it is the energy score :math:`2 E|x - y| - E|y - y'|`, larger by :math:`E|x - x'|`, which no generator
    changes; the continuous ranked probability score is half of it, in one dimension.

    Args:
        generator: As for :class:`Matching`.
        draws: How many for each datum; one, or with a context two, if ``None``, and no fewer.
        standardize: As for :class:`Matching`.

    Raises:
        TypeError: ``draws`` is no integer.
        ValueError: ``generator`` is no module that gives distributions, or there are too few draws.

    References:
        Székely and Rizzo 2013, "Energy statistics", https://doi.org/10.1016/j.jspi.2013.03.018
        Gritsenko et al. 2020, "A spectral energy distance for parallel speech synthesis",
        https://arxiv.org/abs/2008.01160

    Example:
        >>> import pyrogen as pg
        >>> generator = pg.implicit.mlp((2,), (3,), noise=(2,))
        >>> _ = pg.fit(EnergyDistance(generator), (torch.randn(100, 2), torch.randn(100, 3)), steps=3)
    """

    def __init__(self, generator: DistributionModule, *, draws: int | None = None, standardize: bool = True) -> None:
        super().__init__(generator, draws=draws, standardize=standardize)

    def fitted_kernel(self) -> Kernel:
        return DistanceKernel()


class SlicedWasserstein(Matching):
    r"""The sliced Wasserstein distance between draws and data, :math:`\mathbb{E}_\theta W_p^p`, or the max-sliced one.

    Every step has fresh directions. In one dimension it is :math:`W_p^p` itself. Between the two minibatches it is
    exact along each line, whatever their sizes; as an estimate of that between the distributions it is too large.

    With a context, draws and data are compared together with it: along lines through events and contexts, numbers in
    standard deviations of the data and labels one-hot. Few labels are learned well. Within continuous contexts draws
    are too narrow (of :math:`x = 2c + 1 + e/2` with minibatches of 256, :math:`e` has a standard deviation of .73 where
    it should have 1), and :class:`EnergyDistance` is the better choice.

    Args:
        generator: As for :class:`Matching`.
        directions: How many.
        order: The power :math:`p`, at least 1.
        ascent: Steps that each direction takes to where the distance is larger. With any, the largest distance is
            taken instead of the mean: the max-sliced one, for which few directions do. The gradient is that along the
            direction found, as of a critic.
        draws: How many for each datum.
        standardize: As for :class:`Matching`.
        classes: How many labels there are, where the context is one: a number, or a dict for some of several.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ``generator`` is no module that gives distributions, a number is too small, or ``classes`` does not
            fit the context.

    Example:
        >>> import pyrogen as pg
        >>> generator = pg.implicit.mlp((2,), noise=(2,))
        >>> _ = pg.fit(SlicedWasserstein(generator, directions=32), torch.randn(100, 2), steps=3)
    """

    @checked(generator=anything, directions=integer, order=_power, ascent=count)
    def __init__(
        self,
        generator: DistributionModule,
        *,
        directions: int = 128,
        order: float = 2.0,
        ascent: int = 0,
        draws: int = 1,
        standardize: bool = True,
        classes: Classes = None,
    ) -> None:
        super().__init__(generator, draws=draws, standardize=standardize)
        self.directions, self.order, self.ascent = directions, order, ascent
        self.unit = self.unit if order == 1 else f"{self.unit} to the power {order:g}"
        self.beside = VectorContext(generator.context_shape, classes=classes)
        if self.beside.context_shape != generator.context_shape:
            raise ValueError(f"`classes` must be None for a generator without a context, got {classes}")

    def distance(self, x: Tensor, y: Tensor, context: Context) -> Tensor:
        if context is not None:
            vector = self.beside(context)
            x, y = torch.cat([x, vector], -1), torch.cat([y, vector.expand(*y.shape[:-1], -1)], -1)
        y = y.flatten(0, 1)
        lines = directions(self.directions, x)
        if self.ascent:
            return along(ascended(lines, x, y, self.order, steps=self.ascent), x, y, self.order).max()
        return along(lines, x, y, self.order).mean()

    def read_represented(self, x: Tensor, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_represented(x, context)
        if context is not None:
            yield from self.beside.read_data(context)


def unbiased_squared_mmd(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy, differentiable.

    Shape:
        ``(m, d)`` and ``(n, d)`` to ``()``.
    """
    return _mean_of_pairs(kernel.between(x, x)) - 2 * kernel.between(x, y).mean() + _mean_of_pairs(kernel.between(y, y))


def kernel_score(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    r"""The kernel score :math:`E\,k(y, y') - 2 E\,k(x, y)` of draws in the context of each datum, averaged.

    Shape:
        ``x`` is ``(rows, d)``, ``y`` is ``(draws, rows, d)``.
    """
    draws = len(y)
    first, second = torch.triu_indices(draws, draws, 1, device=y.device)
    within = kernel.of_squared((y[first] - y[second]).square().sum(-1))
    return within.mean() - 2 * kernel.of_squared((y - x).square().sum(-1)).mean()


def _mean_of_pairs(similarity: Tensor) -> Tensor:
    """The mean over pairs of different points; that of a point with itself has no gradient."""
    n = len(similarity)
    return (similarity.sum() - similarity.detach().diagonal().sum()) / (n * (n - 1))
