"""ONNX Runtime writes records into our arrays and reads caches where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from graph.helpers import ints, network

import sige_deploy as sige
from sige_deploy.bundle import open_bundle
from sige_deploy.runtimes.base import HostRuntime
from sige_deploy.runtimes.onnxruntime import OnnxRuntime


@pytest.fixture
def runtime(tiny_path: Path) -> OnnxRuntime:
    return OnnxRuntime(open_bundle(tiny_path), "cpu", threads=1, kernels=False)


def test_it_offers_what_a_session_needs(runtime: HostRuntime) -> None:
    assert runtime.name == "onnxruntime cpu"
    assert runtime.edit_inputs() == {
        "rows.image", "offset", "base.h", "static.gain", "halo.conv3", "table.conv3",
    }  # fmt: skip


def test_record_fills_arrays_of_the_manifests_shapes(runtime: OnnxRuntime) -> None:
    inputs = tiny.inputs()
    outputs, caches = runtime.record(inputs)
    np.testing.assert_allclose(outputs["y"], tiny.dense(**inputs), rtol=1e-5, atol=2e-5)
    h = (inputs["image"] * inputs["gain"]).transpose(0, 2, 3, 1).reshape(2, -1, 3)
    np.testing.assert_array_equal(caches["base.h"], h)
    np.testing.assert_array_equal(caches["static.gain"], np.full((1, 1, 3), 1.5))
    assert all(array.flags.owndata and array.flags.writeable for array in caches.values())


def test_dense_is_record_without_caches(runtime: OnnxRuntime) -> None:
    inputs = tiny.inputs()
    np.testing.assert_array_equal(runtime.dense(inputs)["y"], runtime.record(inputs)[0]["y"])


def test_bound_arrays_are_used_in_place(runtime: OnnxRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run the engine's outputs lie at our addresses: nothing was copied."""
    session, seen = runtime._session("record.onnx"), {}

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            session.run_with_iobinding(binding, options)
            names = [node.name for node in session.get_outputs()]
            seen.update(zip(names, (value.data_ptr() for value in binding.get_outputs())))

    monkeypatch.setitem(runtime._sessions, "record.onnx", Spy())
    outputs, caches = runtime.record(tiny.inputs())
    assert seen == {name: array.ctypes.data for name, array in {**outputs, **caches}.items()}


def test_an_edit_of_no_rows_runs(runtime: OnnxRuntime) -> None:
    inputs = tiny.inputs()
    _, caches = runtime.record(inputs)
    feeds = {
        "rows.image": np.empty((2, 0, 3), np.float32), "offset": inputs["offset"],
        "halo.conv3": np.empty(0, np.int32), "table.conv3": np.empty((0, 9), np.int32),
    }  # fmt: skip
    results = runtime.edit(feeds, caches, ["rows.y", "rows.h"])
    assert set(results) == {"rows.y", "rows.h"} and results["rows.y"].shape == (2, 0, 4)


def test_zeros_of_a_pad_count_in_a_pool_behind_it(tmp_path: Path) -> None:
    """ONNX Runtime's optimizer gives the pad to the pool, which takes it for minus infinity."""
    text = "p = Pad(x, pads) y = MaxPool<kernel_shape=[3,3]>(p)"
    onnx.save(network(text, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}), tmp_path / "net.onnx")
    below = {"x": np.full((1, 4, 12, 10), -1, np.float32)}
    bundle = sige.export(tmp_path / "net.onnx", below, tmp_path / "bundle", ["x"])
    made = OnnxRuntime(bundle, "cpu", threads=1, kernels=False).dense(below)["y"]
    want = np.full((1, 4, 12, 10), -1, np.float32)
    want[:, :, [0, -1]], want[:, :, :, [0, -1]] = 0, 0
    np.testing.assert_array_equal(made, want)


def test_sessions_are_made_without_flash_attention(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    switch, seen = "ORT_DISABLE_FLASH_ATTENTION", []
    make = onnxruntime.InferenceSession

    def noted(*given: Any, **options: Any) -> Any:
        seen.append(os.environ.get(switch))
        return make(*given, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    for before in (None, "0"):
        if before is None:
            monkeypatch.delenv(switch, raising=False)
        else:
            monkeypatch.setenv(switch, before)
        runtime = OnnxRuntime(open_bundle(tiny_path), "cpu", threads=1, kernels=False)
        runtime.record(tiny.inputs())
        assert seen and set(seen) == {"1"} and os.environ.get(switch) == before
