"""Critics: what they compute, projection conditioning against closed forms, packing, and what they refuse."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import pyrogen as pg
from pyrogen.implicit import Critic, convolutional_critic, mlp_critic
from pyrogen.networks import SpectralNormalized, VectorContext
from pyrogen.networks.residual_image import ResidualImageFeatures, ResidualImageSynthesis

P_MEANS, Q_MEANS = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.0, 1.0, -0.5])
P_LABELS, Q_LABELS = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.4, 0.2])


def joint(labels, means, x, label):
    """log p(c) N(x; mean of c, 1), for all labels, and for one."""
    every = labels.log() + torch.distributions.Normal(means, 1.0).log_prob(x[:, None])
    return every, every.gather(1, label[:, None]).squeeze(1)


def test_projection_is_the_difference_of_log_posteriors_and_the_ratio_of_marginals():
    x, label = torch.randn(50), torch.arange(50) % 3
    p, p_joint = joint(P_LABELS, P_MEANS, x, label)
    q, q_joint = joint(Q_LABELS, Q_MEANS, x, label)
    marginals = p.logsumexp(1) - q.logsumexp(1)
    posteriors = (p_joint - p.logsumexp(1)) - (q_joint - q.logsumexp(1))
    critic = Critic(nn.Identity(), (1,), VectorContext(None, classes=3), width=1)
    with torch.no_grad():
        for layer in (critic.readout, critic.projection):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
        critic.projection.weight[0] = P_MEANS - Q_MEANS
        critic.projection.weight[1] = P_LABELS.log() - Q_LABELS.log() - (P_MEANS**2 - Q_MEANS**2) / 2
    assert torch.allclose(critic(x[:, None], label), posteriors + marginals, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: None, lambda: nn.Linear(2, 5)], ids=["linear", "given"])
def test_vectors_project_as_well(make):
    torch.manual_seed(0)
    critic = Critic(nn.Linear(3, 4), (3,), VectorContext((2,)), make(), width=4)
    x, context = torch.randn(7, 3), torch.randn(7, 2)
    features, numbers = critic.network(x), critic.projection(context)
    expected = critic.readout(features).squeeze(1) + (features * numbers[:, :4]).sum(1) + numbers[:, 4]
    assert torch.allclose(critic(x, context), expected)


@pytest.mark.slow
def test_a_trained_critic_finds_the_log_ratio_given_a_vector():
    """x given c is N(Ac, I) or N(Bc, I): log p/q = x.(A - B)c - (|Ac|^2 - |Bc|^2) / 2."""
    torch.manual_seed(0)
    a, b = torch.tensor([[1.0, 0.3], [0.0, -0.5]]), torch.tensor([[0.4, 0.0], [0.5, 0.2]])

    def drawn(n):
        c = torch.randn(n, 2)
        return c, c @ a.T + torch.randn(n, 2), c @ b.T + torch.randn(n, 2)

    critic = mlp_critic((2,), (2,), hidden=(64, 64))
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        c, x, y = drawn(256)
        loss = functional.softplus(-critic(x, c)).mean() + functional.softplus(critic(y, c)).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step()
    c, x, _ = drawn(2000)
    truth = (x * (c @ (a - b).T)).sum(1) - ((c @ a.T).square().sum(1) - (c @ b.T).square().sum(1)) / 2
    with torch.no_grad():
        assert (critic(x, c) - truth).square().mean() < 0.05 * truth.var()


def test_events_are_standardized_by_the_data():
    torch.manual_seed(0)
    data = 100 + 10 * torch.randn(1000, 3)
    critic = Critic(nn.Identity(), (3,), width=3)
    (found,) = critic.read_data(data)
    moments = found[0].moments()
    moments.add(found[1])
    found[0].learn(moments)
    standard = (data - data.mean(0)) / data.std(0)
    assert torch.allclose(critic(data), critic.readout(standard).squeeze(1), atol=1e-4)


@pytest.mark.parametrize("event_shape", [(), (2,), (3, 4), (2, 5, 5)])
def test_packs_are_rows_side_by_side(event_shape):
    x = torch.arange(6 * torch.Size(event_shape).numel(), dtype=torch.float).reshape(6, *event_shape)
    pack_shape = Critic(nn.Identity(), event_shape, width=1, pack=3).pack_shape
    size = torch.Size(pack_shape).numel()
    critic = Critic(nn.Flatten(), event_shape, width=size, pack=3)
    expected = critic.readout(torch.stack([x[:3].flatten(), x[3:].flatten()])).squeeze(1)
    assert torch.equal(critic(x), expected)


def test_packs_have_the_contexts_of_their_rows():
    critic = mlp_critic((2,), classes=3, pack=2, hidden=(8,))
    x, labels = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    scores = critic(x, labels)
    assert scores.shape == (3,)
    assert torch.allclose(critic(x[2:4], labels[2:4]), scores[1:2], atol=1e-6)
    assert not torch.allclose(critic(x, labels.flip(0)), scores)


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 12)])
def test_critics_of_images_have_gradients_everywhere(shape, spectral):
    torch.manual_seed(0)
    critic = convolutional_critic(shape, classes=3, channels=(16, 32), pack=2, spectral=spectral)
    x = torch.randn(4, *shape, requires_grad=True)
    score = critic(x, torch.tensor([0, 1, 2, 0])).sum()
    (slope,) = torch.autograd.grad(score, x, create_graph=True)
    (score + slope.square().sum()).backward()
    missing = [name for name, parameter in critic.named_parameters() if parameter.grad is None]
    assert not missing
    layers = [part for part in critic.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    assert sum(isinstance(part, SpectralNormalized) for part in critic.modules()) == len(layers) * spectral


@pytest.mark.parametrize("channels", [(16,), (16, 16), (16, 32, 48)])
def test_images_and_vectors_of_any_size(channels):
    for shape in ((1, 8, 8), (3, 7, 10)):
        features = ResidualImageFeatures(shape, channels=channels)
        assert features(torch.zeros(2, *shape)).shape == (2, channels[-1])
        assert ResidualImageSynthesis(5, shape, channels=channels[::-1])(torch.zeros(2, 5)).shape == (2, *shape)


def test_critics_keep_the_scale_of_their_input_at_the_start():
    torch.manual_seed(0)
    features = ResidualImageFeatures((3, 16, 16), channels=(32, 64), blocks=4)
    assert 0.3 < features(torch.randn(200, 3, 16, 16)).std() < 1.5


def test_rows_that_make_no_whole_pack_are_left_for_another_epoch():
    """Of 25 rows in minibatches of 13 and 12, packs of 3 use 12 of each; of fewer than 3 rows there is no pack."""
    x, label = torch.randn(25, 2), torch.randint(3, (25,))
    critic = mlp_critic((2,), classes=3, pack=3, hidden=(8,))
    taken = []
    critic.register_forward_pre_hook(lambda _, arguments: taken.append(len(arguments[0])))
    game = pg.implicit.Game(pg.implicit.mlp((2,), classes=3, noise=(2,), hidden=(8,)), critic)
    pg.fit(game, (x, label), steps=4, batch_size=13)
    assert set(taken[1:]) == {12}
    with pytest.raises(ValueError, match="`batch_size` must be at least `pack`, 3 rows, got a minibatch of 2"):
        pg.fit(game, (x[:4], label[:4]), steps=4, batch_size=2)


def test_what_critics_refuse():
    with pytest.raises(ValueError, match=r"multiple of `pack` = 2 rows, got 5"):
        mlp_critic((3,), pack=2)(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"shape \(N, 3\)"):
        mlp_critic((3,))(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="must end in shape"):
        mlp_critic((3,))(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="`context` must"):
        mlp_critic((3,), classes=2)(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="multiples of `group` = 16, got 24"):
        convolutional_critic((1, 8, 8), channels=(24,))
    with pytest.raises(ValueError, match=r"`network` must give \(5, 8\) numbers for 5 packs, got \(5, 4\)"):
        Critic(nn.Linear(3, 4), (3,), width=8)(torch.zeros(5, 3))
    with pytest.raises(TypeError, match="`context` must be a VectorContext, got tuple"):
        Critic(nn.Identity(), (3,), (2,), width=3)
    with pytest.raises(ValueError, match="channels, height, width"):
        convolutional_critic((8, 8))


def test_critics_are_saved(tmp_path):
    for critic in (mlp_critic((3,), classes=2, pack=2, spectral=True), convolutional_critic((1, 8, 8), channels=(16,))):
        pg.save(critic, tmp_path / "critic.pyrogen")
        loaded = pg.load(tmp_path / "critic.pyrogen")
        x, labels = torch.randn(4, *critic.event_shape), None if critic.context is None else torch.tensor([0, 1, 1, 0])
        assert torch.equal(loaded.eval()(x, labels), critic.eval()(x, labels))


def test_a_game_with_everything_resumes_where_it_was(tmp_path):
    """Packs, labels and operator norms, whose directions are buffers that move in training alone."""

    def played(steps, **more):
        torch.manual_seed(0)
        generator = pg.implicit.mlp((2,), classes=3, noise=(2,), hidden=(8,))
        critic = mlp_critic((2,), classes=3, hidden=(8,), pack=2, spectral=True)
        game = pg.implicit.Game(generator, critic, loss=pg.implicit.Hinge())
        x, labels = torch.randn(64, 2), torch.arange(64) % 3
        pg.fit(game, (x, labels), steps=steps, batch_size=16, seed=0, **more)
        return game.state_dict()

    whole = played(6)
    for steps in (2, 6):
        parts = played(steps, checkpoint=tmp_path / "run")
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
