"""Whole sessions on the stand-in for the driver: captured graphs give the host's bits, with few calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.devices import cuda, exchange
from sige_deploy.devices.exchange import Exchange
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.inputs import is_tensor
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers
from sige_deploy.session import Session

from .fake_cuda import Error, Runtime
from .fake_gpu import FakeGpu

BOX = slice(2, 6), slice(3, 9)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    fake = Runtime()
    monkeypatch.setattr(cuda, "_bindings", lambda device: fake)
    return fake


@pytest.fixture
def gpu(tiny_path: Path, library: Path, driver: Runtime) -> Iterator[Session]:
    bundle = open_bundle(tiny_path)
    with Session(bundle, FakeGpu(bundle, library, driver)) as opened:
        yield opened


def test_equal_bits_with_plain_runs(
    gpu: Session, on_buffers: Callable[[Bundle], OnnxRuntimeOnBuffers]
) -> None:
    rng = np.random.default_rng(0)
    inputs = tiny.inputs()
    captured = 0
    with Session(gpu.bundle, on_buffers(gpu.bundle)) as plain:
        for session in (gpu, plain):
            session.record(**inputs)
        for turn in range(60):
            h, w = (4, 6) if turn % 2 else rng.integers(1, (tiny.H // 2, tiny.W))
            y, x = rng.integers(0, tiny.H - h + 1), rng.integers(0, tiny.W - w + 1)
            changed = tiny.edited(inputs, slice(y, y + h), slice(x, x + w), by=1 + turn)
            changed["offset"] = inputs["offset"] + turn
            mask = rng.random((tiny.H, tiny.W)) < 0.1 if turn % 3 == 1 else None
            wanted, got = plain.edit(**changed, mask=mask), gpu.edit(**changed, mask=mask)
            for name, value in wanted.items():
                assert got[name].tobytes() == value.tobytes(), (turn, name)
            assert gpu.report.path == plain.report.path and gpu.report.rows == plain.report.rows
            captured += gpu.report.captured
            if turn % 7 == 6:
                gpu.commit()
                plain.commit()
    assert captured > 20


def test_edits_with_the_mask_of_the_one_before(
    gpu: Session, on_buffers: Callable[[Bundle], OnnxRuntimeOnBuffers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run before their inputs have been looked at, and give the bits of edits that wait; one that is
    then refused leaves what can be committed as it was."""
    rng = np.random.default_rng(3)
    masks = [rng.random((tiny.H, tiny.W)) < share for share in (0.03, 0.02, 1.0, 0.0)]
    inputs, ahead, seen = tiny.inputs(), [False], Counter[tuple[str, bool, str]]()
    shared: object = inputs["offset"]
    with Session(gpu.bundle, on_buffers(gpu.bundle)) as plain, gpu.held() as device, plain.held() as waiting:
        monkeypatch.setattr(waiting, "listed", lambda mask: None)
        listed = device.listed
        monkeypatch.setattr(
            device, "listed", lambda mask: ahead.append(listed(mask) is not None) or listed(mask)
        )
        for session in (gpu, plain):
            session.record(**inputs)
        mask, fits = masks[0], False
        for turn in range(400):
            if rng.random() < 0.2:
                mask = masks[rng.integers(len(masks))]
            given = mask.copy() if rng.random() < 0.9 else None
            changed = tiny.edited(inputs, *BOX, by=1 + turn)
            changed["offset"] = inputs["offset"] + turn
            if rng.random() < 0.1:
                shared = device.placed(changed["offset"])
            if rng.random() < 0.5:
                changed["offset"] = shared
            wrong = rng.choice(["", "", "", "nan", "pinned"])
            if wrong == "nan":
                changed["image"][:, :, 3, 4] = np.nan
            if wrong == "pinned":
                changed["gain"] = inputs["gain"] + 1
            ahead.clear()
            if wrong:
                for session in (gpu, plain):
                    with pytest.raises(InputError, match="NaN" if wrong == "nan" else "as recorded"):
                        session.edit(**changed, mask=given)
            else:
                fits = True
                wanted, got = plain.edit(**changed, mask=given), gpu.edit(**changed, mask=given)
                assert gpu.report.path == plain.report.path and gpu.report.rows == plain.report.rows
                for name, value in wanted.items():
                    assert got[name].tobytes() == value.tobytes(), (turn, name)
            seen[wrong, any(ahead), gpu.report.path] += 1
            if fits and rng.random() < 0.3:
                fits = False
                for session in (gpu, plain):
                    session.commit()
                for name, value in waiting.arrays().items():
                    assert device.arrays()[name].tobytes() == value.tobytes(), (turn, name)
    for path in ("sparse", "dense", "reuse"):
        assert seen["", True, path] > 3 and seen["nan", True, path] and seen["pinned", True, path], seen


def test_a_repeated_edit_asks_the_driver_for_little(gpu: Session, driver: Runtime) -> None:
    gpu.record(**tiny.inputs())
    for turn in range(4):
        driver.calls.clear()
        gpu.edit(**tiny.edited(tiny.inputs(), *BOX, by=turn + 1))
    assert gpu.report.captured
    # The only waits are for the counts and for the outputs.
    asked = {
        "cudaGetDevice": 1,
        "cudaMemcpyAsync": len(gpu.bundle.manifest.outputs),  # small inputs by one call of the kernels
        "cudaGraphLaunch": 2,
        "cudaEventRecord": 2,
        "cudaEventSynchronize": 2,
    }
    assert driver.calls == asked
    mask = tiny.changed(tiny.inputs(), tiny.edited(tiny.inputs(), *BOX))
    for turn in range(4):
        driver.calls.clear()
        gpu.edit(**tiny.edited(tiny.inputs(), *BOX, by=turn + 1), mask=mask)
    # What the inputs hold is found on a stream beside, and comes with the outputs: the only wait.
    beside = {"cudaEventRecord": 3, "cudaStreamWaitEvent": 2, "cudaEventSynchronize": 1}
    assert driver.calls == {**asked, **beside}


def test_tensors_on_the_device_are_copied_there(
    gpu: Session, driver: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of torch's stream, before and after; the only waits are for the counts and at the end."""
    monkeypatch.setattr(Exchange, "here", lambda self, value: is_tensor(value))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 7, raising=False)
    changed = {name: torch.from_numpy(x) for name, x in tiny.edited(tiny.inputs(), *BOX).items()}
    changed["image"] = changed["image"].to(memory_format=torch.channels_last)
    gpu.record(**tiny.inputs())
    wanted = gpu.edit(**tiny.edited(tiny.inputs(), *BOX))
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[BOX] = True
    for turn in range(6):
        driver.calls.clear()
        got = gpu.edit(**changed, mask=torch.from_numpy(mask) if turn > 2 else None)
        for name, value in wanted.items():
            np.testing.assert_array_equal(got[name].numpy(), value)
    assert gpu.report.captured
    assert driver.calls == {
        "cudaGetDevice": 1,
        "cudaEventRecord": 4,
        "cudaStreamWaitEvent": 2,
        "cudaMemcpyAsync": len(gpu.bundle.manifest.outputs),  # inputs and mask by one call of the kernels
        "cudaGraphLaunch": 2,
        "cudaEventSynchronize": 2,
    }


def test_placed_inputs_are_sent_once(
    gpu: Session, driver: Runtime, tiny_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "STAGED", -1)
    changed = tiny.edited(tiny.inputs(), *BOX)
    with gpu.held() as device:
        shared = {name: device.placed(array) for name, array in changed.items() if name != "image"}
    bundle = open_bundle(tiny_path)
    with Session(bundle, FakeGpu(bundle, library, driver)) as other:
        for session, sent in ((gpu, 1), (other, len(changed))):
            session.record(**tiny.inputs())
            wanted = session.edit(**changed)
            driver.calls.clear()
            got = session.edit(**{**changed, **shared})
            assert driver.calls["cudaMemcpyAsync"] == sent + len(wanted)
            for name, value in wanted.items():
                np.testing.assert_array_equal(got[name], value)


def test_failures_leave_the_session_usable(gpu: Session, driver: Runtime) -> None:
    gpu.record(**tiny.inputs())
    changed = tiny.edited(tiny.inputs(), *BOX)
    wanted = [gpu.edit(**changed)["y"] for _ in range(3)][-1]
    broken = {**changed, "offset": np.full_like(changed["offset"], np.nan)}
    with pytest.raises(InputError, match="'offset' holds NaN"):
        gpu.edit(**broken)
    driver.failing = Error.cudaErrorIllegalAddress
    with pytest.raises(RuntimeFailure, match="cudaErrorIllegalAddress"):
        gpu.edit(**changed)
    assert driver.current == 0
    np.testing.assert_array_equal(gpu.edit(**changed)["y"], wanted)
