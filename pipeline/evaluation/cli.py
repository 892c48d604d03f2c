"""``python -m pipeline evaluate``. Importing this loads nothing heavy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..console import say
from ..engines import Engine
from ..errors import UserError

BuildEngine = Callable[..., Engine]


def add_commands(subparsers: Any, builders: Mapping[str, BuildEngine]) -> None:
    """Add ``evaluate``. ``builders`` make the engines by name, given device, folder of checkpoints and whether to compile."""
    command = subparsers.add_parser(
        "evaluate",
        help="score engines by putting things back where they were",
        description="Take the masked thing out of every clip of a folder, put it back by its own motion, and compare with the "
        "original. A mask lies beside its clip: NAME.mask.mkv, as 'segment' writes it.",
    )
    command.set_defaults(command=lambda options: _evaluate(options, builders))
    command.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="clips with masks beside them")
    command.add_argument("-o", "--output", metavar="DIR", type=Path, help="table, page, side-by-side videos and rating page")
    command.add_argument("--engine", action="append", choices=tuple(builders), help="which engine; may be given again")
    command.add_argument("--checkpoint", metavar="DIR", type=Path, help="VideoAnydoor's checkpoint")
    command.add_argument("--device", default="auto", metavar="DEVICE", help="where engines run (default: auto)")
    command.add_argument("--frames", type=int, default=32, metavar="N", help="most frames of a clip (%(default)s)")
    command.add_argument("--steps", type=int, default=25, metavar="N", help="denoising steps (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="for engines that draw noise (%(default)s)")
    command.add_argument("--encoders", metavar="DIR", type=Path, help="folder with weights for CLIP and DINO scores")
    command.add_argument(
        "--votes", metavar="FILE", type=Path, nargs="+", help="count files that the rating page saved, with -o DIR"
    )


def _evaluate(options: argparse.Namespace, builders: Mapping[str, BuildEngine]) -> None:
    if options.votes:
        _count_votes(options)
        return
    if options.folder is None or not options.folder.is_dir():
        raise UserError("Give a folder of clips with masks beside them (NAME.mask.mkv).")
    if options.frames < 2:
        raise UserError("--frames must be at least 2: one frame has no motion.")
    names = tuple(dict.fromkeys(options.engine or ("composite",)))
    checkpoint = options.checkpoint
    if "videoanydoor" in names and (checkpoint is None or not (checkpoint / "model_index.json").is_file()):
        raise UserError("VideoAnydoor needs a checkpoint; name its folder with --checkpoint.")
    from ..masks import find_masked_videos

    pairs = find_masked_videos(options.folder)  # before anything heavy is loaded
    from ..processes import own_device
    from ..types import SamplingConfig
    from .encoders import open_encoders
    from .evaluate import evaluate
    from .report import to_markdown

    engines = {
        name: builders[name](
            own_device(options.device) if name == "videoanydoor" else "auto",
            checkpoint.absolute().parent if name == "videoanydoor" else None,
            False,
        )
        for name in names
    }
    samplings = {
        name: SamplingConfig(
            name=name,
            seed=options.seed,
            num_inference_steps=options.steps,
            checkpoint=checkpoint.name if name == "videoanydoor" else None,
        )
        for name in names
    }
    for name in names:
        without = getattr(engines[name], "without_paste_back", None)
        if without is not None:  # what it has sampled is kept, so that this costs no second run
            engines[f"{name}-window"], samplings[f"{name}-window"] = without(), samplings[name]
    encoders, missing = open_encoders(options.encoders)
    results = evaluate(
        pairs,
        engines,
        samplings,
        options.output,
        num_frames=options.frames,
        encoders=encoders,
        notes=[*(f"{each.name}-Score by {each.backbone}." for each in encoders), *missing],
        tell=say,
    )
    sys.stdout.write(to_markdown(results))
    for sentence in missing:
        say(f"note: {sentence}")


def _count_votes(options: argparse.Namespace) -> None:
    from .report import count_votes, votes_to_markdown

    if options.output is None:
        raise UserError("Name the folder of the rating page with -o: it says which video is whose.")
    try:
        key = json.loads((options.output / "rating-key.json").read_text(encoding="utf-8"))
        files = [json.loads(path.read_text(encoding="utf-8")) for path in options.votes]
        sys.stdout.write(votes_to_markdown(count_votes(key, files)))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"The votes cannot be counted: {str(error).splitlines()[0]}.") from error
