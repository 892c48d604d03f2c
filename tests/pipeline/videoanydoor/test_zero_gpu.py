"""Sampling inside lent GPU calls, with a stand-in that, like the real thing, forks and sends everything through pickles."""

from __future__ import annotations

import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import Dinov2Model

from pipeline.cache import ArtifactCache
from pipeline.errors import Cancelled, UserError
from pipeline.media import probe_clip
from pipeline.runtime import Runtime
from pipeline.videoanydoor import zero_gpu
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from tests.pipeline.videoanydoor.test_engine import HW, NUM_FRAMES, ignore, images, make_engine, make_layer, make_request, run
from tests.tiny import make_clip
from tests.tiny_models import make_pipeline, randomize_zeros

CPU = Runtime("cpu", "float32")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints")
    pipe = make_pipeline()
    randomize_zeros(pipe.controlnet, pipe.pixel_warper)
    pipe.save_pretrained(folder / "paper")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "street.mp4", num_frames=NUM_FRAMES, hw=HW))


def stop_at_once(progress):
    if progress.stage == "inserting 'cup'":
        raise Cancelled


class Lender:
    """Stands in for ``spaces``: ``GPU`` runs generator functions in a forked process; notes durations and what came."""

    def __init__(self, is_forking: bool = True) -> None:
        self.is_forking = is_forking
        self.durations, self.processes = [], []

    def GPU(self, duration):
        def decorate(function):
            def call(task):
                self.durations.append(duration(task))
                sent = pickle.dumps(task)
                if not self.is_forking:
                    for item in function(pickle.loads(sent)):
                        yield pickle.loads(pickle.dumps(item))
                    return
                context = multiprocessing.get_context("fork")
                reader, writer = context.Pipe(duplex=False)

                def work():
                    torch.set_num_threads(1)
                    for item in function(pickle.loads(sent)):
                        writer.send((os.getpid(), item))
                    writer.send(None)

                process = context.Process(target=work, daemon=True)
                process.start()
                try:
                    while (received := reader.recv()) is not None:
                        self.processes.append(received[0])
                        yield received[1]
                finally:
                    process.terminate()
                    process.join()

            return call

        return decorate


def test_a_run_in_another_process_gives_the_same_frames_and_loads_nothing_there(checkpoints, clip, tmp_path, monkeypatch):
    plain = images(run(make_engine(checkpoints, tmp_path / "plain"), make_request(clip)))
    lender = Lender()
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path / "artifacts"), lender.GPU, CPU)
    monkeypatch.setattr(VideoAnydoorPipeline, "from_pretrained", lambda *_: pytest.fail("loaded before the call"))
    seen = []
    assert (images(run(engine, make_request(clip), report=seen.append)) == plain).all()
    assert lender.processes and os.getpid() not in lender.processes
    steps = [item for item in seen if item.stage == "inserting 'cup'"]
    assert [item.step for item in steps] == [1, 2] and steps[0].preview.dtype == np.uint8
    assert (images(run(engine, make_request(clip))) == plain).all() and len(lender.durations) == 1, "kept: no second call"


@pytest.fixture
def encodes(monkeypatch):
    """How often the VAE and DINOv2 ran, in whatever process; and nobody but this process may touch the disk's artefacts."""
    counts = {name: multiprocessing.get_context("fork").Value("i") for name in ("vae", "dinov2")}
    here = os.getpid()

    def count(owner, name, what):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            with counts[what].get_lock():
                counts[what].value += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(AutoencoderKL, "encode", "vae")
    count(Dinov2Model, "forward", "dinov2")
    for name in ("load", "store"):
        original = getattr(ArtifactCache, name)

        def only_here(*args, original=original, **kwargs):
            assert os.getpid() == here, "caches are filled outside of the call"
            return original(*args, **kwargs)

        monkeypatch.setattr(ArtifactCache, name, only_here)
    return lambda: {name: count.value for name, count in counts.items()}


def test_what_one_call_encodes_no_later_call_does(checkpoints, clip, tmp_path, encodes):
    lender = Lender()
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path / "artifacts"), lender.GPU, CPU)
    with pytest.raises(Cancelled):
        run(engine, make_request(clip), report=stop_at_once)
    assert encodes() == {"vae": 1, "dinov2": 2}
    first = images(run(engine, make_request(clip)))
    other = images(run(engine, make_request(clip, seed=5)))
    assert encodes() == {"vae": 1, "dinov2": 2}, "neither after a stop nor for another seed"
    assert len(lender.durations) == 3 and len(set(lender.processes)) == 3 and (first != other).any()
    again = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path / "elsewhere"), Lender().GPU, CPU)
    assert (images(run(again, make_request(clip, seed=5))) == other).all() and encodes() == {"vae": 2, "dinov2": 4}
    run(engine, make_request(clip, make_layer(box=(0.2, 0.3, 0.5, 0.6))))
    assert encodes() == {"vae": 3, "dinov2": 4}, "another box, the same reference"


def test_running_out_of_memory_there_leaves_what_is_loaded_here(checkpoints, clip, tmp_path, monkeypatch):
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path), Lender().GPU, CPU)
    loaded, original = engine._models.keys(), VideoAnydoorPipeline._predict

    def fail(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(VideoAnydoorPipeline, "_predict", fail)
    with pytest.raises(UserError, match="too little memory for this run"):
        run(engine, make_request(clip))
    monkeypatch.setattr(VideoAnydoorPipeline, "_predict", original)
    monkeypatch.setattr(VideoAnydoorPipeline, "from_pretrained", lambda *_: pytest.fail("loaded before the call"))
    assert engine._models.keys() == loaded and len(run(engine, make_request(clip))) == NUM_FRAMES


def test_the_plan_counts_on_the_smallest_gpu_that_is_lent(checkpoints, clip, tmp_path):
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path), Lender().GPU, CPU)
    assert engine._models.held_bytes > 0 and engine.plan(make_request(clip)).free_bytes == zero_gpu.DEVICE_BYTES


def test_the_duration_follows_frames_and_steps(checkpoints, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.videoanydoor.plan.guess_flops_per_s", lambda runtime: 2e7)
    lender = Lender(is_forking=False)
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path), lender.GPU, CPU)
    for steps, stop in ((1, 2), (4, 2), (4, 6)):
        run(engine, make_request(clip, num_inference_steps=steps, frame_range=(0, stop)))
    short, more_steps, more_frames = lender.durations
    assert 15 < short < more_steps < more_frames <= zero_gpu.MAX_DURATION_S
    with pytest.raises(Cancelled):
        run(engine, make_request(clip, num_inference_steps=900), report=stop_at_once)
    assert lender.durations[-1] == zero_gpu.MAX_DURATION_S


def test_stopping_stops_the_sampling(checkpoints, clip, tmp_path):
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path), Lender(is_forking=False).GPU, CPU)
    with pytest.raises(Cancelled):
        run(engine, make_request(clip, num_inference_steps=50), report=stop_at_once)
    assert len(run(engine, make_request(clip))) == NUM_FRAMES


@pytest.mark.parametrize("is_forking", [True, False])
def test_what_goes_wrong_there_is_told_here(checkpoints, clip, tmp_path, monkeypatch, is_forking):
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path), Lender(is_forking).GPU, CPU)
    error = [torch.OutOfMemoryError("CUDA out of memory.")]

    def fail(*args, **kwargs):
        raise error[0]

    monkeypatch.setattr(VideoAnydoorPipeline, "_predict", fail)
    told = []
    with pytest.raises(UserError, match="too little memory for this run"):
        run(engine, make_request(clip), warn=told.append)
    assert len(told) == 1 and "smaller plan" in told[0]
    error[0] = UserError("Not like this.")
    with pytest.raises(UserError, match="Not like this"):
        run(engine, make_request(clip))


def test_a_bug_there_is_raised(checkpoints, clip, tmp_path, monkeypatch):
    engine = zero_gpu.build_engine(checkpoints, ArtifactCache(tmp_path), Lender(is_forking=False).GPU, CPU)
    monkeypatch.setattr(VideoAnydoorPipeline, "_predict", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(engine, make_request(clip), report=ignore)
