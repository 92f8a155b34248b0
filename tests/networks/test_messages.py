"""What recurrent messages take of observations."""

import pytest
import torch

from pyrogen.networks.forms import OneHot
from pyrogen.networks.messages import RecurrentMessages


def test_symbols_enter_as_if_each_had_a_number_of_its_own():
    """The network of symbols is that of their indicators, with one flag for each symbol that is missing."""
    torch.manual_seed(0)
    of_symbols = RecurrentMessages(2, 3, width=4, form=OneHot(5))
    x = torch.randint(5, (7, 6, 2)).float()
    x[2, 4:] = torch.nan
    x[0, 1, 0] = torch.nan
    indicators = torch.where(x.isnan()[..., None], torch.nan, (x[..., None] == torch.arange(5)).float()).flatten(-2)
    of_numbers = RecurrentMessages(10, 3, width=4)
    of_numbers.load_state_dict({**of_symbols.state_dict(), "future.weight_ih_l0": _flags_of_ten(of_symbols)})
    for part, expected in zip(of_symbols(x), of_numbers(indicators), strict=True):
        torch.testing.assert_close(part, expected)


def _flags_of_ten(of_symbols):
    """Weights of ten flags that do what those of two did: each fifth of them counts."""
    numbers, flags = of_symbols.future.weight_ih_l0.split([10, 2], -1)
    return torch.cat([numbers, (flags / 5).repeat_interleave(5, -1)], -1)


def test_the_same_symbols_by_other_names_tell_something_else():
    messages = RecurrentMessages(1, 3, width=4, form=OneHot(3))
    x = torch.tensor([[0.0], [1.0], [2.0]])[None]
    assert not torch.allclose(messages(x)[0], messages((x + 1) % 3)[0])


@pytest.mark.parametrize("piece", [7, 200])
def test_units_are_those_of_what_is_observed_however_data_are_read(piece):
    """A sensor that begins late is missing from whole pieces of the data."""
    torch.manual_seed(0)
    x = torch.randn(200, 5, 3) * torch.tensor([1.0, 2.0, 0.0]) + torch.tensor([0.0, 1000.0, 5.0])
    x[:120, :, 1] = torch.nan
    x[130, 2] = torch.nan
    x = torch.cat([x, torch.full((200, 5, 1), torch.nan)], -1)
    network = RecurrentMessages(4, 2, width=8)
    standardizer, moments = network.standardizer, network.standardizer.moments()
    for rows in x.split(piece):
        ((_, read),) = network.read_data(rows)
        moments.add(read)
    standardizer.learn(moments)
    columns = x.reshape(-1, 4).unbind(-1)
    seen = [column[~column.isnan()] for column in columns[:2]]
    expected = [*(column.mean() for column in seen), 5.0, 0.0], [*(column.std() for column in seen), 1.0, 1.0]
    torch.testing.assert_close(standardizer.mean, torch.tensor(expected[0]))
    torch.testing.assert_close(standardizer.scale, torch.tensor(expected[1]))
