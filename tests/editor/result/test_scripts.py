"""The viewer's JavaScript logic, tested under node."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "js"
MIN_TESTS = 6


def test_the_scripts_pass_their_own_tests():
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI") == "true":
            pytest.fail("node is missing, and a CI run must not skip the scripts' tests")
        pytest.skip("node is not installed")
    files = sorted(str(path) for path in FOLDER.glob("*.test.mjs"))
    answer = subprocess.run([node, "--test", "--test-reporter=tap", *files], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-2000:]
    passed = int(next(line for line in answer.stdout.splitlines() if line.startswith("# pass")).split()[-1])
    assert passed >= MIN_TESTS, answer.stdout[-3000:]
