"""The loop: it learns, goes on exactly where it stopped, shares work between processes, and loses nothing that it has kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.training import states
from pipeline.training.cli import CONFIGS
from pipeline.training.config import read_config
from pipeline.training.train import ema_at, rate_at, train
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from tests.pipeline.training.material import TINY, make_material, tiny_config

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [
    {"kind": "composites", "footage": "footage", "cutouts": "cutouts"},
    {"kind": "simulated", "pictures": "pictures", "cutouts": "cutouts"},
]


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    return make_material(tmp_path_factory.mktemp("material"))


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    newest = states.list_states(output)[-1]
    return load_file(newest / "weights.safetensors") | {
        f"average:{key}": value for key, value in load_file(newest / "average.safetensors").items()
    }


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(material, tmp_path) -> None:
    whole = train(tiny_config(material, steps=4), material, tmp_path / "whole", device="cpu")
    train(tiny_config(material, steps=2), material, tmp_path / "parts", device="cpu")
    resumed = train(tiny_config(material, steps=4), material, tmp_path / "parts", device="cpu")
    assert whole.step == resumed.step == 4 and resumed.samples == 2
    one, two = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert one.keys() == two.keys() and len(one) > 100
    assert all(torch.equal(one[key], two[key]) for key in one)
    start = VideoAnydoorPipeline.from_pretrained(tmp_path / "whole" / "checkpoint")
    moved = load_file(states.list_states(tmp_path / "whole")[-1] / "average.safetensors")
    assert torch.equal(start.unet.conv_out.weight, moved["unet.conv_out.weight"])
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all(np.isfinite(line["loss"]) for line in lines)


def test_another_configuration_does_not_take_over_a_run(material, tmp_path) -> None:
    train(tiny_config(material, steps=1), material, tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match="another configuration"):
        train(tiny_config(material, steps=1, learning_rate=0.1), material, tmp_path / "run", device="cpu")


def test_what_a_death_in_the_middle_of_saving_leaves_is_not_taken_for_a_state(material, tmp_path) -> None:
    output = tmp_path / "run"
    train(tiny_config(material, steps=2), material, output, device="cpu")
    torn = output / ".partial-00000003"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    said: list[str] = []
    train(tiny_config(material, steps=3), material, output, device="cpu", tell=said.append)
    assert said[0] == "going on from step 2" and not torn.exists()


def test_a_full_disk_keeps_the_state_before(material, tmp_path, monkeypatch) -> None:
    output = tmp_path / "run"
    train(tiny_config(material, steps=1), material, output, device="cpu")
    before = weights_of(output)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "save_file", full)
    with pytest.raises(UserError, match="make room and run the same command again"):
        train(tiny_config(material, steps=2), material, output, device="cpu")
    assert [path.name for path in states.list_states(output)] == ["step-00000001"]
    after = weights_of(output)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_damaged_state_is_named(material, tmp_path) -> None:
    output = tmp_path / "run"
    train(tiny_config(material, steps=1), material, output, device="cpu")
    (output / "step-00000001" / "moments.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="'step-00000001' is damaged; remove it"):
        train(tiny_config(material, steps=2), material, output, device="cpu")


def test_every_configuration_reads_and_every_ablation_takes_three_steps(material, tmp_path) -> None:
    paths = sorted(CONFIGS.rglob("*.yaml"))
    assert len(paths) == 19
    names = {"sd15", "sdxl", "nano", "pico", "mix"}
    assert {path.stem for path in paths if path.parent == CONFIGS} == names
    changed = {}
    for path in sorted((CONFIGS / "ablations").glob("*.yaml")):
        config = read_config(path)
        kinds = [source.kind for source in config.sources]
        sources = [source for source in SOURCES if source["kind"] in kinds]
        small = read_config(
            path, {key: value for key, value in TINY.items() if key != "learning_rate"} | {"sources": sources, "preview_every": 0}
        )
        summary = train(small, material, tmp_path / path.stem, device="cpu")
        assert summary.step == 3 and np.isfinite(summary.loss)
        changed[path.stem] = summary.loss
    assert len(changed) == 14
    # every row but the last pair is a training of its own: same seed and data order, another loss
    assert len({round(loss, 7) for loss in changed.values()}) >= 9


def test_a_configuration_at_fault_is_named(tmp_path) -> None:
    def read(text: str) -> None:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        read_config(path)

    for text, sentence in (
        ("scale: nano", '"steps" is missing'),
        ("scale: nano\nsteps: 1\nsources: [{kind: composites, footage: f}]", r"sources\[0\].cutouts: composites need"),
        ("scale: huge\nsteps: 1\nsources: []", "scale: must be"),
        ("a: [", "not valid YAML"),
        ("base: c.yaml", "leads nowhere"),
        ("- 1", "must hold keys and values"),
        ("scale: nano\nsteps: 1\nsurprise: 1\nsources: []", "surprise: unknown key"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "nowhere.yaml")


def test_rates_rise_and_fall_as_described() -> None:
    config = read_config(CONFIGS / "nano.yaml", {"steps": 1000, "warmup_steps": 10})
    assert rate_at(5, config) == pytest.approx(0.5, rel=1e-2)
    assert rate_at(500, config) == pytest.approx(0.5) and rate_at(1000, config) == pytest.approx(0)
    assert ema_at(1, 0.999) < 0.2 and ema_at(10**6, 0.999) == 0.999


def test_the_commands_prepare_and_train(material, tmp_path, capsys) -> None:
    tiny_config(material, steps=1)
    config = str(material / "tiny.yaml")
    sheet, shards = tmp_path / "sheet.png", tmp_path / "shards"
    assert main(["videoanydoor", "prepare", config, "-o", str(shards), "--count", "3", "--preview", str(sheet)]) == 0
    from PIL import Image

    assert np.array(Image.open(sheet)).std() > 20 and len(list(shards.glob("*.tar"))) == 1
    assert main(["videoanydoor", "prepare", config]) == 2
    from_shards = tmp_path / "shards.yaml"
    from_shards.write_text(
        (material / "tiny.yaml").read_text().split("sources:")[0] + "sources: [{kind: shards, shards: shards}]\npreview_every: 1\n"
    )
    assert main(["videoanydoor", "train", str(from_shards), "-o", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert "run/checkpoint: step 1, loss" in capsys.readouterr().err
    assert VideoAnydoorPipeline.from_pretrained(tmp_path / "run" / "checkpoint").stride == 4
    preview = np.array(Image.open(tmp_path / "run" / "preview-00000001.png"))
    assert preview.shape[0] == 2 * 2 * 48 and preview.std() > 20  # the truth above what was made, both at the clip's own size


SHARED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from pipeline.training.config import read_config
from pipeline.training.train import train
from tests.pipeline.training.material import use_tiny_scales
use_tiny_scales(dict.__setitem__)
root, output = Path(sys.argv[1]), Path(sys.argv[2])
import torch.distributed as dist
for name in sys.argv[3:]:
    summary = train(read_config(root / f"{name}.yaml"), root, output / name, device="cpu")
    print("SUMMARY", name, dist.get_rank(), summary.num_processes, summary.wrapper, f"{summary.loss:.6f}")
dist.destroy_process_group()
"""


def run_shared(root: Path, output: Path, *configs: str) -> list[list[str]]:
    """The words after SUMMARY of two processes that train one configuration after the other."""
    script = root / "shared.py"
    script.write_text(SHARED)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, str(script), str(root), str(output), *configs], env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("SUMMARY")]


def test_two_processes_learn_what_one_does(material, tmp_path) -> None:
    wrappers = {"ddp": "DistributedDataParallel", "fsdp": "FSDPLearner"}
    alone = train(tiny_config(material, steps=2, batch_size=2), material, tmp_path / "one", device="cpu")
    assert (alone.num_processes, alone.wrapper) == (1, "Learner")
    for parallel in wrappers:
        tiny_config(material, steps=2, batch_size=1, parallel=parallel)
        (material / "tiny.yaml").rename(material / f"{parallel}.yaml")
    shared = run_shared(material, tmp_path / "two", *wrappers)
    expected = [[parallel, str(rank), "2", wrapper] for parallel, wrapper in wrappers.items() for rank in (0, 1)]
    assert sorted(row[:4] for row in shared) == expected
    one = weights_of(tmp_path / "one")
    for parallel in wrappers:
        two = weights_of(tmp_path / "two" / parallel)
        assert one.keys() == two.keys()
        worst = max(float((one[key] - two[key]).abs().max()) for key in one)
        assert worst < 2e-4, worst  # Adam divides by the gradient's size: rounding shows where gradients are all but 0
    for row in shared:
        assert alone.loss == pytest.approx(float(row[4]), rel=1e-4)
