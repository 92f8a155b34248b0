"""Running text: symbols and bytes are the same text."""

import sysconfig
from pathlib import Path

import pytest
import torch

from pyrogen.data import text


def test_bytes_become_symbols_and_bytes_again(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"In the beginning\n\xe9")
    found = text.read(file)
    assert found.symbols.dtype == torch.long
    assert found.alphabet == tuple(sorted(set(file.read_bytes())))
    assert found.decode(found.symbols).encode("latin-1") == file.read_bytes()
    assert found.decode(found.symbols[:6].numpy()) == "In the"


def test_without_a_file_or_the_bible_it_is_the_standard_library(monkeypatch):
    monkeypatch.setattr(text.shutil, "which", lambda name: None)
    found = text.read()
    sizes = [file.stat().st_size for file in Path(sysconfig.get_path("stdlib")).glob("*.py")]
    assert len(found.symbols) == sum(sizes) > 0


def test_empty_files_and_what_is_no_symbol_are_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"`path` must be of a file with text, got .*empty.txt"):
        text.read(tmp_path / "empty.txt")
    (tmp_path / "text.txt").write_text("aba")
    found = text.read(tmp_path / "text.txt")
    for wrong in (torch.tensor([2]), torch.tensor([-1]), torch.zeros(1, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match="`symbols` must be integers"):
            found.decode(wrong)
