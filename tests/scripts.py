"""Runs the JavaScript modules' own tests under node."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def check_scripts(folder: Path, min_tests: int) -> None:
    """All ``*.test.mjs`` of a folder pass, at least ``min_tests`` of them; without node a CI run fails and any other skips."""
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI") == "true":
            pytest.fail("node is missing, and a CI run must not skip the scripts' tests")
        pytest.skip("node is not installed")
    files = sorted(str(path) for path in folder.glob("*.test.mjs"))
    answer = subprocess.run([node, "--test", "--test-reporter=tap", *files], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-2000:]
    passed = int(next(line for line in answer.stdout.splitlines() if line.startswith("# pass")).split()[-1])
    assert passed >= min_tests, answer.stdout[-3000:]
