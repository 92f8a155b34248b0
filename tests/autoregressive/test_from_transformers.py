"""Tiny models of Hugging Face's transformers, randomly initialised, as distributions."""

import pyro
import pytest
import torch
from sequence_truth import enumerated, frequencies_p_value, jiggled

from pyrogen.autoregressive import beam_search, from_transformers, tempered
from pyrogen.testing import check_distribution
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

VOCABULARY, LENGTH = 5, 4
FOREIGN = ("vmap", "parameter_gradient")
"""What the models themselves do not do: vmap; gradients of padding embeddings, norms in float64."""


@pytest.fixture(scope="module")
def library():
    library = pytest.importorskip("transformers")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # one that does not fit torch must not keep language models from loading
        from transformers.utils import import_utils

        library.utils.is_torchvision_available = import_utils.is_torchvision_available = lambda: False
    return library


def gpt(library):
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = library.GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **sizes, **drop)
    return from_transformers(library.GPT2LMHeadModel(config), LENGTH, end=1)


def llama(library):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = library.LlamaConfig(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **sizes, **heads)
    return from_transformers(library.LlamaForCausalLM(config), LENGTH, end=1)


def t5(library):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    tokens = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    model = library.T5ForConditionalGeneration(library.T5Config(vocab_size=VOCABULARY, **sizes, **tokens))
    return from_transformers(model, LENGTH, end=1, source_length=6)


MODELS = {"gpt": gpt, "llama": llama, "t5": t5}
SOURCE = torch.tensor([[2, 3, 4, 1, 0, 0], [2, 2, 1, 0, 0, 0], [4, 3, 4, 3, 4, 1], [4, 1, 0, 0, 0, 0]])


def context_of(model):
    return None if model.context_shape is None else SOURCE


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_samples_and_mode_by_enumeration(name, library):
    torch.manual_seed(0)
    model, x = jiggled(MODELS[name](library), 0.2), enumerated(LENGTH, VOCABULARY)
    source = None if model.context_shape is None else SOURCE[0]
    log_probs = model(source).log_prob(x).detach()
    assert torch.allclose(log_probs.exp().sum(), torch.tensor(1.0), atol=1e-5)
    assert frequencies_p_value(model(source).sample((2000,)), x, log_probs) > 1e-5
    events, scores = beam_search(model(source), 25)
    assert torch.equal(events[0], x[log_probs.argmax()])
    assert torch.allclose(scores, model(source).log_prob(events), atol=1e-5)
    cold = tempered(model, 0.5)(source)
    assert torch.allclose(cold.log_prob(x).exp().sum(), torch.tensor(1.0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_contract(name, library):
    only = [check.__name__ for check in DISTRIBUTION_CHECKS if check.__name__ not in FOREIGN]
    context = None if name != "t5" else SOURCE
    check_distribution(
        lambda: MODELS[name](library), event_shape=(LENGTH,), context=context, only=only
    ).raise_if_failed()


def test_padding_in_the_source_is_not_looked_at(library):
    model = jiggled(t5(library))
    x = torch.tensor([2, 3, 1, 1])
    short = from_transformers(model.network.model, LENGTH, end=1, source_length=4).eval()
    assert torch.allclose(model(SOURCE[0]).log_prob(x), short(SOURCE[0, :4]).log_prob(x), atol=1e-5)


def test_a_language_model_at_a_site(library):
    model = gpt(library)

    def program():
        with pyro.plate("data", 3):
            pyro.sample("text", model(), obs=torch.tensor([[2, 3, 1, 1], [4, 1, 1, 1], [2, 2, 2, 2]]))

    before = [parameter.detach().clone() for parameter in model.parameters()]
    elbo = pyro.infer.Trace_ELBO()
    pyro.infer.SVI(program, lambda: None, pyro.optim.Adam({"lr": 0.01}), elbo).step()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_errors(library):
    model = gpt(library).network.model
    for arguments, message in (
        ({"length": 17}, "at most the 16 places"),
        ({"length": 4, "end": 5}, "`end` must be a token from 0 to 4, got 5"),
        ({"length": 4, "source_length": 3}, "`source_length` goes with models that have an encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            from_transformers(model, arguments.pop("length"), **arguments)
    model.config.bos_token_id = None
    with pytest.raises(ValueError, match="`start` must be given"):
        from_transformers(model, 4)


def test_a_model_that_sees_later_tokens_is_refused(library):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = library.BertConfig(vocab_size=VOCABULARY, bos_token_id=0, **sizes)
    with pytest.raises(ValueError, match="`model` must be causal"):
        from_transformers(library.BertForMaskedLM(config), LENGTH)
    causal = library.BertConfig(vocab_size=VOCABULARY, bos_token_id=0, is_decoder=True, **sizes)
    assert from_transformers(library.BertLMHeadModel(causal), LENGTH)().event_shape == (LENGTH,)


def test_a_source_of_no_tokens_is_refused(library):
    model = t5(library)
    for bad in (VOCABULARY, -1):
        with pytest.raises(ValueError, match="`context` must hold tokens from 0 to 4"):
            model(torch.full((2, 6), bad)).sample()
    with pytest.raises(ValueError, match="`context` must hold tokens"):
        model(torch.full((2, 6), 0.5)).sample()
    with pytest.raises(TypeError, match="`length` must be an int"):
        from_transformers(gpt(library).network.model, 2.5, end=1)


def test_a_source_of_bytes_is_that_of_other_integers(library):
    """A vocabulary of 256 tokens: as a byte their number would be zero."""
    settings = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "d_kv": 8, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    config = library.T5Config(vocab_size=256, **settings)
    model = from_transformers(library.T5ForConditionalGeneration(config), 3, source_length=4).eval()
    source, x = torch.tensor([3, 255, 128, 1]), torch.tensor([5, 1, 200])
    assert torch.equal(model(source.byte()).log_prob(x), model(source).log_prob(x))
