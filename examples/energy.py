"""Energies: a density that is known up to a constant, a product of two experts, and a machine of digits.

In two dimensions the constant is computed by quadrature, and the density stands beside the data that it was learned
from by persistent chains; noise-contrastive estimation learns the constant as well. Two energies of rings add up to one
that draws where the rings cross, which neither does by itself. A restricted Boltzmann machine of few hidden units is
exact: its log-likelihood of binary digits that were held out is a sum over all hidden states, and its draws need no
chain.

    python examples/energy.py [--output output] [--seed 0] [--steps 800] [--device cpu]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data import two_moons
from pyrogen.energy import NoiseContrastive, Product, log_normalizer, mixing, mlp, rbm

GRID = torch.linspace(-4, 4, 161)


def trained(target, x, args, share=1.0, lr=5e-3, **settings):
    """A target, fitted for a share of the steps, with a learning rate that falls to zero."""
    steps = max(2, int(share * args.steps))
    schedule = partial(CosineAnnealingLR, T_max=steps)
    return pg.fit(
        target, x, steps=steps, batch_size=256, lr=lr, schedule=schedule, ema=0.99, seed=args.seed, **settings
    )


def quadrature(module, device):
    """The density on a grid, and the logarithm of the normalizer."""
    points = torch.cartesian_prod(GRID, GRID).to(device)
    score = pg.log_prob(module, points)
    log_z = score.logsumexp(0).item() + 2 * (GRID[1] - GRID[0]).log().item()
    return (score - log_z).exp().reshape(len(GRID), -1).cpu(), log_z


def ring(centre, rows):
    """Data around a circle of radius 1.5."""
    angle = 2 * torch.pi * torch.rand(rows)
    circle = 1.5 * torch.stack([angle.cos(), angle.sin()], -1)
    return torch.tensor(centre) + circle + 0.1 * torch.randn(rows, 2)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the networks are small
    torch.manual_seed(args.seed)
    figure, axes = plt.subplots(2, 4, figsize=(16, 8), layout="constrained")

    x = two_moons(10_000, seed=args.seed, noise=0.1).to(args.device)
    x, held_out = x[:8000], x[8000:]
    moons = mlp((2,), hidden=(64, 64)).to(args.device)
    trained(moons, x, args, share=2.0)
    _, log_z = quadrature(moons, args.device)
    likelihood = pg.log_prob(moons, held_out).mean().item() - log_z
    print(f"persistent chains: log-likelihood of held-out data {likelihood:.3f} nats, by quadrature")
    print(f"log Z by quadrature {log_z:.3f}, by annealed importance sampling {log_normalizer(moons)}")
    print(f"chains from the normal of the data: {mixing(moons)}")
    contrasted = mlp((2,), hidden=(64, 64)).to(args.device)
    objective = NoiseContrastive(contrasted, draws=4).to(args.device)
    trained(objective, x, args, share=2.0, lr=1e-2)
    density, log_z = quadrature(contrasted, args.device)
    likelihood = pg.log_prob(contrasted, held_out).mean().item() - log_z
    print(
        f"noise-contrastive estimation: {likelihood:.3f} nats; log Z learned {objective.log_normalizer.item():.3f}, by "
        f"quadrature {log_z:.3f}"
    )
    axes[0, 0].scatter(*held_out[:2000].cpu().numpy().T, s=2)
    axes[0, 0].set_title("data")
    axes[0, 1].pcolormesh(GRID.numpy(), GRID.numpy(), density.numpy().T, shading="nearest")
    axes[0, 1].set_title("density by quadrature")
    axes[0, 2].scatter(*contrasted().sample((2000,)).cpu().numpy().T, s=2)
    axes[0, 2].set_title("draws of chains")

    experts = [mlp((2,), hidden=(64, 64)).to(args.device) for _ in range(2)]
    centres = ((-0.8, 0.0), (0.8, 0.0))
    for expert, centre in zip(experts, centres, strict=True):
        trained(NoiseContrastive(expert, draws=4).to(args.device), ring(centre, 8000).to(args.device), args, share=0.7)
    product = Product(experts).to(args.device)
    crossings = torch.tensor([[0.0, 1.27], [0.0, -1.27]])
    for name, module in {"one expert": experts[0], "the other": experts[1], "their product": product}.items():
        with torch.no_grad():
            draws = module().sample((1000,)).cpu()
        near = (torch.cdist(draws, crossings).amin(1) < 0.4).float().mean()
        print(f"{name}: {near:.0%} of draws are where the rings cross")
        axes[0, 3].scatter(*draws.numpy().T, s=2, label=name)
    axes[0, 3].legend(markerscale=4)
    axes[0, 3].set_title("a product of experts")
    for axis in axes[0]:
        axis.set(aspect="equal", xlim=(-4, 4), ylim=(-4, 4))

    pixels, labels, _ = pg.data.digits()
    bits = (pixels >= 8).float()
    (train, train_labels), (test, test_labels) = pg.data.split(bits, labels, sizes=(1437, 360), seed=args.seed)
    machine = rbm((1, 8, 8), symbols=2, units=12, classes=10).to(args.device)
    with torch.no_grad():
        shares = train.mean(0).clamp(0.01, 0.99)
        machine.visible_bias.copy_(shares.logit().flatten())
    data = train.to(args.device), train_labels.to(args.device)
    trained(machine, data, args, lr=1e-2)
    found = pg.evaluation.log_likelihood(machine, test.to(args.device), test_labels.to(args.device))
    alone = torch.distributions.Bernoulli(shares).log_prob(test).sum((1, 2, 3)).mean()
    print(f"binary digits that were held out: {found}; independent pixels {alone:.2f}")
    with torch.no_grad():
        drawn = machine(torch.arange(10, device=args.device).repeat(8)).sample().cpu()
    for axis, images, name in ((axes[1, 0], test[:80], "binary digits"), (axes[1, 1], drawn, "exact draws by class")):
        tiles = torch.nn.functional.pad(images.reshape(8, 10, 8, 8), (1, 1, 1, 1), value=0.5)
        axis.imshow(tiles.transpose(1, 2).reshape(80, 100).numpy(), cmap="gray")
        axis.set_title(name)
    weights = torch.nn.functional.pad(machine.weight.detach().cpu().T.reshape(3, 4, 8, 8), (1, 1, 1, 1))
    axes[1, 2].imshow(weights.transpose(1, 2).reshape(30, 40).numpy(), cmap="RdBu")
    axes[1, 2].set_title("hidden units")
    for axis in axes[1]:
        axis.axis("off")
    figure.savefig(args.output / "energy.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
