"""Device and precision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.runtime import Runtime, choose_runtime, free_memory_bytes, release_memory

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]


def test_the_choice_is_made_once():
    assert choose_runtime("cpu") == Runtime("cpu", "float32")
    assert choose_runtime("cpu", "bfloat16").torch_dtype() is torch.bfloat16
    chosen = choose_runtime()
    assert chosen.is_accelerated == (torch.cuda.is_available() or torch.backends.mps.is_available())
    assert chosen.torch_device().type == chosen.device.split(":")[0]


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UserError, match="no device"):
        choose_runtime(device)


def test_cuda_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for has_it, expected in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it: has_it)
        assert choose_runtime() == Runtime("cuda", expected)
    assert choose_runtime("cuda:1").device == "cuda:1"


def test_free_memory_is_plausible_and_releasing_it_is_safe():
    runtime = choose_runtime("cpu")
    assert 1 << 26 < free_memory_bytes(runtime) < 1 << 46
    release_memory(runtime)


def test_importing_it_does_not_import_torch():
    code = "import sys, pipeline.runtime, pipeline.model_cache\nprint('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "False"
