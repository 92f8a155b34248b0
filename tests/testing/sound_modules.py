"""Sound modules, from which the tests plant defects by overriding one thing."""

import math

import torch
from pyro.distributions import TorchDistribution
from torch import nn
from torch.distributions import constraints

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.distributions.abilities import Abilities
from pyrogen.transforms.transform import Transform


class Bell(Abilities, TorchDistribution):
    """Independent normals over vectors, careful about everything the contract asks for."""

    arg_constraints = {}
    has_rsample = has_rsample_and_log_prob = True

    def __init__(self, loc, log_scale, validate_args=None):
        self.loc, self.log_scale = loc, log_scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def support(self):
        return constraints.real_vector

    @property
    def mean(self):
        return self.loc

    def expand(self, batch_shape, _instance=None):
        shape = torch.Size(batch_shape) + self.event_shape
        return type(self)(self.loc.expand(shape), self.log_scale.expand(shape))

    def noise(self, sample_shape):
        return torch.randn(self.shape(torch.Size(sample_shape)), dtype=self.loc.dtype)

    def rsample(self, sample_shape=()):
        return self.loc + self.log_scale.exp() * self.noise(sample_shape)

    def rsample_and_log_prob(self, sample_shape=()):
        noise = self.noise(sample_shape)
        value = self.loc + self.log_scale.exp() * noise
        return value, (-0.5 * noise**2 - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    def log_prob(self, value):
        if self._validate_args and value.numel():
            self._validate_sample(value)
        finite = value.isfinite().all(-1)
        scores = self.scores(torch.where(finite[..., None], value, 0.0)).sum(-1)
        return torch.where(finite, scores, torch.nan)

    def scores(self, value):
        noise = (value - self.loc) * (-self.log_scale).exp()
        return -0.5 * noise**2 - self.log_scale - 0.5 * math.log(2 * math.pi)


class SoundDistribution(DistributionModule):
    """A conditional distribution whose parameters a small network computes."""

    def __init__(self, kind=Bell, size=2):
        super().__init__(event_shape=(size,), context_shape=(3,))
        self.kind = kind
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2 * size))

    def forward(self, context=None):
        return self.kind(*self.numbers(context).chunk(2, -1))

    def numbers(self, context):
        return self.network(context)


class SoundTransform(Transform):
    """An elementwise affine map."""

    def __init__(self, shift, log_scale):
        super().__init__(1, shift.shape[:-1])
        self.shift, self.log_scale = shift, log_scale

    def forward_and_log_det(self, x):
        y = self.shift + self.log_scale.exp() * x
        return y, self.log_scale.expand(y.shape).sum(-1)

    def inverse_and_log_det(self, y):
        x = (y - self.shift) * (-self.log_scale).exp()
        return x, -self.log_scale.expand(x.shape).sum(-1)


class SoundBijection(BijectionModule):
    """A conditional affine bijection."""

    def __init__(self, kind=SoundTransform):
        super().__init__(event_shape=(2,), context_shape=(3,))
        self.kind = kind
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, context=None):
        return self.kind(*self.network(context).chunk(2, -1))


class SoundObjective(nn.Module):
    """A regression with a little noise in the loss."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, x):
        return self.errors(x).mean()

    def errors(self, x):
        noisy = x + 0.1 * torch.randn_like(x)
        return (self.line(noisy)[..., 0] - x.sum(-1)).square()
