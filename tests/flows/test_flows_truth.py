"""Densities that integrate to one, log-determinants that are those of the Jacobian, inverses that hold in the tails."""

import pytest
import torch

from pyrogen import flows

SMALL = {"layers": 3, "hidden": (24, 24)}
MAKERS = {
    "affine_coupling": lambda shape, **more: flows.affine_coupling(shape, **SMALL, **more),
    "spline_coupling": lambda shape, **more: flows.spline_coupling(shape, **SMALL, **more),
    "affine_autoregressive": lambda shape, **more: flows.affine_autoregressive(shape, **SMALL, **more),
    "spline_autoregressive": lambda shape, **more: flows.spline_autoregressive(shape, **SMALL, **more),
    "inverse_autoregressive": lambda shape, **more: flows.affine_autoregressive(
        shape, fast_sampling=True, **SMALL, **more
    ),
    "neural_autoregressive": lambda shape, **more: flows.neural_autoregressive(shape, **SMALL, units=4, **more),
    "block_neural_autoregressive": lambda shape, **more: flows.block_neural_autoregressive(
        shape, layers=2, hidden=(6, 6), **more
    ),
    "planar": lambda shape: flows.planar(shape, layers=6),
    "radial": lambda shape: flows.radial(shape, layers=6),
    "sylvester": lambda shape: flows.sylvester(shape, layers=4, rank=2),
}
DEEP = [name for name in MAKERS if name not in ("planar", "radial", "sylvester")]


def perturbed(flow, scale=0.3):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return flow.eval()


def integral(flow, half_width=12.0, points=700):
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        return (flow().log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2).item()


@pytest.mark.parametrize("name", MAKERS)
def test_density_integrates_to_one(name):
    torch.manual_seed(0)
    flow = MAKERS[name]((2,)).double()
    x = torch.randn(256, 2).double()
    x = torch.stack((x[:, 0], 0.5 * x[:, 0] ** 2 - 0.5 + 0.5 * x[:, 1]), 1)
    flow.train()
    assert abs(integral(flow.eval(), points=300) - 1) < 1e-3
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    first = None
    for _ in range(40):
        flow.train()
        loss = -flow().log_prob(x).mean()
        first = first if first is not None else loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 0.05
    assert abs(integral(flow.eval()) - 1) < 2e-3


@pytest.mark.parametrize("name", MAKERS)
def test_log_det_is_that_of_the_jacobian(name):
    flow = perturbed(MAKERS[name]((4,))).double()
    x = torch.randn(3, 4).double()
    _, log_det = flow()._transform.inverse_and_log_det(x)
    for row, value in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda row: flow()._transform.inv(row), row)
        assert torch.allclose(value, jacobian.slogdet()[1], atol=1e-8)


@pytest.mark.parametrize("name", MAKERS)
def test_draws_score_as_what_they_are(name):
    flow = perturbed(MAKERS[name]((3,))).double()
    x, log_prob = flow().rsample_and_log_prob((50,))
    assert torch.allclose(log_prob, flow().log_prob(x), atol=1e-7)


@pytest.mark.parametrize("name", DEEP)
def test_round_trips_with_weights_of_twenty_times_the_size(name):
    flow = MAKERS[name]((3,)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for part in flow.bijections:
            if hasattr(part, "conditioner"):
                for parameter in part.conditioner.parameters():
                    parameter.copy_(20 * torch.randn_like(parameter) / parameter[..., :1].numel() ** 0.5)
    z = torch.cat((torch.randn(50, 3), 30 * torch.randn(10, 3), torch.full((1, 3), 5.0))).double()
    for layer in flow.eval().bijections:  # layer by layer: so deep a chain of wild maps may lose all digits
        transform = layer()
        y, log_det = transform.forward_and_log_det(z)
        back, inverse_log_det = transform.inverse_and_log_det(y)
        assert back.isfinite().all()
        error = (back - z).abs() / (1 + z.abs())
        assert error.quantile(0.99) < 1e-4
        assert (log_det + inverse_log_det).abs().quantile(0.99) < 1e-2


@pytest.mark.parametrize("name", DEEP)
def test_rows_of_infinity_and_nan_touch_only_themselves(name):
    flow = perturbed(MAKERS[name]((3,)))
    good = torch.randn(5, 3)
    bad = torch.tensor([[torch.nan, 0.0, 0.0], [0.0, torch.inf, 0.0]])

    def score(rows):
        flow.zero_grad()
        log_prob = flow().log_prob(rows)
        log_prob[:5].sum().backward()
        return log_prob.detach(), [parameter.grad for parameter in flow.parameters()]

    mixed, gradients = score(torch.cat((good, bad)))
    alone, expected = score(good)
    assert torch.allclose(mixed[:5], alone, atol=1e-5)
    assert mixed[5].isnan()
    assert mixed[6] == -torch.inf
    for first, second in zip(gradients, expected, strict=True):
        assert torch.allclose(first, second, atol=1e-4)


def test_planted_error_is_seen():
    """The integral above does notice a wrong determinant."""
    flow = perturbed(flows.affine_coupling((2,), **SMALL)).double()
    flow.bijections[0].element.__dict__["_forward"] = lambda parameters, x: (
        x * 1.1 + parameters[0],
        x * 0,
        (),
    )
    with torch.no_grad():
        assert abs(integral(flow, points=300) - 1) > 0.05


@pytest.mark.parametrize("base", [flows.StudentT((2,), degrees=8.0), flows.GaussianMixture((2,), components=3)])
def test_other_bases_integrate_to_one(base):
    flow = perturbed(flows.spline_coupling((2,), base=base, **SMALL), 0.1).double()
    assert abs(integral(flow, 30.0, 900) - 1) < 5e-3


def test_student_base_keeps_heavy_tails():
    torch.manual_seed(0)
    flow = flows.spline_coupling((1,), layers=2, hidden=(8,), base=flows.StudentT((1,), degrees=3.0)).eval()
    far = torch.tensor([[100.0], [200.0]])
    slope = flow().log_prob(far).diff() / torch.tensor(2.0).log()
    assert torch.allclose(slope, torch.tensor(-4.0), atol=0.01)  # a power law of exponent -(3 + 1)


def test_neural_posterior_of_a_linear_gaussian_simulator():
    """q(z | y) trained on simulations approaches the exact posterior: mean 0.8 y, variance 0.2."""
    torch.manual_seed(0)
    posterior = flows.spline_coupling((1,), (1,), layers=2, hidden=(32,))
    optimizer = torch.optim.Adam(posterior.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 500)
    for _ in range(500):
        z = torch.randn(256, 1)
        y = z + 0.5 * torch.randn(256, 1)
        loss = -posterior(y).log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    y = torch.tensor([[-1.5], [0.0], [1.5]])
    draws = posterior.eval()(y).sample((8000,))
    assert torch.allclose(draws.mean(0), 0.8 * y, atol=0.08)
    assert torch.allclose(draws.var(0), torch.full((3, 1), 0.2), rtol=0.15)
