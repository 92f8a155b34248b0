"""Averages of all weights, and of a chosen part."""

import copy
from functools import partial

import pytest
import torch
from small_programs import Game, Gaussian, same, weights
from torch import nn

import pyrogen as pg
from pyrogen.training import Average


def play(ema, **arguments):
    torch.manual_seed(4)
    game, last = Game(), {}

    def keep(progress):
        last.update(weights(game))

    pg.fit(game.turns(), torch.randn(40, 2), steps=6, batch_size=8, ema=ema, seed=0, callbacks=[keep], **arguments)
    return game, last


def of(named, part):
    return {name: value for name, value in named.items() if name.startswith(part)}


def test_a_part_may_be_averaged_and_the_rest_stays():
    whole, _ = play(0.9)
    torch.manual_seed(4)
    game = Game()
    game_of_part = copy.deepcopy(game)
    data = torch.randn(40, 2)
    pg.fit(game.turns(), data, steps=6, batch_size=8, seed=0)
    pg.fit(game_of_part.turns(), data, steps=6, batch_size=8, seed=0, ema=Average(0.9, of=game_of_part.generator))
    assert same(weights(game_of_part.generator), weights(whole.generator))
    assert same(weights(game_of_part.critic), weights(game.critic))
    assert not same(weights(game_of_part.generator), weights(game.generator))


def test_validation_sees_the_averages_where_there_are_any():
    torch.manual_seed(4)
    game, seen, last = Game(), [], []
    pg.fit(
        game.turns(),
        torch.randn(40, 2),
        steps=6,
        batch_size=8,
        ema=Average(0.9, of=game.generator.parameters()),
        validation=torch.randn(4, 2),
        validate_every=6,
        metric=lambda x: (seen.append(weights(game)), 0.0)[1],
        callbacks=[lambda progress: last.append(weights(game))],
    )
    assert same(of(seen[0], "critic"), of(last[-1], "critic"))
    assert not same(of(seen[0], "generator"), of(last[-1], "generator"))
    assert same(weights(game), seen[0])


def test_averages_of_a_part_resume(tmp_path):
    expected, whole = None, None
    for steps in (6, 2, 6):
        torch.manual_seed(4)
        game = Game()
        arguments = {} if expected is None else {"checkpoint": tmp_path / "run"}
        ema = Average(0.9, of=game.generator)
        pg.fit(game.turns(), torch.randn(40, 2), steps=steps, batch_size=8, ema=ema, seed=0, **arguments)
        expected = expected or weights(game)
        whole = weights(game)
    assert same(whole, expected)
    game = Game()
    with pytest.raises(ValueError, match="`checkpoint` does not fit the average of the weights"):
        pg.fit(
            game.turns(),
            torch.randn(40, 2),
            steps=6,
            batch_size=8,
            ema=Average(0.9, of=game.critic),
            seed=0,
            checkpoint=tmp_path / "run",
        )


def test_power_averages_take_a_part_as_well():
    game = Game()
    averages = pg.PowerAverages(game.generator, every=2)
    pg.fit(game.turns(), torch.randn(40, 2), steps=6, batch_size=8, callbacks=[averages])
    before = weights(game)
    averages.apply(0.1)
    assert same(of(before, "critic"), of(weights(game), "critic"))
    assert not same(of(before, "generator"), of(weights(game), "generator"))


def test_what_cannot_be_averaged_is_named():
    for decay in (0, 1, 1.5, -1):
        with pytest.raises(ValueError, match="`decay` must be"):
            Average(decay, of=Gaussian())
    for decay in (1, 1.5, -1):
        with pytest.raises(ValueError, match="`ema` must be"):
            pg.fit(Gaussian(), torch.randn(8, 2), steps=1, ema=decay)
    with pytest.raises(ValueError, match="`of` must be a module or parameters, got int"):
        Average(0.9, of=3)
    with pytest.raises(ValueError, match="`ema` must average a part of what is trained"):
        pg.fit(Gaussian(), torch.randn(8, 2), steps=1, ema=Average(0.9, of=nn.Linear(2, 2)))


def test_lazy_modules_are_averaged_once_they_exist():
    module = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    turn = pg.Turn(lambda x: module(x).square().mean(), module)
    sgd = partial(torch.optim.SGD, lr=0.1)
    pg.fit(turn, torch.randn(8, 2), steps=3, ema=Average(0.9, of=module[0]), optimizer=sgd)
