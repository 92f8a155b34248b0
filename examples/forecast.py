"""El Niño: forecasts of sea surface temperatures by state-space models, beside a seasonal baseline and statsmodels.

Monthly temperatures of the eastern tropical Pacific, 1950 to 2010, which statsmodels ships. Models learn from the years
before 2000, and forecast the next twelve months from each quarter after. A score is the continuous ranked probability
score (smaller is better); the coverage of intervals of 90% should be 0.9.

    python examples/forecast.py [--output output/forecast] [--seed 0] [--steps 600]
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import Tensor
from torch.distributions import Normal

import pyrogen as pg
from pyrogen import latent

SPLIT, PAST, AHEAD = 50 * 12, 36, 12


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/forecast"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    series = temperatures()
    months = torch.arange(len(series)) % 12
    usual = torch.stack([series[:SPLIT][months[:SPLIT] == month].mean() for month in range(12)])[months]
    unusual = series - usual
    origins = range(SPLIT, len(series) - AHEAD + 1, 3)
    truth = torch.stack([series[at : at + AHEAD] for at in origins])
    back = torch.stack([usual[at : at + AHEAD] for at in origins])

    models = {
        "linear-Gaussian": latent.linear_gaussian((PAST + AHEAD,), latent_shape=3),
        "deep Markov": latent.deep_markov((PAST + AHEAD,), latent_shape=4, controls=4, width=32, hidden=(32,)),
    }
    draws = {"each month as ever": climate(unusual, len(truth)) + back}
    for name, model in models.items():
        train = windows(unusual, months, range(SPLIT - PAST - AHEAD), model)
        schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=options.steps)
        # With the rate's full weight from the start, observations may be learned first, by states that say nothing.
        beta = latent.LinearAnnealing(max(options.steps // 2, 1))
        objective = latent.BetaElbo(model, beta=beta) if model.density == "lower bound" else model
        fit = pg.fit(
            objective, train, steps=options.steps, batch_size=64, clip=10.0, schedule=schedule, seed=options.seed
        )
        print(f"{name} after {options.steps} steps: {fit.history.loss[-1]:.1f} nats a window")
        known = windows(unusual, months, [at - PAST for at in origins], model.eval())
        x, context = known if isinstance(known, tuple) else (known, None)
        draws[name] = model.forecast(x[:, :PAST], AHEAD, context).sample((1000,)) + back
    draws["statsmodels"] = by_statsmodels(series, origins)

    print(f"\n{len(truth)} forecasts of {AHEAD} months, in degrees: score, its first and last quarter, and coverage")
    for name, drawn in draws.items():
        scores = ranked_probability(drawn, truth)
        low, high = torch.quantile(drawn, torch.tensor([0.05, 0.95]), 0)
        inside = ((low <= truth) & (truth <= high)).float().mean()
        parts = "   ".join(f"{part.mean():.3f}" for part in (scores, scores[:, :3], scores[:, -3:]))
        print(f"   {name:<20}{parts}   {inside:.2f}")
    picture(options.output / "forecast.png", series, draws["deep Markov"][:, -1], origins[-1])


def temperatures() -> Tensor:
    """The series, in degrees Celsius."""
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data
    return torch.tensor(table.iloc[:, 1:].to_numpy().ravel(), dtype=torch.float32)


def windows(series: Tensor, months: Tensor, starts: object, model: latent.StateSpaceModel) -> object:
    """Windows of the series, and the time of year beside them if the model takes it."""
    x = torch.stack([series[at : at + model.length] for at in starts])
    if model.context_shape is None:
        return x
    phase = 2 * torch.pi * torch.stack([months[at : at + model.length] for at in starts]) / 12
    return x, {"controls": torch.stack([phase.sin(), phase.cos(), (2 * phase).sin(), (2 * phase).cos()], -1)}


def climate(unusual: Tensor, count: int) -> Tensor:
    """Draws of the past years' deviations from what is usual for the month, one after the other."""
    years = unusual[:SPLIT].reshape(-1, 12)
    deviations = torch.stack([years.roll(-shift, 1) for shift in (0, 3, 6, 9)], 1)  # months from the origin on
    return deviations[:, torch.arange(count) % 4]


def by_statsmodels(series: Tensor, origins: range) -> Tensor:
    """Draws of the forecasts of a level, a season and an autoregression, fitted by maximum likelihood."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optimizer
        build = {"level": "fixed intercept", "seasonal": 12, "stochastic_seasonal": False, "autoregressive": 2}
        fitted = UnobservedComponents(series[:SPLIT].double().numpy(), **build).fit(disp=False)
        forecasts = [fitted.apply(series[:at].double().numpy()).get_forecast(AHEAD) for at in origins]
    loc, scale = ([torch.tensor(getattr(one, part)) for one in forecasts] for part in ("predicted_mean", "se_mean"))
    return Normal(torch.stack(loc), torch.stack(scale)).sample((1000,)).float()


def ranked_probability(draws: Tensor, truth: Tensor) -> Tensor:
    """The continuous ranked probability score, from draws along the first dimension."""
    ranks = torch.arange(1, len(draws) + 1).reshape(-1, 1, 1)
    ordered, n = draws.sort(0).values, len(draws)
    spread = ((2 * ranks - n - 1) * ordered).sum(0) / (n * (n - 1))
    return (draws - truth).abs().mean(0) - spread


def picture(path: Path, series: Tensor, draws: Tensor, origin: int) -> None:
    """The last forecast, and what came."""
    import matplotlib.pyplot as plt

    years = 1950 + torch.arange(len(series)) / 12
    ahead = years[origin : origin + AHEAD]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(
        years[origin - PAST : origin + AHEAD], series[origin - PAST : origin + AHEAD], color="black", label="seen"
    )
    for level in (0.05, 0.25):
        low, high = torch.quantile(draws, torch.tensor([level, 1 - level]), 0)
        axes.fill_between(ahead, low, high, alpha=0.3, color="tab:blue", label=f"{1 - 2 * level:.0%}")
    axes.set(xlabel="year", ylabel="temperature (degrees Celsius)")
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f"\nThe last forecast is drawn in {path}")


if __name__ == "__main__":
    main()
