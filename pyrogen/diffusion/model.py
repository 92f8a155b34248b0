r"""Diffusion models: noise, turned into data step by step.

Data :math:`x` are made noisy along a path :math:`x_t = \alpha_t x + \sigma_t \varepsilon`, :math:`t \in [0, 1]`, until
nearly nothing else is left. A *denoiser* :math:`D(x_t, t) = \mathbb{E}[x \mid x_t]` knows the way back: its reverse
process leads from noise :math:`x_1` to :math:`x_0`, from which one small step leads to a datum. That is a
latent-variable model with infinitely many latents, and the path that made the data noisy is its posterior. Hence a
variational bound,

.. math::
    \log p(x) \ge \mathbb{E}[\log p(x \mid x_0)] - \operatorname{KL}(q(x_1 \mid x) \,\|\, p(x_1))
    - \tfrac{1}{2} \int_{\lambda_1}^{\lambda_0} \mathbb{E} \lVert \varepsilon - \hat\varepsilon(x_t, t) \rVert^2 \,
    d\lambda ,

an integral over the log-SNR of the error of the predicted noise. Only the ends of a schedule matter to it, not the way
between them (Kingma et al. 2021). It is computed as what the denoiser gains over that of a simple *reference*
:math:`r`,

.. math::
    \log p(x) \ge \log r(x) + \tfrac{1}{2} \int_{\lambda_1}^{\lambda_0}
    \mathbb{E} \bigl[ \lVert \varepsilon - \hat\varepsilon_r \rVert^2 - \lVert \varepsilon - \hat\varepsilon \rVert^2
    \bigr] d\lambda ,

which is the same number with less noise (:mod:`~pyrogen.diffusion.reference`). With the *optimal* denoiser it is the
log-density of the data, but for what the integral misses outside of :math:`[\lambda_1, \lambda_0]`.

=================================================  ====================================================================
:math:`x`, :math:`x_t`, :math:`c`                  datum, noisy datum, context
:math:`\alpha_t`, :math:`\sigma_t`                 how much of the datum is left, how much noise there is
:math:`\lambda_t`                                  log-SNR :math:`\log(\alpha_t^2 / \sigma_t^2)`, falling from
                                                   :math:`\lambda_0` to :math:`\lambda_1`
:math:`\varepsilon`, :math:`\hat\varepsilon`       noise, and its posterior mean :math:`(x_t - \alpha_t D) / \sigma_t`
:math:`r`, :math:`\hat\varepsilon_r`               the reference, and its posterior mean of the noise
=================================================  ====================================================================

References:
    Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli 2015, "Deep unsupervised learning using nonequilibrium
    thermodynamics", https://arxiv.org/abs/1503.03585
    Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", https://arxiv.org/abs/2006.11239
    Kingma, Salimans, Poole and Ho 2021, "Variational diffusion models", https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.arguments import integer, seed_or_none
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, batch_shape_of, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.randomness import fixed_noise
from pyrogen.numerics.rows import by_datum, rearranged, spared
from pyrogen.numerics.schedules import LearnedSchedule
from pyrogen.numerics.times import Times, UniformTimes, antithetic, stratified
from pyrogen.numerics.values import require_precision, require_value
from pyrogen.programs.chain import refuse_chain

from .denoiser import Denoiser
from .reference import NormalReference, Reference
from .samplers.multistep import Multistep
from .samplers.sampler import Sampler


class Diffusion(DistributionModule):
    r"""A diffusion model: draws by a sampler, ``log_prob`` a variational bound.

    Each call of ``log_prob`` estimates the bound with fresh noise for every row, without bias, at ``draws`` noise
    levels that are stratified within each row. It is differentiable in the value, the context and the parameters, so
    ``pyro.sample("z", diffusion())`` trains under ``Trace_ELBO``. Where the density of a single point is needed, as
    by NUTS and HMC, which refuse this one, use :class:`~pyrogen.diffusion.probability_flow.ProbabilityFlow` of the same
    denoiser.

    Args:
        denoiser: The posterior mean of a datum given its noisy version.
        sampler: Turns noise into data, ``sampler(denoiser, noise, context)``; a default one if ``None``.
        reference: What events are, and what the bound is measured against; real numbers of unit scale if ``None``.
        draws: How many noise levels ``log_prob`` averages over, all at once.
        times: How the noise levels are drawn. If ``None``, as the reference suggests, or, where the schedule is
            learned, uniformly in its time.
        noise_seed: If given, ``log_prob`` uses the same noise for every row and call, as comparisons need; it is then
            one draw of the bound, and the rows' errors are no longer independent. A Markov chain then samples what is
            proportional to the exponential of that one draw, which is not the density of the model.

    Raises:
        ValueError: ``draws`` is not positive, or ``denoiser`` is none.

    Example:
        >>> from pyro.distributions import Normal
        >>> from pyrogen.diffusion import CosineVP, GaussianMixtureDenoiser
        >>> module = Diffusion(GaussianMixtureDenoiser(Normal(torch.zeros(2), 1.0).to_event(1), CosineVP()))
        >>> module().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    density: Density = "lower bound"

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        sampler: Sampler | None = None,
        reference: Reference | None = None,
        draws: int = 8,
        times: Times | None = None,
        noise_seed: int | None = None,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            raise ValueError(f"`denoiser` must be a Denoiser, got {type(denoiser).__name__}")
        super().__init__(denoiser.event_shape, denoiser.context_shape)
        self.denoiser = denoiser
        self.sampler = Multistep() if sampler is None else sampler
        self.reference = NormalReference() if reference is None else reference
        self.draws = integer(draws, "draws")
        learned = any(True for _ in denoiser.schedule.parameters())
        self.times = (UniformTimes() if learned else self.reference.times()) if times is None else times
        self.noise_seed = seed_or_none(noise_seed, "noise_seed")

    def forward(self, context: Context = None) -> DiffusionDistribution:
        return DiffusionDistribution(self, context, context_batch_shape(context, self.context_shape))

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.denoiser.read_data(context)

    def as_numbers(self, value: Tensor) -> Tensor:
        """Events as floating-point numbers: those that stand for integers in the precision of the denoiser.

        Raises:
            ValueError: events are real numbers of another precision (with validation on).
        """
        if self.reference.support(len(self.event_shape)).is_discrete or not value.is_floating_point():
            return value.to(self.denoiser.like().dtype)
        if torch.distributions.Distribution._validate_args:
            require_precision(value, self.denoiser.parameters())
        return value

    def noise_draw(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Events as floats, uniform numbers stratified over the rows, and noise: one draw for each row."""
        batch = batch_shape_of(x, self.event_shape, "x")
        value = self.as_numbers(x)
        return value, stratified(batch.numel(), (), value).reshape(batch), torch.randn_like(value)

    def objective(self) -> VariationalBound:
        """The default objective, which ``fit`` uses: the variational bound."""
        return VariationalBound(self)


class DiffusionDistribution(PyrogenDistribution):
    """The distribution of a :class:`Diffusion` for one context.

    A row that holds NaN has ``log_prob`` NaN, one that holds an infinity minus infinity (with validation off); neither
    touches the other rows or their gradients.

    Args:
        module: The model.
        context: What it depends on.
        batch_shape: That of the context, possibly expanded.
    """

    density = "lower bound"
    has_denoiser = True

    def __init__(
        self,
        module: Diffusion,
        context: Context,
        batch_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.module = module
        self.context = context
        super().__init__(torch.Size(batch_shape), torch.Size(module.event_shape), validate_args=validate_args)

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser, for methods that follow the diffusion step by step."""
        return self.module.denoiser

    @property
    def support(self) -> constraints.Constraint:
        return self.module.reference.support(len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> DiffusionDistribution:
        return DiffusionDistribution(self.module, self.context, batch_shape, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        like = self.denoiser.like()
        noise = torch.randn(shape, dtype=like.dtype, device=like.device)
        # Samplers scale their noise by sigma_1; what is left of the data there is drawn from the reference.
        last = self.denoiser.schedule(torch.ones_like(like))
        noise = noise + self.module.reference.draw(noise) / last.ratio
        return self.module.reference.decode(self.module.sampler(self.denoiser, noise, self.context))

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        first, again = partial(self._score, value), partial(self._score_rows, value)
        return spared(first, again, Remade(self.module, self.context), noisy=value.device)

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        context = Remade(self.module, self.context).rows(places, batch)
        there = DiffusionDistribution(self.module, context, batch, validate_args=False)
        return there._score(rearranged(value, self.event_shape, batch, places))

    def _score(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(batch_shape_of(value, self.event_shape, "value"), self.batch_shape)
        value = self.module.as_numbers(value).expand(batch + self.event_shape)
        finite = value.isfinite()
        whole = by_datum(finite, len(self.event_shape)).all(-1)
        inside = torch.where(whole.reshape(batch + (1,) * len(self.event_shape)), value, 0.0)
        bound = self.bound(inside, *self._noise(inside, batch)).mean(0)
        missing = by_datum(value.isnan(), len(self.event_shape)).any(-1)
        return torch.where(whole, bound, torch.where(missing, math.nan, -math.inf).to(bound))

    def bound(self, value: Tensor, uniform: Tensor, noise: Tensor) -> Tensor:
        """Draws of the bound, from given noise.

        Args:
            value: Events.
            uniform: Numbers in [0, 1], which become times.
            noise: Standard normal.

        Shape:
            ``value`` ``(*batch, *event)``, ``uniform`` ``(draws, *batch)``, ``noise`` ``(draws, *batch, *event)``; the
            result is ``(draws, *batch)``.

        Raises:
            ValueError: the denoiser changes the shape.
        """
        module, event_dim = self.module, len(self.event_shape)
        x = module.reference.encode(value)
        t, density = module.times(uniform, self.denoiser.schedule)
        path = self.denoiser.path(x, t)
        noisy = path.mix(x, noise)
        predicted = self.denoiser.noise(noisy, t, self.context)
        if predicted.shape != noisy.shape:
            raise ValueError(f"the denoiser must keep the shape {tuple(noisy.shape)}, got {tuple(predicted.shape)}")
        reference = module.reference.noise(noisy, path)
        gain = 0.5 * (predicted - reference) * (2 * noise - reference - predicted)  # half the difference of two squares
        return by_datum(module.reference.log_prob(x), event_dim).sum(-1) + by_datum(gain, event_dim).sum(-1) / density

    def _noise(self, value: Tensor, batch: torch.Size) -> tuple[Tensor, Tensor]:
        draws = self.module.draws
        if self.module.noise_seed is None:
            refuse_chain("a Diffusion", "use ProbabilityFlow of its denoiser, NoiseMCMC or TwistedSMC")
            return stratified(draws, batch, value), antithetic(draws, value.shape, value)
        with fixed_noise(self.module.noise_seed):
            uniform, noise = stratified(draws, (), value), antithetic(draws, self.event_shape, value)
        ones = (1,) * len(batch)
        return (
            uniform.reshape(draws, *ones).expand(draws, *batch),
            noise.reshape(draws, *ones, *self.event_shape).expand(draws, *value.shape),
        )


class VariationalBound(Objective):
    r"""Minus the variational bound, in nats per datum, with noise levels stratified over the minibatch.

    The bound does not depend on how a schedule goes from its first to its last log-SNR; the variance of its estimate
    does. So the shape of a :class:`~pyrogen.numerics.schedules.LearnedSchedule` descends the variance of the
    estimate, while its ends and the denoiser descend the bound (Kingma et al. 2021, appendix H).

    Args:
        diffusion: What is fitted.

    References:
        Kingma, Salimans, Poole and Ho 2021, "Variational diffusion models", https://arxiv.org/abs/2107.00630
    """

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        distribution = self.diffusion(context)
        bound = distribution.bound(*self.diffusion.noise_draw(x))
        schedule = self.diffusion.denoiser.schedule
        loss = -bound.mean()
        if isinstance(schedule, LearnedSchedule) and bound.requires_grad and schedule.log_rate.requires_grad:
            variance = (bound - bound.detach().mean()).square().mean()
            loss = _with_gradient(loss, variance, schedule.log_rate)
        return loss

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.diffusion.read_data(x, context)


def _with_gradient(loss: Tensor, other: Tensor, parameter: Tensor) -> Tensor:
    """The loss, with the gradient of another one in place of its own for a parameter."""
    (wanted,) = torch.autograd.grad(other - loss, parameter, retain_graph=True)
    return loss + ((parameter - parameter.detach()) * wanted).sum()
