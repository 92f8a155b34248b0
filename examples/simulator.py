"""A simulator without a likelihood: an epidemic in a school, its amortized posterior, and whether to trust it.

In January 1978 influenza went through an English boarding school of 763 boys; for 14 days the number of boys in bed was
noted (British Medical Journal, 4 March 1978). The program is an epidemic in which chance decides who infects whom, so
the probability of what was seen is a sum over all paths that it can take, too many to compute. A posterior is learned
from simulations alone, tested at every point (calibration, coverage) and at the real data (local calibration, is the
model right at all, predictive check), and drawn for the school.

    python examples/simulator.py [--output output] [--seed 0] [--steps 5000] [--device cpu]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import Binomial
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

BOYS, DAYS, HOURS = 763, 14, 6
IN_BED = torch.tensor([3.0, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4])


def epidemic(in_bed=None):
    """Boys are well, ill or recovered; everybody meets everybody. Rates are per day; four steps make a day."""
    contact = pyro.sample("contact", dist.LogNormal(0.5, 0.7))
    recovery = pyro.sample("recovery", dist.LogNormal(-0.7, 0.7))
    concentration = pyro.sample("concentration", dist.LogNormal(3.0, 0.5))
    reproduction = pyro.deterministic("reproduction", contact / recovery)
    ill, days, step = torch.ones_like(reproduction), [], HOURS / 24
    well = BOYS - ill
    for _ in range(DAYS):
        for _ in range(24 // HOURS):
            infected = Binomial(well, 1 - torch.exp(-step * contact * ill / BOYS)).sample()
            recovered = Binomial(ill, (1 - torch.exp(-step * recovery)).expand_as(ill)).sample()
            well, ill = well - infected, ill + infected - recovered
        days.append(ill)
    expected = torch.stack(days, -1) + 0.1  # who is in bed is counted with more spread than Poisson's
    spread = concentration.unsqueeze(-1).expand_as(expected)
    pyro.sample("in_bed", dist.GammaPoisson(spread, spread / expected).to_event(1), obs=in_bed)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other

    joint = pg.simulation.Joint(epidemic, observed="in_bed")
    count, others = (200_000, 4000) if args.steps > 100 else (400, 100)
    simulations, held_out = joint.draw(count, seed=args.seed), joint.draw(others, seed=args.seed + 1000)
    print(simulations)
    posterior = pg.simulation.posterior(joint).to(args.device)
    fit = pg.fit(
        posterior,
        simulations.to(args.device),
        steps=args.steps,
        batch_size=512,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        schedule=partial(CosineAnnealingLR, T_max=args.steps),
        ema=0.999,
        validation=0.02,
        validate_every=max(1, args.steps // 40),
        seed=args.seed,
    )
    posterior.cpu()

    calibration = pg.evaluation.simulation_based_calibration(
        None,
        posterior.draw,
        observed="in_bed",
        simulations=held_out,
        quantities={"log_posterior": posterior.log_posterior},
    )
    print(f"calibrated over all epidemics? {calibration.test()}")
    print(f"coverage of highest-density regions: {calibration.highest_coverage('log_posterior')}")

    misspecification = pg.evaluation.misspecification_test(IN_BED, held_out.observed)
    print(f"is the school like the simulations? {misspecification}")
    local = pg.evaluation.local_calibration_test(posterior.draw, held_out, observed={"in_bed": IN_BED})
    print(f"calibrated at the school? {local}")

    draws = posterior.sites(posterior(IN_BED).sample((2000,)))
    rates = {**draws, "reproduction": draws["contact"] / draws["recovery"]}
    for name, values in rates.items():
        low, middle, high = values.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        print(f"{name}: {middle:.2f}, between {low:.2f} and {high:.2f} with probability 0.9")
    replicated = joint.simulate(draws, seed=args.seed)
    statistics = {
        "worst day": lambda data: data["in_bed"].argmax(-1).float(),
        "most in bed": lambda data: data["in_bed"].max(-1).values,
        "all days": lambda data: data["in_bed"].sum(-1),
    }
    predictive = pg.evaluation.predictive_check(replicated.observed, IN_BED, statistics=statistics)
    print(f"does the posterior predict what was seen?\n{predictive}")

    checks = {
        "calibration": calibration,
        "local": local,
        "misspecification": misspecification,
        "predictive": predictive,
    }
    title = "Influenza in a school: is the posterior right?"
    figure = pg.analysis.simulation_checks(
        fit=fit, draws=draws, prior=joint.prior(5000, seed=args.seed), title=title, **checks
    )
    figure.savefig(args.output / "simulator_report.png", dpi=120)
    path = args.output / "simulator_report.html"
    report = pg.analysis.report(posterior, IN_BED, history=fit, title=title, path=path, seed=args.seed, **checks)
    print(f"one page on all of it, {path.name}: {report.verdict.text}")


if __name__ == "__main__":
    main()
