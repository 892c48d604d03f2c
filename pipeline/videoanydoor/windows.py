"""Long clips as overlapping windows in latent space: every step predicts each window and blends the predictions.

The temporal layers reach ``window`` frames. Windows share identity tokens and the global trajectories; their noise is the first
window's, reshuffled (FreeNoise, Qiu et al. 2023), so that neighbouring windows start from related noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def split_windows(num_frames: int, window: int, overlap: int) -> list[slice]:
    """Windows of ``window`` frames, each ``window - overlap`` after the one before, the last one flush with the end.

    A clip that fits is one window. Raises ``ValueError`` unless 0 <= overlap < window.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"the overlap must be at least 0 and less than the window of {window}, got {overlap}")
    if num_frames <= window:
        return [slice(0, num_frames)]
    starts = [*range(0, num_frames - window, window - overlap), num_frames - window]
    return [slice(start, start + window) for start in starts]


def blend_weights(windows: Sequence[slice], num_frames: int) -> list[torch.Tensor]:
    """For each window the share f32[length] of every frame: pyramids (1, 2, .., 2, 1), normalised to sum to 1 over the windows."""
    pyramids, total = [], torch.zeros(num_frames)
    for window in windows:
        ramp = torch.arange(1, window.stop - window.start + 1, dtype=torch.float32)
        pyramids.append(torch.minimum(ramp, ramp.flip(0)))
        total[window] += pyramids[-1]
    return [pyramid / total[window] for pyramid, window in zip(pyramids, windows, strict=True)]


def blend_windows(
    predict: Callable[[slice, int], torch.Tensor], windows: Sequence[slice], weights: Sequence[torch.Tensor], like: torch.Tensor
) -> torch.Tensor:
    """The blend of ``predict(window, index)`` [B, C, f, h, w] over all windows, in the shape and dtype of ``like`` [B, C, F, h, w].

    One window is returned exactly as predicted.
    """
    blended = torch.zeros_like(like)
    for index, (window, weight) in enumerate(zip(windows, weights, strict=True)):
        blended[:, :, window] += predict(window, index).to(like) * weight.to(like)[:, None, None]
    return blended


def draw_noise(shape: tuple[int, ...], window: int, overlap: int, seed: int) -> torch.Tensor:
    """Noise f32[B, C, F, h, w] on the CPU: fresh for the first window, then the frames that leave the last window, shuffled."""
    generator = torch.Generator("cpu").manual_seed(seed)
    batch_size, channels, num_frames, height, width = shape
    stride = window - overlap
    first = torch.randn((batch_size, channels, min(window, num_frames), height, width), generator=generator)
    frames = list(first.unbind(2))
    while len(frames) < num_frames:
        leaving = frames[len(frames) - window : len(frames) - window + stride]
        frames += [leaving[index] for index in torch.randperm(stride, generator=generator).tolist()]
    return torch.stack(frames[:num_frames], dim=2)
