"""Classes that were found without labels, against labels: which name belongs to which."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import real_tensor
from pyrogen.arrays import takes_arrays


@takes_arrays
def matched_clusters(found: Tensor, labels: Tensor) -> Tensor:
    """Whether each datum is in the class of its label, under the one naming of the classes that fits best.

    No two classes have the same name. The share of such data, ``Estimate.of_share(matched, unit="cluster accuracy")``,
    is the accuracy of clusters; among few data it is above that of chance, since the naming is chosen with the labels.
    Needs SciPy.

    Args:
        found: The classes that a model has found, such as the most probable value of a latent code, ``(n,)``.
        labels: The classes that they should be, ``(n,)``.

    Raises:
        TypeError: they are no tensors.
        ValueError: there are not as many, or one is no integer of at least zero.

    Example:
        >>> matched_clusters(torch.tensor([2, 2, 0, 0, 0]), torch.tensor([0, 0, 1, 1, 0])).tolist()
        [True, True, True, True, False]
    """
    from scipy.optimize import linear_sum_assignment

    for name, values in (("found", found), ("labels", labels)):
        if real_tensor(values, name).dim() != 1 or not bool((values == values.long().clamp(min=0)).all()):
            raise ValueError(f"`{name}` must be integers of at least zero of shape (n,), got {values.tolist()}")
    if len(found) != len(labels):
        raise ValueError(f"`labels` must be as many as the {len(found)} classes of `found`, got {len(labels)}")
    if not len(found):
        return torch.zeros(0, dtype=torch.bool, device=found.device)
    found, labels = found.long(), labels.long().to(found.device)
    count = int(torch.stack([found, labels]).max()) + 1
    together = torch.bincount(found * count + labels, minlength=count**2).reshape(count, count)
    _, names = linear_sum_assignment(together.cpu().numpy(), maximize=True)
    return torch.from_numpy(names).to(found.device)[found] == labels
