"""Judge several runs on the same images: part by part, resumable, sharded.

Shapes: N images of a part, 3 colours, H x W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any
from typing import Protocol as Shape

import torch

from regatta.core.signals import StopFlag
from regatta.data.manifest import Sample
from regatta.evaluation.image_protocols import UNCHANGED, ImageProtocol
from regatta.evaluation.judged_parts import (
    Forwarding,
    JudgeCost,
    Part,
    PartJudge,
    Row,
    Spent,
    Truth,
    close_judges,
    complete_heads,
    judge_resident,
    judge_sets,
    open_judges,
)
from regatta.evaluation.ood_sets import OodSet
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.progress import Progress
from regatta.records.conditions import Condition


class SelectImages(Shape):
    """The images of samples, in their order: uint8 [n, 3, H, W] on the CPU."""

    def __call__(self, samples: Sequence[Sample]) -> torch.Tensor: ...


@dataclass(frozen=True)
class Bench:
    """What stays the same over all parts of one call."""

    images: SelectImages
    protocol: ImageProtocol


def judge_images(
    entries: Sequence[JudgedEntry],
    samples: Sequence[Sample],
    images: SelectImages,
    protocol: ImageProtocol,
    *,
    batch_size: int,
    part_samples: int,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
    autocast: torch.dtype | None = None,
    stop: StopFlag | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> JudgeCost:
    """Write the missing prediction parts i, i + n, i + 2n ... of shard (i, n) for all entries.

    An image is changed once per condition for all entries, and the images of a part share batches
    of exactly `batch_size`, so that scores never depend on company. A model with several heads
    leaves a part in the folder of each.

    Args:
        entries, samples, batch_size, part_samples, shard, autocast, stop, report: as for clips, see
            `regatta.evaluation.judge.judge_parts`. Changing a part of a few hundred images takes
            little longer than one of a few.
        images: of a store, its `select`.
    Raises:
        StopRequested: `stop` was set; finished parts are kept, the part in hand is dropped.
    """
    bench = Bench(images, protocol)
    return judge_resident(
        entries,
        samples,
        protocol.conditions,
        partial(_judge_part, bench=bench),
        part_samples=part_samples,
        forwarding=Forwarding(batch_size, device, autocast, shard),
        stop=stop,
        report=report,
    )


def _judge_part(
    part: Part, forwarding: Forwarding, cost: JudgeCost, progress: Progress, *, bench: Bench
) -> None:
    started, showing_seconds = time.perf_counter(), 0.0
    judges = open_judges(part, forwarding, cost, progress.poll)
    images = bench.images(part.samples)
    ids = [sample.sample_id for sample in part.samples]
    for condition in bench.protocol.conditions:
        progress.poll()
        before = time.perf_counter()
        show = bench.protocol.show
        shown = images if show is None else show(images, ids, condition)
        rows = _rows(part.samples, shown, condition)
        showing_seconds += time.perf_counter() - before
        add = partial(_add, shown=shown, rows=rows)
        judges = [judge for judge in judges if cost.keeps(judge.run_id, partial(add, judge))]
    close_judges(
        judges,
        lambda: Spent(0.0, showing_seconds, time.perf_counter() - started),
        cost,
        samples=len(part.samples),
    )
    for _ in part.samples:
        progress.sample_done()


def _add(judge: PartJudge, *, shown: torch.Tensor, rows: list[Row]) -> None:
    judge.forward.add_inputs(shown)
    judge.expect(rows, distinct=len(shown))


def _rows(samples: Sequence[Sample], shown: torch.Tensor, condition: Condition) -> list[Row]:
    keys = [sha256(image.tobytes()).hexdigest()[:32] for image in shown.numpy()]
    return [
        Row(sample, condition, Truth(1, 0.0, None, 0.0, key), (place,))
        for place, (sample, key) in enumerate(zip(samples, keys, strict=True))
    ]


def judge_elsewhere(
    entries: Sequence[JudgedEntry], sets: Sequence[OodSet], **settings: Any
) -> JudgeCost:
    """Judge images from elsewhere as they are, each set in a folder of its own.

    Args:
        settings: batch_size, part_samples, device ... of `judge_images`.
    Returns:
        What it cost over all sets; a run that failed on one set is not asked about the next.
    """
    return judge_sets(
        entries,
        sets,
        lambda beside, ood: judge_images(beside, ood.samples, ood.select, UNCHANGED, **settings),
    )


def complete_images(
    entry: JudgedEntry,
    samples: Sequence[Sample],
    protocol: ImageProtocol,
    *,
    part_samples: int,
    classes: Sequence[str],
) -> bool:
    """As `judged_parts.complete_heads`."""
    return complete_heads(
        entry, samples, protocol.conditions, part_samples=part_samples, classes=classes
    )
