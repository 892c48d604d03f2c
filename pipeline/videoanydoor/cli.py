"""``python -m pipeline videoanydoor``: commands around the checkpoints. Importing this loads nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import say
from . import check_installed

SCALES = ("sd15", "sdxl", "nano", "pico")


def add_commands(subparsers: Any) -> Any:
    """Add ``videoanydoor`` with its own commands to the command line's subparsers; each sets ``command`` to what runs it. Returns
    its own subparsers, for those who add to them."""
    room = subparsers.add_parser("videoanydoor", help="make VideoAnydoor checkpoints", description="VideoAnydoor checkpoints.")
    commands = room.add_subparsers(title="commands", metavar="COMMAND", required=True)

    init = commands.add_parser(
        "init",
        help="assemble a starting checkpoint from published weights",
        description="Assemble a starting checkpoint: it paints videos in as its parts do, and is the point from which to train.",
    )
    init.set_defaults(command=_init)
    init.add_argument(
        "--scale", choices=SCALES, required=True, help="sd15 and sdxl from published weights, nano and pico from random ones"
    )
    init.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the checkpoint's folder; must not exist")
    where = "a local folder, or REPOSITORY@COMMIT"
    init.add_argument("--inpainting", metavar="SOURCE", help=f"the 2D in-painting model (unet/, vae/): {where}")
    init.add_argument("--motion-adapter", metavar="SOURCE", help=f"the motion adapter: {where}")
    init.add_argument("--backbone", metavar="SOURCE", help=f"DINOv2: {where}")
    init.add_argument(
        "--content",
        choices=("reference", "warped"),
        help="what the content encoder sees: the reference with its key-points (the paper's; default of sd15 and sdxl), or the "
        "reference warped to every frame (default of nano and pico)",
    )
    init.add_argument(
        "--identity",
        choices=("instead", "beside"),
        default="instead",
        help="identity tokens instead of text (the paper's), or beside the empty prompt in an attention of their own",
    )
    init.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the saved weights"
    )
    init.add_argument("--seed", type=int, default=0, help="for the parts that start random")
    return commands


def _init(options: argparse.Namespace) -> None:
    check_installed()
    from .checkpoints import init_checkpoint

    given = {"inpainting": options.inpainting, "motion_adapter": options.motion_adapter, "backbone": options.backbone}
    counts = init_checkpoint(
        options.scale,
        options.output,
        given,
        content=options.content,
        dtype=options.dtype,
        seed=options.seed,
        is_beside_text=options.identity == "beside",
    )
    for name, count in counts.items():
        say(f"{name:>14} {count / 1e6:10.2f} M parameters")
    say(f"{options.output.name}: a starting checkpoint; it inserts nothing before it is trained.")
