"""Half precision of networks that were given in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graph.helpers import ints, network, weight
from torch import Tensor, nn

import sige_deploy as sige

HALF = sige.SparseConfig(precision="float16", dense_above=1.0)
BOX = (slice(None), slice(None), slice(3, 6), slice(4, 8))


class Net(nn.Module):
    """A time step's sines, a group norm over large values, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.norm, self.embed = nn.GroupNorm(2, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        angles = step[:, None].float() * torch.tensor([1.0, 0.1, 0.01, 0.001])
        wave = torch.cat([angles.sin(), angles.cos()], -1).to(self.embed.weight.dtype)
        x = self.stem(image) * 200 + self.embed(wave)[:, :, None, None]
        x = torch.nn.functional.silu(self.norm(x))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.out(tokens.transpose(1, 2).reshape(x.shape))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def inputs(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.normal(size=(1, 3, 12, 10)).astype(np.float32), "step": np.array([997])}


def exported(kind: str, folder: Path, config: sige.SparseConfig) -> sige.Bundle:
    model, example = net(), inputs(0)
    if kind == "torch":
        return sige.export(model, example, folder / "bundle", ["image"], config)
    tensors = {name: torch.as_tensor(array) for name, array in example.items()}
    torch.onnx.export(
        model, (), str(folder / "net.onnx"), kwargs=tensors, dynamo=True, opset_version=23, verbose=False
    )
    return sige.export(folder / "net.onnx", example, folder / "bundle", ["image"], config)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_half_is_close_to_the_given_network(kind: str, tmp_path: Path) -> None:
    bundle = exported(kind, tmp_path, HALF)
    manifest = bundle.manifest
    assert manifest.precision == "float16"
    assert {i.name: i.dtype for i in manifest.inputs} == {"image": "float16", "step": "int64"}
    assert {o.dtype for o in manifest.outputs} == {c.dtype for c in manifest.caches} == {"float16"}
    recorded = inputs(1)
    half = {**recorded, "image": recorded["image"].astype(np.float16)}
    with sige.open(tmp_path / "bundle", threads=1) as session, torch.no_grad():
        (record,) = session.record(**half).values()
        want = net()(**{n: torch.as_tensor(a) for n, a in recorded.items()}).numpy()
        np.testing.assert_allclose(record, want, atol=0.02 * np.ptp(want))
        mask = np.zeros((12, 10), bool)
        mask[BOX[2:]] = True
        (edit,) = session.edit(**half, mask=mask).values()
        np.testing.assert_allclose(edit, record, atol=0.005 * np.ptp(want))


class MixesTypes(nn.Module):
    """Not to be cast as it stands: its waves are float32 whatever the module is."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        angles = step[:, None].float() * torch.tensor([1.0, 0.1, 0.01])
        return self.out(image + angles.sin()[:, :, None, None])


def test_a_module_that_torch_cannot_cast_is_cast_as_a_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, given = MixesTypes().eval(), inputs(1)
    bundle = sige.export(model, inputs(0), tmp_path / "bundle", ["image"], HALF)
    assert [o.dtype for o in bundle.manifest.outputs] == ["float16"]
    with sige.open(tmp_path / "bundle", threads=1) as session, torch.no_grad():
        (record,) = session.record(image=given["image"].astype(np.float16), step=given["step"]).values()
        want = model(**{n: torch.as_tensor(a) for n, a in given.items()}).numpy()
    np.testing.assert_allclose(record, want, atol=0.005 * np.ptp(want))


def test_the_module_stays_as_it_is(tmp_path: Path) -> None:
    model = net()
    sige.export(model, inputs(0), tmp_path / "a", ["image"], HALF)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_inputs_may_be_given_in_half(tmp_path: Path) -> None:
    model = network("y = Conv<pads=[1,1,1,1]>(x, w)", weights={"w": weight(3, 4, 3, 3)})
    onnx.save(model, tmp_path / "net.onnx")
    example = {"x": np.zeros((1, 4, 12, 10), np.float16)}
    bundle = sige.export(tmp_path / "net.onnx", example, tmp_path / "bundle", ["x"], HALF)
    assert bundle.manifest.inputs[0].dtype == "float16"
    with pytest.raises(sige.ExportError, match="is float16; the network takes float32"):
        sige.export(tmp_path / "net.onnx", example, tmp_path / "other", ["x"])


def test_large_and_tiny_constants_stay_finite_and_positive(tmp_path: Path) -> None:
    body = "a = Min(x, big) b = Abs(a) c = Add(b, eps) y = Reciprocal(c)"
    constants = {"big": np.float32([1e30]), "eps": np.float32([1e-12])}
    onnx.save(network(body, weights=constants), tmp_path / "net.onnx")
    example = {"x": np.zeros((1, 4, 12, 10), np.float32)}
    sige.export(tmp_path / "net.onnx", example, tmp_path / "bundle", ["x"], HALF)
    stored = onnx.load(tmp_path / "bundle" / "dense.onnx").graph.initializer
    values = {t.name: onnx.numpy_helper.to_array(t) for t in stored}
    assert [float(v.max()) for v in values.values()] == [65504.0, 2.0**-24]


def test_a_resize_keeps_its_scales(tmp_path: Path) -> None:
    body = 'r = Resize<mode="linear">(x, , scales) y = Conv(r, w)'
    constants = {"scales": np.float32([1, 1, 2, 2]), "w": weight(3, 4, 1, 1)}
    onnx.save(network(body, "float[1,4,6,5] x", weights=constants), tmp_path / "net.onnx")
    example = {"x": np.zeros((1, 4, 6, 5), np.float32)}
    bundle = sige.export(tmp_path / "net.onnx", example, tmp_path / "bundle", ["x"], HALF)
    assert bundle.manifest.outputs[0].dtype == "float16"
    with sige.open(tmp_path / "bundle", threads=1) as session:
        out = session.record(x=np.ones((1, 4, 6, 5), np.float16))["y"]
        np.testing.assert_allclose(out, np.broadcast_to(constants["w"].sum(1), out.shape), atol=2e-2)


def test_positions_stay_wide_up_to_the_first_weights(tmp_path: Path) -> None:
    """2049 is not a float16; the sine of an angle of 20490 would be noise."""
    body = "f = Cast<to=1>(t) a = Mul(f, ten) s = Sin(a) e = MatMul(s, w) r = Reshape(e, form) y = Add(x, r)"
    constants = {"ten": np.float32([10]), "w": np.float32([[1, 2, 3, 4]]), "form": ints(1, 4, 1, 1)}
    model = network(body, "float[1,4,6,5] x, int64[1,1] t", weights=constants)
    onnx.save(model, tmp_path / "net.onnx")
    example = {"x": np.zeros((1, 4, 6, 5), np.float32), "t": ints(0)[None]}
    sige.export(tmp_path / "net.onnx", example, tmp_path / "bundle", ["x"], HALF)
    with sige.open(tmp_path / "bundle", threads=1) as session:
        y = session.record(x=np.zeros((1, 4, 6, 5), np.float16), t=ints(2049)[None])["y"]
    np.testing.assert_allclose(y[0, :, 0, 0], np.sin(20490.0) * constants["w"][0], rtol=2e-3)


def test_precision_is_one_of_two() -> None:
    with pytest.raises(sige.InputError, match='precision must be "as_given" or "float16"'):
        sige.SparseConfig(precision="half")
