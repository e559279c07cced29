"""What a session asks of the device that its data lives on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sige_deploy.inputs import Placed
from sige_deploy.manifest import Manifest


class Findings(Protocol):
    """What the inputs of a call hold."""

    def not_finite(self) -> str | None:
        """The first input that holds NaN or infinity."""

    def changed(self, name: str) -> bool:
        """Whether an input differs from the recorded one in any bit."""


Refuse = Callable[[Findings], None]


class Call(Findings, Protocol):
    """One record or edit: its inputs, taken in, and what becomes of them: one of `record`, `index` and `run`,
    `dense` or `reuse`, then `finish`. What was recorded or is to be committed stays in force until then. Its
    findings are known from when `refuse` was told; of an edit without a mask that is at once."""

    def counts(self) -> dict[str, int]:
        """Active pixels of each level by id; all 0 where no pixel was edited."""

    def record(self) -> None:
        """Run the dense pass for outputs and caches."""

    def index(self) -> None:
        """Make the index feeds of the edit."""

    def run(self) -> bool:
        """Run the edit graph; returns whether a captured graph ran."""

    def dense(self) -> bool:
        """Run the original network; returns as `run`."""

    def reuse(self) -> None:
        """Take the recorded outputs."""

    def finish(self) -> dict[str, Any]:
        """The outputs by name: new arrays, of the kind of the inputs: torch tensors on the first tensor's
        device, or numpy arrays. From now on the record is in force, or commit takes up the edit. Raises what
        `refuse` raises; then the edit before can be committed as it could."""


@dataclass(frozen=True)
class Needs:
    """What edits read of a recorded state beside its inputs and outputs.

    caches: whether they read any; a dense one does not. rows: by cache ("cache.<name>") the pixels of which
    they read rows, int32 [R] ascending; all other caches, or all if it is None, are read whole.
    """

    rows: Mapping[str, np.ndarray] | None = None
    caches: bool = True


class Source(Protocol):
    """A recorded state that is kept somewhere, to be put in force again. Names are those of
    `caches.expected`."""

    @property
    def resident(self) -> bool:
        """Whether it lies, as it was recorded, where the device works: then nothing has to move."""

    def array(self, name: str) -> np.ndarray:
        """An array, whole; not to be written to."""

    def rows(self, name: str, pixels: np.ndarray) -> np.ndarray:
        """The rows [B, R, C] of a base at pixels int [R]."""

    def front(self) -> np.ndarray | None:
        """As many bytes, uint8, from the beginning as are as `caches.ordered` and `ALIGNMENT` lay them out;
        None where they are not in host memory."""


class Kept(Source, Protocol):
    """A recorded state that can be changed."""

    @property
    def nbytes(self) -> int:
        """The room that it takes."""

    def write(self, name: str, pixels: np.ndarray, values: np.ndarray) -> None:
        """Write rows [B, R, C] of a base at pixels int [R]."""

    def replace(self, name: str, value: np.ndarray) -> None:
        """Write an array, whole."""

    def raw(self, name: str, pixels: np.ndarray) -> list[np.ndarray]:
        """Rows in the form in which they are kept, for `put_raw`."""

    def put_raw(self, name: str, pixels: np.ndarray, kept: list[np.ndarray]) -> None:
        """Put rows back that `raw` gave: then they are as they were, bit for bit."""


class Parcel(Protocol):
    """Brings a recorded state to the device while another one is in force. `load`, then `put`, in turn."""

    def load(self, source: Source, needs: Needs) -> None:
        """Get ready what edits need; on any thread, inside `current()`."""

    def put(self) -> None:
        """Put it in force, for edits with these needs alone; nothing else is defined afterwards."""


@dataclass(frozen=True)
class Fresh:
    """What a sparse edit computed and a commit would write. rows: [B, P, C] by cache ("cache.<name>").
    active: int32 [P] by level id, without padding."""

    rows: dict[str, np.ndarray]
    active: dict[str, np.ndarray]


class Device(Protocol):
    """Where the inputs, the recorded state and the engine of one session are. Methods raise RuntimeFailure
    with one sentence when the device or the engine fails; they are called inside `current()`, in turn."""

    @property
    def name(self) -> str:
        """Engine and device, for reports."""

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""

    @property
    def recorded(self) -> bool:
        """Whether there is a recorded state."""

    @property
    def cache_bytes(self) -> int:
        """Memory that the recorded caches take on the device."""

    @property
    def graphs(self) -> int:
        """Captured graphs that are kept for edits to come."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the device the calling thread's for a while."""

    def load(self) -> None:
        """Load what edits need; nothing the second time."""

    def take_in(self, given: Mapping[str, Any], refuse: Refuse, mask: Any = None) -> Call:
        """Inputs as `inputs.checked` returns them and the mask of an edit, as `inputs.checked_mask` does.

        refuse: told what the inputs hold; what it raises ends the call, and nothing of it stays. That is now,
        or in `finish` where a device can begin an edit before it has looked at the inputs."""

    def placed(self, array: np.ndarray) -> np.ndarray | Placed:
        """A C-contiguous array as an input that many calls share, so that it is sent to the device once. The
        array must not change."""

    def commit(self) -> None:
        """Make the last edit part of the recorded state. Raises StateError where it is lost: a later one
        failed in the engine."""

    def arrays(self) -> Mapping[str, np.ndarray]:
        """The recorded state, as `caches.expected` names it; each array is fetched when it is looked up."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up a state that `arrays` gave, as if it had been recorded here."""

    def parcel(self) -> Parcel:
        """A new way to put kept states in force."""

    def keep(self) -> Kept | None:
        """A copy of the recorded state in the device's own memory; None where that is the host's."""

    def block(self, nbytes: int) -> np.ndarray:
        """uint8 [nbytes] of host memory, from which the device copies fast; begins at ALIGNMENT."""

    def fill(self, block: np.ndarray) -> bool:
        """Copy the recorded state into a block of `block`, laid out as `caches.ordered` and `ALIGNMENT` say;
        False where it does not lie in one piece, or the block is no such one."""

    def forget(self) -> None:
        """Have no recorded state in force: the next record need not keep it while it runs."""

    def fresh(self) -> Fresh:
        """What the last edit, a sparse one, computed."""

    def close(self) -> None:
        """Give back all memory; nothing else is called afterwards."""


def edit_outputs(manifest: Manifest) -> list[str]:
    """Names of the edit graph's outputs: of the model's outputs, then fresh rows of caches."""
    names = [output.rows for output in manifest.outputs]
    names += [c.rows for c in manifest.caches if c.rows is not None]
    return list(dict.fromkeys(names))
