"""Reading and running Pyro programs.

``site``           a random statement: name, distribution, value, plates, observed, scale, mask, support
``run``            one way to run a program with given values, apart from all around it, and to record what ran
``dependence``     which sites are computed from which others, or from the data
``problems``       a site in plates as independent problems, one a row
``data_plate``     the plate whose rows are the data, and how many data it stands for
``reading``        a model and guide on a minibatch: the data plate, what lies outside it, what belongs to single rows
``layouts``        many draws at once, under a plate of their own or as repeated rows
``hidden_values``  points of the support in place of observed values that a mask hides
``chain``          noisy log-probabilities are refused under a Markov chain
"""

from .data_plate import data_plate
from .dependence import Dependence, dependence
from .run import ProgramRun, run
from .site import Site

__all__ = [
    "Dependence",
    "ProgramRun",
    "Site",
    "data_plate",
    "dependence",
    "run",
]


def __dir__() -> list[str]:
    return __all__
