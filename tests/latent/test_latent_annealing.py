"""Annealing: the weights of steps, where they are counted, and that a resumed run goes on where it was."""

import pytest
import torch
from linear_gaussian import exact_elbo, flat_gradient, linear_vae

import pyrogen as pg
from pyrogen.latent import BetaElbo, CyclicAnnealing, LinearAnnealing
from pyrogen.testing import check_objective


def test_weights():
    linear = LinearAnnealing(4, start=0.2, end=1.0)
    assert [round(linear().item(), 6) for _ in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    cyclic = CyclicAnnealing(5, cycles=2, rising=0.4, end=2.0)
    assert [round(cyclic().item(), 6) for _ in range(12)] == [0, 1, 2, 2, 2, 0, 1, 2, 2, 2, 2, 2]


def test_only_gradient_steps_count():
    beta = LinearAnnealing(10)
    beta.eval()()
    with torch.no_grad():
        beta.train()()
    assert beta.step == 0
    beta()
    assert beta.step == 1


def test_each_step_has_its_own_gradient():
    torch.manual_seed(0)
    vae = linear_vae().double()
    x = torch.randn(8, 3, dtype=torch.float64)
    parameters = list(vae.parameters())
    rate = torch.distributions.kl_divergence(vae.posterior(x), vae.prior()).mean()
    distortion = -exact_elbo(vae, x).mean() - rate
    objective = BetaElbo(vae, beta=LinearAnnealing(2), analytic_kl=True, draws=20_000)
    for beta in (0.0, 0.5, 1.0, 1.0):
        expected = flat_gradient(distortion + beta * rate, parameters)
        found = flat_gradient(objective(x), parameters)
        torch.testing.assert_close(found, expected, atol=0.15, rtol=0.05)


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))

    def weights(*lengths, name):
        torch.manual_seed(1)
        objective = BetaElbo(linear_vae(), beta=LinearAnnealing(20))
        for steps in lengths:
            pg.fit(objective, x, steps=steps, batch_size=16, seed=0, checkpoint=tmp_path / name)
            if steps != lengths[-1]:  # a process that knows nothing but the checkpoint
                torch.manual_seed(2)
                objective = BetaElbo(linear_vae(), beta=LinearAnnealing(20))
        return objective.beta.step.item(), torch.cat([p.detach().flatten() for p in objective.vae.parameters()])

    step, whole = weights(10, name="whole")
    resumed_step, resumed = weights(6, 10, name="resumed")
    assert step == resumed_step == 10  # the first look at the data does not count
    assert torch.equal(whole, resumed)


def test_validation_does_not_count():
    objective, seen = BetaElbo(linear_vae(), beta=CyclicAnnealing(4)), []
    x, callback = torch.randn(64, 3), lambda progress: seen.append(objective.beta.step.item())
    pg.fit(objective, x, steps=7, batch_size=16, validation=0.25, seed=0, callbacks=[callback])
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_contract():
    check_objective(lambda: BetaElbo(linear_vae(), beta=LinearAnnealing(5)), torch.randn(16, 3)).raise_if_failed()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearAnnealing(0), "`steps` must be at least 1"),
        (lambda: LinearAnnealing(3, start=-1.0), "must not be negative"),
        (lambda: CyclicAnnealing(3, cycles=0), "`cycles` must be at least 1"),
        (lambda: CyclicAnnealing(3, rising=0.0), "`rising` must be positive"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
