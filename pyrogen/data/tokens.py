"""Texts as symbols: letters, byte pairs, and what shorter sequences are padded with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, count, real_tensor

END = 0
_BYTES = 256


class Alphabet:
    r"""Texts as symbols: letters, or whatever a pattern takes for one.

    Symbol 0 ends a text. A text of these letters becomes symbols and the same text again.

    Args:
        letters: What symbols stand for, from 1 on.
        pattern: A regular expression that matches one letter; any single character if not given.

    Attributes:
        letters: The same.
        symbols: How many symbols there are, the end included.
        end: The symbol that ends a text.

    Raises:
        TypeError: a letter is no text.
        ValueError: a letter is there twice, or is none by the pattern.

    Example:
        >>> smiles = Alphabet.of(["CCl", "C[NH]C"], pattern=r"\[[^]]+]|Br|Cl|.")
        >>> smiles.letters
        ('C', 'Cl', '[NH]')
        >>> smiles.encode(["ClCC"], 5).tolist()
        [[2, 1, 1, 0, 0]]
        >>> smiles.decode(smiles.encode(["ClCC"], 5))
        ['ClCC']
    """

    end = END

    @checked
    def __init__(self, letters: Iterable[str], *, pattern: str = ".") -> None:
        self.letters = tuple(letters)
        self._pattern = re.compile(pattern, re.DOTALL)
        for letter in self.letters:
            if not isinstance(letter, str):
                raise TypeError(f"`letters` must hold texts, got {type(letter).__name__}")
            if self.letters.count(letter) > 1 or self._split(letter) != [letter]:
                raise ValueError(f"`letters` must be different, and each one of `pattern`, got {letter!r}")
        self.symbols = 1 + len(self.letters)
        self._places = {letter: place for place, letter in enumerate(self.letters, start=1)}

    @classmethod
    def of(cls, texts: Iterable[str], *, pattern: str = ".") -> Alphabet:
        """All letters of some texts, in order.

        Raises:
            TypeError: ``texts`` is a single text, or holds something else than texts.
        """
        matches = re.compile(pattern, re.DOTALL).finditer
        return cls(sorted({match.group() for text in _texts(texts) for match in matches(text)}), pattern=pattern)

    @checked
    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """Symbols of texts, each ended, and padded by the end: ``(N, length)``.

        Raises:
            TypeError: ``texts`` is a single text, or holds something else than texts.
            ValueError: a text, with its end, is longer, or holds another letter.
        """
        return _padded([self._symbols(place, text) for place, text in enumerate(_texts(texts))], length)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many symbols texts have, without the end."""
        return [len(self._split(text)) for text in _texts(texts)]

    def decode(self, symbols: Tensor) -> Any:
        """The texts of symbols ``(*batch, length)``, in nested lists; what follows an end, or is absent, is left out.

        Raises:
            TypeError: ``symbols`` is no tensor.
            ValueError: a symbol is none, or there is no dimension of them.
        """
        return _decoded(symbols, self.symbols, lambda found: "".join(self.letters[symbol - 1] for symbol in found))

    def _split(self, text: str) -> list[str]:
        return [match.group() for match in self._pattern.finditer(text)]

    def _symbols(self, place: int, text: str) -> list[int]:
        found = self._split(text)
        unknown = [letter for letter in found if letter not in self._places]
        if unknown or sum(map(len, found)) < len(text):
            raise ValueError(
                f"`texts` must hold the letters alone, got {unknown[0] if unknown else text!r} in text {place}"
            )
        return [self._places[letter] for letter in found]


class BytePairs:
    """Texts as symbols: bytes, and pairs of symbols that are frequent together.

    Symbol 0 ends a text. Any text becomes symbols and the same text again. It goes through the library ``tokenizers``.

    Args:
        definition: A tokenizer in the format (JSON) of that library; :meth:`train` makes one.

    Attributes:
        definition: The same.
        symbols: How many symbols there are, the end included.
        end: The symbol that ends a text.

    Raises:
        ImportError: the library is not installed; the extra ``tokens`` brings it.
        ValueError: ``definition`` is none.

    References:
        Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword units",
        https://arxiv.org/abs/1508.07909
        Radford et al. 2019, "Language models are unsupervised multitask learners" (byte pairs of bytes)

    Example:
        >>> tokens = BytePairs.train(["the cat", "the hat", "the bat"] * 9, symbols=260)
        >>> tokens.encode(["the hat", "at"], 6).tolist()
        [[259, 221, 72, 257, 0, 0], [257, 0, 0, 0, 0, 0]]
        >>> tokens.decode(tokens.encode(["the hat"], 6))
        ['the hat']
    """

    end = END

    def __init__(self, definition: str) -> None:
        tokenizers = _library()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # of the library, which has no type of its own
            raise ValueError(f"`definition` must be a tokenizer in JSON, got an error: {error}") from error
        # Many definitions cut texts, or fill them up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.definition = definition
        self.symbols = 2 + max(self._tokenizer.get_vocab().values(), default=-1)  # there may be gaps

    @classmethod
    @checked
    def train(cls, texts: Iterable[str], *, symbols: int) -> BytePairs:
        """Finds the pairs that are most frequent in some texts.

        Args:
            texts: Any number of them.
            symbols: How many symbols there are at most: the end, the 256 bytes, and pairs.

        Raises:
            ImportError: the library is not installed.
            TypeError: ``texts`` is a single text, or holds something else than texts.
            ValueError: there are fewer symbols than bytes and the end.
        """
        if symbols <= _BYTES:
            raise ValueError(f"`symbols` must be at least {_BYTES + 1}, a byte each and the end, got {symbols}")
        tokenizers = _library()
        found = tokenizers.Tokenizer(tokenizers.models.BPE())
        found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=symbols - 1,
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        found.train_from_iterator(_texts(texts), trainer)
        return cls(found.to_str())

    @checked
    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """Symbols of texts, each ended, and padded by the end: ``(N, length)``.

        Raises:
            TypeError: ``texts`` is a single text, or holds something else than texts.
            ValueError: a text, with its end, is longer, or holds half of a character.
        """
        return _padded([[1 + symbol for symbol in ids] for ids in self._ids(texts)], length)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many symbols texts have, without the end."""
        return [len(ids) for ids in self._ids(texts)]

    def decode(self, symbols: Tensor) -> Any:
        """The texts of symbols ``(*batch, length)``, in nested lists; what follows an end, or is absent, is left out.

        Bytes that make no character become U+FFFD.

        Raises:
            TypeError: ``symbols`` is no tensor.
            ValueError: a symbol is none, or there is no dimension of them.
        """
        return _decoded(symbols, self.symbols, self._text)

    def save(self, path: str | Path) -> None:
        """Writes the definition to a file, which :meth:`load` reads."""
        Path(path).write_text(self.definition, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> BytePairs:
        """Reads a file of :meth:`save`, or a ``tokenizer.json`` of the library.

        It encodes whole texts, without the symbols that such a file may put around them. Only those of bytes give every
        text back.
        """
        return cls(Path(path).read_text(encoding="utf-8"))

    def _text(self, symbols: list[int]) -> str:
        return self._tokenizer.decode([symbol - 1 for symbol in symbols], skip_special_tokens=False)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The library's own numbers of symbols."""
        found = self._tokenizer.encode_batch(list(_texts(texts)), add_special_tokens=False)
        return [each.ids for each in found]


@checked(end=count)
def as_source(sequences: Tensor, *, end: int = END) -> Tensor:
    """Sequences that end as sources: the end, and what follows it, is absent, -1.

    Args:
        sequences: Symbols ``(*batch, length)``; of unsigned types, which have no -1, they become long integers.
        end: The symbol that ends a sequence.

    Raises:
        TypeError: ``sequences`` is no tensor.
        ValueError: it has no dimension.

    Example:
        >>> as_source(torch.tensor([[3, 1, 0, 0], [2, 2, 1, 2]])).tolist()
        [[3, 1, -1, -1], [2, 2, 1, 2]]
    """
    if not real_tensor(sequences, "sequences").dim():
        raise ValueError("`sequences` must have shape (*batch, length), got a single symbol")
    signed = sequences if sequences.dtype.is_signed else sequences.long()
    return torch.where((sequences == end).cumsum(-1) > 0, -1, signed)


def _padded(rows: list[list[int]], length: int) -> Tensor:
    """Symbols of texts, each ended, and padded by the end."""
    longest = max(range(len(rows)), key=lambda place: len(rows[place]), default=None)
    if longest is not None and len(rows[longest]) >= length:
        raise ValueError(
            f"`length` must be at least {len(rows[longest]) + 1} for text {longest} and its end, got {length}"
        )
    padded = [row + [END] * (length - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long).reshape(-1, length)


def _decoded(symbols: Tensor, count: int, text: Callable[[list[int]], str]) -> Any:
    """The texts of symbols, in nested lists; ``text`` makes one of those before the end that are not absent."""
    if not real_tensor(symbols, "symbols").dim():
        raise ValueError(f"`symbols` must have shape (*batch, length), got the single symbol {symbols.item()}")
    if symbols.dim() > 1:
        return [_decoded(row, count, text) for row in symbols]
    found = symbols.tolist()
    wrong = [symbol for symbol in found if not -1 <= symbol < count or symbol != int(symbol)]
    if wrong:
        raise ValueError(f"`symbols` must hold integers from -1 to {count - 1}, got {wrong[0]}")
    found = found[: found.index(END)] if END in found else found
    return text([int(symbol) for symbol in found if symbol > 0])


def _texts(texts: Iterable[str]) -> Iterator[str]:
    """The texts, one after the other, each of them checked."""
    if isinstance(texts, str):
        raise TypeError(f"`texts` must be a sequence of texts, got the single text {texts[:20]!r}")
    if not isinstance(texts, Iterable):
        raise TypeError(f"`texts` must be a sequence of texts, got {type(texts).__name__}")
    return starmap(_text, enumerate(texts))


def _text(place: int, text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"`texts` must hold texts, got {type(text).__name__} at position {place}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"`texts` must hold texts of whole characters, got half of one in text {place}") from error
    return text


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("byte pairs need the library tokenizers: install it, or the extra `tokens`") from error
    return tokenizers
