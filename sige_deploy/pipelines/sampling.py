"""The schedulers of diffusers as functions of the step's number, on numpy arrays."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.pipelines.arguments import checked_count, checked_seed

#: By name: class in diffusers, and what its configuration gets.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpm++2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
    ),
    "lcm": ("LCMScheduler", {}),
}
#: Those that remember nothing from step to step and draw no noise.
MEMORYLESS = frozenset({"ddim", "euler"})
GUIDED = frozenset(SCHEDULERS) - {"lcm"}  # by default; a distilled model has guidance in its weights


class Sampler:
    """`steps` steps of one scheduler, numbered from 0, the noisiest.

    name: of SCHEDULERS. config: as a pipeline's scheduler/scheduler_config.json has it. seed: of all noise.
    timesteps: float32 [steps]. weights: of `_weights`, or None. signal, noise: float32 [steps + 1], latents
    of step i are signal[i] * clean + noise[i] * noise, and those of step `steps` are clean.
    Raises InputError for an unknown name or a count of steps that the scheduler does not have.
    """

    def __init__(self, name: str, config: Mapping[str, Any], steps: int, seed: int) -> None:
        if name not in SCHEDULERS:
            raise InputError(f"there is no scheduler {name!r}; use {', '.join(SCHEDULERS)}.")
        steps = checked_count("steps", steps, "a count, 1 or more", lambda n: n > 0)
        self.name, self.steps, self.seed = name, steps, checked_seed(seed)
        self._new = self._made(name, config, steps)
        self.timesteps = np.array([float(t) for t in self._new.timesteps], np.float32)
        if len(self.timesteps) != steps:
            raise InputError(
                f"scheduler '{name}' makes {len(self.timesteps)} steps of {steps}; choose another count."
            )
        self.signal, self.noise = self._scales()
        self.weights = self._weights() if name in MEMORYLESS else None

    def _made(self, name: str, config: Mapping[str, Any], steps: int) -> Any:
        diffusers, _ = _packages()
        kind, settings = SCHEDULERS[name]
        taken = inspect.signature(getattr(diffusers, kind)).parameters  # others have entries of their own
        known = {key: value for key, value in config.items() if key in taken}
        scheduler = getattr(diffusers, kind).from_config({**known, **settings})
        if not _divided(scheduler, steps):
            raise InputError(f"scheduler '{name}' has no {steps} steps; choose fewer.")
        return scheduler

    def _scales(self) -> tuple[np.ndarray, np.ndarray]:
        _, torch = _packages()
        one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        signal, noise = np.ones(self.steps + 1, np.float32), np.zeros(self.steps + 1, np.float32)
        for i in range(self.steps):
            scheduler, at = copy.deepcopy(self._new), self._new.timesteps[i : i + 1]
            signal[i] = float(scheduler.add_noise(one, zero, at))
            noise[i] = float(scheduler.add_noise(zero, one, at))
        return signal, noise

    def _weights(self) -> np.ndarray | None:
        """What the scheduler's steps come to, where they are sums: float32 [steps, 3] of what the network
        reads for latents of 1, and of the next latents for latents of 1 and for a prediction of 1. None where
        they are no sums, as those that clip are not."""
        _, torch = _packages()
        latents, prediction = torch.tensor([[[[1.0, 0.0, 30.0]], [[0.0, 1.0, -20.0]]]]).unbind(1)
        weights = np.zeros((self.steps, 3), np.float32)
        for i in range(self.steps):
            scheduler, at = self._begun(i), self._new.timesteps[i]
            read = scheduler.scale_model_input(latents, at).flatten()
            made = scheduler.step(prediction, at, latents, return_dict=False)[0].flatten()
            if not torch.isclose(made[2], 30 * made[0] - 20 * made[1], rtol=1e-4, atol=1e-4):
                return None
            weights[i] = read[0], made[0], made[1]
        return weights

    def gaussian(self, shape: tuple[int, ...], seed: int | None = None) -> np.ndarray:
        """Normal noise float32, the same for a seed on any machine. seed: None for the sampler's."""
        _, torch = _packages()
        generator = torch.Generator("cpu").manual_seed(self.seed if seed is None else seed)
        return torch.randn(shape, generator=generator).numpy()

    def start(self, noise: np.ndarray) -> np.ndarray:
        """Latents of step 0 from noise alone."""
        return noise * np.float32(self._new.init_noise_sigma)

    def add_noise(self, clean: np.ndarray, noise: np.ndarray, step: int) -> np.ndarray:
        return self.signal[step] * clean + self.noise[step] * noise

    def begin(self, step: int) -> Walk:
        """A walk from `step` on."""
        return Walk(self, None if self.weights is not None else self._begun(step))

    def _begun(self, step: int) -> Any:
        """A scheduler of its own that stands at `step`."""
        scheduler = copy.deepcopy(self._new)
        if step and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(step)
        return scheduler


class Walk:
    """A scheduler on its way: step by step, with what it remembers of those before. scheduler: None where the
    sampler's weights are all that there is to a step."""

    def __init__(self, sampler: Sampler, scheduler: Any) -> None:
        self._sampler, self.scheduler = sampler, scheduler

    def scaled(self, latents: np.ndarray, step: int) -> np.ndarray:
        """What the network reads for these latents."""
        weights = self._sampler.weights
        if weights is not None:
            return latents * weights[step, 0]
        _, torch = _packages()
        timestep = self.scheduler.timesteps[step]
        return self.scheduler.scale_model_input(torch.from_numpy(latents), timestep).numpy()

    def next(self, prediction: np.ndarray, latents: np.ndarray, step: int) -> np.ndarray:
        """The latents of step + 1, float32, from the network's prediction for those of `step`."""
        weights = self._sampler.weights
        if weights is not None:
            return latents * weights[step, 1] + prediction * weights[step, 2]
        _, torch = _packages()
        generator = torch.Generator("cpu").manual_seed((self._sampler.seed << 10) + step & (1 << 63) - 1)
        keywords = {} if self._sampler.name == "ddim" else {"generator": generator}
        stepped = self.scheduler.step(
            torch.from_numpy(prediction.astype(np.float32)),
            self.scheduler.timesteps[step],
            torch.from_numpy(latents),
            return_dict=False,
            **keywords,
        )
        return stepped[0].numpy().astype(np.float32)

    def copied(self) -> Walk:
        """Another one that stands where this one does."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Walk:
        other = Walk.__new__(Walk)
        other._sampler, other.scheduler = self._sampler, copy.deepcopy(self.scheduler, memo)
        return other


def _divided(scheduler: Any, steps: int) -> bool:
    """Whether a scheduler can be set to so many steps; then it is. Some take counts for which they make steps
    that coincide or lie outside of the schedule."""
    trained = scheduler.config.num_train_timesteps
    if steps > trained:
        return False
    try:
        scheduler.set_timesteps(steps)
    except ValueError:
        return False
    times = np.array(scheduler.timesteps.tolist())
    return bool(times.max() < trained and (np.diff(times) < 0).all())


def _packages() -> tuple[Any, Any]:
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise RuntimeFailure(
            f"pipelines need the package {error.name}; run pip install 'sige-deploy[diffusers]'."
        ) from error
    return diffusers, torch
