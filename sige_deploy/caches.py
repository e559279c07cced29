"""Cache files: a recorded state as one safetensors file, written crash-safely and checked whole before use.

The header follows from the bundle alone (names, shapes, dtypes, bundle id), but for the digest: SHA-256
over the whole file with the digest's own 64 characters as zeros. So any altered byte is found.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sige_deploy import files
from sige_deploy.errors import CacheError
from sige_deploy.manifest import CacheSpec, InputSpec, Manifest, OutputSpec

FORMAT = "sige_deploy.caches"
VERSION = 1
HEADER_LIMIT = 64 << 20  # bytes
_NO_DIGEST = "0" * 64
DTYPES = {
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


def save(path: str | os.PathLike[str], manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` (named and shaped as `expected` says) to `path`; an older file there stays whole until
    the new one is. Raises CacheError when the file cannot be written."""
    header = _header(manifest)
    digest = hashlib.sha256(header)
    try:
        with files.replacing(path) as file:
            file.write(header)
            for name in expected(manifest):
                for chunk in _chunks(arrays[name]):
                    digest.update(chunk)
                    write(file, chunk)
            file.seek(header.index(_NO_DIGEST.encode()))
            file.write(digest.hexdigest().encode())
    except OSError as error:
        raise CacheError(
            f"cannot write caches to '{path}' ({error.strerror}); "
            "choose a file in a folder that you can write to."
        ) from error


def load(path: str | os.PathLike[str], manifest: Manifest) -> dict[str, np.ndarray]:
    """Read a cache file into new arrays. Raises CacheError, before anything is used, if the file is missing,
    damaged, of another bundle or of a newer version."""
    damaged = CacheError(f"'{path}' is damaged or truncated; record again and save anew.")
    try:
        if not Path(path).is_file():
            raise CacheError(f"there is no cache file '{path}'; give the file that session.save wrote.")
        with open(path, "rb") as file:
            header, digest = _read_header(path, file, manifest)
            running = hashlib.sha256(header)
            arrays = {}
            for name, (shape, dtype) in expected(manifest).items():
                arrays[name] = np.empty(shape, dtype)
                for chunk in _chunks(arrays[name]):
                    if file.readinto(chunk) != len(chunk):
                        raise damaged
                    running.update(chunk)
            if file.read(1) or running.hexdigest() != digest:
                raise damaged
    except OSError as error:
        raise CacheError(
            f"cannot read caches from '{path}' ({error.strerror}); give the file that session.save wrote."
        ) from error
    return arrays


def expected(manifest: Manifest) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name, shape and dtype of each array in a cache file: "input.<name>", "output.<name>", "cache.<name>",
    widest items first, so that all are aligned."""
    specs: dict[str, InputSpec | OutputSpec | CacheSpec] = {
        **{f"input.{x.name}": x for x in manifest.inputs},
        **{f"output.{x.name}": x for x in manifest.outputs},
        **{f"cache.{x.name}": x for x in manifest.caches},
    }
    entries = {name: (tuple(x.shape), np.dtype(x.dtype)) for name, x in specs.items()}
    return dict(sorted(entries.items(), key=lambda entry: (-entry[1][1].itemsize, entry[0])))


def ordered(manifest: Manifest) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The entries of `expected` in the order in which they lie in memory: inputs and outputs, then the caches
    that edits read whole, then those of which they read rows."""
    by_rows = {f"cache.{c.name}" for c in manifest.caches if c.reads is not None}

    def group(name: str) -> int:
        return 0 if not name.startswith("cache.") else 2 if name in by_rows else 1

    entries = expected(manifest)
    return {name: entries[name] for name in sorted(entries, key=group)}


def write(file: BinaryIO, chunk: memoryview) -> None:
    """One piece of array data into the file."""
    file.write(chunk)


def _header(manifest: Manifest) -> bytes:
    """Length and JSON header of a cache file of this bundle, digest still zero, padded to 8 bytes."""
    entries: dict[str, object] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(VERSION),
            "bundle": manifest.bundle_id,
            "sha256": _NO_DIGEST,
        }
    }
    offset = 0
    for name, (shape, dtype) in expected(manifest).items():
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        entries[name] = {"dtype": DTYPES[dtype.name], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: str | os.PathLike[str], file: BinaryIO, manifest: Manifest) -> tuple[bytes, str]:
    """(header with the digest zeroed, digest) of an opened file; raises CacheError for all but this "
    "bundle's own."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    text = file.read(length) if length <= HEADER_LIMIT else b""
    try:
        metadata = json.loads(text)["__metadata__"]
        kind, version = metadata["format"], int(metadata["version"])
        bundle, digest = str(metadata["bundle"]), str(metadata["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CacheError(
            f"'{path}' is not a cache file or is damaged; give the file that session.save wrote."
        ) from None
    if kind != FORMAT:
        raise CacheError(f"'{path}' is not a cache file; give the file that session.save wrote.")
    if version > VERSION:
        raise CacheError(
            f"'{path}' is a cache file of version {version}, this sige_deploy reads {VERSION}; "
            "upgrade sige_deploy."
        )
    if bundle != manifest.bundle_id:
        raise CacheError(
            f"'{path}' holds caches of another bundle; open that bundle, or record anew with this one."
        )
    header = _header(manifest)
    if prefix + text.replace(digest.encode(), _NO_DIGEST.encode(), 1) != header:
        raise CacheError(f"'{path}' is damaged or truncated; record again and save anew.")
    return header, digest


def _chunks(array: np.ndarray) -> Iterator[memoryview]:
    """The array's memory in pieces of a few MB, writable if it is."""
    view = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(view), files.CHUNK):
        yield view[start : start + files.CHUNK]
