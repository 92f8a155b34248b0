"""Networks: plain modules that know nothing of probability."""

from .attention import AnyOrderTransformer, CausalStack, CausalTransformer
from .context import ContextEncoder
from .embedding import Flatten, Labels
from .masked import MaskedConditioner
from .masked_sequence import MaskedSequence
from .mlp import MLP, Conditioner
from .residual import ResidualMLP
from .sequence import Numbers, SequenceNetwork, Tokens
from .transformer import DiffusionTransformer
from .unet import UNet

__all__ = [
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
    "Labels",
    "MaskedConditioner",
    "MaskedSequence",
    "Numbers",
    "SequenceNetwork",
    "Tokens",
]
