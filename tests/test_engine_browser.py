"""The choice of the engine in a real browser: its plan before the run, one frame of it, undo and reload."""

from __future__ import annotations

import pytest
import torch

from tests.pipeline.sample_project import DOCUMENT, changed, write_media, write_project
from tests.serving import serving
from tests.test_page_browser import Visitor
from tests.tiny_models import make_pipeline

ENGINE = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    write_media(folder)
    write_project(folder, changed(DOCUMENT, ("range", [0, 3]), ("engine", ENGINE)))
    make_pipeline().save_pretrained(folder / "checkpoints" / "tiny")
    return folder


def test_the_plan_stands_under_the_settings_before_anything_runs(chromium, folder):
    flags = ["--workdir", str(folder / "work"), "--checkpoints", str(folder / "checkpoints"), "--device", "cpu"]
    with serving(folder, *flags, environ={"OMP_NUM_THREADS": "1"}) as server:
        visitor = Visitor(chromium, server)
        tab = visitor.tab
        with tab.expect_file_chooser() as chooser:
            tab.get_by_role("button", name="Open project").click()
        chooser.value.set_files([str(folder / name) for name in ("project.json", "clip.mp4", "ball.png")])
        tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.range?.[1] === 3")
        visitor.shown()
        research = tab.locator("#research").get_by_role("button", name="Research")
        research.click()
        plan = tab.locator("#engine-plan")
        assert plan.inner_text().strip() == ""
        tab.get_by_label("VideoAnydoor").click()
        plan.get_by_text("Plan for 3 frames: all networks stay in memory").wait_for(timeout=20_000)
        assert "2 passes through the network, about 1 s" in plan.inner_text()
        steps = tab.locator("#engine-num_inference_steps input[type=number]")
        steps.fill("9")
        steps.press("Tab")
        plan.get_by_text("9 passes through the network").wait_for(timeout=10_000)

        tab.locator("#preview").click()
        tab.locator("#progress").get_by_text("This frame was generated alone.").wait_for(timeout=60_000)
        assert tab.locator("#result-picture img").is_visible()

        visitor.reload()
        tab.get_by_role("tab", name="Motion").click()
        research.click()
        plan.get_by_text("9 passes through the network").wait_for(timeout=10_000)
        tab.locator("[data-do=undo]").click()
        plan.get_by_text("2 passes through the network").wait_for(timeout=10_000)
        tab.locator("[data-do=undo]").click()
        tab.wait_for_function("() => document.querySelector('#engine-plan').innerText.trim() === ''", timeout=10_000)
        assert tab.locator("#engine-name input[value=composite]").is_checked()
        visitor.context.close()
        assert visitor.faults == []
        assert "Traceback" not in server.log
