"""Imitation: experts whose styles nobody labelled, by likelihood and by a game whose generator is a rollout.

Experts circle in three styles (`pg.data.circling`). A policy is a density p(turn | last places, code); a clone is one
of greatest likelihood, step by step, without codes or with one that is a latent of the walk. But steps are known and
differentiable, so the walk of a policy is a function of noise, a `Generator`: `Game` compares whole walks with those of
experts, which is GAIL, and `Information` about the code makes it InfoGAIL. Both begin with the clones. All walk three
times as far as experts did, and an exact rule judges how well, and in which style.

    python examples/imitation.py [--output output] [--seed 0] [--steps 600] [--walks 2000]
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data import circling
from pyrogen.evaluation import matched_clusters, table
from pyrogen.implicit import R1, R2, Game, Generator, Information

LENGTH, LONG, LAP = 32, 96, 24  # steps of experts, of imitators, and of the last lap, in which these are judged
STYLES, VIEW, EVENT = len(circling.RADII), 2 * circling.SEEN, (LENGTH, 2)


class Policy(nn.Module):
    """p(turn | last places, code), where a single code is none; as a network, the walks of noise and codes."""

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.codes, network = codes, pg.networks.MLP(VIEW + codes, 2, hidden=(64, 64))
        self.turn = pg.Parametric(network, pg.families.diagonal_normal, event_shape=(1,), context_shape=(VIEW + codes,))

    def turning(self, seen: Tensor, code: Tensor):
        code = one_hot(code.long(), self.codes).expand(*seen.shape[:-2], self.codes)
        return self.turn(torch.cat([circling.view(seen), code], -1))

    def log_joint(self, points: Tensor) -> Tensor:
        """Of walks and each of the codes, which are equally probable, in nats, (N, codes)."""
        seen, turns = circling.seen(points), circling.turns(points).unsqueeze(-1)
        codes = torch.arange(self.codes).expand(len(points), 1, -1).unbind(-1)
        log_probs = [self.turning(seen, code).log_prob(turns).sum(-1) for code in codes]
        return torch.stack(log_probs, 1) - math.log(self.codes)

    def forward(self, rows: Tensor | dict[str, Tensor]) -> Tensor:
        z, code = (rows["z"], rows["context"]) if isinstance(rows, dict) else (rows, torch.zeros(len(rows)))

        def turn(seen: Tensor, step: int) -> Tensor:
            normal = self.turning(seen, code)
            return (normal.mean + normal.stddev * z[:, step]).squeeze(-1)

        return circling.rollout(turn, circling.approach(len(z)), z.shape[1])


class Cloning(nn.Module):
    """Behaviour cloning: minus the log-likelihood in nats a step, with the code as a latent of the whole walk."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, points: Tensor) -> Tensor:
        return -self.policy.log_joint(points).logsumexp(1).mean() / LENGTH


class Critic(nn.Module):
    """The score of a walk as a sum over its steps, which the log-ratio of two policies without codes is."""

    def __init__(self) -> None:
        super().__init__()
        self.score = pg.networks.MLP(VIEW + 2, 1, hidden=(64, 64), activation=partial(nn.LeakyReLU, 0.2))

    def forward(self, points: Tensor) -> Tensor:
        return self.score(circling.moves(points)).sum((-1, -2))


def game(policy: Policy) -> Game | Information:
    """GAIL, or of a policy with codes InfoGAIL."""
    code_shape, penalties = () if policy.codes > 1 else None, (R1(0.01), R2(0.01))
    generator = Generator(policy, EVENT, code_shape, noise=(LENGTH, 1), support=constraints.real)
    if code_shape is None:
        return Game(generator, Critic(), penalties=penalties)
    network = nn.Sequential(nn.Flatten(), pg.networks.MLP(2 * LENGTH, policy.codes, hidden=(64, 64)))
    recognition = pg.Parametric(network, pg.families.categorical(policy.codes), event_shape=(), context_shape=EVENT)
    return Information(generator, pg.latent.Classes(policy.codes), recognition, Critic(), penalties=penalties)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--walks", type=int, default=2000)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    experts = circling.draw(options.walks, seed=options.seed + 1, length=LENGTH).points
    held_out, others = (circling.draw(500, seed=options.seed + 2 + part, length=LONG) for part in range(2))
    begun, walkers = held_out.points[:, :LENGTH], {"experts": held_out}
    rows = {"experts": judged(held_out.points, others.points)}

    def learn(name: str, target: nn.Module, policy: Policy, steps: int, lr: float, read: object = None) -> None:
        settings = {"batch_size": 128, "schedule": partial(CosineAnnealingLR, T_max=steps), "ema": 0.99}
        pg.fit(target, experts, steps=steps, lr=lr, seed=options.seed, **settings)
        z, code = torch.randn(500, LONG, 1), torch.randint(policy.codes, (500,))
        with torch.no_grad():
            walkers[name] = points, _ = policy({"z": z, "context": code}), code
            rows[name] = judged(points, others.points)
            if read:
                pairs = (read(begun).argmax(-1), held_out.style), (code, circling.style_of(points))
                rows[name] += [mean(matched_clusters(*pair)) for pair in pairs]

    plain, coded = Policy(1), Policy(STYLES)
    learn("clone", Cloning(plain), plain, 2 * options.steps, 3e-3)
    learn("clone, latent code", Cloning(coded), coded, max(options.steps // 2, 1), 3e-3, coded.log_joint)
    gail, infogail = game(plain), game(coded)
    learn("GAIL", gail, plain, options.steps, 1e-3)
    learn("InfoGAIL", infogail, coded, options.steps, 1e-3, lambda x: infogail.recognition["code"](x).logits)

    print(
        f"{LONG} steps, the last {LAP}; whether codes are styles, as read off held-out experts and of their own walks"
    )
    columns = ["error, radians", "on course", "same style", "energy distance, p", "code of experts", "own code"]
    print(table(columns, rows))
    print(f"information of walks about InfoGAIL's code: {infogail.bound()}, at most log 3 = {math.log(3):.4f}")
    points, codes = ({name: walks[part][:24] for name, walks in walkers.items()} for part in (0, 1))
    pg.analysis.paths(points, groups=codes, limits=((-1.6, 1.6), (-2.1, 2.6))).savefig(options.output / "imitation.png")


def judged(points: Tensor, experts: Tensor) -> list[str]:
    """How well walks circle at their end, and how far they are from experts as long as these were."""
    test = pg.evaluation.energy_test(points[:, :LENGTH], experts[:, :LENGTH])
    return [*map(mean, circling.judged(points, first=LENGTH, last=LAP)), f"{test.statistic:.3f}, {test.p_value:.3f}"]


def mean(values: Tensor) -> str:
    return f"{values.double().mean():.3f} ± {values.double().std() / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
