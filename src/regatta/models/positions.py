"""Position embeddings of a checkpoint, fitted to another frame count or picture size.

Shapes: T time steps, G patches per picture side, N = T x G x G tokens, C width.
Bicubic in space is what vision transformers are commonly resized with (Dosovitskiy et al. 2021,
section 3.2); linear in time keeps the order of the frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def resize_time(table_1TC: torch.Tensor, time_steps: int) -> torch.Tensor:
    """[1, T, C] -> [1, time_steps, C], linear; the same tensor when T already fits."""
    if table_1TC.shape[1] == time_steps:
        return table_1TC
    moved = F.interpolate(table_1TC.float().transpose(1, 2), size=time_steps, mode="linear")
    return moved.transpose(1, 2).to(table_1TC.dtype).contiguous()


def resize_space(tables_TNC: torch.Tensor, grid: int) -> torch.Tensor:
    """[T, G * G, C] -> [T, grid * grid, C], bicubic; the same tensor when G already fits."""
    steps, tokens, width = tables_TNC.shape
    side = math.isqrt(tokens)
    if side == grid:
        return tables_TNC
    pictures = tables_TNC.float().reshape(steps, side, side, width).permute(0, 3, 1, 2)
    resized = F.interpolate(pictures, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(steps, grid * grid, width).to(tables_TNC.dtype)


def resize_space_time(
    table_1NC: torch.Tensor, *, source: tuple[int, int], target: tuple[int, int]
) -> torch.Tensor:
    """[1, T * G * G, C] on the grid `source` (T, G) -> the same on the grid `target`.

    Space first, then time, each by its own rule; the two commute because both are linear maps.
    """
    (source_steps, source_grid), (steps, grid) = source, target
    width = table_1NC.shape[-1]
    tables_TNC = table_1NC.reshape(source_steps, source_grid * source_grid, width)
    pictures = resize_space(tables_TNC, grid)
    flat = pictures.reshape(1, source_steps, grid * grid * width)
    return resize_time(flat, steps).reshape(1, steps * grid * grid, width)


def describe_change(source: tuple[int, int], target: tuple[int, int]) -> str:
    """What changed, for the key report: time steps and patches per side before and after."""
    (source_steps, source_grid), (steps, grid) = source, target
    parts = []
    if source_steps != steps:
        parts.append(f"{source_steps} -> {steps} time steps")
    if source_grid != grid:
        parts.append(f"{source_grid}x{source_grid} -> {grid}x{grid} patches")
    return ", ".join(parts)
