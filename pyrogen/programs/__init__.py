"""Reading and running Pyro programs: their sites, runs with given values, and the data plate."""

from .chain import refuse_chain, refuse_noise
from .data_plate import DataCount, FullSize, candidates, data_plate
from .reading import Reading, reading_of, settled_data_plates
from .rows import drawn_together, global_sites, row_parameters
from .run import Given, Record, Run, run
from .site import Plate, Site, is_site

__all__ = [
    "DataCount",
    "FullSize",
    "Given",
    "Plate",
    "Reading",
    "Record",
    "Run",
    "Site",
    "candidates",
    "data_plate",
    "drawn_together",
    "global_sites",
    "is_site",
    "reading_of",
    "refuse_chain",
    "refuse_noise",
    "row_parameters",
    "run",
    "settled_data_plates",
]
