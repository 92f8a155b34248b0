"""Bayes' rule: a class-conditional density is a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import batch_shape_of

from .scoring import name_of, score


def bayes_classifier(
    module: DistributionModule,
    x: Tensor,
    classes: int,
    log_prior: Tensor | None = None,
    *,
    batch_size: int = 1024,
) -> Tensor:
    r"""Class probabilities by Bayes' rule, :math:`\log p(c \mid x) \propto \log p(x \mid c) + \log p(c)`.

    Args:
        module: A class-conditional module: its context is an integer label, ``context_shape=()``.
        x: The data.
        classes: How many classes there are, labelled from 0.
        log_prior: :math:`\log p(c)`, of shape ``(classes,)``; uniform if ``None``; normalised here.
        batch_size: How many data are scored at once.

    Shape:
        ``(*batch, *event_shape)`` to ``(*batch, classes)``: normalised log-probabilities.

    Raises:
        NotImplementedError: ``log_prob`` is not exact or an estimate. How loose a bound is, and how large an unknown
            constant, depends on the class, so their softmax is no posterior.
        ValueError: the module does not take labels, or a shape does not fit.
    """
    if module.context_shape != ():
        raise ValueError(f"`module` must take labels (`context_shape` ()), got `context_shape` {module.context_shape}")
    if log_prior is not None and log_prior.shape != (classes,):
        raise ValueError(f"`log_prior` must have shape {(classes,)}, got {tuple(log_prior.shape)}")
    batch_shape = batch_shape_of(x, module.event_shape, "x")
    joint = []
    for label in range(classes):
        labels = torch.full(batch_shape, label, device=x.device)
        scores = score(module, x, labels, batch_size)
        if scores.density not in ("exact", "estimate"):
            raise NotImplementedError(
                f"{name_of(module)} has density {scores.density!r}: its gap to log p(x | c) depends on the class, "
                "so Bayes' rule gives no posterior; estimate log p(x | c) for each class first"
            )
        joint.append(scores.log_probs)
    log_joint = torch.stack(joint, -1)
    if log_prior is not None:
        log_joint = log_joint + log_prior.to(log_joint)
    return log_joint.log_softmax(-1)
