"""Recorded speech: pauses and durations by a recognizer that is stated here, and by pocketsphinx if it is installed."""

import gzip
import sys
from types import SimpleNamespace

import pytest
import torch

from pyrogen.data import audio, speech, vowels

DICTIONARY = {"press": "P R EH S", "one": "W AH N", "two": "T UW"}


class Decoder:
    """Knows three words; says that a sound of n milliseconds is its words, each of two frames and a pause of n."""

    def __init__(self, samprate, loglevel):
        assert (samprate, loglevel) == (16000, "FATAL")
        self.text, self.heard, self.phones = None, None, False

    def lookup_word(self, word):
        return DICTIONARY.get(word)

    def set_align_text(self, text):
        self.text, self.phones = text, False

    def set_alignment(self):
        assert self.heard is not None, "words are aligned before phones"
        self.phones = True

    def start_utt(self):
        self.heard = None

    def process_raw(self, raw, full_utt):
        assert full_utt
        self.heard = torch.frombuffer(bytearray(raw), dtype=torch.int16)
        if self.text and not self.heard.any():
            raise RuntimeError("alignment failed")

    def end_utt(self):
        assert self.heard is not None

    def get_alignment(self):
        assert self.phones
        words = [[SimpleNamespace(name=name, duration=2) for name in DICTIONARY[w].split()] for w in self.text.split()]
        pause = [SimpleNamespace(name="SIL", duration=7)]
        return [pause, words[0], pause, pause, *words[1:]]

    def hyp(self):
        return SimpleNamespace(hypstr="press two") if self.heard.any() else None


@pytest.fixture
def recognizer(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", SimpleNamespace(Decoder=Decoder))
    return speech.Recognizer()


def names(phones):
    return " ".join(speech.PHONES[phone] for phone in phones)


def test_phones_are_numbered_in_order():
    assert len(speech.PHONES) == len(set(speech.PHONES)) == 40
    assert list(speech.PHONES) == sorted(speech.PHONES)


def test_words_are_spelled_with_pauses_between_them(recognizer):
    assert names(recognizer.spell(["press", "one"])) == "SIL P R EH S SIL W AH N SIL"
    with pytest.raises(ValueError, match="`words` must be in the dictionary, got 'three', 'four'"):
        recognizer.spell(["press", "three", "four"])


def test_pauses_are_joined_and_absent_ones_last_nothing(recognizer):
    words = ["press", "one", "two"]
    found = recognizer.align(words, torch.full((800,), 0.1))
    assert found.words == tuple(words)
    assert torch.equal(found.phones, recognizer.spell(words))
    assert found.durations.tolist() == [7, 2, 2, 2, 2, 14, 2, 2, 2, 0, 2, 2, 0]
    assert found.seconds == pytest.approx(0.39)


def test_sounds_that_do_not_fit_are_refused(recognizer):
    with pytest.raises(ValueError, match="`words` must be spoken in the sound, got 'press one', which does not fit"):
        recognizer.align(["press", "one"], torch.zeros(800))
    with pytest.raises(ValueError, match="`samples` must lie between -1 and 1, got 1.5"):
        recognizer.recognize(torch.full((800,), 1.5))


def test_recognized_are_words_or_none(recognizer):
    assert recognizer.recognize(torch.full((800,), 0.1)) == ["press", "two"]
    assert recognizer.recognize(torch.zeros(800)) == []


def test_samples_reach_the_decoder_as_integers_of_sixteen_bits(recognizer):
    recognizer.recognize(torch.tensor([1.0, -1.0, 0.5]))
    assert recognizer._decoder.heard.tolist() == [32767, -32767, 16383]


def test_prompts_are_texts_of_known_words_once_each(recognizer, tmp_path, monkeypatch):
    texts = {
        "a": "Press one.",
        "b": "Press [tone]",
        "c": "press ONE",  # as before
        "d": "Press 1",
        "e": "Press three.",
        "f": "Two",
        "g": "Two, one",  # too long
        "h": "One",  # silent
        "i": "One, two",  # absent
        "j": "",
    }
    with gzip.open(tmp_path / "core-sounds-en.txt.gz", "wt") as file:
        file.write("; a comment\n\n" + "".join(f"{name}: {text}\n" for name, text in texts.items()))
    for name in texts.keys() - {"i"}:
        (tmp_path / f"{name}.g722").touch()
    sounds = {"g": torch.full((2000,), 0.1), "h": torch.zeros(800)}
    monkeypatch.setattr(speech, "_decoded", lambda path: sounds.get(path.stem, torch.full((1600,), 0.1)))
    found = speech.prompts(tmp_path, recognizer, longest=0.1)
    assert [prompt.words for prompt in found] == [("press", "one"), ("two",)]
    with pytest.raises(FileNotFoundError):
        speech.prompts(tmp_path / "nowhere", recognizer)
    for name in texts.keys() - {"i"}:
        (tmp_path / f"{name}.g722").unlink()
    with pytest.raises(FileNotFoundError, match="`folder` must hold the sounds"):
        speech.prompts(tmp_path, recognizer)


def test_frames_belong_to_phones():
    found = speech.frames(torch.tensor([4, 9, 7]), torch.tensor([1.0, 0.0, 2.0]))
    assert found["phone"].tolist() == [4, 7, 7]
    expected = torch.tensor([[0.5, 0.0], [0.25, 2.0], [0.75, 2.0]])
    expected[1:, 1] = expected[1:, 1].log()
    assert torch.allclose(found["place"], expected)
    for bad in (torch.tensor([1.0, 2.5, 1.0]), torch.tensor([1, -1, 1])):
        with pytest.raises(ValueError, match="`durations` must be integers of at least zero"):
            speech.frames(torch.tensor([4, 9, 7]), bad)
    with pytest.raises(ValueError, match="`durations` must have the shape"):
        speech.frames(torch.tensor([4, 9]), torch.tensor([1]))


def test_neighbours_are_those_within_reach():
    phones = torch.tensor([2, 0, 1, 1])
    found = speech.neighbours(phones, 3).reshape(4, 3, 5)
    for place in range(4):
        for aside in range(-2, 3):
            there = 0 <= place + aside < 4
            expected = [float(there and int(phones[place + aside]) == phone) for phone in range(3)]
            assert found[place, :, aside + 2].tolist() == expected
    with pytest.raises(ValueError, match="`phones` must be integers from 0 to 1, got"):
        speech.neighbours(phones, 2)


def test_made_utterances_are_the_made_sounds():
    made, (samples, phones) = vowels.utterances(3, seed=4), vowels.draw(3, seed=4, length=16000)
    for row, found in enumerate(made):
        frames = found.phones.repeat_interleave(found.durations)
        assert torch.equal(frames, phones[row, ::80])
        assert found.seconds == 2.0
        assert torch.equal(found.samples, audio.resample(samples[row], rate=8000, new_rate=16000))
        assert (found.phones.diff() != 0).all()


def test_pocketsphinx_aligns_and_recognizes():
    pytest.importorskip("pocketsphinx")
    recognizer = speech.Recognizer()
    assert names(recognizer.spell(["press", "one"])) == "SIL P R EH S SIL W AH N SIL"
    with pytest.raises(ValueError, match="got 'qwrtz'"):
        recognizer.spell(["qwrtz"])
    (sound,) = vowels.utterances(1, seed=0)
    assert all(recognizer.spell(recognizer.recognize(sound.samples)) < 40)
    aligned = recognizer.align(["see"], sound.samples)
    assert names(aligned.phones) == "SIL S IY SIL"
    assert 0 < aligned.seconds <= 2.01
