"""Objectives of models with a class: the class summed over where it is unknown, taken as given where it is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrogen.core.shapes import Context
from pyrogen.networks.statistics import ReadsData, Statistic, require_labels

if TYPE_CHECKING:
    from .mixture import MixtureVAE

UNKNOWN = -1
"""The label of data without one."""


class MixtureElbo(ReadsData, nn.Module):
    r"""Minus the evidence lower bound of a model with a class, which is summed over.

    .. math:: -\sum_y q(y \mid x) \left[ \mathcal{L}(x, y) - \log q(y \mid x) \right]

    Equal, on the same noise, to Pyro's ``TraceEnum_ELBO`` on the model and guide divided by the number of rows.

    Args:
        module: The model.
        draws: How many draws of the latent to average over, for every class.

    Raises:
        ValueError: ``draws`` is not positive.
    """

    def __init__(self, module: MixtureVAE, *, draws: int = 1) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {draws}")
        self.module = module
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        bounds = self.module.log_weights(x, context, self.draws).mean(0)  # (classes, *batch)
        log_class = self.module.classify(x, context).logits.movedim(-1, 0)
        return (log_class.exp() * (log_class - bounds)).sum(0).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


class SemiSupervisedElbo(ReadsData, nn.Module):
    r"""Minus the bound of data of which some are labelled, and the classifier's error on those.

    .. math::
        \frac1N \Bigl( -\sum_{\text{labelled}} \bigl[ \mathcal{L}(x, y) + \alpha \log q(y \mid x) \bigr]
        -\sum_{\text{unlabelled}} \sum_y q(y \mid x) \left[ \mathcal{L}(x, y) - \log q(y \mid x) \right] \Bigr)

    Called with ``(x, label)`` or ``(x, label, context)``, where the label is -1 for data without one; a minibatch may
    hold both kinds. The bound of labelled data says nothing to the classifier, hence the term with :math:`\alpha`.

    Args:
        module: The model.
        weight: :math:`\alpha`, for each labelled datum. Kingma et al. take a tenth of the number of all data over the
            number of those labelled, so that few labels count as much as many.
        draws: How many draws of the latent to average over, for every class.

    Raises:
        ValueError: ``weight`` is negative, or ``draws`` is not positive.

    References:
        Kingma, Rezende, Mohamed and Welling 2014, "Semi-supervised learning with deep generative models", eqs. 6 to 9,
        https://arxiv.org/abs/1406.5298
    """

    def __init__(self, module: MixtureVAE, *, weight: float = 1.0, draws: int = 1) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"`weight` must not be negative, got {weight}")
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {draws}")
        self.module = module
        self.weight = weight
        self.draws = draws

    def forward(self, x: Tensor, label: Tensor, context: Context = None) -> Tensor:
        bounds = self.module.log_weights(x, context, self.draws).mean(0)  # (classes, *batch)
        log_class = self.module.classify(x, context).logits.movedim(-1, 0)
        if torch.distributions.Distribution._validate_args:
            require_labels(label, len(log_class), "label", lowest=UNKNOWN)
        unknown = label == UNKNOWN
        chosen = F.one_hot(label.clamp(min=0), len(log_class)).movedim(-1, 0).bool()
        unlabelled = (log_class.exp() * (log_class - bounds)).sum(0)
        labelled = -torch.where(chosen, bounds + self.weight * log_class, 0.0).sum(0)
        return torch.where(unknown, unlabelled, labelled).mean()

    def read_data(self, x: Tensor, label: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        require_labels(label, self.module.prior_at(context).logits.shape[-1], "label", lowest=UNKNOWN)
        return self.module.read_data(x, context)
