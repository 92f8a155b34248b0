r"""Vector quantization: a latent that is one of few vectors at each position.

A latent :math:`z` is a grid of vectors out of a *codebook* :math:`e_1, \dots, e_K`. The posterior is a point mass: the
encoder's vectors, each replaced by the nearest of the codebook, :math:`z(x)`. The bound that holds for every posterior
needs no draws here:

.. math:: \log p(x) \ge \log p(x \mid z(x)) + \log p(z(x)) .

The prior is any distribution over grids of codes (integers): a table, or an autoregressive model. Latents carry the
encoder's gradient past the quantization (*straight through*), so the pair trains by any ELBO; :class:`QuantizedElbo`
adds the commitment of the encoder to its codes, and lets the codebook follow the vectors it replaces.

References:
    van den Oord, Vinyals and Kavukcuoglu 2017, "Neural discrete representation learning",
    https://arxiv.org/abs/1711.00937
    Razavi, van den Oord and Vinyals 2019, "Generating diverse high-fidelity images with VQ-VAE-2",
    https://arxiv.org/abs/1906.00446
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked, share
from pyrogen.core.density import Density, density_of
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.parametric import Parametric
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.distributions.independent import as_event
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.values import require_value

from .model import VAE, VAEObjective


class Codebook(nn.Module):
    """Vectors to choose from, and the family of point masses at them.

    As a family it makes, of an encoder's vectors, the distribution that is sure of the nearest ones.

    Args:
        codes: How many vectors there are.
        width: Their size.
        decay: How slowly the averages that they follow forget, for each step of training.

    Raises:
        ValueError: there are fewer than two codes, or ``decay`` is not between 0 and 1.

    Shape:
        Events are ``(width, *positions)``, codes ``(*positions)``.
    """

    @checked(decay=share)
    def __init__(self, codes: int, width: int, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("vectors", torch.randn(codes, width))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    def __len__(self) -> int:
        return len(self.vectors)

    def numbers_shape(self, event_shape: Shape) -> Shape:
        """The shape of the encoder's vectors for one event: its own."""
        return event_shape

    def forward(self, numbers: Tensor, event_dim: int) -> Quantized:
        """The point mass at the vectors nearest to ``(*batch, *event)``."""
        return Quantized(self, numbers, event_dim)

    def embed(self, codes: Tensor, dim: int) -> Tensor:
        """The vectors of codes, along a new dimension ``dim`` (negative: counted in the result)."""
        return nn.functional.embedding(codes.long(), self.vectors).movedim(-1, dim)

    def nearest(self, numbers: Tensor, dim: int) -> Tensor:
        """The codes of the vectors nearest to those that lie along ``dim``."""
        vectors = numbers.movedim(dim, -1)
        return (self.vectors.square().sum(-1) - 2 * vectors @ self.vectors.t()).argmin(-1)

    @torch.no_grad()
    def follow(self, numbers: Tensor, dim: int) -> None:
        """Moves each vector towards the average of those it replaces; dead codes start anew at some of them.

        A code is dead if it replaces less than a hundredth of an even share.
        """
        vectors, codes = numbers.movedim(dim, -1).flatten(0, -2), self.nearest(numbers, dim).flatten()
        if not len(vectors):
            return
        chosen = nn.functional.one_hot(codes, len(self)).to(vectors.dtype)
        decay = torch.where(self.counts.any(), self.decay, 0.0)
        counts = decay * self.counts + (1 - decay) * chosen.sum(0)
        sums = decay * self.sums + (1 - decay) * chosen.t() @ vectors
        share = counts.mean()
        dead = counts < 0.01 * share
        anew = vectors[torch.randint(len(vectors), (len(self),), device=vectors.device)]
        self.counts.copy_(torch.where(dead, share, counts))
        self.sums.copy_(torch.where(dead[:, None], share * anew, sums))
        self.vectors.copy_(self.sums / self.counts[:, None])


class Quantized(PyrogenDistribution):
    """The point mass at the vectors of a codebook nearest to those of an encoder.

    Draws are the codebook's vectors; their gradient is the encoder's, as if nothing had been replaced.

    Args:
        codebook: The vectors to choose from.
        numbers: The encoder's, ``(*batch, width, *positions)``.
        event_dim: How many rightmost dimensions make one event.
    """

    has_rsample = True

    def __init__(
        self, codebook: Codebook, numbers: Tensor, event_dim: int, *, validate_args: bool | None = None
    ) -> None:
        self.codebook, self.numbers = codebook, numbers
        cut = numbers.dim() - event_dim
        super().__init__(numbers.shape[:cut], numbers.shape[cut:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def codes(self) -> Tensor:
        """Which vectors are chosen, ``(*batch, *positions)``."""
        return self.codebook.nearest(self.numbers, -len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The chosen vectors; the gradient passes straight through to the encoder."""
        chosen = self.codebook.embed(self.codes, -len(self.event_shape))
        return chosen + (self.numbers - self.numbers.detach())

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.numbers)

    def _expanded(self, batch_shape: torch.Size) -> Quantized:
        numbers = self.numbers.expand(batch_shape + self.event_shape)
        return Quantized(self.codebook, numbers, len(self.event_shape), validate_args=False)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.mean.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        same = (value == self.mean).flatten(-len(self.event_shape)).all(-1)
        return torch.where(same, 0.0, -torch.inf).to(value.dtype)


class CodePrior(DistributionModule):
    """A distribution over grids of codes as one over grids of the codebook's vectors.

    Args:
        codes: The distribution over integers ``(*positions)``.
        codebook: Whose vectors they are.

    Raises:
        ValueError: ``codes`` is no DistributionModule.
    """

    def __init__(self, codes: DistributionModule, codebook: Codebook) -> None:
        check_part(codes, "prior")
        super().__init__((codebook.vectors.shape[1], *codes.event_shape), codes.context_shape)
        self.codes, self.codebook = codes, codebook

    @property
    def density(self) -> Density:
        """That of the distribution over codes."""
        return self.codes.density

    def forward(self, context: Context = None) -> Embedded:
        return Embedded(self.codes(context), self.codebook)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.codes.read_context(context)


class Embedded(PyrogenDistribution):
    """A distribution over codes, as one over their vectors.

    Args:
        codes: The distribution over integers, with events ``(*positions)``.
        codebook: Whose vectors they are.
    """

    def __init__(self, codes: TorchDistributionMixin, codebook: Codebook, *, validate_args: bool | None = None) -> None:
        self.codes, self.codebook = codes, codebook
        shape = torch.Size((codebook.vectors.shape[1], *codes.event_shape))
        super().__init__(codes.batch_shape, shape, validate_args=validate_args)

    @property
    def density(self) -> Density:
        """That of the distribution over codes."""
        return density_of(self.codes)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> Embedded:
        return Embedded(self.codes.expand(batch_shape), self.codebook, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.codebook.embed(self.codes.sample(torch.Size(sample_shape)), -len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        dim = -len(self.event_shape)
        codes = self.codebook.nearest(value, dim)
        distance = (self.codebook.embed(codes, dim) - value).abs().flatten(dim).amax(-1)
        log_prob = self.codes.log_prob(codes)
        return torch.where(distance < 1e-5 * (1 + self.codebook.vectors.abs().max()), log_prob, -torch.inf)


class CodeTable(DistributionModule):
    """Independent codes, with learned probabilities at each position; even at the start.

    Args:
        event_shape: Positions of the codes.
        codes: How many codes there are.

    Example:
        >>> CodeTable((2, 2), codes=5)().sample((3,)).shape
        torch.Size([3, 2, 2])
    """

    @checked
    def __init__(self, event_shape: Shape, codes: int) -> None:
        super().__init__(event_shape)
        self.logits = nn.Parameter(torch.zeros(*self.event_shape, codes))

    def forward(self, context: Context = None) -> TorchDistributionMixin:
        return as_event(dist.Categorical(logits=self.logits), len(self.event_shape))


class VQVAE(VAE):
    """A variational autoencoder with vector-quantized latents; see :mod:`pyrogen.latent.quantized`.

    Args:
        prior: The distribution over codes, of shape ``(*positions)``: a :class:`CodeTable`, or an autoregressive model
            over as many symbols as there are codes.
        likelihood: Takes latents ``(width, *positions)``.
        posterior: A ``Parametric`` whose family is the :class:`Codebook`, of event shape ``(width, *positions)``.
        commitment: Weight of the squared distance between the encoder's vectors and the chosen ones in training.

    Raises:
        ValueError: the posterior's family is no codebook, ``commitment`` is negative, or shapes do not fit.
    """

    @checked
    def __init__(
        self,
        prior: DistributionModule,
        likelihood: DistributionModule,
        posterior: Parametric,
        *,
        commitment: float = 0.25,
    ) -> None:
        codebook = posterior.family if isinstance(posterior, Parametric) else posterior
        if not isinstance(codebook, Codebook):
            raise ValueError(f"`posterior` must have a Codebook as its family, got {type(codebook).__name__}")
        super().__init__(CodePrior(prior, codebook), likelihood, posterior, draws=1)
        self.commitment = commitment

    @property
    def codebook(self) -> Codebook:
        """The vectors that latents are made of."""
        return self.posterior.family

    def codes(self, x: Tensor, context: Context = None) -> Tensor:
        """The codes of data, ``(*batch, *positions)``."""
        return self.posterior_at(x, context).codes

    def usage(self, x: Tensor, context: Context = None) -> CodeUsage:
        """How many codes the data need."""
        with torch.no_grad():
            return CodeUsage.of(self.codes(x, context), len(self.codebook))

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: the bound, commitment, and a codebook that follows."""
        return QuantizedElbo(self, commitment=self.commitment)


class QuantizedElbo(VAEObjective):
    r"""Minus the bound, plus the commitment of the encoder: :math:`\beta \lVert h(x) - z(x) \rVert^2`.

    :math:`h(x)` are the encoder's vectors. In training the codebook follows them by moving averages.

    Args:
        vae: A vector-quantized VAE.
        commitment: :math:`\beta`.
    """

    def __init__(self, vae: VQVAE, *, commitment: float = 0.25) -> None:
        super().__init__(vae)
        self.commitment = commitment

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        posterior = self.vae.posterior_at(x, context)
        dim = -len(posterior.event_shape)
        if self.training:
            self.vae.codebook.follow(posterior.numbers.detach(), dim)
        z = posterior.rsample()
        log_likelihood = self.vae.likelihood_at(z, context).log_prob(x)
        log_prior = self.vae.prior_at(context).log_prob(z.detach())
        distance = (posterior.numbers - z.detach()).square().flatten(dim).sum(-1)
        return (self.commitment * distance - log_likelihood - log_prior).mean()


@dataclass(frozen=True)
class CodeUsage:
    """How evenly a codebook is used.

    Args:
        counts: How often each code was chosen.
    """

    counts: Tensor

    @classmethod
    def of(cls, codes: Tensor, size: int) -> CodeUsage:
        """The usage of a codebook of so many codes."""
        return cls(torch.bincount(codes.flatten(), minlength=size))

    @property
    def used(self) -> int:
        """How many codes were chosen at all."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """The exponential of the entropy of the codes: how many even ones would be as rich."""
        return float(torch.distributions.Categorical(self.counts.double()).entropy().exp())

    def __str__(self) -> str:
        return f"{self.used} of {len(self.counts)} codes used, perplexity {self.perplexity:.1f}"
