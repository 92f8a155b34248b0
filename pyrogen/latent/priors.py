r"""Priors: where latent variables come from.

The bound draws the posteriors, averaged over the data, towards the prior. The better prior is therefore one that can
be like them: a mixture, or the *VampPrior*, whose components are posteriors themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, several
from pyrogen.core.module import DistributionModule
from pyrogen.core.parts import merged_context_shape, taken
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.assembled import Assembled
from pyrogen.distributions.families import bounded
from pyrogen.distributions.mixture import Mixture
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.networks.statistics import Statistic, require_labels


class MixturePrior(DistributionModule):
    r"""A learned mixture of diagonal normals, :math:`\sum_k \pi_k \, \mathcal{N}(z; \mu_k, \sigma_k^2)`.

    Args:
        event_shape: Shape of one latent.
        components: How many normals.
        spread: Standard deviation of their means at the start.

    Raises:
        ValueError: there is no component.

    References:
        Dilokthanakul et al. 2016, "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
        https://arxiv.org/abs/1611.02648

    Example:
        >>> MixturePrior((3,), components=4)().sample((5,)).shape
        torch.Size([5, 3])
    """

    @checked
    def __init__(self, event_shape: Shape, *, components: int, spread: float = 1.0) -> None:
        super().__init__(event_shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, *self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(components, *self.event_shape))

    def forward(self, context: Context = None) -> Assembled:
        return Assembled(_mixture, self.logits, self.loc, self.log_scale)


class Classes(DistributionModule):
    """Probabilities of classes, learned, equal at the start.

    Args:
        classes: How many there are.

    Raises:
        ValueError: there are fewer than two classes.

    Example:
        >>> Classes(4)().probs
        tensor([0.2500, 0.2500, 0.2500, 0.2500], grad_fn=<SoftmaxBackward0>)
    """

    @checked(classes=several)
    def __init__(self, classes: int) -> None:
        super().__init__(())
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, context: Context = None) -> dist.Categorical:
        return dist.Categorical(logits=self.logits)


class ClassNormal(DistributionModule):
    r"""A diagonal normal for each class, :math:`\mathcal{N}(\mu_y, \sigma_y^2)`, given the class :math:`y`.

    Args:
        event_shape: Shape of one latent.
        classes: How many classes there are.
        entry: If given, the context is a dict in which the class has this name; else it is the class itself.
        spread: Standard deviation of the means at the start.

    Example:
        >>> ClassNormal((3,), classes=4)(torch.tensor([0, 3])).sample().shape
        torch.Size([2, 3])
    """

    @checked(classes=several)
    def __init__(self, event_shape: Shape, *, classes: int, entry: str | None = None, spread: float = 1.0) -> None:
        super().__init__(event_shape, () if entry is None else {entry: ()})
        self.entry, self._name = entry, "context" if entry is None else f"context[{entry!r}]"
        self.loc = nn.Parameter(spread * torch.randn(classes, *self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(classes, *self.event_shape))

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        label = context if self.entry is None else (context or {}).get(self.entry)
        if label is not None:
            require_labels(label, len(self.loc), self._name)
        return iter(())

    def forward(self, context: Context = None) -> DiagonalNormal:
        label = context if self.entry is None else context[self.entry]
        if torch.distributions.Distribution._validate_args:
            require_labels(label, len(self.loc), self._name)
        loc, log_scale = (self._of(label.long(), table) for table in (self.loc, self.log_scale))
        return DiagonalNormal(loc, bounded(log_scale), len(self.event_shape))

    def _of(self, label: Tensor, table: Tensor) -> Tensor:
        """The entries of labels; ``table[label]`` reads a single label as a number, which `torch.vmap` refuses."""
        return nn.functional.embedding(label, table.flatten(1)).reshape(label.shape + self.event_shape)


class VampPrior(DistributionModule):
    r"""The mixture of the posteriors of pseudo-data: :math:`p(z) = \frac1K \sum_k q(z \mid u_k)`.

    The best prior for a posterior is its average over the data, which is too large a mixture to evaluate; this one puts
    :math:`K` learned *pseudo-data* in their place. It shares the posterior's network: hand the same module to
    :class:`~pyrogen.latent.model.VAE` as its posterior. Its density is as exact as the posterior's.

    Args:
        posterior: :math:`q(z \mid x)`, or :math:`q(z \mid x, c)`: the prior then has a context, too.
        pseudo_data: Where the :math:`u_k` start, ``(K, *data)``, of real numbers: a few of the data, say.

    Raises:
        ValueError: ``pseudo_data`` do not fit the posterior, or hold none.

    References:
        Tomczak and Welling 2018, "VAE with a VampPrior", https://arxiv.org/abs/1705.07120

    Example:
        >>> from pyrogen.latent import VAE, binary_vae
        >>> plain = binary_vae((8,), latent_shape=(2,), hidden=(16,))
        >>> prior = VampPrior(plain.posterior, torch.rand(10, 8))
        >>> module = VAE(prior, plain.likelihood, plain.posterior)
        >>> module().sample((5,)).shape
        torch.Size([5, 8])
    """

    def __init__(self, posterior: DistributionModule, pseudo_data: Tensor) -> None:
        super().__init__(posterior.event_shape, merged_context_shape(("posterior", posterior, "x")))
        shape = taken(posterior, "x")
        if shape is None:
            raise ValueError(f'`posterior` must take a datum, "x", got context shape {posterior.context_shape}')
        if not len(pseudo_data) or pseudo_data.shape[1:] != shape or not pseudo_data.is_floating_point():
            raise ValueError(
                f"`pseudo_data` must be real numbers of shape (K, *{tuple(shape)}), got {tuple(pseudo_data.shape)} of "
                f"{pseudo_data.dtype}"
            )
        self.density = posterior.density
        self.posterior = posterior
        self.pseudo_data = nn.Parameter(pseudo_data.detach().clone())

    def forward(self, context: Context = None) -> Mixture:
        posterior = self.posterior(self._given(context))
        weights = self.pseudo_data.new_zeros(posterior.batch_shape)
        return Mixture(dist.Categorical(logits=weights, validate_args=False), posterior, validate_args=False)

    def start_from(self, x: Tensor) -> None:
        """Takes data for pseudo-data, as many as there are, drawn without replacement.

        Raises:
            ValueError: there are fewer data than pseudo-data.
        """
        count = len(self.pseudo_data)
        if len(x) < count:
            raise ValueError(f"`x` must hold at least {count} data, got {len(x)}")
        with torch.no_grad():
            self.pseudo_data.copy_(x[torch.randperm(len(x), device=x.device)[:count]])

    def _given(self, context: Context) -> Context:
        """What the posterior is given: the pseudo-data, along a batch dimension to the right of the context's."""
        if not isinstance(self.posterior.context_shape, dict):
            return self.pseudo_data
        entries = context if isinstance(context, dict) else {"context": context}
        return {
            key: self.pseudo_data if key == "x" else entries[key].unsqueeze(-len(shape) - 1)
            for key, shape in self.posterior.context_shape.items()
        }


def _mixture(logits: Tensor, loc: Tensor, log_scale: Tensor) -> Mixture:
    normals = DiagonalNormal(loc, bounded(log_scale), loc.dim() - 1, validate_args=False)
    return Mixture(dist.Categorical(logits=logits, validate_args=False), normals, validate_args=False)
