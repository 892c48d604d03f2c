"""The page in a real browser: the example in two clicks, own files placed by clicks, Cancel, and what goes wrong said clearly."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editor.session import find_box
from pipeline.media import probe_clip
from pipeline.project import parse_project
from tests.serving import serving
from tests.tiny import make_clip

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NUM_FRAMES, HW = 12, (120, 200)
EXAMPLE_FRAMES = 120


@pytest.fixture(scope="module")
def chromium():
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is missing, and a CI run must not skip the browser")
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "--workdir", str(folder / "work")) as running:
        yield running


@pytest.fixture
def page(chromium, server):
    """A fresh visitor's page with the example laid out. Fails when the browser's console shows an error."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(server.url)
    tab.wait_for_selector("#picture img", timeout=30_000)
    tab.wait_for_selector("#insert:not([disabled])")
    yield tab
    context.close()
    assert faults == [], "the browser's console must stay free of errors"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    make_clip(folder / "street.mp4", num_frames=NUM_FRAMES, hw=HW, audio=["aac"])
    rgba = np.zeros((30, 30, 4), np.uint8)
    rgba[5:25, 5:25] = (220, 30, 30, 255)
    Image.fromarray(rgba, "RGBA").save(folder / "tile.png")
    (folder / "words.mp4").write_text("only words")
    return folder


@contextlib.contextmanager
def new_picture(page):
    """What is done inside makes the server send another picture of the frame; wait until it is shown."""
    before = page.locator("#picture img").get_attribute("src")
    yield
    page.wait_for_function("before => document.querySelector('#picture img')?.src !== before", arg=before, timeout=20_000)


def click_picture(page, x: float, y: float) -> None:
    """Click the frame at a share of its width and height."""
    page.wait_for_function("document.querySelector('#picture img')?.naturalWidth > 0")
    box = page.locator("#picture img").bounding_box()
    with new_picture(page):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def download(page, selector: str, folder: Path) -> Path:
    with page.expect_download() as caught:
        page.locator(selector).click()
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def upload(page, selector: str, path: Path) -> None:
    page.locator(f"{selector} input[type=file]").set_input_files(str(path))


def test_the_example_takes_two_clicks(page, tmp_path):
    page.locator("button.example").first.click()
    page.locator("#insert").click()
    page.wait_for_selector("#cancel", timeout=10_000)
    page.wait_for_selector("#progress .bar", timeout=20_000)
    page.wait_for_selector("#progress :text('Done:')", timeout=60_000)
    video = page.locator("#result-video video")
    video.wait_for()
    page.wait_for_function("document.querySelector('#result-video video').readyState >= 2")
    assert page.evaluate("document.querySelector('#result-video video').videoWidth") == 1280
    got = probe_clip(download(page, "#download-video", tmp_path))
    assert got.num_frames == EXAMPLE_FRAMES
    assert page.locator("#insert").is_visible() and not page.locator("#cancel").is_visible()


def test_own_files_are_placed_by_clicks(page, material, tmp_path):
    page.get_by_role("button", name="Start empty").click()
    page.wait_for_selector("#insert[disabled]")
    page.wait_for_selector("#checklist :text('Add a video to begin.')")
    upload(page, "#clip-file", material / "street.mp4")
    page.wait_for_selector("#checklist :text('12 frames')")
    page.wait_for_selector("#checklist :text('Add a picture of the thing')")
    upload(page, "#reference-file", material / "tile.png")
    page.wait_for_selector("#cutout img")
    page.wait_for_selector("#checklist :text('Draw the start box')")
    click_picture(page, 0.1, 0.2)
    page.wait_for_selector("#hint :text('opposite corner')")
    click_picture(page, 0.3, 0.6)
    page.wait_for_selector("#hint :text('where the object ends')")
    click_picture(page, 0.6, 0.2)
    page.wait_for_selector("#hint :text('opposite corner')")
    click_picture(page, 0.8, 0.6)
    page.locator("#tool label", has_text="Path").click()
    page.wait_for_selector("#hint :text('Move the frame slider')")
    with new_picture(page):
        page.locator("#frame input[type=range]").fill("6")
    click_picture(page, 0.5, 0.75)
    page.wait_for_selector("#checklist :text('1 path node')")

    document = json.loads(download_saved(page, tmp_path).read_text())
    project = parse_project(document)
    assert find_box(document, "start") == pytest.approx((0.1, 0.2, 0.3, 0.6), abs=0.01)
    assert find_box(document, "end") == pytest.approx((0.6, 0.2, 0.8, 0.6), abs=0.01)
    assert list(project.layers[0].boxes) == [0, NUM_FRAMES - 1]
    assert project.layers[0].trajectories[0].keys[6] == pytest.approx((0.5, 0.75), abs=0.01)
    assert (document["clip"]["path"], document["layers"][0]["references"][0]["path"]) == ("street.mp4", "tile.png")

    page.locator("#insert").click()
    page.wait_for_selector("#progress :text('Done:')", timeout=30_000)
    got = probe_clip(download(page, "#download-video", tmp_path))
    assert (got.num_frames, got.hw, len(got.audio_streams)) == (NUM_FRAMES, HW, 1)

    page.get_by_role("tab", name="Motion").click()
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("!document.querySelector('#checklist').innerText.includes('path node')")


def download_saved(page, folder: Path) -> Path:
    with page.expect_download() as caught:
        page.get_by_role("button", name="Save project").click()
    path = folder / "saved.json"
    caught.value.save_as(path)
    return path


def test_cancel_stops_the_work_and_the_next_insert_runs(page, server):
    page.locator("#insert").click()
    page.wait_for_selector("#progress :text('Compositing')", timeout=20_000)
    page.locator("#cancel").click()
    page.wait_for_selector("#progress :text('Stopped')", timeout=5_000)
    assert page.locator("#insert").is_visible()
    results = server.log_path.parent / "work" / "visitors"
    page.wait_for_timeout(1_000)
    newest = max(results.iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert list((newest / "results").iterdir()) == [], "a stopped render leaves nothing behind"
    page.locator("#insert").click()
    page.wait_for_selector("#progress :text('of 120')", timeout=10_000)
    page.locator("#cancel").click()
    page.wait_for_selector("#progress :text('Stopped')", timeout=5_000)


def test_closing_the_tab_stops_its_render(page, chromium, server):
    visitors = server.log_path.parent / "work" / "visitors"
    before = set(visitors.glob("*/results/*"))
    leaving = chromium.new_page()
    leaving.goto(server.url)
    leaving.wait_for_selector("#insert:not([disabled])", timeout=30_000)
    leaving.locator("#insert").click()
    leaving.wait_for_selector("#progress :text('Compositing')", timeout=20_000)
    leaving.close()
    page.locator("#insert").click()
    page.wait_for_selector("#progress :text('Compositing')", timeout=10_000)
    page.locator("#cancel").click()
    page.wait_for_selector("#progress :text('Stopped')", timeout=5_000)
    for _ in range(30):
        if set(visitors.glob("*/results/*")) == before:
            break
        page.wait_for_timeout(100)
    assert set(visitors.glob("*/results/*")) == before, "nothing of either render is left"


def test_a_file_that_is_no_video_gets_one_clear_sentence(page, material):
    upload(page, "#clip-file", material / "words.mp4")
    toast = page.locator(".toast-body")
    toast.wait_for()
    text = toast.inner_text()
    assert "words.mp4" in text and "Traceback" not in text and "/" not in text.replace("and/or", "")
    assert page.locator("#insert").is_enabled(), "the work before is still there"


def open_number(page, elem_id: str):
    """The field of an exact number, opened and filled in."""
    page.locator("#numbers button").first.click()
    page.wait_for_function(f"document.querySelector('#{elem_id} input')?.value")
    page.wait_for_timeout(200)
    return page.locator(f"#{elem_id} input")


def test_work_is_resumed_after_a_reload(page):
    field = open_number(page, "end-box-top")
    field.fill("0.05")
    with new_picture(page):
        field.press("Enter")
    page.reload()
    page.wait_for_selector("#insert:not([disabled])", timeout=30_000)
    page.get_by_role("button", name="Resume last work").click()
    page.get_by_role("button", name="Resume last work").wait_for(state="hidden")
    assert open_number(page, "end-box-top").input_value() == "0.05"


def test_typed_numbers_and_the_preview_work(page):
    field = open_number(page, "start-box-top")
    field.fill("0.2")
    with new_picture(page):
        field.press("Enter")
    with new_picture(page):
        page.locator("#preview").click()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
