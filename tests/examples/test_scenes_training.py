"""Tokenizer, noise, and the whole training at a tiny size."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from sige_deploy.scenes import autoencoder, diffusion, train
from sige_deploy.scenes.budget import Budget, cosine_rate
from sige_deploy.scenes.captions import random_caption
from sige_deploy.scenes.evaluation import generate
from sige_deploy.scenes.networks import load_parts, load_pipeline, new_parts, save_pipeline, scheduler
from sige_deploy.scenes.spec import random_scene
from sige_deploy.scenes.tokens import LENGTH, Words, vocabulary, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a whole training of two steps leaves."""
    out = tmp_path_factory.mktemp("trained")
    train.train(train.arguments(["--smoke", "--out", str(out)]))
    return out


def test_the_tokenizer_is_clips_and_knows_every_word(tokenizer: Path) -> None:
    from transformers import CLIPTokenizer

    theirs, words = CLIPTokenizer.from_pretrained(tokenizer), Words(tokenizer)
    assert theirs.model_max_length == LENGTH
    for word in vocabulary():
        assert theirs.tokenize(word) == [f"{word}</w>"]
    captions = [random_caption(random_scene(i).content, np.random.default_rng(i)) for i in range(100)]
    for caption in ["", *captions]:
        ids = theirs(caption, padding="max_length", max_length=LENGTH, truncation=True).input_ids
        assert words.encode([caption])[0].tolist() == ids
    assert theirs.decode(theirs("a zebra").input_ids, skip_special_tokens=True).replace(" ", "") == "azebra"


def test_coupled_noise_is_normal_and_strongest_where_the_object_stands() -> None:
    generator = torch.Generator().manual_seed(0)
    patterns = diffusion.strips(torch.device("cpu"))
    assert torch.allclose(torch.einsum("kchw,lchw->kl", patterns, patterns), torch.eye(8), atol=1e-5)
    noise = torch.randn(600, 4, 64, 64, generator=generator)
    x = torch.rand(600, generator=generator)
    coupled = diffusion.couple(noise, x, patterns)
    coefficients = torch.einsum("bchw,kchw->bk", coupled, patterns)
    assert torch.equal(coefficients.argmax(1), (8 * x).long())
    assert abs(coefficients.mean()) < 0.05
    covariance = torch.cov(coefficients.T)
    assert (covariance - torch.eye(8)).abs().max() < 0.2
    assert torch.allclose(coupled.std(), torch.tensor(1.0), atol=0.01)
    apart = coupled - noise
    assert torch.allclose(apart, torch.einsum("bk,kchw->bchw",
        torch.einsum("bchw,kchw->bk", apart, patterns), patterns), atol=1e-5)  # fmt: skip


def test_standardized_latents_decode_to_the_same_picture(tokenizer: Path) -> None:
    torch.manual_seed(0)
    vae = new_parts(Words(tokenizer), tiny=True).vae.eval()
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    x = autoencoder.to_network(pictures)
    with torch.no_grad():
        before = vae.decode(vae.encode(x).latent_dist.mode()).sample
        autoencoder.standardize(vae, vae.encode(x).latent_dist.mode())
        latents = vae.encode(x).latent_dist.mode()
        after = vae.decode(latents).sample
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-3)


def test_training_is_determined_by_its_seed_and_lowers_the_loss(
    tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = Words(tokenizer)
    tokens = torch.from_numpy(words.encode(["a red house by a lake", "a tree in a field"])).long()
    empty = torch.from_numpy(words.encode([""])[0]).long()
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        parts = new_parts(words, tiny=True)
        before = parts.unet.conv_in.weight.detach().clone()
        latents = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(1)).half()
        data = diffusion.Data(latents, tokens[:, None], torch.tensor([0.1, 0.8]), empty)
        generator = torch.Generator().manual_seed(2)
        average = diffusion.train_diffusion(
            parts, data, Budget(10, 3), 2, generator, resumed=False, fast=False
        )
        assert not torch.equal(before, parts.unet.conv_in.weight)
        results.append(average.unet.conv_in.weight.detach())
    assert torch.equal(*results)
    assert "diffusion: 3 steps of 2" in capsys.readouterr().out


def test_the_schedule_ends_in_pure_noise() -> None:
    steps = scheduler()
    assert steps.alphas_cumprod[-1] == 0
    steps.set_timesteps(10)
    assert steps.timesteps[0] == 999


def test_budgets() -> None:
    budget = Budget(minutes=1000, steps=4)
    assert [budget.progress(step) for step in (0, 1, 4)] == pytest.approx([0, 0.25, 1], abs=1e-3)
    assert Budget(minutes=0.0, steps=100).progress(0) == 0  # one step is always made
    late = Budget(minutes=1000, steps=10**9, deadline=0.0)
    late.progress(1)
    time.sleep(0.01)
    assert late.progress(2) > 1
    assert cosine_rate(1.0, 0.0, 0, 10) == pytest.approx(0.1)
    assert cosine_rate(1.0, 0.5, 99, 10) == pytest.approx(0.505)
    assert cosine_rate(1.0, 2.0, 99, 10) == pytest.approx(0.01)


def test_a_whole_training_leaves_a_pipeline_of_diffusers(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) >= {"drawn", "generated", "recoloured", "tree_added", "autoencoder_psnr_db"}
    for file in ("samples.png", "coded.png", "reader.safetensors", "model/model_index.json"):
        assert (trained / file).stat().st_size > 0
    assert sorted(p.name for p in (trained / "model").iterdir() if p.is_dir()) == [
        "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    ]  # fmt: skip
    pipeline = load_pipeline(trained / "model")
    captions = ["a red house by a lake", "a blue house by a lake"]
    first = generate(pipeline, captions, [3, 3], steps=2)
    assert first.shape == (2, 256, 256, 3)
    np.testing.assert_array_equal(first, generate(pipeline, captions, [3, 3], steps=2))


def test_saved_networks_are_read_back(tokenizer: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = new_parts(Words(tokenizer), tiny=True)
    save_pipeline(parts, tokenizer, tmp_path)
    for saved, read in zip(parts.modules(), load_parts(tmp_path).modules()):
        values = dict(read.named_parameters())
        for name, value in saved.named_parameters():
            assert torch.equal(values[name], value.half().float()), name


def test_training_goes_on_from_a_folder(trained: Path, tmp_path: Path) -> None:
    metrics = train.train(train.arguments(["--smoke", "--out", str(tmp_path), "--resume", str(trained)]))
    before, after = load_parts(trained / "model"), load_parts(tmp_path / "model")
    for a, b in zip(before.vae.parameters(), after.vae.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(before.unet.conv_in.weight, after.unet.conv_in.weight)
    assert metrics["parameters"]["unet"] == sum(p.numel() for p in after.unet.parameters())
