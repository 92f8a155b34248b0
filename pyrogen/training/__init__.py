"""Training: the one loop, ``fit``, for models, objectives and games, and what it is given and gives."""

from .averages import Average
from .buffers import LocalBuffers
from .checkpoint import Checkpoint
from .fit import fit
from .power_averages import PowerAverages
from .progress import Fit, History, Progress
from .trackers import TensorBoard, Tracker, WeightsAndBiases
from .turn import TakesTurns, Turn
from .validation import WholeSet

__all__ = [
    "Average",
    "Checkpoint",
    "Fit",
    "History",
    "LocalBuffers",
    "PowerAverages",
    "Progress",
    "TakesTurns",
    "TensorBoard",
    "Tracker",
    "Turn",
    "WeightsAndBiases",
    "WholeSet",
    "fit",
]


def __dir__() -> list[str]:
    return __all__
