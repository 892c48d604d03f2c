"""app.py as a whole: its arguments, the public API through a real client, and a start as on a Hugging Face Space."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from pipeline.media import probe_clip
from pipeline.model_cache import ModelCaches
from pipeline.segmentation.options import SegmenterOptions
from tests.serving import ROOT, serving
from tests.tiny import make_clip

EXAMPLE = ROOT / "assets" / "examples" / "crossing.json"
NUM_FRAMES = 8


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    make_clip(folder / "street.mp4", num_frames=NUM_FRAMES, hw=(48, 80), audio=["aac"])
    rgba = np.zeros((30, 30, 4), np.uint8)
    rgba[5:25, 5:25] = (20, 60, 220, 255)
    Image.fromarray(rgba, "RGBA").save(folder / "tile.png")
    return folder


@pytest.fixture(scope="module")
def document():
    boxes = {"0": {"box": [0.1, 0.2, 0.3, 0.6]}, "7": {"box": [0.6, 0.2, 0.8, 0.6]}}
    layer = {"name": "tile", "kind": "insert", "references": [{"path": "tile.png"}], "boxes": boxes}
    return {"version": 1, "clip": {"path": "street.mp4"}, "layers": [layer]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    flags = ["--max-upload-mb", "3", "--max-frames", "200", "--queue-size", "3"]
    with serving(folder, "--workdir", str(folder / "work"), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, download_files=str(tmp_path_factory.mktemp("downloads")), verbose=False)


def files_of(folder: Path, *names: str):
    return [handle_file(str(folder / name)) for name in names]


# -- arguments --------------------------------------------------------------------------------------------------------------------


def test_a_persons_machine_and_a_space_get_different_defaults():
    here = app.parse_arguments([], {})
    assert (here.host, here.port, here.workdir, here.auth) == ("127.0.0.1", 7860, ROOT / "workdir", None)
    there = app.parse_arguments([], {"SPACE_ID": "someone/space"})
    assert there.host == "0.0.0.0" and not there.workdir.is_relative_to(ROOT)
    shutil.rmtree(there.workdir)


def test_flags_are_read():
    flags = [
        "--host",
        "::1",
        "--port",
        "0",
        "--workdir",
        "/tmp/x",
        "--auth",
        "me:a:b",
        "--queue-size",
        "3",
        "--time-to-live-s",
        "60",
    ]
    got = app.parse_arguments(flags, {})
    assert (got.host, got.port, got.workdir, got.auth) == ("::1", 0, Path("/tmp/x").resolve(), ("me", "a:b"))
    assert (got.queue_size, got.time_to_live_s) == (3, 60)
    assert app.parse_arguments(["--compile"], {}).compile and not got.compile
    got = app.parse_arguments(["--device", "cuda:1", "--checkpoints", "/models"], {})
    assert (got.device, got.checkpoints, here_by_default()) == ("cuda:1", Path("/models"), ("auto", ROOT / "checkpoints"))


def test_the_segmenter_is_chosen_by_the_same_flags_as_on_the_command_line():
    flags = ["--segmenter", "sam2", "--segmenter-model", "sam2.1-hiera-tiny", "--segmenter-size", "512", "--checkpoints", "/models"]
    chosen = SegmenterOptions("sam2", "sam2.1-hiera-tiny", 512, "cpu", Path("/models"))
    assert app.parse_arguments([*flags, "--device", "cpu"], {}).segmenter == chosen, "runs where the engine does"
    assert app.parse_arguments([*flags, "--device", "cuda:1", "--segmenter-device", "cpu"], {}).segmenter == chosen
    assert app.parse_arguments([], {}).segmenter == SegmenterOptions(checkpoints=ROOT / "checkpoints")


def here_by_default():
    settings = app.parse_arguments([], {})
    return settings.device, settings.checkpoints


def test_engines_are_built_when_they_are_used(tmp_path):
    from pipeline.cache import ArtifactCache
    from pipeline.errors import UserError
    from pipeline.types import SamplingConfig

    code = (
        "import app, sys\nfrom pathlib import Path\n"
        f"app.build_demo(app.parse_arguments(['--workdir', {str(tmp_path / 'work')!r}], {{}}))\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
    settings = app.parse_arguments(["--checkpoints", str(tmp_path), "--device", "cpu"], {})
    engines = app.build_engines(settings, ArtifactCache(tmp_path / "cache"), ModelCaches())
    request = SimpleNamespace(sampling=SamplingConfig(name="videoanydoor"), num_frames=1, layers=())
    with pytest.raises(UserError, match="make one with 'python -m pipeline videoanydoor init"):
        list(engines.run(request, None, None))


def test_where_gpus_are_lent_the_engine_is_built_before_the_server_starts(tmp_path, monkeypatch):
    from pipeline.cache import ArtifactCache
    from pipeline.videoanydoor import zero_gpu

    built = []
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU="the decorator", __spec__=ModuleSpec("spaces", None)))
    monkeypatch.setattr(zero_gpu, "build_engine", lambda *arguments: built.append(arguments) or "lent")
    flags, artifacts = ["--checkpoints", str(tmp_path)], ArtifactCache(tmp_path / "cache")
    lent = {"SPACES_ZERO_GPU": "true"}
    assert app.build_engines(app.parse_arguments(flags, lent), artifacts, ModelCaches()).find("videoanydoor") == "lent"
    assert built == [(tmp_path, artifacts, "the decorator")]
    app.build_engines(app.parse_arguments(flags, {}), artifacts, ModelCaches())
    assert len(built) == 1
    assert app.parse_arguments([], lent).segmenter.device == "cpu", "there is no GPU outside the engine's calls"
    assert app.parse_arguments(["--segmenter-device", "cuda"], lent).segmenter.device == "cuda"


def test_compiling_is_asked_of_the_engine_and_ignored_where_gpus_are_lent(tmp_path, monkeypatch, caplog):
    from pipeline import videoanydoor
    from pipeline.videoanydoor import zero_gpu

    asked, models = [], ModelCaches()
    monkeypatch.setattr(videoanydoor, "build_engine", lambda *arguments: asked.append(arguments) or "own")
    for flags in ([], ["--compile"]):
        app.build_engines(app.parse_arguments(flags, {}), None, models).find("videoanydoor")
    assert [arguments[3:] for arguments in asked] == [(False, models), (True, models)] and not caplog.records
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU="the decorator", __spec__=ModuleSpec("spaces", None)))
    monkeypatch.setattr(zero_gpu, "build_engine", lambda checkpoints, artifacts, decorate: "lent")
    engines = app.build_engines(app.parse_arguments(["--compile"], {"SPACES_ZERO_GPU": "1"}), None, models)
    assert engines.find("videoanydoor") == "lent" and "--compile is ignored" in caplog.text


@pytest.mark.parametrize(
    "flags", [["--port", "x"], ["--port", "99999"], ["--auth", "nocolon"], ["--max-frames", "0"], ["--device", "abacus"]]
)
def test_wrong_flags_end_with_2(flags):
    with pytest.raises(SystemExit) as caught:
        app.parse_arguments(flags, {})
    assert caught.value.code == 2


# -- the API ----------------------------------------------------------------------------------------------------------------------


def test_only_what_is_documented_is_public(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
        "/render",
        "/preview",
        "/segment",
        "/propagate",
    }


def test_render_through_the_client(client, material, document):
    video, report = client.predict(json.dumps(document), files_of(material, "street.mp4", "tile.png"), api_name="/render")
    clip = probe_clip(Path(video))
    assert (clip.num_frames, clip.hw, len(clip.audio_streams)) == (NUM_FRAMES, (48, 80), 1)
    assert report["frames"] == NUM_FRAMES and report["engine"] == "composite" and report["warnings"] == []
    assert len(report["quality"]["frames"]) == NUM_FRAMES and min(report["quality"]["box_adherence"]) > 0.9


def test_preview_through_the_client(client, material, document):
    picture = client.predict(json.dumps(document), files_of(material, "street.mp4", "tile.png"), api_name="/preview")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape == (48, 80, 3)
    assert (pixels[..., 2] - pixels[..., 0] > 100)[14:24, 35:48].mean() > 0.5


def test_the_readmes_snippet_runs(server, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", readme.split("## API")[1].split("\n## ")[0], re.S)
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(snippet.replace("http://127.0.0.1:7860", server.url), names)
    assert probe_clip(Path(names["video"])).num_frames == names["report"]["frames"] == 120


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"clip": {"path": "/etc/passwd"}}, "without folders"),
        ({"clip": {"path": "../street.mp4"}}, "without folders"),
        ({"clip": {"path": "other.mp4"}}, "choose that file"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_project_at_fault_gets_one_sentence(client, material, document, change, sentence):
    with pytest.raises(AppError, match=sentence) as caught:
        client.predict(json.dumps({**document, **change}), files_of(material, "street.mp4", "tile.png"), api_name="/render")
    assert "Traceback" not in str(caught.value) and str(ROOT) not in str(caught.value)


def test_files_of_the_server_cannot_be_sent_instead_of_uploads(server, document):
    """A client that speaks HTTP by itself and names a path on the server."""
    forged = {"path": str(EXAMPLE.with_suffix(".mp4")), "meta": {"_type": "gradio.FileData"}}
    call = httpx.post(f"{server.url}/gradio_api/call/render", json={"data": [json.dumps(document), [forged]]})
    event = call.json()["event_id"]
    answer = httpx.get(f"{server.url}/gradio_api/call/render/{event}", timeout=30).text
    assert "event: error" in answer and "gradio_api/file" not in answer


@pytest.mark.parametrize("path", ["/etc/passwd", str(ROOT / "app.py"), "visitors", "http://127.0.0.1/"])
def test_nothing_but_published_files_is_served(server, path):
    path = str(server.log_path.parent / "work" / "visitors") if path == "visitors" else path
    if Path(path).name == "visitors":
        token = next(Path(path).iterdir(), None)
        path = str((token or Path(path) / "x") / "session.json")
    assert httpx.get(f"{server.url}/gradio_api/file={path}").status_code in (403, 404)


def test_a_file_above_the_limit_is_refused(server):
    answer = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("big.mp4", b"0" * 3_300_000)}, timeout=30)
    assert answer.status_code == 413


def test_the_very_same_upload_gets_another_address_each_time(server, material):
    file = ("street.mp4", (material / "street.mp4").read_bytes())
    answers = [httpx.post(f"{server.url}/gradio_api/upload", files={"files": file}, timeout=30) for _ in range(2)]
    paths = [Path(path) for answer in answers for path in answer.json()]
    folders = [path.relative_to(server.log_path.parent / "work" / "served").parts[0] for path in paths]
    assert len(set(folders)) == 2 and all(re.fullmatch(r"upload-[A-Za-z0-9_-]{43}", folder) for folder in folders)
    assert [path.name for path in paths] == ["street.mp4"] * 2 and all(path.read_bytes() == file[1] for path in paths)
    guessed = Path(*paths[0].parts[:-3], *paths[0].parts[-2:])
    assert httpx.get(f"{server.url}/gradio_api/file={guessed}").status_code in (403, 404)
    assert httpx.post(f"{server.url}/gradio_api/upload", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 400
    before = sorted((server.log_path.parent / "work" / "served").iterdir())
    assert httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("big", b"0" * 3_300_000)}).status_code == 413
    assert sorted((server.log_path.parent / "work" / "served").iterdir()) == before, "nothing is kept of what is refused"


def test_what_no_control_sends_is_refused_without_a_traceback(server):
    functions = {each["api_name"]: each["id"] for each in httpx.get(f"{server.url}/config").json()["dependencies"]}

    def call(name: str, *data: object) -> str:
        body = {"data": list(data), "fn_index": functions[name], "session_hash": "forger"}
        assert httpx.post(f"{server.url}/gradio_api/queue/join", json=body, timeout=30).status_code == 200
        with httpx.stream("GET", f"{server.url}/gradio_api/queue/data?session_hash=forger", timeout=30) as lines:
            messages = [json.loads(line[5:]) for line in lines.iter_lines() if line.startswith("data:")]
        [done] = [message for message in messages if message["msg"] == "process_completed"]
        return done["output"]["error"]

    for value in ("x", 1e9, [1], {"a": 1}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}):
        for name in ("clip", "reference", "project", "engine_chosen", "checkpoint_chosen", "render"):
            sentence = call(name, *([value] * (3 if name in ("reference", "engine_chosen", "checkpoint_chosen") else 2)))
            assert "not of the kind" in sentence, (name, value, sentence)
    assert "not of the kind" in call("clip")
    assert "Traceback" not in server.log


def test_two_renders_of_the_same_names_do_not_mix(client, material, document, tmp_path):
    make_clip(tmp_path / "street.mp4", num_frames=5, hw=(48, 80))
    shutil.copy(material / "tile.png", tmp_path / "tile.png")
    shorter = {**document, "layers": [{**document["layers"][0], "boxes": {"0": {"box": [0.1, 0.2, 0.3, 0.6]}}}]}
    jobs = [
        client.submit(json.dumps(document), files_of(material, "street.mp4", "tile.png"), api_name="/render"),
        client.submit(json.dumps(shorter), files_of(tmp_path, "street.mp4", "tile.png"), api_name="/render"),
    ]
    assert [probe_clip(Path(job.result(timeout=60)[0])).num_frames for job in jobs] == [NUM_FRAMES, 5]


def test_waiting_renders_keep_nobody_from_the_page(server, material, document):
    """More jobs than may wait, sent by somebody who never fetches them: some are refused, and the page opens all the same."""
    functions = {each["api_name"]: each["id"] for each in httpx.get(f"{server.url}/config").json()["dependencies"]}
    sent = [("files", (name, (material / name).read_bytes())) for name in ("street.mp4", "tile.png")]
    paths = httpx.post(f"{server.url}/gradio_api/upload", files=sent, timeout=30).json()
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]

    def join(name: str, data: list, visitor: str) -> httpx.Response:
        body = {"data": data, "fn_index": functions[name], "session_hash": visitor}
        return httpx.post(f"{server.url}/gradio_api/queue/join", json=body, timeout=30)

    answers = [join("render", [json.dumps(document), files], "greedy 0")]
    while answers[-1].status_code == 200 and len(answers) < 200:  # some are done before the next one is sent
        answers.append(join("render", [json.dumps(document), files], f"greedy {len(answers)}"))
    assert len(answers) > 1 and answers[-1].status_code == 503
    assert "try again in a minute" in answers[-1].text
    assert join("opened", [None], "patient").status_code == 200


def test_a_login_protects_the_canvas_too(tmp_path):
    from editor.canvas import static_version

    with serving(tmp_path, "--workdir", str(tmp_path / "work"), "--auth", "me:secret") as server, httpx.Client() as client:
        script = f"{server.url}/canvas/static/{static_version()}/canvas.js"
        exchange, picture = f"{server.url}/canvas/exchange", f"{server.url}/canvas/view/{'a' * 32}/0.jpg"

        def answers() -> list[int]:
            upload = client.post(f"{server.url}/gradio_api/upload", files={"files": ("a.txt", b"a")})
            got = [client.get(script), client.get(picture), client.post(exchange, json={}), upload]
            return [answer.status_code for answer in got]

        assert answers() == [401, 401, 401, 401]
        client.cookies.set("access-token-unsecure-x", "x")
        client.post(f"{server.url}/login", data={"username": "me", "password": "wrong"})
        assert answers() == [401, 401, 401, 401]
        assert client.post(f"{server.url}/login", data={"username": "me", "password": "secret"}).status_code == 200
        assert answers() == [200, 404, 200, 200]


# -- on a Space -------------------------------------------------------------------------------------------------------------------


def test_it_starts_as_on_a_space_and_runs_the_example(tmp_path):
    """SPACE_ID set, no GPU, a tree that must not be written to, a ``spaces`` package that is there but not needed."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("app.py", "editor", "pipeline", "assets"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    stubs, scratch = tmp_path / "stubs", tmp_path / "scratch"
    stubs.mkdir()
    scratch.mkdir()
    (stubs / "spaces.py").write_text("def GPU(function=None, **options):\n    return function or (lambda inner: inner)\n")
    before = sorted(tree.rglob("*"))
    for path in [tree, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environ = {
        "SPACE_ID": "someone/open-videoanydoor",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(stubs),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(scratch),
        "HF_HUB_OFFLINE": "1",
    }
    document = json.loads(EXAMPLE.read_text())
    document["range"] = [52, 60]
    names = [document["clip"]["path"], document["layers"][0]["references"][0]["path"]]
    try:
        with serving(tmp_path, tree=tree, environ=environ) as server:
            assert "0.0.0.0" in server.log, "a Space must be reachable from outside its container"
            client = Client(server.url, download_files=str(tmp_path / "downloads"), verbose=False)
            video, report = client.predict(json.dumps(document), files_of(EXAMPLE.parent, *names), api_name="/render")
            assert probe_clip(Path(video)).num_frames == 8 and report["frames"] == 8
        assert sorted(tree.rglob("*")) == before, "nothing may be written next to the program"
    finally:
        for path in [tree, *before]:
            os.chmod(path, 0o755)


def test_the_page_opens_soon(server):
    assert server.started_s < 30, "ten seconds on a quiet machine; tests run on busy ones"
    assert "Open VideoAnydoor" in httpx.get(server.url).text
