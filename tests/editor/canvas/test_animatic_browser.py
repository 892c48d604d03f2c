"""What the canvas draws while one edits is what is rendered: dots on the reference and the object's box, read from the pixels of
the real canvas and of the lossless file, on ten frames of each project."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.composite import CompositeEngine
from pipeline.masks import coco_mask, encode_rle
from pipeline.media import FrameStore, probe_clip
from pipeline.project import build_request, parse_project
from pipeline.render import render
from pipeline.types import Reference
from tests.editor.canvas.bench import Hand, serving_canvas
from tests.pipeline.test_precision import ALL_OFF, CARD_HW, HEIGHT, NUM_FRAMES, WIDTH, write_grey_clip

FRAMES = np.linspace(0, NUM_FRAMES - 1, 10).astype(int).tolist()
DOTS = {
    "a": ((80, 70), (230, 0, 0)),
    "b": ((320, 70), (0, 150, 0)),
    "c": ((320, 230), (0, 0, 230)),
    "d": ((80, 230), (230, 0, 230)),
    "e": ((200, 150), (0, 200, 200)),
}
DOT_RADIUS_PX = 16
POINTS = {name: [(x + 0.5) / CARD_HW[1], (y + 0.5) / CARD_HW[0]] for name, ((x, y), _) in DOTS.items()}

GROWING = {
    "0": {"box": [0.1, 0.15, 0.5, 0.55], "ease": "smooth"},
    "12": {"box": [0.3, 0.2, 0.9, 0.8]},
    "24": {"box": [0.25, 0.3, 0.75, 0.9]},
}
TURNING = {"0": {"box": [0.2, 0.2, 0.7, 0.7], "rotation_deg": -20}, "24": {"box": [0.3, 0.3, 0.8, 0.8], "rotation_deg": 50}}
STARTS = {"a": (0.3, 0.3), "b": (0.62, 0.24), "c": (0.66, 0.6), "d": (0.28, 0.66)}
ENDS = {"a": (0.34, 0.36), "b": (0.7, 0.24), "c": (0.74, 0.7), "d": (0.36, 0.64)}


def trajectories(names: str) -> list[dict]:
    return [{"point": name, "keys": {"0": STARTS[name], "24": ENDS[name]}} for name in names]


PROJECTS = {
    "boxes alone, growing": {"boxes": GROWING},
    "bent by three points": {"boxes": GROWING, "trajectories": trajectories("abd")},
    "turned": {"boxes": TURNING},
    "perspective": {"boxes": TURNING, "trajectories": trajectories("abcd"), "deform": "perspective"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    write_grey_clip(folder / "clip.mp4")
    y, x = np.mgrid[: CARD_HW[0], : CARD_HW[1]]
    card = np.full((*CARD_HW, 4), 255, np.uint8)
    for (dot_x, dot_y), color in DOTS.values():
        card[(x - dot_x) ** 2 + (y - dot_y) ** 2 < DOT_RADIUS_PX**2, :3] = color
    card[:3], card[-3:], card[:, :3], card[:, -3:] = 0, 0, 0, 0
    Image.fromarray(card, "RGBA").save(folder / "card.png")
    return folder


@pytest.fixture(scope="module")
def canvas(folder, chromium):
    card = np.asarray(Image.open(folder / "card.png"))
    reference = Reference(card[..., :3].copy(), (card[..., 3] / 255).astype(np.float32))
    with serving_canvas(folder / "clip.mp4", reference) as served:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        hand = Hand(context.new_page())
        hand.open(served.url)
        yield served.host, hand
        context.close()


@pytest.mark.parametrize("project", PROJECTS)
def test_the_canvas_draws_what_is_rendered(canvas, folder, project):
    host, hand = canvas
    reference = {"path": "card.png", "points": POINTS}
    layer = {"name": "card", "kind": "insert", "references": [reference], "blend": ALL_OFF, **PROJECTS[project]}
    document = {"version": 1, "clip": {"path": "clip.mp4"}, "layers": [layer]}
    request, _ = build_request(parse_project(document), folder)
    for _ in render(request, CompositeEngine(), folder / "result.mkv", lossless=True):
        pass
    host.document = document
    hand.js("c.open(c.link.token)")
    hand.settle()
    rendered, source = (FrameStore(probe_clip(folder / name)) for name in ("result.mkv", "clip.mp4"))
    num_dots = 0
    for frame in FRAMES:
        shown, picture = draw(hand, frame), rendered.frame(frame).image
        changed = np.abs(picture.astype(int) - source.frame(frame).image).sum(axis=-1) > 30
        assert iou(bounds(shown[..., 3] > 127), bounds(changed)) >= 0.9
        white = shown[..., :3] * (shown[..., 3:] > 127)
        for _, color in DOTS.values():
            here, there = find_dot(white, shown[..., 3] > 127, color), find_dot(picture, changed, color)
            assert np.linalg.norm(here - there) <= 2, f"frame {frame}: {here} on the canvas, {there} in the file"
            num_dots += 1
    assert num_dots == len(FRAMES) * len(DOTS)
    rendered.close()
    source.close()


NO_WEBGL = """const original = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === "webgl2" ? null : original.call(this, kind, ...more);
};"""


@pytest.mark.parametrize("painter", ["TrianglePainter", "PlainPainter"])
def test_what_is_in_front_hides_the_cut_out_on_the_canvas_as_in_the_render(canvas, chromium, folder, painter):
    host, hand = canvas
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    if painter == "PlainPainter":
        context.add_init_script(NO_WEBGL)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    bar, disc = (x > 0.4 * WIDTH) & (x < 0.5 * WIDTH), np.hypot(x - 0.6 * WIDTH, y - 0.35 * HEIGHT) < 0.08 * WIDTH
    edits = [{"0": coco_mask(encode_rle(bar), bar.shape), "12": coco_mask(encode_rle(~bar), bar.shape)}]
    edits.append({"0": coco_mask(encode_rle(disc), disc.shape)})
    holdouts = [{"edits": edits[0]}, {"edits": edits[1], "feather_px": 3}]
    references = [{"path": "card.png", "points": POINTS}]
    boxes = {"0": {"box": [0.3, 0.2, 0.8, 0.8]}}
    layer = {"name": "card", "kind": "insert", "references": references, "blend": ALL_OFF, "boxes": boxes, "holdouts": holdouts}
    document = {"version": 1, "clip": {"path": "clip.mp4"}, "layers": [layer, {"name": "another", "kind": "insert"}]}
    request, _ = build_request(parse_project({**document, "layers": [layer]}), folder)
    frames = {frame.frame_index: frame.layer[..., 3] for frame in CompositeEngine().run(request, lambda _: None, lambda _: None)}
    host.document = document
    address, hand = hand.tab.url, Hand(context.new_page())
    hand.open(address)
    assert hand.js("c.stage.painter.constructor.name") == painter
    hand.js("c.model.select({ layer: 1 })")
    for frame, count in ((0, 2), (12, 1), (20, 0)):
        hand.js(f"c.model.goTo({frame})")
        hand.tab.wait_for_function(
            "(count) => { const c = document.querySelector('.cv-root').canvas;"
            " return [0, 1].filter((name) => c.masks.mask(0, name, c.model.frame)).length === count; }",
            arg=count,
        )
        shown = draw(hand, frame)[..., 3]
        assert (shown > 127).sum() > 2000 and ((shown > 127) != (frames[frame] > 127)).mean() < 0.004, f"frame {frame}"
    hand.js("c.model.select({ layer: 0 })")
    hand.js("c.model.goTo(0)")
    hand.tab.mouse.move(*hand.at((0.6, 0.7)))
    hand.tab.mouse.down()
    hand.tab.mouse.move(*hand.at((0.55, 0.7)), steps=4)
    shown = draw(hand, 0, is_dragging=True)[..., 3] > 127
    hand.tab.mouse.up()
    hand.settle()
    here = shown[HEIGHT // 2]
    assert not here[int(0.41 * WIDTH) : int(0.49 * WIDTH)].any(), "what is in front stays where it is while the box is moved"
    assert here[int(0.3 * WIDTH) : int(0.39 * WIDTH)].all()
    context.close()


READY = """() => {
  const c = document.querySelector(".cv-root").canvas;
  return c.meshes.find(0, c.model.frame) && c.pictures.get(c.model.layers[0].reference.key);
}"""


def draw(hand: Hand, frame: int, is_dragging: bool = False) -> np.ndarray:
    """The animatic's own pixels at this frame, RGBA at the size of the clip."""
    if not is_dragging:
        hand.js(f"c.model.goTo({frame})")
        hand.settle()
    hand.tab.wait_for_function(READY)
    address = hand.tab.evaluate(
        """([width, height]) => {
          const c = document.querySelector(".cv-root").canvas;
          const made = Object.assign(document.createElement("canvas"), { width, height });
          c.stage.paintAnimatic();
          const [a, , , d, e, f] = c.stage.documentMap, k = c.stage.ratio;
          made.getContext("2d").drawImage(c.stage.painter.canvas, e * k, f * k, a * k, d * k, 0, 0, width, height);
          return made.toDataURL("image/png");
        }""",
        [WIDTH, HEIGHT],
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


def find_dot(picture: np.ndarray, where: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The centre (x, y) of the dot of this colour inside ``where``."""
    near = where & (np.abs(picture.astype(int) - color).sum(axis=-1) < 110)
    assert near.sum() > 20, f"the dot of colour {color} must be in sight"
    y, x = np.nonzero(near)
    return np.array([x.mean(), y.mean()])


def bounds(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


def iou(one: np.ndarray, two: np.ndarray) -> float:
    inner = np.prod(np.maximum(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0))
    return float(inner / (np.prod(one[2:] - one[:2]) + np.prod(two[2:] - two[:2]) - inner))
