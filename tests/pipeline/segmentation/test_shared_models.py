"""VideoAnydoor and SAM 2.1 on one device: one bounded cache, each lets the other go when it needs the room, and waits while that
one is at work."""

from __future__ import annotations

import pytest
import torch
from transformers import Sam2VideoModel

from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.media import FrameStore, probe_clip
from pipeline.model_cache import ModelCache
from pipeline.runtime import Runtime
from pipeline.segmentation import sam2
from pipeline.segmentation.sam2 import Sam2Segmenter
from pipeline.types import Click, Prompt
from pipeline.videoanydoor.engine import VideoAnydoorEngine
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from tests.tiny import make_clip
from tests.tiny_models import make_pipeline

from ..videoanydoor.test_engine import HW, NUM_FRAMES, make_request
from .tiny_sam2 import save_sam2

CPU = Runtime("cpu", "float32")
CLICK = Prompt((Click(40.0, 30.0),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``checkpoints/paper``, ``sam`` and ``clip.mp4``."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("both")
    make_pipeline().save_pretrained(folder / "checkpoints" / "paper")
    save_sam2(folder / "sam")
    make_clip(folder / "clip.mp4", num_frames=NUM_FRAMES, hw=HW)
    return folder


class Both:
    """An engine and a segmenter that share ``models``, and what was loaded, in order."""

    def __init__(self, folder, cache, models, monkeypatch):
        self.models, self.loads = models, []
        self.frames = FrameStore(probe_clip(folder / "clip.mp4"))
        self.engine = VideoAnydoorEngine(folder / "checkpoints", CPU, models, ArtifactCache(cache))
        self.segmenter = Sam2Segmenter(folder / "sam", CPU, models, max_embedding_bytes=0)
        for owner, name in ((VideoAnydoorPipeline, "engine"), (Sam2VideoModel, "sam2")):
            self._count(owner, name, monkeypatch)

    def _count(self, owner, name, monkeypatch):
        load = owner.from_pretrained.__func__
        counted = classmethod(lambda cls, *args, **more: self.loads.append(name) or load(cls, *args, **more))
        monkeypatch.setattr(owner, "from_pretrained", counted)

    def render(self, seed, report=lambda progress: None):
        list(self.engine.run(make_request(self.frames.clip, seed=seed, num_inference_steps=1), report, lambda text: None))

    def click(self):
        return self.segmenter.segment(self.frames, 0, CLICK)


@pytest.mark.parametrize("fits", [True, False])
def test_each_makes_room_for_the_other(folder, tmp_path, monkeypatch, fits):
    dropped = []
    models = ModelCache(1 << 40 if fits else 1, on_drop=lambda: dropped.append(models.keys()))
    both = Both(folder, tmp_path, models, monkeypatch)
    both.click()
    both.click()
    both.render(seed=1)
    both.render(seed=2)
    both.click()
    assert both.loads == (["sam2", "engine"] if fits else ["sam2", "engine", "sam2"])
    assert len(dropped) == (0 if fits else 2) and len(models.keys()) == (2 if fits else 1)
    both.frames.close()


def test_a_click_waits_for_the_render_then_says_so(folder, tmp_path, monkeypatch):
    both = Both(folder, tmp_path, ModelCache(1), monkeypatch)
    monkeypatch.setattr(sam2, "PATIENCE_S", 0.01)
    said = []

    def report(progress):
        if progress.stage.startswith("inserting"):
            with pytest.raises(UserError, match=r"leaves no memory for SAM 2.1 now; try again when that is done") as caught:
                both.click()
            said.append(str(caught.value))

    both.render(1, report)
    assert said and both.loads == ["engine"], "the render was not disturbed"
    assert both.click().mask.any()
    both.frames.close()
