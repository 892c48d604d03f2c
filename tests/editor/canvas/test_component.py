"""The component inside a Gradio page: it loads, shows the work of the token it is given, and tells the page about edits."""

from editor.canvas import Canvas, build_value
from pipeline.media import probe_clip
from tests.editor.canvas.bench import Hand, MemoryHost
from tests.serving import free_port
from tests.tiny import make_clip


def test_the_canvas_lives_in_a_gradio_page(chromium, tmp_path):
    import gradio as gr

    host = MemoryHost(probe_clip(make_clip(tmp_path / "a.mp4", num_frames=12, hw=(90, 160))))
    canvas = Canvas(host)
    with gr.Blocks(analytics_enabled=False) as page:
        view = canvas.component(elem_id="canvas")
        told = gr.Textbox(label="told")
        again = gr.Button("again")
        view.edited(lambda: f"{len(host.past)} edits", outputs=told, show_progress="hidden")
        page.load(lambda: build_value(host.token, 1), outputs=view)
        again.click(lambda: build_value(host.token, 2), outputs=view)
    routes = {"routes": [canvas.mount()]}
    _, url, _ = page.launch(server_port=free_port(), app_kwargs=routes, prevent_thread_lock=True, quiet=True)
    try:
        tab = chromium.new_page(viewport={"width": 1280, "height": 1000})
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        hand = Hand(tab)
        hand.open(url)
        hand.drag((0.2, 0.2), (0.6, 0.7))
        tab.wait_for_function("() => document.querySelector('textarea')?.value === '1 edits'")
        host.undo(host.token)
        tab.get_by_role("button", name="again").click()
        tab.wait_for_function("() => !document.querySelector('.cv-root').canvas.model.layer.boxes")
        tab.close()
        assert faults == []
    finally:
        page.close()
        canvas.close()
