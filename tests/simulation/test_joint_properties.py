"""Random programs: what one simulation gives is what many at once give, in every row."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrogen.simulation import Joint

PRIORS = {
    "normal": dist.Normal(0.0, 1.0),
    "positive": dist.Gamma(2.0, 1.0),
    "interval": dist.Uniform(-1.0, 2.0),
    "simplex": dist.Dirichlet(torch.ones(3)),
    "count": dist.Poisson(3.0),
    "label": dist.Categorical(torch.ones(4) / 4),
}


@dataclass(frozen=True)
class Statement:
    """A latent site: its prior, the number of plates around it (0, 1 or 2), and how many event dimensions are added."""

    prior: str
    plates: int
    event: tuple[int, ...]

    def sample(self, name):
        prior = PRIORS[self.prior].expand(self.event).to_event(len(self.event))
        if self.plates == 2:
            with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 3, dim=-1):
                return pyro.sample(name, prior), prior.event_dim
        if self.plates == 1:
            with pyro.plate("inner", 3, dim=-1):
                return pyro.sample(name, prior), prior.event_dim
        return pyro.sample(name, prior), prior.event_dim


STATEMENTS = st.builds(
    Statement,
    prior=st.sampled_from(sorted(PRIORS)),
    plates=st.integers(0, 2),
    event=st.lists(st.integers(1, 3), max_size=2).map(tuple),
)


def program_of(statements):
    def program(x=None):
        total = 0.0
        for number, statement in enumerate(statements):
            value, events = statement.sample(f"site{number}")
            flat = value.float().reshape(*value.shape[: value.dim() - events], -1)
            weights = torch.arange(1.0, flat.shape[-1] + 1).sqrt()
            total = total + (number + 1) * (flat * weights).sum(-1)
        with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 3, dim=-1):
            pyro.deterministic("x", total + torch.zeros(2, 3), event_dim=0)
            pyro.sample("y", dist.Normal(total, 1e-3))

    return program


@settings(max_examples=12, deadline=None, derandomize=True)
@given(statements=st.lists(STATEMENTS, min_size=1, max_size=4))
def test_many_simulations_at_once_are_as_one_by_one(statements):
    program = program_of(statements)
    joint = Joint(program, observed=["x", "y"])
    assert joint.vectorized, joint
    simulations = joint.draw(4, seed=0)
    again = Joint(program, observed=["x", "y"], vectorized=False).simulate(simulations.latents, seed=1)
    for name, variable in joint.latents.items():
        value = simulations.latents[name]
        assert value.shape == (4, *variable.shape)
        assert value.dtype == variable.dtype
        assert torch.equal(again.latents[name], value)
    torch.testing.assert_close(again.observed["x"], simulations.observed["x"])
    assert (again.observed["y"] - simulations.observed["y"]).abs().max() < 0.01
    assert (simulations.observed["y"] - simulations.observed["x"]).abs().max() < 0.01
