r"""Mixtures of variational autoencoders: models with a class beside the latent.

A datum belongs to a class :math:`y` of few, and comes from a conditional variational autoencoder given that class:

.. math:: p(x) = \sum_y p(y) \int p(x \mid z, y) \, p(z \mid y) \, dz .

The class is summed over, never drawn. With a classifier :math:`q(y \mid x)` the evidence lower bound is

.. math::
    \log p(x) \ge \sum_y q(y \mid x) \left[ \mathcal{L}(x, y) - \log q(y \mid x) \right], \qquad
    \mathcal{L}(x, y) = \mathbb{E}_{q(z \mid x, y)} [\log w_y], \quad
    w_y = \frac{p(y) \, p(z \mid y) \, p(x \mid z, y)}{q(z \mid x, y)} .

Importance weights :math:`w_{y,k}` of :math:`K` draws and all classes bound it tighter. The class of the first draw is
the classifier's, so that one draw gives the bound above and training by ``log_prob`` trains the classifier with it;
those of the others are summed exactly:

.. math::
    \log p(x) \ge \sum_y q(y \mid x) \log \frac1K \Bigl[ \frac{w_{y,1}}{q(y \mid x)}
    + \sum_{k=2}^K \sum_{y'} w_{y',k} \Bigr] .

Two models of the literature are of this form. In the *Gaussian mixture VAE* the class acts through the latent alone,
:math:`p(z \mid y)` being a normal each, and finds clusters. In *M2*, the semi-supervised model of Kingma et al., the
class is a label that some data have; beside it a latent describes how, and not what, :math:`x` is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked, non_negative
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.parts import given, merged_context_shape, read_part, taken
from pyrogen.core.shapes import Context, batch_shape_of
from pyrogen.networks.statistics import Statistic, require_labels
from pyrogen.numerics.randomness import held
from pyrogen.programs.chain import refuse_chain

from .marginal import LatentVariableModel
from .model import VAE
from .parts import check_draws

UNKNOWN = -1
"""The label of data without one."""


class MixtureVAE(LatentVariableModel):
    r"""A variational autoencoder with a class: a prior of classes, a component, and a classifier.

    Called, it is its marginal :math:`p(x \mid c)`, a lower bound in which the class is summed over. Its Pyro
    ``model`` has the sites ``"class"``, ``"z"`` and ``"x"`` in one plate ``"data"``, its ``guide`` the first two.
    Pyro's ``Trace_ELBO`` draws the class; :class:`~pyrogen.latent.enumeration.EnumeratedPair` sums over it, as ours
    does.

    Args:
        prior: :math:`p(y)`, which gives a Pyro ``Categorical``.
        component: The VAE given a class: its ``context_shape`` is ``()``, or has the entry ``"class"`` of that shape.
            What its parts are given follows the rules of :class:`~pyrogen.latent.model.VAE`.
        classifier: :math:`q(y \mid x)`, or :math:`q(y \mid x, c)`, which gives a Pyro ``Categorical``.
        draws: How many draws of the component's posterior ``log_prob`` averages over, of every class.

    Raises:
        ValueError: shapes do not fit, or ``draws`` is more than one and a part's density is not exact.

    References:
        Kingma, Rezende, Mohamed and Welling 2014, "Semi-supervised learning with deep generative models",
        https://arxiv.org/abs/1406.5298
        Dilokthanakul et al. 2016, "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
        https://arxiv.org/abs/1611.02648

    Example:
        >>> from pyrogen.latent import mixture_vae
        >>> module = mixture_vae((8,), latent_shape=(2,), classes=3, binary=True, hidden=(16,))
        >>> module.classify(module().sample((5,))).probs.shape
        torch.Size([5, 3])
    """

    @checked
    def __init__(
        self, prior: DistributionModule, component: VAE, classifier: DistributionModule, *, draws: int = 100
    ) -> None:
        _check(prior, component, classifier)
        shape = merged_context_shape(
            ("prior", prior, None), ("component", component, "class"), ("classifier", classifier, "x")
        )
        super().__init__(component.event_shape, shape)
        check_draws(component.parts, draws)
        self.prior = prior
        self.component = component
        self.classifier = classifier
        self.draws = draws

    def prior_at(self, context: Context = None) -> dist.Categorical:
        """The prior of classes :math:`p(y | c)`."""
        return self.prior(given(self.prior, context))

    def classify(self, x: Tensor, context: Context = None) -> dist.Categorical:
        """The classifier, :math:`q(y | x, c)`: learned, one pass of its network."""
        return self.classifier(given(self.classifier, context, x=x))

    def responsibilities(self, x: Tensor, context: Context = None) -> dist.Categorical:
        r"""The model's own :math:`p(y | x, c)` by Bayes' rule, from ``draws`` importance weights of every class.

        Consistent as draws become many, whatever the classifier gives.
        """
        log_weights = self.class_log_weights(x, context).logsumexp(0)
        return dist.Categorical(logits=log_weights.movedim(0, -1))

    def given_class(self, label: Tensor, context: Context = None) -> Context:
        """What the component is given: the class, and what else it takes."""
        if not isinstance(self.component.context_shape, dict):
            return label
        others = context if isinstance(context, Mapping) else {"context": context}
        return {"class": label, **{key: others[key] for key in self.component.context_shape if key != "class"}}

    def labels(self, x: Tensor, context: Context = None) -> Tensor:
        """All classes, along a dimension to the left of the data's: ``(classes, 1, ..., 1)``."""
        count = self.prior_at(context).probs.shape[-1]
        batch = len(batch_shape_of(x, self.event_shape, "x"))
        return torch.arange(count, device=x.device).reshape(count, *[1] * batch)

    def class_log_weights(self, x: Tensor, context: Context = None, draws: int | None = None) -> Tensor:
        """The logarithms of importance weights of data and every class, ``(draws, classes, *batch)``."""
        labels = self.labels(x, context)
        inner = self.given_class(labels, context)
        posterior = self.component.posterior_at(x, inner)
        refuse_chain("a MixtureVAE", "sample its class and its latent at sites of their own")
        z = posterior(torch.Size((self.draws if draws is None else draws,)))
        log_joint = self.component.likelihood_at(z, inner).log_prob(x) + self.component.prior_at(inner).log_prob(z)
        return log_joint - posterior.log_prob(z) + self.prior_at(context).log_prob(labels)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from read_part(self.classifier, context, "x", x)
        yield from read_part(self.component.posterior, context, "x", x)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_part(self.prior, context)
        yield from read_part(self.component, context, "class")
        yield from read_part(self.classifier, context, "x")

    def draw(self, shape: torch.Size, context: Context = None) -> Tensor:
        inner = self.given_class(self.prior_at(context).expand(shape).sample(), context)
        z = self.component.prior_at(inner).expand(shape).sample()
        return self.component.likelihood_at(z, inner).sample()

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        log_weights = self.class_log_weights(x, context)  # (draws, classes, *batch)
        log_class = self.classify(x, context).logits.movedim(-1, 0)
        log_terms = log_weights[0] - log_class
        if len(log_weights) > 1:
            log_terms = torch.logaddexp(log_terms, log_weights[1:].logsumexp((0, 1)))
        bound = (log_class.exp() * log_terms).sum(0) - math.log(len(log_weights))
        return bound.unsqueeze(0)  # the one weight whose logarithm is the bound

    def support_at(self, context: Context = None) -> constraints.Constraint:
        with held(), torch.no_grad():
            inner = self.given_class(self.prior_at(context).sample(), context)
            return self.component.likelihood_at(self.component.prior_at(inner).sample(), inner).support

    def sample_model(self, x: Tensor | None, context: Context = None) -> Tensor:
        inner = self.given_class(pyro.sample("class", self.prior_at(context)), context)
        z = pyro.sample("z", self.component.prior_at(inner))
        return pyro.sample("x", self.component.likelihood_at(z, inner), obs=x)

    def sample_guide(self, x: Tensor, context: Context = None) -> Tensor:
        label = pyro.sample("class", self.classify(x, context))
        return pyro.sample("z", self.component.posterior_at(x, self.given_class(label, context)))

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: the evidence lower bound, the class summed over."""
        return MixtureElbo(self)


class MixtureElbo(Objective):
    r"""Minus the evidence lower bound of a model with a class, which is summed over.

    .. math:: -\sum_y q(y \mid x) \left[ \mathcal{L}(x, y) - \log q(y \mid x) \right]

    Equal, on the same noise, to Pyro's ``TraceEnum_ELBO`` on the model and guide divided by the number of rows.

    Args:
        module: The model.
        draws: How many draws of the latent to average over, for every class.

    Raises:
        ValueError: ``draws`` is not positive.
    """

    @checked
    def __init__(self, module: MixtureVAE, *, draws: int = 1) -> None:
        super().__init__()
        self.module = module
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        bounds = self.module.class_log_weights(x, context, self.draws).mean(0)  # (classes, *batch)
        log_class = self.module.classify(x, context).logits.movedim(-1, 0)
        return (log_class.exp() * (log_class - bounds)).sum(0).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


class SemiSupervisedElbo(Objective):
    r"""Minus the bound of data of which some are labelled, and the classifier's error on those.

    .. math::
        \frac1N \Bigl( -\sum_{\text{labelled}} \bigl[ \mathcal{L}(x, y) + \alpha \log q(y \mid x) \bigr]
        -\sum_{\text{unlabelled}} \sum_y q(y \mid x) \left[ \mathcal{L}(x, y) - \log q(y \mid x) \right] \Bigr)

    Called with ``(x, label)`` or ``(x, label, context)``, where the label is -1 for data without one; a minibatch may
    hold both kinds. The bound of labelled data does not train the classifier, hence the term with :math:`\alpha`.

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

    @checked(weight=non_negative)
    def __init__(self, module: MixtureVAE, *, weight: float = 1.0, draws: int = 1) -> None:
        super().__init__()
        self.module = module
        self.weight = weight
        self.draws = draws

    def forward(self, x: Tensor, label: Tensor, context: Context = None) -> Tensor:
        bounds = self.module.class_log_weights(x, context, self.draws).mean(0)  # (classes, *batch)
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


def _check(prior: DistributionModule, component: VAE, classifier: DistributionModule) -> None:
    if taken(component, "class") != ():
        got = component.context_shape
        raise ValueError(f'`component` must take the class, of shape (), alone or as the entry "class", got {got}')
    if taken(classifier, "x") != component.event_shape:
        got = classifier.context_shape
        raise ValueError(f"`classifier` must take data of shape {component.event_shape}, got context shape {got}")
    for name, part in (("prior", prior), ("classifier", classifier)):
        if part.event_shape != ():
            raise ValueError(f"`{name}` must give classes, of event shape (), got {part.event_shape}")
