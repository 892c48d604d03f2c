"""Peak resident size of a render, for a 60 s and a 120 s clip at 1080p: it must not grow with the clip.

python -m benchmarks.render_memory [--clip CLIP] [--seconds 60 120]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from . import material

_PEAK = "import resource, runpy, sys; sys.argv = sys.argv[1:]\ntry:\n runpy.run_module('pipeline', run_name='__main__')\nfinally:\n"
_PEAK += " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stdout)"


def peak_mib(project: Path, out: Path) -> float:
    """Peak resident size in MiB of ``python -m pipeline render`` itself (its probe child is not counted)."""
    command = [sys.executable, "-c", _PEAK, "pipeline", "render", str(project), "-o", str(out)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return int(answer.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=next(iter(sorted(material.ASSETS.glob("*.mp4"))), None))
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 120])
    options = parser.parse_args()
    peaks = {}
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            clip, reference = folder / "clip.mp4", folder / "object.png"
            frames = seconds * 25
            material.make_clip(options.clip, clip, width=1920, height=1080, num_frames=frames)
            material.make_object(reference)
            document = material.make_project(clip, reference, frames, material.EVERYTHING, turn_deg=40, growth=1.2)
            project = material.write_project(folder, document, "p.json")
            peaks[seconds] = peak_mib(project, folder / "out.mp4")
        print(f"{seconds:4d} s of 1080p: peak {peaks[seconds]:.0f} MiB", flush=True)
    first, last = peaks[options.seconds[0]], peaks[options.seconds[-1]]
    print(f"ratio {last / first:.3f}; children's peak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
