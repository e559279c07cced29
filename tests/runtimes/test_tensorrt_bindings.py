"""TensorRT's real packages: the stand-in has no name or parameter that they lack, the plugins load through
the runtime, and an unreadable engine is one sentence. Engines run in none of them here: that takes a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plugins.tensorrt.packages import FOLDER, REGISTRIES, ROOT

from sige_deploy import native

PLUGINS = [ROOT / "build" / folder / native.PLUGINS for folder in ("check_cuda", "native")]


@pytest.mark.parametrize("package", REGISTRIES)
def test_the_stand_in_is_like_the_real_one(package: str, tmp_path: Path) -> None:
    folder, module = FOLDER / package, REGISTRIES[package]
    if not (folder / module).is_dir():
        pytest.skip(f"needs the packages of TensorRT {package}: run make build/tensorrt/ready")
    garbage = tmp_path / "record.engine"
    garbage.write_bytes(b"no engine" * 100)
    plugins = next((str(path) for path in PLUGINS if path.is_file()), None)
    arguments = {"package": str(folder), "module": module, "garbage": str(garbage), "plugins": plugins}
    script = Path(__file__).with_name("tensorrt_bindings.py")
    done = subprocess.run(
        [sys.executable, script, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["differences"] == []
    assert got["creators"] == (["Attention", "Conv", "Gather", "Scatter"] if plugins else [])
    name, version = package.split("-")
    assert got["title"] == f"tensorrt-{name} {'.'.join(version.split('.')[:2])}"
    # Without a driver it is not the file that is at fault.
    assert f" failed in {got['title']}: " in got["said"] and "no reason" not in got["said"]
    assert got["said"].endswith((").", "...")) and " at /" not in got["said"]
