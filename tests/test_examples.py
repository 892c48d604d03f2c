"""The worked examples: each carries its result, and that is what this program makes of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from editor.handlers import Page, find_example_result
from editor.storage import WorkStore, measure_bytes
from editor.workbench import Workbench
from pipeline.cache import ArtifactCache
from pipeline.composite import CompositeEngine
from pipeline.media import FrameStore, MediaLimits, probe_clip
from pipeline.project import build_request, read_project
from pipeline.quality import MEASURES, QualityMeter
from tests.serving import ROOT

EXAMPLES = sorted((ROOT / "assets" / "examples").glob("*.json"))
BLOCK_PX, MAX_DIFFERENCE = 8, 2.0
"""Between the means of the blocks that the engine touches, in a frame made now and in the shipped one; encoding leaves less."""


def test_there_are_examples_and_they_are_small():
    assert {"crossing", "launch"} <= {path.stem for path in EXAMPLES}
    assert measure_bytes(ROOT / "assets") < 40 * 2**20


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_shipped_result_is_the_one_that_is_rendered_now(example):
    """When this fails because the compositor has changed, ``make examples`` renders them anew."""
    shipped = find_example_result(example)
    assert shipped is not None, "the result was rendered from another project or other files: run make examples"
    request, _ = build_request(read_project(example), example.parent)
    frames = FrameStore(probe_clip(shipped))
    source = FrameStore(request.clip)
    start, stop = request.frame_range
    assert frames.clip.num_frames == stop - start
    index = (start + stop) // 2
    rendered = CompositeEngine().run(replace(request, frame_range=(index - 1, index + 1)), lambda progress: None, print)
    meter = QualityMeter(request)
    for frame in rendered:
        meter.see(frame)
        made = frame.image
    kept = frames.frame(index - start).image
    touched = block_means((made != source.frame(index).image).any(axis=-1, keepdims=True))[..., 0] > 0.5
    difference = np.abs(block_means(made) - block_means(kept))[touched].mean()
    assert touched.sum() > 20 and difference < MAX_DIFFERENCE, "the compositor makes something else of it now: run make examples"
    quality = json.loads(shipped.with_suffix(".quality").read_text())
    assert quality["frames"] == list(range(start, stop)), "every frame is measured"
    for name in MEASURES:
        measured, kept_value = meter.quality().to_document()[name][-1], quality[name][index - start]
        assert measured == pytest.approx(kept_value, abs=1e-3), f"{name} is another one now: run make examples"
    frames.close()
    source.close()


def block_means(image: np.ndarray) -> np.ndarray:
    """f64[h,w,C]: the means of square blocks, what is left over at the edges cut off."""
    rows, columns = image.shape[0] // BLOCK_PX, image.shape[1] // BLOCK_PX
    whole = image[: rows * BLOCK_PX, : columns * BLOCK_PX].astype(float)
    return whole.reshape(rows, BLOCK_PX, columns, BLOCK_PX, -1).mean(axis=(1, 3))


def test_a_stale_result_is_no_result(tmp_path):
    original = next(path for path in EXAMPLES if path.stem == "launch")
    for path in original.parent.iterdir():
        shutil.copy(path, tmp_path / path.name)
    example = tmp_path / original.name
    assert find_example_result(example) is not None
    document = json.loads(example.read_text())
    document["layers"][0]["boxes"]["0"]["box"][0] -= 0.01
    example.write_text(json.dumps(document))
    assert find_example_result(example) is None, "the project has changed"
    shutil.copy(original, example)
    with open(tmp_path / document["layers"][0]["references"][0]["path"], "ab") as file:
        file.write(b"\0")
    assert find_example_result(example) is None, "a file has changed"


def test_an_example_brings_its_result_as_a_take(tmp_path):
    workbench = Workbench(MediaLimits(), ArtifactCache(tmp_path / "cache"))
    page = Page(WorkStore(tmp_path / "visitors"), workbench, CompositeEngine(), tmp_path / "served", EXAMPLES)
    token = page.open_visitor()[0]
    assert [take["name"] for take in page.show_results(token)["takes"]] == ["Example: crossing"]
    page.load_example([path.stem for path in EXAMPLES].index("launch"), token)
    value = page.show_results(token)
    assert [take["name"] for take in value["takes"]] == ["Example: crossing", "Example: launch"]
    assert value["quality"]["frames"] == list(range(120)), "with how good each frame is"
    assert value["shown"] == value["takes"][1]["key"] and set(page.show_files(token)) == {"video", "project"}
    views = list(page.insert(token, False, False))
    assert len(views) == 2 and views[-1].line == "Done: 120 frames.", "nothing is rendered twice"
    assert len(page.show_results(token)["takes"]) == 2
