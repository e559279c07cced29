"""Sessions of TensorRT on its stand-in do what sessions on the CPU do: the same tests, on host memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import test_session as host
import tiny
from devices.test_sessions import HOSTS_OWN
from fake_tensorrt import World
from tensorrt_stand_in import Make, bundle, installed, library, on_tensorrt, tiny_with_engines, world

import sige_deploy as sige
from sige_deploy.bundle import Bundle
from sige_deploy.errors import RuntimeFailure, StateError
from sige_deploy.runtimes import tensorrt_engines
from sige_deploy.session import Session

__all__ = ["bundle", "installed", "library", "on_tensorrt", "tiny_with_engines", "world"]

globals().update(
    {name: x for name, x in vars(host).items() if name.startswith("test_") and name not in HOSTS_OWN}
)
base, recorded = host.base, host.recorded


@pytest.fixture
def session(bundle: Bundle, on_tensorrt: Make) -> Iterator[sige.Session]:
    with Session(bundle, on_tensorrt(bundle)) as opened:
        yield opened


def test_the_report_names_the_version(recorded: sige.Session) -> None:
    assert recorded.report.runtime == "tensorrt 10.16 cpu, native kernels"


def test_an_engine_is_in_memory_once(bundle: Bundle, on_tensorrt: Make, world: World) -> None:
    """Sessions share engines; record and edit are engines of their own; the last session gives them back."""
    changed = tiny.edited(tiny.inputs(), *host.BOX)
    other = tiny.inputs(3)
    with Session(bundle, on_tensorrt(bundle)) as one, Session(bundle, on_tensorrt(bundle)) as two:
        one.record(**tiny.inputs())
        two.record(**other)
        wanted = one.edit(**changed)["y"]
        two.edit(**tiny.edited(other, *host.OTHER_BOX))
        np.testing.assert_array_equal(one.edit(**changed)["y"], wanted)
        assert world.engines == 2
    gc.collect()
    assert not tensorrt_engines._engines
    with Session(bundle, on_tensorrt(bundle)) as three:
        three.record(**tiny.inputs())
        assert world.engines == 3


def test_a_bucket_keeps_its_context(recorded: sige.Session, base: host.Arrays, world: World) -> None:
    recorded.edit(**tiny.edited(base, *host.BOX))
    before = world.contexts
    for turn in range(3):
        recorded.edit(**tiny.edited(base, *host.BOX, by=turn + 2))
        recorded.commit()
    assert world.contexts == before
    recorded.edit(**tiny.edited(base, slice(0, 12), slice(0, 12)))
    assert world.contexts == before + 1
    recorded.record(**tiny.inputs(1))  # into fresh memory, by the context of the first record
    assert world.contexts == before + 1


@pytest.mark.parametrize(
    ("call", "say"),
    [
        (
            "execute_async_v3",
            "the edit failed in tensorrt 10.16: enqueueV3: Cuda Runtime (misaligned address)",
        ),
        ("create_execution_context", "failed in tensorrt 10.16: createExecutionContext: no tactics"),
        ("set_input_shape", "the edit failed in tensorrt 10.16: setInputShape: no"),
    ],
)
def test_a_failing_edit_leaves_the_session_usable(
    recorded: sige.Session, base: host.Arrays, world: World, call: str, say: str
) -> None:
    small, large = tiny.edited(base, *host.BOX), tiny.edited(base, slice(0, 12), slice(0, 12))
    before = recorded.edit(**small)["y"]
    world.refuse[call] = say.split("10.16: ")[1]
    with pytest.raises(RuntimeFailure) as caught:
        recorded.edit(**large)
    assert str(caught.value).endswith(f"{say}.")
    with pytest.raises(StateError, match="call edit again"):
        recorded.commit()
    np.testing.assert_array_equal(recorded.edit(**small)["y"], before)
    recorded.edit(**large)
    recorded.commit()


def test_a_failing_record_leaves_the_earlier_one(
    recorded: sige.Session, base: host.Arrays, world: World
) -> None:
    changed = tiny.edited(base, *host.BOX)
    before = recorded.edit(**changed)["y"]
    world.refuse["execute_async_v3"] = "enqueueV3: no"
    with pytest.raises(RuntimeFailure, match=r"the dense pass failed in tensorrt 10\.16: enqueueV3: no"):
        recorded.record(**tiny.inputs(5))
    np.testing.assert_array_equal(recorded.edit(**changed)["y"], before)
    recorded.record(**tiny.inputs(5))
    recorded.edit(**tiny.inputs(5))
    assert recorded.report.path == "reuse"
