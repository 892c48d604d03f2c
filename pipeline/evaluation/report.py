"""A benchmark's figures as a table (Markdown, JSON) and as a page: per-clip curves, originals beside results, blind rating.

The table has the shape of the paper's Table 2, with the scores beside it that have a truth here. ``-`` stands for a score that is
not defined or whose network is not there.
"""

from __future__ import annotations

import html
import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .reinsertion import Scores
from .tapvid import mean_of, mean_scores

QUESTIONS = {
    "quality": "the object belongs to the scene: light, edges, nothing broken",
    "fidelity": "it is the object of the picture",
    "smoothness": "it moves steadily, without flicker",
    "diversity": "it turns, bends and changes with the scene, more than a pasted picture does",
}
"""What the paper's user study asks, each from 1 to 4, and what is meant."""

COLUMNS = (
    ("PSNR", "dB outside the box"),
    ("CLIP", "CLIP-Score"),
    ("DINO", "DINO-Score"),
    ("AJ", "average Jaccard"),
    ("δ", "share of points within 1 to 16 px"),
    ("OA", "occlusion accuracy"),
    ("object", "dB inside the object's mask"),
    ("SSIM", "inside the object's mask"),
    ("flicker", "8-bit levels"),
    ("box", "overlap with the effective box"),
    ("s/frame", "seconds per frame"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One engine on one clip. ``video``: the side-by-side file beside the page, ``reference``: the picture of what was inserted, if
    there are any."""

    clip: str
    engine: str
    frames: int
    scores: Scores
    video: str | None = None
    reference: str | None = None


def mean_result(engine: str, results: Sequence[Result]) -> Result:
    """The mean of an engine's scores over clips, each score over the clips where it is defined."""
    scores = [each.scores for each in results]

    def mean(name: str) -> float:
        return mean_of([getattr(each, name) for each in scores])

    names = sorted({name for each in scores for name in each.learned})
    learned = {name: mean_of([each.learned.get(name, math.nan) for each in scores]) for name in names}
    return Result(
        "mean",
        engine,
        sum(each.frames for each in results),
        Scores(
            psnr_unedited=mean("psnr_unedited"),
            psnr_untouched=mean("psnr_untouched"),
            psnr_object=mean("psnr_object"),
            ssim_object=mean("ssim_object"),
            flicker=mean("flicker"),
            box_adherence=mean("box_adherence"),
            tracks=mean_scores([each.tracks for each in scores]),
            seconds_per_frame=mean("seconds_per_frame"),
            learned=learned,
        ),
    )


def group_by_engine(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by engine, in the order in which the engines first appear."""
    groups: dict[str, list[Result]] = {}
    for each in results:
        groups.setdefault(each.engine, []).append(each)
    return groups


def _cells(scores: Scores) -> list[str]:
    values = [
        (scores.psnr_unedited, 1),
        (scores.learned.get("CLIP", math.nan), 1),
        (scores.learned.get("DINO", math.nan), 1),
        (scores.tracks.average_jaccard, 1),
        (scores.tracks.delta_avg, 1),
        (scores.tracks.occlusion_accuracy, 1),
        (scores.psnr_object, 1),
        (scores.ssim_object, 3),
        (scores.flicker, 2),
        (scores.box_adherence, 2),
        (scores.seconds_per_frame, 2),
    ]
    return ["-" if math.isnan(value) else f"{value:.{digits}f}" for value, digits in values]


def _rows(results: Sequence[Result]) -> list[list[str]]:
    rows = []
    for engine, group in group_by_engine(results).items():
        shown = [*group, mean_result(engine, group)] if len(group) > 1 else group
        rows += [[engine, each.clip, str(each.frames), *_cells(each.scores)] for each in shown]
    return rows


def to_markdown(results: Sequence[Result], notes: Sequence[str] = ()) -> str:
    """The table, and what was left out and why."""
    head = ["engine", "clip", "frames", *(name for name, _ in COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | ---: |" + " ---: |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(results)]
    return "\n".join([*lines, *([""] + [f"{note}" for note in notes] if notes else [])]) + "\n"


def to_document(results: Sequence[Result], notes: Sequence[str] = ()) -> dict[str, object]:
    """Plain JSON values; what is not defined is null."""
    return {"results": [_without_nan(asdict(each)) for each in results], "notes": list(notes)}


def _without_nan(value: object) -> object:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


# -- the page ---------------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
@media (max-width: 40rem) { .clip { display: block; } }
h2 { margin: 2.5rem 0 .6rem; font-size: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
tr.mean td { font-weight: 600; border-bottom-width: 2px; }
.scroll { overflow-x: auto; }
.clip { display: flex; gap: 1rem; align-items: start; }
.clip > div { flex: 1; min-width: 0; }
.reference { flex: 0 0 9rem; }
.reference img { max-width: 9rem; border-radius: .5rem;
  background: repeating-conic-gradient(#ccc 0 25%, #fff 0 50%) 0 0 / 16px 16px; }
video { width: 100%; border-radius: .5rem; background: #000; display: block; }
figure { margin: 0 0 1rem; }
figcaption { margin-bottom: .4rem; }
.curves { width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: currentColor; }
.curves path { fill: none; stroke: currentColor; opacity: .2; }
.curves polyline { fill: none; stroke-width: 1.75; stroke-linejoin: round; }
fieldset { border: 0; padding: 0; margin: .6rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: center; }
legend { padding: 0; }
label { min-height: 32px; display: inline-flex; align-items: center; gap: .25rem; }
button { font: inherit; min-height: 40px; padding: 0 1rem; }
"""

_STROKES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours that stay apart for people who see few of them (Okabe and Ito)."""


def write_page(folder: Path, results: Sequence[Result], notes: Sequence[str] = ()) -> Path:
    """``index.html``: the table, and for every clip the reference, every engine's video, and their curves in one drawing."""
    head = "".join(f'<th title="{html.escape(what)}">{html.escape(name)}</th>' for name, what in COLUMNS)
    rows = "".join(
        f"<tr{' class=mean' if row[1] == 'mean' else ''}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _rows(results)
    )
    names = dict.fromkeys(each.clip for each in results)
    clips = "".join(_clip_section([each for each in results if each.clip == name]) for name in names)
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    body = (
        f'<h1>Re-insertion</h1><div class="scroll"><table><thead><tr><th>engine</th><th>clip</th><th>frames</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{said}{clips}"
    )
    return _write_html(folder / "index.html", "Re-insertion", body)


def _clip_section(results: Sequence[Result]) -> str:
    """One clip: what was inserted, what every engine made of it, how good that is frame by frame."""
    films = "".join(
        f"<figure><figcaption>original, {html.escape(each.engine)}</figcaption>{_film(each.video)}</figure>" for each in results
    )
    return _section(results[0], "", films + _curves(results))


def _section(result: Result, attributes: str, right: str) -> str:
    """The clip's name, the reference on the left, and ``right``."""
    name = html.escape(result.clip)
    return f'<section{attributes}><h2>{name}</h2><div class="clip">{_reference(result)}<div>{right}</div></div></section>'


def _reference(result: Result) -> str:
    if result.reference is None:
        return ""
    return (
        f'<figure class="reference"><figcaption>reference</figcaption><img src="{html.escape(result.reference)}" alt="what was '
        f'inserted"></figure>'
    )


def _film(video: str | None) -> str:
    return f'<video src="{html.escape(video)}" controls loop muted playsinline preload="auto"></video>' if video else ""


def _curves(results: Sequence[Result]) -> str:
    """The object's PSNR over the frames as an inline drawing, a line for every engine."""
    series = {each.engine: np.asarray(each.scores.series, np.float64) for each in results}
    values = np.concatenate([*series.values(), np.zeros(0)])
    values = values[np.isfinite(values)]
    num_frames = max(len(each) for each in series.values())
    if len(values) < 2 or num_frames < 2:
        return ""
    low, high = math.floor(values.min()), max(math.ceil(values.max()), math.floor(values.min()) + 1)

    def place(frame: float, value: float) -> tuple[float, float]:
        return 30 + 560 * frame / (num_frames - 1), 122 - 108 * (value - low) / (high - low)

    marks = []
    for level in (low, (low + high) / 2, high):
        y = place(0, level)[1]
        marks.append(f'<path d="M30 {y:.1f}H590"/><text x="25" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>')
    marks += [
        f'<text x="{place(frame, low)[0]:.1f}" y="137" text-anchor="middle">{frame}</text>'
        for frame in (0, num_frames // 2, num_frames - 1)
    ]
    for number, (engine, line) in enumerate(series.items()):
        points = " ".join("{:.1f},{:.1f}".format(*place(*each)) for each in enumerate(line) if math.isfinite(each[1]))
        color = _STROKES[number % len(_STROKES)]
        marks.append(f'<polyline points="{points}" stroke="{color}"/>')
        if len(series) > 1:
            marks.append(f'<text x="{40 + 130 * number}" y="10" fill="{color}">{html.escape(engine)}</text>')
    return (
        f'<figure><figcaption>PSNR inside the object, dB, frame by frame</figcaption><svg class="curves" viewBox="0 0 600 140" '
        f'role="img" aria-label="from {values.min():.1f} to {values.max():.1f} dB">{"".join(marks)}</svg></figure>'
    )


_VOTING = """
const form = document.querySelector("form");
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const votes = [...document.querySelectorAll("section[data-key]")].map((section) => {
    const marks = {};
    for (const input of section.querySelectorAll("input:checked")) marks[input.dataset.question] = Number(input.value);
    return { key: section.dataset.key, marks };
  });
  const file = new Blob([JSON.stringify({ version: 1, votes })], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: "votes.json" });
  link.click();
});
"""


def write_rating_page(folder: Path, results: Sequence[Result], seed: int = 0) -> Path:
    """``rating.html``: every video without the engine's name, in an order drawn from ``seed``, to be rated from 1 to 4 as in the
    paper's user study; votes are saved as a file, which ``count_votes`` counts. ``rating-key.json`` says which is which; the videos
    are copied under names that do not."""
    shown = [each for each in results if each.video]
    random.Random(seed).shuffle(shown)
    key = {f"v{number:03d}": {"clip": each.clip, "engine": each.engine} for number, each in enumerate(shown)}
    sections = []
    for name, each in zip(key, shown, strict=True):
        shutil.copyfile(folder / str(each.video), folder / f"{name}.mp4")
        questions = "".join(_question(name, question, meaning) for question, meaning in QUESTIONS.items())
        sections.append(_section(each, f' data-key="{name}"', _film(f"{name}.mp4") + questions))
    (folder / "rating-key.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
    body = (
        "<h1>How good is it?</h1><p>Left is the original, right the object put back by a program from one picture of it, the "
        "reference. 1 is the worst mark, 4 the best; what you cannot tell, leave out.</p>"
        f'<form>{"".join(sections)}<button type="submit">Save my votes</button></form><script>{_VOTING}</script>'
    )
    return _write_html(folder / "rating.html", "Rating", body)


def _question(name: str, question: str, meaning: str) -> str:
    marks = "".join(
        f'<label><input type="radio" name="{name}-{question}" data-question="{question}" value="{mark}">{mark}</label>'
        for mark in range(1, 5)
    )
    return f"<fieldset><legend><b>{question}</b>: {meaning}</legend>{marks}</fieldset>"


def _write_html(path: Path, title: str, body: str) -> Path:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )
    path.write_text(text, encoding="utf-8")
    return path


# -- votes ------------------------------------------------------------------------------------------------------------------------


def count_votes(key: Mapping[str, Mapping[str, str]], files: Sequence[Mapping[str, object]]) -> dict[str, dict[str, list[int]]]:
    """Marks by engine and question from the files that the rating page saves. Raises ``ValueError`` for what is not such a file."""
    marks: dict[str, dict[str, list[int]]] = {}
    for number, file in enumerate(files, start=1):
        votes = file.get("votes")
        if not isinstance(votes, list):
            raise ValueError(f"votes file {number} is not one that the rating page saved")
        for vote in votes:
            if not isinstance(vote, Mapping) or vote.get("key") not in key or not isinstance(vote.get("marks"), Mapping):
                raise ValueError(f"votes file {number} belongs to another rating page")
            for question, mark in vote["marks"].items():
                if question not in QUESTIONS or mark not in (1, 2, 3, 4):
                    raise ValueError(f"votes file {number} holds a mark that the rating page does not give")
                engine = key[vote["key"]]["engine"]
                marks.setdefault(engine, {}).setdefault(question, []).append(int(mark))
    return marks


def votes_to_markdown(marks: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    """Means with 95 % confidence intervals (Student's t), and how many votes stand behind them."""
    lines = ["| engine | " + " | ".join(QUESTIONS) + " |", "| --- |" + " ---: |" * len(QUESTIONS)]
    for engine, by_question in marks.items():
        cells = [_interval(by_question.get(question, ())) for question in QUESTIONS]
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[int]) -> str:
    from scipy.stats import t

    if not values:
        return "-"
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.2f} (1)"
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.2f} ± {half:.2f} ({len(values)})"
