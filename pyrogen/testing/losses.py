"""Losses: what an objective returns, and that it can be trained."""

from __future__ import annotations

import math

import torch

from .inputs import each, rows, take
from .report import NotApplicableError, require
from .subject import ObjectiveSubject

DEVIATIONS = 5.0


def scalar_loss(subject: ObjectiveSubject) -> str:
    """The loss is one finite number with a gradient, in training and in evaluation mode."""
    module = subject.fresh()
    for mode in (True, False):
        for loss in (losses := subject.losses(module.train(mode), *subject.inputs(module))):
            require(loss.shape == (), f"the loss has shape {tuple(loss.shape)}, not ()")
            require(bool(loss.isfinite()), f"the loss is {loss.item()}")
            require(loss.requires_grad, "the loss carries no gradient")
    return f"the loss is one finite number ({', '.join(f'{loss.item():.4g}' for loss in losses)})"


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
        once = torch.stack([subject.answer(module, *batch) for _ in range(repeats)]).double()  # (repeats, turns)
        double = torch.stack([subject.answer(module, *twice) for _ in range(repeats)]).double()
    for first, second in zip(once.T, double.T, strict=True):
        error = math.sqrt((first.var() + second.var()).item() / repeats)
        slack = 1e-4 * (1 + abs(first.mean().item()))
        change = f"from {first.mean():.4g} to {second.mean():.4g} (+- {error:.1g})"
        sentence = f"half a batch given twice over changes the loss {change}"
        advice = "is it a sum instead of a mean, or does it not know how many data there are in all?"
        kept = abs((second.mean() - first.mean()).item()) <= slack + DEVIATIONS * error
        require(kept, f"{sentence}: {advice}")
    return sentence


def seeded_loss(subject: ObjectiveSubject) -> str:
    """The same seed gives the same loss: all noise comes from torch's or Pyro's."""
    module = subject.fresh()
    batch = subject.inputs(module)
    first, second = (subject.evaluate(module, *batch).tolist() for _ in range(2))
    require(first == second, f"the same seed gives the losses {first} and {second}")
    return "the same seed gives the same loss"


def training_steps(subject: ObjectiveSubject) -> str:
    """Steps of an optimizer on one batch run, move every parameter and keep the loss finite."""
    module = subject.fresh().train()
    parts = subject.parts(module, subject.inputs(module))
    named = {name: parameter for _, parameters in parts for name, parameter in parameters.items()}
    if not named:
        raise NotApplicableError("there are no trainable parameters")
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizers = [torch.optim.Adam(parameters.values(), lr=1e-3) for _, parameters in parts]
    for _ in range(20 if subject.slow else 3):
        for (loss_of, _), optimizer in zip(parts, optimizers, strict=True):
            module.zero_grad()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            require(bool(loss.isfinite()), f"after some steps the loss is {loss.item()}")
    still = [name for name, parameter in named.items() if torch.equal(parameter, before[name])]
    require(not still, f"training does not move {', '.join(still)}")
    return f"steps on one batch move all {len(named)} parameters"
