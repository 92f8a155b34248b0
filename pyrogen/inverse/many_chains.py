"""Many Markov chains in one batch: the posterior of any Pyro model with continuous latent sites."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from pyro.infer.autoguide.initialization import init_to_sample
from torch import Tensor

from pyrogen.arguments import checked, instance_of, integer, switch
from pyrogen.numerics.markov.compilation import compiled
from pyrogen.numerics.markov.moves import Move
from pyrogen.numerics.markov.sampling import AdaptiveHMC, AdaptiveKernel, Sampling
from pyrogen.numerics.markov.state import evaluate
from pyrogen.numerics.randomness import seeded
from pyrogen.training.checkpoint import Checkpoint

from .answer import Answer, Results
from .chain_diagnostics import chain_diagnostics
from .free_sites import started, starting_points
from .latent_density import LatentDensity
from .noise import constant
from .saved import check_same_data, placed

_TRIES = 100  # at a point to start from


class ManyChains(Answer):
    r"""The posterior of any Pyro model with continuous latent sites, by many Markov chains in one batch.

    Chains side by side are almost free: a gradient for sixty-four costs little more than one for a single chain. They
    share what they learn while they warm up (step size, trajectory length, mass), and whether they agree in the end
    says whether to trust them: chains in modes that lie apart have an R-hat far above one, and the answer has
    *collapsed*.

    Sites of constrained support are sampled in unconstrained coordinates, as by Pyro's kernels. Discrete sites are
    summed out, and drawn in the end, along with what the model computes from its latent sites. Parameters stay as they
    are.

    Args:
        model: The Pyro model.
        chains: How many chains there are.
        draws: How many draws of each are kept.
        warmup: How many moves go before.
        kernel: How chains move: :class:`~pyrogen.numerics.markov.sampling.AdaptiveHMC`, which with ``steps=1`` is MALA,
            or :class:`~pyrogen.numerics.markov.sampling.UnadjustedLangevin`.
        initial: Where chains start: one of Pyro's strategies such as ``init_to_uniform``, by default a draw of the
            prior, or values of the continuous latent sites, each ``(chains, *shape)``.
        compile: Whether torch compiles the density and its gradient. It takes from ten seconds to minutes and makes a
            small model ten times as fast; what the model does must not depend on values.
        seed: Of all random numbers; torch's generator gives one if it is not given.
        checkpoint: Where the run is saved, if anywhere. A run that finds its file goes on from there, to the last
            random number; one that was finished, with more ``draws``, goes on to these.

    References:
        Hoffman, Radul and Sountsov 2021, "An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte
        Carlo", https://proceedings.mlr.press/v130/hoffman21a.html

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Poisson(rate), obs=y)
        >>> posterior = ManyChains(model, chains=16, draws=50, warmup=50, seed=0).run(torch.tensor([2.0, 3.0]))
        >>> posterior.get_samples(group_by_chain=True)["rate"].shape
        torch.Size([16, 50])
        >>> posterior.diagnostics().collapsed
        False
    """

    no_evidence = (
        "Markov chains do not estimate the evidence; SMCSampler, Laplace and NoiseVI do, and TwistedSMC of a diffusion "
        "prior"
    )

    @checked(
        draws=partial(integer, least=4), kernel=instance_of(AdaptiveKernel), compile=switch, initial=starting_points
    )
    def __init__(
        self,
        model: Callable,
        *,
        chains: int = 64,
        draws: int = 200,
        warmup: int = 300,
        kernel: AdaptiveKernel | None = None,
        initial: Callable | Mapping[str, Tensor] = init_to_sample,
        compile: bool = False,
        seed: int | None = None,
        checkpoint: str | os.PathLike | Checkpoint | None = None,
    ) -> None:
        super().__init__(model)
        self.number_of_chains, self.draws, self.warmup = chains, draws, warmup
        self.kernel = kernel or AdaptiveHMC()
        self.initial, self.compile, self.seed = initial, compile, seed
        self.checkpoint = checkpoint if isinstance(checkpoint, Checkpoint | None) else Checkpoint(checkpoint)

    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        seed = torch.randint(2**62, ()).item() if self.seed is None else self.seed
        with seeded(seed), constant(started(self.model, self.initial), args, kwargs):
            density = LatentDensity(self.model, args, kwargs, self.initial)
            record = self._run(density, seed)
            torch.manual_seed(seed)  # what is drawn in the end is the same after a run that was resumed
            values = density.completed(record.x.flatten(0, 1))
        by_chain = {name: value.unflatten(0, (self.number_of_chains, -1)) for name, value in values.items()}
        diagnostics = chain_diagnostics(
            by_chain,
            divergences=int(record.diverged.sum()),
            acceptance=record.acceptance.mean().item(),
            energy=record.energy,
            seconds=record.seconds,
            warmup_seconds=record.warmup_seconds,
        )
        statistics = {"diverging": record.diverged, "energy": record.energy, "acceptance_rate": record.acceptance}
        return Results(
            values,
            diagnostics,
            sample_stats={name: value.flatten() for name, value in statistics.items()},
            chains=self.number_of_chains,
        )

    def _run(self, density: LatentDensity, seed: int) -> KeptMoves:
        """All moves, saved on the way."""
        began = time.perf_counter()
        generator = torch.Generator(density.device).manual_seed(seed)
        x = self._start(density)
        target = compiled(density, x) if self.compile else density
        sampling = Sampling(target, x, self.kernel, warmup=self.warmup, generator=generator)
        record = KeptMoves()
        with self.checkpoint.reserved() if self.checkpoint else nullcontext():
            self._resume(density, seed, sampling, record)
            while len(record) < self.draws:
                warm, move = sampling.warm, sampling.move()
                if warm:
                    record.add(move)
                began = record.clock(began, warm)
                if self.checkpoint and (self.checkpoint.due() or len(record) == self.draws):
                    self.checkpoint.save(self._state(density, seed, sampling, record))
        return record

    def _start(self, density: LatentDensity) -> Tensor:
        """Points at which density and gradient are finite: others are drawn anew."""
        if isinstance(self.initial, Mapping):
            return self._given(density, self.initial)
        x = density.initial(self.number_of_chains)
        for _ in range(_TRIES):
            bad = ~evaluate(density, x).log_density.isfinite()
            if not bad.any():
                refuse_noise(density, x)
                return x
            x[bad] = density.initial(int(bad.sum()))
        raise ValueError(
            f"`model` must have finite densities where chains start, got none in {_TRIES} draws for "
            f"{int(bad.sum())} of {len(x)} chains, by the sites {density.blamed(x[bad][0])}; give `initial` values"
        )

    def _given(self, density: LatentDensity, initial: Mapping[str, Tensor]) -> Tensor:
        shapes = {name: (self.number_of_chains, *shape) for name, shape in density.shapes.items()}
        found = {name: tuple(value.shape) for name, value in initial.items()}
        if found != shapes:
            raise ValueError(f"`initial` must hold values of the continuous latent sites {shapes}, got {found}")
        x = density.packed(initial)
        bad = (~evaluate(density, x).log_density.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"`initial` must be values of finite density and gradient, got {len(bad)} chains where they are not, "
                f"the first being {bad[:10]}, by the sites {density.blamed(x[bad[0]])}"
            )
        refuse_noise(density, x)
        return x

    def _state(self, density: LatentDensity, seed: int, sampling: Sampling, record: KeptMoves) -> dict[str, Any]:
        return {
            "settings": self._settings(density, seed),
            "data": density.data,
            "sampling": sampling.state_dict(),
            "record": record.state_dict(),
        }

    def _settings(self, density: LatentDensity, seed: int) -> dict[str, Any]:
        return {
            "sites": {name: list(shape) for name, shape in density.shapes.items()},
            "chains": self.number_of_chains,
            "warmup": self.warmup,
            "kernel": self.kernel.settings,
            "seed": seed,
        }

    def _resume(self, density: LatentDensity, seed: int, sampling: Sampling, record: KeptMoves) -> None:
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            return
        expected, found = self._settings(density, seed), state.get("settings", {})
        if self.seed is None:
            expected["seed"] = found.get("seed")
        if found != expected:
            raise ValueError(f"`checkpoint` must hold a run of the settings {expected}, got {found}")
        check_same_data(density.data, state.get("data", {}))
        sampling.load_state_dict(placed(state["sampling"], density.device))
        record.load_state_dict(placed(state["record"], density.device))
        if len(record) > self.draws:
            raise ValueError(f"`draws` must be at least the {len(record)} that `checkpoint` holds, got {self.draws}")
        now = density(sampling.state.x).detach()
        if not torch.allclose(now, sampling.state.log_density, rtol=1e-4, atol=1e-3):
            raise ValueError(
                "`checkpoint` must hold a run of the same model and data, got one in which the chains had other "
                f"log-densities: the first {sampling.state.log_density[0]:.4f}, now {now[0]:.4f}"
            )


class KeptMoves:
    """What moves left.

    Attributes:
        seconds: How long the draws took.
        warmup_seconds: How long it took to warm up.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, ...]] = []
        self.seconds = self.warmup_seconds = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, move: Move) -> None:
        """Keeps what a move gave."""
        self.rows.append((move.state.x, move.diverged, move.energy, move.acceptance))

    def clock(self, began: float, warm: bool) -> float:
        """Counts the time since then, and gives the time now."""
        now = time.perf_counter()
        if warm:
            self.seconds += now - began
        else:
            self.warmup_seconds += now - began
        return now

    def _stacked(self, place: int) -> Tensor:
        return torch.stack([row[place] for row in self.rows], 1)

    @property
    def x(self) -> Tensor:
        """The points, ``(chains, draws, size)``."""
        return self._stacked(0)

    @property
    def diverged(self) -> Tensor:
        """Where the integrator failed, ``(chains, draws)``."""
        return self._stacked(1)

    @property
    def energy(self) -> Tensor:
        """The energies, ``(chains, draws)``."""
        return self._stacked(2)

    @property
    def acceptance(self) -> Tensor:
        """The acceptance probabilities, ``(chains, draws)``."""
        return self._stacked(3)

    def state_dict(self) -> dict[str, Any]:
        """All of it, in numbers and tensors."""
        columns = [self._stacked(place) for place in range(4)] if self.rows else []
        return {"columns": columns, "seconds": self.seconds, "warmup_seconds": self.warmup_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what another record holds."""
        self.rows = list(zip(*(column.unbind(1) for column in state["columns"]), strict=True))
        self.seconds, self.warmup_seconds = state["seconds"], state["warmup_seconds"]


def refuse_noise(density: LatentDensity, x: Tensor) -> None:
    """Raises a NotImplementedError if the density at two points ``(2, size)``, or more, is not the same twice."""
    first, second = (density(x[:2]).detach() for _ in range(2))
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-4):
        raise NotImplementedError(
            "the log-density of the model draws fresh noise at every call, so a Markov chain would compare noise and "
            "not densities; use sites with a density of their own, or freeze the noise"
        )
