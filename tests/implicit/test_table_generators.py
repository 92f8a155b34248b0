"""Generators of tables: encodings and back, gradients of labels, valid draws, and what a game learns."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.implicit import Game, MaximumMeanDiscrepancy, mlp_critic, tabular
from pyrogen.networks.table_encoding import NormalScores, TableEncoding, TableOutput
from pyrogen.numerics.pairwise import median_distance
from pyrogen.testing import check_distribution

KINDS = {"counts": [1], "binary": [2], "categories": {4: 3}}


def table(rows, seed=0):
    """Two modes, counts, a bit, a skew number and labels, all depending on one bit."""
    generator = torch.Generator().manual_seed(seed)
    bit = (torch.rand(rows, generator=generator) < 0.3).float()
    number = 1000 + 100 * bit + torch.randn(rows, generator=generator)
    counts = torch.poisson(1 + 3 * bit, generator=generator)
    skew = torch.randn(rows, generator=generator).exp()
    label = torch.where(torch.rand(rows, generator=generator) < 0.2, 2.0, bit)
    return torch.stack([number, counts, bit, skew, label], 1)


def learned(encoding, x):
    for statistic, rows in encoding.read_data(x):
        moments = statistic.moments()
        for part in rows.split(300):
            moments.add(part)
        statistic.learn(moments)
    return encoding


@pytest.mark.parametrize("make", [lambda: tabular((5,), hidden=(8,), **KINDS), lambda: tabular((3,), hidden=(8,))])
def test_table_generators_pass_the_contract(make):
    check_distribution(make, event_shape=make().event_shape).raise_if_failed()


def test_a_conditional_table_generator_passes_the_contract():
    def make():
        return tabular((2,), classes=3, categories={0: 4}, hidden=(8,))

    check_distribution(make, event_shape=(2,), context=torch.arange(3)).raise_if_failed()


def test_scores_are_standard_normal_and_can_be_undone():
    x = table(4000)[:, [0, 3]]
    scores = learned(NormalScores(2), x)
    z = scores(x)
    assert torch.allclose(scores.inverse(z), x, rtol=1e-4, atol=1e-3)
    assert torch.equal(z.argsort(0), x.argsort(0))
    expected = torch.special.ndtri((torch.arange(4000) + 0.5) / 4000)
    inner = slice(200, -200)  # in the tails, lines between few quantiles
    assert (z.sort(0).values - expected[:, None])[inner].abs().max() < 0.03


def test_a_frequent_number_has_one_score_and_all_scores_of_its_share_give_it():
    x = torch.cat([torch.zeros(600), torch.rand(400) + 1])[:, None]
    scores = learned(NormalScores(1), x)
    assert scores(torch.zeros(1, 1)) < 0
    z = torch.linspace(-4, 0.2, 50)[:, None]  # below the 60 % quantile, 0.253
    assert (scores.inverse(z) == 0).all()
    assert scores.inverse(torch.tensor([[0.3]])) > 1


def test_encoded_rows_decode_to_themselves():
    x = table(2000)
    encoding = learned(TableEncoding(5, **KINDS), x)
    assert encoding.size == 3 + 2 + 3
    assert torch.allclose(encoding.decode(encoding(x)), x, rtol=1e-4, atol=1e-3)
    assert torch.equal(encoding(x)[:, 3:5], torch.nn.functional.one_hot(x[:, 2].long(), 2).float())


def test_draws_are_valid_rows_whatever_the_network_gives():
    torch.manual_seed(0)
    x = table(500)
    generator = tabular((5,), hidden=(8,), **KINDS)
    generator.learn_statistics(x)
    draws = generator.encoding.decode(10 * torch.randn(1000, 8))
    assert generator.support.check(draws).all()
    assert torch.equal(draws.clamp(x.amin(0), x.amax(0)), draws)
    assert generator().support.check(generator().sample((1000,))).all()


def test_labels_are_drawn_with_the_probabilities_of_their_logits():
    torch.manual_seed(0)
    logits = torch.tensor([1.0, -0.5, 0.3])

    class Constant(torch.nn.Module):
        def forward(self, z):
            return logits.expand(len(z), 3)

    output = TableOutput(Constant(), TableEncoding(1, categories={0: 3}))
    labels = output(torch.randn(40_000, 2 + output.extra)).argmax(-1)
    frequencies = labels.bincount() / len(labels)
    assert torch.allclose(frequencies, logits.softmax(0), atol=4 * 0.5 / 200)


def test_the_critic_sees_encoded_rows_with_a_gradient():
    torch.manual_seed(0)
    generator = tabular((5,), hidden=(8,), **KINDS)
    generator.learn_statistics(table(500))
    seen = generator.represented(50)
    assert set(seen[:, 3:].unique().tolist()) <= {0.0, 1.0}
    assert torch.allclose(generator.represent(generator.encoding.decode(seen.detach())), seen, atol=1e-5)
    weight = torch.randn(seen.shape[1])
    gradients = torch.autograd.grad((seen * weight).sum(), list(generator.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_distance_of_tables_takes_its_scale_from_encoded_rows():
    torch.manual_seed(0)
    x = table(500)
    generator = tabular((5,), hidden=(8,), **KINDS)
    for standardize in (True, False):
        objective = MaximumMeanDiscrepancy(generator, standardize=standardize)
        pg.fit(objective, x, steps=1)
        encoded = generator.represent(x)
        if standardize:
            encoded = (encoded - encoded.mean(0)) / encoded.std(0, correction=0)
        assert torch.allclose(objective.median.distance.double(), median_distance(encoded.double()), rtol=0.01)


@pytest.mark.slow
def test_a_game_of_tables_learns_shares_and_dependence():
    torch.manual_seed(0)
    x = table(4000)
    generator = tabular((5,), noise=8, hidden=(64, 64), **KINDS)
    game = Game(generator, mlp_critic(generator.represented_shape, hidden=(64, 64)))
    pg.fit(game, x, steps=900, batch_size=128, lr=2e-3, seed=0, ema=0.99)
    torch.manual_seed(1)
    draws = generator().sample((4000,))
    assert draws[:, 2].mean().item() == pytest.approx(0.3, abs=0.06)
    assert ((draws[:, 0] > 1050) == (draws[:, 2] == 1)).float().mean() > 0.9  # independent columns: 0.58
    assert draws[draws[:, 2] == 1][:, 1].mean().item() == pytest.approx(4, abs=0.5)
    assert (draws[:, 4] == 2).float().mean().item() == pytest.approx(0.2, abs=0.06)
    assert draws[:, 3].log().mean().item() == pytest.approx(0, abs=0.15)


def test_what_tables_refuse():
    with pytest.raises(ValueError, match="named once"):
        tabular((3,), counts=[1], binary=[1])
    with pytest.raises(ValueError, match=r"must be \(columns,\)"):
        tabular((3, 2))
    generator = tabular((5,), hidden=(8,), **KINDS)
    wrong = table(20)
    wrong[3, 4] = 7
    with pytest.raises(ValueError, match="row 3"):
        generator.learn_statistics(wrong)
    with pytest.raises(NotImplementedError, match="rsample"):
        generator().rsample()

    def model():
        x = pyro.sample("x", generator())
        pyro.sample("y", dist.Normal(x[..., 0], 1.0), obs=torch.tensor(0.0))

    with pytest.raises((NotImplementedError, ValueError), match="integers|density|no gradient"):
        pg.inverse.NoiseVI(model, site="x", steps=2, draws=5).run()


def test_a_table_without_discrete_columns_has_gradients():
    assert tabular((3,), hidden=(8,))().rsample((2,)).requires_grad
