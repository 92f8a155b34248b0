"""The file format: one safetensors file whose header carries a JSON document.

Written to a temporary file, flushed to disk and moved into place, so that a reader gets the old file or the new one,
whole. A digest over document and tensors detects an altered file. No file runs code.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

VERSION = 1


def write(
    path: str | os.PathLike, kind: str, document: dict[str, Any], tensors: dict[str, Tensor], *, alone: bool = False
) -> None:
    """Writes a document and its tensors atomically.

    Args:
        path: The file, replaced if it exists.
        kind: What the file holds; :func:`read` refuses another kind.
        document: JSON values.
        tensors: By name; stored on the CPU.
        alone: Whether no other process can be writing this file. One temporary name will then do, and what a killed
            writer left under it is overwritten.

    Raises:
        OSError: it cannot be written: the folder does not exist, the path is a folder, the disk is full.
        ValueError: a tensor has no content that a file could hold.
    """
    path = as_path(path)
    check_place(path)
    text = json.dumps(document)
    stored = {name: _stored(name, tensor) for name, tensor in tensors.items()}
    header = {"pyrogen": kind, "version": str(VERSION), "document": text, "digest": _digest(text, stored)}
    try:
        _replace(path, save(stored, header), alone)
    except OSError as error:
        raise OSError(error.errno, f"cannot write ({error.strerror or error})", str(path)) from error


def as_path(path: str | os.PathLike) -> Path:
    """A path.

    Raises:
        TypeError: ``path`` is none.
        ValueError: it is empty or holds a null character.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`path` must be a path, got {type(path).__name__}")
    if not os.fspath(path) or "\0" in str(path):
        raise ValueError(f"`path` must name a file, got {str(path)!r}")
    return Path(path)


def check_place(path: Path, name: str = "path") -> None:
    """Raises where no file can be.

    Args:
        path: Of the file.
        name: What errors call it.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: the path is a folder itself.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`{name}` must be in a folder that exists, got {str(path.parent)!r}, which does not")
    if path.is_dir():
        raise IsADirectoryError(f"`{name}` must be a file, got the folder {str(path)!r}")


def read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, altered, not pyrogen's, of another kind or of another version.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}" + (", but a folder" if path.is_dir() else ""))
    content = path.read_bytes()  # in one go: at a second access the file may be another
    if not content:
        raise ValueError(f"{str(path)!r} is empty")
    try:
        header, tensors = _metadata(content), load(content)
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is truncated or not a pyrogen file: {error}") from error
    _check_header(path, header, kind)
    if _digest(header["document"], tensors) != header["digest"]:
        raise ValueError(f"{str(path)!r} was altered: its content does not match its digest")
    try:
        return json.loads(header["document"]), tensors
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} holds a document that makes no sense: {error}") from error


def _metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file holds besides its tensors: eight bytes of length, then JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]).get("__metadata__") or {}


def _check_header(path: Path, header: dict[str, str], kind: str) -> None:
    if not {"pyrogen", "version", "document", "digest"} <= set(header):
        raise ValueError(f"{str(path)!r} is a safetensors file, but not one of pyrogen's")
    if header["version"] != str(VERSION):
        raise ValueError(f"{str(path)!r} has format version {header['version']}, this pyrogen reads version {VERSION}")
    if header["pyrogen"] != kind:
        raise ValueError(f"{str(path)!r} holds a {header['pyrogen']}, expected a {kind}")


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stored(name: str, tensor: Tensor) -> Tensor:
    if nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        raise ValueError(
            f"a file cannot hold the tensor {name!r}: "
            + ("it has no shape before the first call" if nn.parameter.is_lazy(tensor) else "it has no dense content")
        )
    return tensor.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _replace(path: Path, content: bytes, alone: bool = False) -> None:
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{path.name}.partial" if alone else f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        # Opened like any new file, so that the user's umask decides who may read it.
        with open(temporary, "wb" if alone else "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
