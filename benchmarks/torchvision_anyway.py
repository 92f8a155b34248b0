"""Lets torchvision be imported beside a torch that it was not built for: without its compiled operators.

The usual wheel of torchvision is built for CUDA. deepinv imports it, but the samplers compared here use none of those
operators; two of them must be known by name for the import to pass.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    _known = torch.library.Library("torchvision", "DEF")
    _known.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    _known.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
