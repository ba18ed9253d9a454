"""The learning rate of every optimizer step in closed form: linear warm-up, then cosine."""

from __future__ import annotations

import math


def count_steps(micro_batches: int, *, accumulate: int) -> int:
    """Optimizer steps in one epoch; the last short group of micro-batches is a step too."""
    return math.ceil(micro_batches / accumulate)


def count_warmup_steps(total_steps: int, *, fraction: float) -> int:
    """Steps of linear warm-up, rounded to the nearest whole step."""
    # ceil would turn 0.1 * 30 = 3.0000000000000004 into 4.
    return min(total_steps, math.floor(total_steps * fraction + 0.5))


def lr_factor(step: int, *, total_steps: int, warmup_steps: int, min_fraction: float) -> float:
    """What the base learning rate is multiplied by in optimizer step `step`.

    Step s of W warm-up steps (counted from 0) has (s + 1) / W, so the first is the smallest and
    step W - 1 has the full rate. A cosine leads from there to `min_fraction` at the last step.

    Args:
        step: optimizer step, 0 .. total_steps - 1, counted over all epochs.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5 with one period.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    peak = max(warmup_steps - 1, 0)
    last = total_steps - 1
    if last <= peak:
        return 1.0
    progress = (step - peak) / (last - peak)
    return min_fraction + (1 - min_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
