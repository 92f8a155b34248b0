r"""Twists learned by contrast: draws of the posterior against draws of the prior, at every place.

For a prefix the best twist is :math:`\psi_t \propto p(x_{\le t} \mid y) / p(x_{\le t})`, the ratio of its probabilities
in the posterior and in the prior. It is where

.. math:: \mathbb{E}_{p(x \mid y)} [\log \psi_t(x_{\le t})] - \log \mathbb{E}_{p(x)} [\psi_t(x_{\le t})]
          \le \mathrm{KL} \bigl( p(x_{\le t} \mid y) \,\|\, p(x_{\le t}) \bigr)

is largest, the bound of Donsker and Varadhan. Its gradient is the contrast of Zhao et al.: prefixes of the posterior
against those of the prior, weighed by the twist that there is.

References:
    Zhao, Brekelmans, Makhzani and Grosse 2024, "Probabilistic inference in language models via twisted sequential Monte
    Carlo", section 4.1, https://arxiv.org/abs/2404.17546
    Donsker and Varadhan 1983, "Asymptotic evaluation of certain Markov process expectations for large time, IV",
    https://doi.org/10.1002/cpa.3160360204
"""

from __future__ import annotations

import math

from torch import Tensor

from pyrogen.arguments import checked, instance_of
from pyrogen.core.objective import Objective

from .twist import LearnedTwist


class TwistContrast(Objective):
    r"""Minus the bound of Donsker and Varadhan of prefixes, a mean over their lengths, in nats.

    It is called with draws of the posterior and as many of the prior. The first come from a run of
    :class:`SequenceSMC`, with any twist and many particles, or from draws of the prior that happen to fit; with the
    twist that was learned from them a further run has better ones.

    Args:
        twist: What is trained. Its places are those of events row by row, and so must be those of the prior.

    Raises:
        ValueError: when called: there are no draws.

    Example:
        >>> twist = pg.inverse.transformer_twist((4,), symbols=3, width=16, depth=1, heads=2)
        >>> posterior, prior = torch.zeros(50, 4), torch.randint(3, (50, 4))
        >>> fit = pg.fit(TwistContrast(twist), (posterior, prior), steps=2)
    """

    unit = "nats"

    @checked(twist=instance_of(LearnedTwist))
    def __init__(self, twist: LearnedTwist) -> None:
        super().__init__()
        self.twist = twist

    def forward(self, posterior: Tensor, prior: Tensor) -> Tensor:
        if not len(posterior) or not len(prior):
            raise ValueError(
                f"`posterior` and `prior` must hold at least one draw each, got {len(posterior)} and {len(prior)}"
            )
        wanted, others = self.twist(posterior.flatten(1)), self.twist(prior.flatten(1))  # (R, L)
        return (others.logsumexp(0) - math.log(len(others)) - wanted.mean(0)).mean()
