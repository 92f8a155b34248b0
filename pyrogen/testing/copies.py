"""Copies by deepcopy, pickle and state_dict, in other precision, under autocast and on other devices."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from .inputs import agree, clone, double, each, gap, of_dtype
from .report import NotApplicableError, require
from .subject import DistributionSubject, Subject, is_closed_form, is_repeatable, perturb, require_log_prob, trainable

PRECISION = 5e-3
"""How far float32 may be from float64, relative above 1."""

COSINE = 0.95
"""Between the gradients in full and in mixed precision."""


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
    """``module.double()`` answers in float64, close to the answer in float32."""
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


def kept(subject: DistributionSubject) -> str:
    """One distribution, kept, is differentiated twice, and its copies score as it does.

    A distribution given a context may share with the next use what a network made of the context, as torch's do; there
    ``retain_graph`` is the caller's business, and only copies are checked.
    """
    module, (value, context) = subject.doubled()
    require_log_prob(subject, module)
    repeatable = is_repeatable(subject, module, (value, context))
    shared = context is not None or is_closed_form(module(context))
    if not shared:
        _check_twice(module, value, repeatable)
    with torch.no_grad():
        distribution = module(context)
        expected = distribution.log_prob(value)
        twins = [copy.deepcopy(distribution)]
        if is_importable(module) and all(is_named([type(distribution)])):
            twins.append(pickle.loads(pickle.dumps(distribution)))
        for twin in twins if repeatable else ():
            found = twin.log_prob(value)
            require(agree(found, expected, 1e-8), f"a copy of a distribution is off by {gap(found, expected):.1e}")
    return "a kept distribution is copied" + ("" if shared else " and differentiated twice")


def autocast(subject: DistributionSubject) -> str:
    """Under ``torch.autocast`` the log-probability is finite and its gradient that of full precision, nearly."""
    module = subject.fresh().float()
    inputs = subject.inputs(module)
    require_log_prob(subject, module)
    parameters = [parameter for _, parameter in trainable(module)]
    exact = _flat_gradient(subject.evaluate(module, *inputs), parameters)
    if exact is None:
        raise NotApplicableError("there is no gradient in parameters")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = subject.evaluate(module, *inputs)
        require(bool(answer.isfinite().all()), "under autocast the log_prob is not finite")
        inside = _flat_gradient(answer, parameters)
        answer = subject.evaluate(module, *inputs)
    outside = _flat_gradient(answer, parameters)
    for found, where in ((inside, "inside"), (outside, "outside")):
        cosine = torch.cosine_similarity(found.double(), exact.double(), 0).item()
        require(cosine > COSINE, f"a backward pass {where} autocast has cosine {cosine:.3f} with the exact gradient")
    return "under autocast the log_prob is finite and its gradient close to that of full precision"


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


def _check_twice(module: nn.Module, value: Tensor, repeatable: bool) -> None:
    parameters = [parameter for _, parameter in trainable(module)]
    distribution = module()
    found = []
    for _ in range(2):
        answer = distribution.log_prob(value)
        if not answer.requires_grad:
            return
        try:
            found.append(_flat_gradient(answer, parameters))
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            require(False, "a distribution without context allows one backward pass only: it keeps what it computed")
    require(not repeatable or agree(*found, 1e-8), "a second backward pass of one distribution gives other gradients")


def _flat_gradient(answer: Tensor, parameters: list[nn.Parameter]) -> Tensor | None:
    if not parameters or not answer.requires_grad:
        return None
    gradients = torch.autograd.grad(answer.sum(), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])
