"""Saving a module to a file, loading it again, and building it with other arguments."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked
from pyrogen.networks.statistics import statistics_of
from pyrogen.numerics.randomness import held

from . import archive
from .known_recipes import EDITION, tensor_names
from .limits import Allowance, check_sizes
from .module import DistributionModule
from .recipe import check_structure, describe, is_built, is_function, obstacle, rebuild
from .structure import structure_of

KIND = "module"
_BYTES, _CALLS, _SIZE = 2**28, 20_000, 2**24
"""What building a module may take in any case; besides, so much for every byte and tensor of its file."""
_PER_BYTE, _PER_TENSOR = 16, 2_000
_OWN = 7_041_776_309  # a seed that nobody else takes


def save(module: nn.Module, path: str | os.PathLike) -> None:
    """Saves a module: parameters, buffers, and the recipe that rebuilds it, if it has one.

    The file is safetensors with a JSON header, written atomically. Tied weights are stored once. Besides the recipe it
    holds the structure of the module, so that loading notices where the recipe has come to build something else.

    Args:
        module: Any module. One built by a recipe loads by itself, or a warning names why not; any other loads with
            ``into=``.
        path: The file, replaced if it exists.

    Raises:
        TypeError: ``module`` is no module, or ``path`` no path.
        ValueError: the module holds what a file cannot: a lazy parameter before the first call, or extra state.
        OSError: the file cannot be written.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be an nn.Module, got {type(module).__name__}")
    try:
        tensors, ties = named_tensors(module)
        recipe = describe(module)
        document = {
            "edition": EDITION,
            "recipe": recipe,
            "structure": recipe and structure_of(module),
            "obstacle": obstacle(module),
            "type": type(module).__name__,
            "ties": ties,
            **_modes(module),
        }
        archive.write(path, KIND, document, tensors)
    except ValueError as error:
        raise ValueError(f"`module` cannot be saved: {error}") from error
    if recipe is None and is_built(module):
        warnings.warn(
            f"{os.fspath(path)!r} loads with `into=` alone: the {document['type']} {document['obstacle']}; keep the "
            "code that builds it, for `pg.load(path, into=module)`",
            UserWarning,
            stacklevel=2,
        )


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
        The module in the precision it was saved in, each part in its mode (training or evaluation), and what was frozen
        frozen.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: an argument is of another type.
        ValueError: the file is empty, truncated, altered, foreign or of another version; names no recipe, or one that
            builds something else by now, and there is no ``into``; needs far more memory than its tensors take; or
            its tensors have other names or shapes than the module's.
    """
    recipes, device = _checked(into, recipes, device)
    document, tensors = archive.read(path, KIND)
    try:
        module = _rebuilt(document, tensors, recipes) if into is None else into
        fill(module, {**_ends(module, document), **tensors}, document["ties"])
        _set_modes(module, document)
        return module.to(device)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} {error}") from error
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)!r} holds a document that makes no sense: {error!r}") from error


def rebuilt(module: nn.Module, *, recipes: Iterable[Callable[..., nn.Module]] = (), **changes: Any) -> nn.Module:
    """A module as its recipe builds it with some other arguments, with copies of the parameters and buffers.

    A buffer that is as the arguments made it, such as the ends of an interval, is as the other arguments make it. For
    networks whose parameters do not depend on the size of an event: a WaveNet or a U-Net of other lengths.

    Args:
        module: A module that a recipe built.
        recipes: Recipes of your own that it, or a module among its arguments, was built by.
        changes: Arguments of the recipe, in place of those that the module was built with.

    Returns:
        The module, in the precision, on the device, in the modes (training or evaluation, frozen parts) of the first.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: the module was put together by hand or edited after its recipe, the recipe refuses the arguments, or
            with these its parameters have other names or shapes.

    Example:
        >>> short = pg.autoregressive.wavenet((16,), (16, 3), width=8, layers=2)
        >>> pg.rebuilt(short, event_shape=(500,), context_shape=(500, 3)).event_shape
        (500,)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be an nn.Module, got {type(module).__name__}")
    recipes, _ = _checked(None, recipes, "cpu")
    if why := obstacle(module):
        raise ValueError(f"`module` cannot be rebuilt: it {why}")
    tensors, ties = named_tensors(module)
    try:
        first, other = (_built(module, recipes, some) for some in ({}, changes))
        fill(other, {**tensors, **_decided(module, first, other)}, ties)
    except ValueError as error:
        raise ValueError(f"`module` cannot be rebuilt with other {', '.join(changes)}: it {error}") from error
    _set_modes(other, _modes(module))
    return other.to(next(iter(tensors.values())).device) if tensors else other


@checked
def lengthened(module: DistributionModule, length: int, *, recipes: Iterable[Callable[..., nn.Module]] = ()) -> Any:
    """A module of sequences as its recipe builds it for another length, with copies of the parameters and buffers.

    Contexts that are as long as the sequence change with it. For networks that were trained on windows, and whose
    parameters do not depend on the length.

    Args:
        module: A module that a recipe built, of events ``(length, ...)``.
        length: How many steps events shall have.
        recipes: As in :func:`rebuilt`.

    Raises:
        TypeError: ``module`` is no module of distributions.
        ValueError: its events are scalars, or it cannot be :func:`rebuilt`.

    Example:
        >>> short = pg.autoregressive.wavenet((16,), (16, 3), width=8, layers=2)
        >>> pg.lengthened(short, 500).context_shape
        (500, 3)
    """
    if not isinstance(module, DistributionModule):
        raise TypeError(f"`module` must be a DistributionModule, got {type(module).__name__}")
    if not module.event_shape:
        raise ValueError("`module` must have events of shape (length, ...), got ()")

    def longer(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return (length, *shape[1:]) if shape and shape[0] == module.event_shape[0] else shape

    context = module.context_shape
    shapes = {key: longer(part) for key, part in context.items()} if isinstance(context, dict) else longer(context)
    return rebuilt(module, recipes=recipes, event_shape=longer(module.event_shape), context_shape=shapes)


def _checked(into: Any, recipes: Any, device: Any) -> tuple[tuple[Callable[..., nn.Module], ...], torch.device]:
    if into is not None and not isinstance(into, nn.Module):
        raise TypeError(f"`into` must be an nn.Module, got {type(into).__name__}")
    if not isinstance(recipes, Iterable) or not all(map(is_function, recipes := tuple(recipes))):
        raise TypeError("`recipes` must be a sequence of functions")
    try:
        return recipes, torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"`device` must be a torch device, got {device!r}") from error


def _built(module: nn.Module, recipes: tuple[Callable[..., nn.Module], ...], changes: Mapping[str, Any]) -> nn.Module:
    """A module as its recipe builds it, by random numbers that built no other."""
    with held():
        torch.manual_seed(_OWN)
        return rebuild(describe(module), recipes, changes)


def _decided(module: nn.Module, first: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    """The buffers that arguments decide, as others decide them: those that still are as the recipe makes them."""
    made, changed = dict(first.named_buffers()), dict(other.named_buffers())
    own = {name: buffer for name, buffer in module.named_buffers() if name in made and name in changed}
    stored = module.state_dict()
    return {
        name: changed[name].to(buffer)
        for name, buffer in own.items()
        if name in stored and torch.equal(buffer, made[name].to(buffer))
    }


def _rebuilt(
    document: dict[str, Any], tensors: dict[str, Tensor], recipes: tuple[Callable[..., nn.Module], ...]
) -> nn.Module:
    if document["recipe"] is None:
        why = document.get("obstacle") or "was put together by hand or edited after its recipe"
        raise ValueError(
            f"names no recipe: its {document['type']} {why}; build the module as it was and pass it as `into=`"
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    check_sizes(document["recipe"], max(_SIZE, size))
    with held(), Allowance(_BYTES + _PER_BYTE * size, _CALLS + _PER_TENSOR * len(tensors)):
        module = rebuild(document["recipe"], recipes)
    if document.get("structure") is not None and document.get("edition") == EDITION:  # else classes had other names
        check_structure(document["structure"], module)
    return module


def _ends(module: nn.Module, document: dict[str, Any]) -> dict[str, Tensor]:
    """The ends of intervals, which files without a structure do not hold: there the recipe's arguments are all."""
    if document.get("recipe") is None or document.get("structure") is not None:
        return {}
    return {name: tensor for name, tensor in module.named_buffers() if name.rpartition(".")[2] == "ends"}


def _modes(module: nn.Module) -> dict[str, Any]:
    """Which parts of a module are trained."""
    return {
        "training": module.training,
        "evaluating": [name for name, part in module.named_modules() if not part.training],
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
    }


def _set_modes(module: nn.Module, document: dict[str, Any]) -> None:
    """Gives every part the mode it was saved in, and freezes the parameters that were frozen."""
    module.train(document["training"])
    evaluating, frozen = (document.get(key) for key in ("evaluating", "frozen"))
    if evaluating is not None:
        for name, part in module.named_modules():
            part.training = name not in evaluating
    if frozen is not None:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)


def named_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters and buffers of a module, each once, and the further names of tied ones."""
    first: dict[int, str] = {}
    tensors, ties = {}, {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} is no tensor but {type(tensor).__name__}, which no file of pyrogen's holds")
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
            tensors[name] = tensor
    return tensors, ties


def fill(module: nn.Module, tensors: dict[str, Tensor], ties: dict[str, str]) -> None:
    """Copies stored tensors into a module, in their precision; lazy ones come to be in their stored shape.

    Raises:
        ValueError: names, shapes or ties differ.
    """
    own, own_ties = named_tensors(module)
    today = tensor_names([*tensors, *ties], {*own, *own_ties})
    tensors = {today.get(name, name): tensor for name, tensor in tensors.items()}
    ties = {today.get(name, name): today.get(first, first) for name, first in ties.items()}
    absent = _absent_statistics(module, tensors)
    unstored = {id(buffer) for statistic in absent for buffer in statistic.buffers()}
    own = {name: tensor for name, tensor in own.items() if id(tensor) not in unstored}
    own_ties = {name: first for name, first in own_ties.items() if first in own}
    missing, unexpected = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or unexpected:
        late = "" if own else "; one that makes its parameters when it is first called must be called once before"
        raise ValueError(
            f"does not fit the module, which lacks {unexpected or 'nothing'}, has besides {missing or 'nothing'}{late}"
        )
    if ties != own_ties:
        raise ValueError(f"does not fit the module, which ties {own_ties or 'nothing'}, not {ties or 'nothing'}")
    lazy = {name: tensor for name, tensor in own.items() if nn.parameter.is_lazy(tensor)}
    for name, tensor in own.items():
        if name not in lazy and tensor.shape != tensors[name].shape:
            raise ValueError(
                f"does not fit the module: {name!r} must have shape {tuple(tensor.shape)}, "
                f"got {tuple(tensors[name].shape)}"
            )
        if _kind(tensor.dtype) != _kind(tensors[name].dtype):
            raise ValueError(
                f"does not fit the module: {name!r} must hold {tensor.dtype} or another precision of it, "
                f"got {tensors[name].dtype}"
            )
    _convert_unstored(module, own, tensors)
    with torch.no_grad():
        for name, tensor in lazy.items():
            tensor.materialize(tensors[name].shape)
        for name, tensor in own.items():
            if tensor.dtype != tensors[name].dtype:
                tensor.data = tensor.data.to(tensors[name].dtype)
            tensor.copy_(tensors[name])
    for statistic in absent:
        statistic.reset(learned=True)


def _convert_unstored(module: nn.Module, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Gives buffers that no file holds (a base's zero) the precision that the stored tensors beside them come in."""
    precisions: dict[torch.dtype, set[torch.dtype]] = {}
    for name, tensor in own.items():
        precisions.setdefault(tensor.dtype, set()).add(tensors[name].dtype)
    stored = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    for buffer in module.buffers():
        if id(buffer) not in stored and buffer.is_floating_point() and len(precisions.get(buffer.dtype, ())) == 1:
            (precision,) = precisions[buffer.dtype]
            buffer.data = buffer.data.to(precision)


def _absent_statistics(module: nn.Module, tensors: dict[str, Tensor]) -> list[nn.Module]:
    """Statistics of which a file holds nothing: it is older than they are, and its model had none."""
    return [
        statistic
        for name, statistic in statistics_of(module)
        if not any(stored.startswith(f"{name}.") for stored in tensors)
    ]


def _kind(dtype: torch.dtype) -> torch.dtype | str:
    """What a change of precision leaves as it is."""
    return "complex" if dtype.is_complex else "real" if dtype.is_floating_point else dtype
