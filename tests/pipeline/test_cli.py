"""The command line: exit status, one sentence for every fault, nothing left behind, progress on stderr, JSON on stdout."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from PIL import Image

from pipeline import cli, console
from pipeline import project as project_room
from pipeline.cli import DONE, FAILED, INPUT_AT_FAULT, INTERRUPTED, main
from pipeline.media import probe_clip
from pipeline.project import read_result_project
from pipeline.types import Progress

from ..tiny import make_audio, make_clip
from .sample_project import DOCUMENT, NUM_FRAMES, FakeEngine, changed, write_media, write_project

ROOT = Path(__file__).resolve().parents[2]
LAYER = ("layers", 0)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture
def folder(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with its media; what a command leaves elsewhere goes to a cache folder beside it."""
    made = tmp_path / "project"
    made.mkdir()
    for name in ("clip.mp4", "ball.png"):
        (made / name).write_bytes((media / name).read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def run(folder: Path, *arguments: str, document: dict = DOCUMENT, output: str = "out.mp4") -> int:
    return main(["render", str(write_project(folder, document)), "-o", str(folder / output), *arguments])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str, says: str = "", **kwargs) -> str:
    """Exit 2, one sentence, no traceback, stdout empty, no file more than before (but for the project file)."""
    before = files(folder) | {"project.json"}
    assert run(folder, *arguments, **kwargs) == INPUT_AT_FAULT
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and captured.err.splitlines()[-1] == lines[0] and "Traceback" not in captured.err
    assert captured.out == "" and says in lines[0] and str(folder) not in lines[0]
    assert files(folder) == before
    return lines[0]


# -- what works ------------------------------------------------------------------------------------------------------------------


def test_a_project_becomes_a_video(folder, capsys):
    assert run(folder) == DONE
    captured = capsys.readouterr()
    assert captured.out == "" and "12 frames of 96x64" in captured.err and "compositing" in captured.err
    clip = probe_clip(folder / "out.mp4")
    assert (clip.num_frames, clip.hw, len(clip.audio_streams)) == (NUM_FRAMES, (64, 96), 1)
    assert read_result_project(folder / "out.mp4").layers[0].name == "ball"
    assert files(folder) == {"project.json", "clip.mp4", "ball.png", "out.mp4"}


def test_json_is_one_line_with_these_keys(folder, capsys):
    assert run(folder, "--json") == DONE
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1 and captured.out.endswith("\n")
    summary = json.loads(captured.out)
    assert list(summary) == ["output", "frames", "seconds", "engine", "segmenter", "digest", "warnings"]
    assert summary["output"] == str(folder / "out.mp4") and summary["frames"] == NUM_FRAMES and summary["engine"] == "composite"
    assert len(summary["digest"]) == 64 and summary["segmenter"] is None and summary["warnings"] == []


def test_every_file_that_can_be_asked_for(folder, capsys):
    arguments = ("--lossless", "--layer-alpha", str(folder / "layer.mov"), "--report", str(folder / "report.json"), "--seed", "9")
    assert run(folder, *arguments, output="out.mkv") == DONE
    assert files(folder) == {"project.json", "clip.mp4", "ball.png", "out.mkv", "layer.mov", "report.json"}
    report = json.loads((folder / "report.json").read_text())
    assert report["frames"] == NUM_FRAMES and report["project"]["engine"] == {"seed": 9}
    assert read_result_project(folder / "out.mkv").engine.seed == 9
    with av.open(str(folder / "layer.mov")) as layer:
        assert layer.streams.video[0].codec_context.name == "prores"


def test_flags_override_the_file(folder, capsys):
    document = changed(DOCUMENT, ("engine", {"name": "vace", "seed": 3}))
    assert_refused(folder, capsys, document=document, says="engine.name: vace is not available yet")
    digests = []
    for arguments in ((), ("--seed", "4")):
        assert run(folder, "--engine", "composite", "--json", *arguments, document=document) == DONE
        digests.append(json.loads(capsys.readouterr().out)["digest"])
    assert digests[0] != digests[1]


def test_files_may_lie_anywhere(folder, tmp_path, capsys, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    document = changed(
        DOCUMENT, ("clip", "path", str(folder / "clip.mp4")), (*LAYER, "references", 0, "path", "../project/ball.png")
    )
    monkeypatch.chdir(elsewhere)
    write_project(elsewhere, document)
    assert main(["render", "project.json", "-o", "out.mp4"]) == DONE
    carried = read_result_project(elsewhere / "out.mp4")
    assert (carried.clip.path, carried.layers[0].references[0].path) == ("clip.mp4", "ball.png")


def test_the_same_project_gives_the_same_bytes(folder, capsys):
    assert run(folder, output="a.mp4") == DONE and run(folder, output="b.mp4") == DONE
    assert (folder / "a.mp4").read_bytes() == (folder / "b.mp4").read_bytes()


def test_as_a_module_from_another_folder(folder, tmp_path):
    write_project(folder)
    command = [sys.executable, "-m", "pipeline", "render", str(folder / "project.json"), "-o", str(folder / "out.mp4"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == DONE and json.loads(done.stdout)["frames"] == NUM_FRAMES
    command[4] = str(folder / "none.json")
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert failed.returncode == INPUT_AT_FAULT and failed.stdout == "" and failed.stderr.count("\n") == 1


# -- input at fault --------------------------------------------------------------------------------------------------------------


def write_bad_media(folder: Path, kind: str) -> None:
    clip = folder / "clip.mp4"
    if kind == "text":
        clip.write_text("this is not a video\n" * 100)
    elif kind == "empty":
        clip.write_bytes(b"")
    elif kind == "missing":
        clip.unlink()
    elif kind == "folder":
        clip.unlink()
        clip.mkdir()
    elif kind == "no index":
        make_clip(clip, num_frames=24)
        data = clip.read_bytes()
        assert data.index(b"moov") > data.index(b"mdat")
        clip.write_bytes(data[: len(data) // 2])
    elif kind == "index but half the frames":
        make_clip(clip, num_frames=48, container_options={"movflags": "+faststart"})
        data = clip.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        clip.write_bytes(data[: len(data) * 2 // 3])
    elif kind == "no frames":
        with av.open(str(clip), "w") as output:
            stream = output.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            output.start_encoding()
    elif kind == "audio only":
        make_audio(clip)
    elif kind == "too wide":
        make_clip(clip, num_frames=1, hw=(16, 8208))
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["text", "empty", "missing", "folder", "no index", "index but half the frames", "no frames", "audio only", "too wide"],
)
def test_a_clip_that_is_none(folder, capsys, kind):
    write_bad_media(folder, kind)
    assert "clip.mp4" in assert_refused(folder, capsys)


def test_a_reference_that_is_huge_or_empty_or_none(folder, capsys):
    picture = folder / "ball.png"
    Image.new("1", (20_000, 20_000)).save(picture)
    assert_refused(folder, capsys, says="layers[0].references[0]")
    Image.new("RGBA", (40, 40)).save(picture)
    assert_refused(folder, capsys, says="layers[0].references[0]")
    Image.new("RGBA", (40, 40), (255, 0, 0, 60)).save(picture)
    assert_refused(folder, capsys, says="layers[0].references[0]")
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    assert_refused(folder, capsys, says="ball.png")
    picture.unlink()
    assert_refused(folder, capsys, says="ball.png")


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([("colour", 1)], "colour: unknown key"),
        ([(*LAYER, "boxes", "0", "box", [0.4, 0.2, 0.1, 0.8])], 'layers[0].boxes["0"].box: x1 must be greater than x0'),
        ([(*LAYER, "boxes", "0", "box", 0, float("nan"))], "it holds NaN"),
        ([(*LAYER, "boxes", "0", "box", 0, float("inf"))], "it holds Infinity"),
        ([(*LAYER, "boxes", "12", {"box": [0, 0, 1, 1]})], 'layers[0].boxes["12"]: the clip has 12 frames'),
        (
            [(*LAYER, "trajectories", ...), (*LAYER, "boxes", {"0": {"box": [1.5, 0, 1.8, 1]}})],
            "layers[0].boxes: the object touches the picture in no frame",
        ),
        ([(*LAYER, "kind", "replace")], "layers[0].target: nothing says what to replace"),
        ([(*LAYER, "target", {"prompts": {"0": {"clicks": [[0.5, 0.5, 1]]}}})], "layers[0].target: "),
        ([("engine", {"name": "vace"})], "engine.name: vace is not available yet"),
    ],
)
def test_a_document_at_fault(folder, capsys, steps, says):
    assert_refused(folder, capsys, document=changed(DOCUMENT, *steps), says=says)


def test_a_project_file_that_is_none(folder, capsys):
    for data in (b"", b"\xff\xd8\xff\xe0", b"[" * 100_000, b'{"version": 1, "version": 1}'):
        (folder / "bad.json").write_bytes(data)
        assert main(["render", str(folder / "bad.json"), "-o", str(folder / "out.mp4")]) == INPUT_AT_FAULT
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["render", str(folder / "none.json"), "-o", str(folder / "out.mp4")]) == INPUT_AT_FAULT
    assert "'none.json' cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["render"], "PROJECT.json"),
        (["render", "p.json"], "--output"),
        (["render", "p.json", "-o", "o.mp4", "--engine", "vace"], "vace"),
        (["render", "p.json", "-o", "o.mp4", "--seed", "x"], "--seed"),
        (["render", "p.json", "-o", "o.mp4", "--fast"], "--fast"),
    ],
)
def test_arguments_at_fault(capsys, arguments, says):
    assert main(arguments) == INPUT_AT_FAULT
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_options_that_cannot_work(folder, capsys):
    assert_refused(folder, capsys, "--device", "cuda", says="runs on the CPU")
    assert_refused(folder, capsys, "--compile", says="leave --compile out")
    assert_refused(folder, capsys, "--seed", "-1", says="engine.seed")
    assert_refused(folder, capsys, "--lossless", says=".mkv")
    assert_refused(folder, capsys, output="out.mkv", says=".mp4")
    assert_refused(folder, capsys, "--layer-alpha", str(folder / "a.mp4"), says=".mov")
    assert_refused(folder, capsys, "--report", str(folder / "a.txt"), says=".json")


def test_nothing_that_is_read_is_ever_replaced(folder, capsys):
    before = {name: (folder / name).read_bytes() for name in ("clip.mp4", "ball.png")}
    assert_refused(folder, capsys, output="clip.mp4", says="would replace 'clip.mp4'")
    assert_refused(folder, capsys, "--report", str(folder / "project.json"), says="would replace 'project.json'")
    make_clip(folder / "front.mov")
    document = changed(DOCUMENT, (*LAYER, "holdouts", [{"path": "front.mov"}]))
    assert_refused(folder, capsys, "--layer-alpha", str(folder / "front.mov"), document=document, says="would replace 'front.mov'")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_places_that_cannot_be_written(folder, capsys, monkeypatch):
    assert_refused(folder, capsys, output="none/out.mp4", says="does not exist")
    assert_refused(folder, capsys, output="ball.png/out.mp4", says="out.mp4")
    assert_refused(folder, capsys, "--report", str(folder / "none" / "r.json"), says="r.json")
    write_project(folder)
    assert main(["render", str(folder / "project.json"), "-o", "/proc/out.mp4"]) == INPUT_AT_FAULT
    assert "out.mp4" in capsys.readouterr().err
    assert_refused(folder, capsys, output="o" * 300 + ".mp4", says="File name too long")

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert_refused(folder, capsys, says="out.mp4")
    assert_refused(folder, capsys, "--report", str(folder / "r.json"), says="r.json")


def test_a_disk_that_is_too_full_from_the_start(folder, capsys, monkeypatch):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert_refused(folder, capsys, says="too full")


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_fills_up_on_the_way(folder):
    """A limit on file sizes stands in for the end of the disk: the system refuses the same write call."""
    write_project(folder)
    before = files(folder)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    code = f"{limit}; from pipeline.cli import main; sys.exit(main())"
    arguments = ["render", str(folder / "project.json"), "-o", str(folder / "out.mkv"), "--lossless"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == INPUT_AT_FAULT, done.stderr
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr and files(folder) == before


# -- anything else ---------------------------------------------------------------------------------------------------------------


def test_a_bug_exits_with_1_and_shows_its_traceback(folder, capsys, monkeypatch):
    monkeypatch.setattr(cli, "ENGINES", {"composite": lambda *_: FakeEngine(fail_at=3)})
    before = files(folder) | {"project.json"}
    assert run(folder, "--json") == FAILED
    captured = capsys.readouterr()
    assert "RuntimeError: the engine broke" in captured.err and captured.out == "" and files(folder) == before


def test_running_out_of_memory_is_one_sentence(folder, capsys, monkeypatch):
    class Greedy(FakeEngine):
        def run(self, request, report, warn):
            raise MemoryError
            yield

    monkeypatch.setattr(cli, "ENGINES", {"composite": lambda *_: Greedy()})
    before = files(folder) | {"project.json"}
    assert run(folder) == FAILED
    error = capsys.readouterr().err
    assert "not enough memory" in error and "Traceback" not in error and files(folder) == before


def test_a_project_that_is_too_large_to_be_carried_says_so(folder, capsys, monkeypatch):
    monkeypatch.setattr(project_room, "MAX_METADATA_BYTES", 100)
    assert run(folder) == DONE
    assert "note: The project is too large to travel" in capsys.readouterr().err


SLOW = """
import sys, time
from pipeline import cli, console
from tests.pipeline.sample_project import FakeEngine
class Slow(FakeEngine):
    def run(self, request, report, warn):
        for frame in super().run(request, report, warn):
            time.sleep(0.2)
            yield frame
cli.ENGINES = {"composite": lambda *_: Slow()}
sys.exit(cli.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]])
def test_a_signal_stops_cleans_up_and_exits_with_130(folder, signals):
    write_project(folder)
    before = files(folder)
    arguments = ["render", str(folder / "project.json"), "-o", str(folder / "out.mp4"), "--layer-alpha", str(folder / "l.mov")]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("faking"):
            break
    assert files(folder) > before, "the unfinished files lie in the folder"
    for each in signals:
        process.send_signal(each)
        time.sleep(0.02)
    rest = process.communicate(timeout=20)[1]
    assert process.returncode == INTERRUPTED and rest.endswith("interrupted\n") and "Traceback" not in rest
    assert files(folder) == before


def test_an_interrupt_while_the_libraries_load_is_one_too():
    code = (
        "import sys, runpy\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pipeline.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "runpy.run_module('pipeline', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == INTERRUPTED and done.stderr == ""


def test_signal_handlers_are_put_back(capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    main(["render"])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# -- what the person sees --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_tidies_up(folder, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(folder) == DONE
    shown = terminal.getvalue()
    assert "\r█" in shown and f"{NUM_FRAMES} of {NUM_FRAMES}" in shown and "\r\x1b[K" in shown.rpartition("█")[2]


def test_plain_progress_is_a_line_every_two_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    lines = console._Lines()
    for step in range(1, 101):
        now[0] += 0.1
        lines.update(Progress("compositing", step, 100))
    lines.update(Progress("finishing", 100, 100))
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "compositing 1 of 100" and shown[1].startswith("compositing 21 of 100, 0:07 left")
    assert shown[-1] == "finishing 100 of 100" and len(shown) == 6


def test_the_cache_folder_is_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.cache_folder() == tmp_path / "open-videoanydoor"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cli.cache_folder() == Path("/home/somebody/.cache/open-videoanydoor")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.cache_folder() == Path("/home/somebody/Library/Caches/open-videoanydoor")


def test_the_engines_on_offer_are_those_that_a_project_may_name():
    assert tuple(cli.ENGINES) == project_room.AVAILABLE_ENGINES


def test_warm_up_warms_up(capsys, monkeypatch):
    called = []
    monkeypatch.setattr("pipeline.matting.warm_up", lambda: called.append(1))
    assert main(["warm-up"]) == DONE and called == [1]
    assert "ready after" in capsys.readouterr().err
