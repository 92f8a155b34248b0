"""Residual flows: bounds that hold after a step, exact and estimated log-determinants, inverses, labels."""

import math

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen import flows
from pyrogen.networks.contraction import (
    Contraction,
    ContractiveConvolutions,
    ContractivePerceptron,
    activation,
    convolution_norm,
    divided,
)
from pyrogen.networks.spectral import operator_norm
from pyrogen.testing import check_bijection, check_distribution
from pyrogen.transforms import ExactLogDet, Residual, Roulette

SMALL = {"layers": 2, "hidden": (8,)}


class Linear(Contraction):
    """A linear map, whatever it claims."""

    def __init__(self, weight, lipschitz=0.8):
        super().__init__(lipschitz)
        self.weight = nn.Parameter(weight)

    def prepared(self):
        return lambda x, context=None: x @ self.weight.T


def linear():
    """A map that shrinks, so that all terms of its series have one sign and late ones count."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    return Linear(basis @ torch.tensor([-0.8, -0.7, -0.3], dtype=torch.float64).diag() @ basis.T, 0.8)


def network(**options):
    """The same of a perceptron."""
    torch.manual_seed(0)
    made = ContractivePerceptron(2, hidden=(16,), **options).double()
    with torch.no_grad():
        made.layers[0].weight.normal_()
        made.layers[1].weight.copy_(-made.layers[0].weight.T)
        made.layers[0].bias.fill_(1.0)
    return made


def flow(*shapes, **options):
    torch.manual_seed(0)
    made = flows.residual(*shapes, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return made


def test_contract_of_exact_log_determinants():
    check_distribution(lambda: flows.residual((2,), exact=True, **SMALL), event_shape=(2,)).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_contract_with_context(exact):
    check_distribution(
        lambda: flows.residual((2,), (3,), exact=exact, **SMALL), event_shape=(2,), context=torch.randn(5, 3)
    ).raise_if_failed()


@pytest.mark.slow
def test_contract_of_convolutions():
    check_distribution(
        lambda: flows.residual((1, 2, 2), layers=1, channels=(4,), exact=True), event_shape=(1, 2, 2)
    ).raise_if_failed()


@pytest.mark.parametrize("shape", [(), (3,)])
def test_layers_pass_the_contract_of_bijections(shape):
    check_bijection(
        lambda: flows.residual(shape, exact=True, **SMALL).bijections[0], event_shape=shape
    ).raise_if_failed()


def test_a_linear_map_has_its_determinant_and_its_series():
    g = linear()
    x = torch.randn(5, 3, dtype=torch.float64)
    expected = (torch.eye(3).double() + g.weight).slogdet().logabsdet
    assert torch.allclose(Residual(g, (3,), log_det=ExactLogDet()).forward_and_log_det(x)[1], expected.expand(5))
    powers = [torch.linalg.matrix_power(g.weight, k).trace() for k in range(1, 200)]
    series = sum((-1) ** (k + 1) / k * power for k, power in enumerate(powers, 1))
    assert torch.allclose(series, expected)
    torch.manual_seed(0)
    estimate = Residual(g, (3,), log_det=Roulette(terms=2, going_on=0.8)).forward_and_log_det(x[:1].expand(40_000, 3))[
        1
    ]
    error = estimate.std() / 200
    assert abs(estimate.mean() - expected) < 4 * error
    # a sum cut off after as many terms as are always computed would be found out
    assert abs(powers[0] - powers[1] / 2 - expected) > 6 * error


def test_roulette_has_no_bias():
    g = network()
    x = torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    exact = Residual(g, (2,), log_det=ExactLogDet())
    noisy = Residual(g, (2,), log_det=Roulette(terms=1, going_on=0.85))
    expected = exact.forward_and_log_det(x)[1]
    torch.manual_seed(0)
    found = noisy.forward_and_log_det(x.expand(20_000, 2))[1]
    assert abs(found.mean() - expected) < 4 * found.std() / len(found) ** 0.5
    assert found.std() > 0.01


def test_gradients_of_roulette_have_no_bias():
    g = network()
    x = torch.tensor([[0.3, -0.5]], dtype=torch.float64)
    weight = g.layers[0].weight
    (expected,) = torch.autograd.grad(Residual(g, (2,), log_det=ExactLogDet()).forward_and_log_det(x)[1].sum(), weight)
    torch.manual_seed(0)
    noisy = Residual(g, (2,), log_det=Roulette(going_on=0.85))
    found = torch.stack(
        [torch.autograd.grad(noisy.forward_and_log_det(x.expand(2000, 2))[1].mean(), weight)[0] for _ in range(12)]
    )
    error = found.std(0) / 12**0.5
    assert ((found.mean(0) - expected).abs() < 4.5 * error + 1e-9).all()
    assert (expected.abs() > 8 * error).any()


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_the_norm_of_a_convolution_is_bounded_for_every_image(kernel, padding_mode):
    torch.manual_seed(kernel)
    layer = nn.Conv2d(3, 4, kernel, padding=kernel // 2, padding_mode=padding_mode, bias=False).double()
    bound = convolution_norm(layer.weight)
    norms = [operator_norm(layer, (3, size, size)) for size in (5, 8, 16)]
    assert all(norm <= bound * (1 + 1e-9) for norm in norms)
    assert bound < 1.15 * max(norms)
    reshaped = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
    assert kernel == 1 or reshaped < 0.95 * max(norms)  # the norm that other libraries divide by


def test_a_convolution_of_signals_is_bounded():
    torch.manual_seed(0)
    layer = nn.Conv1d(2, 3, 5, padding=2, bias=False).double()
    assert operator_norm(layer, (2, 40)) <= convolution_norm(layer.weight) < 1.1 * operator_norm(layer, (2, 40))


def test_bounds_hold_after_large_steps():
    torch.manual_seed(0)
    dense = ContractivePerceptron(4, hidden=(16, 16)).double()
    images = ContractiveConvolutions((2, 6, 6), channels=(8,)).double()
    for made, shape in ((dense, (4,)), (images, (2, 6, 6))):
        optimizer = torch.optim.SGD(made.parameters(), lr=30.0)
        x = torch.randn(64, *shape, dtype=torch.float64)
        for _ in range(5):
            optimizer.zero_grad()
            (-made(x).square().mean()).backward()
            optimizer.step()
            one, other = torch.randn(2, 200, *shape, dtype=torch.float64)
            other = one + 10 ** (2 * torch.rand(200, *[1] * len(shape)) - 2) * other
            ratio = (made(one) - made(other)).flatten(1).norm(dim=1) / (one - other).flatten(1).norm(dim=1)
            assert ratio.max() <= 0.9
            for part in made.layers:
                share = 0.9 ** (1 / len(made.layers))
                if isinstance(part, nn.Linear):
                    norm = torch.linalg.matrix_norm(
                        divided(part.weight, torch.linalg.matrix_norm(part.weight, 2), share), 2
                    )
                else:
                    whole = nn.Conv2d(*part.weight.shape[1::-1], 3, padding=1, bias=False).double()
                    whole.weight.data = divided(part.weight, convolution_norm(part.weight), share).detach()
                    norm = operator_norm(whole, (part.weight.shape[1], 6, 6))
                assert norm <= share * (1 + 1e-9)
        assert max(part.weight.abs().max() for part in made.layers) > 1  # the bound was needed


def test_activations_have_slopes_of_at_most_one():
    x = torch.linspace(-20, 20, 10_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(activation(x).sum(), x)
    assert slope.abs().max() <= 1
    assert slope.max() > 0.999


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 1e-10])
def test_inverses_keep_their_tolerance(tolerance):
    g = network(lipschitz=0.95)
    residual = Residual(g, (2,), log_det=ExactLogDet(), tolerance=tolerance)
    x = 3 * torch.randn(200, 2, dtype=torch.float64)
    with torch.no_grad():
        back = residual.inv(residual(x))
    assert ((back - x).norm(dim=1) <= tolerance * (1 + back.norm(dim=1))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_no_contraction_does_not_converge(dtype):
    residual = Residual(Linear(1.5 * torch.eye(2, dtype=dtype), 0.8), (2,), log_det=ExactLogDet())
    with pytest.raises(RuntimeError, match="has not converged in 2000 steps for 3 of 4 rows"):
        residual.inv(torch.tensor([[1.0, 2.0], [0.1, 0.0], [math.nan, 0.0], [3.0, 1.0]], dtype=dtype))


def test_gradients_of_draws_are_those_of_the_inverse():
    made = flow((2,), exact=True)
    parameters = list(made.parameters())

    def gradient():
        torch.manual_seed(3)
        value, score = made().rsample_and_log_prob((5,))
        return torch.autograd.grad((value.sin().sum() + score.sum()), parameters)

    def moved(parameter, place, step):
        with torch.no_grad():
            parameter.view(-1)[place] += step
            torch.manual_seed(3)
            value = made().sample((5,))
            found = value.sin().sum() + made().log_prob(value).sum()
            parameter.view(-1)[place] -= step
        return found

    for layer in made.bijections[:2]:
        layer.tolerance = 1e-12
    for parameter, found in zip(parameters, gradient(), strict=True):
        place = found.abs().flatten().argmax()
        slope = (moved(parameter, place, 1e-5) - moved(parameter, place, -1e-5)) / 2e-5
        assert torch.allclose(found.flatten()[place], slope, atol=1e-5, rtol=1e-4)


def test_labels_and_frozen_noise():
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert flow((2,), exact=True).density == "exact"
    noisy, frozen = flow((2,)), flow((2,), noise_seed=1)
    assert noisy.density == "estimate"
    assert pg.density_of(noisy()) == "estimate"
    assert not torch.equal(noisy().log_prob(x), noisy().log_prob(x))
    assert torch.equal(frozen().log_prob(x), frozen().log_prob(x))


def test_images_have_the_determinant_of_their_jacobian():
    made = flow((1, 3, 3), channels=(4,), exact=True)
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    layer = made.bijections[0]()
    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x: layer.inv(x), x[row]).reshape(9, 9)
        assert torch.allclose(jacobian.slogdet().logabsdet, layer.inv.forward_and_log_det(x[row])[1])


def test_under_autocast_densities_keep_their_precision():
    made = flow((2,), exact=True).float()
    x = torch.randn(64, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = made().log_prob(x)
    assert torch.allclose(rounded, made().log_prob(x), atol=1e-4)


@pytest.mark.slow
def test_a_correlated_normal_is_learned_from_estimates():
    torch.manual_seed(0)
    scale = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    x = torch.randn(4000, 2) @ scale.T
    made = flows.residual((2,), layers=4, hidden=(16,), lipschitz=0.8)
    pg.fit(made, x, steps=200, batch_size=256, lr=1e-2, seed=0)
    exact = flows.residual((2,), layers=4, hidden=(16,), lipschitz=0.8, exact=True)
    exact.load_state_dict(made.state_dict())
    target = torch.distributions.MultivariateNormal(torch.zeros(2), scale_tril=scale)
    fresh = target.sample((4000,))
    gap = target.log_prob(fresh) - exact.eval()().log_prob(fresh).detach()
    assert gap.mean() < 0.05 + 3 * gap.std() / 4000**0.5


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="`going_on` must be above the square of the Lipschitz constant, 0.81"):
        Residual(ContractivePerceptron(2, hidden=(4,)), (2,), log_det=Roulette(going_on=0.8))
    with pytest.raises(ValueError, match="`kernel` must be odd"):
        flows.residual((1, 4, 4), channels=(4,), kernel=2)
    with pytest.raises(ValueError, match=r"`event_shape` must be \(channels, \*size\)"):
        flows.residual((4,), channels=(4,))
    with pytest.raises(ValueError, match="`lipschitz` must be between 0 and 1"):
        flows.residual((2,), lipschitz=1.0)


def test_second_derivatives_of_draws():
    module = flow((2,), (3,), exact=True)
    given = torch.randn(2).double().requires_grad_(), torch.randn(3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda noise, context: module(context).transforms[0](noise), given)
