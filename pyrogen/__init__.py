"""pyrogen: deep generative models as Pyro distributions."""

from . import analysis, data, distributions, evaluation, flows, networks, numerics, testing, transforms
from .core import families
from .core.density import density_of
from .core.module import BijectionModule, DistributionModule
from .core.objective import Elbo, MaximumLikelihood
from .core.parametric import Parametric

__version__ = "0.1.0"
