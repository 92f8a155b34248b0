r"""Calibration of a model's own distribution: held-out data among draws of the model.

If a datum :math:`x` is a draw of :math:`p(x \mid c)`, as the draws :math:`x_1, \dots, x_L` of the model with the same
context are, then for any function :math:`f` the rank of :math:`f(x)` among the :math:`f(x_l)` is uniform. For a
coordinate it is the probability integral transform, by draws in place of a distribution function, which few models
have; for :math:`f = \log p` it shows whether data are as probable as the model's own draws. Only draws are needed, so
the check serves every family.

References:
    Gneiting, Balabdaoui and Raftery 2007, "Probabilistic forecasts, calibration and sharpness",
    https://doi.org/10.1111/j.1467-9868.2007.00587.x
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of, numbers
from pyrogen.arrays import takes_arrays
from pyrogen.core.batch import map_tensors
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, context_of_each

from .calibration import Calibration
from .ranks import ranks_among
from .scoring import as_evaluated, score
from .simulated import coordinates_of


@takes_arrays
@checked(module=instance_of(DistributionModule))
def marginal_calibration(
    module: DistributionModule,
    x: Tensor,
    context: Context = None,
    *,
    draws: int = 19,
    coordinates: int = 64,
    batch_size: int = 4096,
    generator: torch.Generator | None = None,
) -> Calibration:
    """Ranks of held-out data among draws of the model given the same contexts.

    Tested are the coordinates of an event (``"x[0]"``) and, where the model has one, its ``"log_prob"``, which may be
    a bound or unnormalized: datum and draws share the context and what is unknown. Each datum has draws of its own, so
    that the ranks are independent and their test is exact.

    Args:
        module: The model.
        x: Held-out data, ``(N, *event_shape)``.
        context: Of each datum.
        draws: How many draws of the model each datum is ranked among.
        coordinates: How many coordinates are tested at most; of larger events, so many at even distances.
        batch_size: How many draws are made and scored at once.
        generator: Breaks ties between ranks.

    Raises:
        TypeError: ``module`` is no distribution module, or ``x`` no tensor.
        ValueError: a shape does not fit, there are no data, or they hold NaN or cannot be scored.

    Example:
        >>> import pyrogen as pg
        >>> flow = pg.flows.affine_coupling((2,))
        >>> calibration = marginal_calibration(flow, torch.randn(100, 2))
        >>> list(calibration.ranks)
        ['x[0]', 'x[1]', 'log_prob']
    """
    numbers(x, "x")
    context = context_of_each(x, context, module.event_shape, module.context_shape)
    ranks: dict[str, list[Tensor]] = {}
    for index in torch.arange(len(x), device=x.device).split(max(1, batch_size // (draws + 1))):
        (given,) = map_tensors((context,), lambda entry, index=index: entry[index.to(entry.device)])
        pooled = _with_draws(module, x[index], given, draws)  # (draws + 1, rows, *event_shape)
        for name, values in _quantities(module, pooled, given, coordinates, batch_size).items():
            ranks.setdefault(name, []).append(ranks_among(values[0], values[1:], generator))
    return Calibration({name: torch.cat(parts) for name, parts in ranks.items()}, draws)


def _with_draws(module: DistributionModule, x: Tensor, context: Context, draws: int) -> Tensor:
    """The data, and after them draws of the model at their contexts."""
    with as_evaluated(module):
        distribution = module(context)
        drawn = distribution.sample((draws,) if distribution.batch_shape else (draws, len(x)))
    return torch.cat([x[None].to(drawn), drawn])


def _quantities(
    module: DistributionModule, values: Tensor, context: Context, coordinates: int, batch_size: int
) -> dict[str, Tensor]:
    rows = values.shape[:2]
    every = coordinates_of("x", values.flatten(0, 1))
    step = max(1, -(-len(every) // coordinates))
    found = {name: every[name].unflatten(0, rows) for name in list(every)[::step]}
    if module.density is not None:
        found["log_prob"] = score(module, values, context, batch_size).log_probs
    return found
