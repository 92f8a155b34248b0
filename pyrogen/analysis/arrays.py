"""Tensors as numpy arrays, which is what figures and ArviZ take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def numbers(values: Any) -> np.ndarray:
    """A tensor or sequence as a numpy array; half precision, which numpy lacks in part, as float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
