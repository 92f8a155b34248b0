"""The file format: one safetensors file whose header carries a JSON document.

Written to a temporary file, flushed to disk and moved into place, so that whoever opens the path sees the old file or
the new one, whole. A digest over document and tensors tells an altered file from a good one. No file runs code.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

VERSION = 1


def write(path: str | os.PathLike, kind: str, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Writes a document and its tensors atomically.

    Args:
        path: The file, replaced if it exists.
        kind: What the file holds; :func:`read` refuses another kind.
        document: JSON values.
        tensors: By name; stored on the CPU.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to save in")
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    text = json.dumps(document)
    header = {"pyrogen": kind, "version": str(VERSION), "document": text, "digest": _digest(text, tensors)}
    _replace(path, save(tensors, header))


def read(path: str | os.PathLike, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated, altered, not pyrogen's, of another kind or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}" + (", but a folder" if path.is_dir() else ""))
    content = path.read_bytes()  # in one go: by a second look the file may be another
    if not content:
        raise ValueError(f"{str(path)!r} is empty")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or not a pyrogen file: {error}") from error
    header = _metadata(content)
    _check_header(path, header, kind)
    if _digest(header["document"], tensors) != header["digest"]:
        raise ValueError(f"{str(path)!r} was altered: its content does not match its digest")
    return json.loads(header["document"]), tensors


def _metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file says besides its tensors: eight bytes of length, then JSON."""
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


def sweep(path: str | os.PathLike) -> None:
    """Removes what writers of this path left behind when they were killed."""
    path = Path(os.path.realpath(path))
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        partial.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        # Opened like any new file, so that the user's umask decides who may read it.
        with open(temporary, "xb") as file:
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
