"""The page: its parts, where they stand and which handler each event calls. No decisions are made here."""

from __future__ import annotations

import html
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from . import session as steps
from .handlers import Page
from .views import TOOLS, WAITING, RunView, View

CSS_PATH = Path(__file__).parent / "page.css"

VIDEO_SUFFIXES = [".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"]
IMAGE_SUFFIXES = [".png", ".jpg", ".jpeg", ".webp"]
BOX_EDGES = ("Left", "Top", "Right", "Bottom")

DOWNLOADS = {
    "video": "Download video (.mp4)",
    "lossless": "Download lossless (.mkv)",
    "layer": "Download object layer (.mov)",
    "project": "Download project (.json)",
}

TITLE = "Open VideoAnydoor"
INTRO = "Put an object into your video, moving the way you draw it. Nothing else in the video changes."

HEADER = f"""<div class="brand"><h1>{TITLE}</h1><p>{INTRO}</p></div>"""

PREVIEWED = "<p>This is the frame as Insert will make it. Move the slider or click to go on editing.</p>"

SCROLL_TO_RESULT = "() => document.querySelector('#result')?.scrollIntoView({block: 'nearest', behavior: 'smooth'})"
CLICK_SAVED_FILE = "() => setTimeout(() => document.querySelector('#saved-project')?.click(), 150)"


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

    token: gr.State
    kept: gr.BrowserState
    checklist: gr.HTML
    clip_file: gr.File
    clip_name: gr.HTML
    reference_file: gr.File
    reference_name: gr.HTML
    cutout: gr.Image
    tool: gr.Radio
    picture: gr.Image
    hint: gr.HTML
    frame: gr.Slider
    start_box: list[gr.Number]
    end_box: list[gr.Number]
    node: list[gr.Number]
    remove_node: gr.Button
    clear_path: gr.Button
    clear_boxes: gr.Button
    tabs: gr.Tabs
    result_picture: gr.Image
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
    examples: list[gr.Button]
    open_project: gr.UploadButton
    save_project: gr.Button
    saved_project: gr.DownloadButton
    start_empty: gr.Button
    undo: gr.Button
    redo: gr.Button
    resume: gr.Button


def build_page(page: Page, time_to_live_s: float, queue_size: int) -> gr.Blocks:
    """The whole page. ``time_to_live_s``: how long what it serves is kept; ``queue_size``: how many jobs may wait."""
    delete_cache = (max(60, int(time_to_live_s) // 8), int(time_to_live_s))
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=delete_cache, fill_width=True) as demo:
        parts = _build_parts(page)
        _wire_session(demo, page, parts)
        _wire_files(page, parts)
        _wire_motion(page, parts)
        _wire_render(page, parts)
        _add_api(page)
    demo.queue(max_size=queue_size, default_concurrency_limit=8)
    return demo


# -- parts ----------------------------------------------------------------------------------------------------------------------


def _build_parts(page: Page) -> Parts:
    found: dict[str, Any] = {
        "token": gr.State(None),
        "kept": gr.BrowserState(None, storage_key="open-videoanydoor", secret="visitor"),
    }
    with gr.Row(elem_id="header"):
        gr.HTML(HEADER, elem_id="brand")
        with gr.Row(elem_id="actions"):
            found["resume"] = gr.Button("Resume last work", size="sm", min_width=90, visible=False)
            found["examples"] = [
                gr.Button(f"Example: {path.stem}", size="sm", min_width=90, elem_classes="example") for path in page.examples
            ]
            found["start_empty"] = gr.Button("Start empty", size="sm", min_width=90)
            found["open_project"] = gr.UploadButton(
                "Open project",
                size="sm",
                min_width=90,
                file_count="multiple",
                file_types=[".json", *VIDEO_SUFFIXES, *IMAGE_SUFFIXES],
            )
            found["save_project"] = gr.Button("Save project", size="sm", min_width=90)
            found["saved_project"] = gr.DownloadButton("", elem_id="saved-project", elem_classes="offscreen")
    found["checklist"] = gr.HTML(elem_id="checklist")
    with gr.Row(elem_id="columns", equal_height=False):
        with gr.Column(scale=3, min_width=250, elem_classes="column"):
            _build_sources(found)
        with gr.Column(scale=8, min_width=340, elem_classes="column"):
            _build_stage(found)
        with gr.Column(scale=3, min_width=250, elem_classes="column"):
            _build_insert(found)
    return Parts(**found)


def _build_sources(found: dict[str, Any]) -> None:
    with gr.Column(elem_classes="card"):
        gr.HTML("<h2>Video</h2>")
        found["clip_file"] = gr.File(
            label="Video", show_label=False, file_types=VIDEO_SUFFIXES, height=64, elem_id="clip-file", elem_classes="drop"
        )
        found["clip_name"] = gr.HTML()
    with gr.Column(elem_classes="card"):
        gr.HTML("<h2>Reference</h2>")
        found["reference_file"] = gr.File(
            label="Reference", show_label=False, file_types=IMAGE_SUFFIXES, height=64, elem_id="reference-file", elem_classes="drop"
        )
        found["reference_name"] = gr.HTML()
        found["cutout"] = gr.Image(
            label="Cut-out",
            show_label=False,
            interactive=False,
            format="png",
            image_mode="RGBA",
            buttons=[],
            visible=False,
            elem_id="cutout",
            alt_text="The object without its background",
        )


def _build_stage(found: dict[str, Any]) -> None:
    with gr.Tabs(selected="motion", elem_id="stage") as tabs:
        with gr.Tab("Motion", id="motion"), gr.Column(elem_classes="card"):
            with gr.Row(elem_id="tools"):
                found["tool"] = gr.Radio(list(TOOLS), value=TOOLS[0], show_label=False, container=False, elem_id="tool", scale=4)
                with gr.Row(elem_id="history"):
                    found["undo"] = gr.Button("Undo", size="sm", min_width=64, interactive=False)
                    found["redo"] = gr.Button("Redo", size="sm", min_width=64, interactive=False)
            found["hint"] = gr.HTML(elem_id="hint")
            found["picture"] = gr.Image(
                label="Frame",
                show_label=False,
                interactive=False,
                format="jpeg",
                buttons=[],
                elem_id="picture",
                alt_text="The chosen frame with the object in place",
            )
            found["frame"] = gr.Slider(0, 1, value=0, step=1, label="Frame", buttons=[], elem_id="frame")
            with gr.Accordion("Exact numbers", open=False, elem_id="numbers"):
                _build_numbers(found)
        with gr.Tab("Result", id="result"), gr.Column(elem_classes="card", elem_id="result"):
            found["result_picture"] = gr.Image(
                show_label=False, interactive=False, format="jpeg", buttons=[], visible=False, elem_id="result-picture"
            )
            found["result_video"] = gr.Video(show_label=False, interactive=False, autoplay=True, buttons=[], elem_id="result-video")
    found["tabs"] = tabs


def _build_numbers(found: dict[str, Any]) -> None:
    gr.HTML("<p class='note'>Shares of the picture: 0 is left or top, 1 is right or bottom.</p>")
    for name, key in (("Start box", "start_box"), ("End box", "end_box")):
        with gr.Row(elem_classes="numbers"):
            gr.HTML(f"<span class='row-name'>{name}</span>")
            found[key] = [_number(edge, f"{key.replace('_', '-')}-{edge.lower()}") for edge in BOX_EDGES]
    with gr.Row(elem_classes="numbers"):
        gr.HTML("<span class='row-name'>Path, this frame</span>")
        found["node"] = [_number("x", "node-x"), _number("y", "node-y")]
    with gr.Row(elem_classes="tidy"):
        found["remove_node"] = gr.Button("Remove this node", size="sm", min_width=90)
        found["clear_path"] = gr.Button("Clear path", size="sm", min_width=90)
        found["clear_boxes"] = gr.Button("Clear boxes", size="sm", min_width=90)


def _number(label: str, elem_id: str) -> gr.Number:
    return gr.Number(label=label, value=None, step=0.01, precision=4, min_width=64, elem_id=elem_id)


def _build_insert(found: dict[str, Any]) -> None:
    with gr.Column(elem_classes="card", elem_id="insert-card"):
        gr.HTML("<h2>Insert</h2>")
        with gr.Column() as found["insert_slot"]:
            found["insert"] = gr.Button("Insert", variant="primary", size="lg", interactive=False, elem_id="insert")
        found["cancel"] = gr.Button("Cancel", variant="stop", size="lg", visible=False, elem_id="cancel")
        found["missing"] = gr.HTML(elem_id="missing")
        found["preview"] = gr.Button("Preview this frame", size="sm", interactive=False, elem_id="preview")
        found["progress"] = gr.HTML(elem_id="progress")
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


# -- what views look like -------------------------------------------------------------------------------------------------------


def _edit_outputs(parts: Parts) -> list[Any]:
    """What every edit refreshes, in the order of ``_edit_updates``."""
    return [
        parts.picture,
        parts.hint,
        parts.checklist,
        parts.insert,
        parts.missing,
        parts.preview,
        parts.undo,
        parts.redo,
        parts.tool,
        *parts.start_box,
        *parts.end_box,
        *parts.node,
    ]


def _edit_updates(view: View) -> list[Any]:
    return [
        gr.update(value=view.picture),
        _hint_html(view),
        _checklist_html(view),
        gr.update(interactive=view.missing is None),
        "" if view.missing is None else f"<p class='note'>{html.escape(view.missing)}</p>",
        gr.update(interactive=view.missing is None),
        gr.update(interactive=view.can_undo),
        gr.update(interactive=view.can_redo),
        view.tool,
        *(view.start_box or [None] * 4),
        *(view.end_box or [None] * 4),
        *(view.node or [None] * 2),
    ]


def _all_outputs(parts: Parts) -> list[Any]:
    """What a change of files, and undo, refreshes: an edit's parts, then the rest."""
    files = [parts.clip_name, parts.reference_name, parts.cutout]
    return [*_edit_outputs(parts), parts.frame, *files, *parts.blend.values()]


def _all_updates(view: View) -> list[Any]:
    last = view.num_frames - 1
    label = f"Frame (0 to {last})" if last else "Frame"
    return [
        *_edit_updates(view),
        gr.update(value=view.frame_index, maximum=max(last, 1), label=label, interactive=last > 0),
        _name_html(view.clip_name, ""),
        _name_html(view.reference_name, "The dot follows the path; click to move it."),
        gr.update(value=view.cutout, visible=view.cutout is not None),
        *(min(max(view.blend[item.key], item.low), item.high) for item in steps.BLEND_CONTROLS),
    ]


def _frame_outputs(parts: Parts) -> list[Any]:
    """What a move of the slider refreshes: never the slider itself."""
    return [parts.picture, parts.hint, *parts.node]


def _frame_updates(view: View) -> list[Any]:
    return [gr.update(value=view.picture), _hint_html(view), *(view.node or [None] * 2)]


def _hint_html(view: View) -> str:
    if view.fault is not None:
        return f"<p class='fault'>{html.escape(view.fault)}</p>"
    return f"<p>{html.escape(view.hint)}</p>"


def _name_html(name: str | None, note: str) -> str:
    return "" if name is None else f"<p class='file-name'>{html.escape(name)}</p><p class='note'>{note}</p>"


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


def _run_updates(run: RunView) -> list[Any]:
    skip, keep = gr.skip(), [gr.skip()] * len(DOWNLOADS)
    buttons = [gr.update(visible=not run.is_running), gr.update(visible=run.is_running)]
    if "video" in run.files:
        rest = [gr.update(selected="result"), gr.update(visible=False), gr.update(value=run.files["video"], visible=True)]
        files = [gr.update(value=run.files.get(key), visible=key in run.files) for key in DOWNLOADS]
        return [*buttons, _progress_html(run), *rest, *files]
    if run.picture is not None:
        rest = [gr.update(selected="result"), gr.update(value=run.picture, visible=True), gr.update(visible=False)]
        return [*buttons, _progress_html(run), *rest, *keep]
    if not run.is_running:
        return [*buttons, _progress_html(run), skip, gr.update(visible=False), gr.update(visible=True), *keep]
    return [*buttons, _progress_html(run), skip, skip, skip, *keep]


def _new_run_updates() -> list[Any]:
    """No result yet: what a new start shows."""
    buttons = [gr.update(visible=True), gr.update(visible=False)]
    result = [gr.update(selected="motion"), gr.update(value=None, visible=False), gr.update(value=None, visible=True)]
    return [*buttons, "", *result, *[gr.update(value=None, visible=False)] * len(DOWNLOADS)]


def _progress_html(run: RunView) -> str:
    bar = f"<div class='bar'><i style='width:{run.share * 100:.1f}%'></i></div>" if run.is_running else ""
    warnings = "".join(f"<li>{html.escape(warning)}</li>" for warning in run.warnings)
    notes = f"<ul class='warnings'>{warnings}</ul>" if warnings else ""
    return f"{bar}<p role='status'>{html.escape(run.line)}</p>{notes}"


# -- wiring ---------------------------------------------------------------------------------------------------------------------

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
HEAVY: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def _wire_session(demo: gr.Blocks, page: Page, parts: Parts) -> None:
    everything = [parts.token, parts.kept, parts.resume, *_all_outputs(parts), *_run_outputs(parts)]

    def opened(kept: object) -> list[Any]:
        token, kept_tokens, view = page.open_visitor(kept)
        return [token, kept_tokens, gr.update(visible=len(kept_tokens) > 1), *_all_updates(view), *_new_run_updates()]

    def emptied(token: object) -> list[Any]:
        token, view = page.start_empty(token)
        return [token, [token], gr.update(visible=False), *_all_updates(view), *_new_run_updates()]

    def resumed(kept: object) -> list[Any]:
        token, view = page.resume(kept)
        return [token, [token], gr.update(visible=False), *_all_updates(view), *_new_run_updates()]

    demo.load(opened, parts.kept, everything, **PRIVATE)
    parts.start_empty.click(emptied, parts.token, everything, **PRIVATE)
    parts.resume.click(resumed, parts.kept, everything, **PRIVATE)


def _wire_files(page: Page, parts: Parts) -> None:
    token, outputs = parts.token, _all_outputs(parts)
    outputs_and_run = [*outputs, *_run_outputs(parts)]

    def example(number: int, token: object) -> list[Any]:
        return [*_all_updates(page.load_example(number, token)), *_new_run_updates()]

    def clip(token: object, path: object) -> list[Any]:
        return [None, *_all_updates(page.upload_clip(token, path)), *_new_run_updates()]

    def reference(token: object, path: object, frame: object) -> list[Any]:
        return [None, *_all_updates(page.upload_reference(token, path, frame))]

    def project(token: object, paths: object) -> list[Any]:
        return [*_all_updates(page.open_project(token, paths)), *_new_run_updates()]

    for number, button in enumerate(parts.examples):
        button.click(partial(example, number), token, outputs_and_run, **HEAVY)
    clips = parts.clip_file.upload(clip, [token, parts.clip_file], [parts.clip_file, *outputs_and_run], **HEAVY)
    references = parts.reference_file.upload(
        reference, [token, parts.reference_file, parts.frame], [parts.reference_file, *outputs], **HEAVY
    )
    for uploaded, file in ((clips, parts.clip_file), (references, parts.reference_file)):
        uploaded.failure(lambda: None, None, file, **PRIVATE)
    parts.open_project.upload(project, [token, parts.open_project], outputs_and_run, **HEAVY)
    saved = parts.save_project.click(page.save_project, token, parts.saved_project, **PRIVATE)
    saved.success(None, js=CLICK_SAVED_FILE)


def _wire_motion(page: Page, parts: Parts) -> None:
    place = [parts.token, parts.tool, parts.frame]
    edit, everything = _edit_outputs(parts), _all_outputs(parts)

    def moved(token: object, tool: object, frame: object) -> list[Any]:
        return _frame_updates(page.show_frame(token, tool, frame))

    def chosen(token: object, tool: object, frame: object) -> list[Any]:
        return _all_updates(page.choose_tool(token, tool, frame))

    def clicked(token: object, tool: object, frame: object, event: gr.SelectData) -> list[Any]:
        return _all_updates(page.click_frame(token, tool, frame, event.index))

    def anchored(token: object, tool: object, frame: object, event: gr.SelectData) -> list[Any]:
        return _all_updates(page.click_cutout(token, tool, frame, event.index))

    def boxed(end: steps.BoxEnd, token: object, tool: object, frame: object, *numbers: object) -> list[Any]:
        return _edit_updates(page.set_box(token, end, numbers, tool, frame))

    def noded(token: object, tool: object, frame: object, x: object, y: object) -> list[Any]:
        return _edit_updates(page.set_node(token, x, y, tool, frame))

    def changed(step: Callable[[steps.EditSession], steps.EditSession], token: object, tool: object, frame: object) -> list[Any]:
        return _all_updates(page.change(step, token, tool, frame))

    def unnoded(token: object, tool: object, frame: object) -> list[Any]:
        return _edit_updates(page.remove_node(token, tool, frame))

    def blended(key: str, token: object, tool: object, frame: object, value: object) -> list[Any]:
        return _edit_updates(page.set_blend(key, token, value, tool, frame))

    parts.frame.input(moved, place, _frame_outputs(parts), trigger_mode="always_last", **PRIVATE)
    parts.tool.input(chosen, place, everything, **PRIVATE)
    parts.picture.select(clicked, place, everything, **PRIVATE)
    parts.cutout.select(anchored, place, everything, **PRIVATE)
    ends: tuple[tuple[steps.BoxEnd, list[gr.Number]], ...] = (("start", parts.start_box), ("end", parts.end_box))
    for end, fields in ends:
        gr.on([t for field in fields for t in (field.blur, field.submit)], partial(boxed, end), [*place, *fields], edit, **PRIVATE)
    gr.on([t for field in parts.node for t in (field.blur, field.submit)], noded, [*place, *parts.node], edit, **PRIVATE)
    parts.remove_node.click(unnoded, place, edit, **PRIVATE)
    buttons = (
        (parts.clear_path, steps.clear_path),
        (parts.clear_boxes, steps.clear_boxes),
        (parts.undo, steps.undo),
        (parts.redo, steps.redo),
    )
    for button, step in buttons:
        button.click(partial(changed, step), place, everything, **PRIVATE)
    for key, slider in parts.blend.items():
        slider.release(partial(blended, key), [*place, slider], edit, **PRIVATE)


def _wire_render(page: Page, parts: Parts) -> None:
    def insert(token: object, wants_lossless: object, wants_layer: object) -> Generator[list[Any], None, None]:
        for run in page.insert(token, wants_lossless, wants_layer):
            yield _run_updates(run)

    def stopped(token: object) -> list[Any]:
        return _run_updates(page.cancel(token))

    def waiting() -> list[Any]:
        return _run_updates(WAITING)

    def failed() -> list[Any]:
        return [gr.update(visible=True), gr.update(visible=False)]

    clicked = parts.insert.click(waiting, None, _run_outputs(parts), queue=False, **PRIVATE)
    running = clicked.then(
        insert,
        [parts.token, parts.wants_lossless, parts.wants_layer],
        _run_outputs(parts),
        concurrency_id="render",
        concurrency_limit=1,
        **PRIVATE,
    )
    running.success(None, js=SCROLL_TO_RESULT)
    running.failure(failed, None, [parts.insert_slot, parts.cancel], queue=False, **PRIVATE)
    parts.cancel.click(stopped, parts.token, _run_outputs(parts), cancels=[running], queue=False, **PRIVATE)

    def previewed(token: object, frame: object) -> list[Any]:
        return [page.preview_frame(token, frame), PREVIEWED]

    parts.preview.click(
        previewed,
        [parts.token, parts.frame],
        [parts.picture, parts.hint],
        concurrency_id="preview",
        concurrency_limit=1,
        api_visibility="private",
        show_progress="minimal",
    )


def _add_api(page: Page) -> None:
    """The two public endpoints: plain text and files in, files out."""
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
        page.preview_files,
        [project, files],
        picture,
        api_name="preview",
        api_description="The middle frame of a project's range, as the engine makes it.",
        concurrency_id="preview",
        concurrency_limit=1,
    )
