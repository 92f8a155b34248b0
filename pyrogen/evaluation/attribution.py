r"""Which of several models is a datum from: Bayes' rule over models.

.. math:: p(m \mid x) = \frac{\pi_m \, p_m(x)}{\sum_k \pi_k \, p_k(x)}

The log-probability :math:`\log p_m(x)` is the evidence of model :math:`m` from the datum. The evidence of data from
one common source is a product, so a few of them decide what one leaves open: :meth:`Attribution.grouped`.

Where a model's log-probability is a lower bound, its share of the sum is too small, and the shares of all others too
large. So with bounds the result is no posterior, and each model's entry says what it is:

=====================  =======================  =================================
log-probability of it  of the others            its probability
=====================  =======================  =================================
exact or an estimate   exact or an estimate     as it is, or an estimate
exact or an estimate   some a lower bound       an upper bound
a lower bound          all exact or estimates   a lower bound
a lower bound          some a lower bound       of unknown direction (``None``)
=====================  =======================  =================================

The sources are those that are named and no others: a datum from elsewhere is attributed to one of them all the same,
often with a probability near one. Whether it is like the draws of any, say
:func:`~pyrogen.evaluation.outliers.two_sided_p_value` among the log-probabilities of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pyrogen.arguments import checked, real_tensor
from pyrogen.arrays import takes_arrays
from pyrogen.core.density import Density, weakest
from pyrogen.core.estimate import Estimate

from .density import check_log_prior
from .scoring import Model, require_normalized, score


@dataclass(frozen=True)
class Attribution:
    """Log-probabilities of data under several models, and what they say about the source.

    Args:
        names: Of the models.
        densities: What the log-probabilities of each mean.
        log_probs: Of each datum under each model, in nats, ``(n, models)``.
        log_prior: Of the models, normalized, ``(models,)``.
        shared_errors: Of each model, the standard error that all its log-probabilities share.
    """

    names: tuple[str, ...]
    densities: tuple[Density, ...]
    log_probs: Tensor = field(repr=False)
    log_prior: Tensor = field(repr=False)
    shared_errors: tuple[float, ...] = field(repr=False)

    @property
    def posterior(self) -> Tensor:
        """The probability of each model given each datum, ``(n, models)``; NaN where all give it none.

        What these numbers mean where log-probabilities are bounds, ``meanings`` says.
        """
        return (self.log_probs + self.log_prior).softmax(1)

    @property
    def sources(self) -> Tensor:
        """The place among ``names`` of the most probable model of each datum, ``(n,)``; -1 where all give it none."""
        joint = self.log_probs + self.log_prior
        return joint.argmax(1).masked_fill(joint.isneginf().all(1), -1)

    @property
    def evidence(self) -> dict[str, Estimate]:
        """The mean log-probability of a datum, or of a group, under each model, by name."""
        parts = zip(self.names, self.log_probs.unbind(1), self.densities, self.shared_errors, strict=True)
        return {
            name: Estimate.of_mean(log_probs, density=density, shared_error=error)
            for name, log_probs, density, error in parts
        }

    @property
    def meanings(self) -> dict[str, str | None]:
        """What the posterior probability of each model is: see the table of the module; by name."""
        return {name: self._meaning(place) for place, name in enumerate(self.names)}

    @checked
    def grouped(self, size: int) -> Attribution:
        """The same of groups of data, one after the other, all of one model: their log-probabilities add up.

        Args:
            size: How many data there are in a group.

        Raises:
            ValueError: ``size`` does not divide the number of data.
        """
        if len(self.log_probs) % size:
            raise ValueError(f"`size` must divide the {len(self.log_probs)} data, got {size}")
        errors = tuple(size * error for error in self.shared_errors)
        return replace(self, log_probs=self.log_probs.unflatten(0, (-1, size)).sum(1), shared_errors=errors)

    def accuracy(self, truth: Tensor) -> Estimate:
        """The share of the data whose most probable model is the right one.

        Args:
            truth: The place of the right model among ``names``, for each datum; -1 for a source that is not there.

        Raises:
            ValueError: there is not one for each datum, it is out of range, or no integer.
        """
        real_tensor(truth, "truth")
        if truth.shape != (len(self.log_probs),):
            raise ValueError(f"`truth` must have shape ({len(self.log_probs)},), got {tuple(truth.shape)}")
        places = truth.long()
        wrong = truth[(places != truth) | (places < -1) | (places >= len(self.names))]
        if len(wrong):
            raise ValueError(f"`truth` must be integers from -1 to {len(self.names) - 1}, got {wrong[0].item()}")
        return Estimate.of_share(self.sources == places.to(self.sources.device), unit="accuracy")

    def _meaning(self, place: int) -> str | None:
        bounded = [density == "lower bound" for density in self.densities]
        mine, others = bounded[place], any(bounded[:place] + bounded[place + 1 :])
        if not mine and not others:
            return weakest(*self.densities)
        return None if mine and others else ("lower bound" if mine else "upper bound")


@takes_arrays
def attribution(
    models: Mapping[str, Model], x: Tensor, *, log_prior: Tensor | None = None, batch_size: int = 1024
) -> Attribution:
    """Which of several models each datum is from, by Bayes' rule.

    Args:
        models: At least two distribution modules or distributions, by name, of which none takes a context.
        x: The data.
        log_prior: The log-probability of each model, before the data; uniform if ``None``; normalized here.
        batch_size: How many data are scored at once.

    Shape:
        ``x`` is ``(n, *event_shape)``, ``log_prior`` is ``(models,)``.

    Raises:
        NotImplementedError: a ``log_prob`` is missing or unnormalized.
        TypeError: ``models`` is no dict, or an argument no tensor.
        ValueError: there are fewer than two models, some are of integers and some of real numbers, a shape does not
            fit, a log-probability is NaN, or ``log_prior`` gives no model any probability.

    Example:
        >>> sources = {"left": dist.Normal(-1.0, 1.0), "right": dist.Normal(1.0, 1.0)}
        >>> attribution(sources, torch.tensor([0.0, 1.0])).posterior
        tensor([[0.5000, 0.5000],
                [0.1192, 0.8808]], dtype=torch.float64)
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"`models` must be a dict of models by name, got {type(models).__name__}")
    if len(models) < 2:
        raise ValueError(f"`models` must hold at least two models, got {len(models)}")
    if log_prior is None:
        log_prior = torch.zeros(len(models))
    check_log_prior(log_prior, len(models))
    scores = {name: score(model, x, None, batch_size, name=f"models[{name!r}]") for name, model in models.items()}
    for name, found in scores.items():
        require_normalized(models[name], found.density, "evidence")
        if found.log_probs.dim() != 1:
            shape = tuple(found.distribution.event_shape)
            raise ValueError(
                f"`x` must have shape (n, *event_shape), got {tuple(x.shape)}, where events of `models[{name!r}]` have "
                f"shape {shape}"
            )
    log_probs = torch.stack([found.log_probs for found in scores.values()], -1)
    discrete = {name: found.distribution.support.is_discrete for name, found in scores.items()}
    if len(set(discrete.values())) > 1:
        kinds = {name: "integers" if whole else "real numbers" for name, whole in discrete.items()}
        raise ValueError(f"`models` must all be of integers, or all of real numbers, got {kinds}")
    return Attribution(
        names=tuple(models),
        densities=tuple(found.density for found in scores.values()),
        log_probs=log_probs,
        log_prior=log_prior.to(log_probs).log_softmax(0),
        shared_errors=tuple(found.shared_error for found in scores.values()),
    )
