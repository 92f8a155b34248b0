"""Running text as symbols, one for each kind of byte in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrogen.arguments import no_symbol
from pyrogen.arrays import takes_arrays


class Text(NamedTuple):
    """A text whose bytes are symbols.

    Attributes:
        symbols: Integers from 0 to ``len(alphabet) - 1``, ``(bytes,)``.
        alphabet: The byte that each symbol stands for, in their order.
    """

    symbols: Tensor
    alphabet: tuple[int, ...]

    @takes_arrays
    def decode(self, symbols: Tensor) -> str:
        """What symbols say, ``(n,)``: a character for each byte.

        Raises:
            ValueError: they have another shape, or one is none.
        """
        if symbols.dim() != 1 or no_symbol(symbols, len(self.alphabet)).any():
            raise ValueError(f"`symbols` must be integers (n,) below {len(self.alphabet)}, got {symbols}")
        return "".join(chr(self.alphabet[symbol]) for symbol in symbols.tolist())


def read(path: str | os.PathLike | None = None) -> Text:
    """The bytes of a text, by default the longest one at hand.

    Args:
        path: Of a file. If not given, it is the King James Bible, where Debian's ``bible-kjv-text`` with its program
            ``bible`` is installed, else the sources of Python's standard library, one after the other.

    Raises:
        ValueError: the file is empty.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "text.txt"
        ...     _ = file.write_text("banana")
        ...     text = read(file)
        >>> text.symbols, text.decode(text.symbols[:3])
        (tensor([1, 0, 2, 0, 2, 0]), 'ban')
    """
    raw = Path(path).read_bytes() if path is not None else _bible() or _sources()
    if not raw:
        raise ValueError(f"`path` must be of a file with text, got {os.fspath(path)!r}, which is empty")
    alphabet, symbols = np.unique(np.frombuffer(raw, np.uint8), return_inverse=True)
    return Text(torch.from_numpy(symbols), tuple(alphabet.tolist()))


def _bible() -> bytes:
    if not shutil.which("bible"):
        return b""
    command = ["bible", "-f", "gen1:1-rev22:21"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


def _sources() -> bytes:
    return b"".join(file.read_bytes() for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
