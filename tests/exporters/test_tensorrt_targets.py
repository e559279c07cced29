"""What engines are built for, on machines with and without a GPU and TensorRT."""

from __future__ import annotations

import pytest

import sige_deploy as sige
from sige_deploy.exporters import tensorrt_targets
from sige_deploy.exporters.tensorrt_targets import Gpu, Target, choose

H200, RTX_4090 = Gpu("NVIDIA H200", "9.0"), Gpu("NVIDIA GeForce RTX 4090", "8.9")
RTX = ("tensorrt-rtx",)
BOTH = ("tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize(
    ("gpu", "packages", "flavour", "targets", "expected"),
    [
        (None, RTX, None, None, Target("tensorrt-rtx", ("8.6", "8.9", "12.0"), None)),
        (None, BOTH, None, ["sm120", "SM75"], Target("tensorrt-rtx", ("7.5", "12.0"), None)),
        (H200, BOTH, None, None, Target("tensorrt", ("9.0",), "NVIDIA H200")),
        (H200, BOTH, None, ["sm90"], Target("tensorrt", ("9.0",), "NVIDIA H200")),
        (H200, BOTH, None, ["sm89"], Target("tensorrt-rtx", ("8.9",), None)),
        (RTX_4090, RTX, None, None, Target("tensorrt-rtx", ("8.9",), None)),
        (RTX_4090, BOTH, "tensorrt-rtx", None, Target("tensorrt-rtx", ("8.9",), None)),
        (RTX_4090, BOTH, "tensorrt-rtx", ["sm86"], Target("tensorrt-rtx", ("8.6",), None)),
    ],
)
def test_a_target_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    gpu: Gpu | None,
    packages: tuple[str, ...],
    flavour: str | None,
    targets: list[str] | None,
    expected: Target,
) -> None:
    pretend(monkeypatch, gpu, packages)
    assert choose(flavour, targets) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpu", "packages", "flavour", "targets", "error", "said"),
    [
        (
            None,
            (),
            None,
            None,
            sige.RuntimeFailure,
            "needs TensorRT for RTX, which is not installed; run pip",
        ),
        (H200, RTX, "tensorrt", None, sige.RuntimeFailure, "needs TensorRT, which is not installed; install"),
        (None, BOTH, "tensorrt", None, sige.RuntimeFailure, "this machine has none; build there"),
        (H200, BOTH, "tensorrt", ["sm89"], sige.InputError, "the GPU of this machine, sm90; leave --targets"),
        (
            None,
            RTX,
            None,
            ["ada"],
            sige.InputError,
            "'ada' is no target; name GPU architectures such as sm86",
        ),
        (None, RTX, None, ["8.9"], sige.InputError, "'8.9' is no target"),
        (None, RTX, None, [], sige.InputError, "no target is named"),
    ],
)
def test_what_cannot_be_is_said(
    monkeypatch: pytest.MonkeyPatch,
    gpu: Gpu | None,
    packages: tuple[str, ...],
    flavour: str | None,
    targets: list[str] | None,
    error: type[sige.SigeError],
    said: str,
) -> None:
    pretend(monkeypatch, gpu, packages)
    with pytest.raises(error, match=said):
        choose(flavour, targets)  # type: ignore[arg-type]


def pretend(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, packages: tuple[str, ...]) -> None:
    monkeypatch.setattr(tensorrt_targets, "first_gpu", lambda: gpu)
    monkeypatch.setattr(tensorrt_targets, "installed", lambda flavour: flavour in packages)


def test_this_machine_has_a_gpu_of_some_capability_or_none() -> None:
    gpu = tensorrt_targets.first_gpu()
    assert gpu is None or (gpu.name and float(gpu.capability) >= 5)
