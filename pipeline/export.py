"""The export pack: one zip with everything that a finished result is made of, for other programs.

======================  =============================================================================================
``result.mp4``          the result as it was rendered
``result-lossless.mkv`` the same without loss (FFV1, the source's own samples where nothing was touched)
``layer.mov``           what was laid over the source: ProRes 4444 with straight alpha
``matte.mkv``           how much of each pixel that covers: 8 bit grey without loss
``boxes.json``          every layer's box keys as the project writes them, with the surface they are tied to, and one box for
                        every frame as it is seen there, 0..1 of the picture
``trajectories.json``   the same for its trajectories
``layer-1-boxes.csv``   one row per frame, in pixels of the clip; likewise ``layer-1-trajectories.csv``, and for every layer
``project.json``        the project file
``parts.json``          for a result of several parts: which frames come from which project
======================  =============================================================================================
"""

from __future__ import annotations

import csv
import errno
import io
import json
import secrets
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from .engines import Engine, Report
from .errors import UserError
from .media.matte import MatteWriter
from .motion import carry_boxes, carry_points
from .render import render
from .splice import Part, SplicedEngine, whole_request
from .types import Clip, Frame, InsertionRequest, Layer, Progress

Document = dict[str, Any]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK_BYTES = 4 << 20


def write_pack(
    parts: Sequence[Part], documents: Sequence[Mapping[str, Any]], project: Mapping[str, Any], result: Path, output: Path
) -> Generator[Progress, None, None]:
    """Write the pack of ``result``, which is made of ``parts``, to ``output`` (``.zip``).

    ``documents`` are the parts' projects as a result carries them (``Project.for_result``), so that their layers are those of the
    requests; ``project`` is the one to go on with. A generator, like ``render``: closing it stops the work and leaves nothing
    behind. Raises ``UserError`` for a full disk and for what a render refuses.
    """
    request = whole_request(parts)
    with tempfile.TemporaryDirectory(prefix="pack-", dir=output.parent) as name:
        folder = Path(name)
        with MatteWriter(folder / "matte.mkv", request.clip, request.frame_range) as matte:
            engine = _Tapped(SplicedEngine(parts), matte)
            yield from render(request, engine, folder / "result-lossless.mkv", lossless=True, layer_alpha_path=folder / "layer.mov")
        texts = {**motion_texts([engine.as_made(part) for part in parts], documents), **_project_texts(parts, documents, project)}
        files = {"result.mp4": result, **{each.name: each for each in sorted(folder.iterdir())}}
        yield from _write_zip(output, files, texts)


class _Tapped:
    """An engine whose frames are also handed to one more writer, and that remembers what layers they were made of."""

    def __init__(self, engine: Engine, writer: MatteWriter) -> None:
        self._engine, self._writer = engine, writer
        self._layers: dict[int, tuple[Layer, ...]] = {}

    def as_made(self, part: Part) -> Part:
        """The part with its layers as its frames were made of them: masks found, surfaces followed."""
        layers = self._layers[part.frame_range[0]] or part.request.layers
        return replace(part, request=replace(part.request, layers=layers))

    def run(self, request: InsertionRequest, report: Report, warn: Callable[[str], None]) -> Iterator[Frame]:
        with closing(cast("Generator[Frame, None, None]", self._engine.run(request, report, warn))) as frames:
            for frame in frames:
                self._writer.write(frame)
                self._layers[frame.frame_index] = frame.layers
                yield frame


def _write_zip(output: Path, files: Mapping[str, Path], texts: Mapping[str, str]) -> Generator[Progress, None, None]:
    """Videos are stored, texts deflated; equal contents give equal bytes."""
    total = 1 + sum(path.stat().st_size for path in files.values()) // _CHUNK_BYTES
    unfinished = output.with_name(f".{secrets.token_hex(6)}.part")
    step = 0
    try:
        with zipfile.ZipFile(unfinished, "w") as pack:
            for name, path in files.items():
                with path.open("rb") as source, pack.open(zipfile.ZipInfo(name, _EPOCH), "w", force_zip64=True) as target:
                    while chunk := source.read(_CHUNK_BYTES):
                        target.write(chunk)
                        step = min(step + 1, total)
                        yield Progress("packing", step, total)
            for name, text in texts.items():
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                pack.writestr(entry, text)
        unfinished.replace(output)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError("The pack could not be written because the disk is full; free some space and try again.") from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    yield Progress("packing", total, total)


# -- motion -----------------------------------------------------------------------------------------------------------------------


def motion_texts(parts: Sequence[Part], documents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Boxes and trajectories of every layer: file names and their texts, JSON and CSV. CSV files have exactly one row per frame of
    the result; cells are empty where a layer or a trajectory is not there. Layers that follow a surface must know its motion."""
    count = max(len(part.request.layers) for part in parts)
    layers = [_LayerTable(parts, documents, index) for index in range(count)]
    texts = {
        "boxes.json": _motion_json(parts, [each.boxes() for each in layers]),
        "trajectories.json": _motion_json(parts, [each.trajectories() for each in layers]),
    }
    for number, each in enumerate(layers, start=1):
        texts[f"layer-{number}-boxes.csv"] = each.boxes_csv()
        texts[f"layer-{number}-trajectories.csv"] = each.trajectories_csv()
    return texts


class _LayerTable:
    """One layer's motion over all parts; ``index`` counts the layers that were rendered."""

    def __init__(self, parts: Sequence[Part], documents: Sequence[Mapping[str, Any]], index: int) -> None:
        self._clip = parts[0].request.clip
        self._start = parts[0].frame_range[0]
        self._rows: list[tuple[int, Layer | None]] = []
        self._written: list[tuple[tuple[int, int], Mapping[str, Any]]] = []
        self._points: dict[str, None] = {}
        for part, document in zip(parts, documents, strict=True):
            layer = _on_screen(part.request.layers[index]) if index < len(part.request.layers) else None
            self._rows += [(frame, layer) for frame in range(*part.frame_range)]
            if layer is not None:
                self._written.append((part.frame_range, document["layers"][index]))
                self._points |= dict.fromkeys(layer.trajectories.names if layer.trajectories is not None else ())
        self.name = self._written[-1][1]["name"]

    def boxes(self) -> Document:
        width, height = self._clip.width, self._clip.height
        dense = []
        for frame, layer in self._rows:
            row = None
            if layer is not None and layer.boxes is not None:
                x0, y0, x1, y1 = layer.boxes.boxes_px[frame].tolist()
                box = [x0 / width, y0 / height, x1 / width, y1 / height]
                row = {
                    "box": box,
                    "rotation_deg": float(layer.boxes.rotation_deg[frame]),
                    "visible": bool(layer.boxes.is_visible[frame]),
                }
            dense.append({"frame": frame, **(row or {"box": None})})
        keys = [
            {"range": list(span), "boxes": layer["boxes"], **_followed(layer)}
            for span, layer in self._written
            if layer.get("boxes")
        ]
        return {"name": self.name, "keys": keys, "dense": dense}

    def trajectories(self) -> Document:
        dense = {point: [self._point(frame, layer, point) for frame, layer in self._rows] for point in self._points}
        keys = [
            {
                "range": list(span),
                "trajectories": layer["trajectories"],
                "points": layer["references"][0].get("points", {}),
                **_followed(layer),
            }
            for span, layer in self._written
            if layer.get("trajectories")
        ]
        return {"name": self.name, "keys": keys, "dense": dense}

    def _point(self, frame: int, layer: Layer | None, name: str) -> Document:
        found = None if layer is None or layer.trajectories is None else layer.trajectories
        if found is None or name not in found.names:
            return {"frame": frame, "at": None}
        number = found.names.index(name)
        x, y = found.points_px[number, frame].tolist()
        at = [x / self._clip.width, y / self._clip.height]
        return {"frame": frame, "at": at, "visible": bool(found.is_visible[number, frame])}

    def boxes_csv(self) -> str:
        header = ["frame", "time_s", "x0_px", "y0_px", "x1_px", "y1_px", "rotation_deg", "visible"]
        rows = []
        for frame, layer in self._rows:
            cells = [""] * 6
            if layer is not None and layer.boxes is not None:
                values = [*layer.boxes.boxes_px[frame].tolist(), float(layer.boxes.rotation_deg[frame])]
                cells = [*(f"{value:.4f}" for value in values), str(int(layer.boxes.is_visible[frame]))]
            rows.append([str(frame), self._time(frame), *cells])
        return _csv_text(header, rows)

    def trajectories_csv(self) -> str:
        """Three columns for each trajectory, named after the reference's point that it moves."""
        header = ["frame", "time_s"]
        for point in self._points:
            header += [f"{point}_x_px", f"{point}_y_px", f"{point}_visible"]
        rows = []
        for frame, layer in self._rows:
            cells: list[str] = []
            for name in self._points:
                row = self._point(frame, layer, name)
                if row["at"] is None:
                    cells += [""] * 3
                else:
                    x, y = row["at"]
                    cells += [f"{x * self._clip.width:.4f}", f"{y * self._clip.height:.4f}", str(int(row["visible"]))]
            rows.append([str(frame), self._time(frame), *cells])
        return _csv_text(header, rows)

    def _time(self, frame: int) -> str:
        ticks = int(self._clip.timestamps[frame] - self._clip.timestamps[self._start])
        return f"{float(ticks * self._clip.time_base):.6f}"


def _on_screen(layer: Layer) -> Layer:
    """The layer with its boxes and trajectories where the picture shows them, whatever surface they are tied to."""
    boxes, paths, surface = layer.boxes, layer.trajectories, layer.surface
    if surface is None:
        return layer
    moved = None if paths is None else replace(paths, points_px=carry_points(surface, paths.points_px).astype(np.float32))
    return replace(layer, boxes=None if boxes is None else carry_boxes(surface, boxes), trajectories=moved, surface=None)


def _followed(layer: Mapping[str, Any]) -> Document:
    """What the keys of a layer of a document are tied to, if anything."""
    return {"follow": layer["follow"]} if layer.get("follow") else {}


def _motion_json(parts: Sequence[Part], layers: list[Document]) -> str:
    clip: Clip = parts[0].request.clip
    document = {
        "clip": {
            "sha256": clip.sha256,
            "num_frames": clip.num_frames,
            "width": clip.width,
            "height": clip.height,
            "fps": str(clip.fps),
        },
        "range": [parts[0].frame_range[0], parts[-1].frame_range[1]],
        "layers": layers,
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)


def _csv_text(header: list[str], rows: list[list[str]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_plain(cell) for cell in header])
    writer.writerows(rows)
    return buffer.getvalue()


def _plain(cell: str) -> str:
    """A name that a spreadsheet will not take for a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" else cell


def _project_texts(parts: Sequence[Part], documents: Sequence[Mapping[str, Any]], project: Mapping[str, Any]) -> dict[str, str]:
    texts = {"project.json": json.dumps(project, ensure_ascii=False, indent=1)}
    if len(parts) > 1:
        pieces = [{"range": list(part.frame_range), "project": each} for part, each in zip(parts, documents, strict=True)]
        texts["parts.json"] = json.dumps(pieces, ensure_ascii=False, indent=1)
    return texts
