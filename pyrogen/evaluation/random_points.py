r"""Joint coverage by random points: the regions are balls around a reference, so draws alone are needed.

The credible region of a posterior around a reference point is the ball that holds a given share of its draws. If the
posterior is right, the truth lies in it with that probability, whatever the reference. In other words the distance from
a reference is one more quantity of simulation-based calibration. A reference that depends on the data shows more: with
references from the prior, draws from the prior pass.

References:
    Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023, "Sampling-based accuracy testing of posterior estimators for
    general inference", https://arxiv.org/abs/2302.03026
"""

from __future__ import annotations

import torch

from pyrogen.arguments import checked, without_nan
from pyrogen.arrays import takes_arrays

from .calibration import Calibration
from .features import Features, Values, checked_values
from .ranks import ranks_among


@takes_arrays
@checked
def joint_coverage(
    latents: Values, drawn: Values, *, references: Values | None = None, generator: torch.Generator | None = None
) -> Calibration:
    """Ranks of how close the truth is to a reference point, among posterior draws: all coordinates in one number.

    Of what it gives, ``highest_coverage("closeness")`` is the coverage of the balls around the references, and ``test``
    its test. Distances are of standardized coordinates.

    Args:
        latents: The true values by site, simulations first.
        drawn: Posterior draws by site, ``(draws, simulations, *shape)``.
        references: A point for each simulation, which may depend on its data: a regression of the latent values on the
            data is a good one. The true values of another simulation if ``None``, which are draws from the prior.
        generator: Of the order of references and of ties.

    Raises:
        TypeError: values are no tensors.
        ValueError: shapes do not fit, or values are infinite or NaN.

    Example:
        >>> mean = torch.randn(300)
        >>> data = mean + torch.randn(300)
        >>> drawn = data / 2 + torch.randn(50, 300) / 2**0.5
        >>> calibration = joint_coverage({"mean": mean}, {"mean": drawn}, references={"mean": data})
        >>> calibration.highest_coverage("closeness", levels=torch.tensor([0.5])).levels
        tensor([0.5098], dtype=torch.float64)
    """
    rows = len(next(iter(checked_values(latents, "latents").values())))
    draws = len(next(iter(checked_values(drawn, "drawn").values())))
    if rows < 2:
        raise ValueError(f"`latents` must hold at least two simulations, got {rows}")
    for name, value in latents.items():
        if name not in drawn or drawn[name].shape != (draws, *value.shape):
            got = tuple(drawn[name].shape) if name in drawn else "nothing"
            raise ValueError(f"`drawn[{name!r}]` must have shape {(draws, *value.shape)}, got {got}")
    # Truths and draws are standardized as one: by themselves, truths would be of the scale that they set.
    pooled = {name: torch.cat([latents[name][None], drawn[name]]).flatten(0, 1) for name in latents}
    features = Features(pooled, sets=False, most=torch.inf, name="latents")
    if references is None:
        order = torch.randperm(rows, generator=generator)
        other = torch.empty_like(order).scatter_(0, order, order.roll(1))
        references = {name: value[other.to(value.device)] for name, value in latents.items()}
    points = features(checked_values(references, "references", like=features))
    if len(points) != rows:
        raise ValueError(f"`references` must hold a point for each of the {rows} simulations, got {len(points)}")
    for name, values in (("latents", latents), ("drawn", drawn), ("references", references)):
        for site, value in values.items():
            without_nan(value, f"{name}[{site!r}]")
    distances = (features(latents) - points).square().sum(1)
    flat = {name: drawn[name].flatten(0, 1) for name in latents}
    others = (features(flat).unflatten(0, (draws, rows)) - points).square().sum(2)
    return Calibration({"closeness": ranks_among(-distances, -others, generator)}, draws)
