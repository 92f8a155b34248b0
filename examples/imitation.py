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
from itertools import permutations
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data import circling
from pyrogen.implicit import R1, R2, Game, Generator, Information

LENGTH, LONG, LAP = 32, 96, 24  # steps of experts, of imitators, and of the last lap, in which these are judged
STYLES, VIEW, EVENT = len(circling.RADII), 2 * circling.SEEN, (LENGTH, 2)


class Policy(nn.Module):
    """p(turn | last places, code), of codes from zero to ``codes - 1``: a single one is none."""

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.codes, network = codes, pg.networks.MLP(VIEW + codes, 2, hidden=(64, 64))
        normal = {"event_shape": (1,), "context_shape": (VIEW + codes,)}
        self.turn = pg.Parametric(network, pg.families.diagonal_normal, **normal)

    def forward(self, seen: Tensor, code: Tensor):
        code = one_hot(code, self.codes).expand(*seen.shape[:-2], self.codes)
        return self.turn(torch.cat([circling.view(seen), code], -1))

    def log_prob(self, points: Tensor, code: Tensor) -> Tensor:
        """Of walks, each with a code, in nats, (N,)."""
        turn = self(circling.seen(points), code[:, None])
        return turn.log_prob(circling.turns(points).unsqueeze(-1)).sum(-1)

    def log_joint(self, points: Tensor) -> Tensor:
        """Of walks and each of the codes, which are equally probable, in nats, (N, codes)."""
        codes = torch.arange(self.codes).expand(len(points), -1).unbind(1)
        return torch.stack([self.log_prob(points, code) for code in codes], 1) - math.log(self.codes)


class Cloning(nn.Module):
    """Behaviour cloning: minus the log-likelihood in nats a step, with the code as a latent of the whole walk."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, points: Tensor) -> Tensor:
        return -self.policy.log_joint(points).logsumexp(1).mean() / LENGTH


class Rollout(nn.Module):
    """A policy as a network: the walk that noise and a code become."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, rows: Tensor | dict[str, Tensor]) -> Tensor:
        z, code = (rows["z"], rows["context"]) if isinstance(rows, dict) else (rows, torch.zeros(len(rows)))

        def turning(seen: Tensor, step: int) -> Tensor:
            turn = self.policy(seen, code.long())
            return (turn.mean + turn.stddev * z[:, step]).squeeze(-1)

        return circling.rollout(turning, circling.approach(len(z)), z.shape[1])


class Critic(nn.Module):
    """The score of a walk as a sum over its steps, which the log-ratio of two policies without codes is."""

    def __init__(self) -> None:
        super().__init__()
        self.score = pg.networks.MLP(VIEW + 2, 1, hidden=(64, 64), activation=partial(nn.LeakyReLU, 0.2))

    def forward(self, points: Tensor) -> Tensor:
        seen = circling.seen(points)
        direction = (points - seen[..., -1, :]) / circling.SPEED
        return self.score(torch.cat([circling.view(seen), direction], -1)).sum((-1, -2))


def game(policy: Policy) -> Game | Information:
    """GAIL, or of a policy with codes InfoGAIL."""
    code_shape, penalties = () if policy.codes > 1 else None, (R1(0.01), R2(0.01))
    generator = Generator(Rollout(policy), EVENT, code_shape, noise=(LENGTH, 1), support=constraints.real)
    if code_shape is None:
        return Game(generator, Critic(), penalties=penalties)
    network = nn.Sequential(nn.Flatten(), pg.networks.MLP(2 * LENGTH, policy.codes, hidden=(64, 64)))
    family = pg.families.categorical(policy.codes)
    recognition = pg.Parametric(network, family, event_shape=(), context_shape=EVENT)
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

    def train(target: nn.Module, steps: int, lr: float) -> None:
        settings = {"batch_size": 128, "schedule": partial(CosineAnnealingLR, T_max=steps), "ema": 0.99}
        pg.fit(target, experts, steps=steps, lr=lr, seed=options.seed, **settings)

    print(
        f"{LONG} steps, the last {LAP}:  error, radians  on course      same style     energy distance, p", flush=True
    )
    walkers = {"experts": (held_out.points, held_out.style)}
    judge("experts", held_out.points, others.points)
    policies, steps = {"clone": Policy(1), "clone, latent code": Policy(STYLES)}, options.steps
    for (name, policy), cloning in zip(policies.items(), (2 * steps, max(steps // 2, 1)), strict=True):
        train(Cloning(policy), cloning, 3e-3)
        walkers[name] = walk(policy)
        judge(name, walkers[name][0], others.points)
    with torch.no_grad():
        read = {"latent code": policies["clone, latent code"].log_joint(held_out.points[:, :LENGTH])}
    games = {name: game(policy) for name, policy in zip(("GAIL", "InfoGAIL"), policies.values(), strict=True)}
    for (name, played), policy in zip(games.items(), policies.values(), strict=True):
        train(played, steps, 1e-3)
        walkers[name] = walk(policy)
        judge(name, walkers[name][0], others.points)
    with torch.no_grad():
        read["InfoGAIL"] = games["InfoGAIL"].recognition["code"](held_out.points[:, :LENGTH]).logits

    for name, scores in read.items():
        print(f"{name}, read off held-out experts: the style of {mean(matched(scores.argmax(-1), held_out.style))}")
    for name in ("clone, latent code", "InfoGAIL"):
        points, code = walkers[name]
        print(f"{name}: the style of a walk is its code in {mean(matched(code, circling.style_of(points)))}")
    bound = games["InfoGAIL"].bound()
    print(f"information of walks about InfoGAIL's code: {bound}, at most log 3 = {math.log(3):.4f}")
    picture(options.output / "imitation.png", walkers)


def judge(name: str, points: Tensor, experts: Tensor) -> None:
    """Prints how well walks circle at their end, and how far they are from experts as long as these were."""
    error, style = circling.errors(points)[..., -LAP:].square().mean(-1), circling.style_of(points[:, :LENGTH])
    best = error.amin(-1).sqrt()
    figures = best, best < 2 * circling.NOISE, error.argmin(-1) == style
    test = pg.evaluation.energy_test(points[:, :LENGTH], experts[:, :LENGTH])
    print(f"{name:<24}{'  '.join(map(mean, figures))}  {test.statistic:.3f}, {test.p_value:.3f}", flush=True)


def walk(policy: Policy, walks: int = 500) -> tuple[Tensor, Tensor]:
    """Walks of a policy, and their codes."""
    z, code = torch.randn(walks, LONG, 1), torch.randint(policy.codes, (walks,))
    with torch.no_grad():
        return Rollout(policy)({"z": z, "context": code}), code


def mean(values: Tensor) -> str:
    """The mean of walks with its standard error."""
    return f"{values.double().mean():.3f} ± {values.double().std() / len(values) ** 0.5:.3f}"


def matched(code: Tensor, style: Tensor) -> Tensor:
    """Whether codes are styles, under the one naming of the codes that fits best."""
    return max((torch.tensor(names)[code] == style for names in permutations(range(STYLES))), key=torch.sum)


def picture(path: Path, walkers: dict[str, tuple[Tensor, Tensor]]) -> None:
    figure, axes = plt.subplots(1, len(walkers), figsize=(15, 4), layout="constrained", sharex=True, sharey=True)
    for axis, (name, (points, code)) in zip(axes, walkers.items(), strict=True):
        for line, color in zip(points[:24], code, strict=False):
            axis.plot(*line.T, color=f"C{color}", linewidth=0.6, alpha=0.6)
        axis.set(title=name, aspect="equal", xlim=(-1.6, 1.6), ylim=(-2.1, 2.6))
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
