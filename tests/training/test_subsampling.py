"""Minibatches leave the posterior what it is, or are refused."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from small_programs import pair
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrogen as pg
from pyrogen.training.statements import Statements

N = 240
X = torch.ones(N)
Y = 0.7 + torch.randn(N, generator=torch.Generator().manual_seed(0))
SD = (1 + N) ** -0.5  # of the posterior of the slope: prior N(0, 1), noise 1, x = 1
MEAN = float(Y.sum() / (1 + N))

written = {
    "len": lambda x: pyro.plate("data", len(x)),
    "subsample_size": lambda x: pyro.plate("data", N, subsample_size=len(x)),
    "subsample": lambda x: pyro.plate("data", N, subsample=range(len(x))),
}


class Regression(nn.Module):
    """One slope, observed in a plate that is written in some way."""

    def __init__(self, plate="len"):
        super().__init__()
        self.plate = written[plate] if isinstance(plate, str) else plate

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with self.plate(x):
            pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


class Enumerable(Regression):
    """The same with a discrete latent in each row, which changes nothing once it is summed out."""

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with self.plate(x):
            pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


class Normal(nn.Module):
    """Its guide."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.5))
        self.log_scale = nn.Parameter(torch.tensor(-1.5))

    def forward(self, x, y):
        pyro.sample("slope", dist.Normal(self.loc, self.log_scale.exp()))


def trained_scale(objective, guide, **kwargs):
    defaults = {
        "steps": 500,
        "batch_size": 60,
        "seed": 1,
        "optimizer": partial(torch.optim.Adam, lr=0.05),
        "ema": 0.995,
    }
    result = pg.fit(objective, (X, Y), **{**defaults, **kwargs})
    return guide.log_scale.exp().item(), result


@pytest.mark.parametrize(
    "make",
    [
        lambda guide: pg.Elbo(Regression("subsample_size"), guide),
        lambda guide: pg.Elbo(Regression("subsample"), guide),
        lambda guide: pg.Elbo(Regression(), guide, size=N),
        lambda guide: pg.latent.EnumeratedPair(Enumerable(), guide, size=N),
        lambda guide: Trace_ELBO()(Regression("subsample_size"), guide),
        lambda guide: TraceMeanField_ELBO()(Regression("subsample_size"), guide),
    ],
)
def test_the_posterior_of_all_data_is_exact_on_minibatches(make):
    guide = Normal()
    scale, result = trained_scale(make(guide), guide)
    assert scale == pytest.approx(SD, rel=0.1)
    assert guide.loc.item() == pytest.approx(MEAN, abs=0.5 * SD)
    exact = -dist.MultivariateNormal(torch.zeros(N), torch.eye(N) + 1).log_prob(Y).item() / N
    assert sum(result.history.loss[-100:]) / 100 == pytest.approx(exact, abs=0.05)  # nats per datum


def test_the_posterior_of_all_data_is_exact_without_minibatches():
    guide = Normal()
    assert trained_scale(pg.Elbo(Regression(), guide), guide, batch_size=N)[0] == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pg.Elbo(Regression(), Normal()),
        lambda: Trace_ELBO()(Regression(), Normal()),
        lambda: pg.latent.EnumeratedPair(Enumerable(), Normal()),
        lambda: [pg.Turn(pg.Elbo(Regression(), guide := Normal()), guide)],
        lambda: (lambda guide: pg.Elbo(guide.model, guide))(AutoNormal(Regression())),
        lambda: (lambda guide: pg.Elbo(guide.model, guide))(AutoDelta(Regression())),
        lambda: (lambda guide: pg.Elbo(guide.model, guide))(AutoDiagonalNormal(Regression())),
    ],
)
def test_minibatches_of_a_program_that_does_not_know_are_refused_with_ways_out(make):
    with pytest.raises(ValueError, match="outside the data plate, .*slope") as caught:
        pg.fit(make(), (X, Y), steps=1)
    ways = ("pyro.plate('data', 240, subsample_size=...)", "pyrogen.Elbo(model, guide, size=240)", "batch_size=240")
    assert all(way in str(caught.value) for way in ways)


def test_a_plate_that_stands_for_other_data_is_refused():
    tensors = X[:200], Y[:200]
    for data in (tensors, TensorDataset(*tensors), DataLoader(TensorDataset(*tensors), batch_size=50, shuffle=True)):
        with pytest.raises(ValueError, match="`data` must have the 240 rows that the plate 'data' stands for.*got 200"):
            pg.fit(pg.Elbo(Regression("subsample_size"), Normal()), data, steps=1, batch_size=50)


class Loader:
    """A loader of unknown length."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(list(zip(X.split(self.size), Y.split(self.size), strict=True)))


class OneDatum(nn.Module):
    """All that it is given is one datum."""

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(slope * x, 1.0).to_event(1), obs=y)


class Subsampling(nn.Module):
    """A model that is given all data and subsamples them by itself."""

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=len(x) // 2) as rows:
            pyro.sample("y", dist.Normal(slope * x[rows], 1.0), obs=y[rows])


@pytest.mark.parametrize(
    ("model", "data", "batch_size"),
    [
        ("len", (X[:50], Y[:50]), 128),  # a minibatch is the whole data set
        ("len", Loader(N), 1),
        ("len", [(X, Y)], 1),
        ("len", DataLoader(TensorDataset(X, Y), batch_size=N), 1),
        ("subsample_size", Loader(60), 1),
        ("subsample_size", DataLoader(TensorDataset(X, Y), batch_size=60), 1),
        ("subsample_size", TensorDataset(X, Y), 60),
        (OneDatum(), (X, Y), N),
        (Subsampling(), (X, Y), N),
    ],
)
def test_no_false_alarm(model, data, batch_size):
    model = model if isinstance(model, nn.Module) else Regression(model)
    pg.fit(pg.Elbo(model, Normal()), data, steps=2, batch_size=batch_size)


class Alone(nn.Module):
    """One datum at a time, with a latent of its own and no plate."""

    def __init__(self, amortized):
        super().__init__()
        self.network, self.amortized = nn.Linear(2, 4), amortized

    def forward(self, x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[0])

    def guide(self, x):
        loc, log_scale = self.network(x[0] if self.amortized else torch.ones(2)).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_a_datum_at_a_time_needs_no_plate_where_its_latents_are_computed_from_it():
    x = torch.randn(20, 2)
    model = Alone(amortized=True)
    pg.fit(pg.Elbo(model, model.guide), x, steps=2, batch_size=1)
    model = Alone(amortized=False)
    with pytest.raises(ValueError, match=r"outside the data plate, \['z'\]"):
        pg.fit(pg.Elbo(model, model.guide), x, steps=2, batch_size=1)


class Sets(nn.Module):
    """A latent of each set of points, computed from the set."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 2)

    def forward(self, x):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(level, 1.0), obs=x)

    def guide(self, x):
        loc, log_scale = self.network(x[:, None]).mean(0)
        pyro.sample("level", dist.Normal(loc, log_scale.exp()))


def test_sets_that_a_loader_gives_may_have_latents_of_their_own():
    model = Sets()
    turn = pg.Turn(pg.Elbo(model, model.guide), model)
    pg.fit(turn, [torch.randn(5), torch.randn(7)], steps=2)
    with pytest.raises(ValueError, match=r"outside the data plate, \['level'\]"):  # rows that fit shuffles are no sets
        pg.fit(turn, torch.randn(40), steps=2, batch_size=8)
    with pytest.raises(ValueError, match=r"outside the data plate, \['slope'\]"):
        pg.fit(pg.Elbo(Regression(), Normal()), [(X[:5], Y[:5]), (X[5:], Y[5:])], steps=2)


class Flat(nn.Module):
    """All pixels of a minibatch in one plate, beside a latent of all data or none."""

    def __init__(self, shared, size=None):
        super().__init__()
        self.shared, self.size = shared, size

    def forward(self, x):
        flat = x.reshape(-1)
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0)) if self.shared else 0.0
        with pyro.plate("pixels", (self.size or len(x)) * x.shape[1], subsample=range(len(flat))):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=flat)


class FlatGuide(Flat):
    def forward(self, x):
        flat = x.reshape(-1)
        if self.shared:
            pyro.sample("mean", dist.Normal(0.1, 0.2))
        with pyro.plate("pixels", (self.size or len(x)) * x.shape[1], subsample=range(len(flat))):
            pyro.sample("z", dist.Normal(flat / 2, 0.5**0.5))


def test_a_plate_of_several_rows_for_each_datum_is_the_data_plate():
    x = torch.randn(20, 3)
    weight = nn.Parameter(torch.zeros(()))

    def fit(shared, size=None, plate_size=None):
        model, guide = Flat(shared, plate_size), FlatGuide(shared, plate_size)
        model.weight = weight
        objective = pg.Elbo(model, guide, size=size)
        return pg.fit([pg.Turn(lambda x: objective(x) + 0 * weight, model)], x, steps=2, batch_size=4, seed=0)

    fit(shared=False)
    with pytest.raises(ValueError, match="outside the data plate"):
        fit(shared=True)
    assert fit(True, size=20).history.loss == pytest.approx(fit(True, plate_size=20).history.loss, rel=1e-5)
    assert 3 < fit(True, size=20).history.loss[0] < 9  # three pixels, in nats per datum


class Scaled(nn.Module):
    """A model that scales its rows up by hand."""

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=N / len(x)):
            pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def test_rows_scaled_by_hand_stand_for_as_many():
    pg.fit(pg.Elbo(Scaled(), Normal()), (X, Y), steps=2, batch_size=60)
    with pytest.raises(ValueError, match="outside the data plate"):
        pg.fit(pg.Elbo(Scaled(), Normal()), (X[:200], Y[:200]), steps=2, batch_size=50)


class Loose(nn.Module):
    """A model with a second outcome that stands for the rows of a minibatch alone."""

    def __init__(self, way, full=True):
        super().__init__()
        self.way, self.full = way, full

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N, subsample_size=len(x)) if self.full else pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        if self.way == "plate":
            with pyro.plate("again", len(x)):
                pyro.sample("w", dist.Normal(slope, 1.0), obs=x)
        elif self.way == "event":
            pyro.sample("w", dist.Normal(slope, 1.0).expand([len(x)]).to_event(1), obs=x)
        elif self.way == "factor":
            pyro.factor("w", -(x - slope).square().sum())
        elif self.way == "scaled factor":
            with pyro.poutine.scale(scale=N / len(x)):
                pyro.factor("w", -(x - slope).square().sum())
        elif self.way == "deterministic":
            pyro.deterministic("w", slope * x)
        elif self.way == "one more":
            pyro.sample("w", dist.Normal(slope, 1.0), obs=torch.zeros(()))


@pytest.mark.parametrize("way", ["plate", "event", "factor"])
def test_rows_outside_the_data_plate_are_seen(way):
    with pytest.raises(ValueError, match="observes .'w'. outside the data plate 'data'"):
        pg.fit(pg.Elbo(Loose(way), Normal()), (X, Y), steps=2, batch_size=60)
    pg.fit(pg.Elbo(Loose(way), Normal()), (X, Y), steps=2, batch_size=N)
    if way != "plate":
        with pytest.raises(ValueError, match="observes .'w'. outside the data plate 'data'"):
            pg.fit(pg.Elbo(Loose(way, full=False), Normal(), size=N), (X, Y), steps=2, batch_size=60)


@pytest.mark.parametrize("way", ["scaled factor", "deterministic", "one more"])
def test_what_is_observed_once_may_stand_outside_the_data_plate(way):
    pg.fit(pg.Elbo(Loose(way), Normal()), (X, Y), steps=2, batch_size=60)


def test_rows_are_not_scaled_up_twice():
    with pytest.raises(ValueError, match="`size` must be None for a program that scales its rows up"):
        pg.fit(pg.Elbo(Scaled(), Normal(), size=N), (X, Y), steps=2, batch_size=60)


@pytest.mark.parametrize("rows", [False, True], ids=["a number", "a number for each row"])
@pytest.mark.parametrize("size", [None, N])
def test_rows_scaled_by_hand_and_by_the_plate_are_refused(rows, size):
    def fit(scale, batch_size=60):
        scales = torch.full((batch_size,), scale) if rows else scale
        plate = written["len" if size else "subsample_size"]

        class Twice(nn.Module):
            def forward(self, x, y):
                slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
                with plate(x), pyro.poutine.scale(scale=scales):
                    pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

        pg.fit(pg.Elbo(Twice(), Normal(), size=size), (X, Y), steps=2, batch_size=batch_size)

    with pytest.raises(ValueError, match="`size` must be None for a program that scales" if size else "up twice"):
        fit(4.0)
    fit(3.0)
    fit(4.0, batch_size=N)


def test_a_model_that_subsamples_its_minibatch_does_not_know_of_the_others():
    with pytest.raises(ValueError, match="stands for"):
        pg.fit(pg.Elbo(Subsampling(), Normal()), (X, Y), steps=1, batch_size=60)


def test_amortized_pairs_train_on_minibatches_as_ever():
    pg.fit(pg.Elbo(*pair()), torch.randn(40, 2), steps=2, batch_size=8)  # as wide as the minibatch is long
    model, guide = pair()
    pg.fit(Trace_ELBO()(model, guide), torch.randn(40, 2), steps=2, batch_size=8)


# --- nats per datum ------------------------------------------------------------------------------------------


def loss(objective, x, y):
    torch.manual_seed(3)  # the guide draws first, so that all minibatches see one slope
    return objective(x, y)


objectives = [
    lambda guide: pg.Elbo(Regression("subsample_size"), guide),
    lambda guide: pg.Elbo(Regression(), guide, size=N),
    lambda guide: pg.latent.EnumeratedPair(Enumerable("subsample_size"), guide),
    lambda guide: pg.latent.EnumeratedPair(Enumerable(), guide, size=N),
]


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("make", objectives)
def test_minibatches_have_the_mean_loss_and_gradient_of_all_data(make, validation):
    guide = Normal()
    with pyro.validation_enabled(validation):
        expected = loss(pg.Elbo(Regression(), guide), X, Y)
        objective = make(guide)
        found = torch.stack([loss(objective, *part) for part in zip(X.split(60), Y.split(60), strict=True)]).mean()
    parameters = list(guide.parameters())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_history_clip_and_validation_are_in_nats_per_datum():
    def run(objective):
        return pg.fit(
            objective,
            (X, Y),
            steps=1,
            batch_size=60,
            seed=0,
            validation=(X[:30], Y[:30]),
            optimizer=partial(torch.optim.SGD, lr=0.0),
        ).history

    ours, pyros = (
        run(pg.Elbo(Regression(), Normal(), size=N)),
        run(Trace_ELBO()(Regression("subsample_size"), Normal())),
    )
    assert ours.loss == pytest.approx(pyros.loss, rel=1e-5)
    assert 1 < ours.loss[0] < 3
    assert ours.gradient_norms[0][0] < 5
    assert ours.gradient_norms[0] == pytest.approx(pyros.gradient_norms[0], rel=1e-4)
    assert ours.validation[1] == pytest.approx(pyros.validation[1], rel=1e-5)
    assert 1 < ours.validation[1] < 3


@pytest.mark.parametrize(
    ("plate", "size", "batch_size"), [("len", N, 60), ("subsample_size", None, 60), ("len", None, N)]
)
def test_held_out_data_stand_for_those_trained_on(plate, size, batch_size):
    """The divergence from the prior of what all data share is shared by all, not by the held-out rows."""
    guide = Normal()
    result = pg.fit(
        pg.Elbo(Regression(plate), guide, size=size),
        (X, Y),
        steps=1,
        batch_size=batch_size,
        validation=(X[:30], Y[:30]),
        optimizer=partial(torch.optim.SGD, lr=0.0),
    )
    torch.manual_seed(0)
    slope = dist.Normal(guide.loc, guide.log_scale.exp()).sample()
    rate = dist.Normal(guide.loc, guide.log_scale.exp()).log_prob(slope) - dist.Normal(0.0, 1.0).log_prob(slope)
    expected = rate / N - dist.Normal(slope, 1.0).log_prob(Y[:30]).mean()
    assert result.history.validation[1] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("size", [30, None])
def test_held_out_data_may_be_more_than_those_trained_on(size):
    """A plate takes no more rows than it stands for, so that they come in minibatches."""
    plate = (lambda x: pyro.plate("data", 30, subsample_size=len(x))) if size is None else "len"
    result = pg.fit(
        pg.Elbo(Regression(plate), Normal(), size=size), (X[:30], Y[:30]), steps=1, batch_size=128, validation=(X, Y)
    )
    assert 1 < result.history.validation[1] < 3


def test_a_fraction_held_out_keeps_the_number_of_data():
    """A plate may stand for the data before some were held out, or for those left."""
    for size in (N, N - N // 4):
        pg.fit(pg.Elbo(Regression(), Normal(), size=size), (X, Y), steps=2, batch_size=60, validation=0.25)


# --- size ----------------------------------------------------------------------------------------------------


def test_size_is_refused_where_it_has_no_meaning():
    with pytest.raises(ValueError, match="`size` must be at least 1, got 0"):
        pg.Elbo(Regression(), Normal(), size=0)
    with pytest.raises(ValueError, match="`size` must be at least the 240 rows of the batch, got 60"):
        pg.Elbo(Regression(), Normal(), size=60)(X, Y)
    with pytest.raises(ValueError, match="`size` needs a plate of the 240 rows"):
        pg.Elbo(OneDatum(), Normal(), size=500)(X, Y)
    with pytest.raises(ValueError, match="`size` must be the 240 data of the plate 'data', got 500"):
        pg.Elbo(Regression("subsample_size"), Normal(), size=500)(X[:60], Y[:60])


def test_size_leaves_random_states_modes_and_statistics_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x, y):
            slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(slope * self.norm(x[:, None])[:, 0], 1.0), obs=y)

    found = []
    for elbo in (pg.Elbo(Model(), Normal(), size=60), pg.Elbo(Model(), Normal())):
        elbo.model.norm.requires_grad_(False)
        elbo.guide.eval()
        torch.manual_seed(0)
        found.append((elbo(X[:60], Y[:60]).item(), elbo.model.norm.running_mean.item(), torch.rand(()).item()))
        assert elbo.model.norm.training
        assert not elbo.guide.training
    assert found[0] == found[1]


def test_programs_are_not_taken_for_networks_to_compile():
    """The run that finds the data plate is hidden from handlers, and yet runs Pyro statements."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(1, 1)

        def forward(self, x, y):
            slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                return pyro.sample("y", dist.Normal(slope * self.network(x[:, None])[:, 0], 1.0), obs=y)

    statements, elbo = Statements(), pg.Elbo(Model(), Normal(), size=N)
    with statements.watching(elbo):
        elbo(X[:60], Y[:60])
    assert statements.networks == {elbo.model.network}


class Square(nn.Module):
    """Rows and features in plates that may be equally long."""

    def forward(self, x):
        with pyro.plate("features", 6, dim=-2):
            weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(weight, 1.0), obs=x.T)


def test_of_two_plates_the_one_that_follows_the_rows_is_that_of_the_data():
    x = torch.randn(24, 6)
    guide = AutoNormal(Square())
    with pytest.raises(ValueError, match=r"plate\('data', 24, subsample_size"):
        pg.fit(pg.Elbo(guide.model, guide), x, steps=1, batch_size=6)
    guide = AutoNormal(Square())
    elbo = pg.Elbo(guide.model, guide, size=24)
    pg.fit(elbo, x, steps=2, batch_size=6)
    assert set(elbo._plates) == {"data"}


class Outcomes(nn.Module):
    """Two outcomes, each in a plate of its own."""

    def __init__(self, size=None):
        super().__init__()
        self.size = size

    def forward(self, x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        for name, value in (("x", x), ("y", y)):
            with pyro.plate(f"data of {name}", self.size or len(x), subsample=range(len(x))):
                pyro.sample(name, dist.Normal(slope, 1.0), obs=value)


def test_plates_side_by_side_are_as_one():
    with pytest.raises(ValueError, match="outside the data plate"):
        pg.fit(pg.Elbo(Outcomes(), Normal()), (X, Y), steps=1, batch_size=60)
    losses = [
        pg.fit(pg.Elbo(Outcomes(written), Normal(), size=size), (X, Y), steps=2, batch_size=60, seed=0).history.loss
        for written, size in ((N, None), (None, N))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert 2 < losses[0][0] < 4


# --- rows that own parameters -----------------------------------------------------------------------------------


class Hierarchical(nn.Module):
    """A latent of all data, one for each row."""

    def __init__(self, size=None):
        super().__init__()
        self.size = size

    def forward(self, x, number=None):
        center = pyro.sample("center", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x) if self.size is None else self.size, subsample=number):
            z = pyro.sample("z", dist.Normal(center, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Local(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class PointEstimates(nn.Module):
    """A model that owns a number for each row."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(60))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0), obs=x)


@pytest.mark.parametrize(
    "automatic",
    [AutoNormal, AutoDelta, AutoDiagonalNormal, partial(pg.flows.AutoFlow, recipe=pg.flows.affine_coupling)],
)
@pytest.mark.parametrize("model", [Hierarchical, Local])
def test_a_guide_with_an_entry_for_each_row_is_refused_on_minibatches(model, automatic):
    guide = automatic(model())
    with pytest.raises(ValueError, match=r"holds an entry for each row of a minibatch, in .*z.*batch_size=240"):
        pg.fit(pg.Elbo(guide.model, guide), X, steps=1, batch_size=60)
    guide = automatic(model())
    with pytest.raises(ValueError, match="`size` must be None for a pair that holds an entry for each row"):
        pg.Elbo(guide.model, guide, size=N)(X[:60])
    guide = automatic(model())
    pg.fit(pg.Elbo(guide.model, guide), X[:20], steps=1)
    pg.fit(pg.Elbo(guide.model, guide), X[:20], steps=1, validation=X[:20], metric=lambda x: x.mean())
    with pytest.raises(ValueError, match="`validation` must be None"):
        pg.fit(pg.Elbo(guide.model, guide), X[:20], steps=1, validation=X[:20])


def test_a_model_with_an_entry_for_each_row_is_refused_on_minibatches():
    model = PointEstimates()
    with pytest.raises(ValueError, match=r"holds an entry for each row of a minibatch, in \['model.loc'\]"):
        pg.fit(pg.Elbo(model, lambda x: None), X, steps=1, batch_size=60)


@pytest.mark.parametrize("automatic", [AutoNormal, AutoDelta])
def test_a_single_row_shows_its_entry_too(automatic):
    guide = automatic(Local())
    with pytest.raises(ValueError, match="holds an entry for each row of a minibatch"):
        pg.fit(pg.Elbo(guide.model, guide), X, steps=1, batch_size=1)


class Iterated(nn.Module):
    """Rows in a plate that is iterated over."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 1)

    def forward(self, x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(self, x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"z{i}", dist.Normal(self.network(x[i : i + 1])[0], 1.0))


def test_a_plate_that_is_iterated_over_is_a_data_plate():
    model = Iterated()
    pg.fit([pg.Turn(pg.Elbo(model, model.guide), model)], X, steps=1, batch_size=4)


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 1000), (1, 2)])
def test_rows_named_by_number_keep_their_own_entries(batch_size, steps):
    """Each row of the data trains the entries of its own number: exact local posteriors, on minibatches."""
    size, y = 16, Y[:16]
    model = Hierarchical(size)
    guide = AutoNormal(model, create_plates=lambda x, number: pyro.plate("data", size, subsample=number, dim=-1))
    pg.fit(
        pg.Elbo(model, guide),
        (y, torch.arange(size)),
        steps=steps,
        batch_size=batch_size,
        seed=0,
        optimizer=partial(torch.optim.Adam, lr=0.03),
        ema=0.99,
    )
    center = y.sum() / 2 / (1 + size / 2)
    assert steps < 1000 or torch.allclose(guide.locs.z.detach(), (y + center) / 2, atol=0.3)


def test_rows_that_a_plate_draws_are_not_those_of_the_minibatch():
    class Drawn(nn.Module):
        def forward(self, x):
            with pyro.plate("data", N, subsample_size=len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for batch_size in (60, 1):
        guide = AutoNormal(Drawn(), create_plates=lambda x: pyro.plate("data", N, subsample_size=len(x), dim=-1))
        with pytest.raises(ValueError, match="holds an entry for each row"):
            pg.fit(pg.Elbo(guide.model, guide), X, steps=1, batch_size=batch_size)
