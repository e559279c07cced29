"""Pipeline folders of diffusers, tiny and random, into folders of bundles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny_pipeline
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection
from typer.testing import CliRunner

import sige_deploy as sige
from sige_deploy.cli.app import app
from sige_deploy.errors import BundleError, ExportError, InputError
from sige_deploy.exporters.diffusers_modules import Denoiser, cross_attentions

TOKENS = np.array([[0, 2, 3, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, sige.Pipeline]:
    """(source folder, exported pipeline) of an XL pipeline with a ControlNet, at 16 x 24 pixels."""
    root = tmp_path_factory.mktemp("xl")
    source = tiny_pipeline.write(root / "source", xl=True)
    unet = tiny_pipeline.unet(**tiny_pipeline.SDXL)
    tiny_pipeline.controlnet(unet).save_pretrained(root / "controlnet")
    config = sige.SparseConfig(dense_above=1.0)
    pipeline = sige.export_diffusers(source, root / "out", config, width=24, controlnet=root / "controlnet")
    return source, pipeline


def run(path: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """A plain ONNX file of the folder."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs)))


def test_the_manifest_says_what_a_pipeline_needs(xl: tuple[Path, sige.Pipeline]) -> None:
    manifest = xl[1].manifest
    assert (manifest.family, manifest.height, manifest.width, manifest.batch) == (
        "stable-diffusion-xl", 16, 24, 2
    )  # fmt: skip
    assert manifest.latent.model_dump() == {
        "channels": 4, "height": 8, "width": 12, "factor": 2, "scaling_factor": 0.18215, "shift_factor": 0.0
    }  # fmt: skip
    assert manifest.controlnet and manifest.zero_empty_prompt and not manifest.inpainting
    assert manifest.prediction_type == "v_prediction" and manifest.precision == "float32"
    assert [(t.length, t.width, t.pooled) for t in manifest.text_encoders] == [(7, 10, None), (7, 10, 10)]
    assert [s.kind for s in manifest.sources] == ["controlnet"]
    assert {"tokenizer/vocab.json", "tokenizer_2/merges.txt"} < set(manifest.files)
    assert xl[1].scheduler_config()["_class_name"] == "DDIMScheduler"


def test_no_part_has_an_island(xl: tuple[Path, sige.Pipeline]) -> None:
    for bundle in xl[1].bundles.values():
        assert bundle.manifest.islands == [] and bundle.manifest.refusals == []


def test_an_edit_computes_no_product_of_the_text(xl: tuple[Path, sige.Pipeline]) -> None:
    """Its only products besides the rows' own are the residual blocks' embeddings: one for the UNet, one for
    the ControlNet."""
    launches = xl[1].unet.manifest.launches
    assert launches["Gemm"] == 2 and "MatMul" not in launches
    assert not {"Transpose", "Softmax"} & set(launches)
    roles = {i.name: i.role for i in xl[1].unet.manifest.inputs}
    assert roles == {
        "sample": "spatial", "control": "spatial", "timestep": "pinned", "control_scale": "pinned",
        "text": "free", "added": "free",
    }  # fmt: skip


@torch.no_grad()
def test_text_to_noise_is_what_diffusers_computes(xl: tuple[Path, sige.Pipeline]) -> None:
    source, pipeline = xl
    encoders = [run(pipeline.path(t.model), tokens=TOKENS) for t in pipeline.manifest.text_encoders]
    hidden = np.concatenate([e["hidden"] for e in encoders], axis=-1)
    second = CLIPTextModelWithProjection.from_pretrained(source / "text_encoder_2").eval()
    want = second(torch.from_numpy(TOKENS), output_hidden_states=True)
    np.testing.assert_allclose(encoders[1]["hidden"], want.hidden_states[-2], atol=1e-5)
    np.testing.assert_allclose(encoders[1]["pooled"], want.text_embeds, atol=1e-5)

    generator = torch.Generator().manual_seed(0)
    halves = np.concatenate([np.zeros_like(hidden), hidden])
    pooled = np.concatenate([np.zeros_like(encoders[1]["pooled"]), encoders[1]["pooled"]])
    time_ids = np.array([[16, 24, 0, 0, 16, 24]] * 2, np.float32)
    sample = torch.randn(2, 4, 8, 12, generator=generator)
    control = torch.rand(2, 3, 16, 24, generator=generator)
    prompt = run(pipeline.prompt, hidden=halves, pooled=pooled, time_ids=time_ids)
    with sige.open(pipeline.root / "unet", threads=1) as session:
        got = session.record(
            sample=sample, timestep=np.array([321.0], np.float32), control=control,
            control_scale=np.array([0.5], np.float32), **prompt,
        )  # fmt: skip

    unet = UNet2DConditionModel.from_pretrained(source / "unet").eval()
    controlnet = tiny_pipeline.controlnet(unet)
    added = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(time_ids)}
    text, kwargs = torch.from_numpy(halves), {"added_cond_kwargs": added, "return_dict": False}
    down, mid = controlnet(sample, 321, text, control, 0.5, **kwargs)
    noise = unet(
        sample, 321, text, down_block_additional_residuals=down, mid_block_additional_residual=mid, **kwargs
    )[0]
    assert float((got["noise"] - noise).abs().max()) <= 1e-4 * float(noise.abs().max())


@torch.no_grad()
def test_a_denoiser_is_the_same_after_its_export() -> None:
    denoiser = Denoiser(tiny_pipeline.unet()).eval()
    inputs = {"sample": torch.ones(1, 4, 8, 8), "timestep": torch.ones(1), "text": torch.ones(1, 7, 80)}
    before = denoiser(**inputs)["noise"]
    torch.export.export(denoiser, (), inputs, strict=False)
    assert torch.equal(denoiser(**inputs)["noise"], before)


@torch.no_grad()
def test_the_vae_is_scaled_as_the_unet_takes_latents(xl: tuple[Path, sige.Pipeline]) -> None:
    source, pipeline = xl
    vae = AutoencoderKL.from_pretrained(source / "vae").eval()
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with sige.open(pipeline.root / "vae_encoder", threads=1) as session:
        latents = session.record(image=image)
    dist = vae.encode(image).latent_dist
    torch.testing.assert_close(latents["mean"], dist.mean * 0.18215, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latents["std"], dist.std * 0.18215, atol=1e-5, rtol=1e-4)
    with sige.open(pipeline.root / "vae_decoder", threads=1) as session:
        decoded = session.record(latents=latents["mean"])["image"]
    torch.testing.assert_close(decoded, vae.decode(dist.mean).sample, atol=1e-4, rtol=1e-4)


@pytest.fixture
def recorded(xl: tuple[Path, sige.Pipeline]) -> Iterator[tuple[sige.Session, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    session = sige.open(xl[1].root / "unet", threads=1)
    inputs: dict[str, Any] = {
        spec.name: rng.standard_normal(spec.shape).astype(spec.dtype)
        for spec in session.bundle.manifest.inputs
    }
    session.record(**inputs)
    with session:
        yield session, inputs


def test_a_text_edit_changes_the_masked_pixels_alone(
    recorded: tuple[sige.Session, dict[str, Any]],
) -> None:
    session, inputs = recorded
    before = session.edit(**inputs)["noise"]
    mask = np.zeros((8, 12), bool)
    mask[2:5, 3:6] = True
    other = inputs | {"text": inputs["text"] + 1.0, "added": inputs["added"] - 1.0}
    after = session.edit(**other, mask=mask)["noise"]
    assert session.report.path == "sparse"
    changed = (before != after).any(axis=(0, 1))
    assert changed[2:5, 3:6].all()
    assert not changed[:, 8:].any()


def test_the_time_step_is_the_recorded_one(recorded: tuple[sige.Session, dict[str, Any]]) -> None:
    session, inputs = recorded
    with pytest.raises(InputError, match="'timestep' must be as recorded"):
        session.edit(**inputs | {"timestep": inputs["timestep"] + 1})


def test_reading_checks_every_file(xl: tuple[Path, sige.Pipeline], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(xl[1].root, tmp_path / "copy"))
    assert sige.read_pipeline(folder).manifest == xl[1].manifest
    weights = folder / "prompt" / "weights.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(BundleError, match="is not the file that the pipeline was exported with"):
        sige.read_pipeline(folder)
    weights.write_bytes(original)
    shutil.rmtree(folder / "vae_decoder")
    shutil.copytree(folder / "vae_encoder", folder / "vae_decoder")
    with pytest.raises(BundleError, match="is not the one that the pipeline was exported with"):
        sige.read_pipeline(folder)
    manifest = json.loads((folder / "pipeline.json").read_text())
    (folder / "pipeline.json").write_text(json.dumps(manifest | {"schema_version": 2}))
    with pytest.raises(BundleError, match="has schema version 2"):
        sige.read_pipeline(folder)
    with pytest.raises(BundleError, match="there is no pipeline at"):
        sige.read_pipeline(tmp_path / "nothing")


def test_the_command_line_exports_in_half_precision_with_a_lora(tmp_path: Path) -> None:
    source = tiny_pipeline.write(tmp_path / "source", in_channels=9)
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    lora = {f"{key}.lora_A.weight": torch.ones(1, 12), f"{key}.lora_B.weight": torch.ones(16, 1)}
    save_file(lora, tmp_path / "style.safetensors")
    words = ["export", "--diffusers", source, tmp_path / "out", "--precision", "float16", "--batch", 1]
    words += ["--lora", f"{tmp_path / 'style.safetensors'}=0.5"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "stable-diffusion for inpainting, 16 x 16 pixels, batch 1, float16" in done.output

    pipeline = sige.read_pipeline(tmp_path / "out")
    assert pipeline.manifest.inpainting and pipeline.manifest.precision == "float16"
    assert [(s.kind, s.name, s.scale) for s in pipeline.manifest.sources] == [
        ("lora", "style.safetensors", 0.5)
    ]
    inputs = {spec.name: (spec.shape, spec.dtype) for spec in pipeline.unet.manifest.inputs}
    assert inputs == {
        "sample": ([1, 9, 8, 8], "float16"),
        "timestep": ([1], "float32"),  # whole and fractional steps that float16 does not hold
        "text": ([1, 7, 80], "float16"),
    }
    assert {b.manifest.precision for b in pipeline.bundles.values()} == {"float16"}
    hidden = run(pipeline.path("text_encoder/model.onnx"), tokens=TOKENS)["hidden"]
    text = run(pipeline.prompt, hidden=hidden)["text"]
    unet = UNet2DConditionModel.from_pretrained(source / "unet")
    layers = cross_attentions(unet)
    place = layers.index(unet.mid_block.attentions[0].transformer_blocks[0].attn2)
    first = sum(2 * layer.to_k.out_features for layer in layers[:place])
    weight = layers[place].to_k.weight.detach().numpy() + 0.5
    want = hidden.astype(np.float32) @ weight.T
    np.testing.assert_allclose(text[..., first : first + 16], want, atol=0.05)


def test_options_of_pipelines_and_of_networks_do_not_mix(tmp_path: Path) -> None:
    for words, sentence in (
        (["--diffusers", "x", "a.onnx", "b"], "the only argument is OUT"),
        (["--diffusers", "x", "b", "--spatial", "image"], "a pipeline's own is taken"),
        (["--diffusers", "x", "b", "--lora", "a=b"], "is not FILE or FILE=SCALE"),
        (["a.onnx", "b", "--height", "64"], "only for a pipeline"),
        (["a.onnx"], "say where to"),
    ):
        done = CliRunner().invoke(app, ["export", *words])
        assert done.exit_code == 2 and sentence in " ".join(done.output.replace("│", " ").split()), words


def _written(folder: Path, **changes: Any) -> Path:
    """A pipeline folder whose index says something else."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline.write(tmp_path_factory.mktemp("sd") / "source")


def test_mistakes_are_one_sentence_and_leave_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"height": 18}, "no multiple of 4, as this UNet needs; try 16"),
        ({"batch": 0}, "batch size has to be 1 or more"),
        ({"controlnet": tmp_path}, "has no .safetensors weights"),
        ({"loras": {tmp_path / "none.safetensors": 1.0}}, "cannot read LoRA"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(ExportError, match=sentence):
            sige.export_diffusers(source, out, **arguments)
    with pytest.raises(ExportError, match=r"has no model_index\.json"):
        sige.export_diffusers(tmp_path, out)
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    _written(copy, unet=["evil_module", "Net"])
    with pytest.raises(ExportError, match="has Net as its unet; this exporter knows UNet2DConditionModel"):
        sige.export_diffusers(copy, out)
    _written(copy, unet=["diffusers", "UNet2DConditionModel"])
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ExportError, match="pickled ones are never read"):
        sige.export_diffusers(copy, out)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep me")
    with pytest.raises(BundleError, match="is no pipeline; choose an empty or a new folder"):
        sige.export_diffusers(source, tmp_path / "full")
