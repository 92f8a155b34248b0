r"""Any likelihood, to a power, of data and of other latent sites.

After each move of the data the free coordinates :math:`u` of other sites take steps of a random walk, accepted by the
ratio of :math:`p(u) \, p(y \mid x, u)^\beta`. The first has the covariance of the particles times :math:`2.38^2 / k`
for :math:`k` numbers, the next ones less and less, since given the data they may vary far less.

References:
    Roberts and Rosenthal 2001, "Optimal scaling for various Metropolis-Hastings algorithms",
    https://doi.org/10.1214/ss/1015346320
"""

from __future__ import annotations

import torch
from torch import Tensor

from .powered import Powered
from .tempered_likelihood import Undo
from .unknowns import Unknowns

_SHARES = (1.0, 0.5, 0.25, 0.125)  # of the largest steps
_OPTIMAL = 2.38


class PoweredOthers(Powered):
    """The likelihood of all unknowns, to a power.

    Args:
        unknowns: The data and the other sites.
        most: The largest noise, in data units.
    """

    def __init__(self, unknowns: Unknowns, most: float) -> None:
        super().__init__(unknowns.target, unknowns.typical.unsqueeze(0), most)
        self._unknowns = unknowns
        self._root = self.operator.zero().new_zeros(unknowns.others, unknowns.others)

    def fit(self, x: Tensor) -> None:
        super().fit(x)
        others = x[:, 0, self.target.shape[1] :].double()
        values, vectors = torch.linalg.eigh(others.T.cov().reshape(2 * (others.shape[1],)))
        self._root = vectors * values.clamp_min(0).sqrt()

    def move(self, x: Tensor, width: float, noise: float, undo: Undo) -> tuple[Tensor, Tensor]:
        x, accepted = super().move(x, width, noise, undo)
        height = self._log_density(x, width)
        for share in _SHARES:
            x, height = self._walked(x, height, width, share * _OPTIMAL / self._unknowns.others**0.5)
        return x, accepted

    def _walked(self, x: Tensor, height: Tensor, width: float, scale: float) -> tuple[Tensor, Tensor]:
        others = x[..., self.target.shape[1] :]
        step = scale * torch.randn_like(others, dtype=torch.double) @ self._root.T
        proposed = torch.cat([x[..., : self.target.shape[1]], others + step.to(x)], -1)
        reached = self._log_density(proposed, width)
        accepted = torch.rand_like(height).log() < reached - height
        return torch.where(accepted.unsqueeze(-1), proposed, x), torch.where(accepted, reached, height)

    def _log_density(self, x: Tensor, width: float) -> Tensor:
        return self._unknowns.log_prior(x).double() + self.log_likelihood(self.seen(x), width)
