"""What a density has to beat: a mixture of Gaussians with full covariances, chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrogen.arguments import checked, finite, positive, some_sizes
from pyrogen.arrays import takes_arrays


@takes_arrays
@checked(components=some_sizes)
def gaussian_baseline(
    train: Tensor,
    validation: Tensor,
    components: Sequence[int] = (1, 5, 10),
    *,
    floors: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3),
    seed: int = 0,
) -> dist.MixtureSameFamily:
    """A mixture of Gaussians with full covariances, fitted by expectation maximization.

    How many there are, and what is added to their variances, are those under which validation data are most probable.

    Args:
        train: The data.
        validation: Others, to choose by.
        components: How many Gaussians are tried; with ``[1]`` it is a single one.
        floors: What is tried to add to the variances, in squared units of the data.
        seed: Of the first guess of each fit.

    Shape:
        ``train`` and ``validation`` are ``(n, size)`` and ``(m, size)``; the result is of events ``(size,)``, in double
        precision, on the device of ``train``.

    Raises:
        ImportError: scikit-learn is not installed; the extra ``evaluation`` brings it.
        TypeError: the data are no tensors of floating-point numbers.
        ValueError: a shape does not fit, there are fewer data than Gaussians, a number is missing or infinite, or
            nothing is tried.

    Example:
        >>> train, validation = torch.randn(200, 2), torch.randn(100, 2)
        >>> baseline = gaussian_baseline(train, validation, [1, 2])
        >>> baseline.log_prob(torch.randn(5, 2)).shape
        torch.Size([5])
    """
    if finite(train, "train").dim() != 2 or not train.numel():
        raise ValueError(f"`train` must have shape (n, size), got {tuple(train.shape)}")
    if finite(validation, "validation").shape[1:] != train.shape[1:] or not len(validation):
        raise ValueError(f"`validation` must have shape (m, {train.shape[1]}), got {tuple(validation.shape)}")
    if max(components) > len(train):
        raise ValueError(f"`components` must be at most the {len(train)} data, got {max(components)}")
    tried = list(product(components, [positive(floor, "floors") for floor in floors]))
    if not tried:
        raise ValueError("`floors` must hold at least one number, got none")
    from sklearn.mixture import GaussianMixture

    learn, choose = (part.cpu().numpy() for part in (train, validation))
    fits = [GaussianMixture(count, reg_covar=floor, random_state=seed).fit(learn) for count, floor in tried]
    best = max(fits, key=lambda fit: fit.score(choose))
    parameters = best.weights_, best.means_, best.covariances_
    weights, means, covariances = (torch.as_tensor(part, device=train.device).double() for part in parameters)
    return dist.MixtureSameFamily(dist.Categorical(weights), dist.MultivariateNormal(means, covariances))
