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

from .chain import refuse_chain, refuse_noise
from .data_plate import DataCount, DataRows, FullSize, data_plate, possible_data_plates
from .dependence import Dependence, dependence
from .layouts import DrawLayout, DrawnSite, DrawsTogether, OneDraw, RowsRepeated
from .problems import IndependentProblems, independent_problems
from .reading import Reading, drawn_together, global_sites, reading_of, row_parameters, settled_data_plates
from .run import Given, ProgramRun, Record, isolated, run
from .site import Plate, Site, is_site

__all__ = [
    "DataCount",
    "DataRows",
    "Dependence",
    "DrawLayout",
    "DrawnSite",
    "DrawsTogether",
    "FullSize",
    "Given",
    "IndependentProblems",
    "OneDraw",
    "Plate",
    "ProgramRun",
    "Reading",
    "Record",
    "RowsRepeated",
    "Site",
    "possible_data_plates",
    "data_plate",
    "dependence",
    "drawn_together",
    "global_sites",
    "independent_problems",
    "is_site",
    "isolated",
    "reading_of",
    "refuse_chain",
    "refuse_noise",
    "row_parameters",
    "run",
    "settled_data_plates",
]
