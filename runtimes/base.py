"""What every engine offers to a session, and which engines there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sige_deploy.bundle import Bundle
from sige_deploy.errors import InputError, RuntimeFailure

if TYPE_CHECKING:
    from sige_deploy.devices.base import Device

Arrays = dict[str, np.ndarray]


class Runtime(Protocol):
    """The three graphs of a bundle on one engine. Arrays are C-contiguous numpy arrays by graph input or
    output name; all methods raise RuntimeFailure with one sentence when the engine fails."""

    #: e.g. "onnxruntime cpu", for reports.
    name: str

    def record(self, inputs: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        """Run the record graph; returns (model outputs, caches) in new arrays that the caller owns."""

    def dense(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the original network; returns its outputs."""

    def edit_inputs(self) -> frozenset[str]:
        """Names of the inputs that the edit graph really has."""

    def edit(
        self, feeds: Mapping[str, np.ndarray], caches: Mapping[str, np.ndarray], outputs: list[str]
    ) -> Mapping[str, np.ndarray]:
        """Run the edit graph on feeds and caches (those that it lacks are skipped); the mapping returned
        holds `outputs` and may fetch an array only when it is looked up."""

    def device(self) -> Device:
        """A device for one session on this runtime."""

    def close(self) -> None:
        """Give back the engine's memory."""


def create(name: str | None, bundle: Bundle, device: str, threads: int | None) -> Runtime:
    """The runtime called `name` (None: "onnxruntime") for a bundle on a device ("cpu", "cuda:0", ...).

    threads: CPU threads that one run may use, None for all cores. Nothing is loaded before it is needed.
    Raises InputError for an unknown name or device, RuntimeFailure when the engine is missing.
    """
    if name is None or name == "onnxruntime":
        from sige_deploy.runtimes.onnxruntime import OnnxRuntime

        return OnnxRuntime(bundle, device, threads)
    if name == "tensorrt":
        raise RuntimeFailure(
            "this version of sige_deploy has no TensorRT runtime; open the bundle with runtime='onnxruntime'."
        )
    raise InputError(f"there is no runtime {name!r}; use 'onnxruntime' or leave runtime out.")
