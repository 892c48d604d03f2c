"""How long a render takes beside ffmpeg's ``overlay`` filter with the same encoder settings, on the same clip, in the same run.

    python -m benchmarks.render_speed [--clip CLIP] [--frames 150] [--rounds 3]

Both are whole processes, from start to finished file, run in turn; the ratio is that of the best rounds,
of elapsed time and (steadier on a busy machine) of processor time. ``plain`` does what ``overlay`` does: the same object, size and
path, every blend option off; ``everything`` turns and grows it and has every option on.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import material


def overlay_command(clip: Path, reference: Path, out: Path, seconds: float, height: int) -> list[str]:
    size = round(height * 0.35)
    path = f"x='W*(0.1+0.5*t/{seconds})':y='H*(0.5-0.3*t/{seconds})'"
    graph = f"[1:v]scale={size}:{size}:flags=bicubic[o];[0:v][o]overlay={path}:eof_action=repeat"
    encoder = ["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    inputs = ["-i", str(clip), "-i", str(reference)]
    return [material.ffmpeg_path(), "-v", "error", "-y", *inputs, "-filter_complex", graph, *encoder, "-c:a", "copy", str(out)]


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Elapsed and processor seconds of a command, its children included."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=next(iter(sorted(material.ASSETS.glob("*.mp4"))), None))
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, reference = folder / "clip.mp4", folder / "object.png"
        material.make_clip(options.clip, clip, width=width, height=height, num_frames=options.frames)
        material.make_object(reference)
        runs = {"overlay": overlay_command(clip, reference, folder / "overlay.mp4", options.frames / 25, height)}
        documents = {
            "plain": material.make_project(clip, reference, options.frames, material.PLAIN),
            "everything": material.make_project(clip, reference, options.frames, material.EVERYTHING, turn_deg=40, growth=1.2),
        }
        for label, document in documents.items():
            project = material.write_project(folder, document, f"{label}.json")
            runs[label] = [sys.executable, "-m", "pipeline", "render", str(project), "-o", str(folder / f"{label}.mp4")]
        best = dict.fromkeys(runs, (float("inf"), float("inf")))
        for _ in range(options.rounds):
            for label, command in runs.items():
                elapsed, busy = seconds_of(command)
                best[label] = min(best[label][0], elapsed), min(best[label][1], busy)
    print(f"{width}x{height}, {options.frames} frames, {options.rounds} rounds, best of each (whole processes)")
    for label, (elapsed, busy) in best.items():
        ratio, busy_ratio = elapsed / best["overlay"][0], busy / best["overlay"][1]
        speed = f"{elapsed:7.2f} s  {options.frames / elapsed:6.1f} frames/s  {ratio:5.2f} x overlay"
        print(f"{label:<11} {speed}   processor {busy:6.2f} s  {busy_ratio:5.2f} x")


if __name__ == "__main__":
    main()
