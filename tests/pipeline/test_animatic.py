"""The animatic is the mesh, the render is the warp: they agree, at the object's box and at its key-points."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.motion import BoxKey, LayerMotion, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.types import Reference

CLIP_HW, NUM_FRAMES = (720, 1280), 48
ANCHORS = {"a": (30.0, 40.0), "b": (250.0, 35.0), "c": (240.0, 180.0), "d": (45.0, 170.0), "e": (140.0, 105.0)}
BOX = build_box_sequence({0: BoxKey((0.2, 0.2, 0.6, 0.8)), 47: BoxKey((0.4, 0.1, 0.8, 0.9), rotation_deg=30)}, CLIP_HW, NUM_FRAMES)
GOALS = {"a": (0.28, 0.30), "b": (0.62, 0.22), "c": (0.68, 0.72), "d": (0.25, 0.66), "e": (0.50, 0.44)}
PROJECTS = {"boxes alone": ("", "auto"), "perspective": ("abcd", "perspective"), "bent by five points": ("abcde", "auto")}


def make_motion(names: str, deform: str) -> LayerMotion:
    alpha = np.zeros((210, 280), np.float32)
    alpha[4:206, 4:276] = 1  # a card: the mesh's own bounds are the object's
    reference = Reference(np.zeros((210, 280, 3), np.uint8), alpha, ANCHORS)
    paths = [
        TrajectoryKeys(name, {0: GOALS[name], 47: (GOALS[name][0] + 0.02 * index, GOALS[name][1] - 0.03 * index)})
        for index, name in enumerate(names)
    ]
    dense = build_trajectory_set(paths, ANCHORS, CLIP_HW, NUM_FRAMES) if paths else None
    return LayerMotion(reference, BOX, dense, deform=deform)


def on_mesh(motion: LayerMotion, frame: int, point: np.ndarray) -> np.ndarray:
    """Where drawing the mesh's triangles with straight texture puts a point of the reference."""
    corners, placed = (
        motion.mesh_uv_px[motion.mesh_triangles].astype(float),
        motion.mesh(frame)[motion.mesh_triangles].astype(float),
    )
    for source, target in zip(corners, placed, strict=True):
        shares = np.linalg.solve(np.vstack([source.T, np.ones(3)]), np.append(point, 1.0))
        if shares.min() >= -1e-9:
            return shares @ target
    raise AssertionError("the mesh must cover the reference's key-points")


def iou(one: np.ndarray, two: np.ndarray) -> float:
    inner = np.prod(np.maximum(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0))
    return float(inner / (np.prod(one[2:] - one[:2]) + np.prod(two[2:] - two[:2]) - inner))


@pytest.mark.parametrize("project", PROJECTS)
def test_the_mesh_puts_key_points_and_box_where_the_warp_does(project):
    motion = make_motion(*PROJECTS[project])
    frames = np.linspace(0, NUM_FRAMES - 1, 10).astype(int)
    for frame in frames:
        for point in ANCHORS.values():
            exact = motion.warp(frame).forward(np.array(point))
            assert np.linalg.norm(on_mesh(motion, int(frame), np.array(point)) - exact) <= 2
        mesh = motion.mesh(int(frame)).astype(float)
        bounds = np.concatenate([mesh.min(axis=0), mesh.max(axis=0)])
        assert iou(bounds, motion.warped_bounds_px(int(frame))) >= 0.9
