"""Bayes' rule: a class-conditional density is a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import integer, numbers, real_tensor
from pyrogen.core.module import DistributionModule

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
        ``(*batch, *event_shape)`` to ``(*batch, classes)``: normalised log-probabilities; NaN for a datum to which no
        class gives any probability.

    Raises:
        NotImplementedError: ``log_prob`` is not exact or an estimate. How loose a bound is, and how large an unknown
            constant, depends on the class, so their softmax is no posterior.
        TypeError: ``x`` or ``log_prior`` is no tensor.
        ValueError: the module does not take labels, there are no classes, a shape does not fit, or ``log_prior`` holds
            NaN or gives no class any probability.
    """
    if not isinstance(module, DistributionModule) or module.context_shape != ():
        got = f"`context_shape` {module.context_shape}" if isinstance(module, DistributionModule) else name_of(module)
        raise ValueError(f"`module` must take labels (`context_shape` ()), got {got}")
    integer(classes, "classes")
    real_tensor(x, "x")
    if log_prior is not None:
        _check_prior(log_prior, classes)
    joint = []
    for label in range(classes):
        scores = score(module, x, torch.tensor(label, device=x.device), batch_size)
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


def _check_prior(log_prior: Tensor, classes: int) -> None:
    numbers(log_prior, "log_prior", minus_infinity=True)
    if log_prior.shape != (classes,):
        raise ValueError(f"`log_prior` must have shape {(classes,)}, got {tuple(log_prior.shape)}")
    if log_prior.isneginf().all():
        raise ValueError("`log_prior` must give a class some probability, got minus infinity for all")
