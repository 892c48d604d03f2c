"""The command line: the same jobs as on the page, without a browser.

Exit status: 0 done; 2 the input is at fault (one sentence on stderr, nothing left behind); 130 interrupted; 1 anything else.
Progress goes to stderr. This is one of the two places (with ``app.py``) where engines are chosen and the environment is read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .console import say
from .engines import Engine
from .errors import UserError

if TYPE_CHECKING:
    from .model_cache import ModelCaches

DONE, FAILED, INPUT_AT_FAULT, INTERRUPTED = 0, 1, 2, 130


def build_composite(
    device: str, checkpoints: Path | None = None, is_compiled: bool = False, models: ModelCaches | None = None
) -> Engine:
    """The deterministic compositor; it needs no device but the CPU, and no checkpoint."""
    if device not in ("auto", "cpu"):
        raise UserError(f"The composite engine runs on the CPU, not on {device!r}; leave --device out.")
    if is_compiled:
        raise UserError("The composite engine has no networks to compile; leave --compile out.")
    from .composite.engine import CompositeEngine

    return CompositeEngine()


def build_videoanydoor(
    device: str, checkpoints: Path | None, is_compiled: bool = False, models: ModelCaches | None = None
) -> Engine:
    """VideoAnydoor with the checkpoints in a folder; it needs torch. ``models``: loaded models that others use too."""
    from . import videoanydoor
    from .cache import ArtifactCache

    return videoanydoor.build_engine(device, checkpoints, ArtifactCache(cache_folder()), is_compiled, models)


ENGINES: Mapping[str, Callable[..., Engine]] = {
    "composite": build_composite,
    "videoanydoor": build_videoanydoor,
}
"""By name: what builds the engine on a device, given the folder of its checkpoints where it has any, whether to compile it, and the
loaded models of this process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    with _stopped_by_signals():
        try:
            options = _build_parser().parse_args(arguments)
            options.command(options)
        except UserError as error:
            say(f"error: {_one_line(str(error))}")
            return INPUT_AT_FAULT
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
        except MemoryError:
            say("error: there is not enough memory; close other programs or use a smaller clip.")
            return FAILED
        except Exception:  # noqa: BLE001 - the last line of defence: whatever is left goes to the log
            traceback.print_exc()
            say("error: something broke that is not the input's fault; the lines above say where.")
            return FAILED
        return DONE


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and a request to terminate stop the work the same way; while that cleans up, further ones are ignored."""
    watched = (signal.SIGINT, signal.SIGTERM)

    def interrupt(signal_number: int, frame: object) -> NoReturn:
        for each in watched:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(each, interrupt) for each in watched]
    try:
        yield
    finally:
        for each, handler in zip(watched, before, strict=True):
            signal.signal(each, handler)


class _Parser(argparse.ArgumentParser):
    """One sentence instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help.")


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m pipeline", description="Put an object into a video, moving the way you drew it.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    from .evaluation.cli import add_commands as add_evaluation_commands
    from .render_cli import add_commands as add_render_commands
    from .segmentation.cli import add_commands as add_segmentation_commands
    from .tracking_cli import add_commands as add_tracking_commands
    from .training.cli import add_commands as add_training_commands
    from .videoanydoor.cli import add_commands

    add_render_commands(commands, ENGINES)
    add_training_commands(add_commands(commands))
    add_evaluation_commands(commands, ENGINES)
    add_segmentation_commands(commands)
    add_tracking_commands(commands)

    command = commands.add_parser(
        "warm-up", help="prepare the first cut-out", description="Compile what automatic cut-outs need; takes a minute, once."
    )
    command.set_defaults(command=_warm_up)
    return parser


# -- places ----------------------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where the command line keeps what it can always make again: the platform's folder for that."""
    name = "open-videoanydoor"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / name / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / name
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(folder) if os.path.isabs(folder) else Path.home() / ".cache") / name


# -- warm-up ----------------------------------------------------------------------------------------------------------------------


def _warm_up(options: argparse.Namespace) -> None:
    from .matting import warm_up

    say("preparing automatic cut-outs; the first time this takes a minute or two …")
    started_s = time.monotonic()
    warm_up()
    say(f"ready after {time.monotonic() - started_s:.1f} s")


def _one_line(text: str) -> str:
    return " ".join(text.split())
