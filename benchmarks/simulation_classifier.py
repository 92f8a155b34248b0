"""The classifier two-sample test of sbi-benchmark, for many pairs of samples at once.

The protocol is that of scikit-learn's ``MLPClassifier`` in five-fold cross-validation: two hidden layers of ten
rectified units for each dimension, Adam with minibatches of 200 and a weight decay of 1e-4, until ten epochs have not
lowered the training loss by 1e-4. The networks of all folds and pairs are trained side by side, each with a fold, an
order of rows and an end of its own, which takes a third to a fifth of the time that they take one after the other.

    python benchmarks/simulation_classifier.py      # beside scikit-learn, on samples of known distance
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

FOLDS, ROWS, RATE, DECAY = 5, 200, 1e-3, 1e-4
TOLERANCE, PATIENCE = 1e-4, 10


def c2st(pairs: Sequence[tuple[Tensor, Tensor]], *, seed: int) -> list[float]:
    """The mean accuracy of the classifier on held-out rows, for each pair of reference draws and draws ``(n, D)``.

    Draws are z-scored by the reference.

    Raises:
        ValueError: the samples are not of one size, or cannot be split into equal folds and minibatches.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {len(sample) for pair in pairs for sample in pair}
    if len(sizes) > 1 or 2 * min(sizes) % (FOLDS * ROWS // (FOLDS - 1)):
        raise ValueError(f"samples must have one size, a multiple of {FOLDS * ROWS // (FOLDS - 1) // 2}, got {sizes}")
    rows = torch.stack([_scored(*pair) for pair in pairs])  # (P, 2n, D)
    count = rows.shape[1]
    labels = (torch.arange(count) >= count // 2).to(rows)
    folds = torch.stack([torch.randperm(count, generator=generator) for _ in pairs]).view(len(pairs), FOLDS, -1)
    accuracies = []
    held_out = folds.flatten(0, 1)  # (P F, 2n / F)
    learned = torch.stack(
        [torch.cat([*fold[:k], *fold[k + 1 :]]) for fold in folds for k in range(FOLDS)]
    )  # (P F, 2n (F - 1) / F)
    which = torch.arange(len(pairs)).repeat_interleave(FOLDS)
    networks = trained(rows, labels, which, learned, generator)
    for pair, fold, network in zip(which, held_out, networks, strict=True):
        right = (_logits(network, rows[pair, fold]) > 0) == labels[fold].bool()
        accuracies.append(right.float().mean())
    return torch.stack(accuracies).view(len(pairs), FOLDS).mean(1).tolist()


def trained(
    rows: Tensor, labels: Tensor, which: Tensor, learned: Tensor, generator: torch.Generator
) -> list[list[Tensor]]:
    """The parameters of each network, trained on rows ``learned`` of pair ``which`` until its loss falls no more."""
    count, dimension = len(which), rows.shape[-1]
    widths = [dimension, 10 * dimension, 10 * dimension, 1]
    parameters = []
    for before, after in zip(widths, widths[1:], strict=False):
        bound = math.sqrt(6 / (before + after))
        for shape in ((count, before, after), (count, 1, after)):
            parameters.append(bound * (2 * torch.rand(shape, generator=generator) - 1))
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    best, waited = torch.full((count,), torch.inf), torch.zeros(count)
    left, found, step = torch.arange(count), [[] for _ in range(count)], 0
    while len(left):
        order = torch.rand(learned.shape, generator=generator).argsort(1)
        shuffled, losses = learned.gather(1, order), torch.zeros(len(left))
        for chosen in shuffled.split(ROWS, 1):
            step += 1
            loss, gradients = loss_and_gradients(parameters, rows[which[left, None], chosen], labels[chosen])
            losses += loss
            torch._foreach_lerp_(first, gradients, 0.1)
            torch._foreach_mul_(second, 0.999)
            torch._foreach_addcmul_(second, gradients, gradients, 0.001)
            rate = RATE * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            deviations = torch._foreach_sqrt(second)
            torch._foreach_add_(deviations, 1e-8)
            torch._foreach_addcdiv_(parameters, first, deviations, -rate)
        losses /= shuffled.shape[1] // ROWS
        waited = torch.where(losses > best - TOLERANCE, waited + 1, 0.0)
        best = torch.minimum(best, losses)
        going = waited <= PATIENCE
        for place in (~going).nonzero().flatten().tolist():
            found[left[place]] = [p[place].clone() for p in parameters]
        if not going.all():
            parameters, first, second = ([p[going] for p in group] for group in (parameters, first, second))
            learned, left, best, waited = learned[going], left[going], best[going], waited[going]
    return found


def loss_and_gradients(parameters: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The penalised cross-entropy of each network and its gradients, by hand: half the time of autograd here."""
    w1, b1, w2, b2, w3, b3 = parameters
    h1 = torch.baddbmm(b1, x, w1).relu_()
    h2 = torch.baddbmm(b2, h1, w2).relu_()
    logits = torch.baddbmm(b3, h2, w3)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), y, reduction="none").mean(1)
    loss += DECAY / 2 / ROWS * sum(w.square().sum((1, 2)) for w in (w1, w2, w3))
    d3 = (logits.sigmoid_() - y.unsqueeze(-1)) / ROWS
    d2 = torch.ops.aten.threshold_backward(d3 * w3.mT, h2, 0)
    d1 = torch.ops.aten.threshold_backward(d2 @ w2.mT, h1, 0)
    gradients = [x.mT @ d1, d1.sum(1, True), h1.mT @ d2, d2.sum(1, True), h2.mT @ d3, d3.sum(1, True)]
    for gradient, w in zip(gradients[::2], (w1, w2, w3), strict=True):
        gradient.add_(w, alpha=DECAY / ROWS)
    return loss, gradients


def _logits(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Of rows ``(*networks, N, D)``: ``(*networks, N)``."""
    w1, b1, w2, b2, w3, b3 = parameters
    hidden = torch.relu(torch.relu(x @ w1 + b1) @ w2 + b2)
    return (hidden @ w3 + b3).squeeze(-1)


def _scored(reference: Tensor, draws: Tensor) -> Tensor:
    mean, scale = reference.mean(0), reference.std(0)
    return torch.cat([(reference - mean) / scale, (draws - mean) / scale])


def by_scikit_learn(reference: Tensor, draws: Tensor, *, seed: int) -> float:
    """The same by scikit-learn, one fold after the other."""
    import numpy as np
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    hidden = 10 * reference.shape[-1]
    network = MLPClassifier((hidden, hidden), max_iter=10_000, random_state=seed)
    labels = np.repeat([0, 1], [len(reference), len(draws)])
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(network, _scored(reference, draws).numpy(), labels, cv=folds).mean())


def main() -> None:
    torch.set_num_threads(1)
    print("| D | shift | exact | here | scikit-learn | time here (s) | time of scikit-learn (s) |")
    print("|---|---|---|---|---|---|---|")
    for dimension in (2, 5, 10):
        generator = torch.Generator().manual_seed(dimension)
        pairs = [
            (torch.randn(10_000, dimension, generator=generator), _moved(dimension, shift, generator))
            for shift in (0.0, 0.3, 1.0)
        ]
        began = time.process_time()
        here = c2st(pairs, seed=1)
        took = (time.process_time() - began) / len(pairs)
        for (reference, draws), shift, score in zip(pairs, (0.0, 0.3, 1.0), here, strict=True):
            exact = torch.distributions.Normal(0, 1).cdf(torch.tensor(shift / 2)).item()
            began = time.process_time()
            theirs = by_scikit_learn(reference, draws, seed=1)
            alone = time.process_time() - began
            print(
                f"| {dimension} | {shift} | {exact:.3f} | {score:.3f} | {theirs:.3f} | {took:.1f} | {alone:.1f} |",
                flush=True,
            )


def _moved(dimension: int, shift: float, generator: torch.Generator) -> Tensor:
    draws = torch.randn(10_000, dimension, generator=generator)
    draws[:, 0] += shift
    return draws


if __name__ == "__main__":
    main()
