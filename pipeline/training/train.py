"""The training loop, to be read from top to bottom: one file, one function, on ``accelerate``.

Everything random in step n comes from generators seeded by (seed, n, process), so that a run that was stopped goes on exactly as it
would have, without any random state in its checkpoints.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from ..errors import UserError
from ..videoanydoor.checkpoints import build_random, save_whole
from ..videoanydoor.pipeline import VideoAnydoorPipeline
from ..videoanydoor.scales import SCALES, RandomScale
from .clips import TrainingClip
from .config import TrainConfig
from .model import LEARNING, Drawn, Learner, draw, loss_of
from .samples import Batch
from .sources import Mixture, open_sources
from .states import flatten_moments, list_states, parted, read_state, restore_moments, whole, write_state

log = logging.getLogger(__name__)

BETAS = (0.9, 0.999)
CHECKPOINT = "checkpoint"
LOG_NAME = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to: its last step, the mean loss of its last tenth, samples it saw, seconds of this session, processes."""

    step: int
    loss: float
    samples: int
    seconds: float
    num_processes: int
    wrapper: str


def train(
    config: TrainConfig,
    root: Path,
    output: Path,
    *,
    device: str = "auto",
    max_seconds: float | None = None,
    tell: Callable[[str], None] = log.info,
) -> Summary:
    """Train as ``config`` says, with its paths starting at ``root``, into the folder ``output``.

    ``output`` gets states to go on from (a run finds its own), ``log.jsonl``, and at the end ``checkpoint``, which the pipeline
    loads: the averaged weights. After ``max_seconds`` the run stops at the next step, saves, and may be continued. Raises
    ``UserError`` for what a person can mend.
    """
    # 1. where: processes, device, precision
    accelerator = Accelerator(mixed_precision=config.precision, cpu=device == "cpu")
    is_main = accelerator.is_main_process
    output.mkdir(parents=True, exist_ok=True)

    # 2. what learns
    set_seed(config.seed)
    pipe = build_pipeline(config, root)
    learner = Learner(pipe, config).to(accelerator.device).train()
    codec = pipe.vae.to(accelerator.device)

    # 3. from where
    first_step, about = 0, describe(config)
    kept = read_state(found[-1]) if (found := list_states(output)) else None
    if kept is not None:
        if kept.about.get("config") != about["config"]:
            raise UserError(f"{output.name!r} holds a run of another configuration; give another folder.")
        learner.load_state_dict(kept.weights)
        first_step = int(kept.about["step"])
        tell(f"going on from step {first_step}")
    wrapped = wrap(learner, accelerator, config)
    names = {parameter: name for name, parameter in learner.named_parameters()}
    average = {name: parameter.detach().clone() for name, parameter in learner.named_parameters()}
    optimizer = torch.optim.AdamW(learner.rate_groups(config), betas=BETAS, weight_decay=float(config.weight_decay))
    base_rates = [group["lr"] for group in optimizer.param_groups]
    if kept is not None:
        average = {name: parted(kept.average[name], parameter) for name, parameter in learner.named_parameters()}
        restore_moments(optimizer, names, kept.moments)

    # 4. on what
    mixture = open_sources(config, root, pipe.grid, config.seed)
    batches = load_batches(mixture, config, accelerator.process_index, accelerator.num_processes, first_step)

    # 5. learn
    board = open_board(output) if is_main else None
    started_s, recent, step = time.monotonic(), [], first_step
    for step in range(first_step + 1, config.steps + 1):
        batch = next(batches).to(accelerator.device)
        drawn = draw_step(batch, config, pipe, step, accelerator.process_index, accelerator.device)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * rate_at(step, config)
        with accelerator.autocast():
            loss = loss_of(wrapped, codec, pipe.scheduler, batch, drawn, config)
        accelerator.backward(loss)
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.grad is not None], float(config.gradient_clip))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_average(average, learner, ema_at(step, float(config.ema_decay)))
        recent.append(float(accelerator.reduce(loss.detach().clone(), "mean")))
        if not math.isfinite(recent[-1]):
            raise UserError(f"The loss is no longer finite at step {step}; lower learning_rate and go on from the last state.")

        # 6. tell and keep
        is_over = max_seconds is not None and time.monotonic() - started_s > max_seconds
        if is_main and (step % config.log_every == 0 or step == config.steps):
            write_log(output, board, step, recent[-config.log_every :], optimizer, time.monotonic() - started_s)
            tell(f"step {step} of {config.steps}, loss {sum(recent[-config.log_every :]) / len(recent[-config.log_every :]):.4f}")
        if config.preview_every and step % config.preview_every == 0 and accelerator.num_processes == 1:
            write_preview(output, step, pipe, learner, average, mixture.clip(10**9 + step))
        if step % config.save_every == 0 or step == config.steps or is_over:
            keep(output, step, learner, average, flatten_moments(optimizer, names), about, is_main)
            accelerator.wait_for_everyone()
        if is_over:
            tell(f"stopped after {max_seconds:.0f} s; the same command goes on")
            break
    if board is not None:
        board.close()
    write_checkpoint(output / CHECKPOINT, config, root, average, is_main)
    tail = recent[-max(1, len(recent) // 10) :]
    return Summary(
        step,
        sum(tail) / max(1, len(tail)),
        len(recent) * config.batch_size * accelerator.num_processes,
        time.monotonic() - started_s,
        accelerator.num_processes,
        type(wrapped).__name__,
    )


# -- parts, in the order of their use ---------------------------------------------------------------------------------------------


def build_pipeline(config: TrainConfig, root: Path) -> VideoAnydoorPipeline:
    """The networks to begin with: a checkpoint, or random weights where the scale has them. Raises ``UserError``."""
    if config.checkpoint is not None:
        return VideoAnydoorPipeline.from_pretrained(root / config.checkpoint)
    scale = SCALES[config.scale]
    if not isinstance(scale, RandomScale):
        raise UserError(f"The scale {config.scale!r} starts from a checkpoint; make one with 'videoanydoor init' and name it.")
    return build_random(scale, config.content or scale.content, config.seed, config.mask_shape, config.residual)


def describe(config: TrainConfig) -> dict[str, Any]:
    """What a state remembers of its run, but for how long it is to go on and what it says meanwhile."""
    from ..documents import write_document

    document = write_document(config)
    for key in ("steps", "log_every", "save_every", "preview_every", "workers"):
        document.pop(key, None)
    return {"config": document}


def wrap(learner: Learner, accelerator: Accelerator, config: TrainConfig) -> torch.nn.Module:
    """The learner as several processes share it: ``DistributedDataParallel``, or torch's ``fully_shard`` (accelerate's own FSDP
    falls back to DDP on the CPU without a word, so it is not asked)."""
    if accelerator.num_processes == 1:
        return learner
    if config.parallel == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for name in LEARNING:
            fully_shard(getattr(learner, name))
        fully_shard(learner)
        return learner
    wrapped: torch.nn.Module = torch.nn.parallel.DistributedDataParallel(learner, find_unused_parameters=True)
    return wrapped


def load_batches(mixture: Mixture, config: TrainConfig, process: int, num_processes: int, first_step: int) -> Iterator[Batch]:
    """Batches for the steps after ``first_step``. Sample numbers count through all processes, so that two processes with half the
    batch see what one sees."""
    total = config.batch_size * num_processes
    numbers = [
        [step * total + process * config.batch_size + place for place in range(config.batch_size)]
        for step in range(first_step, config.steps)
    ]
    loader = DataLoader(
        _AsDataset(mixture), batch_sampler=numbers, collate_fn=_first, num_workers=config.workers, persistent_workers=False
    )
    return iter(loader)


class _AsDataset(torch.utils.data.Dataset):
    """Lets a data loader's workers make whole batches."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __getitems__(self, numbers: list[int]) -> list[Batch]:
        if torch.utils.data.get_worker_info() is not None:
            torch.set_num_threads(1)
        return [self._mixture.batch(numbers)]


def _first(batches: list[Batch]) -> Batch:
    return batches[0]


def draw_step(
    batch: Batch, config: TrainConfig, pipe: VideoAnydoorPipeline, step: int, process: int, device: torch.device
) -> Drawn:
    """The chance of one step, a sample at a time, so that it does not depend on how samples are spread over processes."""
    count = len(batch.sources)
    parts = []
    for place in range(count):
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * 65_537 + process * count + place)
        one = Batch(**{name: getattr(batch, name)[place : place + 1] for name in Batch.__slots__})
        parts.append(draw(one, config, pipe.scheduler.config.num_train_timesteps, pipe.vae.config.latent_channels, generator))
    return Drawn(*(torch.cat(values).to(device) for values in zip(*parts, strict=True)))


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate at a step (from 1) in shares of its full value: a linear start, then constant or a half cosine to 0."""
    warm = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.decay == "none":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))


def ema_at(step: int, decay: float) -> float:
    """The average's decay at a step: shorter at first, so that the random start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: dict[str, torch.Tensor], learner: torch.nn.Module, decay: float) -> None:
    """Move the average towards the weights."""
    for name, parameter in learner.named_parameters():
        average[name].lerp_(parameter.detach(), 1 - decay)


def write_log(output: Path, board: Any, step: int, losses: list[float], optimizer: torch.optim.Optimizer, seconds: float) -> None:
    """One line of ``log.jsonl``, and a point of TensorBoard's curves where there is a ``board``."""
    entry = {"step": step, "loss": sum(losses) / len(losses), "learning_rate": optimizer.param_groups[0]["lr"], "seconds": seconds}
    with (output / LOG_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps({key: round(value, 8) for key, value in entry.items()}) + "\n")
    if board is not None:
        for key in ("loss", "learning_rate"):
            board.add_scalar(key, entry[key], step)


def open_board(output: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(output / "tensorboard"))


def keep(
    output: Path,
    step: int,
    learner: torch.nn.Module,
    average: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    about: dict[str, Any],
    is_main: bool,
) -> None:
    """Write the state; every process helps to put it together, one writes."""
    weights = {name: whole(value) for name, value in learner.state_dict().items()}
    means = {name: whole(value) for name, value in average.items()}
    if is_main:
        write_state(output, step, weights, means, moments, about)


def write_preview(
    output: Path,
    step: int,
    pipe: VideoAnydoorPipeline,
    learner: torch.nn.Module,
    average: dict[str, torch.Tensor],
    clip: TrainingClip,
) -> None:
    """A strip of pictures ``preview-STEP.png``: the truth above what the averaged networks make of a clip never trained on."""
    from .previews import draw_preview

    with averaged(learner, average):
        draw_preview(output / f"preview-{step:08d}.png", pipe, clip)


class averaged:
    """Within the block the learner has the averaged weights."""

    def __init__(self, learner: torch.nn.Module, average: dict[str, torch.Tensor]) -> None:
        self._learner, self._average = learner, average

    def __enter__(self) -> None:
        self._kept = {name: parameter.detach().clone() for name, parameter in self._learner.named_parameters()}
        self._put(self._average)
        self._learner.eval()

    def __exit__(self, *_: object) -> None:
        self._put(self._kept)
        self._learner.train()

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._learner.named_parameters():
            parameter.copy_(values[name])


def write_checkpoint(path: Path, config: TrainConfig, root: Path, average: dict[str, torch.Tensor], is_main: bool) -> None:
    """The averaged networks as the pipeline loads them, in place of an older one of the same run."""
    means = {name: whole(value).to("cpu") for name, value in average.items()}
    if not is_main:
        return
    pipe = build_pipeline(config, root)
    for name in LEARNING:
        prefix = f"{name}."
        own = {key.removeprefix(prefix): value for key, value in means.items() if key.startswith(prefix)}
        getattr(pipe, name).load_state_dict(own, strict=False)  # buffers are computed, not learned
    old = path.with_name(f".old-{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    save_whole(pipe, path)
    shutil.rmtree(old, ignore_errors=True)
