"""Inverse problems: posteriors under a generative prior and any Pyro likelihood, and posteriors of any Pyro model."""

from pyrogen.operators import (
    Convolution,
    Grey,
    Linear,
    Mask,
    Matrix,
    PhaseRetrieval,
    Separable,
    bicubic_downsampling,
    box_downsampling,
    gaussian_blur,
)
from pyrogen.renamed import renamed

from .answer import Answer, Diagnostics, Results
from .averaged import Averaged
from .completion import Completion
from .guidance import DAPS, DDRM, DPS, DiffPIR, Guidance, GuidedSampling, MomentMatching, PiGDM, RePaint
from .laplace import Laplace
from .linear_gaussian import LinearGaussianSystem
from .many_chains import ManyChains
from .noise import in_noise
from .noise_mcmc import NoiseMCMC
from .noise_vi import NoiseVI
from .occams_window import OccamsWindow
from .sequence_recipes import transformer_regression, transformer_twist
from .sequences import (
    Admissible,
    LearnedTwist,
    Lookahead,
    PrefixRegression,
    PrefixTwist,
    SequenceSMC,
    TwistContrast,
)
from .smc import TwistedSMC
from .smc_sampler import SMCSampler
from .split_gibbs import SplitGibbs
from .tempered import TemperedSMC
from .twist import FiniteParticle, Isotropic, MomentMatched, Twist

__getattr__ = renamed(
    __name__,
    {
        "psnr": "pyrogen.evaluation.psnr",
        "ssim": "pyrogen.evaluation.ssim",
        "predictive_p_values": "pyrogen.evaluation.predictive_p_values",
        "report": "pyrogen.evaluation.restoration_report",
        "edit": "pyrogen.diffusion.edit",
        "trade_off": "pyrogen.diffusion.trade_off",
    },
)

__all__ = [
    "Admissible",
    "Answer",
    "Averaged",
    "Completion",
    "Convolution",
    "DAPS",
    "DDRM",
    "DPS",
    "Diagnostics",
    "DiffPIR",
    "FiniteParticle",
    "Grey",
    "Guidance",
    "GuidedSampling",
    "Isotropic",
    "Laplace",
    "LearnedTwist",
    "Linear",
    "LinearGaussianSystem",
    "Lookahead",
    "ManyChains",
    "Mask",
    "Matrix",
    "MomentMatched",
    "MomentMatching",
    "NoiseMCMC",
    "NoiseVI",
    "OccamsWindow",
    "PhaseRetrieval",
    "PiGDM",
    "PrefixRegression",
    "PrefixTwist",
    "RePaint",
    "Results",
    "Separable",
    "SMCSampler",
    "SequenceSMC",
    "SplitGibbs",
    "TemperedSMC",
    "Twist",
    "TwistContrast",
    "TwistedSMC",
    "bicubic_downsampling",
    "box_downsampling",
    "gaussian_blur",
    "in_noise",
    "transformer_regression",
    "transformer_twist",
]


def __dir__() -> list[str]:
    return __all__
