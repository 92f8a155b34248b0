"""Each check of the contract catches a defect planted for it, and passes the sound module the defect was planted in."""

import os
from functools import partial

import pyro
import pytest
import torch
from pyro.distributions import Independent, TorchDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from sound_modules import Bell, SoundBijection, SoundDistribution, SoundObjective, SoundTransform
from torch import nn
from torch.distributions import Distribution, constraints, register_kl

from pyrogen.core.module import DistributionModule, MaximumLikelihood
from pyrogen.core.objective import Elbo
from pyrogen.core.parametric import Parametric
from pyrogen.distributions import families
from pyrogen.networks.statistics import Standardizer
from pyrogen.testing import check_bijection, check_distribution, check_objective
from pyrogen.testing.contract import BIJECTION_CHECKS, DISTRIBUTION_CHECKS, OBJECTIVE_CHECKS, isolated

CONTEXT = torch.linspace(-1, 1, 15).reshape(5, 3)
BATCH = (torch.linspace(-1, 1, 60).reshape(20, 3),)


def of(kind, size=2):
    """A sound module around a defective distribution."""
    return partial(SoundDistribution, kind, size)


class TorchOnly(SoundDistribution):
    def forward(self, context=None):
        loc, log_scale = self.numbers(context).chunk(2, -1)
        return torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.exp()), 1)


class OtherDensity(SoundDistribution):
    class Estimated(Bell):
        density = "estimate"

    def __init__(self):
        super().__init__(self.Estimated)  # and the module says nothing


class ForgetsOrigins(SoundDistribution):
    def __call__(self, context=None):
        return self.kind(*self.numbers(torch.tensor(context.tolist(), dtype=context.dtype)).chunk(2, -1))


class OtherKeyword(SoundDistribution):
    class View(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x=None, given=None, size=None):
            return self.module(x, given, size)

    @property
    def model(self):
        return self.View(super().model)

    @property
    def guide(self):
        return self.View(super().guide)


class LosesItsDensity(SoundDistribution):
    class Own(Bell):
        def __init__(self, *numbers):
            super().__init__(*numbers)
            self.density = "estimate"

        def expand(self, batch_shape, _instance=None):
            shape = torch.Size(batch_shape) + self.event_shape
            return Bell(self.loc.expand(shape), self.log_scale.expand(shape))

    density = "estimate"

    def __init__(self):
        super().__init__(self.Own)


class Noisy(Bell):
    density = "estimate"

    def log_prob(self, value):
        score = super().log_prob(value)
        return score + 0.3 * torch.randn_like(score)


class UnnoticedNoise(SoundDistribution):
    density = "estimate"

    def __init__(self):
        super().__init__(Noisy)

    def __call__(self, context=None):
        return nn.Module.__call__(self, context)


class Unsummed(Bell):
    def log_prob(self, value):
        return self.scores(value)


class MutatingExpand(Bell):
    def expand(self, batch_shape, _instance=None):
        self.loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        self._batch_shape = torch.Size(batch_shape)
        return self


class PyrosOwnExpand(Bell):  # ExpandedDistribution.expand changes itself and has a tuple for a batch_shape
    def expand(self, batch_shape, _instance=None):
        return ExpandedDistribution(self, batch_shape)


class ShrinkingExpand(Bell):  # keeps its parameters as they are, whatever they are expanded to
    def expand(self, batch_shape, _instance=None):
        expanded = type(self)(self.loc, self.log_scale)
        expanded._batch_shape = torch.Size(batch_shape)
        return expanded


class Margin(Bell):
    """A unit interval whose draws reach a little beyond, more so the larger the context."""

    reach = 0.05

    @property
    def support(self):
        return constraints.independent(constraints.unit_interval, 1)

    def rsample(self, sample_shape=()):
        return (1 + 2 * self.reach) * super().rsample(sample_shape).sigmoid() - self.reach


class MarginFarAway(SoundDistribution):
    def forward(self, context=None):
        made = Margin(*self.numbers(context).chunk(2, -1))
        made.reach = 0.05 if context.abs().max() > 5 else 0.0
        return made


class HiddenNan(Bell):  # zero times NaN, once more
    def log_prob(self, value):
        return self.scores(value).sum(-1)


class FlatteningScore(Bell):
    def log_prob(self, value):
        return super().log_prob(value.reshape(self.loc.shape))


class NoSupport(Bell):
    @property
    def support(self):
        raise NotImplementedError


class WrongSupport(Bell):
    @property
    def support(self):
        return constraints.independent(constraints.positive, 1)


class Unvalidated(Bell):
    def _validate_sample(self, value):
        pass


class AnyContext(SoundDistribution):
    def __call__(self, context=None):
        context = torch.zeros(2, 3) if context is None else context[..., :3]
        return super().__call__(context)


class NamelessError(SoundDistribution):
    def __call__(self, context=None):
        try:
            return super().__call__(context)
        except ValueError:
            raise ValueError("wrong shape") from None


class BatchNormalized(Bell):
    def scores(self, value):
        return super().scores(value) + 0.1 * value.mean(0)


class Unguarded(Bell):  # zero times NaN is NaN in the backward pass
    def log_prob(self, value):
        return self.scores(value).sum(-1)


class Asserting(Bell):
    def log_prob(self, value):
        if not value.isfinite().all():
            raise ValueError("bad values")
        return super().log_prob(value)


class GuardsWholeRows(Bell):
    def log_prob(self, value):
        lost = (~value.isfinite()).all(-1)
        scores = self.scores(torch.where(lost[..., None], 0.0, value)).sum(-1)
        return torch.where(lost, torch.nan, scores)


class KeepsWhatItComputed(DistributionModule):
    def __init__(self):
        super().__init__(event_shape=(2,))
        self.raw = nn.Parameter(torch.zeros(2))

    def forward(self, context=None):
        return Bell(self.raw.exp(), self.raw)


class CopiesAnother(Bell):
    def __deepcopy__(self, memo):
        return type(self)(self.loc.detach() + 1, self.log_scale.detach())


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return torch.mm(gradient, weight.T), torch.mm(x.T, gradient)


class UncastBackward(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def numbers(self, context):
        return Product.apply(self.network(context).reshape(-1, 4).to(self.weight), self.weight).reshape(
            *context.shape[:-1], 4
        )


class Reshaping(Bell):
    def log_prob(self, value):
        scores = self.scores(value)
        return scores.reshape(*scores.shape[:-1], -1).sum(-1)


class DataDependentPath(Bell):
    def scores(self, value):
        return super().scores(value.abs() if (value > 50).any() else value)


class MissingConstant(Bell):
    def scores(self, value):
        return -0.5 * ((value - self.loc) * (-self.log_scale).exp()) ** 2 - self.log_scale


class SlightlyWrongConstant(Bell):
    def scores(self, value):
        return super().scores(value) + 0.02


class TooNarrow(Bell):
    def noise(self, sample_shape):
        return 0.8 * super().noise(sample_shape)


class Shifted(Bell):
    def noise(self, sample_shape):
        return super().noise(sample_shape) + 0.25


class Correlated(Bell):
    def noise(self, sample_shape):
        noise = super().noise(sample_shape)
        return torch.cat([0.8 * noise[..., :1] + 0.6 * noise[..., 1:2], noise[..., 1:]], -1)


class UnnormalizedBits(Independent):
    def log_prob(self, value):
        return super().log_prob(value) + 0.2


class InvertedBits(Independent):
    def sample(self, sample_shape=()):
        return 1 - super().sample(sample_shape)


class Bits(Parametric):
    def __init__(self, kind, size):
        super().__init__(nn.Linear(3, size), families.bernoulli, event_shape=(size,), context_shape=(3,))
        self.kind = kind

    def forward(self, context=None):
        return self.kind(super().forward(context).base_dist, 1)


class SampleWithGradient(Bell):
    def sample(self, sample_shape=()):
        return self.rsample(sample_shape)


class DetachedScale(Bell):
    def rsample(self, sample_shape=()):
        return self.loc + self.log_scale.detach().exp() * self.noise(sample_shape)


class NoReparameterization(Bell):
    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).detach()


class ForgottenScale(Bell):
    def rsample_and_log_prob(self, sample_shape=()):
        value, log_prob = super().rsample_and_log_prob(sample_shape)
        return value, log_prob + self.log_scale.sum(-1)


class DetachedJointScore(Bell):
    def rsample_and_log_prob(self, sample_shape=()):
        value = self.rsample(sample_shape)
        return value, self.log_prob(value.detach())


class CarelessMemory(Bell):
    last = last_score = None

    def sample(self, sample_shape=()):
        value = super().sample(sample_shape)
        self.last_score = self.log_prob(value)
        self.last = value
        return value

    def log_prob(self, value):
        return self.last_score if value is self.last else super().log_prob(value)


class SharedNoise(Bell):
    def noise(self, sample_shape):
        return torch.randn(*sample_shape, *(1 for _ in self.batch_shape), *self.event_shape, dtype=self.loc.dtype)


class PartlySharedNoise(Bell):
    def noise(self, sample_shape):
        noise = super().noise(sample_shape)
        shared = torch.randn(*sample_shape, *(1 for _ in self.batch_shape), *self.event_shape, dtype=self.loc.dtype)
        return 0.8 * noise + 0.6 * shared


class AttributeErrorMean(Bell):
    @property
    def mean(self):
        return self.nothing

    def __getattr__(self, name):
        raise AttributeError(name)


class WrongMean(Bell):
    @property
    def mean(self):
        return self.loc + 0.3


class DetachedValue(Bell):
    def scores(self, value):
        return super().scores(0.5 * (value + value.detach()))


class DetachedContext(SoundDistribution):
    def numbers(self, context):
        return self.network(0.5 * (context + context.detach()))


class HalfDetachedParameters(SoundDistribution):
    def numbers(self, context):
        numbers = self.network(context)
        return torch.cat([numbers[..., :1], numbers[..., 1:].detach() * 0.5 + 0.5 * numbers[..., 1:]], -1)


class UnusedParameter(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(2))


class DeadParameter(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.dead = nn.Parameter(torch.zeros(4))

    def numbers(self, context):
        return super().numbers(context) + 0.0 * self.dead


class HiddenParameter(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.hidden = [torch.zeros(4, requires_grad=True)]

    def numbers(self, context):
        return super().numbers(context) + self.hidden[0]


class StaleCache(SoundDistribution):
    """Pyro's cache of one: the last value and its score live on the module."""

    def __init__(self):
        super().__init__()
        self.cache = (None, None)

    def forward(self, context=None):
        made, module = super().forward(context), self

        class Cached(Bell):
            def log_prob(self, value):
                if module.cache[0] is not value:
                    module.cache = (value, super().log_prob(value))
                return module.cache[1]

        return Cached(made.loc, made.log_scale)


class LostGradient(SoundDistribution):
    """Notices changed parameters, but remembers scores taken without gradients."""

    def __init__(self):
        super().__init__()
        self.cache = (None, None, None)

    def forward(self, context=None):
        made, module = super().forward(context), self

        class Cached(Bell):
            def log_prob(self, value):
                versions = [parameter._version for parameter in module.parameters()]
                if module.cache[0] is not value or module.cache[1] != (versions, value._version):
                    module.cache = (value, (versions, value._version), super().log_prob(value))
                return module.cache[2]

        return Cached(made.loc, made.log_scale)


class DropoutInEvaluation(SoundDistribution):
    def numbers(self, context):
        return self.network(nn.functional.dropout(context, 0.5, training=True))


class RunningStatistics(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def numbers(self, context):
        self.calls += 1
        return super().numbers(context)


class SwitchesValidationOff(SoundDistribution):
    def __init__(self):
        super().__init__()
        Distribution.set_default_validate_args(False)


class SeedsGlobally(SoundDistribution):
    def numbers(self, context):
        torch.manual_seed(0)
        return super().numbers(context)


class RemembersGraph(SoundDistribution):
    def numbers(self, context):
        self.last = super().numbers(context)
        return self.last


class SharesOnCopy(SoundDistribution):
    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.network = self.network
        return twin.train(self.training)


class HoldsLambda(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.activation = lambda x: x


class PlainPermutation(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.shift = torch.randn(4).tolist()

    def numbers(self, context):
        return super().numbers(context) + torch.tensor(self.shift, dtype=context.dtype)


class ForgetsInitialization(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(4))
        self.initialized = False

    def numbers(self, context):
        if self.training and not self.initialized:
            self.initialized = True
            with torch.no_grad():
                self.offset.fill_(0.1)
        return super().numbers(context) + self.offset


class LearnsFromScoring(SoundDistribution):
    """Centres by the first batch that is scored in training, in a buffer, or in an attribute that nobody sees."""

    hidden = False

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))
        self.waiting = True

    def numbers(self, context):
        if self.training and self.waiting:
            self.waiting = False
            if self.hidden:
                self.centre = self.centre.clone()
                self.shown = context.detach().mean(0)
            else:
                self.centre.copy_(context.detach().mean(0))
        return super().numbers(context - (self.shown if self.hidden and not self.waiting else self.centre))


class LearnsUnseen(LearnsFromScoring):
    hidden = True


class LearnsFromTheFirstMinibatch(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.centre = Standardizer((3,))
        self.first = True

    def numbers(self, context):
        return super().numbers(self.centre(context))

    def read_data(self, x, context=None):
        if self.first:
            yield from self.centre.read_data(context)
        self.first = False


class Overflows(SoundDistribution):
    def numbers(self, context):
        return super().numbers(context) + 100 * context.exp()[:, :1] ** 2


class FloatConstant(Bell):
    def scores(self, value):
        return super().scores(value @ torch.eye(self.event_shape[0]))


class CastsDown(Bell):
    def log_prob(self, value):
        return super().log_prob(value).float()


class HiddenOnCpu(SoundDistribution):
    def __init__(self):
        super().__init__()
        self.constant = torch.ones(4)

    def numbers(self, context):
        return super().numbers(context) + self.constant


class OneNoiseForAllParticles(Bell):
    def noise(self, sample_shape):
        return torch.randn(self.loc.shape[-2:], dtype=self.loc.dtype).expand(self.shape(torch.Size(sample_shape)))


class UnscaledModel(SoundDistribution):
    @property
    def model(self):
        def model(x=None, context=None, size=None):
            with pyro.plate("data", len(context)):
                return pyro.sample("x", self(context), obs=x)

        return model


class ScaledByHand(SoundDistribution):  # nats per datum know nothing of such a scale
    @property
    def model(self):
        def model(x=None, context=None, size=None):
            rows = len(context)
            with pyro.plate("data", rows), pyro.poutine.scale(scale=(size or rows) / rows):
                return pyro.sample("x", self(context), obs=x)

        return model


class UnscaledGuide(SoundDistribution):
    @property
    def guide(self):
        def guide(x=None, context=None, size=None):
            with pyro.plate("data", len(context)):
                pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

        return guide


class Unmaskable(Bell):
    def mask(self, mask):
        return self


class CallOnly(TorchDistribution):
    """What Pyro's bridge to another library gives: no sample, no rsample."""

    arg_constraints = {}
    support = constraints.real_vector

    def __init__(self, loc, log_scale):
        self.bell = Bell(loc, log_scale)
        super().__init__(self.bell.batch_shape, self.bell.event_shape)

    def __call__(self, sample_shape=()):
        return self.bell.rsample(sample_shape)

    def expand(self, batch_shape, _instance=None):
        bell = self.bell.expand(batch_shape)
        return CallOnly(bell.loc, bell.log_scale)

    def log_prob(self, value):
        return self.bell.log_prob(value)


class ConstantToAutograd(Bell):
    def log_prob(self, value):
        with torch.no_grad():
            return super().log_prob(value)


class Unlisted(SoundDistribution):
    def __call__(self, context=None):
        return nn.Module.__call__(self, context)


class BreakingKl(Bell):
    pass


@register_kl(BreakingKl, BreakingKl)
def _breaking_kl(q, p):
    raise ValueError("not for you")


class OneNameForAll(SoundDistribution):
    def __init__(self):
        super().__init__()
        self._instance = SameName()


class SameName:
    name = "flow"


class VectorObjective(SoundDistribution):
    def objective(self):
        objective = MaximumLikelihood(self)
        objective.forward = lambda x, context: -self(context).log_prob(x)
        return objective


DISTRIBUTION_DEFECTS = [
    ("declaration", TorchOnly),
    ("declaration", OtherDensity),
    ("sample_shapes", of(Unsummed)),
    ("expand", of(MutatingExpand)),
    ("expand", of(PyrosOwnExpand)),
    ("shrinking_expand", of(ShrinkingExpand)),
    ("broadcasting", of(FlatteningScore)),
    ("support", of(NoSupport)),
    ("support", of(WrongSupport)),
    ("draws_inside", of(Margin)),
    ("draws_inside", MarginFarAway),
    ("wrong_value", of(Unvalidated)),
    ("wrong_context", AnyContext),
    ("wrong_context", NamelessError),
    ("batch_invariance", of(BatchNormalized)),
    ("bad_row", of(Unguarded)),
    ("bad_row", of(Asserting)),
    ("bad_element", of(GuardsWholeRows)),
    ("kept", of(CopiesAnother)),
    ("autocast", UncastBackward),
    ("empty_batch", of(Reshaping)),
    ("vmap", of(DataDependentPath)),
    ("normalization", of(MissingConstant, 1)),
    ("normalization", of(MissingConstant)),
    ("normalization", of(MissingConstant, 6)),
    ("normalization", of(SlightlyWrongConstant, 1)),
    ("normalization", of(SlightlyWrongConstant, 2)),
    ("normalization", lambda: Bits(UnnormalizedBits, 3)),
    ("normalization", lambda: Bits(UnnormalizedBits, 60)),
    ("samples_follow_log_prob", of(TooNarrow, 1)),
    ("samples_follow_log_prob", of(TooNarrow, 6)),
    ("samples_follow_log_prob", of(Shifted, 1)),
    ("samples_follow_log_prob", of(Shifted, 6)),
    ("samples_follow_log_prob", of(Correlated)),
    ("samples_follow_log_prob", lambda: Bits(InvertedBits, 3)),
    ("samples_follow_log_prob", lambda: Bits(InvertedBits, 60)),
    ("sample_without_gradient", of(SampleWithGradient)),
    ("rsample_gradient", of(DetachedScale)),
    ("rsample_gradient", of(NoReparameterization)),
    ("rsample_and_log_prob", of(ForgottenScale)),
    ("rsample_and_log_prob", of(DetachedJointScore)),
    ("own_draws", of(CarelessMemory)),
    ("independent_rows", of(SharedNoise)),
    ("independent_rows", of(PartlySharedNoise)),
    ("moments", of(AttributeErrorMean)),
    ("moments", of(WrongMean)),
    ("value_gradient", of(DetachedValue)),
    ("value_gradient", of(ConstantToAutograd)),
    ("context_gradient", DetachedContext),
    ("parameter_gradient", HalfDetachedParameters),
    ("gradients_reach_parameters", UnusedParameter),
    ("gradients_reach_parameters", DeadParameter),
    ("parameters_registered", HiddenParameter),
    ("scoring_learns_nothing", ForgetsInitialization),
    ("scoring_learns_nothing", LearnsFromScoring),
    ("scoring_learns_nothing", LearnsUnseen),
    ("statistics_of_all_rows", LearnsFromTheFirstMinibatch),
    ("far_contexts", Overflows),
    ("no_stale_answers", StaleCache),
    ("no_stale_answers", LostGradient),
    ("repeatable_evaluation", DropoutInEvaluation),
    ("repeatable_evaluation", RunningStatistics),
    ("global_state", SwitchesValidationOff),
    ("global_state", SeedsGlobally),
    ("deepcopy", RemembersGraph),
    ("deepcopy", SharesOnCopy),
    ("pickling", HoldsLambda),
    ("state_dict", PlainPermutation),
    ("state_dict", ForgetsInitialization),
    ("double_precision", of(FloatConstant)),
    ("double_precision", of(CastsDown)),
    pytest.param("device", HiddenOnCpu, marks=pytest.mark.gpu),
    ("plates", of(OneNoiseForAllParticles)),
    ("subsampling", UnscaledModel),
    ("handlers", of(Unmaskable)),
    ("masked_events", of(HiddenNan)),
    ("masked_events", of(Unmaskable)),
    ("predictive", of(CallOnly)),
    ("nuts", of(NoSupport)),
    ("autonormal", of(NoSupport)),
    ("autonormal", of(CallOnly)),
    ("inspection", ForgetsOrigins),
    ("keyword_context", OtherKeyword),
    ("carried_density", LosesItsDensity),
    ("refused_noise", UnnoticedNoise),
    ("svi_likelihood", Unlisted),
    ("svi_guide", of(BreakingKl)),
    ("copies_train", OneNameForAll),
    ("minibatches", UnscaledModel),
    ("minibatches", ScaledByHand),
    ("minibatches", UnscaledGuide),
    ("default_objective", VectorObjective),
]


class NotBijective(SoundTransform):
    bijective = False


class UnsummedLogDet(SoundTransform):
    def forward_and_log_det(self, x):
        y, _ = super().forward_and_log_det(x)
        return y, self.log_scale.expand(y.shape)


class HalfLogDet(SoundTransform):
    def forward_and_log_det(self, x):
        y, log_det = super().forward_and_log_det(x)
        return y, 0.5 * log_det

    def inverse_and_log_det(self, y):
        x, log_det = super().inverse_and_log_det(y)
        return x, 0.5 * log_det


class InverseOff(SoundTransform):
    def inverse_and_log_det(self, y):
        x, log_det = super().inverse_and_log_det(y)
        return x + 1e-4 * x**2, log_det


class CachedLogDet(SoundTransform):
    def _call(self, x):
        y, self.last = self.forward_and_log_det(x)
        self.last = self.last + x.sum(-1) - x.sum(-1).roll(0) + (x[..., 0] - self.first(x))
        return y

    def first(self, x):
        if not hasattr(self, "start"):
            self.start = x[..., 0]
        return self.start

    def log_abs_det_jacobian(self, x, y):
        return self.last


class LostRows(SoundTransform):
    """Its codomain holds too few dimensions, so a distribution takes an event for a batch."""

    @property
    def codomain(self):
        return constraints.real

    @property
    def domain(self):
        return constraints.real


class BatchCentred(SoundTransform):
    def forward_and_log_det(self, x):
        y, log_det = super().forward_and_log_det(x)
        return y + 0.1 * x.mean(-2, keepdim=True).detach(), log_det


class AssertsFinite(SoundTransform):
    def forward_and_log_det(self, x):
        if not x.isfinite().all():
            raise ValueError("bad values")
        return super().forward_and_log_det(x)


class ReshapesLogDet(SoundTransform):
    def forward_and_log_det(self, x):
        y, _ = super().forward_and_log_det(x)
        return y, self.log_scale.expand(y.shape).reshape(*y.shape[:-1], -1).sum(-1)


class BooleanMasks(SoundTransform):
    def forward_and_log_det(self, x):
        y, log_det = super().forward_and_log_det(x)
        if (y > 1e3).any():
            y = y.clamp(max=1e3)
        return y, log_det


def through(kind):
    """A sound bijection module around a defective transform."""
    return partial(SoundBijection, kind)


class StaleTransform(SoundBijection):
    def __init__(self):
        super().__init__()
        self.remembered = None

    def forward(self, context=None):
        if self.remembered is None or self.remembered[0] is not context:
            self.remembered = (context, super().forward(context))
        return self.remembered[1]


BIJECTION_DEFECTS = [
    ("declaration", through(NotBijective)),
    ("map_shapes", through(UnsummedLogDet)),
    ("log_determinant", through(HalfLogDet)),
    ("inverse", through(InverseOff)),
    ("transform_methods", through(CachedLogDet)),
    ("transformed_distribution", through(LostRows)),
    ("batch_invariance", through(BatchCentred)),
    ("bad_row", through(AssertsFinite)),
    ("empty_batch", through(ReshapesLogDet)),
    ("vmap", through(BooleanMasks)),
    ("no_stale_answers", StaleTransform),
    ("deepcopy", StaleTransform),
]


class UnreducedLoss(SoundObjective):
    def forward(self, x):
        return self.errors(x)


class SummedLoss(SoundObjective):
    def forward(self, x):
        return self.errors(x).sum()


class GlobalModel(nn.Module):
    """A latent of all data."""

    def forward(self, x):
        mean = pyro.sample("mean", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(mean, 1.0).to_event(1), obs=x)


class GlobalGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x):
        pyro.sample("mean", pyro.distributions.Normal(self.loc, 0.01).to_event(1))


class PosteriorOfTheBatch(Elbo):
    def __init__(self, size=None):
        super().__init__(GlobalModel(), GlobalGuide(), size=size)


class UnseededLoss(SoundObjective):
    def forward(self, x):
        return self.errors(x).mean() * (1 + int.from_bytes(os.urandom(2)) / 1e6)


class FrozenPart(SoundObjective):
    def __init__(self):
        super().__init__()
        self.forgotten = nn.Linear(2, 2)


class ReusedGraph(SoundObjective):
    def __init__(self):
        super().__init__()
        self.penalty = None

    def forward(self, x):
        if self.penalty is None or not self.penalty.requires_grad:
            self.penalty = self.line.weight.square().sum()
        return super().forward(x) + self.penalty


class DetachedLoss(SoundObjective):
    def errors(self, x):
        errors = super().errors(x)
        return errors * errors.detach()


class ForeignParameter(SoundObjective):
    def __init__(self):
        super().__init__()
        self.others = [torch.zeros((), requires_grad=True)]

    def forward(self, x):
        return super().forward(x) + self.others[0]


OBJECTIVE_DEFECTS = [
    ("scalar_loss", UnreducedLoss),
    ("per_datum", SummedLoss),
    ("per_datum", PosteriorOfTheBatch),
    ("seeded_loss", UnseededLoss),
    ("training_steps", FrozenPart),
    ("training_steps", ReusedGraph),
    ("no_stale_answers", ReusedGraph),
    ("parameter_gradient", DetachedLoss),
    ("gradients_reach_parameters", FrozenPart),
    ("parameters_registered", ForeignParameter),
]


def _names(defects):
    return {case.values[0] if hasattr(case, "values") else case[0] for case in defects}


def _size(make):
    with isolated(0):
        return make().event_shape


@pytest.mark.parametrize(("name", "make"), DISTRIBUTION_DEFECTS)
def test_distribution_defect_is_caught(name, make):
    report = check_distribution(make, event_shape=_size(make), context=CONTEXT, only=[name])
    assert [finding.name for finding in report.failures] == [name], str(report)


def test_a_distribution_without_context_that_keeps_what_it_computed_is_caught():
    report = check_distribution(KeepsWhatItComputed, event_shape=(2,), only=["kept"])
    assert [finding.name for finding in report.failures] == ["kept"], str(report)


@pytest.mark.parametrize(("name", "make"), BIJECTION_DEFECTS)
def test_bijection_defect_is_caught(name, make):
    report = check_bijection(make, event_shape=(2,), context=CONTEXT, only=[name])
    assert [finding.name for finding in report.failures] == [name], str(report)


@pytest.mark.parametrize(("name", "make"), OBJECTIVE_DEFECTS)
def test_objective_defect_is_caught(name, make):
    report = check_objective(make, BATCH, only=[name])
    assert [finding.name for finding in report.failures] == [name], str(report)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_the_sound_distribution_passes_every_check(size):
    make = of(Bell, size)
    report = check_distribution(make, event_shape=(size,), context=CONTEXT)
    assert report.passed, str(report)
    assert {finding.name for finding in report.skipped} <= {"device", "refused_noise"}


def test_the_sound_bijection_passes_every_check():
    report = check_bijection(SoundBijection, event_shape=(2,), context=CONTEXT)
    assert report.passed, str(report)


def test_the_sound_objective_passes_every_check():
    report = check_objective(SoundObjective, BATCH)
    assert report.passed, str(report)


def test_every_check_has_a_planted_defect():
    caught = _names(DISTRIBUTION_DEFECTS) | _names(BIJECTION_DEFECTS) | _names(OBJECTIVE_DEFECTS)
    checks = {check.__name__ for check in (*DISTRIBUTION_CHECKS, *BIJECTION_CHECKS, *OBJECTIVE_CHECKS)}
    assert checks <= caught


def test_a_pair_that_knows_how_many_data_there_are_keeps_the_contract():
    check_objective(partial(PosteriorOfTheBatch, size=20), BATCH[0]).raise_if_failed()
