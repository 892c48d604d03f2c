"""The table that leads from the paper to the code: every name in it is there."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.serving import ROOT

TEXT = (ROOT / "docs" / "videoanydoor.md").read_text(encoding="utf-8")
ROWS = TEXT[TEXT.index("| paper | says | here |") : TEXT.index("## What the paper leaves open")].splitlines()[2:]
NAMES = [name for row in ROWS if row.startswith("|") for name in re.findall(r"`([^`]+)`", row.split("|")[3])]


def find(name: str) -> object:
    """What a name of the table stands for. Raises when there is no such thing."""
    folder, place = ("pipeline", name.removeprefix("../")) if name.startswith("../") else ("pipeline.videoanydoor", name)
    path = ROOT / folder.replace(".", "/") / place
    if path.suffix in (".py", ".yaml"):
        return path.stat()
    *rooms, last = place.split("/")
    module, *parts = last.split(".")
    found: object = importlib.import_module(".".join((folder, *rooms, module)))
    for part in parts:
        found = getattr(found, part)
    return found


def test_every_name_in_the_table_is_there():
    assert len(NAMES) > 40 and all("." in name or name == "init" for name in NAMES)
    for name in NAMES:
        if name != "init":
            find(name)


@pytest.mark.parametrize("name", ["unet.VideoNet", "../training/losses.weights", "../training/datasets.yaml", "pixels.PixelWarper"])
def test_a_wrong_name_would_be_noticed(name):
    with pytest.raises((AttributeError, ImportError, OSError)):
        find(name)
