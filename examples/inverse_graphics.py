"""Inverse graphics: generation is graphics, and inference is vision.

A Pyro program puts up to three cubes and cylinders on a table and photographs them, with noise. Its posterior is over
what stands there, where, how large and of what colour. A network learns it for all pictures from simulations, and so
gives the probabilities of how many solids of which kinds there are. For each of these explanations Laplace's
approximation climbs from draws of the network to the mode, and importance weights give the posterior there and the
evidence of the explanation. Beside it stand a network that names one answer, and Markov chains.

    python examples/inverse_graphics.py [--output output] [--seed 0] [--steps 1100] [--scenes 20]
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data.solids import KINDS, Solids, lamp, render
from pyrogen.networks.convolution import ImageEncoder
from pyrogen.networks.embedding import ImageEmbedding

MOST, NOISE, SHAPE = 3, 0.1, (3, 32, 32)
CONTINUOUS = ("light", "gap", "right", "size", "turn", "colour")
COLOUR = dist.TransformedDistribution(dist.Normal(0.0, 1.2), dist.transforms.SigmoidTransform())


def scene(picture=None):
    """How many solids of which kinds, from the front to the back, and a picture of them."""
    number = pyro.sample("number", dist.Categorical(torch.ones(MOST + 1)))
    kind = pyro.sample("kind", dist.Categorical(torch.ones(MOST, 2)).to_event(1))
    photograph(kinds_of({"number": number, "kind": kind}), picture)


def photograph(kinds, picture=None):
    """All that is continuous, and the picture, given the kinds of solids; what is nothing is not seen."""
    several = kinds.shape[-1:]
    light = pyro.sample("light", dist.Normal(0.0, 0.6))
    gap = pyro.sample("gap", dist.LogNormal(math.log(0.7), 0.2).expand(several).to_event(1))
    right = pyro.sample("right", dist.Normal(0.0, 0.4).expand(several).to_event(1))
    size = pyro.sample("size", dist.LogNormal(math.log(0.32), 0.15).expand(several).to_event(1))
    turn = pyro.sample("turn", dist.Normal(math.pi / 4, 0.2).expand(several).to_event(1))
    colour = pyro.sample("colour", COLOUR.expand([*several, 3]).to_event(2))
    seen = drawn(kinds, light, gap, right, size, turn, colour)
    pyro.sample("picture", dist.Normal(seen, NOISE).to_event(3), obs=picture)


def drawn(kinds, light, gap, right, size, turn, colour):
    return render(Solids(kinds, colour, right, gap.cumsum(-1) - 1.4, size, turn), lamp(light), side=32, width=2.4)


def kinds_of(sites):
    """What stands there, ``(*batch, 3)``: the place in ``KINDS``, nothing beyond the number of solids."""
    return torch.where(torch.arange(MOST) < sites["number"].unsqueeze(-1), 1 + sites["kind"], 0)


def numbers_of(sites):
    """What answers are compared by, ``(*batch, solids, 5)``: how far to the right, how large, of what colour."""
    return torch.cat([sites["right"].unsqueeze(-1), sites["size"].unsqueeze(-1), sites["colour"]], -1)


class Regression(torch.nn.Module):
    """A network that names one answer: the likeliest kinds, and the least squared error of what is there."""

    def __init__(self):
        super().__init__()
        self.network = ImageEncoder(SHAPE, MOST * (3 + 5), channels=(16, 32))

    def answers(self, pictures):
        return self.network(pictures).unflatten(-1, (MOST, 8)).split([3, 5], -1)

    def forward(self, latents, observed):
        (scores, numbers), kinds = self.answers(observed["picture"]), kinds_of(latents)
        error = (numbers - numbers_of(latents)).square() * (kinds > 0).unsqueeze(-1)
        return torch.nn.functional.cross_entropy(scores.movedim(-1, 1), kinds) + error.mean()


def explained(posterior, picture):
    """Explanations of a picture, the best first: the log-probability of each, and its posterior.

    For each number of solids that the network thinks possible its likeliest kinds come first, and then those that
    differ from the best so far in one solid, or lack it, until none of these is better.
    """
    sites, answers = posterior.sites(posterior(picture).sample((200,))), {}
    starts = {name: sites[name] for name in CONTINUOUS}
    found, which, counts = kinds_of(sites).unique(dim=0, return_inverse=True, return_counts=True)
    waiting, numbers = [], set()
    for row in counts.argsort(descending=True).tolist():
        number = int((found[row] > 0).sum())
        if number not in numbers and counts[row] >= min(4, counts.max()):
            numbers.add(number)
            waiting.append((found[row], {name: value[which == row][:16] for name, value in starts.items()}))
    while waiting:
        for kinds, values in waiting:
            answers[tuple(kinds.tolist())] = worked_out(kinds, values, picture)
        best, (_, answer) = max(answers.items(), key=lambda item: item[1][0])
        values = answer.get_samples()
        waiting = [(torch.tensor(kinds), left(values, stay)) for kinds, stay in others(best) if kinds not in answers]
    return dict(sorted(answers.items(), key=lambda item: -item[1][0]))


def others(kinds):
    """The kinds that differ in one solid, or lack it, and the places of those that stay."""
    there = [place for place, kind in enumerate(kinds) if kind]
    for changed in there:
        stay = [place for place in there if place != changed]
        yield tuple(3 - kind if place == changed else kind for place, kind in enumerate(kinds)), there
        yield (*(kinds[place] for place in stay), *[0] * (MOST - len(stay))), stay or there


def left(values, stay):
    """The values of solids that stay where they are when others go."""
    gap = values["gap"].cumsum(-1)[:, stay].diff(prepend=torch.zeros(len(values["gap"]), 1))
    return {name: value[:, stay] if value.dim() > 1 else value for name, value in values.items()} | {"gap": gap}


def worked_out(kinds, values, picture):
    """The log-probability of an explanation together with the picture, and its posterior."""
    number = int((kinds > 0).sum())
    starts = {name: values[name][:16] for name in CONTINUOUS}
    starts = {name: value[:, : max(1, number)] if value.dim() > 1 else value for name, value in starts.items()}
    program = partial(photograph, kinds[: max(1, number)])
    answer = pg.inverse.Laplace(program, draws=500, steps=60, initial=starts, seed=0).run(picture)
    return answer.log_evidence.item() - math.log(MOST + 1) - number * math.log(2), answer


def share(hits):
    hits = torch.as_tensor(hits).double()
    return f"{hits.mean():.3f} ± {(hits.var(correction=0) / len(hits)).sqrt():.3f}"


def within(draws, truth):
    """Whether true numbers lie in the 90 % intervals of draws."""
    low, high = draws.quantile(torch.tensor([0.05, 0.95]), 0)
    return ((numbers_of(truth) > low) & (numbers_of(truth) < high)).float()


def score(name, kinds, numbers, held_out):
    """How often number and kinds are right, and how far off the numbers of the solids that are there."""
    truth = kinds_of(held_out.latents)[: len(kinds)]
    there = (truth > 0) & ((kinds > 0).sum(-1) == (truth > 0).sum(-1)).unsqueeze(-1)
    error = (numbers - numbers_of(held_out.latents)[: len(kinds)])[there].square().mean(0)
    counted, right = (kinds > 0).sum(-1) == (truth > 0).sum(-1), (kinds == truth).all(-1)
    print(f"{name}: number right {share(counted)}, number and kinds {share(right)}")
    place, size, colour = error[0].sqrt(), error[1].sqrt(), error[2:].mean().sqrt()
    print(f"  errors of place {place:.4f}, size {size:.4f}, colour {colour:.4f}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--scenes", type=int, default=20, help="of which every explanation is worked out")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(args.seed)

    joint = pg.simulation.Joint(scene, observed="picture")
    posterior = pg.simulation.posterior(joint, embedding=ImageEmbedding(SHAPE, outputs=64, width=32))
    regression = Regression()
    simulations = joint.draw(24_000 if args.steps > 100 else 400, seed=args.seed + 2, batch_size=64)
    falling = partial(CosineAnnealingLR, T_max=args.steps)
    settings = {"lr": 2e-3, "schedule": falling, "ema": 0.99, "clip": 10.0, "seed": args.seed}
    for module in (posterior, regression):
        pg.fit(module, simulations, steps=args.steps, batch_size=128, **settings)
    told(args, joint, posterior.eval(), regression.eval())


def judged(posterior, regression, joint, held_out):
    """Both networks on all held-out scenes; is the posterior calibrated?"""
    with torch.no_grad():
        scores, answers = regression.answers(held_out.observed["picture"])
    score("one answer", scores.argmax(-1), answers, held_out)
    draws = posterior.draw(held_out.observed, 100)
    score("amortized posterior", kinds_of(draws).mode(0).values, numbers_of(draws).mean(0), held_out)
    there = kinds_of(held_out.latents) > 0
    print(
        f"  its 90% intervals hold {within(numbers_of(draws), held_out.latents)[there].mean():.3f} of the numbers there"
    )
    calibration = pg.evaluation.simulation_based_calibration(
        joint, posterior.draw, simulations=held_out[:300], draws=49, batch_size=2048
    )
    print(f"  calibrated? {calibration.test()}")


def reported(refined, held_out):
    """The best explanation of each scene: is it right, are its numbers, and are there draws enough?"""
    few, best = held_out[: len(refined)], [next(iter(answers.items())) for answers in refined]
    kinds = torch.tensor([kinds for kinds, _ in best])
    means, inside = (torch.zeros(len(best), MOST, 5) for _ in range(2))
    for row, (_, (_, answer)) in enumerate(best):
        values = numbers_of(answer.get_samples())
        count = values.shape[1]
        means[row, :count] = values.mean(0)
        inside[row, :count] = within(values, {name: few.latents[name][row, :count] for name in CONTINUOUS[2:]})
    score(f"explanations by evidence, {len(best)} scenes", kinds, means, few)
    truth = kinds_of(few.latents)
    same = (truth > 0) & ((kinds > 0) == (truth > 0)).all(-1, keepdim=True)
    trusted = [answer.diagnostics().pareto_k < 0.7 for _, (_, answer) in best]
    print(f"  90% intervals hold {inside[same].mean():.3f}; Pareto k-hat below 0.7 in {share(trusted)}")


def shown(refined, held_out, rows):
    """Scenes and draws of the best explanation of each; how probable all explanations are is printed."""
    pictures = []
    for row in rows:
        probable = torch.tensor([log_joint for log_joint, _ in refined[row].values()]).softmax(0).tolist()
        words = [" ".join(KINDS[kind] for kind in kinds if kind) or "nothing" for kinds in refined[row]]
        print(f"scene {row}: " + "; ".join(f"{word}: {p:.2f}" for word, p in zip(words, probable, strict=True)))
        kinds, (_, answer) = next(iter(refined[row].items()))
        sites = answer.get_samples()
        pictures.append(drawn(torch.tensor(kinds)[: sites["right"].shape[-1]], *(sites[name] for name in CONTINUOUS)))
    clean = drawn(kinds_of(held_out.latents), *(held_out.latents[name] for name in CONTINUOUS))[rows]
    seen, names = held_out.observed["picture"][rows], [f"scene {row}" for row in rows]
    return pg.analysis.posterior_images(clean, seen, torch.stack(pictures, 1), rows=names, limits=(0, 1))


def chained(answers, picture, few):
    """Markov chains at one explanation, beside its weighted draws."""
    kinds, (_, answer) = next(iter(answers.items()))
    values = answer.get_samples()
    program = partial(photograph, torch.tensor(kinds)[: values["right"].shape[-1]])
    starts = {name: values[name][:8] for name in CONTINUOUS}
    chains = pg.inverse.ManyChains(program, chains=8, draws=few, warmup=few, initial=starts, seed=0).run(picture)
    of_chains, of_weights = (numbers_of(method.get_samples()) for method in (chains, answer))
    ratio = (of_chains.std(0) / of_weights.std(0)).mean()
    shift = ((of_chains.mean(0) - of_weights.mean(0)) / of_weights.std(0)).abs().max()
    print(f"chains: spreads {ratio:.2f} of those of weighted draws, means {shift:.2f} spreads apart at most")
    print(chains.diagnostics())


def told(args, joint, posterior, regression):
    """What they have learned."""
    held_out = joint.draw(1000 if args.steps > 100 else 24, seed=args.seed + 1)
    judged(posterior, regression, joint, held_out)
    refined = [explained(posterior, picture) for picture in held_out.observed["picture"][: args.scenes]]
    reported(refined, held_out)
    leads = [
        torch.tensor([*[log_joint for log_joint, _ in answers.values()], -1e9]).topk(2).values for answers in refined
    ]
    doubtful = sorted(range(len(refined)), key=lambda row: (leads[row][0] - leads[row][1]).item())
    crowded = max(range(len(refined)), key=lambda row: sum(kind > 0 for kind in next(iter(refined[row]))))
    figure = shown(refined, held_out, [*dict.fromkeys([crowded, *doubtful[:3]])])
    figure.savefig(args.output / "inverse_graphics.png", dpi=150)
    chained(refined[crowded], held_out.observed["picture"][crowded], 50 if args.steps > 100 else 4)


if __name__ == "__main__":
    main()
