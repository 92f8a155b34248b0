"""Losses: what an objective answers, and that it can be trained on."""

from __future__ import annotations

import math

import pyro
import torch

from .inputs import each, rows, take
from .report import NotApplicableError, require
from .subject import ObjectiveSubject

DEVIATIONS = 5.0


def scalar_loss(subject: ObjectiveSubject) -> str:
    """The loss is one finite number with a gradient, in training and in evaluation mode."""
    module = subject.fresh()
    for mode in (True, False):
        loss = subject.loss(module.train(mode), *subject.inputs(module))
        require(loss.shape == (), f"the loss has shape {tuple(loss.shape)}, not ()")
        require(bool(loss.isfinite()), f"the loss is {loss.item()}")
        require(loss.requires_grad, "the loss carries no gradient")
    return f"the loss is one finite number ({loss.item():.4g} nats per datum)"


def per_datum(subject: ObjectiveSubject) -> str:
    """The loss is a mean over the data: half a batch given twice over costs no more.

    A pair with latent variables of all data has to know how many there are, ``Elbo(model, guide, size=N)``: else these
    variables would cost more for half a batch.
    """
    module = subject.fresh()
    batch = subject.inputs(module)
    if rows(batch) is None:
        raise NotApplicableError("the batch holds no tensors")
    batch = take(batch, slice((rows(batch) + 1) // 2))
    twice = each(lambda tensor: torch.cat([tensor, tensor]), batch)
    repeats = 200 if subject.slow else 30
    with torch.no_grad():
        once = torch.stack([subject.loss(module, *batch) for _ in range(repeats)]).double()
        double = torch.stack([subject.loss(module, *twice) for _ in range(repeats)]).double()
    error = math.sqrt((once.var() + double.var()).item() / repeats)
    difference = (double.mean() - once.mean()).item()
    slack = 1e-4 * (1 + abs(once.mean().item()))
    change = f"from {once.mean():.4g} to {double.mean():.4g} (+- {error:.1g})"
    sentence = f"half a batch given twice over changes the loss {change}"
    advice = "is it a sum instead of a mean, or does it not know how many data there are in all?"
    require(abs(difference) <= slack + DEVIATIONS * error, f"{sentence}: {advice}")
    return sentence


def seeded_loss(subject: ObjectiveSubject) -> str:
    """The same seed gives the same loss: all noise comes from torch's or Pyro's."""
    module = subject.fresh()
    batch = subject.inputs(module)
    losses = []
    for _ in range(2):
        pyro.set_rng_seed(1)
        losses.append(subject.loss(module, *batch).item())
    require(losses[0] == losses[1], f"the same seed gives the losses {losses[0]} and {losses[1]}")
    return "the same seed gives the same loss"


def training_steps(subject: ObjectiveSubject) -> str:
    """Steps of an optimizer on one batch run, move every parameter and keep the loss finite."""
    module = subject.fresh().train()
    batch = subject.inputs(module)
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not named:
        raise NotApplicableError("there are no trainable parameters")
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer = torch.optim.Adam(named.values(), lr=1e-3)
    for _ in range(20 if subject.slow else 3):
        optimizer.zero_grad()
        loss = subject.loss(module, *batch)
        loss.backward()
        optimizer.step()
    require(bool(loss.isfinite()), f"after some steps the loss is {loss.item()}")
    still = [name for name, parameter in named.items() if torch.equal(parameter, before[name])]
    require(not still, f"training does not move {', '.join(still)}")
    return f"steps on one batch move all {len(named)} parameters"
