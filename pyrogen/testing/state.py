"""State: a module keeps none between two calls, and changes nothing outside itself."""

from __future__ import annotations

import copy

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import nn
from torch.distributions import Distribution

from .inputs import agree, clone, floating, gap
from .report import require
from .subject import DistributionSubject, Subject, is_repeatable, perturb


def no_stale_answers(subject: Subject) -> str:
    """Parameters changed between two calls on the same tensor count, as do values changed in place."""
    module, inputs = subject.doubled()
    first = subject.evaluate(module, *inputs)
    if first.requires_grad:
        first.sum().backward()
    with torch.no_grad():
        subject.evaluate(module, *inputs)
    perturb(module)
    second = subject.evaluate(module, *inputs)
    expected = subject.evaluate(_twin(subject, module), *clone(inputs))
    require(
        agree(second, expected, 1e-8),
        f"after a change of parameters the same tensor gets a stale answer (off by {gap(second, expected):.1e})",
    )
    if second.requires_grad:
        second.sum().backward()
    others = clone(inputs)
    with torch.no_grad():
        subject.evaluate(module, *others)
    kept = subject.evaluate(module, *others).requires_grad == first.requires_grad
    require(kept, "a call without gradients makes the next one lose its own")
    for tensor in floating(inputs):
        tensor.copy_(tensor.detach().flip(0))
    third, expected = subject.evaluate(module, *inputs), subject.evaluate(module, *clone(inputs))
    require(agree(third, expected, 1e-8), "a tensor changed in place gets a stale answer")
    return "changed parameters and values changed in place count in the next call on the same tensor"


def repeatable_evaluation(subject: Subject) -> str:
    """In evaluation mode a call changes no state and, unless noisy by its density, repeats its answer."""
    module = subject.fresh()
    inputs = subject.inputs(module)
    before = copy.deepcopy(module.state_dict())
    repeatable = is_repeatable(subject, module, inputs)
    after = module.state_dict()
    changed = [n for n, old in before.items() if isinstance(old, torch.Tensor) and not torch.equal(old, after[n])]
    require(not changed, f"a call in evaluation mode changes {', '.join(changed)}")
    exact = isinstance(subject, DistributionSubject) and subject.density(module) == "exact"
    require(repeatable or not exact, "the density is 'exact' but log_prob in evaluation mode differs from call to call")
    trained = subject.evaluate(module.train(), *inputs)
    require(trained.isfinite().all().item(), "in training mode the answer is not finite")
    return f"calls in evaluation mode change no state and {'repeat' if repeatable else 'do not repeat'} their answers"


def global_state(subject: Subject) -> str:
    """Making and using the module leaves torch's and Pyro's settings, store, stack and seeds alone."""
    before = _settings()
    after_seeds = [_noise_after_use(subject, seed) for seed in (1, 2)]
    changed = [name for name, value in _settings().items() if value != before[name]]
    require(not changed, f"making or using the module changes {', '.join(changed)}")
    require(after_seeds[0] != after_seeds[1], "making or using the module seeds the global noise")
    return "settings, seeds, param store and stack of torch and Pyro are untouched"


def _twin(subject: Subject, module: nn.Module) -> nn.Module:
    twin = subject.make().double()
    twin.load_state_dict(module.state_dict())
    return twin.eval()


def _settings() -> dict[str, object]:
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "the gradient mode": torch.is_grad_enabled(),
        "the validation of distributions": Distribution._validate_args,
        "the validation of inference": pyro.infer.util.is_validation_enabled(),
        "the number of threads": torch.get_num_threads(),
        "Pyro's param store": sorted(pyro.get_param_store().keys()),
        "Pyro's stack": len(_PYRO_STACK),
    }


def _noise_after_use(subject: Subject, seed: int) -> float:
    torch.manual_seed(seed)
    module = subject.make()
    subject.answer(module, *subject.inputs(module))
    return torch.rand(()).item()
