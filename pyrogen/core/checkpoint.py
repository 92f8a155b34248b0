"""Saving a module to a file and loading it again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.networks.statistics import statistics_of

from . import archive
from .recipe import describe, rebuild

KIND = "module"


def save(module: nn.Module, path: str | os.PathLike) -> None:
    """Saves a module: parameters, buffers, and the recipe that rebuilds it, if it has one.

    The file is safetensors with a JSON header, written atomically. Tied weights are stored once.

    Args:
        module: Any module. One built by a recipe loads by itself; any other loads with ``into=``.
        path: The file, replaced if it exists.
    """
    tensors, ties = named_tensors(module)
    document = {"recipe": describe(module), "type": type(module).__name__, "ties": ties, "training": module.training}
    archive.write(path, KIND, document, tensors)


def load(
    path: str | os.PathLike,
    *,
    into: nn.Module | None = None,
    recipes: Iterable[Callable[..., nn.Module]] = (),
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Loads a module saved by :func:`save`.

    Args:
        path: The file.
        into: A module of the same structure, to fill. Needed where the file names no recipe: the module was put
            together by hand, or edited after its recipe.
        recipes: Recipes of your own that the file may name.
        device: Where the module goes.

    Returns:
        The module, in the precision and mode (training or evaluation) it was saved in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, altered, foreign or of another version; names no recipe and there is
            no ``into``; or its tensors have other names or shapes than the module's.
    """
    document, tensors = archive.read(path, KIND)
    try:
        module = _rebuilt(document, recipes) if into is None else into
        fill(module, tensors, document["ties"])
        return module.train(document["training"]).to(device)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)!r} holds a document that makes no sense: {error!r}") from error


def _rebuilt(document: dict[str, Any], recipes: Iterable[Callable[..., nn.Module]]) -> nn.Module:
    if document["recipe"] is None:
        raise ValueError(
            f"names no recipe: its {document['type']} was put together by hand or edited after its recipe; build the "
            "module and pass it as `into=`"
        )
    return rebuild(document["recipe"], tuple(recipes))


def named_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters and buffers of a module, each once, and the further names of tied ones."""
    first: dict[int, str] = {}
    tensors, ties = {}, {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = tensor
    return tensors, ties


def fill(module: nn.Module, tensors: dict[str, Tensor], ties: dict[str, str]) -> None:
    """Copies stored tensors into a module, in their stored precision.

    Raises:
        ValueError: names, shapes or ties differ.
    """
    own, own_ties = named_tensors(module)
    absent = _absent_statistics(module, tensors)
    unstored = {id(buffer) for statistic in absent for buffer in statistic.buffers()}
    own = {name: tensor for name, tensor in own.items() if id(tensor) not in unstored}
    own_ties = {name: first for name, first in own_ties.items() if first in own}
    missing, unexpected = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or unexpected:
        raise ValueError(
            f"does not fit the module, which lacks {unexpected or 'nothing'}, has besides {missing or 'nothing'}"
        )
    if ties != own_ties:
        raise ValueError(f"does not fit the module, which ties {own_ties or 'nothing'}, not {ties or 'nothing'}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"does not fit the module: {name!r} must have shape {tuple(tensor.shape)}, "
                f"got {tuple(tensors[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.dtype != tensors[name].dtype:
                tensor.data = tensor.data.to(tensors[name].dtype)
            tensor.copy_(tensors[name])
    for statistic in absent:
        statistic.reset(learned=True)


def _absent_statistics(module: nn.Module, tensors: dict[str, Tensor]) -> list[nn.Module]:
    """Statistics of which a file holds nothing: it is older than they are, and its model had none."""
    return [
        statistic
        for name, statistic in statistics_of(module)
        if not any(stored.startswith(f"{name}.") for stored in tensors)
    ]
