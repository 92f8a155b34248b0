"""Using a distribution again and again, and under autocast."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

from .copies import is_importable, is_named
from .inputs import agree, gap
from .report import NotApplicableError, require
from .subject import DistributionSubject, is_closed_form, is_repeatable, require_log_prob

COSINE = 0.95
"""Between the gradients in full and in mixed precision."""


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
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
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


def _check_twice(module: nn.Module, value: Tensor, repeatable: bool) -> None:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
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
