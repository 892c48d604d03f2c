"""Small references, layers, requests and frames for the compositor's tests."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from pipeline.composite.engine import LayerPlan, composite_frame, plan_layers
from pipeline.engines import ignore_progress
from pipeline.motion import BoxKey, build_box_sequence
from pipeline.types import BlendSettings, Clip, DecodedFrame, Frame, InsertionRequest, Layer, MaskTrack, Reference, SamplingConfig

OFF = BlendSettings(harmonize=0, shadow=0, motion_blur=0, grain=0, feather_px=0, opacity=1)
HW = (120, 160)


def turn_off(**on: float) -> BlendSettings:
    """All options off but those named."""
    return replace(OFF, **on)


def paint_texture(hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """u8[H,W,3] with detail at all sizes, never black or white."""
    rng = np.random.default_rng(seed)
    total = np.zeros((*hw, 3))
    for sigma_px in (0.7, 2, 6, 15):
        noise = cv2.GaussianBlur(rng.normal(0, 1, (*hw, 3)), (0, 0), sigma_px)
        total += noise / noise.std()
    return np.clip(128 + 24 * total, 20, 235).astype(np.uint8)


def make_disc(hw: tuple[int, int] = (90, 110), seed: int = 1) -> Reference:
    """A textured ellipse with a soft edge."""
    y, x = np.mgrid[: hw[0], : hw[1]] + 0.5
    radius = np.hypot((x - hw[1] / 2) / (hw[1] / 2 - 4), (y - hw[0] / 2) / (hw[0] / 2 - 4))
    alpha = np.clip((1 - radius) * min(hw) / 4 + 0.5, 0, 1)
    return Reference(paint_texture(hw, seed), alpha.astype(np.float32))


def make_plain(color: tuple[int, int, int], hw: tuple[int, int] = (60, 60)) -> Reference:
    """One opaque colour."""
    return Reference(np.full((*hw, 3), color, np.uint8), np.ones(hw, np.float32))


def make_clip_handle(num_frames: int = 5, hw: tuple[int, int] = HW) -> Clip:
    """A handle to no file: for all that never reads one."""
    times = np.arange(num_frames, dtype=np.int64)
    return Clip(Path("none.mkv"), "0" * 64, hw[1], hw[0], Fraction(25), num_frames, times, Fraction(1, 25), "yuv444p")


def make_layer(
    reference: Reference,
    boxes: dict[int, tuple[float, float, float, float]],
    blend: BlendSettings = OFF,
    clip: Clip | None = None,
    holdouts: tuple[MaskTrack, ...] = (),
) -> Layer:
    """``boxes`` are 0..1."""
    clip = clip or make_clip_handle()
    sequence = build_box_sequence({frame: BoxKey(box) for frame, box in boxes.items()}, clip.hw, clip.num_frames)
    return Layer("thing", "insert", (reference,), boxes=sequence, blend=blend, holdouts=holdouts)


def make_plans(*layers: Layer, clip: Clip | None = None, seed: int = 0) -> tuple[LayerPlan, ...]:
    clip = clip or make_clip_handle()
    request = InsertionRequest(clip, (0, clip.num_frames), layers, SamplingConfig(seed=seed))
    return plan_layers(request, ignore_progress, lambda message: None)


def make_source(image: np.ndarray, frame_index: int = 0) -> DecodedFrame:
    return DecodedFrame(frame_index, frame_index, image.shape[:2], (), lambda x0, y0, x1, y1: image[y0:y1, x0:x1].copy())


def compose(image: np.ndarray, *layers: Layer, frame_index: int = 0) -> Frame:
    """One frame of the compositor over ``image``, for layers that need nothing measured."""
    return composite_frame(make_plans(*layers, clip=make_clip_handle(hw=image.shape[:2])), make_source(image, frame_index))
