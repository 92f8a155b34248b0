"""Denoisers from elsewhere: networks of Hugging Face's diffusers, pretrained or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.core.shapes import Context, ContextShape, Shape, as_context_shape, as_shape
from pyrogen.networks.context import integer_labels
from pyrogen.networks.noisy import flat_inputs
from pyrogen.numerics.schedule import LogSNRSchedule

from .denoiser import Data, NetworkDenoiser, Noise, Velocity

_PREDICTIONS = {"epsilon": Noise, "v_prediction": Velocity, "sample": Data}


def from_diffusers(
    model: nn.Module,
    scheduler: Any,
    *,
    event_shape: Shape | None = None,
    context_shape: ContextShape = None,
    null: Tensor | None = None,
) -> NetworkDenoiser:
    """A network of diffusers, with the noise levels its scheduler was trained on, as a denoiser.

    Its data are what the network was trained on, usually images in [-1, 1]. Networks of one input
    (``UNet2DModel``), with class labels, and with cross-attention (``UNet2DConditionModel``) are taken. Nothing is
    imported from diffusers.

    Args:
        model: The network; it keeps its weights and its mode, which for a pretrained one is best evaluation.
        scheduler: Any with ``alphas_cumprod`` and ``config.prediction_type`` ``"epsilon"``, ``"v_prediction"`` or
            ``"sample"``, such as ``DDPMScheduler``. Only its noise levels are used.
        event_shape: ``(channels, height, width)``; that of ``model.config`` if ``None``.
        context_shape: Of the sequences that a network with cross-attention attends to, ``(length, features)``. A
            network with class labels has ``()``.
        null: What stands for no context, as classifier-free guidance needs it: the embedded empty caption, or the label
            for "no class".

    Raises:
        ValueError: the scheduler has other noise levels or predictions than these, or predicts noise where no signal is
            left; ``context_shape`` is missing or not what the network takes; ``event_shape`` does not fit it; ``null``
            (or, when called, a label) is out of range.

    Example:
        >>> from diffusers import DDPMScheduler, UNet2DModel  # doctest: +SKIP
        >>> from_diffusers(UNet2DModel.from_pretrained("google/ddpm-cifar10-32"), DDPMScheduler())  # doctest: +SKIP
    """
    levels = getattr(scheduler, "alphas_cumprod", None)
    prediction = getattr(scheduler.config, "prediction_type", None)
    if levels is None or prediction not in _PREDICTIONS:
        raise ValueError(
            "`scheduler` must have `alphas_cumprod` and a `prediction_type` among "
            f"{sorted(_PREDICTIONS)}, got {type(scheduler).__name__} with {prediction!r}"
        )
    schedule = DiscreteVP(levels)
    if prediction == "epsilon" and len(schedule.levels) < schedule.steps:
        raise ValueError(
            "`scheduler` must predict 'v_prediction' or 'sample' where its last `alphas_cumprod` is zero: noise alone "
            "holds no information about the datum, got 'epsilon'"
        )
    context_shape = _context_shape(model.config, context_shape)
    event_shape = _event_shape(model.config) if event_shape is None else as_shape(event_shape, "event_shape")
    _check_sizes(model.config, event_shape)
    network = DiffusersNetwork(model, schedule, event_shape, context_shape, null)
    shapes = {"event_shape": event_shape, "context_shape": context_shape}
    return NetworkDenoiser(network, schedule, _PREDICTIONS[prediction](), **shapes)


class DiscreteVP(LogSNRSchedule):
    r"""Variance-preserving, through given levels: the log-SNR falls smoothly between them.

    It is a monotone rational quadratic spline with a continuous slope. (With kinks at every level, a solver of the
    probability flow would lose its accuracy.)

    Args:
        alphas_cumprod: :math:`\alpha^2` at the times of training, from little noise to much, ``(steps,)``. A last one
            of zero (no signal at all) is left out.

    Raises:
        ValueError: they are not at least two numbers that fall strictly within [0, 1), besides a last one of zero.

    References:
        Gregory and Delbourgo 1982, "Piecewise rational quadratic interpolation to monotonic data",
        https://doi.org/10.1093/imanum/2.2.123
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        levels = _levels(alphas_cumprod)
        self.steps = len(levels)
        levels = levels[levels > 1e-9]
        if len(levels) < 2:
            raise ValueError(f"`alphas_cumprod` must hold at least 2 above zero, got {len(levels)} of {self.steps}")
        self.register_buffer("levels", torch.logit(levels))

    def log_snr(self, t: Tensor) -> Tensor:
        (left, part), (levels, fall, first, last) = self._locate(t), self._pieces(t)
        between, fall, first, last = part * (1 - part), fall[left], first[left], last[left]
        fallen = fall * (fall * part**2 + first * between) / (fall + (first + last - 2 * fall) * between)
        return levels[left] - fallen

    def time(self, log_snr: Tensor) -> Tensor:
        levels, fall, first, last = self._pieces(log_snr)
        left = torch.searchsorted(-levels, -log_snr.detach().contiguous(), right=True).sub(1)
        left = left.clamp(0, len(levels) - 2)
        fallen, fall, first, last = levels[left] - log_snr, fall[left], first[left], last[left]
        # The quadratic equation for the part, by the formula that cancels nothing.
        bend = fallen * (first + last - 2 * fall)
        linear = fall * first - bend
        root = torch.sqrt(linear**2 + 4 * (fall * (fall - first) + bend) * fallen * fall)
        return (left + 2 * fallen * fall / (linear + root)) / (len(levels) - 1)

    def slope(self, t: Tensor) -> Tensor:
        (left, part), (levels, fall, first, last) = self._locate(t), self._pieces(t)
        between, fall, first, last = part * (1 - part), fall[left], first[left], last[left]
        rate = last * part**2 + 2 * fall * between + first * (1 - part) ** 2
        return -(len(levels) - 1) * rate * (fall / (fall + (first + last - 2 * fall) * between)) ** 2

    def timestep(self, log_snr: Tensor) -> Tensor:
        """The number of the training step with so much noise, not rounded."""
        return self.time(log_snr) * (len(self.levels) - 1)

    def _pieces(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The levels, how far each falls to the next, and how steeply at its beginning and end, in steps."""
        fall = -self.levels.diff()
        inner = (fall[1:] * fall[:-1]).sqrt()
        begin, end = (fall[[0]] ** 2 / inner[:1], fall[[-1]] ** 2 / inner[-1:]) if len(inner) else (fall, fall)
        rates = torch.cat([begin, inner, end])
        return tuple(part.to(like) for part in (self.levels, fall, rates[:-1], rates[1:]))

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        position = t * (len(self.levels) - 1)
        left = position.detach().floor().clamp(0, len(self.levels) - 2)
        return left.long(), position - left


def _levels(alphas_cumprod: Tensor) -> Tensor:
    levels = torch.as_tensor(alphas_cumprod).detach().double()
    if levels.dim() != 1 or len(levels) < 2:
        raise ValueError(f"`alphas_cumprod` must have shape (steps,), at least 2, got {tuple(levels.shape)}")
    within = (levels >= 0) & (levels < 1)
    if not within.all():
        at = int((~within).nonzero()[0])
        raise ValueError(f"`alphas_cumprod` must lie in [0, 1), got {levels[at]:g} at step {at}")
    if not (levels.diff() < 0).all():
        at = int((levels.diff() >= 0).nonzero()[0])
        raise ValueError(
            f"`alphas_cumprod` must fall, from little noise to much, got {levels[at]:g} and then {levels[at + 1]:g} "
            f"at step {at + 1}"
        )
    return levels


class DiffusersNetwork(nn.Module):
    """A network of diffusers, called as ours are: ``network(x, level, context)``.

    Args:
        model: The network.
        schedule: The noise levels of its training.
        event_shape: ``(channels, height, width)``.
        context_shape: Of its labels ``()``, or of its sequences.
        null: What stands for no context.
    """

    def __init__(
        self,
        model: nn.Module,
        schedule: DiscreteVP,
        event_shape: Shape,
        context_shape: ContextShape,
        null: Tensor | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.event_shape, self.context_shape = event_shape, context_shape
        self.classes: int | None = getattr(model.config, "num_class_embeds", None) if context_shape == () else None
        if null is not None and self.classes:
            integer_labels(null, self.classes, "null")
        self.register_buffer("null", null, persistent=False)

    def forward(self, x: Tensor, level: Tensor, context: Context = None) -> Tensor:
        if context is None and self.context_shape is not None:
            if self.null is None:
                raise ValueError("`context` must be given: no `null` stands for its absence")
            context = self.null
        inputs = flat_inputs(x, level, context, self.event_shape, self.context_shape)
        step = self.schedule.timestep(-8 * inputs.level)
        output = self.model(inputs.x, step, **self._named(inputs.context)).sample
        return inputs.restore(output[:, : self.event_shape[0]])  # what follows are learned variances

    def _named(self, context: Context) -> dict[str, Tensor]:
        if context is None:
            return {}
        if self.context_shape:
            return {"encoder_hidden_states": context}
        return {"class_labels": integer_labels(context, self.classes) if self.classes else context}


def _event_shape(config: Any) -> Shape:
    side = config.sample_size
    if side is None:
        raise ValueError("`event_shape` must be given: the network's configuration names no `sample_size`, got None")
    return (config.in_channels, *((side, side) if isinstance(side, int) else side))


def _context_shape(config: Any, context_shape: ContextShape) -> ContextShape:
    attends = getattr(config, "encoder_hid_dim", None) or getattr(config, "cross_attention_dim", None)
    if attends:
        shape = as_context_shape(context_shape)
        if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != attends:
            raise ValueError(
                f"`context_shape` must be (length, {attends}) for a network with cross-attention, got {context_shape}"
            )
        return shape
    labelled = getattr(config, "num_class_embeds", None) or getattr(config, "class_embed_type", None)
    expected = () if labelled else None
    if context_shape not in (None, expected):
        kind = "with class labels" if labelled else "without labels and cross-attention"
        raise ValueError(f"`context_shape` must be {expected} for a network {kind}, got {context_shape}")
    return expected


def _check_sizes(config: Any, event_shape: Shape) -> None:
    """Refuses events that are no images, or have other channels than the network takes and gives."""
    takes, gives = config.in_channels, getattr(config, "out_channels", None) or config.in_channels
    if len(event_shape) != 3 or event_shape[0] != takes:
        raise ValueError(f"`event_shape` must be (channels, height, width) with {takes} channels, got {event_shape}")
    if gives not in (takes, 2 * takes):  # twice as many with learned variances
        raise ValueError(f"`model` must give as many channels as it takes, {takes} (or twice as many), got {gives}")
    halvings = 2 ** (len(getattr(config, "block_out_channels", (1,))) - 1)
    if any(side % halvings for side in event_shape[1:]):
        raise ValueError(f"`event_shape` must have sides divisible by {halvings} for this network, got {event_shape}")
