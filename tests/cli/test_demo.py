"""sige-deploy demo, with a small network in place of the street's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sige_deploy as sige
from sige_deploy import demo
from sige_deploy.models.gaugan import GauGAN

from .conftest import Sige

SIZE = (32, 64)


def stand_in() -> dict[str, Any]:
    """A street of two colours and a network of two convolutions."""
    label = np.zeros(SIZE, np.uint8)
    label[16:] = 1
    house, sky = label.copy(), label.copy()
    house[10:20, 8:20] = 2
    sky[:3] = 2
    scene = SimpleNamespace(
        demo_scene=lambda: (label, [("house", house), ("sky", sky)]),
        one_hot=lambda x: (x == np.arange(3)[:, None, None])[None].astype(np.float32),
        palette=np.array([[0, 0, 250], [90, 90, 90], [200, 0, 0]], np.uint8),
    )

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, label: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.last(torch.relu(self.first(label))))

    return {"demo_scene": scene, "network": SimpleNamespace(load_street_generator=lambda: Network().eval())}


def test_demo(cli: Sige, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_street", stand_in().__getitem__)
    done = cli("demo", "--out", tmp_path, "--repeats", 1, "--threads", 1)
    assert done.code == 0, done.err
    assert "house" in done.out and "sky" in done.out and "dB" in done.out
    assert sige.open_bundle(tmp_path / "street.sige").manifest.name == "street"
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 1500


def test_the_street_is_what_the_demo_takes() -> None:
    scene = demo._street("demo_scene")
    label, edits = scene.demo_scene()
    encoded = scene.one_hot(label)
    assert encoded.shape == (1, scene.CHANNELS, *label.shape) and encoded.dtype == np.float32
    assert len(edits) == 3
    for _, edited in edits:
        assert edited.shape == label.shape and 0 < (edited != label).mean() < 0.4
    assert isinstance(demo.load_street(), GauGAN)


def test_demo_without_the_network(cli: Sige, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sige_deploy.street", None)
    monkeypatch.setitem(__import__("sys").modules, "sige_deploy.street.demo_scene", None)
    assert "lacks the demo network" in cli("demo", "--out", tmp_path).sentence()
