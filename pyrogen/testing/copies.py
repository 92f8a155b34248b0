"""Copies: by deepcopy, pickle and state_dict, in other precision and on other devices."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from .inputs import agree, clone, double, each, gap, of_dtype
from .report import NotApplicableError, require
from .subject import Subject, is_repeatable, perturb

PRECISION = 5e-3
"""How far float32 may be from float64, relative above 1."""


def deepcopy(subject: Subject) -> str:
    """``copy.deepcopy`` gives an independent equal, before and after use."""
    return _check_copying(subject, copy.deepcopy, "deepcopy")


def pickling(subject: Subject) -> str:
    """Pickling gives an independent equal, before and after use."""
    if not is_importable(subject.make()):
        raise NotApplicableError("a part of the module is of a class defined where pickle cannot import it")
    return _check_copying(subject, lambda module: pickle.loads(pickle.dumps(module)), "pickling")


def state_dict(subject: Subject) -> str:
    """A fresh module takes the state of a used one, through a file, and is then its equal."""
    unused = subject.make().state_dict()
    module = subject.fresh()
    inputs = subject.inputs(module)
    state = module.state_dict()
    changed = sorted(set(state) ^ set(unused))
    require(not changed, f"use changes the keys of the state_dict: {changed}")
    with io.BytesIO() as file:
        torch.save(state, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
    twin = subject.make()
    twin.load_state_dict(loaded)
    _check_same(subject, module, twin.eval(), inputs, "a module loaded from a state_dict")
    subject.evaluate(twin.train(), *clone(inputs))
    moved = [name for name, parameter in twin.named_parameters() if not torch.equal(parameter, loaded[name])]
    require(not moved, f"the first call after loading overwrites {', '.join(moved)}: is the initialised flag a buffer?")
    return "a fresh module that loads the state_dict of a used one answers the same"


def double_precision(subject: Subject) -> str:
    """``module.double()`` answers in float64, close to what float32 says."""
    module = subject.fresh().float()  # also where the default dtype is another
    inputs = of_dtype(subject.inputs(module), torch.float32)
    answer = subject.evaluate(module, *inputs)
    repeatable = is_repeatable(subject, module, inputs)
    require(answer.dtype == torch.float32, f"in float32 the answer has dtype {answer.dtype}")
    precise = subject.evaluate(module.double(), *double(inputs))
    require(precise.dtype == torch.float64, f"after .double() the answer has dtype {precise.dtype}")
    if not repeatable:
        return "after .double() the answer has dtype float64 (values are noisy and not compared)"
    require(
        agree(answer, precise, PRECISION),
        f"the answer in float64 differs from that in float32 by {gap(answer.double(), precise):.1e}",
    )
    return f"after .double() the answer is in float64, within {gap(answer.double(), precise):.1e} of float32"


def device(subject: Subject) -> str:
    """The module answers on a GPU as on the CPU."""
    if not torch.cuda.is_available():
        raise NotApplicableError("no CUDA device here")
    module = subject.fresh()
    inputs = subject.inputs(module)
    repeatable = is_repeatable(subject, module, inputs)
    expected = subject.evaluate(module, *inputs)
    answer = subject.evaluate(module.cuda(), *each(lambda tensor: tensor.cuda(), inputs))
    require(answer.is_cuda, f"a module on a GPU answers on {answer.device}")
    close = not repeatable or agree(answer.cpu(), expected, PRECISION)
    require(close, f"on a GPU the answer differs by {gap(answer.cpu(), expected):.1e}")
    return "the module answers on a GPU as on the CPU"


def is_importable(module: nn.Module) -> bool:
    """Whether pickle finds the classes of all parts by name: not those made in a function or a namespace of no file."""
    return all(is_named({type(part) for part in module.modules()}))


def is_named(kinds: Iterable[type]) -> Iterator[bool]:
    """Of each class, whether pickle finds it by its name."""
    return (getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind for kind in kinds)


def _check_copying(subject: Subject, copying: Callable[[nn.Module], nn.Module], how: str) -> str:
    unused = subject.make().eval()
    copying(unused)
    module = subject.fresh()
    inputs = subject.inputs(module)
    answer = subject.evaluate(module, *inputs)  # its graph stays alive while the module is copied
    twin = copying(module)
    _check_same(subject, module, twin, inputs, f"a copy by {how}")
    perturb(twin)
    again = subject.evaluate(module, *inputs)
    require(agree(answer, again, 1e-6), f"changing a copy by {how} changes the original")
    return f"{how} gives an independent equal, before and after use"


def _check_same(subject: Subject, module: nn.Module, twin: nn.Module, inputs: tuple, which: str) -> None:
    expected = subject.evaluate(module, *inputs)
    answer = subject.evaluate(twin, *clone(inputs))
    require(agree(answer, expected, 1e-6), f"{which} answers differently (by {gap(answer, expected):.1e})")
