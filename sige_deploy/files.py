"""Files written beside and renamed into place, and their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 4 << 20


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends: whoever opens `path` sees the old contents or
    the new ones, whole, even if the process is killed. If the block raises, `path` stays as it was.
    Raises OSError."""
    path = Path(os.path.realpath(path))
    beside = sibling(path)
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def sibling(path: Path) -> Path:
    """A new hidden name in the folder of `path`: a rename between the two stays on one file system."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"


def replace_folder(folder: Path, target: Path) -> None:
    """Rename `folder`, a `sibling`, to `target`, whose former contents go only when the new ones are
    there; if that fails they are back in place. Raises OSError."""
    old = sibling(target)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(folder, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file's contents."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Have the file's contents on the disk before its name is."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
