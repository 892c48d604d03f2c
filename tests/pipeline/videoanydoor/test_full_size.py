"""The published sizes: counted without memory, and once really run."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from benchmarks.full_size import build_full_size
from pipeline.videoanydoor.checkpoints import count_parameters
from pipeline.videoanydoor.denoiser import predict_noise
from pipeline.videoanydoor.id_extractor import Identity
from pipeline.videoanydoor.plan import ACTIVATION_WIDTHS, VAE_WIDTHS
from pipeline.videoanydoor.sampling import SamplingOptions

# In millions. Published: the 2D in-painting U-Nets have 859.54 and 2567.48, the motion adapters 417.14 and 236.78, the VAE 83.65,
# DINOv2 304.37 (large) and 1136.48 (giant).
COUNTS = {
    "sd15": {"vae": 83.65, "unet": 859.54 + 417.14, "controlnet": 360.31, "pixel_warper": 7.51, "id_extractor": 304.37 + 0.79},
    "sdxl": {"vae": 83.65, "unet": 2567.48 + 236.78, "controlnet": 1250.04, "pixel_warper": 7.51, "id_extractor": 1136.48 + 5.12},
    "nano": {"vae": 0.0, "unet": 9.67, "controlnet": 3.20, "pixel_warper": 0.29, "id_extractor": 0.71},
}


@pytest.mark.parametrize("scale", sorted(COUNTS))
def test_parameter_counts_are_those_of_the_published_parts(scale):
    pipe = build_full_size(scale)
    counts = count_parameters(pipe)
    for name, expected in COUNTS[scale].items():
        assert counts[name] / 1e6 == pytest.approx(expected, abs=0.02), name
    assert all(parameter.is_meta for parameter in pipe.unet.parameters())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors alive at once that do not belong to ``module``; nothing is computed on the device ``meta``."""

    def __init__(self, *modules):
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {}
        self.ignored = {
            tensor.untyped_storage()._cdata for module in modules for tensor in (*module.parameters(), *module.buffers())
        }

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if (
                isinstance(tensor, torch.Tensor)
                and (key := tensor.untyped_storage()._cdata) not in self.ignored | self.sizes.keys()
            ):
                self.sizes[key] = tensor.untyped_storage().nbytes()
                self.now += self.sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self.forget, key)
        return result

    def forget(self, key):
        self.now -= self.sizes.pop(key, 0)


@torch.no_grad()
def test_the_plan_covers_the_memory_of_a_full_size_step(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: torch.empty_like(query))
    pipe = build_full_size("sd15")
    for module in (pipe.unet, pipe.controlnet, pipe.vae):
        module.to(torch.bfloat16)
    with torch.device("meta"):
        half = {"dtype": torch.bfloat16}
        sample, features = torch.empty(2, 9, 16, 64, 64, **half), torch.empty(2, 320, 16, 64, 64, **half)
        identity = Identity(torch.empty(2, 257, 768, **half), None)
        with LiveBytes(pipe.unet, pipe.controlnet) as step:
            predict_noise(pipe.unet, pipe.controlnet, sample, torch.empty(2), identity, features)
        with LiveBytes(pipe.vae) as decoding:
            pipe.vae.decode(torch.empty(1, 4, 64, 64, **half))
    widths = step.peak / (2 * 2 * 16 * 64 * 64 * 320)
    assert ACTIVATION_WIDTHS * 0.9 < widths < ACTIVATION_WIDTHS
    assert VAE_WIDTHS * 0.7 < decoding.peak / (2 * 512 * 512 * 128) < VAE_WIDTHS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sd15_really_runs_one_step_on_the_cpu():
    torch.set_num_threads(2)
    torch.manual_seed(0)
    pipe = build_full_size("sd15", "cpu")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    masks = np.zeros((8, 256, 256), bool)
    masks[:, 64:160, 64:160] = True
    references = rng.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    options = SamplingOptions(num_inference_steps=1, guidance_scale=1.0)
    made = pipe(frames, masks, references, frames[:1], frames, options)
    assert made.shape == (8, 256, 256, 3) and made.std() > 1
