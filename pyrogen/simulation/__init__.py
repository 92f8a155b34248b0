"""Simulation-based inference: learned posteriors, likelihoods and ratios of any Pyro program.

``joint``           the joint distribution of a program, known by simulation, and what simulations are
``posterior``       the amortized posterior of a program's latent sites; ``guide``: it as a guide of the program
``likelihood``      the learned distribution of one row of an observed site given what it depends on
``ratio``           the learned ratio of likelihood to evidence of one row of an observed site
``replaced``        a program with learned modules in the place of its simulators
``truncated``       the prior where a posterior has its mass, for rounds of simulations for one observation
``weighted_draws``  draws of a learned posterior, weighted to be those of a program with learned modules
``latents``         latent sites as one vector; ``observed``: observed sites as a context
``rows``            single rows of observed sites; ``recipes``: what learns them by default
"""

from .joint.drawing import FailedSimulations
from .joint.joint import Joint
from .joint.simulations import Simulations
from .joint.simulator import Simulator
from .joint.variable import Variable
from .likelihood import Likelihood, likelihood
from .posterior import Posterior, posterior
from .ratio import Ratio, ratio
from .recipes import flow
from .replaced import replaced
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
    "flow",
    "likelihood",
    "posterior",
    "ratio",
    "replaced",
    "weighted_draws",
]


def __dir__() -> list[str]:
    return __all__
