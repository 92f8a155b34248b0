"""The parts of latent-variable models, as recipes put them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.core.parametric import Parametric
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext, WithContext
from pyrogen.networks.mlp import MLP
from pyrogen.networks.statistics import Chained, Standardizer

from .mixture import MixtureVAE
from .model import VAE
from .priors import Classes as ClassPrior


@dataclass
class Builder:
    """Makes the parts of a latent-variable model, all of which take the context, of dense networks or others.

    Attributes are the arguments of recipes; ``real``: data are real numbers, to be standardized.
    """

    event_shape: Shape
    context_shape: ContextShape
    latent_shape: Shape
    hidden: Sequence[int]
    classes: Classes = None
    embedding: nn.Module | None = None
    real: bool = False

    def __post_init__(self) -> None:
        self.event_shape = as_shape(self.event_shape, "event_shape")
        self.latent_shape = as_shape(self.latent_shape, "latent_shape")

    def vae(
        self,
        likelihood: DistributionModule,
        prior: DistributionModule | None = None,
        posterior: DistributionModule | None = None,
        draws: int = 100,
    ) -> VAE:
        """The variational autoencoder of a likelihood, and of a normal prior and posterior where none is given."""
        prior = StandardNormal(self.latent_shape) if prior is None else prior
        return VAE(prior, likelihood, self.part("x") if posterior is None else posterior, draws=draws)

    def mixture(
        self, prior: DistributionModule, likelihood: DistributionModule, classes: int, draws: int
    ) -> MixtureVAE:
        """The model with a class, whose component has this prior and likelihood."""
        component = VAE(prior, likelihood, self.part("x", classes=classes), draws=1)
        classifier = self.part("x", families.categorical(classes), ())
        return MixtureVAE(ClassPrior(classes), component, classifier, draws=draws)

    def prior(self) -> Parametric:
        """A normal prior that the context moves."""
        context, size = self.context(), prod(families.latent_normal.numbers_shape(self.latent_shape))
        network = Chained(context, MLP(context.size, size, hidden=self.hidden))
        shape = context.context_shape
        return Parametric(network, families.latent_normal, event_shape=self.latent_shape, context_shape=shape)

    def part(
        self,
        given: str,
        family: families.Family = families.latent_normal,
        event_shape: Shape | None = None,
        *,
        classes: int | None = None,
        network: Callable[[int], nn.Module] | None = None,
        prepare: nn.Module | None = None,
        size: int | None = None,
    ) -> Parametric:
        """The distribution of a latent given a datum ``"x"``, or of a datum given a latent ``"z"``, and the context.

        Args:
            given: Which of both it is given.
            family: Its family.
            event_shape: Shape of the event, if it is another than that of the latent or the datum.
            classes: If given, it takes one of so many classes, too, as the entry ``"class"``.
            network: Makes the network, from the size of the vector of all contexts; a dense one if ``None``.
            prepare: What the input goes through first.
            size: How many numbers that makes of it; if given, the input is flattened to vectors.
        """
        x, z = self.event_shape, self.latent_shape
        taken, made, hidden = (x, z, self.hidden) if given == "x" else (z, x, self.hidden[::-1])
        event_shape = made if event_shape is None else event_shape
        contexts = [] if classes is None else [VectorContext({"class": ()}, classes={"class": classes})]
        contexts += [context] if (context := self.context()).context_shape is not None else []
        shapes: dict[str, Shape] = {given: taken}
        for context in contexts:
            own = context.context_shape
            if isinstance(own, dict) and (taken_names := sorted({*shapes, "context"} & set(own))):
                raise ValueError(
                    "`context_shape` must name entries otherwise than the model does its own ('x', 'z', 'class' and "
                    f"'context'), got {taken_names}"
                )
            shapes |= own if isinstance(own, dict) else {"context": own}
        width = sum(context.size for context in contexts)
        if network is None:
            size = prod(taken) if size is None else size
            built = MLP(size + width, prod(family.numbers_shape(event_shape)), hidden=hidden)
        else:
            built = network(width)
        prepare = Standardizer(taken, name="x") if self.real and given == "x" else prepare
        return Parametric(
            WithContext(built, given, contexts, prepare=prepare, size=size),
            family,
            event_shape=event_shape,
            context_shape=shapes if contexts else taken,
        )

    def context(self) -> VectorContext:
        """The context as a vector."""
        return VectorContext(self.context_shape, classes=self.classes, embedding=self.embedding)


def likelihood_of(
    scale: float | None,
    symbols: int | None = None,
    binary: bool = False,
    integers: Callable[[int], families.Family] = families.categorical,
) -> families.Family:
    """The likelihood of data: of integers, of zeros and ones, or of real numbers.

    Args:
        scale: Standard deviation of real numbers; learned if ``None``.
        symbols: How many values integers take.
        binary: Whether data are zeros and ones.
        integers: Makes the family of integers.

    Raises:
        ValueError: more than one of them is given.
    """
    if scale is not None and (symbols is not None or binary):
        raise ValueError(f"`scale` must be None where `{'binary' if binary else 'symbols'}` is given, got {scale}")
    if binary and symbols is not None:
        raise ValueError(f"`symbols` must be None where `binary` is given, got {symbols}")
    if binary:
        return families.bernoulli
    if symbols is not None:
        return integers(symbols)
    return families.diagonal_normal if scale is None else families.normal(scale)
