"""pyrogen: deep generative models as Pyro distributions."""

from . import (
    analysis,
    autoregressive,
    data,
    diffusion,
    distributions,
    evaluation,
    flows,
    inverse,
    latent,
    networks,
    numerics,
    testing,
    transforms,
)
from .core.checkpoint import load, save
from .core.chunks import log_prob
from .core.density import density_of
from .core.matching import FlowMatching
from .core.module import BijectionModule, DistributionModule
from .core.objective import Elbo, MaximumLikelihood
from .core.parametric import Parametric
from .core.power_average import PowerAverages
from .core.progress import Fit, Progress
from .core.recipe import recipe
from .core.resume import Checkpoint
from .core.training import fit
from .core.turn import Turn
from .distributions import families

__version__ = "0.1.0"
