"""Sessions: what an edit returns by each path, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import sige_deploy as sige
from sige_deploy.devices.host import HostDevice
from sige_deploy.errors import BundleError, InputError, RuntimeFailure, StateError
from sige_deploy.runtimes.onnxruntime import OnnxRuntime

Arrays = dict[str, np.ndarray]
BOX = (slice(3, 6), slice(4, 9))
OTHER_BOX = (slice(9, 14), slice(12, 20))


@pytest.fixture
def base() -> Arrays:
    return tiny.inputs()


@pytest.fixture
def recorded(session: sige.Session, base: Arrays) -> sige.Session:
    session.record(**base)
    return session


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def refused(kind: type[sige.SigeError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


# Paths


def test_record_returns_the_networks_outputs(session: sige.Session, base: Arrays) -> None:
    outputs = session.record(**base)
    assert list(outputs) == ["y", "total"]
    close(outputs["y"], tiny.dense(**base))
    close(outputs["total"], base["offset"].sum()[None])
    assert session.report.path == "record"
    assert session.report.active_fraction == 1
    assert session.report.rows == {"16x24": 16 * 24}
    assert session.report.cache_bytes == 4 * (2 * 16 * 24 * 3 + 3)
    assert session.report.milliseconds == pytest.approx(sum(session.report.stages.values()))


def test_a_sparse_edit_is_the_approximation(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(base, *BOX)
    outputs = recorded.edit(**edit)
    close(outputs["y"], tiny.sparse(base, edit, tiny.changed(base, edit)))
    assert recorded.report.path == "sparse"
    assert recorded.report.rows == {"16x24": 5 * 7 - 4}
    assert 0 < recorded.report.active_fraction < 0.1


def test_edits_do_not_accumulate(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(base, *BOX)
    first = recorded.edit(**edit)
    recorded.edit(**tiny.edited(base, *OTHER_BOX))
    np.testing.assert_array_equal(recorded.edit(**edit)["y"], first["y"])


@pytest.mark.parametrize("shape", ["one", "row", "corner", "all", "random"])
def test_the_recorded_input_as_edit_is_the_record_for_any_mask(
    recorded: sige.Session, base: Arrays, shape: str
) -> None:
    mask = np.zeros((tiny.H, tiny.W), bool)
    where = {"one": (7, 11), "row": (5,), "corner": (-1, -1), "all": ()}
    mask[where.get(shape, np.random.default_rng(3).random(mask.shape) < 0.02)] = True
    close(recorded.edit(**base, mask=mask)["y"], tiny.dense(**base))
    assert recorded.report.path == ("dense" if shape == "all" else "sparse")


def test_a_mask_given_is_exactly_what_is_edited(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(tiny.edited(base, *BOX), *OTHER_BOX)
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[BOX] = True
    close(recorded.edit(**edit, mask=mask)["y"], tiny.sparse(base, edit, mask))


def test_nothing_changed_is_the_recorded_output_bit_for_bit(session: sige.Session, base: Arrays) -> None:
    outputs = session.record(**base)
    again = session.edit(**base)
    assert session.report.path == "reuse"
    assert session.report.active_fraction == 0 and session.report.rows == {"16x24": 0}
    for name, array in outputs.items():
        np.testing.assert_array_equal(again[name], array)


def test_an_empty_mask_is_reuse(recorded: sige.Session, base: Arrays) -> None:
    outputs = recorded.edit(**tiny.edited(base, *BOX), mask=np.zeros((tiny.H, tiny.W), bool))
    assert recorded.report.path == "reuse"
    close(outputs["y"], tiny.dense(**base))


def test_a_large_edit_runs_dense(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(base, slice(0, 12), slice(None))
    close(recorded.edit(**edit)["y"], tiny.dense(**edit))
    assert recorded.report.path == "dense"
    assert recorded.report.rows == {"16x24": 13 * 24}
    assert recorded.report.active_fraction == pytest.approx(13 / 16)


def test_the_planners_threshold_decides(tmp_path: Path, base: Arrays) -> None:
    tiny.write_tiny(tmp_path / "never", dense_above=0.0)
    with sige.open(tmp_path / "never", threads=1) as session:
        session.record(**base)
        session.edit(**tiny.edited(base, *BOX))
        assert session.report.path == "dense"
        session.bundle.update_planner(1.0)
        session.edit(**tiny.edited(base, slice(None), slice(None)))
        assert session.report.path == "sparse"


def test_a_changed_free_input_alone_runs_dense(recorded: sige.Session, base: Arrays) -> None:
    edit = {**base, "offset": base["offset"] + 1}
    close(recorded.edit(**edit)["y"], tiny.dense(**edit))
    assert recorded.report.path == "dense" and recorded.report.active_fraction == 1


def test_a_changed_free_input_within_an_edit_counts_in_its_rows(recorded: sige.Session, base: Arrays) -> None:
    edit = {**tiny.edited(base, *BOX), "offset": base["offset"] + 1}
    outputs = recorded.edit(**edit)
    close(outputs["y"], tiny.sparse(base, edit, tiny.changed(base, edit)))
    close(outputs["total"], edit["offset"].sum()[None])


def test_outputs_are_the_users_own(session: sige.Session, base: Arrays) -> None:
    for call in (session.record, session.edit):
        outputs = call(**base)
        kept = outputs["y"].copy()
        outputs["y"][:] = -1
        np.testing.assert_array_equal(session.edit(**base)["y"], kept)


def test_a_report_is_the_users_own(recorded: sige.Session, base: Arrays) -> None:
    edits = [tiny.edited(base, *box) for box in (BOX, OTHER_BOX)]
    wanted = [recorded.edit(**edit) for edit in edits]
    rows = dict(recorded.report.rows)
    recorded.edit(**edits[0])
    recorded.report.rows.update(rows)
    for edit, outputs in zip(reversed(edits), reversed(wanted)):
        got = recorded.edit(**edit)
        assert all(got[name].tobytes() == value.tobytes() for name, value in outputs.items())


def test_inputs_may_be_changed_after_record(session: sige.Session, base: Arrays) -> None:
    mine = {name: array.copy() for name, array in base.items()}
    session.record(**mine)
    mine["image"][:] = 0
    session.edit(**base)
    assert session.report.path == "reuse"


def test_inputs_need_not_be_contiguous(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(base, *BOX)
    strided = np.asfortranarray(edit["image"])
    np.testing.assert_array_equal(
        recorded.edit(**{**edit, "image": strided})["y"], recorded.edit(**edit)["y"]
    )


# Commit


def test_after_commit_edits_start_from_the_last_edit(recorded: sige.Session, base: Arrays) -> None:
    first = tiny.edited(base, *BOX)
    committed = recorded.edit(**first)
    recorded.commit()
    np.testing.assert_array_equal(recorded.edit(**first)["y"], committed["y"])
    assert recorded.report.path == "reuse"

    second = tiny.edited(first, slice(5, 8), slice(7, 12))  # overlaps and touches the first
    active = sige.masks.dilate(tiny.changed(first, second), 1)
    expected = np.where(active, tiny.dense(**second), committed["y"])
    close(recorded.edit(**second)["y"], expected)
    assert recorded.report.path == "sparse"


def test_commits_equal_a_fresh_record_where_edits_are_exact(recorded: sige.Session, base: Arrays) -> None:
    """The caches after commits are those of a record of the final image: edits elsewhere agree."""
    image = base
    for box in (BOX, OTHER_BOX, (slice(0, 2), slice(20, 24))):
        image = tiny.edited(image, *box)
        recorded.edit(**image)
        recorded.commit()
    last = tiny.edited(image, slice(4, 12), slice(7, 14))
    active = sige.masks.dilate(tiny.changed(image, last), 1)
    y = recorded.edit(**last)["y"]
    close(np.where(active, y, 0), np.where(active, tiny.dense(**last), 0))


def test_commit_of_a_masked_edit_leaves_the_rest_to_a_later_one(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(tiny.edited(base, *BOX), *OTHER_BOX)
    mask = np.zeros((tiny.H, tiny.W), bool)
    mask[BOX] = True
    recorded.edit(**edit, mask=mask)
    recorded.commit()
    recorded.edit(**edit)
    assert recorded.report.path == "sparse"
    assert recorded.report.rows == {"16x24": 7 * 10 - 4}


def test_commit_of_a_dense_edit_records_it(recorded: sige.Session, base: Arrays) -> None:
    edit = tiny.edited(base, slice(0, 14), slice(None))
    recorded.edit(**edit)
    assert recorded.report.path == "dense"
    recorded.commit()
    recorded.edit(**edit)
    assert recorded.report.path == "reuse"
    again = tiny.edited(edit, *BOX)
    close(recorded.edit(**again)["y"], tiny.sparse(edit, again, tiny.changed(edit, again)))


def test_commit_of_a_reuse_changes_nothing(recorded: sige.Session, base: Arrays) -> None:
    recorded.edit(**base)
    recorded.commit()
    recorded.edit(**base)
    assert recorded.report.path == "reuse"


def test_a_committed_free_input_is_the_recorded_one(recorded: sige.Session, base: Arrays) -> None:
    edit = {**tiny.edited(base, *BOX), "offset": base["offset"] + 1}
    outputs = recorded.edit(**edit)
    recorded.commit()
    again = recorded.edit(**edit)
    assert recorded.report.path == "reuse"
    for name in outputs:
        np.testing.assert_array_equal(again[name], outputs[name])


def test_commit_uses_the_inputs_as_they_were_at_the_edit(recorded: sige.Session, base: Arrays) -> None:
    for box in (BOX, (slice(0, 14), slice(None))):  # sparse, dense
        edit = tiny.edited(base, *box)
        mine = {name: array.copy() for name, array in edit.items()}
        recorded.edit(**mine)
        mine["image"][:] = 0
        recorded.commit()
        recorded.edit(**edit)
        assert recorded.report.path == "reuse"
        recorded.record(**base)


def test_there_must_be_an_edit_to_commit(recorded: sige.Session, base: Arrays) -> None:
    assert "call edit first" in refused(StateError, recorded.commit)
    recorded.edit(**tiny.edited(base, *BOX))
    recorded.record(**base)
    refused(StateError, recorded.commit)
    recorded.edit(**tiny.edited(base, *BOX))
    recorded.commit()
    refused(StateError, recorded.commit)


def test_a_failed_commit_leaves_the_base(
    recorded: sige.Session, base: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = tiny.edited(base, *BOX)
    before = recorded.edit(**edit)["y"]
    with monkeypatch.context() as patch:
        patch.setattr(HostDevice, "_fresh_rows", fail)
        refused(RuntimeFailure, recorded.commit)
    np.testing.assert_array_equal(recorded.edit(**edit)["y"], before)
    recorded.commit()


# Refusals


def test_edit_before_record(session: sige.Session, base: Arrays) -> None:
    for call in (lambda: session.edit(**base), session.commit, lambda: session.save("x")):
        assert "record" in refused(StateError, call)
    refused(StateError, lambda: session.report)


def wrong_inputs(base: Arrays) -> dict[str, tuple[dict[str, Any], str]]:
    image = base["image"]
    nan, inf = image.copy(), image.copy()
    nan[1, 2, 3, 4] = np.nan
    inf[0, 0, 0, 0] = np.inf
    return {
        "shape": ({"image": image[:, :, :-1]}, "[2, 3, 15, 24]; expected float32 of shape [2, 3, 16, 24]"),
        "rank": ({"image": image[0]}, "[3, 16, 24]"),
        "dtype": ({"image": image.astype(np.float64)}, "dtype float64; expected float32"),
        "byte order": ({"image": image.astype(">f4")}, "dtype >f4; expected float32"),
        "NaN": ({"image": nan}, "NaN"),
        "infinity": ({"image": inf}, "infinity"),
        "unknown name": ({"imgae": image}, "no input 'imgae'; its inputs are 'image', 'gain', 'offset'"),
        "list": ({"image": image.tolist()}, "is a list"),
        "none": ({"image": None}, "is a NoneType"),
    }


@pytest.mark.parametrize("case", list(wrong_inputs(tiny.inputs())))
def test_a_wrong_input_is_refused(recorded: sige.Session, base: Arrays, case: str) -> None:
    changes, words = wrong_inputs(base)[case]
    for call in (recorded.record, recorded.edit):
        assert words in refused(InputError, lambda call=call: call(**{**base, **changes}))
    recorded.edit(**base)
    assert recorded.report.path == "reuse"


def test_a_missing_input_is_refused(recorded: sige.Session, base: Arrays) -> None:
    del base["offset"]
    for call in (recorded.record, recorded.edit):
        assert "'offset' is missing" in refused(InputError, lambda call=call: call(**base))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((16, 25), bool), "shape [16, 25]; expected a bool array of shape [16, 24]"),
        (np.zeros((1, 16, 24), bool), "shape [1, 16, 24]"),
        (np.zeros((16, 24), np.uint8), "dtype uint8"),
        (np.zeros((16, 24), np.float32), "dtype float32"),
        ([[True]], "is a list"),
    ],
)
def test_a_wrong_mask_is_refused(recorded: sige.Session, base: Arrays, mask: Any, words: str) -> None:
    assert words in refused(InputError, lambda: recorded.edit(**base, mask=mask))


def test_a_pinned_input_must_be_as_recorded(recorded: sige.Session, base: Arrays) -> None:
    edit = {**base, "gain": np.nextafter(base["gain"], 2)}
    message = refused(InputError, lambda: recorded.edit(**edit))
    assert "'gain' must be as recorded" in message and "it scales the cached h" in message


def test_devices_and_runtimes_that_are_not_there(tiny_path: Path) -> None:
    import onnxruntime

    assert "no device 'gpu'" in refused(InputError, lambda: sige.open(tiny_path, device="gpu"))
    assert "no runtime 'tf'" in refused(InputError, lambda: sige.open(tiny_path, runtime="tf"))
    assert "TensorRT" in refused(InputError, lambda: sige.open(tiny_path, runtime="tensorrt"))
    refused(InputError, lambda: sige.open(tiny_path, threads=0))
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "onnxruntime-gpu" in refused(RuntimeFailure, lambda: sige.open(tiny_path, device="cuda:0"))


def test_a_closed_session_says_so(recorded: sige.Session, base: Arrays) -> None:
    recorded.close()
    for call in (recorded.record, recorded.edit):
        assert "closed" in refused(StateError, lambda call=call: call(**base))
    recorded.close()


# Failures inside the engine


def fail(*_: Any, **__: Any) -> Any:
    raise RuntimeFailure("the engine failed.")


def test_a_failed_edit_leaves_the_base(
    recorded: sige.Session, base: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tiny.edited(base, *BOX), tiny.edited(base, slice(None), slice(None))
    before = recorded.edit(**small)["y"]
    report = recorded.report
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "edit", fail)
        patch.setattr(OnnxRuntime, "dense", fail)
        refused(RuntimeFailure, lambda: recorded.edit(**tiny.edited(base, *OTHER_BOX)))
        refused(RuntimeFailure, lambda: recorded.edit(**large))
    assert recorded.report is report
    recorded.commit()  # of the edit that worked
    np.testing.assert_array_equal(recorded.edit(**small)["y"], before)
    assert recorded.report.path == "reuse"


def test_a_failed_record_leaves_the_base(
    recorded: sige.Session, base: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntime, "record", fail)
        refused(RuntimeFailure, lambda: recorded.record(**tiny.inputs(1)))
    recorded.edit(**base)
    assert recorded.report.path == "reuse"


def test_engine_errors_are_one_sentence(tiny_copy: Path, base: Arrays) -> None:
    garbage = tiny_copy / "garbage"
    garbage.write_bytes(b"garbage")
    for wrong in (garbage, tiny_copy / "edit.onnx"):
        shutil.copy(wrong, tiny_copy / "record.onnx")
        tiny.rewrite_checksums(tiny_copy)
        with sige.open(tiny_copy, threads=1) as session:
            refused(RuntimeFailure, lambda s=session: s.record(**base))


def test_a_bundle_replaced_while_open_is_noticed(tiny_copy: Path, base: Arrays) -> None:
    """The edit graph is loaded late: it must not come from another export than the caches."""
    with sige.open(tiny_copy, threads=1) as session:
        session.record(**base)
        tiny.write_tiny(tiny_copy)
        message = refused(BundleError, lambda: session.edit(**tiny.edited(base, *BOX)))
        assert "changed since it was opened" in message


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("Failed to allocate memory for requested buffer of size 17179869184")],
)
def test_out_of_memory_says_so(
    recorded: sige.Session, base: Arrays, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(np, "empty", exhausted)
    message = refused(RuntimeFailure, lambda: recorded.record(**base))
    monkeypatch.undo()
    assert "out of memory" in message
    recorded.edit(**base)
    assert recorded.report.path == "reuse"


# Several sessions


def test_two_sessions_on_one_bundle_interleaved(tiny_path: Path) -> None:
    with sige.open(tiny_path, threads=1) as a, sige.open(tiny_path, threads=1) as b:
        bases = tiny.inputs(1), tiny.inputs(2)
        edits = tiny.edited(bases[0], *BOX), tiny.edited(bases[1], *OTHER_BOX)
        for session, base in zip((a, b), bases):
            session.record(**base)
        for _ in range(2):
            for session, base, edit in zip((a, b), bases, edits):
                close(session.edit(**edit)["y"], tiny.sparse(base, edit, tiny.changed(base, edit)))
        a.commit()
        close(b.edit(**bases[1])["y"], tiny.dense(**bases[1]))


def test_two_sessions_on_one_bundle_in_threads(tiny_path: Path) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with sige.open(tiny_path, threads=1) as session:
                base = tiny.inputs(seed)
                session.record(**base)
                for step in range(20):
                    edit = tiny.edited(base, slice(step % 8, step % 8 + 3), slice(seed, seed + 5), by=seed)
                    expected = tiny.sparse(base, edit, tiny.changed(base, edit))
                    close(session.edit(**edit)["y"], expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_session_in_threads(recorded: sige.Session, base: Arrays) -> None:
    failures: list[BaseException] = []

    def work(box: tuple[slice, slice]) -> None:
        try:
            edit = tiny.edited(base, *box)
            for _ in range(20):
                close(recorded.edit(**edit)["y"], tiny.sparse(base, edit, tiny.changed(base, edit)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(box,)) for box in (BOX, OTHER_BOX)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# Torch


def test_torch_in_torch_out(session: sige.Session, base: Arrays) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in base.items()}
    outputs = session.record(**tensors)
    assert all(isinstance(value, torch.Tensor) for value in outputs.values())
    edit = tiny.edited(base, *BOX)
    changed = {**tensors, "image": torch.from_numpy(edit["image"]).requires_grad_()}
    mask = torch.from_numpy(tiny.changed(base, edit))
    for given in (None, mask):
        y = session.edit(**changed, mask=given)["y"]
        close(y.numpy(), tiny.sparse(base, edit, tiny.changed(base, edit)))
    assert isinstance(session.edit(**edit)["y"], np.ndarray)


def test_a_torch_dtype_is_named(session: sige.Session, base: Arrays) -> None:
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(base["image"]).bfloat16()
    assert "dtype bfloat16; expected float32" in refused(
        InputError, lambda: session.record(**{**base, "image": image})
    )


def test_a_tensor_on_the_meta_device_is_refused(session: sige.Session, base: Arrays) -> None:
    torch = pytest.importorskip("torch")
    image = torch.empty(base["image"].shape, device="meta")
    refused(InputError, lambda: session.record(**{**base, "image": image}))


def test_dense_needs_no_record_and_leaves_it(session: sige.Session, base: Arrays) -> None:
    other = tiny.inputs(4)
    close(session.dense(**other)["y"], tiny.dense(**other))
    assert session.report.path == "dense"
    with pytest.raises(StateError, match="call record or load first"):
        session.edit(**base)
    session.record(**base)
    changed = tiny.edited(base, *BOX)
    wanted = session.edit(**changed)["y"]
    close(session.dense(**other)["y"], tiny.dense(**other))
    with pytest.raises(StateError, match="no edit to commit"):
        session.commit()
    np.testing.assert_array_equal(session.edit(**changed)["y"], wanted)
    with pytest.raises(sige.InputError, match="NaN"):
        session.dense(**{**other, "gain": np.full(1, np.nan, np.float32)})
