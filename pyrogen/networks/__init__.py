"""Networks: plain modules that know nothing of probability."""

from .attention import AnyOrderTransformer, CausalStack, CausalTransformer
from .conditions import ContextEncoder
from .convolution import ImageDecoder, ImageEncoder
from .embedding import Flatten, Labels
from .masked import MaskedConditioner
from .masked_sequence import MaskedSequence
from .mlp import MLP, Conditioner
from .residual import ResidualMLP
from .sequence import Numbers, SequenceNetwork, Tokens
from .statistics import Chained, ReadsData, Standardizer
from .table import Gaps, Table
from .transformer import DiffusionTransformer
from .unet import UNet

__all__ = [
    "Chained",
    "ReadsData",
    "Standardizer",
    "ContextEncoder",
    "DiffusionTransformer",
    "ResidualMLP",
    "UNet",
    "MLP",
    "AnyOrderTransformer",
    "CausalStack",
    "CausalTransformer",
    "Conditioner",
    "Flatten",
    "Gaps",
    "ImageDecoder",
    "ImageEncoder",
    "Labels",
    "MaskedConditioner",
    "MaskedSequence",
    "Numbers",
    "SequenceNetwork",
    "Table",
    "Tokens",
]
