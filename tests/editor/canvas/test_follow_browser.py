"""Sticking to the scene in a real browser: offered, taken with one click, tracked, drawn where the scene is."""

import numpy as np

from pipeline import geometry
from tests.editor.canvas.bench import Hand, serving_canvas
from tests.pipeline.test_tracking import camera_path, film, look

NUM_FRAMES = 12
HW = np.array([320.0, 180.0])


def test_one_click_ties_the_object_to_the_scene(chromium, tmp_path):
    maps = camera_path("homography", NUM_FRAMES)
    film(tmp_path / "moving.mp4", lambda frame: look(maps[frame]), NUM_FRAMES)
    with serving_canvas(tmp_path / "moving.mp4") as served:
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        hand = Hand(tab)
        hand.open(served.url)
        assert tab.locator(".cv-offer").is_hidden()
        hand.drag((0.3, 0.3), (0.5, 0.7))
        tab.get_by_role("button", name="Stick to the scene").click()
        tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.layer.follow?.state === 'ready'")
        assert tab.locator(".cv-offer").is_hidden()
        assert served.host.document["layers"][0]["follow"] == {"kind": "homography", "key_frame": 0}
        assert "Tied to the scene of frame 0" in tab.locator('[data-part="follow"]').inner_text()
        hand.go(11)
        x0, y0, x1, y1 = hand.box()
        true = geometry.apply_map(maps[11], np.array([0.4, 0.5]) * HW)
        assert np.abs([(x0 + x1) / 2 - true[0], (y0 + y1) / 2 - true[1]]).max() < 1.0
        hand.drag(tuple(np.array([(x0 + x1) / 2, (y0 + y1) / 2]) / HW), (0.6, 0.6))
        assert np.abs((np.array(hand.box()).reshape(2, 2).mean(axis=0) / HW) - [0.6, 0.6]).max() < 0.01
        tab.screenshot(path=str(tmp_path / "tied.png"))
        tab.locator('[data-choice="follow"] [data-value="none"]').click()
        hand.settle()
        assert "follow" not in served.host.document["layers"][0]
        hand.go(4)
        tab.locator('[data-choice="follow"] [data-value="points"]').click()
        for point in ((0.3, 0.3), (0.7, 0.4), (0.5, 0.7), (0.7, 0.4)):
            hand.click(point)
        follow = served.host.document["layers"][0]["follow"]
        assert (follow["kind"], follow["key_frame"]) == ("similarity", 4)
        assert np.abs(np.array(follow["points"]) - [(0.3, 0.3), (0.5, 0.7)]).max() < 0.01, "the second one was taken away again"
        tab.wait_for_function("() => document.querySelector('.cv-root').canvas.model.layer.follow?.state === 'ready'")
        assert "Tied to 2 points of frame 4." in tab.locator('[data-part="follow"]').inner_text()
        tab.locator('[data-choice="followKind"] [data-value="translation"]').click()
        hand.settle()
        assert served.host.document["layers"][0]["follow"] == {**follow, "kind": "translation"}
        assert faults == []
        tab.close()
