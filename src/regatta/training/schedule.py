"""The learning rate of every optimizer step in closed form: linear warm-up, then a cosine, a
cosine that starts anew, or the full rate."""

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


def constant_factor(step: int, *, warmup_steps: int) -> float:
    """The warm-up of `lr_factor`, and 1 ever after."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def restart_factor(step: int, *, total_steps: int, warmup_steps: int, min_fraction: float) -> float:
    """As `lr_factor`, but with a cosine that starts anew after 1/4 and 3/4 of all steps.

    The first period is T = total_steps / 4, each next one twice as long, so the run ends in the
    first quarter of the third. A period leads from 1 towards `min_fraction`, which its last step
    just does not reach. The warm-up takes the place of the beginning of its period.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5 with T_0 = total_steps / 4, T_mult = 2.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    first = total_steps / 4
    starts = (0.0, first, 3 * first, 7 * first)
    period = max(number for number in range(3) if step >= starts[number])
    peak = max(starts[period], warmup_steps - 1)
    progress = (step - peak) / (starts[period + 1] - peak)
    return min_fraction + (1 - min_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
