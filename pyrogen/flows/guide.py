r"""Flows as guides for any Pyro model.

An automatic guide finds the continuous latent variables of a model, maps each to the real numbers, strings them into
one vector :math:`u \in \mathbb{R}^D` and puts a distribution on it. Here that is a flow :math:`f`, followed by a
learned location and scale,

.. math:: u = \mu + \sigma \odot f(\varepsilon), \qquad \varepsilon \sim p_0 ,

which can bend, correlate and be skewed as the posterior is. Trained by an ELBO it is an approximate posterior; used as
a change of coordinates (*NeuTra*), NUTS moves in :math:`\varepsilon`, where the posterior is nearly normal.

References:
    Rezende and Mohamed 2015, "Variational inference with normalizing flows", https://arxiv.org/abs/1505.05770
    Hoffman et al. 2019, "NeuTra-lizing bad geometry in Hamiltonian Monte Carlo using neural transport",
    https://arxiv.org/abs/1903.03704
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide import AutoContinuous, AutoGuide
from pyro.infer.autoguide.initialization import init_to_median
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.point import Point
from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.randomness import held
from pyrogen.numerics.supports import is_same
from pyrogen.programs.run import run
from pyrogen.transforms.linear import DiagonalAffine
from pyrogen.transforms.transform import Compose

from .linear import Standardize
from .model import Flow

_DRAWS = 4096  # behind each median and quantile


class AutoFlow(AutoContinuous):
    r"""A guide for any Pyro model with continuous latent variables, whose posterior is a flow.

    The flow is built at the first call, when the number :math:`D` of unconstrained latent elements is known. From then
    on its parameters are those of the guide: ``parameters()``, ``state_dict()``, ``Trace_ELBO()(model, guide)``,
    ``pyrogen.fit`` and ``SVI`` all find them, the last under a name that no other guide shares. It starts as the recipe
    does (for ours the identity), around ``init_loc_fn`` with standard deviation ``init_scale``.

    A guide draws, so a recipe should be fast in that direction: coupling flows, or autoregressive ones with
    ``fast_sampling=True``. A :class:`Standardize` layer of the recipe is left out, since no data pass it.

    A copy has parameters of its own and shares the model. A pickle holds no model once the guide has run. The weights
    of a trained guide load into a fresh one.

    Args:
        model: A Pyro model. Latent variables may be constrained and lie in plates; their shapes must not change.
        recipe: From an event shape ``(D,)`` to a :class:`~pyrogen.flows.model.Flow`, such as
            ``pyrogen.flows.spline_coupling`` or a ``functools.partial`` of it.
        init_loc_fn: Pyro's per-site initialisation of the location.
        init_scale: Initial standard deviation of each unconstrained element.

    Raises:
        ValueError: ``init_scale`` is not positive; at the first call: the recipe gives something else, a latent site
            lies in a plate that is subsampled, whose latent variables one vector cannot hold, or the support of one
            depends on another latent site, so that no fixed transform reaches it.
        FloatingPointError: a draw overflows; the message names the site.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer import Trace_ELBO
        >>> import pyrogen as pg
        >>> model = lambda: pyro.sample("z", dist.Gamma(2.0, 3.0).expand([2]).to_event(1))
        >>> guide = AutoFlow(model, pg.flows.spline_coupling)
        >>> pg.fit(Trace_ELBO()(model, guide), (), steps=3).reason
        'steps'
        >>> guide()["z"].shape
        torch.Size([2])
    """

    def __init__(
        self,
        model: Callable,
        recipe: Callable[[Shape], Flow],
        *,
        init_loc_fn: Callable = init_to_median,
        init_scale: float = 0.1,
    ) -> None:
        if not init_scale > 0:
            raise ValueError(f"`init_scale` must be positive, got {init_scale}")
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._build, self._init_scale = recipe, init_scale

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with _Points():
            drawn = super().forward(*args, **kwargs)
        if not is_functional(drawn.values()) and not all(
            math.isfinite(value.detach().sum()) for value in drawn.values()
        ):
            self._refuse_overflow(drawn)
        return drawn

    def get_base_dist(self) -> TorchDistributionMixin:
        """The flow's noise, in which NeuTra walks."""
        return self._flow().base()

    def get_transform(self, *args: Any, **kwargs: Any) -> Compose:
        """Noise to unconstrained latent elements, as the parameters are now; ``args`` change nothing."""
        flow = self._flow()
        return _Remembering([part() for part in flow.bijections], event_dim=1)

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistributionMixin:
        """The distribution of the ``D`` unconstrained elements; ``args`` change nothing."""
        return self._flow()()

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """What each site's support makes of the elementwise median of its unconstrained value; from 4,096 draws."""
        middle = self.get_posterior().sample((_DRAWS,)).median(0).values
        return {site["name"]: biject_to(site["fn"].support)(value) for site, value in self._unpack_latent(middle)}

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float] | Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Quantiles of each element of each latent site, from 4,096 draws.

        Args:
            quantiles: Numbers from 0 to 1.
            args: Change nothing.
            kwargs: Change nothing.

        Shape:
            Each entry is ``(len(quantiles), *shape of the site)``.
        """
        draws = self.get_posterior().sample((_DRAWS,))
        levels = torch.as_tensor(quantiles, dtype=draws.dtype, device=draws.device)
        cuts, start = {}, 0
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            shape = self._unconstrained_shapes[name]
            part = draws[:, start : start + shape.numel()].reshape(_DRAWS, *shape)
            cuts[name] = biject_to(site["fn"].support)(part).quantile(levels, 0)
            start += shape.numel()
        return cuts

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():  # a trace without a graph can be copied
            super()._setup_prototype(*args, **kwargs)
        for name in ("_INPUT", "_RETURN"):  # the data, which no copy of a guide should hold
            if name in self.prototype_trace:
                self.prototype_trace.remove_node(name)
        self._check_plates()
        self._check_supports(*args, **kwargs)
        loc = self._init_loc()
        if "flow" not in self._modules:
            self.flow = self._located(self.latent_dim, loc).to(loc)
        elif self._flow().event_shape != (self.latent_dim,):
            loaded = self._flow().event_shape[0]
            raise ValueError(
                f"`model` must have {loaded} latent elements, as the loaded flow has, got {self.latent_dim}"
            )

    def _refuse_overflow(self, drawn: dict[str, Tensor]) -> None:
        for name, value in drawn.items():
            if not bool(value.isfinite().all()):
                raise FloatingPointError(
                    f"the guide's draw of site {name!r} is not finite: the flow left what the transform to its "
                    "support can hold; lower the learning rate, clip gradients, or start from a smaller `init_scale`"
                )

    def _check_supports(self, *args: Any, **kwargs: Any) -> None:
        """Refuses a site whose support depends on other latent sites, by a second run with other values of these."""
        sites = {name: site for name, site in self.prototype_trace.iter_stochastic_nodes()}
        with held():
            again = run(self.model, args, kwargs, given={name: _moved(site) for name, site in sites.items()}).sites
        for name in sites.keys() & again.keys():
            first, second = sites[name]["fn"].support, again[name].distribution.support
            if not is_same(first, second):
                raise ValueError(
                    f"`model` must have latent sites of fixed supports, got site {name!r} within {first} or {second}, "
                    "depending on other latent sites; sample something of fixed support, such as the share of the "
                    "interval, and compute the rest from it"
                )

    def _check_plates(self) -> None:
        for name, frames in self._cond_indep_stacks.items():
            for frame in frames:
                if frame.full_size is not None and frame.full_size != frame.size:
                    raise ValueError(
                        f"`model` must not subsample the plates of latent sites, got site {name!r} in plate "
                        f"{frame.name!r} with {frame.size} of {frame.full_size} rows; use an amortized guide"
                    )

    def _located(self, size: int, loc: Tensor | None = None) -> Flow:
        """The recipe's flow, without its standardization, then a learned location and scale."""
        built = self._build((size,))
        if not isinstance(built, Flow) or built.event_shape != (size,) or built.context_shape is not None:
            raise ValueError(f"`recipe` must give a Flow of event shape {(size,)} without context, got {_what(built)}")
        layers = [part for part in built.bijections if not isinstance(part, Standardize)]
        location = _Location(size, torch.zeros(size) if loc is None else loc, self._init_scale)
        return Flow([*layers, location], built.base, event_shape=(size,))

    def _flow(self) -> Flow:
        # Not `self.flow`, at which Pyro registers the parameters a second time, under a shared name.
        if "flow" not in self._modules:
            raise RuntimeError("an AutoFlow has no flow before its first call; call the guide as you call the model")
        return self._modules["flow"]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        start = f"{prefix}flow.bijections."
        layers = [int(name.removeprefix(start).split(".")[0]) for name in state_dict if name.startswith(start)]
        if layers and "flow" not in self._modules:  # the last layer is the location, as long as the event
            loc = state_dict[f"{start}{max(layers)}.loc"]
            self.flow = self._located(len(loc)).to(loc)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        # Pyro's would take the model from this guide, not only from the pickle.
        state = {**super(AutoGuide, self).__getstate__(), "master": None}
        return state if self.prototype_trace is None else {**state, "_model": None}

    def __deepcopy__(self, memo: dict) -> AutoFlow:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(deepcopy({**self.__getstate__(), "_model": None}, memo))
        new.__dict__["_model"] = self._model
        return new


class _Points(Messenger):
    """Makes the point masses of a guide's sites such points."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if type(msg["fn"]) is dist.Delta:
            point = msg["fn"]
            msg["fn"] = Point(point.v, point.log_density, point.event_dim)


class _Location(BijectionModule):
    """A learned location and scale of each element."""

    def __init__(self, size: int, loc: Tensor, scale: float) -> None:
        super().__init__((size,))
        self.loc = nn.Parameter(loc.detach().clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, scale).log())

    def forward(self, context: Context = None) -> DiagonalAffine:
        return DiagonalAffine(self.loc, self.log_scale, self.event_shape)


class _Remembering(Compose):
    """Several transforms as one, with the log-determinant of the last value remembered: NeuTra needs both."""

    _last: tuple | None = None

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.forward_and_log_det(x)
        self._last = (x, y, log_det, self._state(x, y))
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._last is not None:
            last_x, last_y, log_det, state = self._last
            if last_x is x and last_y is y and state == self._state(x, y):
                return log_det
        return super().log_abs_det_jacobian(x, y)

    @staticmethod
    def _state(x: Tensor, y: Tensor) -> tuple[bool, int, int]:
        return torch.is_grad_enabled(), x._version, y._version

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}


def _moved(site: dict[str, Any]) -> Tensor:
    """Another value of a site in the same support."""
    transform = biject_to(site["fn"].support)
    return transform(transform.inv(site["value"]) + 0.1)


def _what(built: object) -> str:
    name = type(built).__name__
    if not isinstance(built, DistributionModule):
        return name
    return f"{name} event_shape {built.event_shape} context_shape {built.context_shape}"
