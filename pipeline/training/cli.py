"""``python -m pipeline videoanydoor prepare`` and ``train``. Importing this loads nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import say

CONFIGS = Path(__file__).resolve().parent / "configs"


def add_commands(subparsers: Any) -> None:
    """Add both commands to those of ``videoanydoor``; each sets ``command`` to what runs it."""
    train = subparsers.add_parser(
        "train",
        help="train as a configuration says",
        description="Train as a configuration says; the same command goes on where an earlier one stopped.",
    )
    train.set_defaults(command=_train)
    train.add_argument("config", metavar="CONFIG.yaml", type=Path, help=f"a configuration; examples lie in {CONFIGS.name}/")
    train.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="states, log and the finished checkpoint")
    train.add_argument("--data", metavar="DIR", type=Path, help="where the configuration's paths start (default: its own folder)")
    train.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu leaves a GPU alone")
    train.add_argument("--seconds", metavar="S", type=float, help="stop after this long; the same command goes on")
    train.add_argument("--seed", type=int, help="instead of the configuration's")
    train.add_argument("--steps", type=int, help="instead of the configuration's")

    prepare = subparsers.add_parser(
        "prepare",
        help="prepare training clips once, in shards",
        description="Draw training clips from a configuration's sources into shards; --preview shows what training sees.",
    )
    prepare.set_defaults(command=_prepare)
    prepare.add_argument("config", metavar="CONFIG.yaml", type=Path)
    prepare.add_argument("-o", "--output", metavar="DIR", type=Path, help="the folder of the shards; must hold none")
    prepare.add_argument("--data", metavar="DIR", type=Path, help="where the configuration's paths start (default: its own folder)")
    prepare.add_argument("--count", type=int, default=1000, help="how many clips (%(default)s)")
    prepare.add_argument("--seed", type=int, default=0, help="which clips (%(default)s)")
    prepare.add_argument("--preview", metavar="OUT.png", type=Path, help="a contact sheet: truth, mask, trajectory maps, content")


def _train(options: argparse.Namespace) -> None:
    from ..videoanydoor import check_installed

    check_installed()
    from .config import read_config
    from .train import CHECKPOINT, train

    given = {"seed": options.seed, "steps": options.steps}
    config = read_config(options.config, {key: value for key, value in given.items() if value is not None})
    root = options.data or options.config.absolute().parent
    summary = train(config, root, options.output, device=options.device, max_seconds=options.seconds, tell=say)
    say(
        f"{options.output.name}/{CHECKPOINT}: step {summary.step}, loss {summary.loss:.4f}, {summary.samples} samples in "
        f"{summary.seconds:.0f} s on {summary.num_processes} process{'es' if summary.num_processes > 1 else ''}"
    )


def _prepare(options: argparse.Namespace) -> None:
    from ..errors import UserError
    from ..videoanydoor import check_installed

    check_installed()
    from .config import read_config
    from .prepare import prepare

    if options.output is None and options.preview is None:
        raise UserError("Give the folder of the shards (-o), or a picture to look at (--preview).")
    root = options.data or options.config.absolute().parent
    count = prepare(read_config(options.config), root, options.output, options.count, options.seed, options.preview)
    if options.output is not None:
        say(f"{options.output.name}: {count} clips")
    if options.preview is not None:
        say(f"{options.preview.name}: what training sees")
