"""A recorded state in one block of host memory or of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sige_deploy import caches
from sige_deploy.devices.memory import offsets
from sige_deploy.manifest import Manifest
from sige_deploy.runs.codes import Code, Spec, Storage, code_of


class Layout:
    """Where the arrays of a recorded state lie in a block of bytes.

    storage: how caches are kept. with_caches: whether they are kept at all, or inputs and outputs alone.
    parts: (shape, dtype) of what is kept, by name; several parts of one array are "<name>/<i>".
    """

    def __init__(self, manifest: Manifest, storage: Storage = "exact", with_caches: bool = True) -> None:
        self.storage, self.with_caches = storage, with_caches
        entries = caches.ordered(manifest)
        self.entries = {n: e for n, e in entries.items() if with_caches or not n.startswith("cache.")}
        bases = {f"cache.{c.name}": c.reads is not None for c in manifest.caches if c.kind == "base"}
        self.codes: dict[str, Code] = {}
        self.parts: dict[str, Spec] = {}
        self._names: dict[str, list[str]] = {}
        exact_to: str | None = None
        for name, (shape, dtype) in self.entries.items():
            code = self.codes[name] = code_of(storage, dtype, name in bases, bases.get(name, False))
            specs = code.parts((shape, dtype))
            names = [name] if len(specs) == 1 else [f"{name}/{i}" for i in range(len(specs))]
            self._names[name] = names
            self.parts.update(zip(names, specs))
            if exact_to is None and specs != [(shape, dtype)]:
                exact_to = names[0]
        self.begins, self.nbytes = offsets(self.parts)
        #: Bytes from the beginning that are as on a device.
        self.front = self.nbytes if exact_to is None else self.begins[exact_to]

    def arrays(self, block: np.ndarray, name: str) -> list[np.ndarray]:
        """Views of the parts of an array in a block of `nbytes` bytes."""
        found = []
        for part in self._names[name]:
            shape, dtype = self.parts[part]
            begin = self.begins[part]
            end = begin + math.prod(shape) * dtype.itemsize
            found.append(block[begin:end].view(dtype).reshape(shape))
        return found


class State:
    """A `Kept` state: a layout and a block of bytes, uint8 [layout.nbytes]. in_memory: the block is memory,
    not a file's. pageable: it was to be pinned for the device, and could not be."""

    def __init__(
        self, layout: Layout, block: np.ndarray, in_memory: bool = True, pageable: bool = False
    ) -> None:
        self.layout, self.block, self.in_memory, self.pageable = layout, block, in_memory, pageable

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    @property
    def resident(self) -> bool:
        return self.in_memory and self.layout.storage == "exact"

    def checked_block(self) -> np.ndarray:
        """The block, for whoever reads all of it."""
        return self.block

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep all of a recorded state, of which this one may hold a part."""
        for name in self.layout.entries:
            self.replace(name, arrays[name])

    def array(self, name: str) -> np.ndarray:
        return self.layout.codes[name].decode(self._parts(name), self.layout.entries[name][1])

    def rows(self, name: str, pixels: np.ndarray) -> np.ndarray:
        parts = [np.take(part, pixels, axis=1) for part in self._parts(name)]
        return self.layout.codes[name].decode(parts, self.layout.entries[name][1])

    def front(self) -> np.ndarray | None:
        return self.block[: self.layout.front]

    def write(self, name: str, pixels: np.ndarray, values: np.ndarray) -> None:
        for part, value in zip(self._parts(name), self.layout.codes[name].encode(values)):
            part[:, pixels] = value

    def replace(self, name: str, value: np.ndarray) -> None:
        for part, encoded in zip(self._parts(name), self.layout.codes[name].encode(value)):
            np.copyto(part, encoded)

    def raw(self, name: str, pixels: np.ndarray) -> list[np.ndarray]:
        """Rows as they are kept, for `put_raw`."""
        return [part[:, pixels] for part in self._parts(name)]

    def put_raw(self, name: str, pixels: np.ndarray, kept: list[np.ndarray]) -> None:
        """Put rows back that `raw` gave."""
        for part, rows in zip(self._parts(name), kept):
            part[:, pixels] = rows

    def _parts(self, name: str) -> list[np.ndarray]:
        return self.layout.arrays(self.block, name)
