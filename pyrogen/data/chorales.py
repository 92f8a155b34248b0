"""Bach's four-part chorales, from the corpus that music21 ships, and files of notes to listen to.

References:
    Cuthbert and Ariza 2010, "music21: a toolkit for computer-aided musicology and symbolic music data", Proceedings of
    the 11th International Society for Music Information Retrieval Conference
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer, real_tensor

VOICES = ("soprano", "alto", "tenor", "bass")
"""From the highest to the lowest."""


@checked(most=integer)
def load(most: int = 371) -> list[Tensor]:
    """The chorales as the notes that sound at each quarter, numbers of MIDI (60 is the middle C, 61 a half-tone more).

    A rest is the note before it. A chorale is as long as its shortest voice.

    Args:
        most: How many numbers of Riemenschneider's edition, from the first on; those of four voices are taken.

    Shape:
        Each ``(steps, 4)``, integers.

    Raises:
        ImportError: music21 is not installed; the extra ``music`` brings it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that library
        from music21 import corpus

        scores = [score for score in corpus.chorales.Iterator(1, most) if len(score.parts) == len(VOICES)]
        chorales = [[_quarters(part.flatten().notes) for part in score.parts] for score in scores]
    return [torch.stack([voice[: min(map(len, voices))] for voice in voices], 1) for voices in chorales]


def write_midi(path: str | os.PathLike, notes: Tensor) -> None:
    """A MIDI file of voices that sing one note a quarter.

    Args:
        path: Of the file, with its ending ``.mid``.
        notes: Their numbers, ``(steps, voices)``, from 0 to 127.

    Raises:
        ImportError: music21 is not installed; the extra ``music`` brings it.
        TypeError: ``notes`` is no tensor.
        ValueError: its shape is another, or a note is none.
    """
    if real_tensor(notes, "notes").dim() != 2:
        raise ValueError(f"`notes` must have shape (steps, voices), got {tuple(notes.shape)}")
    wrong = notes[(notes < 0) | (notes > 127) | (notes != notes.long())]
    if len(wrong):
        raise ValueError(f"`notes` must hold integers from 0 to 127, got {wrong[0].item()}")
    from music21 import note, stream

    score = stream.Score()
    for voice in notes.long().T.tolist():
        part = stream.Part()
        for pitch in voice:
            part.append(note.Note(pitch, quarterLength=1))
        score.insert(0, part)
    score.write("midi", path)


def _quarters(notes: Any) -> Tensor:
    """The note that sounds at each quarter, from the first note on."""
    starts = torch.tensor([float(note.offset) for note in notes], dtype=torch.double)
    pitches = torch.tensor([note.pitches[-1].midi for note in notes])
    end = float(starts[-1]) + float(notes[-1].quarterLength)
    quarters = torch.arange(float(starts[0].ceil()), end, dtype=torch.double)
    return pitches[torch.searchsorted(starts, quarters, right=True) - 1]
