"""Chorales: what sounds at each quarter, and files that hold it."""

from types import SimpleNamespace

import pytest
import torch

from pyrogen.data import chorales


def note(offset, length, pitch):
    return SimpleNamespace(offset=offset, quarterLength=length, pitches=[SimpleNamespace(midi=pitch)])


@pytest.mark.parametrize(
    ("notes", "sounding"),
    [
        ([(0.0, 1.0, 60), (1.0, 2.0, 62)], [60, 62, 62]),
        ([(0.0, 0.5, 60), (0.5, 0.5, 61), (1.0, 0.5, 62), (1.5, 1.5, 64)], [60, 62, 64]),  # between quarters: unheard
        ([(0.0, 1.0, 60), (3.0, 1.0, 62)], [60, 60, 60, 62]),  # a rest is the note before
        ([(2.0, 1.0, 60), (3.0, 1.0, 62)], [60, 62]),  # it begins where the voice does
        ([(0.5, 1.0, 60), (1.5, 1.0, 62)], [60, 62]),
    ],
)
def test_what_sounds_at_each_quarter(notes, sounding):
    assert chorales._quarters([note(*each) for each in notes]).tolist() == sounding


@pytest.mark.slow
def test_voices_are_written_and_read_back(tmp_path):
    library = pytest.importorskip("music21")
    notes = torch.tensor([[72, 60, 55, 48], [74, 62, 55, 43], [72, 60, 57, 41]])
    chorales.write_midi(tmp_path / "a.mid", notes)
    score = library.converter.parse(tmp_path / "a.mid")
    read = torch.stack([chorales._quarters(part.flatten().notes) for part in score.parts], 1)
    assert torch.equal(read, notes)


@pytest.mark.slow
def test_chorales_have_four_voices_from_high_to_low():
    pytest.importorskip("music21")
    songs = chorales.load(3)
    assert len(songs) == 3
    assert all(song.dtype == torch.long and song.shape[1] == len(chorales.VOICES) for song in songs)
    means = torch.stack([song.double().mean(0) for song in songs])
    assert (means.diff(dim=1) < 0).all()
    assert songs[0][:4, 0].tolist() == [67, 67, 67, 74]  # "Aus meines Herzens Grunde"


def test_what_are_no_notes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`notes` must have shape \(steps, voices\), got \(3,\)"):
        chorales.write_midi(tmp_path / "a.mid", torch.zeros(3))
    with pytest.raises(ValueError, match="`notes` must hold integers from 0 to 127, got 128"):
        chorales.write_midi(tmp_path / "a.mid", torch.tensor([[60, 128]]))
    with pytest.raises(ValueError, match="`most` must be at least 1, got 0"):
        chorales.load(0)
