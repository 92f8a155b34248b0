"""Flows of pyrogen and of four peers, built as equals: five layers, two hidden layers of 128 units, eight bins."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

LAYERS, HIDDEN, BINS, BOUND = 5, 128, 8, 5.0
KINDS = ("spline autoregressive", "affine autoregressive", "spline coupling", "affine coupling")
LIBRARIES = ("pyrogen", "zuko", "nflows", "normflows", "pyro")


class Wrapped(nn.Module):
    """One interface for all: ``log_prob(x)`` and ``sample(n)``."""

    def __init__(self, modules, log_prob, sample) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.log_prob, self.sample = log_prob, sample


class Perceptron(nn.Sequential):
    """The conditioner of the coupling layers, for the libraries that take one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        sizes = (nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
        super().__init__(*sizes, nn.Linear(HIDDEN, outputs))

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return super().forward(x)


def build(library: str, kind: str, size: int, **settings) -> Wrapped:
    """The flow of a library; ``settings`` go to pyrogen's recipe."""
    return {"pyrogen": _pyrogen, "zuko": _zuko, "nflows": _nflows, "normflows": _normflows, "pyro": _pyro}[library](
        kind, size, **settings
    )


def _pyrogen(kind: str, size: int, **settings) -> Wrapped:
    from pyrogen import flows

    settings = {"mixing": False, "standardize": False, **settings}
    if kind.startswith("spline"):
        settings = {"bins": BINS, "bound": BOUND, **settings}
    flow = getattr(flows, kind.replace(" ", "_"))(size, layers=LAYERS, hidden=(HIDDEN, HIDDEN), **settings)
    return Wrapped([flow], lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def _zuko(kind: str, size: int) -> Wrapped:
    import zuko

    hidden = {"hidden_features": [HIDDEN] * 2}
    if kind == "spline autoregressive":
        flow = zuko.flows.NSF(size, transforms=LAYERS, bins=BINS, **hidden)
    elif kind == "affine autoregressive":
        flow = zuko.flows.MAF(size, transforms=LAYERS, **hidden)
    else:
        spline = kind.startswith("spline")
        if spline:
            hidden |= {
                "univariate": zuko.transforms.MonotonicRQSTransform,
                "shapes": [(BINS,), (BINS,), (BINS - 1,)],
            }
        layers = [
            zuko.flows.coupling.GeneralCouplingTransform(size, mask=torch.arange(size) % 2 == index % 2, **hidden)
            for index in range(LAYERS)
        ]
        base = zuko.lazy.UnconditionalDistribution(
            zuko.distributions.DiagNormal, torch.zeros(size), torch.ones(size), buffer=True
        )
        flow = zuko.lazy.Flow(layers, base)
    return Wrapped([flow], lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def _stack(layers: list[nn.Module], size: int, inverse) -> Wrapped:
    """Layers of ``(x) -> (z, log_det)``, the order of the elements reversed between them."""

    def log_prob(x: Tensor) -> Tensor:
        total = 0.0
        for layer in layers:
            x, log_det = layer(x.flip(-1))
            total = total + log_det
        return total - 0.5 * (x.square().sum(-1) + size * 1.8378770664093453)

    def sample(n: int) -> Tensor:
        z = torch.randn(n, size)
        for layer in reversed(layers):
            z = inverse(layer, z).flip(-1)
        return z

    return Wrapped(layers, log_prob, sample)


def _alternating(size: int) -> Tensor:
    return (torch.arange(size) % 2).int()


def _nflows(kind: str, size: int) -> Wrapped:
    from nflows.transforms import autoregressive, coupling

    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    masked = {"num_blocks": 1, "use_residual_blocks": False}
    make = {
        "spline autoregressive": lambda: autoregressive.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            size, HIDDEN, **masked, **spline
        ),
        "affine autoregressive": lambda: autoregressive.MaskedAffineAutoregressiveTransform(size, HIDDEN, **masked),
        "spline coupling": lambda: coupling.PiecewiseRationalQuadraticCouplingTransform(
            _alternating(size), Perceptron, **spline
        ),
        "affine coupling": lambda: coupling.AffineCouplingTransform(_alternating(size), Perceptron),
    }[kind]
    return _stack([make() for _ in range(LAYERS)], size, lambda layer, z: layer.inverse(z)[0])


def _normflows(kind: str, size: int) -> Wrapped:
    from normflows.flows.affine.autoregressive import MaskedAffineAutoregressive
    from normflows.flows.neural_spline.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressive
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    masked = {"num_blocks": 1, "use_residual_blocks": False}
    make = {
        "spline autoregressive": lambda: MaskedPiecewiseRationalQuadraticAutoregressive(
            size, HIDDEN, init_identity=True, **masked, **spline
        ),
        "affine autoregressive": lambda: MaskedAffineAutoregressive(size, HIDDEN, **masked),
        "spline coupling": lambda: PiecewiseRationalQuadraticCoupling(_alternating(size), Perceptron, **spline),
        "affine coupling": partial(_NormflowsAffine, size),
    }[kind]
    return _stack([make() for _ in range(LAYERS)], size, lambda layer, z: layer.inverse(z)[0])


class _NormflowsAffine(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        from normflows.flows.affine.coupling import AffineCoupling

        self.coupling = AffineCoupling(Perceptron(size // 2, 2 * (size - size // 2)))

    def _through(self, map_, x: Tensor) -> tuple[Tensor, Tensor]:
        (stay, moved), log_det = map_([x[:, 1::2], x[:, ::2]])
        return torch.stack((moved, stay), -1).flatten(1), log_det

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._through(self.coupling.forward, x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._through(self.coupling.inverse, z)


def _pyro(kind: str, size: int) -> Wrapped:
    import pyro.distributions as dist
    import pyro.distributions.transforms as T
    from pyro.nn import AutoRegressiveNN, DenseNN

    half, sizes, hidden = size // 2, [BINS, BINS, BINS - 1], [HIDDEN] * 2
    make = {
        "spline autoregressive": lambda: T.SplineAutoregressive(
            size, AutoRegressiveNN(size, hidden, param_dims=sizes), BINS, BOUND, order="quadratic"
        ),
        "affine autoregressive": lambda: T.AffineAutoregressive(AutoRegressiveNN(size, hidden)),
        "spline coupling": lambda: T.SplineCoupling(
            size, half, DenseNN(half, hidden, [(size - half) * n for n in sizes]), BINS, BOUND, "quadratic", True
        ),
        "affine coupling": lambda: T.AffineCoupling(half, DenseNN(half, hidden, [size - half] * 2)),
    }[kind]
    layers = [make() for _ in range(LAYERS)]
    order = torch.arange(size).flip(0)
    base = dist.Normal(torch.zeros(size), 1.0).to_event(1)

    def flow() -> dist.TransformedDistribution:
        chain = []
        for layer in layers:
            layer.clear_cache()
            chain += [T.Permute(order, cache_size=1), layer.inv]
        return dist.TransformedDistribution(base, chain[1:])

    return Wrapped(layers, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))
