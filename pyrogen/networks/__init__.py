"""Networks: plain modules without probability, the building blocks of all families."""

from pyrogen.renamed import renamed

from .causal_transformer import AnyOrderTransformer, CausalStack, CausalTransformer
from .columns import ColumnFeatures, GapFeatures
from .conditions import ContextEncoder
from .context_embeddings import VectorContext
from .contraction import Contraction, ContractiveConvolutions, ContractivePerceptron, convolution_norm
from .convolution import ImageDecoder, ImageEncoder
from .diffusion_transformer import DiffusionTransformer
from .embedding import EachRow, Embedding, ImageEmbedding, SideBySide, VectorEmbedding
from .embedding_defaults import default_embedding
from .forms import Form, OneHot, Plain, WithLogarithm
from .image_conditioner import ImageConditioner, ImageContext
from .masked import MaskedConditioner
from .masked_sequence import MaskedSequence
from .mlp import MLP, Conditioner
from .patch_transformer import PatchTransformer
from .residual_mlp import ResidualMLP
from .sequence import Numbers, SequenceNetwork, Tokens
from .series import SequenceEmbedding
from .sets import SetEmbedding
from .source import SourceEncoder
from .spectral import SpectralNormalized, operator_norm, spectrally_normalized
from .statistics import Chained, ReadsData, Standardizer
from .symbol_transformer import SymbolTransformer
from .top_down import BottomUp, FirstState, ResidualLevel, TopDownLevel
from .unet import UNet

__getattr__ = renamed(__name__, {"Table": "pyrogen.networks.ColumnFeatures", "Gaps": "pyrogen.networks.GapFeatures"})

__all__ = [
    "AnyOrderTransformer",
    "BottomUp",
    "CausalStack",
    "CausalTransformer",
    "Chained",
    "ColumnFeatures",
    "Conditioner",
    "ContextEncoder",
    "Contraction",
    "ContractiveConvolutions",
    "ContractivePerceptron",
    "DiffusionTransformer",
    "EachRow",
    "Embedding",
    "FirstState",
    "Form",
    "GapFeatures",
    "ImageConditioner",
    "ImageContext",
    "ImageDecoder",
    "ImageEmbedding",
    "ImageEncoder",
    "MLP",
    "MaskedConditioner",
    "MaskedSequence",
    "Numbers",
    "OneHot",
    "PatchTransformer",
    "Plain",
    "ReadsData",
    "ResidualLevel",
    "ResidualMLP",
    "SequenceEmbedding",
    "SequenceNetwork",
    "SetEmbedding",
    "SideBySide",
    "SourceEncoder",
    "SpectralNormalized",
    "Standardizer",
    "SymbolTransformer",
    "Tokens",
    "TopDownLevel",
    "UNet",
    "VectorContext",
    "VectorEmbedding",
    "WithLogarithm",
    "convolution_norm",
    "default_embedding",
    "operator_norm",
    "spectrally_normalized",
]


def __dir__() -> list[str]:
    return __all__
