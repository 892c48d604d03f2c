"""Who may import whom. The rules are a table; the last tests prove that each rule can fail and that nothing was skipped."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIGHT_NAMES = ("types", "geometry", "motion", "media", "project", "engines", "errors", "documents", "masks")
LIGHT_FLOOR = {f"pipeline.{name}" for name in LIGHT_NAMES}
LIGHT_LIBRARIES = {"numpy", "scipy", "av"}
COMPONENTS = ("editor.canvas", "editor.result")
PAGE_ROOMS = ("editor.layout", "editor.handlers", "editor.uploads")
EDITOR_ORDER = ["app", "editor.layout", "editor.handlers", ("editor.session", "editor.storage", "editor.takes", *COMPONENTS)]


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    at_top: bool


def imports_of(module: str, is_package: bool, source: str) -> list[Import]:
    """Every import of a module, relative ones resolved; imports under ``if TYPE_CHECKING`` do not run and do not count."""
    tree = ast.parse(source)
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            names = [f"{stem}.{alias.name}" for alias in node.names]
        found += [Import(module, name, id(node) not in inner) for name in names]
    return found


def is_under(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def broken_rule(found: Import) -> str | None:
    """The rule that an import breaks, or None."""
    importer, imported = found.importer, found.imported
    top = imported.split(".")[0]
    if is_under(importer, "pipeline") and top in ("editor", "gradio", "app"):
        return "pipeline knows nothing of the page"
    if top in ("gradio", "gradio_client") and not is_under(importer, "app", *PAGE_ROOMS, *COMPONENTS):
        return "gradio appears in app, layout, handlers, uploads and the components alone"
    if is_under(importer, "editor") and top in ("torch", "diffusers", "transformers", "cv2", "pymatting"):
        return "the editor has no models and no arithmetic"
    if (importer, imported.rpartition(".")[0]) in (
        ("pipeline.types", "pipeline.geometry"),
        ("pipeline.geometry", "pipeline.types"),
    ):
        return "types and geometry do not know each other"
    floor = next((name for name in LIGHT_FLOOR if is_under(importer, name)), None)
    if floor and found.at_top:
        own = is_under(imported, *LIGHT_FLOOR)
        if not (own or top in sys.stdlib_module_names or top in LIGHT_LIBRARIES):
            return "a light-floor module imports numpy, scipy and PyAV at its top, nothing heavier"
    rank = {name: level for level, names in enumerate(EDITOR_ORDER) for name in ([names] if isinstance(names, str) else names)}
    low = next((level for name, level in rank.items() if is_under(importer, name)), None)
    high = next((level for name, level in rank.items() if is_under(imported, name)), None)
    if low is not None and high is not None and high < low:
        return "app → layout → handlers → session, storage, takes, components"
    is_kept = is_under(importer, "editor.session", "editor.storage", "editor.takes")
    if is_kept and top == "pipeline" and not is_under(imported, *LIGHT_FLOOR):
        return "what the editor keeps stands on the light floor alone"
    return None


def all_imports() -> list[Import]:
    found = []
    for path in [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "editor").rglob("*.py")), *sorted((ROOT / "pipeline").rglob("*.py"))]:
        relative = path.relative_to(ROOT).with_suffix("")
        is_package = relative.name == "__init__"
        module = ".".join(relative.parts[:-1] if is_package else relative.parts)
        found += imports_of(module, is_package, path.read_text())
    return found


def test_import_rules_hold():
    found = all_imports()
    assert len({one.importer for one in found}) >= 15 and len(found) >= 150, "the sweep must have seen the whole house"
    broken = [f"{one.importer} imports {one.imported}: {rule}" for one in found if (rule := broken_rule(one))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.cli", "import editor.session"),
        ("pipeline.composite.engine", "def f():\n    import gradio"),
        ("editor.session", "from gradio import State"),
        ("editor.handlers", "def f():\n    import torch"),
        ("pipeline.types", "from .geometry import fit_similarity"),
        ("pipeline.geometry", "from .types import Clip"),
        ("pipeline.media.reader", "import cv2"),
        ("pipeline.project", "from .matting import cut_out"),
        ("editor.storage", "from editor.handlers import insert"),
        ("editor.session", "from pipeline.composite import CompositeEngine"),
    ],
)
def test_each_rule_can_fail(module, source):
    assert [broken_rule(one) for one in imports_of(module, False, source)] != [None]


def test_what_is_allowed_is_not_refused():
    assert broken_rule(*imports_of("pipeline.project", False, "def f():\n    from .matting import cut_out")) is None
    assert broken_rule(*imports_of("editor.handlers", False, "import gradio")) is None


def test_importing_the_light_floor_loads_nothing_heavy():
    modules = sorted(LIGHT_FLOOR)
    heavy = ["cv2", "torch", "gradio", "pymatting", "PIL", "jsonschema"]
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += f"print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
