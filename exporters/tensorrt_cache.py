"""Built engines, kept to be taken again: by what they were built from, with what, and for which GPUs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from sige_deploy import files

LIMIT = 20 << 30  # bytes; beyond it the engines go that were not used for longest


def default_folder() -> Path:
    """`sige_deploy/tensorrt` in the user's folder for caches."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "sige_deploy" / "tensorrt"


def key(**parts: Any) -> str:
    """SHA-256 (hex) of everything that decides what an engine is; values as JSON has them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class EngineCache:
    """A folder of engines `<key>.engine`, each with `<key>.json`: its SHA-256 and what was said of it.

    What it holds may be deleted at any time. Where it cannot be written, nothing is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, key: str, target: Path) -> dict[str, Any] | None:
        """Put the engine at `target` and return what was said of it; None if there is none, or none whole."""
        engine, said = self._paths(key)
        try:
            known = json.loads(said.read_bytes())
            if files.sha256(engine) != known["sha256"]:
                return None
            _link(engine, target)
            os.utime(said)  # the engine is the bundle's file too
            return dict(known["content"])
        except (OSError, ValueError, LookupError, TypeError):
            target.unlink(missing_ok=True)
            return None

    def keep(self, key: str, source: Path, content: dict[str, Any]) -> None:
        """Keep the engine at `source` with what is to say of it."""
        engine, said = self._paths(key)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.replacing(said) as file:
                file.write(json.dumps({"sha256": files.sha256(source), "content": content}).encode())
            beside = files.sibling(engine)
            try:
                _link(source, beside)
                os.replace(beside, engine)
            finally:
                beside.unlink(missing_ok=True)
            self._make_room()

    def _make_room(self) -> None:
        engines = self.folder.glob("*.engine")
        kept = [(e.with_suffix(".json").stat().st_mtime, e.stat().st_size, e) for e in engines]
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept)[:-1]:
            if total <= LIMIT:
                break
            total -= size
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.engine", self.folder / f"{key}.json"


def _link(source: Path, target: Path) -> None:
    """One file under two names where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
