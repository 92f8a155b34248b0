"""Reading and running Pyro programs: their sites, runs with given values, and the data plate."""

from .chain import refuse_chain, refuse_noise
from .data_plate import DataCount, DataRows, FullSize, candidates, data_plate
from .dependence import Dependence, IndependentProblems, dependence, independent_problems
from .layouts import DrawLayout, DrawnSite, DrawsTogether, OneDraw, RowsRepeated
from .reading import Reading, reading_of, settled_data_plates
from .rows import drawn_together, global_sites, row_parameters
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
    "candidates",
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
