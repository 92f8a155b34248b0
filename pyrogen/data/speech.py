"""Recorded speech: which phones are spoken, how long each of them lasts, and which words a recognizer hears.

A dictionary spells words in phones. Forced alignment finds when these are spoken in a sound: the likeliest path through
a hidden Markov model of them. Recognition finds the likeliest words. Pocketsphinx does all three for English
(``pip install pocketsphinx``); nothing is downloaded.

References:
    Huggins-Daines et al. 2006, "Pocketsphinx: a free, real-time continuous speech recognition system for hand-held
    devices", https://doi.org/10.1109/ICASSP.2006.1659988
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from pyrogen.arguments import checked, finite, integer, no_symbol, positive, real_tensor
from pyrogen.arrays import takes_arrays

from .audio import check_samples

RATE = 16000
"""Samples a second."""

FRAMES = 100
"""In a second; durations are counted in them."""

PAUSE = "SIL"

_ARPABET = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH SIL T TH UH UW V W Y Z ZH"
PHONES = tuple(_ARPABET.split())
"""The phones of English in ARPAbet, as the CMU dictionary has them, and the pause."""


class Utterance(NamedTuple):
    """Words as they were spoken.

    Attributes:
        words: In their order.
        samples: Between -1 and 1, ``(length,)``; :data:`RATE` a second.
        phones: The place of each in :data:`PHONES`, ``(n,)``, with pauses as in :meth:`Recognizer.spell`.
        durations: How many frames each of the phones lasts, ``(n,)``; a pause may last none.
    """

    words: tuple[str, ...]
    samples: Tensor
    phones: Tensor
    durations: Tensor

    @property
    def seconds(self) -> float:
        """How long its phones last, in seconds."""
        return int(self.durations.sum()) / FRAMES


class Recognizer:
    """Pocketsphinx: the phones of words, where these are in a sound, and the words of a sound.

    Raises:
        ImportError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        # Two, since a decoder that has aligned recognizes nothing but the words it aligned last.
        self._aligner, self._decoder = (Decoder(samprate=RATE, loglevel="FATAL") for _ in range(2))

    def spell(self, words: Sequence[str]) -> Tensor:
        """The phones of words by the dictionary, with a pause between words and at both ends.

        Args:
            words: In lower case.

        Shape:
            ``(n,)``, places in :data:`PHONES`.

        Raises:
            ValueError: the dictionary does not have a word.
        """
        spelled = {word: self._decoder.lookup_word(word) for word in words}
        if unknown := [word for word, phones in spelled.items() if phones is None]:
            raise ValueError(f"`words` must be in the dictionary, got {', '.join(map(repr, unknown))}")
        return _numbered([PAUSE, *(phone for word in words for phone in (*spelled[word].split(), PAUSE))])

    @takes_arrays
    @checked(samples=finite)
    def align(self, words: Sequence[str], samples: Tensor) -> Utterance:
        """When the phones of known words are spoken.

        A word may be pronounced in any way that the dictionary has. The end of a sound may belong to no phone.

        Args:
            words: In lower case.
            samples: The sound, ``(length,)``.

        Raises:
            ValueError: the words do not fit the sound, the dictionary does not have one, or a sample lies outside of
                [-1, 1].
        """
        self.spell(words)
        text = " ".join(words)
        try:
            for prepare in (partial(self._aligner.set_align_text, text), self._aligner.set_alignment):  # words; phones
                prepare()
                _listen(self._aligner, samples)
            aligned = self._aligner.get_alignment()
        except RuntimeError as error:
            raise ValueError(f"`words` must be spoken in the sound, got {text!r}, which does not fit it") from error
        phones, durations = zip(*_with_pauses(aligned), strict=True)
        return Utterance(tuple(words), samples, _numbered(phones), torch.tensor(durations))

    @takes_arrays
    @checked(samples=finite)
    def recognize(self, samples: Tensor) -> list[str]:
        """The words of a sound, none if it hears none.

        Args:
            samples: The sound, ``(length,)``.

        Raises:
            ValueError: a sample lies outside of [-1, 1].
        """
        _listen(self._decoder, samples)
        heard = self._decoder.hyp()
        return heard.hypstr.split() if heard else []


@checked(longest=positive)
def prompts(folder: Path | str, recognizer: Recognizer, *, longest: float = 12.0) -> list[Utterance]:
    """Telephone prompts, spoken by one voice and recorded with 16 kHz, from files of yours; each text once.

    Left out are prompts with tones or digits, and those whose words the dictionary does not have or the recognizer does
    not find in the sound. Needs PyAV (``pip install av``).

    Args:
        folder: With the files of the Debian packages asterisk-core-sounds-en-g722 (``*.g722``) and
            asterisk-core-sounds-en (``core-sounds-en.txt.gz``).
        recognizer: Which aligns them.
        longest: Of those that are taken, in seconds.

    Raises:
        ImportError: PyAV is not installed.
        FileNotFoundError: there are no texts in the folder, or no sounds of them.
    """
    found: dict[tuple[str, ...], Utterance] = {}
    texts = list(_texts(Path(folder)))
    if not any(path.exists() for path, _ in texts):
        raise FileNotFoundError(
            f"`folder` must hold the sounds of its texts, *.g722, got none of {len(texts)} in {folder}"
        )
    for path, words in texts:
        if words and words not in found and path.exists():
            samples = _decoded(path)
            if len(samples) <= longest * RATE:
                try:
                    found[words] = recognizer.align(words, samples)
                except ValueError:  # unknown words, or others than are spoken
                    continue
    return list(found.values())


@takes_arrays
@checked(phones=real_tensor, durations=real_tensor)
def frames(phones: Tensor, durations: Tensor) -> dict[str, Tensor]:
    """What stands beside each frame, as the context of a model of spectra.

    Args:
        phones: Their numbers, ``(n,)``.
        durations: How many frames each of them lasts, ``(n,)``.

    Returns:
        ``"phone"``, the phone that a frame belongs to, ``(frames,)``; and ``"place"``, which share of it is over there,
        and the logarithm of its duration, ``(frames, 2)``.

    Raises:
        ValueError: shapes differ, or a duration is no integer of at least zero.

    Example:
        >>> frames(torch.tensor([4, 7]), torch.tensor([1, 2]))["phone"]
        tensor([4, 7, 7])
    """
    if phones.dim() != 1 or phones.shape != durations.shape:
        raise ValueError(f"`durations` must have the shape (n,) of `phones`, got {tuple(durations.shape)}")
    if not bool((durations == durations.clamp(min=0).round()).all()):
        raise ValueError(f"`durations` must be integers of at least zero, got {durations.tolist()}")
    durations = durations.long()
    begins, lasts = (part.repeat_interleave(durations) for part in (durations.cumsum(0) - durations, durations))
    over = (torch.arange(len(lasts), device=lasts.device) - begins + 0.5) / lasts
    return {"phone": phones.repeat_interleave(durations), "place": torch.stack([over, lasts.log()], -1)}


@takes_arrays
@checked(phones=real_tensor, count=integer, reach=integer)
def neighbours(phones: Tensor, count: int, *, reach: int = 2) -> Tensor:
    """Each phone with those around it, one-hot, as the context of a model of durations; nothing beyond the ends.

    Args:
        phones: Their numbers, ``(n,)``.
        count: How many phones there are.
        reach: How many of those on each side.

    Shape:
        ``(n,)`` to ``(n, count * (2 * reach + 1))``: for every phone, at which of the places around it stands.

    Raises:
        ValueError: a phone is no integer from 0 to ``count - 1``, or there are other dimensions.

    Example:
        >>> neighbours(torch.tensor([1, 0]), 2, reach=1)
        tensor([[0., 0., 1., 0., 1., 0.],
                [0., 1., 0., 1., 0., 0.]])
    """
    if phones.dim() != 1:
        raise ValueError(f"`phones` must have shape (n,), got {tuple(phones.shape)}")
    if no_symbol(phones, count).any():
        raise ValueError(f"`phones` must be integers from 0 to {count - 1}, got {phones.tolist()}")
    padded = pad(one_hot(phones.long(), count), (0, 0, reach, reach)).to(torch.get_default_dtype())
    return padded.unfold(0, 2 * reach + 1, 1).flatten(1)


def _numbered(phones: Sequence[str]) -> Tensor:
    return torch.tensor([PHONES.index(phone) for phone in phones])


def _listen(decoder: Any, samples: Tensor) -> None:
    check_samples(samples, "samples")
    decoder.start_utt()
    decoder.process_raw((samples * (2**15 - 1)).short().cpu().numpy().tobytes(), full_utt=True)
    decoder.end_utt()


def _with_pauses(aligned: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """Phones and their durations, with one pause between words and at both ends, of no frames where there is none."""
    pause = 0
    for word in aligned:
        spans = [(phone.name, phone.duration) for phone in word]
        if spans[0][0] == PAUSE:
            pause += spans[0][1]
        else:
            yield PAUSE, pause
            yield from spans
            pause = 0
    yield PAUSE, pause


def _texts(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The files of prompts and their words; no words where there are tones, in brackets, or digits, without letters."""
    with gzip.open(folder / "core-sounds-en.txt.gz", "rt", errors="replace") as lines:
        for line in lines:
            name, _, text = line.partition(": ")
            words = () if re.search(r"[\[\d]", text) else re.sub("[^a-z' ]", " ", text.lower()).split()
            yield folder / f"{name}.g722", tuple(words)


def _decoded(path: Path) -> Tensor:
    import av

    with av.open(str(path), format="g722") as file:
        parts = [torch.from_numpy(part.to_ndarray())[0] for part in file.decode(audio=0)]
    return torch.cat(parts) / 2**15
