"""Starts app.py in a process of its own, as a person would, and stops it again."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Server:
    url: str
    log_path: Path
    started_s: float

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, tree: Path = ROOT, environ: Mapping[str, str] | None = None, wait_s: float = 90
) -> Iterator[Server]:
    """Serve from ``tree`` until the block ends; the log goes to ``folder``. Fails with the log when the page does not open."""
    port, log_path = free_port(), folder / "app.log"
    clean = {key: value for key, value in os.environ.items() if key not in ("SPACE_ID", "GRADIO_TEMP_DIR")}
    started = time.monotonic()
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), *arguments],
            cwd=tree,
            env={**clean, "PYTHONUNBUFFERED": "1", **(environ or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            while not _answers(url):
                if process.poll() is not None or time.monotonic() - started > wait_s:
                    raise AssertionError(f"the page did not open:\n{log_path.read_text(errors='replace')}")
                time.sleep(0.1)
            yield Server(url, log_path, time.monotonic() - started)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
