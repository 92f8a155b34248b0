"""What ``fit`` learns from the whole data set before training, and what it refuses there."""

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pyrogen as pg
from pyrogen.networks.statistics import Moments

SMALL = {"layers": 1, "hidden": (8,)}


def sorted_data(rows=300):
    """The first minibatch is unlike the rest."""
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(0)).sort(0).values.exp()


def flow():
    torch.manual_seed(0)
    return pg.flows.affine_coupling((2,), **SMALL)


def assert_moments(module, x):
    layer = module.bijections[-1]
    assert torch.allclose(layer.mean, x.mean(0), rtol=1e-5)
    assert torch.allclose(layer.log_scale.exp(), x.std(0), rtol=1e-5)


class Endless(IterableDataset):
    """A stream of unknown length."""

    def __init__(self, x, epochs=None):
        self.x, self.epochs = x, epochs

    def __iter__(self):
        epoch = 0
        while self.epochs is None or epoch < self.epochs:
            yield from self.x
            epoch += 1


@pytest.mark.parametrize("width", [1, 3])
def test_moments_that_come_in_parts_are_those_of_the_whole(width):
    x = torch.randn(1000, width) * torch.logspace(-3, 3, width) + 1e4
    moments = Moments()
    for part in x.split([1, 0, 399, 600]):
        moments.add(part)
    assert torch.allclose(moments.mean, x.double().mean(0), rtol=1e-12)
    assert torch.allclose(moments.scale, x.double().std(0), rtol=1e-9)


@pytest.mark.parametrize(
    "source",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: TensorDataset(x),
        lambda x: DataLoader(TensorDataset(x), batch_size=7),
        lambda x: DataLoader(TensorDataset(x), batch_size=7, shuffle=True),
        lambda x: Endless(x, epochs=1),
    ],
)
def test_every_kind_of_data_is_read_once_and_whole(source):
    x, module = sorted_data(), flow()
    pg.fit(module, source(x), steps=45, batch_size=7, seed=0)
    assert_moments(module, x)


def test_a_stream_without_end_is_read_as_far_as_training_goes():
    x, module = sorted_data(), flow()
    pg.fit(module, Endless(x), steps=3, batch_size=100)
    assert_moments(module, x)


@pytest.mark.parametrize(
    "objective",
    [
        pg.MaximumLikelihood,
        lambda module: pg.Elbo(module.model, module.guide),
        lambda module: Trace_ELBO()(module.model, module.guide),
    ],
)
def test_objectives_of_a_module_learn_its_statistics(objective):
    x, module = sorted_data(), flow()
    pg.fit(objective(module), x, steps=1)
    assert_moments(module, x)


def test_held_out_rows_do_not_count():
    x, module = sorted_data(), flow()
    pg.fit(module, x, steps=1, validation=x + 100)
    assert_moments(module, x)


def test_resuming_keeps_what_the_first_run_learned(tmp_path):
    x, module, other = sorted_data(), flow(), flow()
    pg.fit(module, x, steps=2, seed=0, checkpoint=tmp_path / "run")
    pg.fit(other, x + 5, steps=3, seed=0, checkpoint=tmp_path / "run")
    assert_moments(other, x)


def test_reading_draws_no_noise():
    x, losses = sorted_data(), []
    for learned in (False, True):
        module = flow()
        if learned:
            module.learn_statistics(x)
        torch.manual_seed(1)
        losses.append(pg.fit(module, x, steps=5).history.losses)
    assert losses[0] == losses[1]


def test_a_prior_of_somebody_else_learns_nothing():
    prior = flow()
    vae = pg.latent.vae((3,), latent_shape=(2,), hidden=(8,), prior=prior)
    pg.fit(vae, torch.randn(50, 3) + 7, steps=2)
    assert not prior.bijections[-1].initialised


def test_dequantized_data_are_standardized_where_they_are_real():
    torch.manual_seed(0)
    x = torch.randint(8, (4000, 2)).float()
    module = pg.flows.Dequantized(pg.flows.affine_coupling((2,), interval=(0.0, 1.0), **SMALL), symbols=8)
    pg.fit(module, x, steps=1)
    layer, bounded = module.module.bijections[-2:]
    z = bounded().inv((x + torch.rand_like(x)) / 8)
    assert torch.allclose(layer.mean, z.mean(0), atol=0.1)
    assert torch.allclose(layer.log_scale.exp(), z.std(0), rtol=0.1)


def bad(row, value=float("nan")):
    x = torch.rand(300, 2)
    x[row, 1] = value
    return x


class TestBadRows:
    """They are named before training, wherever they are."""

    def test_nan(self):
        with pytest.raises(ValueError, match="`x` must hold no NaN, got NaN in row 207 of `data`"):
            pg.fit(flow(), bad(207), steps=1)

    def test_infinity(self):
        with pytest.raises(ValueError, match="`x` must be finite, got -inf in row 207 of `data`"):
            pg.fit(flow(), bad(207, -torch.inf), steps=1)

    def test_held_out(self):
        with pytest.raises(ValueError, match="`x` must hold no NaN, got NaN in row 12 of `validation`"):
            pg.fit(flow(), torch.rand(20, 2), steps=1, validation=bad(12))

    def test_numbers_are_those_of_the_data_before_the_split(self):
        with pytest.raises(ValueError, match="got NaN in row 207 of `(data|validation)`"):
            pg.fit(flow(), bad(207), steps=1, validation=0.5, seed=0)

    def test_outside_the_support(self):
        module = pg.flows.affine_coupling((2,), interval=(0.0, 1.0), **SMALL)
        with pytest.raises(
            ValueError, match=r"`x` must lie in the support .*, got 3 in column 1, outside of 0 to 1 in row 207"
        ):
            pg.fit(module, bad(207, 3.0), steps=1, batch_size=10)
        module = pg.Parametric(torch.nn.Linear(2, 1), pg.families.poisson, event_shape=(), context_shape=(2,))
        x = torch.ones(300)
        x[[5, 9]] = -2.0
        with pytest.raises(ValueError, match=r"`x` must lie in the support .*, got -2 in rows 5, 9 of `data`"):
            pg.fit(module, (x, torch.zeros(300, 2)), steps=1, batch_size=3)

    def test_symbols(self):
        module = pg.autoregressive.made((4,), symbols=3, hidden=(8,))
        x = torch.randint(3, (300, 4))
        x[207, 1] = 3
        with pytest.raises(ValueError, match="in row 207 of `data`"):
            pg.fit(module, x, steps=1, batch_size=10)

    def test_of_a_loader(self):
        data = DataLoader(TensorDataset(bad(207)), batch_size=100)
        with pytest.raises(ValueError, match="got NaN in row 7 of minibatch 2 of `data`"):
            pg.fit(flow(), data, steps=1)

    def test_a_support_that_depends_on_the_context_is_that_of_each_row(self):
        class Below(pg.DistributionModule):
            """Uniform below the context."""

            def __init__(self):
                super().__init__((), ())
                self.low = torch.nn.Parameter(torch.zeros(()))

            def forward(self, context=None):
                return pg.core.module.pyro.distributions.Uniform(self.low, context)

        context = torch.linspace(1.0, 5.0, 100)
        with pytest.raises(ValueError, match="in row 40 of `data`"):
            pg.fit(Below(), (torch.where(torch.arange(100) == 40, 4.9, 0.5), context), steps=1)


class Counted(pg.DistributionModule):
    """Counts its calls in training in a buffer, as batch normalization does."""

    def __init__(self):
        super().__init__((2,))
        self.loc = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, context=None):
        if self.training:
            self.calls += 1
        return pg.core.module.pyro.distributions.Normal(self.loc, 1.0).to_event(1)


def test_what_comes_before_the_steps_moves_no_buffer():
    module = Counted()
    pg.fit(module, sorted_data(), steps=3, validation=0.5)
    assert module.calls == 3
