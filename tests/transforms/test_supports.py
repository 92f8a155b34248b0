"""The support of a transformed variable is the image of the base's: closed forms, quadrature, and rounding."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch.distributions import biject_to, constraints, transforms

from pyrogen import flows
from pyrogen.distributions import LinearPool, Mixture
from pyrogen.numerics.supports import OpenInterval, element_of, ends
from pyrogen.transforms import Flip, Interval, TransformedDistribution, Triangular

SIGMOID, EXP, TANH, SOFTPLUS = (
    transforms.SigmoidTransform(),
    transforms.ExpTransform(),
    transforms.TanhTransform(),
    transforms.SoftplusTransform(),
)
NORMAL_CDF, CUBE = transforms.CumulativeDistributionTransform(dist.Normal(0.0, 1.0)), transforms.PowerTransform(3.0)


def affine(loc, scale, event_dim=0):
    return transforms.AffineTransform(loc, scale, event_dim=event_dim)


def normal(size=2):
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


def uniform(size=2):
    return dist.Uniform(torch.zeros(size), torch.ones(size)).to_event(1)


@pytest.mark.parametrize(
    ("parts", "low", "high"),
    [
        ([SIGMOID, SIGMOID], 0.5, 1 / (1 + math.exp(-1))),
        ([SIGMOID, affine(-3.0, 10.0)], -3.0, 7.0),
        ([SIGMOID, affine(1.0, -2.0)], -1.0, 1.0),
        ([EXP, affine(5.0, 1.0)], 5.0, math.inf),
        ([SOFTPLUS, affine(3.0, -2.0)], -math.inf, 3.0),
        ([EXP, EXP], 1.0, math.inf),
        ([TANH, EXP], math.exp(-1), math.e),
        ([EXP, SIGMOID], 0.5, 1.0),
        ([SIGMOID, SIGMOID.inv], -math.inf, math.inf),
        ([T.ELUTransform()], -1.0, math.inf),
        ([T.LeakyReLUTransform()], -math.inf, math.inf),
        ([transforms.ComposeTransform([SIGMOID, affine(0.0, 4.0)]), EXP], 1.0, math.exp(4)),
        ([transforms.IndependentTransform(SIGMOID, 1), SIGMOID], 0.5, 1 / (1 + math.exp(-1))),
        ([Interval(2.0, 4.0, event_dim=1), affine(0.0, 3.0)], 6.0, 12.0),
        ([SIGMOID, Interval(event_dim=1)], 0.5, 1 / (1 + math.exp(-1))),
    ],
)
def test_the_support_lies_between_the_images_of_the_ends(parts, low, high):
    torch.manual_seed(0)
    for made in (TransformedDistribution(normal(), parts), flows.from_transforms(parts, event_shape=(2,))()):
        found = ends(made.support)
        assert found == pytest.approx((low, high), abs=1e-6)
        draws = made.sample((500,))
        assert made.support.check(draws).all()
        assert made.log_prob(draws).isfinite().all()
        outside = [end + shift for end, shift in ((low, -0.1), (high, 0.1)) if math.isfinite(end)]
        for number in outside:
            value = torch.stack([draws[0], torch.tensor([draws[0, 0], number])])
            with pyro.validation_enabled(False):
                scores = TransformedDistribution(normal(), parts).log_prob(value)
            assert scores[0].isfinite()
            assert scores[1] == -torch.inf
            with pytest.raises(ValueError, match="within the support"):
                made.log_prob(value)


def test_sigmoid_of_sigmoid_integrates_to_one():
    flow = flows.from_transforms([SIGMOID, SIGMOID], event_shape=())
    x = torch.linspace(0.4, 0.8, 400_001, dtype=torch.float64)
    with pyro.validation_enabled(False):
        density = flow.double()().log_prob(x).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("affine_event_dim", [0, 1])
def test_a_bounded_base_bounds_the_flow(affine_event_dim):
    made = TransformedDistribution(
        uniform(), [affine(torch.tensor([5.0, -1.0]), torch.tensor([2.0, 3.0]), affine_event_dim)]
    )
    assert ends(made.support)[0].tolist() == [5.0, -1.0]
    assert ends(made.support)[1].tolist() == [7.0, 2.0]
    assert made.log_prob(torch.tensor([6.0, 0.0])).item() == pytest.approx(-math.log(6))
    with pyro.validation_enabled(False):
        quiet = TransformedDistribution(uniform(), made.transforms)
        assert quiet.log_prob(torch.tensor([[6.0, 2.5], [7.5, 0.0]])).tolist() == [-math.inf, -math.inf]


def test_an_image_that_is_no_box():
    """A rotated square: mass inside one, minus infinity in the corners of its box, gradients of good rows alone."""
    torch.manual_seed(0)
    lower, upper = torch.tensor([[1.0, 0.0], [0.7, 1.0]]), torch.tensor([[1.0, -0.5], [0.0, 1.0]])
    mixing = Triangular(lower, upper, torch.zeros(2), (2,))
    with pyro.validation_enabled(False):
        made = TransformedDistribution(uniform(), [mixing])
        axis = torch.linspace(-1, 2, 601)
        grid = torch.cartesian_prod(axis, axis)
        mass = made.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
        assert mass.item() == pytest.approx(1.0, abs=0.02)
        inside = made.support.check(grid)
        assert (made.log_prob(grid)[~inside] == -torch.inf).all()
        assert inside.any()
        assert not inside.all()
    assert made.support.check(made.sample((2000,))).float().mean() > 0.999
    free = torch.randn(50, 2)
    bijection = biject_to(made.support)
    assert made.support.check(bijection(free)).all()
    assert torch.allclose(bijection.inv(bijection(free)), free, atol=1e-3)


def test_a_flow_over_a_bounded_base_says_so():
    torch.manual_seed(0)

    class Uniform(flows.StandardNormal):
        def forward(self, context=None):
            return uniform()

    flow = flows.affine_coupling((2,), layers=2, hidden=(8,), base=Uniform((2,)), standardize=False)
    support = flow().support
    assert support.check(flow().sample((500,))).float().mean() > 0.99
    assert not support.check(torch.full((2,), 30.0))
    with pyro.validation_enabled(False):
        assert flow().log_prob(torch.full((2,), 30.0)) == -torch.inf


def test_rows_outside_leave_the_gradients_of_others_alone():
    loc = torch.zeros(2, requires_grad=True)

    def gradient(rows):
        with pyro.validation_enabled(False):
            made = TransformedDistribution(dist.Normal(loc, 1.0).to_event(1), [SIGMOID, SIGMOID])
            return torch.autograd.grad(made.log_prob(rows)[0], loc)[0]

    good = torch.tensor([[0.6, 0.55]])
    for bad in (0.4, 0.5, 1.0, 0.0, math.nan, math.inf):
        rows = torch.cat([good, torch.tensor([[0.6, bad]])])
        assert torch.equal(gradient(rows), gradient(good)), bad


@pytest.mark.parametrize(
    "parts",
    [
        [Interval(event_dim=1)],
        [Interval(-3.0, 5.0, event_dim=1)],
        [Interval(100.0, 100.5, event_dim=1)],
        [Interval([0.0, None], [None, 4.0], event_dim=1)],
        [Interval([None, 2.0], [None, 4.0], event_dim=1)],
        [SIGMOID],
        [EXP],
        [TANH],
        [SOFTPLUS],
        [SIGMOID, affine(5.0, 2.0)],
    ],
)
@pytest.mark.parametrize("loc", [-200.0, -20.0, -8.0, 0.0, 8.0, 20.0, 200.0])
def test_rounding_takes_no_draw_out_and_scores_what_was_drawn(parts, loc):
    torch.manual_seed(0)
    made = TransformedDistribution(dist.Normal(torch.full((2,), loc), 2.0).to_event(1), parts)
    low, high = (torch.as_tensor(end) for end in ends(made.support))
    drawn = [made.sample((300,)), made.rsample((300,)), made.rsample_and_log_prob((300,))[0]]
    for value in drawn:
        assert ((low < value) & (value < high)).all()
        assert value.isfinite().all()
        own, other = made.log_prob(value), made.log_prob(value.clone())
        assert not own.isnan().any()
        assert torch.allclose(own, other, rtol=2e-2, atol=2e-2)
    value, score = made.rsample_and_log_prob((300,))
    assert torch.allclose(score, made.log_prob(value.clone()), rtol=2e-2, atol=2e-2)


def test_one_interval_of_each_kind_in_double_precision():
    torch.manual_seed(0)
    low, high = [0.0, 2.0, None, None], [1.0, None, -1.0, None]
    transform = Interval(low, high, event_dim=1)
    z = 3 * torch.randn(50, 4, dtype=torch.float64)
    x, log_det = transform.forward_and_log_det(z)
    expected = torch.stack([z[:, 0].sigmoid(), 2 + z[:, 1].exp(), -1 - (-z[:, 2]).exp(), z[:, 3]], 1)
    assert torch.allclose(x, expected)
    back, inverse_log_det = transform.inverse_and_log_det(x)
    assert torch.allclose(back, z)
    assert torch.allclose(inverse_log_det, -log_det)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v).sum(0), z)[range(4), :, range(4)].T
    assert torch.allclose(jacobian.log().sum(-1), log_det)
    assert torch.autograd.gradcheck(transform.inverse_and_log_det, x[:3].detach().requires_grad_())
    for kinds in (Interval(0.0, None), Interval(None, 0.0), Interval(None, None)):
        z = torch.randn(5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(kinds.forward_and_log_det, z)


def test_interval_refuses_what_is_none():
    for wrong in ((1.0, 1.0), ([0.0, 1.0], [1.0, 1.0]), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="`high` must be above `low`"):
            Interval(*wrong)
    with pytest.raises(ValueError, match="`low` must be a number"):
        Interval("a", 1.0)
    with pytest.raises(ValueError, match="`margin` must be 0 where an end is infinite"):
        Interval(0.0, None, margin=0.1)
    with pytest.raises(ValueError, match="`margin`"):
        Interval(margin=0.5)
    assert Interval(0.0, 1.0, margin=0.05).codomain.lower_bound == pytest.approx(-0.05 / 0.9)


def test_bounds_that_differ_between_rows():
    """Each row with ends of its own, as from a context: scores by hand, biject_to, NUTS."""
    torch.manual_seed(0)
    low, high = torch.tensor([[0.0], [10.0], [-5.0]]), torch.tensor([[1.0], [12.0], [-4.0]])
    made = TransformedDistribution(normal(2), [Interval(low.expand(3, 2), high.expand(3, 2), event_dim=1)])
    assert made.batch_shape == (3,)
    draws = made.sample((100,))
    assert ((draws > low) & (draws < high)).all()
    z = ((draws - low) / (high - low)).logit()
    slope = (high - low).log() + torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)
    assert torch.allclose(made.log_prob(draws.clone()), normal(2).log_prob(z) - slope.sum(-1), atol=1e-2)

    def model():
        with pyro.plate("rows", 3):
            pyro.sample("x", TransformedDistribution(normal(2), made.transforms))

    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run()
    assert made.support.check(mcmc.get_samples()["x"]).all()


def test_open_intervals_hold_neither_end():
    inside = OpenInterval(0.0, math.inf)
    assert inside.check(torch.tensor([-1.0, 0.0, 1e-30, 1.0, math.inf, math.nan])).tolist() == [
        False, False, True, True, False, False
    ]  # fmt: skip
    assert "0.0" in repr(inside)
    assert "shape (3,)" in repr(OpenInterval(torch.zeros(3), 1.0))
    assert isinstance(element_of(constraints.real_vector), type(constraints.real))
    assert ends(constraints.simplex) is None


def test_vectors_of_other_kinds_keep_their_supports():
    stick = TransformedDistribution(normal(3), [Flip((3,)), transforms.StickBreakingTransform()])
    draws = stick.sample((50,))
    assert stick.support.check(draws).all()
    assert stick.log_prob(draws).isfinite().all()
    with pyro.validation_enabled(False):
        quiet = TransformedDistribution(normal(3), stick.transforms)
        assert quiet.log_prob(torch.tensor([0.5, 0.5, 0.5, 0.5])) == -torch.inf


def test_a_mixture_as_base_has_a_bijection():
    weights = dist.Categorical(torch.ones(2))
    components = dist.Independent(dist.Normal(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), 1.0), 1)
    made = TransformedDistribution(dist.MixtureSameFamily(weights, components), [])
    assert biject_to(made.support)(torch.zeros(2)).tolist() == [0.0, 0.0]
    base = flows.GaussianMixture((2,), components=3)()
    assert biject_to(base.support)(torch.zeros(2)).tolist() == [0.0, 0.0]

    def model():
        x = pyro.sample("x", flows.GaussianMixture((2,), components=3)())
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=torch.tensor(1.0))

    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=3, warmup_steps=3, disable_progbar=True)
    mcmc.run()


@pytest.mark.parametrize(
    ("base", "parts", "low", "high", "held"),
    [
        (dist.HalfNormal(1.0), [affine(0.0, -1.0)], -math.inf, 0.0, (False, True)),
        (dist.Exponential(1.0), [EXP], 1.0, math.inf, (True, False)),
        (dist.HalfNormal(1.0), [TANH, affine(2.0, -3.0)], -1.0, 2.0, (False, True)),
        (dist.HalfNormal(1.0), [NORMAL_CDF], 0.5, 1.0, (True, False)),
        (dist.Uniform(0.0, 1.0), [CUBE, affine(0.0, -1.0)], -1.0, 0.0, (True, False)),
        (dist.Uniform(0.0, 1.0), [EXP], 1.0, math.e, (True, True)),
    ],
)  # fmt: skip
def test_the_image_holds_the_ends_that_an_argument_is_sent_to(base, parts, low, high, held):
    """And no others: towards these, an argument goes to infinity, or to an end of what the map is defined on."""
    torch.manual_seed(0)
    made = TransformedDistribution(base, parts)
    assert ends(made.support) == pytest.approx((low, high))
    finite = [math.isfinite(low), math.isfinite(high)]
    assert made.support.check(torch.tensor([low, high]))[finite].tolist() == list(itertools.compress(held, finite))
    free = torch.linspace(-4, 4, 50)
    bijection = biject_to(made.support)
    assert made.support.check(bijection(free)).all()
    assert torch.allclose(bijection.inv(bijection(free)), free, atol=1e-2)
    with pyro.validation_enabled(False):
        quiet = TransformedDistribution(base, parts)
        at_ends = quiet.log_prob(torch.tensor([low, high]))
        assert at_ends[~torch.tensor(held)].tolist() == [-math.inf] * held.count(False)
        assert not quiet.log_prob(bijection(free)).isnan().any()

    def model():
        pyro.sample("x", made)

    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=10, warmup_steps=10, disable_progbar=True)
    mcmc.run()
    assert made.support.check(mcmc.get_samples()["x"]).all()


def test_draws_that_rounding_sends_to_an_end_stay_inside():
    torch.manual_seed(0)
    made = TransformedDistribution(dist.Exponential(0.05), [TANH, affine(0.0, -1.0)])
    draws = made.sample((1000,))
    assert made.support.check(draws).all()
    assert not made.log_prob(draws.clone()).isnan().any()
    assert made.support.check(torch.tensor(0.0))


def test_noise_that_overflows_has_no_density():
    with pyro.validation_enabled(False):
        made = TransformedDistribution(dist.Gamma(2.0, 1.0), [EXP.inv])
        x = torch.tensor([0.0, 1e6])
        assert made.log_prob(x).tolist() == [pytest.approx(-1.0), -math.inf]


def test_single_elements_with_ends_of_their_own():
    """An affine map of another scale for each element of a batch: uniform densities and their images."""
    loc, scale = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-1.0, 2.0, -3.0])
    made = TransformedDistribution(dist.Uniform(0.0, 1.0).expand([3]), [affine(loc, scale), EXP])
    draws = made.sample((200,))
    assert made.support.check(draws).all()
    assert torch.allclose(made.log_prob(draws.clone()), -scale.abs().log() - draws.log(), atol=1e-4)
    low, high = ends(made.support)
    assert torch.allclose(low.float(), torch.minimum(loc, loc + scale).exp())
    assert torch.allclose(high.float(), torch.maximum(loc, loc + scale).exp())
    assert biject_to(made.support).inv(draws).isfinite().all()


def test_elements_that_are_stacked_are_one_event():
    stack = transforms.StackTransform([EXP, SIGMOID], -1)
    made = TransformedDistribution(normal(), [stack])
    draws = made.sample((100,))
    assert made.support.check(draws).shape == (100,)
    slope = draws[:, 0].log() + draws[:, 1].log() + (1 - draws[:, 1]).log()
    z = torch.stack([draws[:, 0].log(), draws[:, 1].logit()], -1)
    assert torch.allclose(made.log_prob(draws.clone()), normal().log_prob(z) - slope, atol=1e-3)
    with pyro.validation_enabled(False):
        outside = torch.tensor([[1.0, 1.5], [-1.0, 0.5]])
        assert TransformedDistribution(normal(), [stack]).log_prob(outside).tolist() == [-math.inf, -math.inf]


def test_elements_side_by_side_keep_their_supports():
    side = transforms.CatTransform([EXP, SIGMOID], -1, [1, 2])
    made = TransformedDistribution(normal(3), [side])
    draws = made.sample((100,))
    assert made.support.check(draws).all()
    assert made.log_prob(draws).isfinite().all()


def test_a_mixture_of_intervals():
    """Each component within ends of its own: what lies in one of them has its density, gaps have none."""
    components = TransformedDistribution(dist.Uniform(0.0, 1.0), [affine(torch.tensor([0.0, 3.0]), torch.ones(2))])
    mixture = Mixture(dist.Categorical(torch.tensor([0.3, 0.7])), components)
    for made, slope in (
        (mixture, torch.zeros(3)),
        (TransformedDistribution(mixture, [EXP]), torch.tensor([0.5, 3.5, 2.0])),
    ):
        draws = made.sample((200,))
        assert made.support.check(draws).all()
        x = torch.tensor([0.5, 3.5, 2.0])
        x = x if made is mixture else x.exp()
        assert made.support.check(x).tolist() == [True, True, False]
        expected = torch.tensor([0.3, 0.7]).log() - slope[:2]
        assert torch.allclose(made.log_prob(x[:2]), expected, atol=1e-5)
        with pyro.validation_enabled(False):
            quiet = Mixture(mixture.mixture_distribution, components)
            quiet = quiet if made is mixture else TransformedDistribution(quiet, [EXP])
            assert quiet.log_prob(x)[2] == -math.inf
        with pytest.raises(NotImplementedError, match="a site of its own"):
            biject_to(made.support)


def test_a_mixture_of_intervals_scores_each_component_on_its_own():
    """Uniform on (0, 1) with probability 0.3 and on (2, 4) with 0.7, by hand; and one of shifted sigmoids."""
    weights = dist.Categorical(torch.tensor([0.3, 0.7]))
    low = torch.tensor([0.0, 2.0], requires_grad=True)
    made = Mixture(weights, dist.Uniform(low, torch.tensor([1.0, 4.0])))
    value = torch.tensor([0.5, 3.0])
    score = made.log_prob(value)
    assert torch.allclose(score.exp(), torch.tensor([0.3, 0.35]))
    assert torch.allclose(torch.autograd.grad(score.sum(), low)[0], torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="support"):
        made.log_prob(torch.tensor(1.5))
    with pyro.validation_enabled(False):
        quiet = Mixture(weights, dist.Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0])))
        assert quiet.log_prob(torch.tensor(1.5)) == -torch.inf
        assert quiet.log_prob(torch.tensor(math.nan)).isnan()
    shifted = TransformedDistribution(
        dist.Normal(torch.zeros(2), 1.0), [SIGMOID, affine(torch.tensor([0.0, 2.0]), 1.0)]
    )
    slope = (torch.tensor(0.3) * 0.7).log()
    exact = math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.3).logit()) - slope
    assert torch.allclose(Mixture(weights, shifted).log_prob(torch.tensor(2.3)), exact, atol=1e-5)


def test_a_pool_of_differing_images_is_refused():
    stick = transforms.StickBreakingTransform()
    bounded = [dist.Uniform(-high * torch.ones(2), high * torch.ones(2)).to_event(1) for high in (1.0, 2.0)]
    narrow, wide = [TransformedDistribution(base, [stick]) for base in bounded]
    free = TransformedDistribution(normal(2), [stick])
    for other in (wide, free):
        with pytest.raises(ValueError, match="`components` must have one support"):
            _ = LinearPool([narrow, other]).support
    assert LinearPool([narrow, narrow]).support.check(narrow.sample((20,))).all()


def test_noise_is_not_read_from_a_cache_of_other_parameters():
    scale = torch.tensor(2.0)
    made = TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.AffineTransform(0.0, scale, cache_size=1)])
    value = torch.tensor(4.0)
    assert made.noise(value) == 2.0
    scale.mul_(2.0)
    assert made.noise(value) == 1.0
