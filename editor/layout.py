"""The page: its parts, where they stand and which handler each event calls. No decisions are made here."""

from __future__ import annotations

import html
import itertools
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from pipeline.videoanydoor.folders import NO_CHECKPOINT

from . import session as steps
from .canvas import build_value
from .engine_settings import ENGINE_CONTROLS, ENGINE_NAMES, EngineControl
from .handlers import Page
from .result import build_viewer
from .views import WAITING, RunView, View

log = logging.getLogger(__name__)

CSS_PATH = Path(__file__).parent / "page.css"

VIDEO_SUFFIXES = [".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"]
IMAGE_SUFFIXES = [".png", ".jpg", ".jpeg", ".webp"]

DOWNLOADS = {
    "video": "Download video (.mp4)",
    "lossless": "Download lossless (.mkv)",
    "layer": "Download object layer (.mov)",
    "project": "Download project (.json)",
}

TITLE = "Open VideoAnydoor"
INTRO = "Put an object into your video, moving the way you draw it. Nothing else in the video changes."

HEADER = f"""<div class="brand"><h1>{TITLE}</h1><p>{INTRO}</p></div>"""

ONCE_HERE = """async (token, ...rest) => {
  const link = () => document.querySelector('.cv-root')?.canvas?.link;
  if (link()?.token) return [token, ...rest];
  for (let turn = 0; turn < 400 && !link()?.seen; turn += 1) await new Promise((done) => setTimeout(done, 50));
  return [link()?.token ?? token, ...rest];
}"""
"""Whoever is quicker than the page, which may not know its visitor yet, waits for it."""

LOOK_BUSY = "document.activeElement?.closest('#actions button, #preview')?.setAttribute('aria-busy', 'true')"
PRESSED_HERE = f"(...values) => {{ {LOOK_BUSY}; return ({ONCE_HERE})(...values); }}"
AT_REST = "() => document.querySelectorAll('button[aria-busy]').forEach((each) => each.removeAttribute('aria-busy'))"
"""What was pressed looks busy until what it began has come to an end."""

LAYER_HERE = "(...values) => [...values.slice(0, -1), Number(document.querySelector('.cv-root')?.dataset.layer ?? 0)]"
FRAME_HERE = "(...values) => [...values.slice(0, -1), Number(document.querySelector('.cv-root')?.dataset.frame ?? 0)]"
"""Where the person is on the canvas, as the last input of an event."""

PREVIEW_HERE = f"(...values) => {{ {LOOK_BUSY}; return ({FRAME_HERE})(...values); }}"
REFERENCE_HERE = f"async (...values) => ({LAYER_HERE})(...await ({ONCE_HERE})(...values))"

LEAVE_WORK = f"""async (kept) => {{
  const [token] = await ({ONCE_HERE})(kept);
  document.documentElement.dataset.left = token;
  document.querySelector('.cv-root')?.canvas?.leave();
  document.querySelector('.rv-root')?.viewer?.letGo();
  return [token];
}}"""
"""Ask for nothing of the work any more: its pictures go when the server hears of this."""

STAY_WITH_WORK = """() => {
  delete document.documentElement.dataset.left;
  document.querySelector('.cv-root')?.canvas?.stay();
}"""
"""The server did not take the work away; it is shown again."""

WHICH_TAB = "(token) => [token, sessionStorage.getItem('open-videoanydoor-tab') === 'result' ? 1 : 0]"
"""The token, and whether the tab that was left shows the result, so that a reload comes back to it."""

TROUBLE = """<p role="alert" hidden><span></span><button type="button" aria-label="Close">×</button></p>"""
WATCH = """() => {
  window.addEventListener("pagehide", () => {
    const tab = document.querySelector("#stage [role=tab][aria-selected=true]")?.innerText.trim().toLowerCase();
    sessionStorage.setItem("open-videoanydoor-tab", tab ?? "");
  });
  const line = document.querySelector("#trouble p");
  const say = (text) => { line.hidden = !text; line.querySelector("span").textContent = text; };
  line.querySelector("button").onclick = () => say("");
  document.addEventListener("click", (event) => {
    if (event.target.closest("#actions button, #insert, #preview, .drop")) say("");
  }, true);
  const isToast = (node) => node.nodeType === 1 && node.closest(".toast-wrap");
  new MutationObserver((changes) => {
    if (!changes.some((each) => [...each.addedNodes].some(isToast))) return;
    const texts = document.querySelectorAll(".toast-body.error [data-testid=toast-text]");
    if (texts.length) say(texts[texts.length - 1].textContent.trim());
  }).observe(document.body, { childList: true, subtree: true });
  const bar = document.querySelector("#insert-bar");
  new ResizeObserver(() => {
    const high = getComputedStyle(bar).position === "fixed" ? bar.offsetHeight : 0;
    document.documentElement.style.setProperty("--bar", `${high}px`);
    document.documentElement.style.scrollPaddingBottom = `${high}px`;
  }).observe(bar);
}"""
"""The tab is kept in mind. The sentence of an error stands in one place until it is closed or something else is tried; Gradio's
toast only carries it. On narrow screens Insert stands in a bar that lies over the page's end; the page is longer by that much."""

REPLAY = """() => {
  const [began, timer] = [Date.now(), setInterval(() => {
    const viewer = document.querySelector("#viewer .rv-root")?.viewer;
    if (viewer?.value) viewer.replay();
    if (viewer?.value || Date.now() - began > 20000) clearInterval(timer);
  }, 50)];
}"""
"""Play the result once the viewer is there: its tab may be opened for the first time."""

EXAMPLE_READY = "This example is rendered already: see Result. Or change it, and press Insert."
EXAMPLE_SHOWN = "Rendered from the boxes and the path under Motion. Change them, and press Insert."

MALFORMED = "A value is not of the kind that is asked for here; reload the page, or correct what your program sends."
BUSY = "Too many people are here right now; try again in a minute."

_STAMPS = itertools.count(1)
"""A number for every change that the canvas is told of."""

SCROLL_TO_RESULT = "() => document.querySelector('#result')?.scrollIntoView({block: 'nearest', behavior: 'smooth'})"
CLICK_SAVED_FILE = "() => setTimeout(() => document.querySelector('#saved-project')?.click(), 150)"
CLICK_PACK_FILE = "() => setTimeout(() => document.querySelector('#pack-file')?.click(), 150)"


def build_theme() -> gr.Theme:
    """Calm slate and one accent; the rest is in page.css."""
    fonts = ["Inter", "ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=fonts,
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_500",
    )


@dataclass(frozen=True, eq=False)
class Parts:
    """Every component that an event reads or writes."""

    token: gr.BrowserState
    checklist: gr.HTML
    clip_file: gr.File
    clip_name: gr.HTML
    reference_file: gr.File
    reference_name: gr.HTML
    canvas: gr.HTML
    here: gr.Number
    fault: gr.HTML
    tabs: gr.Tabs
    result_tab: gr.Tab
    result_picture: gr.Image
    viewer: gr.HTML
    result_video: gr.Video
    insert: gr.Button
    insert_slot: gr.Column
    cancel: gr.Button
    preview: gr.Button
    missing: gr.HTML
    progress: gr.HTML
    downloads: dict[str, gr.DownloadButton]
    wants_lossless: gr.Checkbox
    wants_layer: gr.Checkbox
    blend: dict[str, gr.Slider]
    engine_name: gr.Radio
    checkpoint: gr.Dropdown
    engine_numbers: dict[str, gr.Slider | gr.Number]
    plan: gr.HTML
    examples: list[gr.Button]
    open_project: gr.UploadButton
    save_project: gr.Button
    saved_project: gr.DownloadButton
    pack_file: gr.DownloadButton
    start_empty: gr.Button


def build_page(page: Page, time_to_live_s: float, queue_size: int) -> gr.Blocks:
    """The whole page. ``time_to_live_s``: how long what it serves is kept; ``queue_size``: how many jobs may wait."""
    delete_cache = (max(60, int(time_to_live_s) // 8), int(time_to_live_s))
    with StrictBlocks(title=TITLE, analytics_enabled=False, delete_cache=delete_cache, fill_width=True) as demo:
        parts = _build_parts(page)
        _wire_session(demo, page, parts)
        _wire_files(page, parts)
        _wire_edits(page, parts)
        _wire_results(page, parts, _wire_render(page, parts))
        _add_api(page)
    demo.queue(max_size=None, default_concurrency_limit=8)
    _bound_each_queue(demo, queue_size)
    return demo


class StrictBlocks(gr.Blocks):
    """Blocks that refuse what no control of the page sends with one sentence. Gradio would tell the log with a traceback each time,
    and only whoever makes requests by hand can cause it."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **named)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("refused a request to %s: %s", block_fn.api_name, type(error).__name__)
            raise gr.Error(MALFORMED, title="That did not work", print_exception=False) from None


class _Iterators(dict[str, Any]):
    """The generators that are running, by event. An event that ends in the moment in which it is cancelled is forgotten twice,
    which Gradio does not expect."""

    def __delitem__(self, event_id: str) -> None:
        self.pop(event_id, None)


def _bound_each_queue(demo: gr.Blocks, size: int) -> None:
    """At most ``size`` events may wait for the same thing. Gradio only bounds all of them together, and then renders that wait,
    whoever sent them, keep everybody from opening the page and working on it."""
    queue, push = demo._queue, demo._queue.push

    async def push_if_room(body: Any, **rest: Any) -> Any:
        app = queue.server_app
        if app is not None and not isinstance(app.iterators, _Iterators):
            app.iterators = _Iterators(app.iterators)
        function = demo.fns.get(body.fn_index)
        waiting = None if function is None else queue.event_queue_per_concurrency_id.get(function.concurrency_id)
        if waiting is not None and len(waiting.queue) >= size:
            return False, BUSY, "queue_full"
        return await push(body=body, **rest)

    vars(queue)["push"] = push_if_room


# -- parts ----------------------------------------------------------------------------------------------------------------------


def _build_parts(page: Page) -> Parts:
    found: dict[str, Any] = {
        "token": gr.BrowserState(None, storage_key="open-videoanydoor", secret="visitor"),
        "here": gr.Number(visible=False),
    }
    with gr.Row(elem_id="header"):
        gr.HTML(HEADER, elem_id="brand")
        with gr.Row(elem_id="actions"):
            gr.HTML("Examples", elem_id="examples", padding=False, visible=bool(page.examples))
            found["examples"] = [
                gr.Button(path.stem.capitalize(), size="sm", min_width=60, elem_classes="example") for path in page.examples
            ]
            found["start_empty"] = gr.Button("New project", size="sm", min_width=90)
            found["open_project"] = gr.UploadButton(
                "Open project",
                size="sm",
                min_width=90,
                file_count="multiple",
                file_types=[".json", *VIDEO_SUFFIXES, *IMAGE_SUFFIXES],
            )
            found["save_project"] = gr.Button("Save project", size="sm", min_width=90)
            found["saved_project"] = gr.DownloadButton("", elem_id="saved-project", elem_classes="offscreen")
            found["pack_file"] = gr.DownloadButton("", elem_id="pack-file", elem_classes="offscreen")
    found["checklist"] = gr.HTML(elem_id="checklist")
    gr.HTML(TROUBLE, elem_id="trouble", padding=False)
    with gr.Row(elem_id="columns", equal_height=False):
        with gr.Column(elem_id="sources", elem_classes="column"):
            _build_sources(found)
        with gr.Column(elem_id="work", elem_classes="column"):
            _build_stage(found, page)
        with gr.Column(elem_id="finish", elem_classes="column"):
            _build_insert(found)
            _build_engine(found, page)
    return Parts(**found)


def _build_sources(found: dict[str, Any]) -> None:
    with gr.Column(elem_classes="card"):
        gr.HTML("<h2>Video</h2>")
        found["clip_file"] = gr.File(
            label="Video", show_label=False, file_types=VIDEO_SUFFIXES, height=64, elem_id="clip-file", elem_classes="drop"
        )
        found["clip_name"] = gr.HTML(elem_classes="names")
    with gr.Column(elem_classes="card"):
        gr.HTML("<h2>Reference</h2>")
        found["reference_file"] = gr.File(
            label="Reference", show_label=False, file_types=IMAGE_SUFFIXES, height=64, elem_id="reference-file", elem_classes="drop"
        )
        found["reference_name"] = gr.HTML(elem_classes="names")


def _build_stage(found: dict[str, Any], page: Page) -> None:
    with gr.Tabs(selected="motion", elem_id="stage") as tabs:
        with gr.Tab("Motion", id="motion"):
            found["canvas"] = page.canvas.component(elem_id="canvas")
            found["fault"] = gr.HTML(elem_id="fault")
        with gr.Tab("Result", id="result") as found["result_tab"], gr.Column(elem_id="result"):
            found["result_picture"] = gr.Image(
                show_label=False, interactive=False, format="jpeg", buttons=[], visible=False, elem_id="result-picture"
            )
            found["viewer"] = build_viewer(elem_id="viewer")
            found["result_video"] = gr.Video(show_label=False, interactive=False, buttons=[], elem_id="result-video")
    found["tabs"] = tabs


def _build_insert(found: dict[str, Any]) -> None:
    with gr.Column(elem_classes="card", elem_id="insert-card"):
        gr.HTML("<h2>Insert</h2>")
        with gr.Column(elem_id="insert-bar"):
            with gr.Column() as found["insert_slot"]:
                found["insert"] = gr.Button("Insert", variant="primary", size="lg", interactive=False, elem_id="insert")
            found["cancel"] = gr.Button("Cancel", variant="stop", size="lg", visible=False, elem_id="cancel")
            found["missing"] = gr.HTML(elem_id="missing")
            found["progress"] = gr.HTML(elem_id="progress")
        found["preview"] = gr.Button("Preview this frame", size="sm", interactive=False, elem_id="preview")
        found["downloads"] = {
            key: gr.DownloadButton(label, size="sm", visible=False, elem_id=f"download-{key}") for key, label in DOWNLOADS.items()
        }
        with gr.Accordion("Output", open=False):
            found["wants_lossless"] = gr.Checkbox(
                label="Also a lossless file", info="FFV1 in an .mkv: untouched pixels stay exact."
            )
            found["wants_layer"] = gr.Checkbox(
                label="Also the object layer", info="ProRes 4444 with alpha, for compositing elsewhere."
            )
    with gr.Column(elem_classes="card"), gr.Accordion("Blending", open=False, elem_id="blending"):
        found["blend"] = {
            item.key: gr.Slider(
                item.low, item.high, value=item.default, step=item.step, label=item.label, info=item.hint, buttons=[],
                elem_id=f"blend-{item.key}",
            )
            for item in steps.BLEND_CONTROLS
        }  # fmt: skip


def _build_engine(found: dict[str, Any], page: Page) -> None:
    """The choice of the engine; without a checkpoint, how to get one."""
    with gr.Column(elem_classes="card"), gr.Accordion("Research", open=False, elem_id="research"):
        found["engine_name"] = gr.Radio(
            [(label, name) for name, label in ENGINE_NAMES.items()], value="composite", label="Engine", elem_id="engine-name"
        )
        if not page.checkpoints:
            gr.HTML(f"<p class='note'>{html.escape(NO_CHECKPOINT)} A new checkpoint is found when the page is started again.</p>")
        with gr.Column(visible=bool(page.checkpoints)):
            found["checkpoint"] = gr.Dropdown(list(page.checkpoints), value=None, label="Checkpoint", elem_id="checkpoint")
            found["engine_numbers"] = {item.key: _build_number(item) for item in ENGINE_CONTROLS}
        found["plan"] = gr.HTML(elem_id="engine-plan")


def _build_number(item: EngineControl) -> gr.Slider | gr.Number:
    shared: dict[str, Any] = {"label": item.label, "info": item.hint, "elem_id": f"engine-{item.key}", "step": item.step}
    if item.is_slider:
        return gr.Slider(item.low, item.high, value=item.default, buttons=[], **shared)
    return gr.Number(item.default, precision=0, **shared)


# -- what views look like -------------------------------------------------------------------------------------------------------


def _view_outputs(parts: Parts) -> list[Any]:
    """What every change of the work refreshes beside the canvas, in the order of ``_view_updates``."""
    heads = [parts.checklist, parts.insert, parts.missing, parts.preview, parts.fault, parts.plan]
    engine = [parts.engine_name, parts.checkpoint, *parts.engine_numbers.values()]
    return [*heads, parts.clip_name, parts.reference_name, *engine, *parts.blend.values()]


def _view_updates(view: View) -> list[Any]:
    return [
        _checklist_html(view),
        gr.update(interactive=view.missing is None),
        "" if view.missing is None else f"<p class='note'>{html.escape(view.missing)}</p>",
        gr.update(interactive=view.missing is None),
        "" if view.fault is None else f"<p class='fault'>{html.escape(view.fault)}</p>",
        _plan_html(view.plan),
        _clip_html(view),
        _pictures_html(view),
        view.engine.name if view.engine.name in ENGINE_NAMES else None,
        view.engine.checkpoint,
        *(item.clip(view.engine.values[item.key]) for item in ENGINE_CONTROLS),
        *(min(max(view.blend[item.key], item.low), item.high) for item in steps.BLEND_CONTROLS),
    ]


def _work_outputs(parts: Parts) -> list[Any]:
    """What a change from outside the canvas refreshes: the canvas, and everything beside it."""
    return [parts.canvas, *_view_outputs(parts)]


def _work_updates(token: str, view: View, frame_index: int | None = None) -> list[Any]:
    return [build_value(token, next(_STAMPS), frame_index), *_view_updates(view)]


def _plan_html(plan: str) -> str:
    return f"<p class='note'>{html.escape(plan)}</p>" if plan else ""


def _clip_html(view: View) -> str:
    if view.clip_name is None:
        return ""
    return f"<p class='file-name'>{html.escape(view.clip_name)}</p><p class='note'>{html.escape(view.clip_note)}</p>"


def _pictures_html(view: View) -> str:
    if len(view.pictures) == 1:
        name = view.pictures[0].file
        return "" if name is None else f"<p class='file-name'>{html.escape(name)}</p>"
    lines = [
        f"<li{' class=chosen' if each.is_chosen else ''}><b>{html.escape(each.layer)}</b> "
        f"<span>{html.escape(each.file or 'no picture yet')}</span></li>"
        for each in view.pictures
    ]
    return f"<ul class='pictures'>{''.join(lines)}</ul><p class='note'>A new picture goes to the layer chosen on the canvas.</p>"


def _checklist_html(view: View) -> str:
    items, is_next = [], True
    for number, step in enumerate(view.checklist, 1):
        state = "done" if step.is_done else "next" if is_next else "todo"
        is_next = is_next and step.is_done
        mark = "✓" if step.is_done and number < len(view.checklist) else str(number)
        items.append(
            f"<li class='{state}'><span class='mark'>{mark}</span>"
            f"<span class='what'><b>{html.escape(step.name)}</b><small>{html.escape(step.detail)}</small></span></li>"
        )
    return f"<ol>{''.join(items)}</ol>"


def _run_outputs(parts: Parts) -> list[Any]:
    return [
        parts.insert_slot,
        parts.cancel,
        parts.progress,
        parts.tabs,
        parts.result_picture,
        parts.result_video,
        *parts.downloads.values(),
    ]


def _run_updates(run: RunView, picture: str | None = None) -> list[Any]:
    """``picture``: where ``run.picture`` is served from."""
    skip, keep = gr.skip(), [gr.skip()] * len(DOWNLOADS)
    buttons = [gr.update(visible=not run.is_running), gr.update(visible=run.is_running)]
    if "video" in run.files:
        rest = [gr.update(selected="result"), gr.update(visible=False), gr.update(value=run.files["video"], visible=True)]
        files = [gr.update(value=run.files.get(key), visible=key in run.files) for key in DOWNLOADS]
        return [*buttons, _progress_html(run), *rest, *files]
    if picture is not None:
        rest = [gr.update(selected="result"), gr.update(value=picture, visible=True), gr.update(visible=False)]
        return [*buttons, _progress_html(run), *rest, *keep]
    if not run.is_running:
        return [*buttons, _progress_html(run), skip, gr.update(visible=False), gr.update(visible=True), *keep]
    return [*buttons, _progress_html(run), skip, skip, skip, *keep]


def _new_run_updates(tab: str = "motion", line: str = "") -> list[Any]:
    """Nothing rendered yet: what a new start shows, and on which tab."""
    buttons = [gr.update(visible=True), gr.update(visible=False)]
    result = [gr.update(selected=tab), gr.update(value=None, visible=False), gr.update(value=None, visible=True)]
    told = f"<p role='status'>{html.escape(line)}</p>" if line else ""
    return [*buttons, told, *result, *[gr.update(value=None, visible=False)] * len(DOWNLOADS)]


def _result_outputs(parts: Parts) -> list[Any]:
    """The take that is shown: its player and its downloads."""
    return [parts.result_video, *parts.downloads.values()]


def _result_updates(files: dict[str, str]) -> list[Any]:
    video = gr.update(value=files.get("video"), visible=True)
    return [video, *(gr.update(value=files.get(key), visible=key in files) for key in DOWNLOADS)]


def _progress_html(run: RunView) -> str:
    if not run.line:
        return ""
    bar = f"<div class='bar'><i style='width:{run.share * 100:.1f}%'></i></div>" if run.is_running else ""
    warnings = "".join(f"<li>{html.escape(warning)}</li>" for warning in run.warnings)
    notes = f"<ul class='warnings'>{warnings}</ul>" if warnings else ""
    return f"{bar}<p role='status'>{html.escape(run.line)}</p>{notes}"


# -- wiring ---------------------------------------------------------------------------------------------------------------------

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _told_by(part: Any) -> dict[str, Any]:
    """For what takes longer: this part says so, and nothing else fades."""
    return {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": [part]}


def _rest_after(event: Any) -> None:
    """Whatever end this comes to, what was pressed looks busy no more."""
    for end in (event.success, event.failure):
        end(None, js=AT_REST)


def _wire_session(demo: gr.Blocks, page: Page, parts: Parts) -> None:
    """Coming, going, beginning anew; the takes that are there already are shown."""
    everything = [parts.token, *_work_outputs(parts), *_run_outputs(parts)]

    def opened(kept: object, is_result: object) -> list[Any]:
        token, view, frame_index = page.open_visitor(kept)
        is_back = token == kept
        tab = "result" if is_back and is_result and page.has_results(token) else "motion"
        line = EXAMPLE_READY if not is_back and page.is_rendered(token) else ""
        return [token, *_work_updates(token, view, frame_index), *_new_run_updates(tab, line)]

    def emptied(token: object) -> list[Any]:
        token, view = page.start_empty(token)
        return [token, *_work_updates(token, view), *_new_run_updates()]

    demo.load(None, js=WATCH)
    coming = demo.load(opened, [parts.token, parts.here], everything, js=WHICH_TAB, **PRIVATE)
    emptying = parts.start_empty.click(emptied, parts.token, everything, js=LEAVE_WORK, **PRIVATE)
    for event in (coming, emptying):
        event.success(*_shown_again(page, parts), **PRIVATE)
    emptying.failure(None, js=STAY_WITH_WORK).then(*_shown_again(page, parts), **PRIVATE)


def _wire_files(page: Page, parts: Parts) -> None:
    token, outputs = parts.token, _work_outputs(parts)
    outputs_and_run = [*outputs, *_run_outputs(parts)]

    def example(number: int, token: str) -> list[Any]:
        work = _work_updates(token, *page.load_example(number, token))
        return [*work, *(_new_run_updates("result", EXAMPLE_SHOWN) if page.is_rendered(token) else _new_run_updates())]

    def clip(token: str, path: object) -> list[Any]:
        return [None, *_work_updates(token, page.upload_clip(token, path)), *_new_run_updates()]

    def reference(token: str, path: object, layer: object) -> list[Any]:
        return [None, *_work_updates(token, page.upload_reference(token, path, layer))[: -len(parts.blend)]]

    def project(token: str, paths: object) -> list[Any]:
        return [*_work_updates(token, page.open_project(token, paths)), *_new_run_updates()]

    examples = [
        button.click(partial(example, number), token, outputs_and_run, js=PRESSED_HERE, **PRIVATE)
        for number, button in enumerate(parts.examples)
    ]
    clips = parts.clip_file.upload(
        clip, [token, parts.clip_file], [parts.clip_file, *outputs_and_run], js=ONCE_HERE, **_told_by(parts.clip_file)
    )
    references = parts.reference_file.upload(
        reference,
        [token, parts.reference_file, parts.here],
        [parts.reference_file, *outputs[: -len(parts.blend)]],  # it changes no blending, which may be changed meanwhile
        js=REFERENCE_HERE,
        **_told_by(parts.reference_file),
    )
    for uploaded, file in ((clips, parts.clip_file), (references, parts.reference_file)):
        uploaded.failure(lambda: None, None, file, **PRIVATE)
    projects = parts.open_project.upload(project, [token, parts.open_project], outputs_and_run, js=PRESSED_HERE, **PRIVATE)
    for event in (*examples, projects):
        _rest_after(event)
    saved = parts.save_project.click(page.save_project, token, parts.saved_project, js=ONCE_HERE, **PRIVATE)
    saved.success(None, js=CLICK_SAVED_FILE)
    for event in (clips, projects):
        event.success(*_shown_again(page, parts), **PRIVATE)
    for event in examples:
        event.success(*_shown_again(page, parts), **PRIVATE).success(None, js=REPLAY)


def _wire_edits(page: Page, parts: Parts) -> None:
    def edited(token: object, layer: object) -> list[Any]:
        return _view_updates(page.refresh(token, layer))

    def blended(key: str, token: str, value: object, layer: object) -> list[Any]:
        return _work_updates(token, page.set_blend(key, token, value, layer))[: -len(parts.blend)]

    refresh: dict[str, Any] = {"js": LAYER_HERE, "trigger_mode": "always_last", **PRIVATE}
    parts.canvas.edited(edited, [parts.token, parts.here], _view_outputs(parts), **refresh)
    for key, slider in parts.blend.items():
        slider.input(partial(blended, key), [parts.token, slider, parts.here], _work_outputs(parts)[: -len(parts.blend)], **refresh)
    _wire_engine(page, parts, edited, refresh)


def _wire_engine(page: Page, parts: Parts, edited: Callable[..., list[Any]], refresh: dict[str, Any]) -> None:
    """The choice of the engine; ``edited`` shows the work as it is, where a choice cannot be followed."""
    kept = len(parts.blend) + len(parts.engine_numbers)

    def engine_chosen(token: str, name: object, layer: object) -> list[Any]:
        return _work_updates(token, page.choose_engine(token, name, layer))

    def checkpoint_chosen(token: str, name: object, layer: object) -> list[Any]:
        return _work_updates(token, page.choose_checkpoint(token, name, layer))

    def number_set(key: str, token: str, value: object, layer: object) -> list[Any]:
        return _work_updates(token, page.set_engine_number(key, token, value, layer))[:-kept]

    choices = [
        part.input(choose, [parts.token, part, parts.here], _work_outputs(parts), **refresh)
        for part, choose in ((parts.engine_name, engine_chosen), (parts.checkpoint, checkpoint_chosen))
    ]
    for key, part in parts.engine_numbers.items():
        listen = part.input if isinstance(part, gr.Slider) else part.blur
        choices.append(listen(partial(number_set, key), [parts.token, part, parts.here], _work_outputs(parts)[:-kept], **refresh))
    for choice in choices:
        choice.failure(edited, [parts.token, parts.here], _view_outputs(parts), **refresh)

    def planned(token: object) -> Any:
        plan = page.tell_plan(token)
        return gr.skip() if plan is None else _plan_html(plan)

    parts.engine_name.change(planned, parts.token, parts.plan, **PRIVATE)
    for choice in choices[:2]:
        choice.success(planned, parts.token, parts.plan, **PRIVATE)


def _shown_again(page: Page, parts: Parts) -> tuple[Callable[..., list[Any]], gr.BrowserState, list[Any]]:
    """What shows the takes, and the one that is looked at, as they are now: function, inputs, outputs."""

    def shown(token: object) -> list[Any]:
        if not page.is_here(token):  # the person began anew meanwhile
            return [gr.skip()] * (1 + len(_result_outputs(parts)))
        return [_viewer_value(page, token), *_result_updates(page.show_files(token))]

    return shown, parts.token, [parts.viewer, *_result_outputs(parts)]


def _viewer_value(page: Page, token: object) -> dict[str, Any]:
    """The viewer's value, and whose it is; it counts as a new one even if nothing changed, so that the browser shows it again."""
    return {**page.show_results(token), "token": token, "stamp": next(_STAMPS)}


def _wire_render(page: Page, parts: Parts) -> list[Any]:
    """The jobs that render, all told, bounded and stopped in the same way. Returns the events that end with a new take."""

    def told(run: RunView) -> list[Any]:
        return _run_updates(run, None if run.picture is None else page.publish_picture(run.picture))

    def insert(token: object, wants_lossless: object, wants_layer: object) -> Generator[list[Any], None, None]:
        for run in page.insert(token, wants_lossless, wants_layer):
            yield told(run)

    def splice(token: object) -> Generator[list[Any], None, None]:
        for run in page.splice(token):
            yield told(run)

    def pack(token: object) -> Generator[list[Any], None, None]:
        for run in page.pack(token):
            yield [gr.update(value=run.files["pack"]) if "pack" in run.files else gr.skip(), *told(run)]

    def stopped(token: object) -> list[Any]:
        return _run_updates(page.cancel(token))

    def waiting() -> list[Any]:
        return _run_updates(WAITING)

    def failed(progress: object) -> list[Any]:
        line = "" if WAITING.line in str(progress) else gr.skip()
        return [gr.update(visible=True), gr.update(visible=False), line]

    def start(event: Any, job: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> Any:
        waits = event(waiting, None, _run_outputs(parts), queue=False, **PRIVATE)
        # By itself, Gradio would drop a new start while one that was just cancelled is still being told so.
        again: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_id": "render", "concurrency_limit": 1}
        running = waits.then(job, inputs, outputs, **again, **PRIVATE)
        running.failure(failed, parts.progress, [parts.insert_slot, parts.cancel, parts.progress], queue=False, **PRIVATE)
        return running

    outputs = _run_outputs(parts)
    inserting = start(parts.insert.click, insert, [parts.token, parts.wants_lossless, parts.wants_layer], outputs)
    inserting.success(None, js=SCROLL_TO_RESULT)
    splicing = start(parts.viewer.splice, splice, [parts.token], outputs)
    packing = start(parts.viewer.pack, pack, [parts.token], [parts.pack_file, *outputs])
    packing.success(None, js=CLICK_PACK_FILE)
    jobs = [inserting, splicing, packing]
    parts.cancel.click(stopped, parts.token, outputs, cancels=jobs, queue=False, **PRIVATE)

    def previewed(token: object, frame: object) -> list[Any]:
        picture = page.publish_picture(page.preview_frame(token, frame))
        note = page.note_preview(token)
        line = gr.skip() if note is None else f"<p role='status'>{html.escape(note)}</p>"
        return [gr.update(selected="result"), gr.update(value=picture, visible=True), line]

    previewing = parts.preview.click(
        previewed,
        [parts.token, parts.here],
        [parts.tabs, parts.result_picture, parts.progress],
        js=PREVIEW_HERE,
        concurrency_id="preview",
        concurrency_limit=1,
        **PRIVATE,
    )
    _rest_after(previewing)

    return [inserting, splicing]


def _wire_results(page: Page, parts: Parts, finished: list[Any]) -> None:
    """The viewer: new takes appear in it, and what the person does with takes is done."""

    def viewed(token: object) -> dict[str, Any]:
        return _viewer_value(page, token)

    def acted(token: str, layer: object, event: gr.EventData) -> list[Any]:
        outcome = page.act_on_take(token, event._data)
        result, work = [gr.skip()] * len(_result_outputs(parts)), [gr.skip()] * (1 + len(_work_outputs(parts)))
        if outcome.is_other_shown:
            result = _result_updates(page.show_files(token))
        if outcome.is_project_changed:
            tab = gr.skip() if outcome.stays else gr.update(selected="motion")
            work = [tab, *_work_updates(token, page.refresh(token, layer))]
        return [_viewer_value(page, token), *result, *work]

    for event in finished:
        event.success(viewed, parts.token, parts.viewer, **PRIVATE)
    parts.result_tab.select(viewed, parts.token, parts.viewer, **PRIVATE)
    outputs = [parts.viewer, *_result_outputs(parts), parts.tabs, *_work_outputs(parts)]
    acting = parts.viewer.acted(acted, [parts.token, parts.here], outputs, js=LAYER_HERE, **PRIVATE)
    acting.failure(viewed, parts.token, parts.viewer, **PRIVATE)


def _add_api(page: Page) -> None:
    """The public endpoints: plain text, numbers and files in, files out."""

    def previewed(project_json: object, files: object) -> str:
        return page.publish_picture(page.preview_files(project_json, files), ".png")

    with gr.Column(visible=False):
        project = gr.Textbox(label="project_json")
        files = gr.File(label="files", file_count="multiple")
        video = gr.File(label="video")
        report = gr.JSON(label="report")
        picture = gr.Image(label="picture", format="png")
        render, preview = gr.Button("render"), gr.Button("preview")
    render.click(
        page.render_files,
        [project, files],
        [video, report],
        api_name="render",
        api_description="Render a project (JSON text, files named without folders) with its files; returns the video and a report.",
        concurrency_id="render",
        concurrency_limit=1,
    )
    preview.click(
        previewed,
        [project, files],
        picture,
        api_name="preview",
        api_description="The middle frame of a project's range, as the engine makes it.",
        concurrency_id="preview",
        concurrency_limit=1,
    )
    _add_mask_api(page)


def _add_mask_api(page: Page) -> None:
    """Masks from clicks, for programs. One call at a time; a call that is cancelled stops at its next frame."""
    with gr.Column(visible=False):
        video = gr.File(label="video")
        frame, start, stop = (gr.Number(0, label=name, precision=0) for name in ("frame", "start", "stop"))
        clicks, box = gr.Textbox("[]", label="clicks"), gr.Textbox("", label="box")
        prompts = gr.Textbox("{}", label="prompts")
        segmenter = gr.Textbox("auto", label="segmenter")
        masks, report = gr.File(label="masks"), gr.JSON(label="report")
        segment, propagate = gr.Button("segment"), gr.Button("propagate")
    shared: dict[str, Any] = {"concurrency_id": "masks", "concurrency_limit": 1}
    segment.click(
        page.segment_file,
        [video, frame, clicks, box, segmenter],
        [masks, report],
        api_name="segment",
        api_description=(
            "The mask of a thing on one frame of a video, as a PNG, and a report. clicks is JSON, [[x, y, 1 or 0], ...], box "
            "[x0, y0, x1, y1] or empty, 0..1 of the picture; segmenter is auto, sam2 or fallback."
        ),
        **shared,
    )
    propagate.click(
        page.propagate_file,
        [video, prompts, start, stop, segmenter],
        [masks, report],
        api_name="propagate",
        api_description=(
            "A thing carried through the frames start to stop (0: the end), as a mask video without loss, and a report. prompts is "
            'JSON, {"frame": {"clicks": [[x, y, 1 or 0], ...], "box": [x0, y0, x1, y1] or null}, ...}, 0..1 of the picture.'
        ),
        **shared,
    )
