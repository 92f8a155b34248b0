r"""The one abstraction: a module that, given a context, is a probability distribution.

A generative model is a probability distribution :math:`p(x)` or :math:`p(x \mid c)`. A
:class:`DistributionModule` owns the parameters :math:`\theta` and its ``forward(context)`` gives
:math:`p_\theta(x \mid c)` as a Pyro distribution, made per call, light, without parameters of its own. A
:class:`BijectionModule` is the same idea for transforms.

Used at a ``pyro.sample`` site, a module's parameters must reach ``SVI``. Pyro's ``SVI`` finds parameters by listening
for ``param`` statements while it runs the model, so :meth:`DistributionModule.__call__` makes one such statement, and
only under ``SVI``. The name is unique for each instance and renewed by copying and pickling: under equal names
the second module would silently not train.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from pyro.ops.provenance import detach_provenance, get_provenance
from pyro.poutine.messenger import _context_wrap
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions.transforms import Transform

from pyrogen.abstract import Abstract
from pyrogen.arrays import as_tensors
from pyrogen.markup import notebook_table
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.programs.chain import refuse_noise

from .density import Density, density_of, require_normalized, stamped
from .facts import facts_of, meaning_of
from .objective import Objective, Turns
from .provenance import tracked, tracks
from .reading import learn_statistics, refuse_outside_support
from .shapes import (
    Context,
    ContextShape,
    as_context_shape,
    as_shape,
    batch_shape_of,
    context_batch_shape,
    require_one_context_each,
)
from .sources import Data


class DistributionModule(Abstract, ReadsData, nn.Module):
    """A module whose ``forward(context=None)`` gives a Pyro distribution.

    Subclasses define :meth:`forward`, and :attr:`density` where it is not ``"exact"``: what the module declares, its
    distributions carry (:func:`~pyrogen.core.density.density_of`). They get a Pyro model/guide pair, a training
    objective and the context checks.

    Args:
        event_shape: Shape of one event :math:`x`.
        context_shape: ``None`` for an unconditional module; the shape of one context tensor, whose batch dimensions
            broadcast; or a dict of shapes for several tensors. Labels are integers of shape ``()``.
    """

    density: Density = "exact"
    takes_missing: bool = False
    """Whether its distributions score events of which NaN marks missing entries."""
    shared_error: float = 0.0
    """The standard error of a constant that every ``log_prob`` holds, in nats: of a normalizer that was estimated."""
    weighs_without_bias: bool = False
    """Whether the exponential of a noisy ``log_prob`` has the right expectation, as importance weights need."""
    has_own_programs: bool = False
    """Whether :attr:`model` and :attr:`guide` are programs of its own, not of one data plate and a site ``"x"``."""

    def __init__(self, event_shape: int | tuple[int, ...], context_shape: ContextShape = None) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape, "event_shape")
        self.context_shape = as_context_shape(context_shape)
        self._instance = _Instance()
        _let_context_pass()

    @abstractmethod
    def forward(self, context: Context = None) -> TorchDistributionMixin:
        """The distribution of one event given the context.

        Shape:
            The distribution has ``event_shape`` as declared, and the batch dimensions of the context as
            ``batch_shape``.
        """

    def __call__(self, context: Context = None) -> TorchDistributionMixin:
        context = as_tensors(context, "context")
        context_batch_shape(context, self.context_shape)
        if _PYRO_STACK and _svi_listens():
            _register(self, self._instance.name)
        if not _PYRO_STACK:
            return stamped(super().__call__(context), self.density)
        plain = detach_provenance(context)
        distribution = stamped(super().__call__(plain), self.density)
        # Our own distributions refuse when they are scored: a chain over their noise does not score them.
        if self.density in ("estimate", "lower bound") and not type(distribution).__module__.startswith("pyrogen."):
            refuse_noise(distribution, f"a {type(self).__name__}")
        provenance = get_provenance(context)
        return tracked(distribution, provenance) if provenance or tracks() else distribution

    def _repr_html_(self) -> str:
        return notebook_table(type(self).__name__, facts_of(self) | {"log_prob": meaning_of(self.density)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _let_context_pass()

    def __getstate__(self) -> dict[str, Any]:
        # Pyro's parameter store leaves a weak reference on every parameter, which does not pickle.
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)
        return super().__getstate__()

    @property
    def model(self) -> nn.Module:
        """The Pyro model: one data plate, one site ``"x"``.

        Called as ``model(x=None, context=None, size=None)``. With ``x`` the site is observed, and ``size`` is the
        number of data the minibatch stands for. Without ``x``, ``size`` events are drawn, one for each context, or one
        without a plate.
        """
        return Model(self)

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide, empty where nothing is latent; called like :attr:`model`.

        Raises:
            NotImplementedError: the module has no ``log_prob``, or one that lacks an unknown constant, so no ELBO can
                train it.
        """
        if self.density is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no log_prob (density None), hence no guide and no ELBO; train it with "
                "its `objective()`"
            )
        require_normalized(self.density, type(self).__name__, "an ELBO of its model and guide")
        return Guide(self)

    def objective(self) -> nn.Module | Turns:
        """The default objective, which ``fit`` uses, or the turns of a game: here maximum likelihood.

        A module without a normalized ``log_prob`` overrides it.
        """
        return MaximumLikelihood(self)

    def learn_statistics(self, data: Data, *, batch_size: int = 128) -> None:
        """Learns means and scales of events and contexts from a data set, in place of those learned before.

        ``fit`` does so for what it trains, unless it was done before. Call it where another loop trains the module
        (``SVI``, say), or where it is a prior or a guide in another program and events of it are known: without
        this call nothing is learned there, and the module's standardization is the identity.

        Args:
            data: As for ``fit``: events, or a tuple of events and contexts.
            batch_size: Rows of a dataset that are read at once; tensors are read in large pieces.

        Raises:
            ValueError: rows hold NaN, or lie outside the support or the range of a label; the message names them.

        Example:
            >>> import pyrogen as pg
            >>> flow = pg.flows.affine_coupling((2,))
            >>> flow.learn_statistics(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
            >>> flow.bijections[-1].mean
            tensor([ 1., 20.])
        """
        learn_statistics(self, self.read_data, data, batch_size)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads events and their contexts, see :class:`~pyrogen.networks.statistics.ReadsData`.

        Those outside the support are refused, and contexts that broadcast against events. Subclasses add the statistics
        of events.
        """
        require_one_context_each(x, context, self.event_shape, self.context_shape)
        yield from self.read_context(context)
        refuse_outside_support(self, x, context, self.parameters())

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads contexts alone, of which entries may be missing; subclasses pass them to their networks."""
        return iter(())


class BijectionModule(Abstract, ReadsData, nn.Module):
    """A module whose ``forward(context=None)`` gives a torch ``Transform``.

    The transform maps noise to data and has ``forward_and_log_det`` and ``inverse_and_log_det`` (one pass each).

    Args:
        event_shape: Shape of one event, the same on both sides.
        context_shape: As for :class:`DistributionModule`.
    """

    density: Density = "exact"
    """What it makes of an exact density."""

    def __init__(self, event_shape: int | tuple[int, ...], context_shape: ContextShape = None) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape, "event_shape")
        self.context_shape = as_context_shape(context_shape)

    def __call__(self, context: Context = None) -> Transform:
        context_batch_shape(context, self.context_shape)
        return super().__call__(context)

    def _repr_html_(self) -> str:
        return notebook_table(type(self).__name__, facts_of(self))

    @abstractmethod
    def forward(self, context: Context = None) -> Transform:
        """The transform given the context; its batch shape is that of the context."""


class MaximumLikelihood(Objective):
    r"""Minus the mean log-likelihood, :math:`-\frac{1}{N} \sum_i \log p(x_i \mid c_i)`.

    Args:
        module: What is fitted. Where its ``log_prob`` is a lower bound or an estimate, so is the objective.

    Raises:
        NotImplementedError: ``log_prob`` is unnormalized or missing, so its mean trains nothing sensible.
    """

    def __init__(self, module: DistributionModule) -> None:
        super().__init__()
        require_normalized(module.density, type(module).__name__, "maximum likelihood")
        self.module = module

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        distribution = self.module(context)
        if is_validation_enabled():
            require_normalized(density_of(distribution), type(self.module).__name__, "maximum likelihood")
        return -distribution.log_prob(x).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


class Model(ReadsData, nn.Module):
    """A module as a Pyro model: an entry point. To compose, call the module at a site of your own model."""

    def __init__(self, module: DistributionModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor:
        with data_plate(self.module, x, context, size):
            return pyro.sample("x", self.module(context), obs=x)

    def read_data(self, x: Tensor, context: Context = None, *rest: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


class Guide(nn.Module):
    """The guide of a model without latent variables."""

    def __init__(self, module: DistributionModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> None:
        return None


def data_plate(
    module: DistributionModule, x: Tensor | None, context: Context, size: int | None
) -> AbstractContextManager[Any]:
    """The one plate ``"data"`` of a model/guide pair, or no plate for a single datum.

    Raises:
        ValueError: ``x`` and the context have more than one batch dimension, or no row, or ``size`` is smaller than the
            batch.
    """
    batch = context_batch_shape(context, module.context_shape)
    if x is not None:
        batch = batch_shape_of(x, module.event_shape, "x")
    elif not batch and size is not None:
        batch = (size,)
    if len(batch) > 1:
        raise ValueError(
            f"`x` and `context` must have at most one batch dimension (the data plate), got {tuple(batch)}"
        )
    if not batch:
        return nullcontext()
    rows = batch[0]
    if rows == 0:
        raise ValueError("`x` and `context` must have at least one row, which Pyro's plates ask for, got none")
    if size is None or size == rows:
        return pyro.plate("data", rows, dim=-1)
    if size < rows:
        raise ValueError(f"`size` must be at least the {rows} rows of the batch, got {size}")
    return pyro.plate("data", size, subsample=range(rows), dim=-1)


def check_part(part: Any, name: str) -> None:
    """Checks that a part of a model is a module that gives distributions.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(part, DistributionModule):
        raise ValueError(f"`{name}` must be a DistributionModule, got {type(part).__name__}")


class _Instance:
    """A name that belongs to one instance: a copy or an unpickled twin gets a new one."""

    def __init__(self) -> None:
        self.name = f"pyrogen.{uuid.uuid4().hex}"

    def __deepcopy__(self, memo: dict) -> _Instance:
        return _Instance()

    def __reduce__(self) -> tuple:
        return _Instance, ()


def _register(module: nn.Module, name: str) -> None:
    """Makes a ``param`` statement for every parameter that takes a gradient, and for no other."""
    store = pyro.get_param_store()
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            full_name = f"{name}$$${path}"
            # A parameter put in place of another under the same name would else stay untrained.
            if full_name in store and store[full_name].unconstrained() is not parameter:
                del store[full_name]
            pyro.param(full_name, parameter)


def _let_context_pass() -> None:
    """Lets Pyro's handlers pass a keyword argument ``context`` to the model they wrap.

    They call it as ``_context_wrap(context, model, *args, **kwargs)``, so that ``svi.step(x, context=c)`` would give
    ``context`` two values. With the first two parameters positional-only it has one; nothing else changes.
    """
    code = _context_wrap.__code__
    if code.co_posonlyargcount == 0:
        _context_wrap.__code__ = code.replace(co_posonlyargcount=2)


def _svi_listens() -> bool:
    return any(isinstance(messenger, TraceMessenger) and messenger.param_only for messenger in _PYRO_STACK)
