"""Autoregressive models: exact likelihoods, fast generation, conditioning on what is known; point processes."""

from .beam import beam_search
from .conditionals import Binary, Categorical, Conditional, NormalMixture, OfFamily
from .constraints import constrained
from .event_recipes import hawkes, point_process
from .foreign import from_transformers
from .model import AnyOrder, Autoregressive
from .objectives import ObservedLikelihood
from .orders import MixedOrders
from .point_process.distribution import PointProcessDistribution
from .point_process.model import PointProcess
from .point_process.waiting import WaitingTime
from .quantized_recipes import pixel_cnn, wavenet
from .recipes import any_order, made, transformer
from .tempering import best_temperature, nucleus, tempered, top_k

__all__ = [
    "AnyOrder",
    "Autoregressive",
    "Binary",
    "Categorical",
    "Conditional",
    "MixedOrders",
    "NormalMixture",
    "ObservedLikelihood",
    "OfFamily",
    "PointProcess",
    "PointProcessDistribution",
    "WaitingTime",
    "any_order",
    "beam_search",
    "best_temperature",
    "constrained",
    "from_transformers",
    "hawkes",
    "made",
    "nucleus",
    "pixel_cnn",
    "point_process",
    "tempered",
    "top_k",
    "transformer",
    "wavenet",
]


def __dir__() -> list[str]:
    return __all__
