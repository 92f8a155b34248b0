"""The density of the prior of a program's latent sites."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import torch
from torch import Tensor

from pyrogen.programs.layouts import DrawsTogether, OneDraw
from pyrogen.programs.run import Given, Record, Until, isolated

from .joint import Joint


def require_density(joint: Joint) -> None:
    """Refuses a prior that has no density of the learned sites alone.

    Raises:
        NotImplementedError: a learned site depends on a nuisance site, which is summed out.
    """
    for name in joint.latents:
        found = joint.dependence.ancestors(name) & set(joint.nuisance)
        if found:
            raise NotImplementedError(
                f"the prior of site {name!r} depends on the nuisance sites {sorted(found)}, so that its density is not "
                "known"
            )


@torch.no_grad()
def log_prior(joint: Joint, latents: Mapping[str, Tensor]) -> Tensor:
    """The log-density of the prior at latent values, rows first: one number a row, in nats.

    The program is left after its last latent site, so that nothing is simulated.
    """
    rows = len(next(iter(latents.values())))
    if joint.vectorized:
        return _scored(joint, latents, rows)
    each = [{name: value[row : row + 1] for name, value in latents.items()} for row in range(rows)]
    return torch.cat([_scored(joint, values, 1) for values in each])


def _scored(joint: Joint, latents: Mapping[str, Tensor], rows: int) -> Tensor:
    width = max(len(variable.batch_shape) for variable in (joint.latents | joint.observed | joint.nuisance).values())
    layout = DrawsTogether(rows, width) if joint.vectorized else OneDraw()
    given = {
        name: variable.spread(latents[name], width) if joint.vectorized else latents[name][0]
        for name, variable in joint.latents.items()
    }
    with isolated(), pyro.validation_enabled(False), Record() as record, Given(given, free=True), Until(given):
        layout.laid_out(joint.program)(*joint.args, **joint.kwargs)
    scores = [site.log_prob().reshape(rows, -1).sum(1) for site in record.sites if site.name in joint.latents]
    return torch.stack(scores).sum(0)
