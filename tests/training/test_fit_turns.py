"""Several players: freezing, repeats, and a game that equals its loop by hand."""

import copy

import pytest
import torch
from small_programs import Game, Gaussian, rmsprop, same, weights
from torch import nn
from torch.utils.data import DataLoader

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


# What a turn may have of its own -------------------------------------------------------------------------------------


def test_a_turn_may_be_taken_every_few_steps():
    taken = []
    game = Game()

    def fool(x):
        taken.append(len(x))
        return game.fool(x)

    turns = [pg.Turn(game.judge, game.critic), pg.Turn(fool, game.generator, every=3)]
    result = pg.fit(turns, torch.randn(40, 2), steps=7, batch_size=8)
    assert [len(losses) for losses in result.history.losses] == [7, 2]
    assert len(taken) == 1 + 2  # the dry run, and steps 3 and 6
    game = Game()
    turns = [pg.Turn(game.judge, game.critic, every=2), pg.Turn(game.fool, game.generator, every=2)]
    assert len(pg.fit(turns, torch.randn(40, 2), epochs=2, batch_size=8).history.losses[0]) == 5


def test_a_turn_may_have_data_of_its_own():
    seen = {"labelled": [], "unlabelled": []}
    module = Gaussian()

    def objective(name):
        def loss(x):
            seen[name].append(x[:, 0].tolist())
            return -module().log_prob(x).mean()

        return loss

    labelled = torch.arange(6.0).unsqueeze(-1).expand(6, 2)
    unlabelled = 100 + torch.arange(12.0).unsqueeze(-1).expand(12, 2)
    turns = [pg.Turn(objective("unlabelled"), module), pg.Turn(objective("labelled"), module, data=labelled)]
    result = pg.fit(turns, unlabelled, epochs=1, batch_size=3, seed=0)
    assert len(result.history.loss) == 4
    assert sorted(sum(seen["unlabelled"][1:], [])) == unlabelled[:, 0].tolist()
    assert sorted(sum(seen["labelled"][1:3], [])) == sorted(sum(seen["labelled"][3:], [])) == labelled[:, 0].tolist()
    assert seen["labelled"][1] + seen["labelled"][2] != labelled[:, 0].tolist()  # in an order of their own


def test_epochs_are_of_data_that_somebody_trains_on():
    module = Gaussian()
    turn = pg.Turn(module.objective(), module, data=torch.randn(8, 2))
    assert len(pg.fit(turn, (), steps=3).history.loss) == 3
    with pytest.raises(ValueError, match="`epochs` are of `data`, of which no turn takes minibatches"):
        pg.fit(turn, (), epochs=3)


def test_statistics_are_learned_from_the_data_of_each_turn():
    flows = [pg.flows.affine_coupling((2,), layers=1, hidden=(4,)) for _ in range(2)]
    x, y = torch.randn(50, 2) + 5, torch.randn(50, 2) - 5
    pg.fit([pg.Turn(flows[0].objective(), flows[0]), pg.Turn(flows[1].objective(), flows[1], data=y)], x, steps=1)
    for flow, data in zip(flows, (x, y), strict=True):
        assert torch.allclose(flow.bijections[-1].mean, data.mean(0), atol=1e-5)


def test_bad_rows_of_a_turn_are_named():
    flow, bad = pg.flows.affine_coupling((2,), layers=1, hidden=(4,)), torch.randn(50, 2)
    bad[7] = float("nan")
    with pytest.raises(ValueError, match="NaN in row 7 of `data`"):
        pg.fit(pg.Turn(flow.objective(), flow, data=bad), torch.randn(5, 2), steps=1)


def test_a_turn_may_have_a_schedule_and_a_clip_of_its_own():
    rates, modules = {}, [Gaussian(), Gaussian()]

    def optimizer(parameters):
        made = torch.optim.SGD(parameters, lr=1.0)
        rates[len(rates)] = lambda: made.param_groups[0]["lr"]
        return made

    def schedule(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    turns = [pg.Turn(m.objective(), m, optimizer=optimizer) for m in modules]
    turns[1].schedule, turns[1].clip = schedule, 0.01
    x = torch.full((4, 2), 3.0)
    pg.fit(turns, x, steps=1, clip=100.0)
    assert (rates[0](), rates[1]()) == (1.0, 0.5)
    assert modules[0].loc.norm() > 1
    assert weights_norm(modules[1]) == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(ValueError, match="`clip` must be positive"):
        pg.Turn(modules[0].objective(), modules[0], clip=0.0)
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        pg.Turn(modules[0].objective(), modules[0], every=0)


def weights_norm(module):
    return sum(parameter.square().sum() for parameter in module.parameters()).sqrt().item()


class Player(Gaussian):
    """A module whose objective is a turn."""

    def objective(self):
        return pg.Turn(super().objective(), [self.loc])


def test_the_objective_of_a_module_may_be_a_turn():
    module = Player()
    pg.fit(module, torch.randn(8, 2) + 1, steps=2)
    assert module.loc.abs().min() > 0
    assert torch.equal(module.log_scale, torch.zeros(2))


@pytest.mark.parametrize("loader", [False, True])
def test_turns_with_data_and_a_pace_of_their_own_resume(loader, tmp_path):
    def run(steps, **arguments):
        torch.manual_seed(2)
        game, own = Game(), torch.arange(20.0).reshape(10, 2)
        generator = torch.Generator().manual_seed(4)
        own = DataLoader(own, batch_size=3, shuffle=True, generator=generator) if loader else own

        def fool(x):
            return game.fool(x) + 1e-3 * game.generator(x).square().mean()

        turns = [
            pg.Turn(game.judge, game.critic, repeats=2, clip=0.5),
            pg.Turn(fool, game.generator, data=own, every=2, schedule=schedule),
        ]
        result = pg.fit(turns, torch.randn(50, 2), steps=steps, batch_size=8, accumulate=2, seed=1, **arguments)
        return weights(game), result.history.losses

    def schedule(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    expected = run(12)
    for steps in (1, 4, 7, 12):
        found = run(steps, checkpoint=tmp_path / "run")
    assert found[1] == expected[1]
    assert same(found[0], expected[0])


def test_a_loss_without_a_gradient_is_refused_by_name():
    game = Game()
    for loss in (lambda x: game.critic(x).mean().detach(), lambda x: game.generator(x).mean()):
        with pytest.raises(ValueError, match="`objective` must give a loss that depends on the parameters of its turn"):
            pg.fit([pg.Turn(loss, game.critic), game.turns()[1]], torch.randn(8, 2), steps=1)
