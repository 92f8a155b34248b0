r"""Latent sites as functions of free coordinates: real numbers :math:`x`, of which the values are :math:`z = t(x)`.

The transform is that of the support which a site has in the run at hand, since that may depend on other sites: numbers
uniform below another one have as many supports as there are chains.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from pyro.distributions import (
    ExpandedDistribution,
    MaskedDistribution,
    SineBivariateVonMises,
    SineSkewed,
    TorchDistribution,
)
from pyro.distributions.util import broadcast_shape, sum_rightmost
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Transform, VonMises

from pyrogen.arguments import function
from pyrogen.numerics.angles import Circular
from pyrogen.numerics.supports import shared, widened
from pyrogen.transforms.triangular import bijection_to


class FreeSites(Messenger):
    """Gives latent sites the values that belong to free coordinates.

    Args:
        coordinates: By site.
        discrete: Values of discrete sites.
        imputed: The sites that are the parts of observations which an ``obs_mask`` hides. Pyro masks what they hold in
            place of data, of which the density is then constant; here it has that of the data.
        enumerating: Whether other discrete sites are summed out: then Pyro must see to the dimensions of all.

    Attributes:
        volumes: The log-determinants of the transforms by site, in the shapes of log-probabilities.

    Shape:
        Coordinates are ``(*batch, *free)``, where ``batch`` is that of the site, and ``free`` what its transform takes.
    """

    def __init__(
        self,
        coordinates: Mapping[str, Tensor],
        discrete: Mapping[str, Tensor] | None = None,
        *,
        imputed: Container[str] = (),
        enumerating: bool = False,
    ) -> None:
        super().__init__()
        self.coordinates, self.discrete = coordinates, discrete or {}
        self.imputed, self.enumerating = imputed, enumerating
        self.volumes: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self.coordinates and name not in self.discrete:
            return
        msg["value"] = self._value(name, msg["fn"]) if name in self.coordinates else self.discrete[name]
        msg["done"] = not self.enumerating
        if name in self.imputed:
            msg["mask"] = None

    def _value(self, name: str, fn: TorchDistribution) -> Tensor:
        transform = transform_of(name, fn)
        plain = fn.event_dim - transform.codomain.event_dim  # dimensions of the event that the transform maps alike
        x = _broadcast(self.coordinates[name], fn.batch_shape, transform.domain.event_dim + plain)
        value = transform(x)
        self.volumes[name] = sum_rightmost(transform.log_abs_det_jacobian(x, value), plain)
        return value


def transform_of(name: str, distribution: TorchDistribution) -> Transform:
    """The bijection from real numbers to the support of a site.

    Of angles, whose density goes around on the whole line, it is the circle, cut open at one point.

    Raises:
        NotImplementedError: there is none.
    """
    support = shared(distribution.support)
    if _is_of_angles(distribution):
        support = widened(Circular(), support.event_dim)
    try:
        return bijection_to(support, distribution.event_shape)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"no bijection from real numbers to the support {support} of the site {name!r} is known; write the site as "
            "a function of others, as Pyro's reparameterizations do"
        ) from error


def _is_of_angles(distribution: Any) -> bool:
    """Whether it is one of Pyro's distributions of angles, which state all real numbers as their support."""
    while (inner := _inner(distribution)) is not None:
        distribution = inner
    return isinstance(distribution, VonMises | SineBivariateVonMises | SineSkewed)


def _inner(distribution: Any) -> Any:
    """What layers or a mixture have in them; ``None`` of others."""
    if isinstance(distribution, Independent | MaskedDistribution | ExpandedDistribution):
        return distribution.base_dist
    return distribution.component_distribution if isinstance(distribution, MixtureSameFamily) else None


def starting_points(value: Any, name: str) -> Any:
    """A strategy of initialisation, or values by site, each with the points in front."""
    if not isinstance(value, Mapping):
        return function(value, name)
    wrong = [
        site for site, found in value.items() if not isinstance(found, Tensor) or not found.dim() or not len(found)
    ]
    if wrong:
        raise ValueError(f"`{name}` must hold tensors (points, *shape) of at least one point, got others at {wrong}")
    return value


def started(model: Callable, initial: Callable | Mapping[str, Tensor]) -> Callable:
    """A model whose latent sites have values from which chains may start.

    Args:
        model: The Pyro model.
        initial: One of Pyro's strategies of initialisation, which have no notion of discrete sites: these are drawn. Or
            values of many chains by site, of which the first is taken; other sites are drawn.

    Raises:
        NotImplementedError: in a run, a site cannot be drawn.
    """

    def start(site: dict[str, Any]) -> Tensor:
        try:
            return _start(initial, site)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"the site {site['name']!r} cannot be drawn ({error}), so chains cannot start there; give `initial` "
                "values of all continuous latent sites"
            ) from error

    return InitMessenger(start)(model)


def _start(initial: Callable | Mapping[str, Tensor], site: dict[str, Any]) -> Tensor:
    fn = site["fn"]
    if isinstance(initial, Mapping):
        given = initial.get(site["name"])
        return fn.sample() if given is None or given.shape[1:] != fn.shape() else given[0]
    return fn.sample() if fn.support.is_discrete else initial(site)


def _broadcast(x: Tensor, batch_shape: tuple[int, ...], event_dim: int) -> Tensor:
    """Coordinates for every row of a batch, which has more rows than they where discrete sites are summed out."""
    cut = x.dim() - event_dim
    return x.expand(broadcast_shape(x.shape[:cut], batch_shape) + x.shape[cut:])
