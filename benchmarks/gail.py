"""Imitation of experts of several styles: ours beside the package ``imitation`` (Gleave et al. 2022).

Experts circle in three styles that nobody labelled (``pg.data.circling``); all learn from the same 2,000 walks of 32
steps and walk 96, and an exact rule judges the last 24. ``imitation`` has behaviour cloning and GAIL by reinforcement
learning (PPO), from a fresh policy and from its clone; its environment gives the same view of the last places, and an
action is the turn. In ours, those of ``examples/imitation.py``, steps are differentiable, and the critic's score is
followed through them. Networks have two hidden layers of 64 everywhere. One thread; processor time.

``imitation`` is not among our extras, as it needs old releases: install ``imitation==1.0.1``,
``stable-baselines3==2.2.1`` and ``gymnasium==0.29.1`` in a place of their own and put that on the path.

    python benchmarks/gail.py --seeds 0 1 2 [--moves 500000] [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from example_file import example
from gymnasium.spaces import Box
from imitation.algorithms.adversarial.gail import GAIL
from imitation.algorithms.bc import BC
from imitation.data.types import Trajectory
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util.logger import configure
from results_file import keep, known, table
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data import circling

ours = example("imitation")
WALKS, GAMES, CLONING, TOGETHER = 2000, 600, 1200, 64
FIGURES = ("error, radians", "on course", "same style", "energy distance")


class Walk(VecEnv):
    """Agents that see their last places and turn, all at once; each episode has as many steps as experts have."""

    def __init__(self) -> None:
        observation = Box(-np.inf, np.inf, (ours.VIEW,), np.float32)
        super().__init__(TOGETHER, observation, Box(-np.pi, np.pi, (1,), np.float32))
        self.reset()

    def reset(self) -> np.ndarray:
        self.places, self.count = circling.approach(TOGETHER), 0
        return self.view()

    def view(self) -> np.ndarray:
        return circling.view(self.places).numpy().astype(np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        turn = torch.as_tensor(actions[:, 0], dtype=torch.float32)
        self.places = torch.cat([self.places[:, 1:], circling.rollout(lambda *_: turn, self.places, 1)], 1)
        self.count += 1

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        seen, done = self.view(), self.count == ours.LENGTH
        told = [{"terminal_observation": row, "TimeLimit.truncated": False} if done else {} for row in seen]
        return (self.reset() if done else seen), np.zeros(TOGETHER, np.float32), np.full(TOGETHER, done), told

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: object = None) -> list:
        return [getattr(self, attr_name, None)] * TOGETHER

    def set_attr(self, attr_name: str, value: object, indices: object = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: object, indices: object = None, **kwargs: object) -> list:
        return [None] * TOGETHER

    def env_is_wrapped(self, wrapper_class: type, indices: object = None) -> list[bool]:
        return [False] * TOGETHER


def demonstrations(points: Tensor) -> list[Trajectory]:
    """Walks of experts as their package wants them: one view more than turns."""
    views = circling.view(circling.seen(torch.cat([points, points[:, -1:]], 1))).numpy().astype(np.float32)
    turns = circling.turns(points).unsqueeze(-1).numpy()
    return [Trajectory(seen, acts, None, terminal=True) for seen, acts in zip(views, turns, strict=True)]


def walked(policy: ActorCriticPolicy) -> Tensor:
    """Long walks of one of their policies."""

    def turn(seen: Tensor, step: int) -> Tensor:
        actions, _ = policy.predict(circling.view(seen).numpy().astype(np.float32))
        return torch.as_tensor(actions[:, 0])

    return circling.rollout(turn, circling.approach(500), ours.LONG)


def theirs(experts: Tensor, seed: int, moves: int) -> Iterator[tuple[str, Tensor, float]]:
    """Cloning and GAIL of ``imitation``: what, walks, seconds."""
    walk, told = Walk(), demonstrations(experts)
    rng, spaces = np.random.default_rng(seed), (walk.observation_space, walk.action_space)
    for begun in (True, False):
        began = time.process_time()
        settings = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "log_std_init": -1.5}
        steps = {"n_steps": ours.LENGTH, "batch_size": 512, "n_epochs": 5, "gamma": 0.99, "ent_coef": 0.0}
        learner = PPO("MlpPolicy", walk, policy_kwargs=settings, seed=seed, learning_rate=3e-4, **steps)
        if begun:
            cloning = BC(
                observation_space=spaces[0],
                action_space=spaces[1],
                rng=rng,
                policy=learner.policy,
                demonstrations=told,
                batch_size=4096,
                optimizer_kwargs={"lr": 3e-3},
                custom_logger=configure(format_strs=()),
            )
            cloning.train(n_batches=CLONING, progress_bar=False, log_interval=10**9)
            yield "clone", walked(learner.policy), time.process_time() - began
        reward = BasicRewardNet(*spaces, hid_sizes=(64, 64))
        sizes = {"demo_batch_size": 1024, "gen_replay_buffer_capacity": 4096, "n_disc_updates_per_round": 4}
        settings = {"demonstrations": told, "venv": walk, "gen_algo": learner, "reward_net": reward}
        game = GAIL(**settings, **sizes, custom_logger=configure(format_strs=()))
        game.train(moves)
        yield "GAIL from the clone" if begun else "GAIL", walked(learner.policy), time.process_time() - began


def by_ours(experts: Tensor, seed: int) -> Iterator[tuple[str, Tensor, float]]:
    """The same of the example, and with codes."""
    for codes, steps, titles in ((1, CLONING, ("clone", "GAIL from the clone")), (3, 300, ("", "InfoGAIL"))):
        torch.manual_seed(seed)
        policy, began = ours.Policy(codes), time.process_time()
        learn(ours.Cloning(policy), experts, steps, 3e-3, seed)
        for title in titles:
            if title not in ("", "clone"):
                learn(ours.game(policy), experts, GAMES, 1e-3, seed)
            if title:
                rows = {"z": torch.randn(500, ours.LONG, 1), "context": torch.randint(codes, (500,))}
                with torch.no_grad():
                    yield title, policy(rows), time.process_time() - began


def learn(target: torch.nn.Module, experts: Tensor, steps: int, lr: float, seed: int) -> None:
    falling = partial(CosineAnnealingLR, T_max=steps)
    pg.fit(target, experts, steps=steps, lr=lr, seed=seed, batch_size=128, schedule=falling, ema=0.99)


def measured(seed: int, moves: int) -> Iterator[dict]:
    """A row for each policy."""
    experts = circling.draw(WALKS, seed=seed + 1, length=ours.LENGTH).points
    others = circling.draw(500, seed=seed + 3, length=ours.LONG).points
    held_out = circling.draw(500, seed=seed + 2, length=ours.LONG).points
    yield {"library": "", "policy": "experts", "seed": seed} | judged(held_out, others)
    torch.manual_seed(seed)
    for library, learned in (("imitation", theirs(experts, seed, moves)), ("pyrogen", by_ours(experts, seed))):
        for policy, points, seconds in learned:
            yield {"library": library, "policy": policy, "seed": seed} | judged(points, others) | {"seconds": seconds}


def judged(points: Tensor, experts: Tensor) -> dict[str, float]:
    """How well walks circle at their end, and how far they are from experts as long as these were."""
    at_end = circling.judged(points, first=ours.LENGTH, last=ours.LAP)
    distance = pg.evaluation.energy_test(points[:, : ours.LENGTH], experts[:, : ours.LENGTH], permutations=1).statistic
    numbers = [float(values.double().mean()) for values in at_end] + [float(distance)]
    return dict(zip(FIGURES, numbers, strict=True))


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """Means over seeds with standard errors."""
    for library, policy in dict.fromkeys((row["library"], row["policy"]) for row in rows):
        mine = [row for row in rows if (row["library"], row["policy"]) == (library, policy)]
        seconds = f"{statistics.mean(row['seconds'] for row in mine):.0f}" if "seconds" in mine[0] else ""
        yield [policy, library, *(mean([row[name] for row in mine]) for name in FIGURES), str(len(mine)), seconds]


def mean(values: list[float]) -> str:
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--moves", type=int, default=500_000, help="of the agents of `imitation`, in all")
    parser.add_argument("--output", type=Path, help="a file of raw results; seeds that it has are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = known(options.output)
    for seed in options.seeds:
        if seed not in {row["seed"] for row in rows}:
            keep(measured(seed, options.moves), rows, options.output)
    table(["policy", "library", *FIGURES, "seeds", "seconds"], [*summary(rows)], options.table, rows)


if __name__ == "__main__":
    main()
