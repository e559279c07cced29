"""Captured graphs and memory on a GPU: replays do what plain runs do, weights lie there once, memory may run
out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import sige_deploy as sige
from sige_deploy.bundle import open_bundle
from sige_deploy.devices.graphs import CudaGraphs, Direct
from sige_deploy.devices.native import NativeDevice
from sige_deploy.errors import RuntimeFailure
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers, open_cuda
from sige_deploy.session import Session

Tensors = dict[str, torch.Tensor]


class Stack(nn.Module):
    """Convolutions, wide enough for half precision and the tensor cores, with norms and a skip."""

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(depth))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        for block, norm in zip(self.blocks, self.norms):
            x = x + block(nn.functional.silu(norm(x)))
        low = nn.functional.interpolate(nn.functional.silu(self.down(x)), scale_factor=2.0)
        return self.last(torch.cat([self.up(low), x], dim=1))


@pytest.fixture(scope="module", params=["float32", "float16"])
def stack(request: pytest.FixtureRequest, device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the stack; `device` only skips where there is none."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("stack") / request.param
    precision = "float16" if request.param == "float16" else "as_given"
    config = sige.SparseConfig(precision=precision)
    example = {"image": torch.randn(1, 3, 96, 64)}
    bundle = sige.export(Stack().eval(), example, path, spatial=["image"], config=config)
    bundle.update_planner(gpu_dense_above=0.7)
    return path


@pytest.fixture
def session(stack: Path, device: str) -> Iterator[sige.Session]:
    with sige.open(stack, device) as opened:
        yield opened


def image(session: sige.Session, seed: int = 0) -> Tensors:
    spec = session.bundle.manifest.inputs[0]
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(spec.shape, generator=generator)
    return {"image": values.to("cuda", getattr(torch, spec.dtype))}


def edited(inputs: Tensors, y: int, x: int, by: float, size: int = 12) -> Tensors:
    values = inputs["image"].clone()
    values[:, :, y : y + size, x : x + size] += by
    return {"image": values}


def plain(path: Path, device: str) -> Session:
    """A session that captures nothing."""
    bundle = open_bundle(path)

    class Plain(OnnxRuntimeOnBuffers):
        def device(self) -> NativeDevice:
            return NativeDevice(self._bundle, self.memory, self._kernels, self, Direct())

    runtime = open_cuda(bundle, device, None)
    runtime.__class__ = Plain
    return Session(bundle, runtime)


def within(got: Tensors, wanted: Tensors, share: float) -> None:
    for name, value in wanted.items():
        bound = share * float(value.float().abs().max())
        assert float((got[name].float() - value.float()).abs().max()) <= bound, name


def test_replays_give_what_plain_runs_give(session: sige.Session, stack: Path, device: str) -> None:
    """Also after other sizes came in between, after commits, and with the former outputs poisoned."""
    inputs = image(session)
    with plain(stack, device) as other:
        within(session.record(**inputs), other.record(**inputs), 1e-3)
        other_state = [(10, 10, 0.5, 12), (40, 30, -1.0, 12), (0, 0, 2.0, 30), (10, 10, 0.7, 12)]
        captured = []
        for turn, (y, x, by, size) in enumerate(other_state * 5):
            changed = edited(inputs, y, x, by + turn / 10, size)
            outputs = session.edit(**changed)
            wanted = other.edit(**changed)
            assert session.report.path == other.report.path == "sparse"
            within(outputs, wanted, 2e-3)
            captured.append(session.report.captured)
            assert not other.report.captured
            for value in outputs.values():
                value.fill_(float("nan"))
            if turn % 6 == 5:
                session.commit()
                other.commit()
                inputs = changed
        refused = session._device.captured.refused  # type: ignore[union-attr]
        assert ("look", False) not in refused, refused
        assert not captured[0] and sum(captured) >= len(captured) - 6, (captured, refused)
        assert 2 <= session.report.graphs <= 10


def test_a_second_record_is_what_replays_start_from(session: sige.Session, stack: Path, device: str) -> None:
    first, second = image(session), image(session, seed=1)
    session.record(**first)
    for _ in range(3):
        session.edit(**edited(first, 20, 20, 1.0))
    assert session.report.captured
    outputs = session.record(**second)
    within(session.edit(**edited(second, 20, 20, 0.0)), outputs, 0)
    assert session.report.path == "reuse"
    got = session.edit(**edited(second, 20, 20, 1.0))
    assert session.report.captured
    with plain(stack, device) as other:
        other.record(**second)
        within(got, other.edit(**edited(second, 20, 20, 1.0)), 2e-3)


def test_the_recorded_input_as_edit_is_the_record(session: sige.Session) -> None:
    inputs = image(session)
    outputs = session.record(**inputs)
    tolerance = 1e-4 if inputs["image"].dtype == torch.float32 else 1e-2
    rng = np.random.default_rng(0)
    for turn in range(4):
        mask = rng.random(tuple(inputs["image"].shape[2:])) < 0.05
        within(
            session.edit(**inputs, mask=mask if turn % 2 else torch.from_numpy(mask).cuda()),
            outputs,
            tolerance,
        )
        assert session.report.path == "sparse"


def test_a_large_edit_runs_dense_and_is_captured_too(session: sige.Session) -> None:
    inputs = image(session)
    session.record(**inputs)
    outputs = [session.edit(**image(session, seed=2)) for _ in range(3)]
    assert session.report.path == "dense"
    within(outputs[2], outputs[0], 1e-3)
    session.commit()
    session.edit(**image(session, seed=2))
    assert session.report.path == "reuse"


def test_graphs_stay_within_their_budget(stack: Path, device: str) -> None:
    bundle = open_bundle(stack)

    class Frugal(OnnxRuntimeOnBuffers):
        def device(self) -> NativeDevice:
            return NativeDevice(
                self._bundle, self.memory, self._kernels, self, CudaGraphs(self.memory, budget=1)
            )

    runtime = open_cuda(bundle, device, None)
    runtime.__class__ = Frugal
    with Session(bundle, runtime) as session:
        inputs = image(session)
        session.record(**inputs)
        for size in (4, 8, 16, 32) * 2:
            session.edit(**edited(inputs, 5, 5, 1.0, size))
            assert session.report.graphs <= 1


def test_many_sessions_live_side_by_side(stack: Path, device: str) -> None:
    sessions = [sige.open(stack, device) for _ in range(3)]
    inputs = [image(session, seed) for seed, session in enumerate(sessions)]
    for session, given in zip(sessions, inputs):
        session.record(**given)
    wanted: list[Tensors] = [{}, {}, {}]
    for turn in range(4):
        for i, (session, given) in enumerate(zip(sessions, inputs)):
            outputs = session.edit(**edited(given, 8 * i, 8, 1.0))
            if turn:
                within(outputs, wanted[i], 2e-3)
            wanted[i] = outputs
    for session in sessions:
        session.close()


def test_weights_lie_on_the_device_once(device: str, tmp_path: Path) -> None:
    """Record and edit share them; the dense graph is not made before an edit needs it."""
    torch.manual_seed(0)
    module = Stack(width=512, depth=8).eval()
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    sige.export(module, {"image": torch.randn(1, 3, 32, 32)}, tmp_path / "wide", spatial=["image"])
    with sige.open(tmp_path / "wide", device) as session:
        inputs = image(session)
        torch.cuda.synchronize()
        before = torch.cuda.mem_get_info()[0]
        session.record(**inputs)
        session.edit(**edited(inputs, 5, 5, 1.0, 6))
        used = before - torch.cuda.mem_get_info()[0]
    print(f"weights {weights / 1e6:.0f} MB, used {used / 1e6:.0f} MB")
    assert used < 2.6 * weights + 300e6


def test_running_out_of_memory_is_one_sentence(device: str, tiny_path: Path, tmp_path: Path) -> None:
    sige.export(
        Stack(width=128).eval(), {"image": torch.randn(1, 3, 512, 512)}, tmp_path / "large", spatial=["image"]
    )
    with sige.open(tmp_path / "large", device) as session, sige.open(tiny_path, device) as small:
        small.record(**tiny.inputs())
        inputs = image(session)
        torch.cuda.synchronize()
        hog = torch.empty(torch.cuda.mem_get_info()[0] - (200 << 20), dtype=torch.uint8, device="cuda")
        with pytest.raises(RuntimeFailure) as failure:
            session.record(**inputs)
        del hog
        torch.cuda.empty_cache()
        message = str(failure.value)
        assert "out of memory" in message and "\n" not in message and len(message) < 300
        session.record(**inputs)
        session.edit(**edited(inputs, 5, 5, 1.0))
        small.edit(**tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9)))


class Heads(nn.Module):
    """Self-attention of one head width, among the pixels of a picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.into = nn.Conv2d(4, 3 * 2 * width, 1)
        self.out = nn.Conv2d(2 * width, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.into(image).flatten(2).unflatten(1, (3, 2, self.width)).transpose(3, 4)
        mixed = nn.functional.scaled_dot_product_attention(tokens[:, 0], tokens[:, 1], tokens[:, 2])
        return self.out(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, image.shape[2:]))


@pytest.mark.parametrize("width", [40, 64, 80, 160])
def test_attention_is_recorded_accurately(device: str, tmp_path: Path, width: int) -> None:
    torch.manual_seed(width)
    network = Heads(width).eval()
    image = torch.randn(2, 4, 16, 16)
    path, config = tmp_path / "bundle", sige.SparseConfig(precision="float16")
    sige.export(network, {"image": image}, path, spatial=["image"], config=config)
    with torch.no_grad():
        wanted = network.double()(image.double())
    with sige.open(path, device) as session:
        got = session.record(image=image.half())
    difference = (next(iter(got.values())).double() - wanted).abs().max()
    assert float(difference / wanted.abs().max()) < 5e-3
