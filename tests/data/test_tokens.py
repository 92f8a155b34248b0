"""Letters and byte pairs: texts come back, pairs are those of the definition, and errors name what is wrong."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrogen.data import Alphabet, BytePairs, as_source

TEXTS = ["the cat", "the hat", "the bat", "Österreich fährt"] * 5


@pytest.fixture(scope="module")
def tokens():
    pytest.importorskip("tokenizers")
    return BytePairs.train(TEXTS, symbols=270)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=20))
def test_any_text_comes_back(tokens, text):
    assert tokens.decode(tokens.encode([text], 100)) == [text]


def test_the_most_frequent_pair_is_one_symbol(tokens):
    plain = BytePairs.train(TEXTS, symbols=257)
    assert plain.lengths(["hat"]) == [3]
    assert BytePairs.train(["hat", "at", "cat"], symbols=258).lengths(["at", "hat"]) == [1, 2]
    assert tokens.symbols <= 270
    assert sum(tokens.lengths(TEXTS)) < sum(plain.lengths(TEXTS))


def test_rows_end_and_are_padded(tokens):
    encoded = tokens.encode(["the cat", ""], 9)
    (length,) = tokens.lengths(["the cat"])
    assert encoded.shape == (2, 9)
    assert (encoded[0, :length] > 0).all()
    assert (encoded[0, length:] == tokens.end).all()
    assert (encoded[1] == tokens.end).all()
    assert tokens.decode(torch.stack([encoded, encoded])) == [["the cat", ""]] * 2
    assert tokens.decode(as_source(encoded)) == ["the cat", ""]
    assert tokens.encode([], 3).shape == (0, 3)


@given(texts=st.lists(st.text(max_size=9), min_size=1, max_size=4))
def test_texts_of_an_alphabet_come_back(texts):
    alphabet = Alphabet.of(texts)
    encoded = alphabet.encode(texts, 10)
    assert alphabet.decode(encoded) == texts
    assert (encoded > 0).sum(1).tolist() == alphabet.lengths(texts) == [len(text) for text in texts]
    assert encoded.max() < alphabet.symbols == 1 + len(set("".join(texts)))


def test_a_pattern_says_what_a_letter_is():
    molecules = Alphabet.of(["C(Cl)Br", "[C@H]C"], pattern=r"\[(?:[^]]+)]|(Br|Cl)|.")
    assert molecules.letters == ("(", ")", "Br", "C", "Cl", "[C@H]")
    assert molecules.encode(["[C@H]CCl"], 4).tolist() == [[6, 4, 5, 0]]
    assert molecules.decode(torch.tensor([[[3, 4, -1, 6], [0, 1, 1, 1]]])) == [["BrC[C@H]", ""]]
    assert Alphabet("ba").encode(["ab"], 3).tolist() == [[2, 1, 0]]
    assert Alphabet("ba").encode([], 3).shape == (0, 3)


def test_errors_of_an_alphabet():
    alphabet = Alphabet.of(["cat"])
    for letters in (["a", "b", "a"], ["a", "bc"], [""]):
        with pytest.raises(ValueError, match="`letters` must be different, and each one of `pattern`, got '(a|bc|)'"):
            Alphabet(letters)
    with pytest.raises(TypeError, match="`letters` must hold texts, got int"):
        Alphabet([1])
    with pytest.raises(ValueError, match="`texts` must hold the letters alone, got 'h' in text 1"):
        alphabet.encode(["cat", "hat"], 4)
    with pytest.raises(ValueError, match="got 'a c' in text 0"):
        Alphabet.of(["cat"], pattern=r"\w").encode(["a c"], 4)
    with pytest.raises(ValueError, match="`length` must be at least 4 for text 0 and its end, got 3"):
        alphabet.encode(["cat"], 3)
    with pytest.raises(ValueError, match="integers from -1 to 3, got 4"):
        alphabet.decode(torch.tensor([4]))
    for use in (Alphabet.of, alphabet.lengths, lambda texts: alphabet.encode(texts, 9)):
        with pytest.raises(TypeError, match="must be a sequence of texts, got the single text 'cat'"):
            use("cat")


def test_sources_lack_what_follows_the_end():
    x = torch.tensor([[[3, 0, 2], [0, 1, 1], [1, 2, 3]]])
    assert as_source(x).tolist() == [[[3, -1, -1], [-1, -1, -1], [1, 2, 3]]]
    assert as_source(x, end=2).tolist() == [[[3, 0, -1], [0, 1, 1], [1, -1, -1]]]
    assert torch.equal(torch.vmap(as_source)(x[0]), as_source(x[0]))


def test_it_is_kept_in_a_file(tokens, tmp_path):
    tokens.save(tmp_path / "tokens.json")
    again = BytePairs.load(tmp_path / "tokens.json")
    assert torch.equal(again.encode(TEXTS, 30), tokens.encode(TEXTS, 30))
    assert again.symbols == tokens.symbols


def test_definitions_that_cut_fill_up_and_frame_texts_encode_them_whole(tokens):
    library = pytest.importorskip("tokenizers")
    found = library.Tokenizer.from_str(tokens.definition)
    found.add_special_tokens(["<s>", "<mask>"])
    frame = [("<s>", found.token_to_id("<s>"))]
    found.post_processor = library.processors.TemplateProcessing(single="<s> $A", special_tokens=frame)
    found.enable_truncation(2)
    found.enable_padding(length=6)
    framed = BytePairs(found.to_str())
    assert framed.symbols == tokens.symbols + 2
    assert torch.equal(framed.encode(TEXTS, 30), tokens.encode(TEXTS, 30))
    assert framed.lengths(TEXTS) == tokens.lengths(TEXTS)
    assert framed.decode(framed.encode(["the <mask>"], 30)) == ["the <mask>"]


def test_symbols_of_a_definition_may_have_gaps():
    library = pytest.importorskip("tokenizers")
    words = BytePairs(library.Tokenizer(library.models.WordLevel({"a": 0, "b": 6}, unk_token="a")).to_str())
    assert words.encode(["b"], 2).tolist() == [[7, 0]]
    assert words.symbols == 8


def test_sources_of_unsigned_symbols_have_absent_ones():
    assert as_source(torch.tensor([3, 0, 2], dtype=torch.uint8)).tolist() == [3, -1, -1]
    with pytest.raises(TypeError, match="`sequences` must be a tensor, got list"):
        as_source([3, 0])
    with pytest.raises(ValueError, match="got a single symbol"):
        as_source(torch.tensor(3))


@pytest.mark.parametrize("use", ["train", "encode", "lengths"])
def test_what_is_no_text_is_refused(tokens, use):
    called = {
        "train": lambda texts: BytePairs.train(texts, symbols=300),
        "encode": lambda texts: tokens.encode(texts, 30),
        "lengths": tokens.lengths,
    }[use]
    with pytest.raises(TypeError, match="must be a sequence of texts, got the single text 'the cat'"):
        called("the cat")
    with pytest.raises(TypeError, match="`texts` must hold texts, got tuple at position 1"):
        called(["the cat", ("the cat", "the hat")])
    with pytest.raises(ValueError, match="got half of one in text 0"):
        called(["\ud800"])


def test_errors_of_byte_pairs(tokens, monkeypatch):
    with pytest.raises(ValueError, match="`symbols` must be at least 257, a byte each and the end, got 256"):
        BytePairs.train(TEXTS, symbols=256)
    with pytest.raises(ValueError, match="`length` must be at least 4 for text 1 and its end, got 3"):
        tokens.encode(["x", "xyz"], 3)
    with pytest.raises(TypeError, match="must be a sequence of texts, got the single text 'the cat'"):
        tokens.encode("the cat", 9)
    with pytest.raises(ValueError, match=f"integers from -1 to {tokens.symbols - 1}, got {tokens.symbols}"):
        tokens.decode(torch.tensor([1, tokens.symbols]))
    with pytest.raises(TypeError, match="`symbols` must be a tensor, got list"):
        tokens.decode([1, 2])
    with pytest.raises(ValueError, match="got the single symbol 5"):
        tokens.decode(torch.tensor(5))
    with pytest.raises(ValueError, match="`definition` must be a tokenizer in JSON"):
        BytePairs("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="install it, or the extra `tokens`"):
        BytePairs.train(TEXTS, symbols=300)
