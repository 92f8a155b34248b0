"""Models of the Hugging Face library ``transformers`` as distributions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.arguments import integer, no_symbol
from pyrogen.core.modes import evaluating
from pyrogen.networks.sequence import SequenceNetwork, State
from pyrogen.numerics.autograd import is_functional

from .conditionals import Categorical
from .model import Autoregressive


def from_transformers(
    model: nn.Module,
    length: int,
    *,
    start: int | None = None,
    end: int | None = None,
    padding: int | None = None,
    source_length: int | None = None,
) -> Autoregressive:
    """A causal or sequence-to-sequence model of Hugging Face's ``transformers`` as a distribution over token sequences.

    Its parameters are those of the model, so it trains, serves as a prior or likelihood at a ``pyro.sample`` site, and
    takes all that other autoregressive models take. Events are the tokens after the start token.

    Args:
        model: A causal language model (``GPT2LMHeadModel``, ``LlamaForCausalLM``, ...) or one with an encoder
            (``T5ForConditionalGeneration``, ``BartForConditionalGeneration``, ...).
        length: How many tokens an event has, padding included.
        start: The token before the first; by default the one the model's configuration names.
        end: The token that ends a sequence, if lengths differ; it is scored.
        padding: The token after the end; ``end`` itself if ``None``.
        source_length: For models with an encoder, how many tokens the source has; it is the context. Tokens equal to
            the ``pad_token_id`` of the configuration are masked.

    Raises:
        ValueError: the configuration names no start token and none is given, a token is out of range, ``length`` is
            more than the model has places for, ``source_length`` does not fit the kind of model, or the model is not
            causal; when called: the source holds what is no token.
    """
    config = model.config
    has_encoder = bool(getattr(config, "is_encoder_decoder", False))
    if has_encoder != (source_length is not None):
        raise ValueError(f"`source_length` goes with models that have an encoder, got {source_length}")
    if start is None:
        start = getattr(config, "decoder_start_token_id" if has_encoder else "bos_token_id", None)
    if start is None:
        raise ValueError("`start` must be given, the configuration names no start token")
    for name, token in {"start": start, "end": end, "padding": padding}.items():
        if token is not None and not 0 <= token < config.vocab_size:
            raise ValueError(f"`{name}` must be a token from 0 to {config.vocab_size - 1}, got {token}")
    places = getattr(config, "max_position_embeddings", None)
    if places is not None and integer(length, "length") > places:
        raise ValueError(f"`length` must be at most the {places} places of the model, got {length}")
    if not has_encoder and not _is_causal(model):
        raise ValueError(
            f"`model` must be causal: the scores of a {type(model).__name__} for a token depend on those after it, so "
            "they are no log-probabilities"
        )
    return Autoregressive(
        ForeignTransformer(model, start),
        Categorical(config.vocab_size),
        event_shape=(length,),
        context_shape=None if source_length is None else (source_length,),
        end=end,
        padding=padding,
    )


@torch.no_grad()
def _is_causal(model: nn.Module) -> bool:
    """Whether the scores of a model for a token depend on those before it alone."""
    device = next(model.parameters()).device
    tokens = torch.zeros(2, 3, dtype=torch.long, device=device)
    tokens[1, 2] = model.config.vocab_size - 1
    with evaluating(model):
        first, second = model(input_ids=tokens).logits[:, :2]
    rounding = 50 * torch.finfo(first.dtype).eps * first.abs().max()
    return bool((first - second).abs().max() <= rounding)


@dataclass
class ForeignState(State):
    """The model's own cache, and what its encoder gave."""

    cache: Any
    encoded: Tensor | None
    source_mask: Tensor | None
    rows: int

    def select(self, rows: Tensor) -> ForeignState:
        return replace(self, cache=copy.deepcopy(self.cache)).reindex(rows)

    def reindex(self, rows: Tensor) -> ForeignState:
        if self.cache is not None:
            self.cache.reorder_cache(rows)
        pick = lambda part: None if part is None else part[rows]  # noqa: E731
        return ForeignState(self.cache, pick(self.encoded), pick(self.source_mask), len(rows))


class ForeignTransformer(SequenceNetwork):
    """A model of ``transformers`` as a sequence network.

    Args:
        model: The model.
        start: The token before the first.
    """

    def __init__(self, model: nn.Module, start: int) -> None:
        super().__init__()
        self.model, self.first = model, start
        self.has_encoder = bool(getattr(model.config, "is_encoder_decoder", False))

    def forward(self, symbols: Tensor, context: Tensor | None = None) -> Tensor:
        if not len(symbols):  # the models themselves do not take empty batches
            return next(self.parameters()).new_zeros(*symbols.shape, self.model.config.vocab_size)
        tokens = torch.cat([self._first(len(symbols)), symbols[:, :-1].long()], 1)
        encoded, mask = self._encode(context)
        return self._run(tokens, encoded, mask, None).logits

    def start(self, batch_shape: tuple[int, ...], context: Tensor | None = None) -> ForeignState:
        return ForeignState(None, *self._encode(context), torch.Size(batch_shape).numel())

    def step(self, symbol: Tensor | None, state: ForeignState) -> tuple[Tensor, ForeignState]:
        return self._advance(self._first(state.rows) if symbol is None else symbol.long().unsqueeze(1), state)

    def read(self, symbols: Tensor, state: ForeignState) -> tuple[Tensor, ForeignState]:
        return self._advance(torch.cat([self._first(len(symbols)), symbols.long()], 1), state)

    def _advance(self, tokens: Tensor, state: ForeignState) -> tuple[Tensor, ForeignState]:
        answer = self._run(tokens, state.encoded, state.source_mask, state.cache, keep=True)
        state.cache = answer.past_key_values
        return answer.logits[:, -1], state

    def _run(
        self, tokens: Tensor, encoded: Tensor | None, mask: Tensor | None, cache: Any, *, keep: bool = False
    ) -> Any:
        if not self.has_encoder:
            return self.model(input_ids=tokens, past_key_values=cache, use_cache=keep)
        return self.model(
            encoder_outputs=(encoded,),
            attention_mask=mask,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=keep,
        )

    def _encode(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if context is None:
            return None, None
        padding = self.model.config.pad_token_id
        if torch.distributions.Distribution._validate_args and not is_functional((context,)):
            count = self.model.get_encoder().get_input_embeddings().num_embeddings
            bad = context[no_symbol(context, count)]
            if len(bad):
                raise ValueError(f"`context` must hold tokens from 0 to {count - 1}, got {bad[0].item():g}")
        mask = torch.ones_like(context) if padding is None else (context != padding).long()
        return self.model.get_encoder()(input_ids=context.long(), attention_mask=mask)[0], mask

    def _first(self, rows: int) -> Tensor:
        return torch.full((rows, 1), self.first, dtype=torch.long, device=next(self.parameters()).device)
