"""Several players: freezing, repeats, and a game that equals its loop by hand."""

import copy

import pytest
import torch
from small_programs import Game, Gaussian, rmsprop, same, weights
from torch import nn

import pyrogen as pg
from pyrogen.core.batches import batches


def test_a_game_equals_its_loop_by_hand_bit_for_bit():
    x = torch.randn(40, 2) + 2
    ours, theirs = (game := Game()), copy.deepcopy(game)
    result = pg.fit(ours.turns(), x, steps=15, batch_size=8, seed=3)

    order = (index for epoch in range(99) for index in batches(x, 8, seed=3).order(epoch).split(8))
    torch.manual_seed(3)
    critic = rmsprop(theirs.critic.parameters())
    generator = torch.optim.Adam(theirs.generator.parameters(), lr=1e-3, fused=True)
    losses = [[], []]
    for _ in range(15):
        for _ in range(2):
            critic.zero_grad()
            loss = theirs.judge(x[next(order)])
            loss.backward()
            critic.step()
        losses[0].append(loss.item())
        generator.zero_grad()
        loss = theirs.fool(x[next(order)])
        loss.backward()
        generator.step()
        losses[1].append(loss.item())
    assert result.history.losses == losses
    assert same(weights(ours), weights(theirs))


def test_what_a_turn_does_not_name_is_frozen_in_it():
    game, seen = Game(), []

    def judge(x):
        seen.append(("judge", [p.requires_grad for p in game.generator.parameters()]))
        return game.judge(x)

    def fool(x):
        seen.append(("fool", [p.requires_grad for p in game.critic.parameters()]))
        return game.fool(x)

    pg.fit([pg.Turn(judge, game.critic), pg.Turn(fool, game.generator)], torch.randn(8, 2), steps=2)
    assert all(not any(flags) for _, flags in seen[2:])  # the dry run, before any turn, sees all
    assert [name for name, _ in seen[2:]] == ["judge", "fool"] * 2
    assert all(p.requires_grad and p.grad is None for p in game.parameters())


def test_parameters_frozen_by_the_user_stay_frozen():
    module = Gaussian()
    module.log_scale.requires_grad_(False)
    pg.fit(module, torch.randn(8, 2) + 1, steps=3)
    assert not module.log_scale.requires_grad
    assert torch.equal(module.log_scale, torch.zeros(2))
    assert not torch.equal(module.loc, torch.zeros(2))


def test_repeats_take_a_minibatch_of_their_own_each():
    rows = []

    class Counting(Gaussian):
        def forward(self, context=None):
            return super().forward(context)

    module = Counting()

    def objective(x):
        rows.append(x[:, 0].tolist())
        return -module().log_prob(x).mean()

    x = torch.arange(12.0).unsqueeze(-1).expand(12, 2)
    result = pg.fit(pg.Turn(objective, module, repeats=3), x, epochs=2, batch_size=4, seed=0)
    assert len(result.history.loss) == 2
    assert sorted(sum(rows[1:4], [])) == sorted(sum(rows[4:7], [])) == [float(n) for n in range(12)]


def test_a_turn_may_hold_parameters_from_anywhere():
    module, loose = Gaussian(), nn.Parameter(torch.zeros(()))
    turn = pg.Turn(lambda x: loose.square() + loose - module().log_prob(x).mean(), [loose])
    pg.fit(turn, torch.randn(8, 2), steps=3)
    assert loose.item() < 0
    assert torch.equal(module.loc, torch.zeros(2))


def test_averages_and_gradients_in_turns():
    game = Game()
    result = pg.fit(game.turns(), torch.randn(40, 2), steps=4, batch_size=8, ema=0.9, clip=1.0)
    assert [len(losses) for losses in result.history.losses] == [4, 4]
    assert [len(norms) for norms in result.history.gradient_norms] == [4, 4]


def test_turns_are_validated_with_a_metric():
    game, x = Game(), torch.randn(40, 2)
    with pytest.raises(ValueError, match="`metric` must be given to validate several turns, got None"):
        pg.fit(game.turns(), x, steps=1, validation=0.5)
    result = pg.fit(game.turns(), x, steps=4, validation=0.5, metric=game.fool)
    assert result.history.validation
