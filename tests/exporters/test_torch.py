from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sige_deploy as sige


class Net(nn.Module):
    """A generator with a class score: norm, dropout, conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.5)
        self.style = nn.Linear(4, 8)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor, style: Tensor) -> dict[str, Tensor]:
        x = self.drop(torch.relu(self.norm(self.first(image)))) + self.style(style)[:, :, None, None]
        return {"picture": torch.tanh(self.last(x)), "score": x.mean((2, 3))}


INPUTS = {"image": torch.randn(2, 3, 12, 10), "style": torch.randn(2, 4)}


def exported(model: nn.Module, inputs: Mapping[str, object], path: Path, *spatial: str) -> sige.Session:
    config = sige.SparseConfig(dense_above=1.0, statistics="fresh")
    sige.export(model, inputs, path, spatial or ["image"], config)
    return sige.open(path, threads=1)


def test_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    with exported(model, INPUTS, tmp_path / "bundle") as session:
        assert model.training
        model.eval()
        recorded = session.record(**INPUTS)
        for name, value in model(**INPUTS).items():
            torch.testing.assert_close(recorded[name], value, atol=1e-5, rtol=0)
        edited = {**INPUTS, "image": torch.randn(2, 3, 12, 10)}
        everywhere = session.edit(**edited, mask=torch.ones(12, 10, dtype=torch.bool))
        assert session.report.path == "sparse"
        for name, value in model(**edited).items():
            torch.testing.assert_close(everywhere[name], value, atol=1e-5, rtol=0)
        manifest = session.bundle.manifest
        assert manifest.name == "Net"
        assert [o.name for o in manifest.outputs] == ["picture", "score"]
        assert {i.name: i.role for i in manifest.inputs} == {"image": "spatial", "style": "pinned"}


@dataclass
class Result:
    sample: Tensor
    mask: Tensor


class Shaped(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> object:
        a, b = self.conv(image), torch.relu(image)
        return {
            "tensor": lambda: a,
            "tuple": lambda: (a, b),
            "nested": lambda: {"x": [a, b], "y": a + 1},
            "one": lambda: [a],
            "input's name": lambda: {"image": a},
        }[self.form]()


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("tensor", ["output"]),
        ("tuple", ["output_0", "output_1"]),
        ("nested", ["x_0", "x_1", "y"]),
        ("one", ["output"]),
        ("input's name", ["image_out"]),
    ],
)
def test_names_of_outputs(form: str, names: list[str], tmp_path: Path) -> None:
    with exported(Shaped(form), {"image": INPUTS["image"]}, tmp_path / "bundle") as session:
        assert [o.name for o in session.bundle.manifest.outputs] == names
        assert list(session.record(image=INPUTS["image"])) == names


def test_half_precision(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)
    )

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, image: Tensor) -> Tensor:
            return self.net(image)

    image = torch.randn(1, 3, 12, 10).half()
    with exported(Wrapped().half(), {"image": image}, tmp_path / "bundle") as session:
        assert session.bundle.manifest.precision == "float16"
        assert session.bundle.manifest.islands == []
        recorded = session.record(image=image)["output"]
        assert recorded.dtype == torch.float16
        mask = torch.rand(12, 10) < 0.3
        again = session.edit(image=image, mask=mask)["output"]
        torch.testing.assert_close(again, recorded, atol=5e-3, rtol=0)
        other = torch.randn(1, 3, 12, 10).half()
        everywhere = session.edit(image=other, mask=torch.ones_like(mask))["output"]
        torch.testing.assert_close(everywhere.float(), model.float()(other.float()), atol=2e-2, rtol=0)


def test_arrays_as_example_inputs(tmp_path: Path) -> None:
    image = np.zeros((1, 3, 8, 8), np.float32)
    with exported(Shaped("tensor"), {"image": image}, tmp_path / "bundle") as session:
        assert isinstance(session.record(image=image)["output"], np.ndarray)


class Untraceable(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image if float(image.sum()) > 0 else -image


def test_module_that_torch_cannot_trace(tmp_path: Path) -> None:
    with pytest.raises(sige.ExportError, match="torch could not trace Untraceable"):
        sige.export(Untraceable(), {"image": INPUTS["image"]}, tmp_path / "bundle", ["image"])
    assert not (tmp_path / "bundle").exists()


def test_wrong_argument_name(tmp_path: Path) -> None:
    with pytest.raises(sige.ExportError):
        sige.export(Shaped("tensor"), {"picture": INPUTS["image"]}, tmp_path / "bundle", ["picture"])


def test_constant_attention_and_tied_weights(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)
            self.b = nn.Conv2d(3, 3, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, image: Tensor) -> Tensor:
            tokens = self.b(self.a(image)).flatten(2).transpose(1, 2)
            attended = nn.functional.scaled_dot_product_attention(
                tokens[:, None], tokens[:, None], tokens[:, None]
            )
            return attended[:, 0].transpose(1, 2).reshape(image.shape)

    torch.manual_seed(0)
    model = Tied().eval()
    with exported(model, {"image": INPUTS["image"]}, tmp_path / "bundle") as session:
        assert session.bundle.manifest.islands == []
        session.record(image=INPUTS["image"])
        other = torch.randn(2, 3, 12, 10)
        edit = session.edit(image=other, mask=torch.ones(12, 10, dtype=torch.bool))
        torch.testing.assert_close(edit["output"], model(other), atol=1e-5, rtol=0)
