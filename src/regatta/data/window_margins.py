"""Windows with what comes before and after them in their recording, for shifts in time.

Shapes: N windows, C channels, L samples of a window, S samples of a margin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from regatta.core.errors import ConfigError
from regatta.data.manifest import Sample
from regatta.data.window_augment import SignalAugment, build_augment
from regatta.data.windows import WindowStore


def augmented_inputs(
    options: dict[str, Any], store: WindowStore, samples: Sequence[Sample]
) -> tuple[torch.Tensor, SignalAugment]:
    """(what the loader holds of the training samples, what changes it).

    The first is float32 [N, C, L], or [N, C, L + 2 S] with `shift_samples` S.

    Raises:
        ConfigError: a wrong option, or a shift where no window has a neighbour.
    """
    signals = store.select(samples)
    augment = build_augment(options, signals, store.triples, can_shift=True)
    if not augment.shift_samples:
        return signals, augment
    wide = with_margins(signals, samples, augment.shift_samples)
    if bool(torch.isnan(_margins(wide, augment.shift_samples)).all()):
        raise ConfigError(
            "no training window has a neighbour that goes on where it ends: the source gives "
            "single windows, so there is nothing to shift into",
            where="train.augment_options.shift_samples",
            hint="set it to 0, or give recordings (source csv-recordings)",
        )
    return wide, augment


def with_margins(signals_NCL: torch.Tensor, samples: Sequence[Sample], margin: int) -> torch.Tensor:
    """float32 [N, C, L + 2 margin]: each window with its surroundings in its recording.

    Only what these samples show themselves is filled in, so that a training window never shows a
    part of a window that selects or judges; the rest of a margin is NaN.
    """
    count, channels, length = signals_NCL.shape
    wide = signals_NCL.new_full((count, channels, length + 2 * margin), torch.nan)
    members: dict[object, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        members[sample.extra.get("recording", sample.sample_id)].append(number)
    for numbers in members.values():
        ordered = sorted(numbers, key=lambda number: samples[number].start_frame)
        for place, number in enumerate(ordered):
            for other in _around(ordered, place, samples, length + margin):
                # Where the other window begins in the wide form of this one.
                begin = samples[other].start_frame - samples[number].start_frame + margin
                low, high = max(begin, 0), min(begin + length, wide.shape[2])
                wide[number, :, low:high] = signals_NCL[other, :, low - begin : high - begin]
    return _without_islands(wide, margin)


def _around(ordered: Sequence[int], place: int, samples: Sequence[Sample], reach: int) -> list[int]:
    """The window at `place` and those that begin less than `reach` samples from it."""
    here = samples[ordered[place]].start_frame
    low = high = place
    while low > 0 and here - samples[ordered[low - 1]].start_frame < reach:
        low -= 1
    while high + 1 < len(ordered) and samples[ordered[high + 1]].start_frame - here < reach:
        high += 1
    return list(ordered[low : high + 1])


def _without_islands(wide: torch.Tensor, margin: int) -> torch.Tensor:
    """A margin is usable only as far as it is filled without a hole, seen from the window."""
    filled = ~torch.isnan(wide[:, 0])
    before = filled[:, :margin].flip(1).cumprod(1).flip(1).bool()
    after = filled[:, wide.shape[2] - margin :].cumprod(1).bool()
    inside = filled.new_ones(len(wide), wide.shape[2] - 2 * margin)
    usable = torch.cat([before, inside, after], dim=1)
    return torch.where(usable[:, None], wide, torch.nan)


def _margins(wide: torch.Tensor, margin: int) -> torch.Tensor:
    return torch.cat([wide[:, 0, :margin], wide[:, 0, -margin:]], dim=1)
