"""Every recipe of flows at a small size, with weights away from the identity: for tests that hold for all."""

import torch

from pyrogen import flows

SMALL = {"layers": 2, "hidden": (8,)}
RECIPES = {
    "affine_coupling": lambda *shapes: flows.affine_coupling(*shapes, **SMALL),
    "spline_coupling": lambda *shapes: flows.spline_coupling(*shapes, **SMALL),
    "affine_autoregressive": lambda *shapes: flows.affine_autoregressive(*shapes, **SMALL),
    "spline_autoregressive": lambda *shapes: flows.spline_autoregressive(*shapes, **SMALL),
    "inverse_affine_autoregressive": lambda *shapes: flows.affine_autoregressive(*shapes, fast_sampling=True, **SMALL),
    "inverse_spline_autoregressive": lambda *shapes: flows.spline_autoregressive(*shapes, fast_sampling=True, **SMALL),
    "neural_autoregressive": lambda *shapes: flows.neural_autoregressive(*shapes, units=3, **SMALL),
    "inverse_neural_autoregressive": lambda *shapes: flows.neural_autoregressive(
        *shapes, units=3, fast_sampling=True, **SMALL
    ),
    "block_neural": lambda *shapes: flows.block_neural_autoregressive(*shapes, layers=1, hidden=(3,)),
    "inverse_block_neural": lambda *shapes: flows.block_neural_autoregressive(
        *shapes, layers=1, hidden=(3,), fast_sampling=True
    ),
    "continuous": lambda *shapes: flows.continuous(*shapes, hidden=(8,)),
    "continuous_deep": lambda *shapes: flows.continuous(*shapes, hidden=(4, 4, 4)),
    "student": lambda *shapes: flows.affine_coupling(*shapes, base=flows.StudentT(shapes[0]), **SMALL),
    "mixture": lambda *shapes: flows.affine_coupling(
        *shapes, base=flows.GaussianMixture(shapes[0], components=3), **SMALL
    ),
}
UNCONDITIONAL = {
    "planar": lambda shape: flows.planar(shape, layers=2),
    "radial": lambda shape: flows.radial(shape, layers=2),
    "sylvester": lambda shape: flows.sylvester(shape, layers=2),
    "rotation": lambda shape: flows.Flow(
        [*flows.affine_coupling(shape, **SMALL).bijections, flows.Rotation(shape)], event_shape=shape
    ),
}


def made(name, *, conditional=True):
    """A flow over two numbers in double precision, given as many if ``conditional`` and if it takes any."""
    torch.manual_seed(0)
    shapes = ((2,), (2,)) if conditional and name in RECIPES else ((2,),)
    flow = {**RECIPES, **UNCONDITIONAL}[name](*shapes).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def inputs(flow, rows=4):
    """Values and contexts, ``None`` without."""
    torch.manual_seed(1)
    x = 0.8 * torch.rand(rows, 2).double() + 0.1
    return x, None if flow.context_shape is None else torch.randn(rows, 2).double()
