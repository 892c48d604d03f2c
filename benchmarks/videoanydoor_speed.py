"""How long an insertion takes: first run, another seed, unchanged; beside a plain loop over the same networks.

    python -m benchmarks.videoanydoor_speed [--scale sd15|sdxl|nano] [--device auto] [--frames 16] [--size 512] [--steps 25]
                                            [--rounds 3]

Random weights: speed does not depend on them. On a CUDA device the default is ``sd15`` at its full size in bfloat16, on the CPU
``nano``. The plain loop is what one would write first: the same networks in half precision (single on the CPU), default attention,
guidance in one batch, everything encoded anew in every run, nothing kept. ``deep features /3`` approximates two steps of three.
Times are the best of the rounds, in which all take turns. The peak is that of one more run with another seed; on the CPU it is
the process's, everything before included.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from pipeline.cache import ArtifactCache
from pipeline.engines import ignore_progress
from pipeline.media import probe_clip, read_frames
from pipeline.model_cache import ModelCache
from pipeline.motion import BoxKey, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.runtime import Runtime, choose_runtime, free_memory_bytes, release_memory
from pipeline.types import Clip, InsertionRequest, Layer, Reference, SamplingConfig
from pipeline.videoanydoor.conditioning import build_conditioning
from pipeline.videoanydoor.engine import VideoAnydoorEngine
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.plan import read_facts
from pipeline.videoanydoor.regions import crop_frame
from pipeline.videoanydoor.sampling import SamplingOptions

from .full_size import build_full_size

HW = (720, 1280)


def write_clip(path: Path, num_frames: int) -> Clip:
    """A drifting gradient, 1280 x 720."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = HW[1], HW[0], "yuv420p"
        for index in range(num_frames):
            picture = np.stack([(x + 4 * index) % 256, y * 255 // HW[0], (x + y) % 256], axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return probe_clip(path)


def make_request(clip: Clip, sampling: SamplingConfig) -> InsertionRequest:
    """A disc-shaped object that crosses the middle, held by a box and two points."""
    y, x = np.mgrid[:300, :300]
    alpha = (np.hypot(x - 150, y - 150) < 130).astype(np.float32)
    image = np.dstack([x * 255 // 300, y * 255 // 300, np.full_like(x, 120)]).astype(np.uint8)
    anchors, last = {"a": (100.0, 120.0), "b": (200.0, 180.0)}, clip.num_frames - 1
    boxes = {0: BoxKey((0.35, 0.35, 0.5, 0.62)), last: BoxKey((0.5, 0.38, 0.65, 0.65))}
    keys = [TrajectoryKeys("a", {0: (0.4, 0.45), last: (0.54, 0.48)}), TrajectoryKeys("b", {0: (0.46, 0.53), last: (0.6, 0.56)})]
    layer = Layer(
        name="disc",
        kind="insert",
        references=(Reference(image, alpha, anchors),),
        boxes=build_box_sequence(boxes, HW, clip.num_frames),
        trajectories=build_trajectory_set(keys, anchors, HW, clip.num_frames),
    )
    return InsertionRequest(clip, (0, clip.num_frames), (layer,), sampling)


def timed(runtime: Runtime, work: Callable[[], object]) -> float:
    """Seconds until the device is done."""
    start = time.perf_counter()
    work()
    if runtime.device.startswith("cuda"):
        torch.cuda.synchronize(runtime.torch_device())
    return time.perf_counter() - start


def peak_gb(runtime: Runtime, work: Callable[[], object]) -> float:
    """Peak of the device's memory during ``work``, or of the process's since its start."""
    release_memory(runtime)
    if runtime.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(runtime.torch_device())
        work()
        return torch.cuda.max_memory_allocated(runtime.torch_device()) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def plain_loop(pipe: VideoAnydoorPipeline, request: InsertionRequest, size: int, folder: Path) -> None:
    """Decode, condition, encode everything, sample, decode."""
    conditioning = build_conditioning(request.layers[0], request.clip, request.frame_range, read_facts(folder).grid(size))
    assert conditioning is not None
    sources = read_frames(request.clip, *request.frame_range)
    crops = np.stack([crop_frame(source.image, conditioning.window, index) for index, source in enumerate(sources)])
    frames = conditioning.lay_over(crops)
    sampling = request.sampling
    window = min(16, pipe.max_window)
    options = SamplingOptions(
        sampling.seed, sampling.num_inference_steps, sampling.guidance_scale, window=window, overlap=window // 2
    )
    pipe(frames, conditioning.masks(), conditioning.references, conditioning.content, conditioning.motion, options)


def measure(options: argparse.Namespace, runtime: Runtime, folder: Path) -> None:
    scale = options.scale or ("sd15" if runtime.is_accelerated else "nano")
    checkpoint = folder / "checkpoints" / scale
    build_full_size(scale, "cpu").to(runtime.torch_dtype()).save_pretrained(checkpoint)
    size = options.size or read_facts(checkpoint).size
    sampling = SamplingConfig(name="videoanydoor", num_inference_steps=options.steps, size=size)
    request = make_request(write_clip(folder / "clip.mp4", options.frames), sampling)
    models = ModelCache(free_memory_bytes(runtime), on_drop=lambda: release_memory(runtime))

    def make_engine(name: str, feature_interval: int = 1) -> VideoAnydoorEngine:
        artifacts = ArtifactCache(folder / name)
        return VideoAnydoorEngine(folder / "checkpoints", runtime, models, artifacts, feature_interval=feature_interval)

    def run(engine: VideoAnydoorEngine, seed: int) -> None:
        changed = replace(request, sampling=replace(sampling, seed=seed))
        for _ in engine.run(changed, ignore_progress, print):
            pass

    print(f"{scale}, {options.frames} frames, {size} px, {options.steps} steps, {runtime.device}, {runtime.precision}")
    print(make_engine("kept").plan(request).describe())
    half = torch.float16 if runtime.is_accelerated else torch.float32
    naive = VideoAnydoorPipeline.from_pretrained(checkpoint, half).to(runtime.torch_device())
    plain_loop(naive, request, size, checkpoint)
    seeds = iter(range(1, 10_000))
    variants: dict[str, Callable[[], None]] = {
        "plain loop": partial(plain_loop, naive, request, size, checkpoint),
        "first run": lambda: run(make_engine(f"first{next(seeds)}"), 0),
        "another seed": lambda: run(make_engine("kept"), next(seeds)),
        "deep features /3": lambda: run(make_engine("kept", feature_interval=3), next(seeds)),
        "unchanged": lambda: run(make_engine("kept"), 0),
    }
    print(f"{'first, with load':16} {timed(runtime, lambda: run(make_engine('kept'), 0)):8.2f} s")
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(options.rounds):
        for name, work in variants.items():
            best[name] = min(best[name], timed(runtime, work))
    for name, seconds in best.items():
        print(f"{name:16} {seconds:8.2f} s {best['plain loop'] / seconds:7.2f} x")
    variants.clear()
    del naive
    print(f"{'peak memory':16} {peak_gb(runtime, lambda: run(make_engine('kept'), next(seeds))):8.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("sd15", "sdxl", "nano"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(options, choose_runtime(options.device), Path(name))


if __name__ == "__main__":
    main()
