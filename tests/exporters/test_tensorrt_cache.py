"""Engines kept from former builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sige_deploy.exporters import tensorrt_cache
from sige_deploy.exporters.tensorrt_cache import EngineCache, default_folder, key


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def keep(cache: EngineCache, name: str, contents: bytes) -> None:
    source = cache.folder.with_name("source")
    source.write_bytes(contents)
    cache.keep(name, source, {"layers": len(contents)})
    source.unlink()


def test_what_is_kept_is_taken(cache: EngineCache, tmp_path: Path) -> None:
    assert cache.take("a", tmp_path / "engine") is None
    keep(cache, "a", b"engine")
    assert cache.take("a", tmp_path / "engine") == {"layers": 6}
    assert (tmp_path / "engine").read_bytes() == b"engine"


@pytest.mark.parametrize("name", ["a.engine", "a.json"])
@pytest.mark.parametrize("contents", [b"", b"null", None])
def test_what_is_damaged_is_not(
    cache: EngineCache, tmp_path: Path, name: str, contents: bytes | None
) -> None:
    keep(cache, "a", b"engine")
    (cache.folder / name).unlink()
    if contents is not None:
        (cache.folder / name).write_bytes(contents)
    assert cache.take("a", tmp_path / "engine") is None
    assert not (tmp_path / "engine").exists()


def test_what_was_not_used_for_longest_goes_first(
    cache: EngineCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate("abc"):
        keep(cache, name, name.encode() * 100)
        os.utime(cache.folder / f"{name}.json", (age, age))
    assert cache.take("a", tmp_path / "engine") is not None  # used now
    monkeypatch.setattr(tensorrt_cache, "LIMIT", 300)
    keep(cache, "d", b"d" * 100)
    assert sorted(path.name for path in cache.folder.glob("*.engine")) == ["a.engine", "c.engine", "d.engine"]
    assert not (cache.folder / "b.json").exists()


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file" / "cache")
    (tmp_path / "source").write_bytes(b"engine")
    cache.keep("a", tmp_path / "source", {})
    assert cache.take("a", tmp_path / "engine") is None


def test_everything_that_an_engine_follows_from_is_in_its_key() -> None:
    parts = {"graph": ["a", {"w": "b"}], "version": "1.7", "gpu": None, "capabilities": ["8.6"]}
    assert key(**parts) == key(**dict(reversed(parts.items())))
    changed = [{**parts, name: "other"} for name in parts]
    assert len({key(**parts), *(key(**other) for other in changed)}) == 5


def test_the_cache_is_in_the_users_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sige_deploy" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "sige_deploy" / "tensorrt"
