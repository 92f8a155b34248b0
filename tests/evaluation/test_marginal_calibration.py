"""Truth: held-out data of a right model have uniform ranks among its draws, those of a wrong one have not."""

import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.evaluation import marginal_calibration


class Normals(pg.DistributionModule):
    """Independent normals; given a context, their means move with it."""

    def __init__(self, scale=1.0, shift=0.0, *, context_shape=None, density="exact"):
        super().__init__((2,), context_shape)
        self.scale, self.shift, self.density = scale, shift, density

    def forward(self, context=None):
        mean = torch.full((2,), self.shift) if context is None else context[..., None] + torch.zeros(2)
        return dist.Normal(mean, self.scale).to_event(1)


def data(rows, seed=0):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


def test_ranks_of_a_right_model_are_uniform():
    torch.manual_seed(0)
    p_values = [marginal_calibration(Normals(), data(100, seed), draws=9).test().p_value for seed in range(60)]
    below = sum(p < 0.2 for p in p_values)  # exact tests, Bonferroni over three quantities: at most a fifth
    assert below <= 60 * 0.2 + 3 * (60 * 0.2 * 0.8) ** 0.5
    assert below >= 2


@pytest.mark.parametrize(("model", "failing"), [(Normals(0.6), "log_prob"), (Normals(1.0, 0.5), "x[1]")])
def test_wrong_models_are_found(model, failing):
    torch.manual_seed(0)
    found = marginal_calibration(model, data(400))
    assert found.uniformity()[failing].p_value < 1e-4


def test_given_contexts_the_marginal_over_all_is_not_enough():
    torch.manual_seed(0)
    context = torch.randn(400)
    x = context[:, None] + data(400)
    assert marginal_calibration(Normals(context_shape=()), x, context).test().p_value > 0.05
    ignoring = marginal_calibration(Normals(context_shape=()), x[torch.randperm(400)], context)
    assert ignoring.test().p_value < 1e-6  # the same data in a false order


def test_without_a_log_prob_coordinates_are_left_and_few_of_many():
    game = pg.implicit.mlp((9,), noise=(2,), hidden=(8,))
    found = marginal_calibration(game, torch.randn(50, 9), draws=4, coordinates=3)
    assert list(found.ranks) == ["x[0]", "x[3]", "x[6]"]
    assert found.draws == 4
    assert found.simulations == 50


def test_batches_change_nothing_but_the_draws():
    torch.manual_seed(0)
    x = torch.cat([data(20) - 100, data(20) + 100])
    found = marginal_calibration(Normals(), x, batch_size=64)
    assert found.ranks["x[0]"].tolist() == [0] * 20 + [19] * 20


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: marginal_calibration(dist.Normal(0.0, 1.0), data(3)), TypeError, "`module` must be a Distribution"),
        (lambda: marginal_calibration(Normals(), data(3) * torch.nan), ValueError, "`x` must hold numbers"),
        (lambda: marginal_calibration(Normals(), torch.randn(3, 4)), ValueError, r"`x` must end in shape \(2,\)"),
        (lambda: marginal_calibration(Normals(), data(3), draws=0), ValueError, "`draws` must be at least 1"),
        (lambda: marginal_calibration(Normals(), data(0)), ValueError, "`x` must hold"),
    ],
)
def test_what_cannot_be_ranked_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
