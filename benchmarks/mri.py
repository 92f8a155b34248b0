"""Magnetic resonance from few frequencies: zeros filled in, sigpy's wavelets, split Gibbs; and the brain of others.

A small U-Net's diffusion is fitted to mirrored, turned, scaled and shifted copies of slices of 64x64 pixels of one
brain, with random phases (``mri_brains.py`` states where it is). Slices of two slabs that it has not seen, 3 mm or more
from those that it has, and slices of the average of 152 people, are measured on one column of frequencies in four, or
in eight, by four coils, with noise of 0.02 in both channels. The weights of wavelets were chosen on two
slices of a third slab (``--slices 91 93``), the coupling on the first of them.

Printed are PSNR (decibels) and SSIM of the magnitude of the mean; of the brain's pixels the share whose magnitude is in
its 90 % interval, the mean width of intervals, and the error over the standard deviation of draws (root mean squares);
passes through the network for each draw and processor seconds an image. All are averages over slices, with standard
errors. Needs sigpy.

    python benchmarks/mri.py ch2bet.nii.gz mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz --prior brain.safetensors
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from mri_brains import NOISE, TEST, held_out, scanner, training, volume
from results_file import keep, known, table
from slice_prior import SIZE, Passes, fitted
from torch import Tensor

import pyrogen as pg
from pyrogen import inverse
from pyrogen.numerics.grids import default_grid
from pyrogen.operators import Diagonalized, Sense

BRAINS = ("the prior's person", "average of 152 people")
METHODS = ("zeros filled in", "sigpy, wavelets", "SplitGibbs", "TemperedSMC")
KEYS = ("acceleration", "brain", "method")
WAVELETS = {4: 0.005, 8: 0.002}  # their weight, by acceleration


def methods(
    mri: Sense, y: Tensor, prior: pg.diffusion.Diffusion, options: argparse.Namespace
) -> dict[str, Callable[[], Tensor]]:
    """By name, a function that gives draws of all slices ``(draws, N, *shape)``, or one image of each."""
    orthogonal = Diagonalized(mri)

    def model(coefficients: Tensor) -> None:
        with pyro.plate("slices", len(coefficients)):
            image = pyro.sample("image", prior())
            pyro.sample("y", dist.Normal(orthogonal(image), NOISE).to_event(3), obs=coefficients)

    def run(method: type[inverse.Answer], **settings: object) -> Tensor:
        grid = default_grid(prior.denoiser.schedule, options.steps, norm=prior.denoiser.data_scale * SIZE * 2**0.5)
        answer = method(model, site="image", grid=grid, **settings).run(orthogonal.coefficients(y))
        print(answer.diagnostics(), flush=True)
        return answer.get_samples()["image"]

    acceleration = options.acceleration
    weight = WAVELETS[acceleration] if options.wavelets is None else options.wavelets
    gibbs = {"chains": options.chains, "draws": 4, "warmup": options.warmup, "coupling": options.coupling}
    runs = (
        lambda: mri.adjoint(y).unsqueeze(0),
        lambda: torch.stack([wavelets(mri, measured, weight) for measured in y]).unsqueeze(0),
        lambda: run(inverse.SplitGibbs, **gibbs),
        lambda: run(inverse.TemperedSMC, particles=24, moves=2, ess=0.5),
    )
    return dict(zip(METHODS, runs, strict=True))


def wavelets(mri: Sense, y: Tensor, weight: float) -> Tensor:
    """The reconstruction of one slice, ``(2, 64, 64)``, with the sum of the moduli of wavelets as a penalty."""
    from sigpy.mri.app import L1WaveletRecon

    mask = torch.zeros(SIZE * SIZE, dtype=torch.bool).index_fill(0, mri.transform.index, True)
    mask = torch.fft.fftshift(mask.view(SIZE, SIZE))
    measured = torch.zeros(len(y[0]), SIZE, SIZE, dtype=torch.cfloat)
    measured[:, mask] = torch.complex(*y)
    maps, settings = mri.coils.maps.numpy(), {"weights": mask.float().numpy(), "max_iter": 100, "show_pbar": False}
    found = torch.from_numpy(L1WaveletRecon(measured.numpy(), maps, weight, **settings).run())
    return torch.stack([found.real, found.imag]).float()


def scored(draws: Tensor, truth: Tensor) -> dict[str, float]:
    """Compares magnitudes of draws of a slice ``(draws, *shape)`` with those of the truth."""
    magnitude, image = truth.norm(dim=0), draws.mean(0).norm(dim=0)
    line = {"psnr": pg.evaluation.psnr(image, magnitude), "ssim": pg.evaluation.ssim(image, magnitude)}
    if len(draws) == 1:
        return line
    brain, report = magnitude > 0.05, pg.evaluation.restoration_report(draws.norm(dim=1), magnitude)
    error, deviation = (report.mean - magnitude)[brain], report.deviation[brain]
    return line | {
        "coverage": ((report.low <= magnitude) & (magnitude <= report.high))[brain].double().mean().item(),
        "width": (report.high - report.low)[brain].mean().item(),
        "excess": (error.square().mean() / deviation.square().mean()).sqrt().item(),
    }


def rows(lines: list[dict]) -> Iterator[list[str]]:
    """Of the table, averages over slices with their standard errors."""
    for key in product((4, 8), BRAINS, METHODS):
        of = [line for line in lines if tuple(line[key] for key in KEYS) == key]
        if not of:
            continue

        def mean(name: str, digits: int, scale: float = 1.0, of: list[dict] = of) -> str:
            values = torch.tensor([scale * line[name] for line in of if name in line])
            return f"{values.mean().item():.{digits}f}" if len(values) else ""

        def with_error(name: str, digits: int, scale: float = 1.0, of: list[dict] = of) -> str:
            if not (found := mean(name, digits, scale, of)):
                return ""
            error = scale * torch.tensor([line[name] for line in of]).std() / len(of) ** 0.5
            return f"{found} ± {error.item():.{digits}f}"

        acceleration, brain, method = key
        name = f"`{method}`" if method[0].isupper() else method
        yield [brain, f"1 / {acceleration}", name, str(len(of)), with_error("psnr", 1), mean("ssim", 3)] + [
            with_error("coverage", 0, 100).replace(" ±", " % ±"),
            with_error("width", 3),
            mean("excess", 2),
            mean("passes", 0),
            mean("seconds", 0),
        ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brains", type=Path, nargs=2, help="of one person, and of the average of 152")
    parser.add_argument("--prior", type=Path, help="where the prior is kept")
    parser.add_argument("--fit", type=int, default=2000, help="training steps of the prior")
    parser.add_argument("--slices", type=int, nargs="+", default=TEST, help="by height")
    parser.add_argument("--acceleration", type=int, default=4)
    parser.add_argument("--methods", nargs="*", default=METHODS[:3])
    parser.add_argument("--wavelets", type=float, help="the weight of sigpy's wavelets, if not the one that was chosen")
    parser.add_argument("--coupling", type=float, default=0.1, help="of SplitGibbs")
    parser.add_argument("--chains", type=int, default=12, help="of SplitGibbs")
    parser.add_argument("--warmup", type=int, default=12, help="of SplitGibbs")
    parser.add_argument("--steps", type=int, default=14, help="of the prior's chain")
    parser.add_argument("--output", type=Path, help="where results of single slices are kept, one a line")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    volumes = [volume(path) for path in options.brains]
    prior = fitted(lambda: training(volumes[0]), options.fit, options.prior).requires_grad_(False).eval()
    passes, mri, lines = Passes(prior.denoiser.network), scanner(options.acceleration), known(options.output)

    def noise(height: int) -> Tensor:
        """The noise of a height, which both brains have."""
        return NOISE * torch.randn(mri.output_shape, generator=torch.Generator().manual_seed(height))

    def found(name: str) -> Iterator[dict]:
        """Both brains' slices, side by side."""
        of = list(product(options.slices, BRAINS))
        truths = torch.stack([held_out(volumes[BRAINS.index(brain)], height) for height, brain in of])
        y = mri(truths) + torch.stack([noise(height) for height, _ in of])
        pyro.set_rng_seed(options.slices[0])
        before, began = passes.images, time.process_time()
        draws = methods(mri, y, prior, options)[name]().float()
        cost = {"seconds": (time.process_time() - began) / len(of)}
        if seen := passes.images - before:
            cost["passes"] = seen / len(draws) / len(of)
        for place, (height, brain) in enumerate(of):
            mine = {"acceleration": options.acceleration, "brain": brain, "method": name, "slice": height}
            yield mine | scored(draws[:, place], truths[place]) | cost

    for name in options.methods:
        keep(found(name), lines, options.output)
    columns = ["brain", "frequencies", "method", "slices", "PSNR, dB", "SSIM", "brain in 90 % intervals", "their width"]
    table([*columns, "error over stated error", "passes a draw", "seconds"], list(rows(lines)), options.table, lines)


if __name__ == "__main__":
    main()
