"""Simulation-based inference: learned posteriors, likelihoods and ratios of any Pyro program.

``drawing``      simulations in blocks, in worker processes, without those that fail
``joint``        the joint distribution of a program's latent and observed sites, known by simulation
``likelihood``   the learned distribution of one row of an observed site given what it depends on
``ratio``        the learned ratio of likelihood to evidence of one row of an observed site
``replaced``     a program with learned modules in the place of its simulators
``posterior``    the amortized posterior of a program's latent sites
``simulations``  rows of latent values and of what was observed with them, which ``fit`` takes
``simulator``    a plain function as a site of a program
``variable``     a site as learning sees it
``weighted_draws``  draws of a learned posterior, weighted to be those of a program with learned modules
"""

from .drawing import FailedSimulations
from .joint import Joint
from .likelihood import Likelihood, likelihood
from .posterior import Posterior, posterior
from .ratio import Ratio, ratio
from .replaced import replaced
from .simulations import Simulations
from .simulator import Simulator
from .variable import Variable
from .weighted_draws import WeightedDraws, weighted_draws

__all__ = [
    "FailedSimulations",
    "Joint",
    "Likelihood",
    "Posterior",
    "Ratio",
    "Simulations",
    "Simulator",
    "Variable",
    "WeightedDraws",
    "likelihood",
    "posterior",
    "ratio",
    "replaced",
    "weighted_draws",
]


def __dir__() -> list[str]:
    return __all__
