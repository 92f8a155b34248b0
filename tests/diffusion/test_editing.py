"""Editing: from the picture to the prior, and refusals."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP, edit, mlp, trade_off

NAN = math.nan
COUNTS = (0, -1, 2.5, "3", NAN, None, True)


def gaussian(mean, covariance):
    return Diffusion(GaussianMixtureDenoiser(dist.MultivariateNormal(mean, covariance), LinearVP()))


def test_editing_goes_from_the_picture_to_the_prior():
    torch.manual_seed(0)
    prior, picture = gaussian(torch.zeros(2), 0.25 * torch.eye(2)), torch.tensor([3.0, -3.0])
    near = edit(prior(), picture, 0.02, draws=200)
    far = edit(prior(), picture, 1.0, draws=2000)
    assert (near - picture).norm(dim=-1).mean() < 1.0
    assert (far.mean(0).abs() < 5 * 0.5 / 2000**0.5 + 0.03).all()
    curve = trade_off(prior(), picture, (0.1, 0.4, 0.8), lambda x: dist.Normal(0.0, 0.5).log_prob(x).sum(-1), draws=200)
    assert curve[0].distance < curve[1].distance < curve[2].distance
    assert curve[0].realism < curve[1].realism < curve[2].realism


def test_pictures_may_be_several_each_under_its_own_context():
    torch.manual_seed(0)
    prior = mlp((2,), (), classes=2, width=8, depth=1).eval()
    assert edit(prior(torch.tensor([0, 1, 1])), torch.zeros(3, 2), 0.5, draws=4, steps=5).shape == (4, 3, 2)
    assert edit(prior(torch.tensor([0, 1, 1])), torch.zeros(2), 0.5, draws=4, steps=5).shape == (4, 3, 2)
    several = edit(gaussian(torch.zeros(2), 0.25 * torch.eye(2))(), torch.tensor([[3.0, -3.0], [-3.0, 3.0]]), 0.02)
    assert (several[0].sign() == torch.tensor([[1, -1], [-1, 1]])).all()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("time", (0.0, -0.1, 1.5, NAN, "0.5")),
        ("draws", COUNTS),
        ("steps", COUNTS),
        ("picture", (torch.zeros(3), torch.full((2,), NAN), [0.0, 0.0])),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_argument(name, values):
    prior = gaussian(torch.zeros(2), torch.eye(2))
    for value in values:
        with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
            edit(prior(), **{"picture": torch.zeros(2), "time": 0.5, name: value})
