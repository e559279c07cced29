"""What a session on a GPU promises beside right values: kinds of arrays, many sizes, files, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import sige_deploy as sige
from sige_deploy.bench import always_sparse
from sige_deploy.errors import InputError, RuntimeFailure, StateError
from sige_deploy.runtimes.base import create


@pytest.fixture
def gpu(device: str, tiny_path: Path) -> Iterator[sige.Session]:
    with sige.open(tiny_path, device) as opened:
        yield opened


def tensors(arrays: dict[str, np.ndarray], device: str = "cpu") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}


def test_outputs_are_of_the_kind_of_the_inputs(gpu: sige.Session) -> None:
    inputs, changed = tiny.inputs(), tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9))
    gpu.record(**inputs)
    as_numpy = gpu.edit(**changed)["y"]
    on_cpu = gpu.edit(**tensors(changed))["y"]
    on_gpu = gpu.edit(**tensors(changed, "cuda"))["y"]
    assert isinstance(as_numpy, np.ndarray) and on_cpu.device.type == "cpu" and on_gpu.is_cuda
    np.testing.assert_allclose(on_cpu.numpy(), as_numpy, rtol=0, atol=1e-6)
    np.testing.assert_allclose(on_gpu.cpu().numpy(), as_numpy, rtol=0, atol=1e-6)


def test_inputs_are_read_in_the_order_of_torch_streams(gpu: sige.Session) -> None:
    inputs = tensors(tiny.inputs(), "cuda")
    changed = tensors(tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9)), "cuda")
    gpu.record(**inputs)
    wanted = gpu.edit(**changed)["y"].clone()
    late = {name: torch.full_like(value, 7) for name, value in changed.items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # some 25 ms before the values are there
        for name, value in changed.items():
            late[name].copy_(value)
        got = gpu.edit(**late)["y"] + 0
        for value in late.values():
            value.fill_(7)  # the session must not read them any more
    stream.synchronize()
    assert torch.allclose(got, wanted, rtol=0, atol=1e-6)


def test_edits_of_all_sizes_in_any_order(gpu: sige.Session, tiny_path: Path) -> None:
    inputs = tiny.inputs()
    height, width = inputs["image"].shape[2:]
    rng = np.random.default_rng(0)
    bundle = always_sparse(sige.open_bundle(tiny_path))
    with sige.Session(bundle, create(None, bundle, "cpu", 1)) as cpu:
        cpu.record(**inputs)
        gpu.record(**inputs)
        for turn in range(60):
            h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
            y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            changed = tiny.edited(inputs, slice(y, y + h), slice(x, x + w))
            wanted = cpu.edit(**changed)["y"]
            np.testing.assert_allclose(gpu.edit(**changed)["y"], wanted, rtol=0, atol=1e-4, err_msg=str(turn))
            if turn % 10 == 9:
                cpu.commit()
                gpu.commit()


def test_edits_with_the_mask_of_the_one_before(gpu: sige.Session) -> None:
    """They begin before their inputs have been looked at, beside it. A mask on the GPU is not known: such
    edits wait, and give the same bits. A refused one leaves what can be committed as it was."""
    rng, inputs = np.random.default_rng(0), tensors(tiny.inputs(), "cuda")
    gpu.record(**inputs)
    for turn in range(20):
        mask = rng.random((tiny.H, tiny.W)) < 0.1
        for again in range(6):
            image = torch.where(
                torch.from_numpy(mask).cuda(), torch.randn_like(inputs["image"]), inputs["image"]
            )
            changed = inputs | {"image": image, "offset": torch.randn_like(inputs["offset"])}
            waited = gpu.edit(**changed, mask=torch.from_numpy(mask).cuda())
            for _ in range(3):
                found = gpu.edit(**changed, mask=mask)
                assert all(torch.equal(found[name], value) for name, value in waited.items()), (turn, again)
            for name, value in (("image", torch.full_like(image, np.nan)), ("gain", inputs["gain"] + 1)):
                with pytest.raises(InputError, match=name):
                    gpu.edit(**changed | {name: value}, mask=mask)
        gpu.commit()
        inputs = changed
        committed = gpu.edit(**inputs)
        assert gpu.report.path == "reuse"
        assert all(torch.equal(committed[name], value) for name, value in waited.items()), turn


def test_a_saved_state_goes_from_the_gpu_to_the_cpu_and_back(
    gpu: sige.Session, device: str, tiny_path: Path, tmp_path: Path
) -> None:
    changed = tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9))
    gpu.record(**tiny.inputs())
    wanted = gpu.edit(**changed)["y"]
    gpu.save(tmp_path / "state")
    with sige.open(tiny_path, threads=1) as cpu:
        cpu.load(tmp_path / "state")
        np.testing.assert_allclose(cpu.edit(**changed)["y"], wanted, rtol=0, atol=1e-4)
        cpu.save(tmp_path / "back")
    with sige.open(tiny_path, device) as other:
        other.load(tmp_path / "back")
        np.testing.assert_allclose(other.edit(**changed)["y"], wanted, rtol=0, atol=1e-6)


def test_nothing_changed_is_the_record_bit_for_bit(gpu: sige.Session) -> None:
    record = gpu.record(**tiny.inputs())
    again = gpu.edit(**tiny.inputs())
    assert gpu.report.path == "reuse"
    for name, value in record.items():
        assert value.tobytes() == again[name].tobytes()


def test_mistakes_are_one_sentence_and_leave_the_session_usable(gpu: sige.Session, tiny_path: Path) -> None:
    with pytest.raises(StateError, match="call record or load first"):
        gpu.edit(**tiny.inputs())
    gpu.record(**tiny.inputs())
    broken = tiny.inputs()
    broken["image"][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError) as error:
        gpu.edit(**tensors(broken, "cuda"))
    assert "image" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(RuntimeFailure) as failure, sige.open(tiny_path, "cuda:99") as absent:
        absent.record(**tiny.inputs())
    assert "99" in str(failure.value) and "\n" not in str(failure.value)
    changed = tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9))
    assert np.isfinite(gpu.edit(**changed)["y"]).all()
