"""A saved run: a folder of safetensors files, one for each state, and an index that holds their hashes.

    run.json                    what the run is of, its files and their SHA-256, and its own
    tensors.safetensors         small arrays that belong to the run as a whole
    <track>.<step>.safetensors  a state, mapped into memory and hashed before its first use

The data of a state begins at a multiple of `ALIGNMENT` and is the block that `Layout` describes; what lies
between its arrays is named "pad.<n>", because the format wants every byte named.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy import files
from sige_deploy.caches import DTYPES
from sige_deploy.devices.memory import ALIGNMENT
from sige_deploy.errors import CacheError
from sige_deploy.runs.codes import Spec
from sige_deploy.runs.state import Layout, State

INDEX = "run.json"
TENSORS = "tensors.safetensors"
FORMAT = "sige_deploy.run"
VERSION = 1
LIMIT = 64 << 20  # bytes of an index, and of a file's header


class SavedState(State):
    """A state in a file, read where it is; its SHA-256 is checked before the first use."""

    def __init__(self, path: Path, layout: Layout, sha256: str) -> None:
        self._path, self._sha256 = path, sha256
        self._checked, self._lock = False, threading.Lock()
        header = _header(layout)
        try:
            whole = np.asarray(np.memmap(path, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise CacheError(f"cannot read '{path}' ({error}); save the run anew.") from error
        if whole.size != len(header) + layout.nbytes:
            raise _damaged(path)
        super().__init__(layout, whole[len(header) :], in_memory=False)

    def checked_block(self) -> np.ndarray:
        """The block; raises CacheError if a byte of the file is not as it was saved."""
        with self._lock:
            if not self._checked:
                if files.sha256(self._path) != self._sha256:
                    raise _damaged(self._path)
                self._checked = True
        return self.block

    def front(self) -> np.ndarray | None:
        return self.checked_block()[: self.layout.front]

    def _parts(self, name: str) -> list[np.ndarray]:
        return self.layout.arrays(self.checked_block(), name)


def write_state(path: Path, layout: Layout, block: np.ndarray) -> str:
    """Write a block as a state's file; returns its SHA-256 (hex)."""
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        pieces = [memoryview(_header(layout))]
        pieces += [block[i : i + files.CHUNK].data for i in range(0, layout.nbytes, files.CHUNK)]
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its place when the block ends; a run that was there goes
    only then. Raises CacheError where something else is there, or nothing can be written."""
    target, beside = _reserved(folder)
    try:
        yield beside
        files.replace_folder(beside, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_target(folder: str | os.PathLike[str]) -> None:
    """Raises CacheError where `writing` could not even begin: to know it before a long run, not after."""
    _, beside = _reserved(folder)
    beside.rmdir()


def _reserved(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """(the folder, a new one beside it)."""
    target = Path(os.path.realpath(folder))
    beside = files.sibling(target)
    try:
        used = target.exists() and (not target.is_dir() or any(target.iterdir()))
        if used and not (target / INDEX).is_file():
            raise CacheError(f"'{target}' is not empty and is no saved run; choose an empty or a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    return target, beside


def _unwritable(target: Path, error: OSError) -> CacheError:
    return CacheError(
        f"cannot write a run to '{target}' ({error.strerror}); choose a folder that you can write to."
    )


def write_index(folder: Path, content: Mapping[str, Any]) -> None:
    """Write run.json: `content`, the format, and the SHA-256 of both."""
    whole = {"format": FORMAT, "version": VERSION, **content}
    whole["sha256"] = _digest(whole)
    with files.replacing(folder / INDEX) as file:
        file.write(json.dumps(whole, indent=1).encode() + b"\n")


def read_index(folder: Path) -> dict[str, Any]:
    """The content of run.json; raises CacheError where it is missing, damaged or of a newer version."""
    path = folder / INDEX
    try:
        if path.stat().st_size > LIMIT:
            raise _damaged(path)
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CacheError(
            f"there is no saved run at '{folder}' ({error.strerror}); give the folder of a saved run."
        ) from error
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CacheError(
            f"'{path}' is not the index of a saved run; give the folder that a run was saved to."
        )
    if content.get("version") != VERSION:
        raise CacheError(
            f"'{path}' is of version {content.get('version')}, this sige_deploy reads {VERSION}; record the "
            "run anew, or upgrade sige_deploy."
        )
    if content.pop("sha256", None) != _digest(content):
        raise _damaged(path)
    return content


def write_tensors(folder: Path, tensors: Mapping[str, np.ndarray]) -> str:
    """Write the small arrays; returns the file's SHA-256 (hex)."""
    from safetensors.numpy import save  # its save_file says nothing of a full disk by an OSError

    path = folder / TENSORS
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))
    files.sync_file(path)
    return files.sha256(path)


def read_tensors(folder: Path, sha256: str) -> dict[str, np.ndarray]:
    """The small arrays; raises CacheError where the file is missing or a byte is not as it was saved."""
    from safetensors.numpy import load_file

    path = folder / TENSORS
    try:
        if files.sha256(path) != sha256:
            raise _damaged(path)
        return load_file(path)
    except OSError as error:
        raise CacheError(f"cannot read '{path}' ({error.strerror}); save the run anew.") from error


def _header(layout: Layout) -> bytes:
    """Length and JSON header of a state's file, padded so that its data is aligned."""
    entries: dict[str, Any] = {}
    end = pads = 0

    def fill(begin: int) -> None:
        nonlocal pads
        if begin > end:
            entries[f"pad.{pads}"] = {"dtype": "U8", "shape": [begin - end], "data_offsets": [end, begin]}
            pads += 1

    for name, (shape, dtype) in layout.parts.items():
        begin = layout.begins[name]
        fill(begin)
        end = begin + _nbytes((shape, dtype))
        entries[name] = {"dtype": DTYPES[dtype.name], "shape": list(shape), "data_offsets": [begin, end]}
    fill(layout.nbytes)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _nbytes(spec: Spec) -> int:
    return math.prod(spec[0]) * spec[1].itemsize


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path) -> CacheError:
    return CacheError(f"'{path}' is damaged or truncated; record and save the run anew.")
