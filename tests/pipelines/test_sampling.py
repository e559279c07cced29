"""Schedulers by the step's number are diffusers' own, and a walk can begin anywhere."""

from __future__ import annotations

import logging
import re

import diffusers
import numpy as np
import pytest
import torch

from sige_deploy.errors import InputError
from sige_deploy.pipelines.sampling import MEMORYLESS, SCHEDULERS, Sampler

CONFIG = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1,
}  # fmt: skip
SHAPE = (4, 6, 5)


def prediction(latents: np.ndarray, step: int) -> np.ndarray:
    """Stands in for a network."""
    return np.sin(latents + step).astype(np.float32)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_a_walk_is_diffusers_own(name: str, steps: int) -> None:
    sampler = Sampler(name, CONFIG, steps, seed=5)
    walk = sampler.begin(0)
    kind, settings = SCHEDULERS[name]
    own = getattr(diffusers, kind).from_config({**CONFIG, **settings})
    own.set_timesteps(steps)
    z = sampler.start(sampler.gaussian(SHAPE))
    torch.testing.assert_close(
        torch.from_numpy(z),
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)) * own.init_noise_sigma,
    )
    other = torch.from_numpy(z)
    for step, t in enumerate(own.timesteps):
        assert sampler.timesteps[step] == float(t)
        scaled = walk.scaled(z, step)
        wanted = own.scale_model_input(other, t).numpy()
        np.testing.assert_allclose(scaled, wanted, rtol=1e-5, atol=1e-5)
        made = prediction(scaled, step)
        if name == "lcm":  # its noise is ours, of the seed and the step
            z = walk.next(made, z, step)
            other = torch.from_numpy(z)
            continue
        z = walk.next(made, z, step)
        other = own.step(torch.from_numpy(made), t, other).prev_sample
        np.testing.assert_allclose(z, other.numpy(), rtol=1e-5, atol=1e-5)
    assert z.dtype == np.float32 and np.isfinite(z).all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_signal_and_noise(name: str) -> None:
    sampler = Sampler(name, CONFIG, 8, seed=0)
    assert sampler.signal[-1] == 1 and sampler.noise[-1] == 0
    assert (np.diff(sampler.noise / np.maximum(sampler.signal, 1e-9)) < 0).all()  # ever cleaner
    clean, noise = sampler.gaussian(SHAPE, 1), sampler.gaussian(SHAPE, 2)
    kind, settings = SCHEDULERS[name]
    own = getattr(diffusers, kind).from_config({**CONFIG, **settings})
    own.set_timesteps(8)
    for step in range(8):
        wanted = own.add_noise(
            torch.from_numpy(clean)[None], torch.from_numpy(noise)[None], own.timesteps[step : step + 1]
        )[0]
        np.testing.assert_allclose(
            sampler.add_noise(clean, noise, step), wanted.numpy(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_walk_may_begin_in_the_middle_and_be_copied(name: str) -> None:
    sampler = Sampler(name, CONFIG, 6, seed=1)
    z = sampler.gaussian(SHAPE)
    walk, again = sampler.begin(2), sampler.begin(2)
    for step in range(2, 6):
        if step == 4:
            branch = walk.copied()
            for later in range(4, 6):
                branch.next(prediction(z, 99), z, later)  # whatever it does, the others go on as they were
        one = walk.next(prediction(walk.scaled(z, step), step), z, step)
        two = again.next(prediction(again.scaled(z, step), step), z, step)
        np.testing.assert_array_equal(one, two)
        z = one
    assert np.isfinite(z).all()


def test_steps_that_are_no_sums_are_the_scheduler_s_own() -> None:
    assert {name for name in SCHEDULERS if Sampler(name, CONFIG, 4, 0).weights is not None} == MEMORYLESS
    clipping = {**CONFIG, "clip_sample": True}
    sampler = Sampler("ddim", clipping, 4, 0)
    assert sampler.weights is None
    own = diffusers.DDIMScheduler.from_config(clipping)
    own.set_timesteps(4)
    walk, z = sampler.begin(0), 5 * sampler.gaussian(SHAPE)
    for step, t in enumerate(own.timesteps):
        made = prediction(z, step)
        wanted = own.step(torch.from_numpy(made), t, torch.from_numpy(z)).prev_sample.numpy()
        z = walk.next(made, z, step)
        np.testing.assert_array_equal(z, wanted)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"no scheduler 'pndm'; use ddim, euler, dpm\+\+2m, lcm"):
        Sampler("pndm", CONFIG, 4, 0)
    for steps in (0, -1, 2.5):
        with pytest.raises(InputError, match="1 or more"):
            Sampler("ddim", CONFIG, steps, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="choose fewer"):
        Sampler("lcm", CONFIG, 60, 0)
    for name, steps in (("ddim", 1001), ("euler", 10_000), ("dpm++2m", 1000), ("ddim", 1000)):
        with pytest.raises(InputError, match=f"'{re.escape(name)}' has no {steps} steps; choose fewer"):
            Sampler(name, {**CONFIG, "steps_offset": 1}, steps, 0)
    for seed in (1 << 63, 0.5, "1", True):
        with pytest.raises(InputError, match="seed is a whole number of 63 bits, not"):
            Sampler("ddim", CONFIG, 4, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_count_of_steps(name: str) -> None:
    for steps in (1, 2, 3, 7, 50) if name == "lcm" else (1, 2, 3, 7, 50, 333, 999):
        sampler = Sampler(name, CONFIG, steps, 0)
        assert np.isfinite(sampler.signal).all() and (np.diff(sampler.noise) < 0).all()
        assert (sampler.signal[-1], sampler.noise[-1]) == (1, 0)


def test_settings_of_other_schedulers_are_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    Sampler("ddim", {**CONFIG, "skip_prk_steps": True, "_class_name": "PNDMScheduler"}, 4, 0)
    assert not caplog.records
