"""What judging clips, windows and images shares: which parts are left, and an entry's rows on one.

Shapes: D distinct clips, windows or images of a part, H heads of a model, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from regatta.core.errors import RunError
from regatta.core.signals import StopFlag
from regatta.data.manifest import Sample
from regatta.evaluation.part_files import (
    PartCost,
    finalize_predictions,
    open_folder,
    part_is_whole,
    record_cost,
    split_parts,
)
from regatta.evaluation.predict import (
    BatchedForward,
    ForwardPool,
    JudgedEntry,
    batches_side_by_side,
)
from regatta.evaluation.progress import Progress
from regatta.evaluation.protocols import Average
from regatta.evaluation.view_scores import average_views
from regatta.models.contracts import HasPositions
from regatta.records.conditions import Condition
from regatta.records.predictions import (
    HORIZON_COLUMN,
    OOD_FOLDER,
    POSITION_COLUMNS,
    TRUTH_COLUMNS,
    write_part,
)


class Truth(NamedTuple):
    """What one condition shows of one sample, over all its views; as the columns of a part."""

    distinct_frames: int
    span_seconds: float
    rate_hz: float | None
    pad_share: float
    clip_key: str


class Places(NamedTuple):
    """Where something truly is, for each of the targets of a model that says so, in world units."""

    targets: tuple[tuple[float, float, float] | None, ...]
    horizons_frames: tuple[int, ...]


class Row(NamedTuple):
    """One prediction to come."""

    sample: Sample
    condition: Condition
    truth: Truth
    places: tuple[int, ...]
    """Rows of the part's scores, one per view."""
    truths: Places | None = None
    """For a model with `contracts.HasPositions`."""


@dataclass
class JudgeCost:
    """What one call of judging did. Seconds are summed over the threads that spent them.

    failed: run id -> why it could not be judged. Its finished parts stay; other runs go on.
    """

    parts_done: int = 0
    parts_kept: int = 0
    """Parts of this shard that every entry had on disk already."""
    samples: int = 0
    frames_decoded: int = 0
    distinct_clips: int = 0
    decode_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    forward_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    failed: dict[str, RunError] = field(default_factory=dict)

    def keeps(self, run_id: str, step: Callable[[], None]) -> bool:
        """Do one step of one run; False, and noted, when it fails."""
        try:
            step()
        except RunError as error:
            self.failed[run_id] = error
        return run_id not in self.failed

    def add(self, other: JudgeCost) -> None:
        """Count what another call did as well."""
        self.failed |= other.failed
        for name in (
            "parts_done",
            "parts_kept",
            "samples",
            "frames_decoded",
            "distinct_clips",
            "decode_seconds",
            "preprocess_seconds",
            "wall_seconds",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for run_id, seconds in other.forward_seconds.items():
            self.forward_seconds[run_id] = self.forward_seconds.get(run_id, 0.0) + seconds


@dataclass(frozen=True)
class Part:
    """One part with the entries that still lack it."""

    number: int
    samples: list[Sample]
    entries: list[JudgedEntry]


@dataclass(frozen=True)
class Spent:
    """Seconds of one part that served all its entries alike."""

    decode_seconds: float
    preprocess_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class Forwarding:
    """How batches run, the same over all parts of one call.

    pool: of a CPU; None on an accelerator. shard: (i, n), whose notes of cost these are.
    """

    batch_size: int
    device: torch.device
    autocast: torch.dtype | None
    shard: tuple[int, int]
    average: Average = "probability"
    pool: ForwardPool | None = None


def open_parts(
    entries: Sequence[JudgedEntry],
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    *,
    part_samples: int,
    shard: tuple[int, int],
) -> tuple[list[Part], int]:
    """The parts of this shard that an entry lacks, and how many are there already.

    Makes every entry's folders ready for exactly this judging. A part is there when those of all
    heads are.
    """
    for entry in entries:
        for folder in entry.folders:
            open_folder(
                folder,
                samples=samples,
                conditions=conditions,
                part_samples=part_samples,
                fingerprint=entry.fingerprint,
            )

    def lacks(entry: JudgedEntry, number: int, part: list[Sample]) -> bool:
        return not all(part_is_whole(f, number, part, conditions) for f in entry.folders)

    own = list(enumerate(split_parts(samples, part_samples)))[shard[0] :: shard[1]]
    parts = [Part(n, part, [e for e in entries if lacks(e, n, part)]) for n, part in own]
    lacking = [part for part in parts if part.entries]
    return lacking, len(own) - len(lacking)


def open_pool(entries: Sequence[JudgedEntry], batch_size: int) -> ForwardPool:
    """Threads for the batches of these entries on the cores that torch is set to use."""
    threads = torch.get_num_threads()
    specs = [entry.spec for entry in entries]
    workers = batches_side_by_side(specs, batch_size=batch_size, threads=threads)
    return ForwardPool(workers, threads=threads)


class PartJudge:
    """One entry on one part: its inputs are queued with a row per prediction, then written.

    scores_DHK: float32, one row per distinct input of the part, in the order queued; H is 1 for a
        model without heads.
    """

    def __init__(
        self,
        part: Part,
        entry: JudgedEntry,
        settings: Forwarding,
        poll: Callable[[], None],
    ) -> None:
        self.run_id, self.entry = entry.run_id, entry
        self._part, self._settings = part, settings
        self.forward = BatchedForward(
            entry,
            batch_size=settings.batch_size,
            device=settings.device,
            autocast=settings.autocast,
            poll=poll,
            pool=settings.pool,
        )
        self._rows: list[Row] = []
        self._queued = 0
        self.scores_DHK = np.empty((0, 0, 0), dtype=np.float32)
        self.positions_DP3: np.ndarray | None = None
        self.forward_seconds = 0.0

    def expect(self, rows: Sequence[Row], *, distinct: int) -> None:
        """Note the rows of the next sample, of which `distinct` inputs were queued; their places
        count from its first."""
        first = self._queued
        self._rows += [row._replace(places=tuple(first + p for p in row.places)) for row in rows]
        self._queued += distinct

    def finish(self) -> None:
        """Run what is still queued.

        Raises:
            RunError: scores are not finite, naming the first such row; or not one set per head.
        """
        scores, self.forward_seconds = self.forward.finish()
        scores = self._without_positions(scores)
        self.scores_DHK = scores if scores.ndim == 3 else scores[:, None]
        heads, wanted = self.scores_DHK.shape[1], len(self.entry.folders)
        if heads != wanted:
            raise RunError(f"the model names {wanted} heads but answers {heads}", where=self.run_id)
        finite = [bool(np.isfinite(scores_HK).all()) for scores_HK in self.scores_DHK]
        if self.positions_DP3 is not None:
            of_places = [bool(np.isfinite(places_P3).all()) for places_P3 in self.positions_DP3]
            finite = [whole and place for whole, place in zip(finite, of_places, strict=True)]
        for row in self._rows:
            if not all(finite[place] for place in row.places):
                raise RunError(
                    f"run {self.run_id} gave scores that are not finite",
                    where=f"sample {row.sample.sample_id}, condition {row.condition.id}",
                    hint="its weights or its precision are broken: train it again or judge in fp32",
                )

    def _without_positions(self, outputs_DF: np.ndarray) -> np.ndarray:
        """Logits [D, P, K], the same for each target, of a model that says places [D, P, 3] too."""
        module = self.entry.module
        if not isinstance(module, HasPositions):
            return outputs_DF
        targets = len(module.position_names)
        self.positions_DP3 = outputs_DF[:, -3 * targets :].reshape(-1, targets, 3)
        return np.repeat(outputs_DF[:, None, : -3 * targets], targets, axis=1)

    def _place_columns(self, rows: Sequence[Row], target: int) -> dict[str, Any]:
        if self.positions_DP3 is None:
            return {}
        said = [self.positions_DP3[row.places[0], target] for row in rows]
        known = [row.truths.targets[target] if row.truths else None for row in rows]
        horizons = [row.truths.horizons_frames[target] if row.truths else None for row in rows]
        values = [(*place, *(true or (None,) * 3)) for place, true in zip(said, known, strict=True)]
        columns = dict(zip(POSITION_COLUMNS, zip(*values, strict=True), strict=True))
        return {**columns, HORIZON_COLUMN: horizons}

    def write(self, spent: Spent, *, shared_by: int) -> None:
        """Write the part, then its cost; `shared_by` entries divide the spent seconds.

        Of a model with heads the first head's file comes last, and it alone has the cost.
        """
        rows = self._rows
        columns = {
            "sample_id": [row.sample.sample_id for row in rows],
            "group": [row.sample.group for row in rows],
            "condition": [row.condition.id for row in rows],
            "label": [row.sample.label for row in rows],
            **{
                name: [getattr(row.truth, name) for row in rows]
                for name in (*TRUTH_COLUMNS, "clip_key")
            },
        }
        average = self._settings.average
        for head, folder in reversed(list(enumerate(self.entry.folders))):
            scores_DK = self.scores_DHK[:, head]
            scores = [average_views(scores_DK[list(row.places)], average) for row in rows]
            own = columns | self._place_columns(rows, head)
            write_part(folder, self._part.number, own, np.stack(scores))
        cost = PartCost(
            samples=len(self._part.samples),
            clips=len(rows),
            distinct_clips=len(self.scores_DHK),
            decode_seconds=spent.decode_seconds / shared_by,
            preprocess_seconds=spent.preprocess_seconds / shared_by,
            forward_seconds=self.forward_seconds,
            wall_seconds=spent.wall_seconds / shared_by,
            shared_by=shared_by,
        )
        record_cost(self.entry.folder, self._settings.shard, self._part.number, cost)


class JudgePart(Protocol):
    """Judges one part for the entries that lack it."""

    def __call__(
        self, part: Part, forwarding: Forwarding, cost: JudgeCost, progress: Progress
    ) -> None: ...


def judge_resident(
    entries: Sequence[JudgedEntry],
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    judge_part: JudgePart,
    *,
    part_samples: int,
    forwarding: Forwarding,
    stop: StopFlag | None,
    report: Callable[[dict[str, Any]], None] | None,
) -> JudgeCost:
    """Judge the missing parts of samples that are in memory, one after the other.

    Raises:
        StopRequested: `stop` was set; finished parts are kept, the part in hand is dropped.
    """
    parts, kept = open_parts(
        entries, samples, conditions, part_samples=part_samples, shard=forwarding.shard
    )
    cost = JudgeCost(parts_kept=kept)
    progress = Progress([part.samples for part in parts], kept=kept, stop=stop, report=report)
    with ExitStack() as cleanup:
        if parts and forwarding.device.type == "cpu":
            pool = cleanup.enter_context(closing(open_pool(entries, forwarding.batch_size)))
            forwarding = replace(forwarding, pool=pool)
        for part in parts:
            judge_part(part, forwarding, cost, progress)
            progress.part_done()
            if len(cost.failed) == len(entries):
                break
    cost.wall_seconds = progress.elapsed()
    return cost


def open_judges(
    part: Part, settings: Forwarding, cost: JudgeCost, poll: Callable[[], None]
) -> list[PartJudge]:
    """One per entry that lacks the part and has not failed."""
    alive = [entry for entry in part.entries if entry.run_id not in cost.failed]
    return [PartJudge(part, entry, settings, poll) for entry in alive]


def close_judges(
    judges: Sequence[PartJudge], spent: Callable[[], Spent], cost: JudgeCost, *, samples: int
) -> None:
    """Run what is queued, write the rows of all that did not fail, and add up what it cost.

    Args:
        spent: asked once all batches have run.
    """
    whole = [judge for judge in judges if cost.keeps(judge.run_id, judge.finish)]
    seconds = spent()
    for judge in whole:
        judge.write(seconds, shared_by=len(whole))
        known = cost.forward_seconds.get(judge.run_id, 0.0)
        cost.forward_seconds[judge.run_id] = known + judge.forward_seconds
        cost.distinct_clips += len(judge.scores_DHK)
    cost.decode_seconds += seconds.decode_seconds
    cost.preprocess_seconds += seconds.preprocess_seconds
    cost.samples += samples
    cost.parts_done += 1


class NamedSet(Protocol):
    """Samples from elsewhere, judged in a folder of their own."""

    @property
    def name(self) -> str: ...


Elsewhere = TypeVar("Elsewhere", bound=NamedSet)


def ood_entry(entry: JudgedEntry, ood: NamedSet) -> JudgedEntry:
    """The same run, with its predictions on a set from elsewhere."""
    return replace(entry, folder=entry.folder / OOD_FOLDER / ood.name)


def judge_sets(
    entries: Sequence[JudgedEntry],
    sets: Sequence[Elsewhere],
    judge: Callable[[list[JudgedEntry], Elsewhere], JudgeCost],
) -> JudgeCost:
    """Judge set after set; a run that failed on one is not asked about the next."""
    total = JudgeCost()
    for ood in sets:
        total.add(judge([ood_entry(e, ood) for e in entries if e.run_id not in total.failed], ood))
    return total


def complete_heads(
    entry: JudgedEntry,
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    *,
    part_samples: int,
    classes: Sequence[str],
    first: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Mark the predictions of all heads or targets as whole once every part of every shard is
    there.

    The folder of the first comes last: where it is complete, all are. Harmless to repeat, also by
    several shards at once.

    Args:
        first: what else belongs to a judged run, written before the folder of the first is marked;
            see `records.predictions.write_complete`.
    Returns:
        False when a part is missing or damaged, or the parts are of another judging.
    """
    return all(
        finalize_predictions(
            folder,
            samples=samples,
            conditions=conditions,
            part_samples=part_samples,
            classes=classes,
            fingerprint=entry.fingerprint,
            first=first if folder == entry.folder else None,
        )
        for folder in reversed(entry.folders)
    )
