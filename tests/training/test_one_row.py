"""A minibatch of a single row, for what needs more of them."""

import pytest
import torch
from torch import nn

import pyrogen as pg


def normalized():
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    return pg.Parametric(network, pg.families.diagonal_normal, event_shape=(2,), context_shape=(4,))


class Spread(nn.Module):
    """An objective with the standard deviation of a minibatch, which one row does not have."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 2)

    def forward(self, x, context):
        return (self.line(context) - x).square().mean() + self.line(context).std(0).sum()


def rows(count):
    context = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return context[:, :2].clone(), context


@pytest.mark.parametrize("make", [normalized, Spread])
def test_one_row_left_at_the_end_of_an_epoch_is_refused_before_training(make):
    module = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items() if "num_batches" not in name}
    with pytest.raises(
        ValueError, match=r"`batch_size` must not leave a single row.*2 does of 5 rows.*use a larger one"
    ):
        pg.fit(module, rows(5), epochs=2, batch_size=2)
    changed = [name for name in before if not torch.equal(module.state_dict()[name], before[name])]
    assert all("running" in name for name in changed)
    pg.fit(make(), rows(5), epochs=2, batch_size=3)


def test_a_run_that_does_not_reach_the_single_row_trains():
    assert pg.fit(normalized(), rows(5), steps=2, batch_size=2).reason == "steps"
    with pytest.raises(ValueError, match="`batch_size`"):
        pg.fit(normalized(), rows(5), steps=3, batch_size=2)


def test_what_needs_one_row_only_trains_on_it():
    network = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    module = pg.Parametric(network, pg.families.diagonal_normal, event_shape=(2,), context_shape=(4,))
    assert len(pg.fit(module, rows(5), epochs=1, batch_size=2).history.loss) == 3


def test_a_row_that_is_bad_by_itself_is_not_taken_for_one_too_few():
    class Log(Spread):
        def forward(self, x, context):
            return (x[:, 0] > -99).float().log().mean() + self.line(context).mean()

    x, context = rows(5)
    x[:] = -100
    with pytest.raises(FloatingPointError):
        pg.fit(Log(), (x, context), epochs=1, batch_size=2)


@pytest.mark.filterwarnings("ignore:std")  # torch warns of the standard deviation of one row, which is NaN
def test_one_row_left_at_the_end_of_held_out_data_is_refused_before_training():
    with pytest.raises(ValueError, match="`batch_size` .*2 does of 5 rows of `validation`.*use a larger one"):
        pg.fit(Spread(), rows(16), epochs=1, batch_size=2, validation=rows(5))
    with pytest.raises(ValueError, match="8 does of 1 rows of `validation`.*hold out more of them"):
        pg.fit(Spread(), rows(16), epochs=1, batch_size=8, validation=rows(1))
    assert pg.fit(Spread(), rows(16), epochs=1, batch_size=2, validation=rows(6)).reason == "epochs"
    assert pg.fit(normalized(), rows(16), epochs=1, batch_size=2, validation=rows(5)).reason == "epochs"
