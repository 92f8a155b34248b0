r"""The joint distribution of a program's latent and observed sites, known by simulation.

A Pyro program with latent sites :math:`\theta`, nuisance sites :math:`\nu` and observed sites :math:`x` is the joint
distribution

.. math::
    p(\theta, x) = \int p(\theta) \, p(\nu \mid \theta) \, p(x \mid \theta, \nu) \, d\nu .

Its draws are all that simulation-based inference needs: no site has to have a ``log_prob``, and nuisance sites are
summed out by leaving their values aside. Posteriors :math:`p(\theta \mid x)`, likelihoods :math:`p(x \mid \theta)` and
ratios :math:`p(x \mid \theta) / p(x)` are learned from draws :math:`(\theta, x)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyrogen.arguments import checked, count, function, integer, real_tensor, switch, whole_share
from pyrogen.arrays import as_tensors
from pyrogen.core.sources import SimulatedData
from pyrogen.numerics.exclusive import exclusive
from pyrogen.numerics.randomness import held, seed_all
from pyrogen.numerics.supports import contains
from pyrogen.programs.run import Given, Program

from .drawing import Block, Drawing, warn_of_failures
from .exchangeable import unexchangeable_plates
from .fresh import FreshSimulations
from .reading import read_program
from .runs import undisturbed
from .simulations import Simulations
from .sizes import checked_sizes, shortened
from .verification import obstacle_to_many

Values = dict[str, Tensor]
SIMULATIONS = "_pyrogen_simulations"
"""The name of the plate that a joint distribution called with a ``size`` puts around its program."""


class Joint(SimulatedData):
    """The joint distribution of a program's latent and observed sites, known by simulation.

    Many simulations run at once, under one more plate outside all others, where the program allows it. That is found
    out by a few runs; a program that indexes ``theta[0]`` rather than ``theta[..., 0]``, or branches on values, does
    not, and its simulations run one by one. What cannot be found out is noise that NumPy makes and many simulations
    share in part; give ``vectorized=False`` where that may be.

    A simulation in which the program raises an exception, or a site is NaN or infinite, has failed: it is left out and
    counted. What is learned from the others has the prior *given that the simulator succeeds*. Pyro's validation, which
    makes a distribution with an argument out of range an exception, is on or off as it was when the program was read.

    Args:
        program: A Pyro program. Its observed sites are drawn, also where it is called with data.
        observed: The names of the sites that are data, ``pyro.deterministic`` ones among them.
        args: The program's positional arguments.
        kwargs: Its keyword arguments.
        nuisance: The names of latent sites that are summed out.
        sizes: By the name of a plate, the least and the largest number of its rows that a simulation has; the logarithm
            of the number is uniform. Absent rows are NaN, the last ones. Rows of the plate must be exchangeable.
        vectorized: Whether many simulations run at once; found out if ``None``.

    Attributes:
        latents: What is learned, by site in the order of the program.
        nuisance: The latent sites that are summed out.
        observed: The observed sites, in the order of the program.
        dependence: Which sites depend on which. Observed sites count as latent here: they may be parents.
        exchangeable: The plates of observed sites whose rows are exchangeable given the latent sites, so that what is
            observed in them is a set.
        sizes: As the argument; empty without.
        vectorized: Whether many simulations run at once.

    Raises:
        TypeError: an argument is of another type.
        ValueError: a name is not that of such a site, plates are subsampled, the program has factors, has data for
            other sites or changes a value in place, the support of a latent site depends on others, or ``sizes`` do not
            fit the plates.

    Example:
        >>> import pyro.distributions as dist
        >>> def program(x=None):
        ...     theta = pyro.sample("theta", dist.Uniform(-1, 1).expand([2]).to_event(1))
        ...     with pyro.plate("rows", 20):
        ...         pyro.sample("x", dist.Normal(theta[..., 0], theta[..., 1].exp()), obs=x)
        >>> joint = Joint(program, observed="x")
        >>> joint.draw(1000, seed=0)
        <Simulations: 1000 rows of theta (2,); x (20,)>
        >>> joint.exchangeable
        frozenset({'rows'})
    """

    @checked(program=function, vectorized=switch)
    def __init__(
        self,
        program: Program,
        *,
        observed: str | Sequence[str],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        nuisance: str | Sequence[str] = (),
        sizes: Mapping[str, tuple[int, int]] | None = None,
        vectorized: bool | None = None,
    ) -> None:
        self.program, self.args, self.kwargs = program, tuple(args), dict(kwargs or {})
        with held(), undisturbed(program):
            seed_all(0)
            found = read_program(
                program, self.args, self.kwargs, _names(observed, "observed"), _names(nuisance, "nuisance")
            )
            self.latents, self.nuisance, self.observed = found.latents, found.nuisance, found.observed
            self.dependence, self._runs = found.dependence, found.runs
            self._obstacle = obstacle_to_many(found) if vectorized is None else None
            self.vectorized = self._obstacle is None if vectorized is None else vectorized
            obstacles = unexchangeable_plates(found, together=self.vectorized)
            self.exchangeable = frozenset(name for name, reason in obstacles.items() if reason is None)
            self.sizes = checked_sizes(sizes, found, obstacles)
        self._validated = is_validation_enabled()
        self._told = self._obstacle is None

    @checked(n=integer, workers=count, failures=whole_share, progress=switch)
    def draw(
        self,
        n: int,
        *,
        seed: int | None = None,
        workers: int = 0,
        batch_size: int | None = None,
        failures: float = 0.01,
        progress: bool = True,
    ) -> Simulations:
        """Simulations: independent draws of latent and observed values.

        Args:
            n: How many. Those that fail are left out.
            seed: Of all noise, in a scope of its own; the draws do not depend on ``workers``. From torch's generator if
                ``None``.
            workers: Processes that simulate, by ``fork`` where there is one.
            batch_size: Simulations that run at once, or that a worker makes in a row; a share of ``n`` if ``None``.
            failures: The largest share of simulations that may fail.
            progress: Whether a bar is shown, in terminals and notebooks.

        Raises:
            FailedSimulations: more fail; the message names the site and what the first exception was.
            ValueError: the program has other sites, or sites of another shape, than before.
        """
        return self._simulated(n, {}, seed, workers, batch_size, failures, progress)

    @checked(n=integer, workers=count, failures=whole_share)
    def prior(
        self, n: int, *, seed: int | None = None, batch_size: int | None = None, failures: float = 0.01
    ) -> Values:
        """Draws of the latent sites alone; the program is left after the last of them, so that nothing is simulated."""
        block = self._drawn(n, {}, set(self.latents), seed, 0, batch_size, failures, False)
        return {name: block.values[name] for name in self.latents}

    @checked(workers=count, failures=whole_share, progress=switch)
    def simulate(
        self,
        latents: Mapping[str, Tensor],
        *,
        seed: int | None = None,
        workers: int = 0,
        batch_size: int | None = None,
        failures: float = 0.01,
        progress: bool = True,
    ) -> Simulations:
        """Simulations at given latent values, such as those of a proposal; nuisance sites are drawn.

        Args:
            latents: The values of all latent sites, rows first.
            seed: As for :meth:`draw`, and so are the others.
            workers: See there.
            batch_size: See there.
            failures: See there.
            progress: See there.

        Raises:
            ValueError: ``latents`` lack a site, have another shape than rows of its values, or lie outside its support.
            FailedSimulations: as for :meth:`draw`.
        """
        given = self._checked_latents(as_tensors(latents, "latents"))
        rows = len(next(iter(given.values())))
        return self._simulated(rows, given, seed, workers, batch_size, failures, progress)

    @checked(batches=integer, failures=whole_share)
    def fresh(self, batch_size: int = 128, *, batches: int = 100, failures: float = 0.01) -> FreshSimulations:
        """Minibatches of simulations that are drawn as training goes, for ``fit(module, joint.fresh(64), steps=...)``.

        Args:
            batch_size: Simulations in a minibatch.
            batches: Minibatches in an epoch; the first epoch is what statistics are learned from.
            failures: The largest share of the simulations of an epoch that may fail.
        """
        return FreshSimulations(self._minibatch, batch_size, batches, failures)

    def __iter__(self) -> Iterator[tuple[Values, Values]]:
        """An epoch of minibatches of fresh simulations."""
        return iter(self.fresh())

    def __call__(self, size: int | None = None) -> Any:
        """Runs the program, its observed sites free, under a plate of ``size`` rows, for the handlers around.

        It is what :func:`~pyrogen.evaluation.simulation_based_calibration` takes as a model. Nuisance sites are marked
        as auxiliary.

        Raises:
            ValueError: the program does not allow many simulations at once.
        """
        if not self.vectorized:
            raise ValueError(
                "the program runs one simulation at a time, so that it has no plate of `size` rows: give simulations, "
                "as in `simulation_based_calibration(..., simulations=joint.draw(n))`"
            )
        size = integer(1 if size is None else size, "size")
        marked = pyro.poutine.infer_config(self.program, self._marks)
        with pyro.plate(SIMULATIONS, size, dim=-self._runs.width - 1), Given({}, free=True):
            return marked(*self.args, **self.kwargs)

    def __repr__(self) -> str:
        parts = [
            ", ".join(f"{name} {variable.shape}" for name, variable in part.items())
            for part in (self.latents, self.observed)
        ]
        how = "" if self.vectorized else f", one by one ({self._obstacle})" if self._obstacle else ", one by one"
        return f"<Joint of {'; '.join(parts)}{how}>"

    def _simulated(self, n: int, given: Mapping[str, Tensor], seed: int | None, *settings: Any) -> Simulations:
        seed = _seed(seed)
        block = self._drawn(n, given, {*self.latents, *self.observed}, seed, *settings)
        if block.failed:
            warn_of_failures(block, n, stacklevel=5)
        return self._simulations(block, seed)

    def _simulations(self, block: Block, seed: int) -> Simulations:
        latents, observed = ({name: block.values[name] for name in part} for part in (self.latents, self.observed))
        return Simulations(latents, shortened(observed, self.observed, self.sizes, seed), failed=block.failed)

    def _minibatch(self, size: int) -> tuple[Simulations, Block]:
        """Simulations, and what is known of those that failed, of which any number may."""
        seed = _seed(None)
        block = self._drawn(size, {}, {*self.latents, *self.observed}, seed, 0, size, 1.0, False)
        return self._simulations(block, seed), block

    def _drawn(
        self,
        n: int,
        given: Mapping[str, Tensor],
        wanted: set[str],
        seed: int | None,
        workers: int,
        batch_size: int | None,
        failures: float,
        progress: bool,
    ) -> Block:
        size = min(max(-(-n // 16), 32), 1024) if batch_size is None else integer(batch_size, "batch_size")
        self._tell()
        drawing = Drawing(self._runs, wanted, self.vectorized, n, given, _seed(seed), size)
        # `fit` turns validation off, and fewer simulations would fail.
        with exclusive(), pyro.validation_enabled(self._validated):
            return drawing(workers=workers, failures=failures, progress=progress)

    def _tell(self) -> None:
        """Warns once that a program is slow, and why."""
        if not self._told:
            self._told = True
            warnings.warn(
                f"simulations run one by one, since the program does not allow many at once: {self._obstacle}. Write "
                "it with batch dimensions on the left (`theta[..., 0]`), or give `vectorized=False`",
                UserWarning,
                stacklevel=6,
            )

    def _checked_latents(self, latents: Mapping[str, Tensor]) -> Values:
        if not isinstance(latents, Mapping) or set(latents) != set(self.latents):
            got = list(latents) if isinstance(latents, Mapping) else type(latents).__name__
            raise ValueError(f"`latents` must be a dict of values of {list(self.latents)}, got {got}")
        tensors = {name: real_tensor(value, f"latents[{name!r}]") for name, value in latents.items()}
        rows = {name: len(value) if value.dim() else 0 for name, value in tensors.items()}
        if len(set(rows.values())) != 1 or not all(rows.values()):
            raise ValueError(f"`latents` must have equally many rows, at least one, got {rows}")
        given = {}
        for name, variable in self.latents.items():
            value = latents[name].detach()
            if tuple(value.shape[1:]) != variable.shape:
                raise ValueError(
                    f"`latents[{name!r}]` must be rows of shape {variable.shape}, got shape {tuple(value.shape)}"
                )
            outside = ~contains(variable.support, value)
            if bool(outside.any()):
                raise ValueError(
                    f"`latents[{name!r}]` must lie in the support {variable.support}, got {int(outside.sum())} of "
                    f"{outside.numel()} outside"
                )
            given[name] = value.to(variable.dtype)
        return given

    def _marks(self, site: Mapping[str, Any]) -> dict[str, Any]:
        return {**site["infer"], "is_auxiliary": True} if site["name"] in self.nuisance else dict(site["infer"])


def _names(names: str | Sequence[str], argument: str) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if not all(isinstance(name, str) for name in found):
        raise TypeError(f"`{argument}` must be the name of a site, or several, got {names!r}")
    return found


def _seed(seed: int | None) -> int:
    return int(torch.randint(2**62, ())) if seed is None else seed
