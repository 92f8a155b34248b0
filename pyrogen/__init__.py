"""pyrogen: deep generative models as Pyro distributions."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from .core.density import density_of
from .core.ensemble import Ensemble, ensemble
from .core.log_prob import log_prob
from .core.matching import FlowMatching
from .core.module import BijectionModule, DistributionModule, MaximumLikelihood
from .core.objective import Elbo
from .core.parametric import Parametric
from .core.recipe import recipe
from .core.saving import lengthened, load, rebuilt, save
from .distributions import families
from .training.checkpoint import Checkpoint
from .training.fit import fit
from .training.power_averages import PowerAverages
from .training.progress import Fit, Progress
from .training.turn import Turn

if TYPE_CHECKING:  # at run time each is imported when first used, by `__getattr__`
    from . import (
        analysis,
        autoregressive,
        data,
        diffusion,
        distributions,
        energy,
        evaluation,
        flows,
        implicit,
        inverse,
        latent,
        networks,
        numerics,
        operators,
        simulation,
        testing,
        training,
        transforms,
    )

__version__ = "0.1.0"

__all__ = [
    "BijectionModule",
    "Checkpoint",
    "DistributionModule",
    "Elbo",
    "Ensemble",
    "Fit",
    "FlowMatching",
    "MaximumLikelihood",
    "Parametric",
    "PowerAverages",
    "Progress",
    "Turn",
    "analysis",
    "autoregressive",
    "data",
    "density_of",
    "diffusion",
    "distributions",
    "energy",
    "ensemble",
    "evaluation",
    "families",
    "fit",
    "flows",
    "implicit",
    "inverse",
    "latent",
    "lengthened",
    "load",
    "log_prob",
    "networks",
    "numerics",
    "operators",
    "rebuilt",
    "recipe",
    "save",
    "simulation",
    "testing",
    "training",
    "transforms",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
