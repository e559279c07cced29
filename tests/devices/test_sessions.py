"""Sessions on buffers do what sessions on arrays do: the same tests, on host memory and the CPU kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_session as host
import tiny

import sige_deploy as sige
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.errors import RuntimeFailure, StateError
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers
from sige_deploy.session import Session

Make = Callable[[Bundle], OnnxRuntimeOnBuffers]
# Tests of how a session is opened or of the host's own code, and those that open more sessions by themselves
HOSTS_OWN = (
    "test_the_planners_threshold_decides",
    "test_a_failed_commit_leaves_the_base",
    "test_devices_and_runtimes_that_are_not_there",
    "test_a_failed_edit_leaves_the_base",
    "test_a_failed_record_leaves_the_base",
    "test_engine_errors_are_one_sentence",
    "test_a_bundle_replaced_while_open_is_noticed",
    "test_out_of_memory_says_so",
    "test_two_sessions_on_one_bundle_interleaved",
    "test_two_sessions_on_one_bundle_in_threads",
)

globals().update(
    {name: x for name, x in vars(host).items() if name.startswith("test_") and name not in HOSTS_OWN}
)
base, recorded = host.base, host.recorded


@pytest.fixture
def session(tiny_path: Path, on_buffers: Make) -> Iterator[sige.Session]:
    bundle = open_bundle(tiny_path)
    with Session(bundle, on_buffers(bundle)) as opened:
        yield opened


def test_all_but_the_hosts_own_tests_run_here() -> None:
    assert all(hasattr(host, name) for name in HOSTS_OWN)
    assert sum(name.startswith("test_") for name in globals()) > 25


def test_equal_bits_with_the_host(tiny_path: Path, on_buffers: Make, library: Path) -> None:
    bundle = open_bundle(tiny_path)
    rng = np.random.default_rng(0)
    inputs = tiny.inputs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGE_NATIVE_LIBRARY", str(library))
        host_session = Session(bundle, OnnxRuntime(bundle, "cpu", 1))
    with host_session as one, Session(bundle, on_buffers(bundle)) as other:
        for s in (one, other):
            s.record(**inputs)
        for turn in range(20):
            h, w = rng.integers(1, tiny.H // 2), rng.integers(1, tiny.W)
            y, x = rng.integers(0, tiny.H - h + 1), rng.integers(0, tiny.W - w + 1)
            changed = tiny.edited(inputs, slice(y, y + h), slice(x, x + w))
            mask = rng.random((tiny.H, tiny.W)) < 0.1 if turn % 3 == 1 else None
            wanted, got = one.edit(**changed, mask=mask), other.edit(**changed, mask=mask)
            for name, value in wanted.items():
                assert got[name].tobytes() == value.tobytes(), (turn, name)
            assert one.report.path == other.report.path and one.report.rows == other.report.rows
            if turn % 5 == 4:
                one.commit()
                other.commit()


def test_states_travel_between_devices(tiny_path: Path, on_buffers: Make, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_path)
    changed = tiny.edited(tiny.inputs(), *host.BOX)
    with Session(bundle, on_buffers(bundle)) as one:
        one.record(**tiny.inputs())
        wanted = one.edit(**changed)["y"]
        one.commit()
        one.save(tmp_path / "state")
    with sige.open(tiny_path, threads=1) as two:
        two.load(tmp_path / "state")
        host.close(two.edit(**changed)["y"], wanted)
        assert two.report.path == "reuse"
        two.save(tmp_path / "back")
    with Session(bundle, on_buffers(bundle)) as three:
        three.record(**tiny.inputs(3))
        three.load(tmp_path / "back")
        host.close(three.edit(**changed)["y"], wanted)
        assert three.report.path == "reuse"
        with pytest.raises(StateError, match="no edit to commit"):
            three.record(**tiny.inputs(3))
            three.commit()


def failing(*_: Any) -> Any:
    def run() -> None:
        raise RuntimeFailure("the engine failed.")

    return run


def test_a_failing_record_leaves_the_earlier_one(
    recorded: sige.Session, base: host.Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tiny.edited(base, *host.BOX)
    before = recorded.edit(**changed)["y"]
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeOnBuffers, "bind_record", failing)
        with pytest.raises(RuntimeFailure, match="the engine failed"):
            recorded.record(**tiny.inputs(5))
    np.testing.assert_array_equal(recorded.edit(**changed)["y"], before)
    recorded.record(**tiny.inputs(5))
    recorded.edit(**tiny.inputs(5))
    assert recorded.report.path == "reuse"


def test_a_failing_first_record_records_nothing(
    session: sige.Session, base: host.Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeOnBuffers, "bind_record", failing)
        with pytest.raises(RuntimeFailure):
            session.record(**base)
    with pytest.raises(StateError, match="call record or load first"):
        session.edit(**base)
    session.record(**base)


def test_an_edit_that_fails_in_the_engine_takes_the_earlier_one_with_it(
    recorded: sige.Session, base: host.Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tiny.edited(base, *host.BOX), tiny.edited(base, *host.OTHER_BOX)
    before = recorded.edit(**small)["y"]
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeOnBuffers, "bind_edit", failing)
        with pytest.raises(RuntimeFailure):
            recorded.edit(**large)
    with pytest.raises(StateError, match="call edit again"):
        recorded.commit()
    np.testing.assert_array_equal(recorded.edit(**small)["y"], before)
    recorded.commit()


def test_a_refused_edit_does_not_touch_the_one_to_commit(recorded: sige.Session, base: host.Arrays) -> None:
    changed = tiny.edited(base, *host.BOX)
    changed["offset"] = base["offset"] + 1
    recorded.edit(**changed)
    broken = tiny.edited(base, *host.OTHER_BOX)
    broken["offset"] = np.full_like(base["offset"], np.nan)
    with pytest.raises(sige.InputError, match="'offset' holds NaN"):
        recorded.edit(**broken)
    recorded.commit()
    # The base now has the committed offset where the edit had rows.
    active = tiny.changed(base, changed)
    got = recorded.edit(**changed)["y"]
    assert recorded.report.path == "reuse"
    np.testing.assert_allclose(
        np.where(active, got, 0), np.where(active, tiny.dense(**changed), 0), rtol=1e-5, atol=2e-5
    )
