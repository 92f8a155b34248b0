"""Operators against their peers: how long they take, and how far they are from closed forms and from exact adjoints.

One process, one thread. Ours and the peers take turns; a ratio is the median over rounds of the peer's time over ours:
more than one means that ours is faster. Peers that are not installed are left out.

    python benchmarks/operators.py --rounds 15
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from results_file import table
from torch import Tensor

from pyrogen import operators

Run = Callable[[], object]
Row = tuple[str, Run, dict[str, Run]]
LIBRARIES = ("scikit-image", "deepinv", "sigpy", "SciPy")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="rows whose names contain this")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    rows = []
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for make in (tomography, cartesian, spokes, sound, shifts):
            for name, ours, peers in make():
                if options.only in name:
                    rows.append([name, *compared(ours, peers, options.rounds)])
                    print(*rows[-1], flush=True)
        table(["", "ours, ms", *LIBRARIES], rows, options.table)
        if find_spec("skimage") and not options.only:
            print("\nA Gaussian against its projection (r.m.s. over the largest), and <Ax, y> against <x, A'y>:")
            for line in accuracy():
                print(line, flush=True)


def compared(ours: Run, peers: dict[str, Run], rounds: int) -> Iterator[str]:
    """The median time of ours in milliseconds, and by library the ratios of the peers to it."""
    times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for turn in range(rounds + 1):
        for name, run in (("ours", ours), *peers.items()):
            start = time.process_time()
            run()
            if turn:  # the first warms up
                times[name].append(time.process_time() - start)
    ratios = {
        name: statistics.median(other / own for other, own in zip(times[name], times["ours"], strict=True))
        for name in peers
    }
    yield f"{1e3 * statistics.median(times['ours']):.3g}"
    for library in LIBRARIES:
        mine = {name.removeprefix(library): ratio for name, ratio in ratios.items() if name.startswith(library)}
        yield "; ".join(f"{ratio:.3g}{name}" for name, ratio in mine.items())


def tomography() -> Iterator[Row]:
    for setting in ((64, 20, 1), (64, 20, 64), (128, 60, 1), (128, 60, 16), (256, 180, 1), (256, 180, 4)):
        yield from views_of(*setting)


def views_of(size: int, views: int, batch: int) -> Iterator[Row]:
    angles = torch.arange(views) * math.pi / views
    start = time.process_time()
    radon = operators.Radon((1, size, size), angles, detectors=size)
    built = time.process_time() - start
    x = torch.randn(batch, 1, size, size)
    y = radon(x)
    forward, back = {}, {}
    if find_spec("skimage"):
        from skimage.transform import iradon
        from skimage.transform import radon as radon_of_skimage

        degrees, images = angles.numpy() * 180 / math.pi, inside(x[:, 0].numpy())
        columns = y[:, 0].transpose(-1, -2).contiguous().numpy()
        forward["scikit-image"] = lambda: [radon_of_skimage(part, degrees, circle=True) for part in images]
        back["scikit-image, unfiltered"] = lambda: [iradon(part, degrees, filter_name=None) for part in columns]
    if find_spec("deepinv"):
        physics = tomography_of_deepinv(size, angles)
        seen = physics.A(x)
        forward["deepinv"], back["deepinv"] = lambda: physics.A(x), lambda: physics.A_adjoint(seen)
    shape = f"{size}x{size}, {views} views, batch {batch}"
    yield f"Radon {shape}, made in {built:.2f} s", lambda: radon(x), forward
    yield f"Radon adjoint {shape}", lambda: radon.adjoint(y), back


def inside(images: np.ndarray) -> np.ndarray:
    """Images that are zero outside a circle, as scikit-image wants them."""
    size = images.shape[-1]
    place = np.arange(size) - size // 2
    return images * (place**2 + place[:, None] ** 2 <= (size // 2) ** 2)


def tomography_of_deepinv(size: int, angles: Tensor):  # noqa: ANN201
    import torchvision_anyway  # noqa: F401
    from deepinv.physics import Tomography

    return Tomography(angles=angles * 180 / math.pi, img_width=size, circle=True, normalize=False)


def cartesian() -> Iterator[Row]:
    for setting in ((64, 1, 64), (64, 8, 16), (256, 8, 1)):
        yield lines_of(*setting)


def lines_of(size: int, coils: int, batch: int) -> Row:
    mask, maps = operators.random_lines((size, size), 4, centre=size // 12), operators.coil_maps((size, size), coils)
    mri = operators.Fourier((2, coils, size, size), mask) @ operators.Coils((2, size, size), maps)
    x = torch.randn(batch, 2, size, size)
    peers: dict[str, Run] = {}
    if find_spec("deepinv"):
        import torchvision_anyway  # noqa: F401
        from deepinv.physics import MultiCoilMRI

        physics = MultiCoilMRI(mask=mask.float(), coil_maps=maps[None], img_size=(2, size, size))
        peers["deepinv"] = lambda: physics.A_adjoint(physics.A(x))
    if find_spec("sigpy"):
        from sigpy.mri.linop import Sense

        sense = Sense(maps.numpy().astype(np.complex64), weights=mask.float().numpy())
        images = torch.complex(x[:, 0], x[:, 1]).numpy()
        peers["sigpy"] = lambda: [sense.H(sense(image)) for image in images]
    return f"MRI normal, {size}x{size}, {coils} coils, batch {batch}", lambda: mri.gram(x), peers


def spokes() -> Iterator[Row]:
    for setting in ((64, 16, 16), (256, 64, 1)):
        yield spokes_of(*setting)


def spokes_of(size: int, count: int, batch: int) -> Row:
    frequencies = operators.radial((size, size), torch.arange(count) * math.pi / count)
    start = time.process_time()
    radial = operators.NonuniformFourier((2, size, size), frequencies)
    built = time.process_time() - start
    x = torch.randn(batch, 2, size, size)
    peers: dict[str, Run] = {}
    if find_spec("sigpy"):
        import sigpy

        images, places = torch.complex(x[:, 0], x[:, 1]).numpy(), (frequencies * size).numpy()
        for width in (4, 8):
            peers[f"sigpy, width {width}"] = lambda w=width: [sigpy.nufft(part, places, 2, w) for part in images]
    return f"Radial {size}x{size}, {count} spokes, batch {batch}, made in {built:.2f} s", lambda: radial(x), peers


def sound() -> Iterator[Row]:
    low, x = operators.decimation((16_000,), 2), torch.randn(16, 16_000)
    peers = {}
    if find_spec("scipy"):
        from scipy.signal import resample_poly

        taps = low.taps.numpy()
        peers["SciPy, `resample_poly`"] = lambda: resample_poly(x.numpy(), 1, 2, axis=-1, window=taps)
    yield "Decimation by 2, 65 taps, 16 x 1 s of 16 kHz", lambda: low(x), peers


def shifts() -> Iterator[Row]:
    shift, x = operators.Shift((1, 256, 256), torch.tensor([1.3, -0.4])), torch.randn(16, 1, 256, 256)
    peers = {}
    if find_spec("scipy"):
        from scipy.ndimage import shift as spline

        peers["SciPy, a spline of order 3"] = lambda: [
            spline(part, (1.3, -0.4), mode="grid-wrap") for part in x[:, 0].numpy()
        ]
    yield "Shift 256x256, batch 16", lambda: shift(x), peers


def accuracy() -> Iterator[str]:
    """Errors of tomography: of a Gaussian of width 0.1 and height one at (0.2, -0.1) in a square of side two."""
    from skimage.transform import iradon
    from skimage.transform import radon as radon_of_skimage

    size, views = 128, 60
    pixel, angles = 2 / size, torch.arange(views, dtype=torch.double) * math.pi / views
    operator = operators.Radon((1, size, size), angles, detectors=size, pixel=pixel, spacing=pixel)

    def image(axis: float) -> Tensor:
        """The picture, with its axis of rotation in the middle or half a pixel beside it, where a peer has it."""
        place = (torch.arange(size, dtype=torch.double) - (size - 1) / 2 - axis) * pixel
        return torch.exp(-50 * ((place - 0.2).square() + (place[:, None] - 0.1).square()))[None]

    def error(found: Tensor, axis: float) -> float:
        place = (torch.arange(size, dtype=torch.double) - (size - 1) / 2 - axis) * pixel
        middle = 0.2 * angles.cos() - 0.1 * angles.sin()
        ray = 0.1 * math.sqrt(2 * math.pi) * torch.exp(-50 * (place - middle.unsqueeze(-1)).square())
        return (found - ray).square().mean().sqrt().item() / ray.max().item()

    def mismatch(forward: Tensor, y: Tensor, x: Tensor, back: Tensor) -> float:
        one, other = (forward * y).sum(), (x * back).sum()
        return ((one - other).abs() / (forward.norm() * y.norm())).item()

    x = torch.from_numpy(inside(torch.randn(1, size, size, dtype=torch.double).numpy()))
    y = operator(x) + torch.randn(1, views, size, dtype=torch.double)
    own = mismatch(operator(x), y, x, operator.adjoint(y))
    yield f"pyrogen       {error(operator(image(0.0))[0], 0.0):.1e}  {own:.1e}"
    degrees = angles.numpy() * 180 / math.pi
    found = pixel * torch.from_numpy(radon_of_skimage(image(0.5)[0].numpy(), degrees, circle=True)).T
    forward = torch.from_numpy(radon_of_skimage(x[0].numpy(), degrees, circle=True)).T
    back = torch.from_numpy(iradon(y[0].T.numpy(), degrees, filter_name=None)) * 2 * views / math.pi
    yield f"scikit-image  {error(found, 0.5):.1e}  {mismatch(forward, y[0], x[0], back):.1e} (iradon without a filter)"
    if find_spec("deepinv"):
        physics = tomography_of_deepinv(size, angles.float())
        found = pixel * physics.A(image(0.0)[None].float())[0, 0].T.double()
        other = y.transpose(-1, -2)[None].float()
        pair = mismatch(physics.A(x[None].float()), other, x[None].float(), physics.A_adjoint(other))
        yield f"deepinv       {error(found, 0.0):.1e}  {pair:.1e}"


if __name__ == "__main__":
    main()
