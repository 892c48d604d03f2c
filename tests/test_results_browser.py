"""Results on the real page: before and after, a range rendered anew, the pack, a reload, and a result dropped back in."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.media import probe_clip
from tests.test_page_browser import Visitor
from tests.tiny import make_clip

NUM_FRAMES, HW = 12, (180, 320)
STAGE = "#viewer .rv-stage"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    make_clip(folder / "street.mp4", num_frames=NUM_FRAMES, hw=HW, audio=["aac"])
    rgba = np.zeros((30, 30, 4), np.uint8)
    rgba[5:25, 5:25] = (220, 30, 30, 255)
    Image.fromarray(rgba, "RGBA").save(folder / "tile.png")
    return folder


def test_from_the_first_take_to_a_result_dropped_back(chromium, page_server, material, tmp_path):
    visitor = Visitor(chromium, page_server)
    tab = visitor.tab
    visitor.bring(material / "street.mp4", material / "tile.png")
    visitor.drag((0.2, 0.3), (0.5, 0.7))
    visitor.insert()
    tab.wait_for_selector(f'{STAGE}[data-painted-frame="{NUM_FRAMES // 2}"]')
    assert 0.15 < tab.evaluate("document.querySelector('.rv-root').viewer.wipe") < 0.24, "the wipe line stands beside the object"
    assert tab.locator("#result-video video").count() == 1, "the player with sound is there as well"
    assert tab.locator(".rv-quality .rv-said").inner_text().startswith(f"Frame {NUM_FRAMES // 2}: identity 0.")
    tab.evaluate("document.querySelector('.rv-root').viewer.strip.wantRange([2, 5])")
    tab.get_by_role("button", name="Re-render frames 2 to 4 into this take").wait_for()
    assert tab.locator(STAGE).is_visible(), "one goes on looking at the result"

    first = visitor.download("#download-video", tmp_path)
    tab.get_by_role("tab", name="Motion").click()
    visitor.shown()
    visitor.drag((0.35, 0.5), (0.6, 0.5))
    visitor.go(3)
    visitor.press("i")
    visitor.go(7)
    visitor.press("u")
    visitor.settle()
    tab.get_by_role("tab", name="Result").click()
    tab.get_by_role("button", name="Re-render frames 3 to 7 into this take").click()
    tab.wait_for_selector("#progress :text('3 to 7 anew')", timeout=30_000)
    tab.wait_for_selector(".rv-take[data-shown=true] :text('Take 1, 3 to 7 anew')")
    assert tab.locator(".rv-take").count() == 2
    (tmp_path / "spliced").mkdir()
    spliced = visitor.download("#download-video", tmp_path / "spliced")
    assert probe_clip(spliced).num_frames == NUM_FRAMES and spliced.read_bytes() != first.read_bytes()

    tab.get_by_label("Compare with").select_option("Take 1")
    tab.wait_for_selector(".rv-left:text-is('Take 1')")
    tab.locator('.rv-take [data-what="star"]').first.click()
    tab.wait_for_selector('.rv-take [data-what="star"][aria-pressed="true"]')
    with tab.expect_download(timeout=30_000) as caught:
        tab.get_by_role("button", name="Export pack").click()
    caught.value.save_as(tmp_path / "pack.zip")
    with zipfile.ZipFile(tmp_path / "pack.zip") as pack:
        assert pack.testzip() is None and len(pack.read("layer-1-boxes.csv").splitlines()) == NUM_FRAMES + 1

    visitor.reload()
    tab.wait_for_selector("#insert:not([disabled])")
    tab.wait_for_selector(f'{STAGE}[data-painted-frame="{NUM_FRAMES // 2}"]')
    assert tab.locator('.rv-take [data-what="star"][aria-pressed="true"]').count() == 1
    assert tab.locator(".rv-left").inner_text() == "Take 1"

    tab.locator('.rv-take [data-what="reuse"]').last.click()
    tab.wait_for_selector("#canvas .cv-stage", state="visible")
    visitor.shown()
    tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.range[1] === 12")
    box = visitor.box()
    tab.keyboard.press("Control+z")
    tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.range[1] === 8")

    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Open project").click()
    chooser.value.set_files([str(first)])
    tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.range[1] === 12")
    visitor.shown()
    assert np.allclose(visitor.box(), box, atol=0.01), "the result brought its project back"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
    visitor.context.close()
    assert visitor.faults == []
    assert "Traceback" not in page_server.log
