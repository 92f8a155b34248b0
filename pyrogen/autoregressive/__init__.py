"""Autoregressive models: exact likelihoods, fast generation, conditioning on what is known."""

from .beam import beam_search
from .conditionals import Binary, Categorical, Conditional, FiniteDiscrete, NormalMixture, OfFamily
from .constraints import constrained
from .distribution import AutoregressiveDistribution
from .foreign import from_transformers
from .given import aligned
from .layout import SequenceLayout
from .model import AnyOrder, Autoregressive
from .objectives import ObservedLikelihood
from .orders import MixedOrders, OrderMixture
from .recipes import any_order, made, pixel_cnn, transformer, wavenet
from .tempering import nucleus, tempered, top_k

__all__ = [
    "AnyOrder",
    "Autoregressive",
    "Binary",
    "Categorical",
    "AutoregressiveDistribution",
    "Conditional",
    "SequenceLayout",
    "MixedOrders",
    "NormalMixture",
    "ObservedLikelihood",
    "OfFamily",
    "OrderMixture",
    "FiniteDiscrete",
    "aligned",
    "any_order",
    "beam_search",
    "constrained",
    "from_transformers",
    "made",
    "nucleus",
    "pixel_cnn",
    "tempered",
    "top_k",
    "transformer",
    "wavenet",
]
