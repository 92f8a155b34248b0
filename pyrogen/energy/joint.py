r"""Classifiers as energies.

The logits :math:`f_y(x)` of a classifier are the logarithms of :math:`p(y \mid x)` up to a constant for each :math:`x`.
That constant is free, and may be the density of :math:`x`: with

.. math:: p(x, y) \propto e^{f_y(x)}, \qquad p(x) \propto \sum_y e^{f_y(x)}, \qquad p(y \mid x) = \operatorname{softmax}
    f(x)_y ,

one network classifies, scores how likely its input is, and draws inputs of each class.

References:
    Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi and Swersky 2020, "Your classifier is secretly an energy based model
    and you should treat it like one", https://arxiv.org/abs/1912.03263
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from pyro.distributions import Categorical
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import cross_entropy

from pyrogen.arguments import checked, instance_of, non_negative
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape, batch_shape_of, flatten_batch
from pyrogen.networks.context import integer_labels
from pyrogen.networks.statistics import ReadsData, Statistic, require_labels

from .chains import Chains
from .contrastive import ContrastiveDivergence
from .model import Energy


class _OfAllClasses(ReadsData, nn.Module):
    """The energies of events whatever their class, by a classifier."""

    def __init__(self, classifier: nn.Module, classes: int) -> None:
        super().__init__()
        self.classifier, self.classes = classifier, classes

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return -self.logits(x).logsumexp(-1)

    def logits(self, x: Tensor) -> Tensor:
        """Those of the classifier, ``(N, classes)``."""
        logits = self.classifier(x)
        if logits.shape != (len(x), self.classes):
            raise ValueError(
                f"`classifier` must give logits {(len(x), self.classes)} of {len(x)} rows, got {tuple(logits.shape)}"
            )
        return logits

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.classifier.read_data(x) if isinstance(self.classifier, ReadsData) else iter(())


class _OfOneClass(_OfAllClasses):
    """The energies of events and their labels."""

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return -self.logits(x).gather(-1, integer_labels(context, self.classes).unsqueeze(-1)).squeeze(-1)


class JointEnergy(nn.Module):
    r"""A classifier as three distributions: of inputs, of inputs given a label, of labels given an input.

    ``fit(joint.objective(), (x, labels))`` trains all of them.

    Args:
        classifier: Gives logits ``(N, classes)`` of events as numbers ``(N, *event_shape)``.
        event_shape: Shape of one event.
        classes: How many labels there are.
        base: As for :class:`~pyrogen.energy.model.Energy`; one for all classes.
        support: As for :class:`~pyrogen.energy.model.EnergyModule`.
        chains: How inputs are drawn, likewise, whether a label is given or not.

    Attributes:
        marginal: The energy of inputs, :math:`p(x)`.
        conditional: The energy of inputs given a label, :math:`p(x \mid y)`, of the same network.

    Example:
        >>> joint = JointEnergy(nn.Linear(2, 3), (2,), classes=3, base=pg.energy.DataNormal((2,)))
        >>> joint.label(torch.zeros(5, 2)).probs.shape, joint.conditional(torch.arange(3)).sample().shape
        (torch.Size([5, 3]), torch.Size([3, 2]))
    """

    @checked(chains=instance_of(Chains))
    def __init__(
        self,
        classifier: nn.Module,
        event_shape: Shape,
        *,
        classes: int,
        base: DistributionModule | None = None,
        support: Constraint = constraints.real,
        chains: Chains | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        network, given = _OfAllClasses(classifier, classes), _OfOneClass(classifier, classes)
        self.conditional = Energy(given, event_shape, (), base=base, support=support, chains=deepcopy(chains))
        self.marginal = Energy(network, event_shape, base=base, support=support, chains=chains)

    def logits(self, x: Tensor) -> Tensor:
        """The classifier's, ``(*batch, *event_shape)`` to ``(*batch, classes)``."""
        marginal = self.marginal
        batch = batch_shape_of(x, marginal.event_shape, "x")
        rows = marginal.numbers(flatten_batch(x, marginal.event_shape))
        return marginal.network.logits(rows).reshape(*batch, self.classes)

    def label(self, x: Tensor) -> Categorical:
        """The distribution of the label given inputs."""
        return Categorical(logits=self.logits(x))

    def objective(self, *, chains: Chains | None = None, weight: float = 0.03) -> JointDivergence:
        """Minus the log-likelihood of labels given inputs, and by chains that of inputs with a smaller weight.

        Args:
            chains: As for :class:`~pyrogen.energy.contrastive.ContrastiveDivergence`.
            weight: That of the inputs' part: 1 is the joint likelihood, 0 a plain classifier. Each part is at its best
                where the model is the data's distribution, so that no weight moves the optimum of a model that can be;
                but inputs have far more nats than labels, and in the joint likelihood their part takes the network
                first. The default was chosen on images of 64 pixels.
        """
        return JointDivergence(self, chains=chains, weight=weight)


class JointDivergence(ContrastiveDivergence):
    r"""The loss of a classifier and an energy in one: :math:`-\log p(y \mid x)` and the divergence of inputs.

    Args:
        joint: What is trained.
        chains: As for :class:`~pyrogen.energy.contrastive.ContrastiveDivergence`.
        weight: That of the inputs' part.
    """

    unit = "nats of cross-entropy and of energy between data and draws"

    @checked(weight=non_negative, chains=instance_of(Chains))
    def __init__(self, joint: JointEnergy, *, chains: Chains | None = None, weight: float = 0.03) -> None:
        super().__init__(joint.marginal, chains=chains)
        self.joint, self.weight = joint, weight

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        classified = cross_entropy(self.joint.logits(x), labels.long())
        return classified + self.weight * super().forward(x) if self.weight else classified

    def read_data(self, x: Tensor, labels: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        require_labels(labels, self.joint.classes, "labels")
        yield from self.energy.read_data(x)
        yield from self.joint.conditional.read_data(x, labels)
