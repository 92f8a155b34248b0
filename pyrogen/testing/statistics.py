"""What is learned from data at the start: from the data set, never from scoring; and contexts far from all data."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stderr
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.training.fit import fit

from .inputs import agree, floating, gap, scaled, take, tensors
from .report import NotApplicableError, require
from .subject import DistributionSubject, require_log_prob, trainable

_FAR = 1000.0
_BATCH_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Batch normalization moves these in training, at each step and not at the first alone."""


def scoring_learns_nothing(subject: DistributionSubject) -> str:
    """Scoring in training mode (a probe, own draws, few rows) changes neither buffers nor what the module answers."""
    module = subject.make().eval()
    require_log_prob(subject, module)
    inputs = subject.inputs(module)
    before, state = subject.evaluate(module, *inputs), _state(module)
    module.train()
    with torch.no_grad():
        for scored in (take(inputs, slice(0, 2)), inputs, subject.inputs(module)):
            subject.evaluate(module, *scored)
    changed = [name for name, value in _state(module).items() if not torch.equal(value, state[name])]
    learned = [name for name in changed if not name.endswith(_BATCH_STATISTICS)]
    advice = "what is learned at the start comes from the data set that `fit` reads"
    require(not learned, f"scoring in training mode changes {', '.join(learned)}: {advice}")
    if not changed:
        after = subject.evaluate(module.eval(), *inputs)
        require(agree(after, before, 1e-6), f"scoring in training mode changes the answer by {gap(after, before):.1e}")
    return "scoring in training mode leaves the module as it is"


def statistics_of_all_rows(subject: DistributionSubject) -> str:
    """``fit`` learns the same from a data set in small minibatches as in one: what comes first does not count more."""
    module = subject.make().eval()
    require_log_prob(subject, module)
    if subject.density(module) == "unnormalized" or not trainable(module):
        raise NotApplicableError("maximum likelihood does not train it")
    inputs = subject.inputs(module)
    batch = inputs if inputs[1] is not None else inputs[:1]
    order = batch[0].reshape(len(batch[0]), -1).sum(1).argsort()  # the first rows are unlike the rest
    batch = tuple(take(entry, order) for entry in batch)
    _require_still(module, batch)
    answers = [_answer_after(subject, copy.deepcopy(module), batch, size) for size in (2, len(batch[0]))]
    require(
        agree(*answers, 1e-4),
        f"what is learned before training depends on the first minibatch: the answers differ by {gap(*answers):.1e}",
    )
    return "fit learns from all rows, whatever the first minibatch holds"


def far_contexts(subject: DistributionSubject) -> str:
    """At contexts a thousand times as far as those of training, draws and their ``log_prob`` are finite."""
    module = subject.fresh()
    context = subject.context_of(module)
    if not floating(context):
        raise NotApplicableError("there is no context of real numbers")
    far = scaled(context, _FAR)
    distribution = module(far)
    draws = subject.draw(distribution)
    finite = [bool(tensor.isfinite().all()) for tensor in tensors(draws)]
    require(all(finite), f"at contexts {_FAR:g} times as large draws are not finite")
    if subject.density(module) is not None:
        with torch.no_grad():
            scores = distribution.log_prob(draws)
        require(bool(scores.isfinite().all()), f"at contexts {_FAR:g} times as large log_prob of draws is not finite")
    return f"at contexts {_FAR:g} times as large draws and their log_prob are finite"


def _answer_after(subject: DistributionSubject, module: nn.Module, batch: tuple, batch_size: int) -> Tensor:
    """What a module answers once ``fit`` has taken a step that moves no weight, on minibatches as they come."""
    loader = [take(batch, slice(start, start + batch_size)) for start in range(0, len(batch[0]), batch_size)]
    with redirect_stderr(io.StringIO()):
        fit(module, loader, steps=1, optimizer=partial(torch.optim.SGD, lr=0.0), seed=0)
    return subject.evaluate(module.eval(), *(batch if len(batch) == 2 else (*batch, None)))


def _require_still(module: nn.Module, batch: tuple) -> None:
    """Skips the running check for modules whose objective moves buffers at every step.

    Raises:
        NotApplicableError: it does.
    """
    twin = copy.deepcopy(module).train()
    objective = twin.objective()
    objective(*batch)
    before = _state(twin)
    objective(*batch)
    moved = [name for name, value in _state(twin).items() if not torch.equal(value, before[name])]
    if moved:
        raise NotApplicableError(f"the objective moves {', '.join(moved)} in training")


def _state(module: nn.Module) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
