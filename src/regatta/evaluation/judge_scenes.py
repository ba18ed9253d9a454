"""Judge several runs on the same scenes: part by part, resumable, sharded.

Shapes: n scenes of a part, V views, T frames, S pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any
from typing import Protocol as Shape

import numpy as np
import torch

from regatta.core.errors import ConfigError
from regatta.core.signals import StopFlag
from regatta.data.manifest import Sample
from regatta.data.scenes.cameras import Cameras
from regatta.data.scenes.settings import FRAMES_PER_SECOND, HORIZONS, SceneSettings
from regatta.evaluation.judged_parts import (
    Forwarding,
    JudgeCost,
    Part,
    PartJudge,
    Places,
    Row,
    Spent,
    Truth,
    close_judges,
    complete_heads,
    judge_resident,
    judge_sets,
    open_judges,
)
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.progress import Progress
from regatta.evaluation.scene_conditions import ScenePart
from regatta.evaluation.scene_ood import OodScenes
from regatta.evaluation.scene_protocols import UNCHANGED, SceneProtocol
from regatta.models.contracts import HasPositions
from regatta.records.conditions import Condition


class Scenes(Shape):
    """What judging asks of scenes; `regatta.data.scene_store.SceneStore` is one."""

    @property
    def settings(self) -> SceneSettings: ...
    @property
    def cameras(self) -> Cameras: ...
    @property
    def positions(self) -> np.ndarray:
        """float64 [N, T + 5, 3], NaN where not known."""
        ...

    @property
    def indices(self) -> np.ndarray: ...
    def rows(self, samples: Sequence[Sample]) -> np.ndarray: ...
    def frames(self, rows: Sequence[int] | np.ndarray, views: Sequence[int]) -> torch.Tensor:
        """uint8 [n, len(views), T, 3, S, S]."""
        ...


@dataclass(frozen=True)
class Bench:
    """What stays the same over all parts of one call. views: all that any entry takes."""

    scenes: Scenes
    protocol: SceneProtocol
    views: tuple[int, ...]


def judged_views(entries: Sequence[JudgedEntry]) -> tuple[int, ...]:
    """All cameras that any of the entries takes, in order."""
    return tuple(sorted({view for entry in entries for view in entry.spec.views}))


def judge_scenes(
    entries: Sequence[JudgedEntry],
    samples: Sequence[Sample],
    scenes: Scenes,
    protocol: SceneProtocol,
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

    A scene is changed once per condition for all entries, each of which sees its own cameras of it.
    Batches have exactly `batch_size` scenes, so that scores never depend on company. Where scenes
    are known to be, predictions of places stand beside their true ones.

    Args:
        entries, samples, batch_size, shard, autocast, stop, report: as for clips, see
            `regatta.evaluation.judge.judge_parts`.
        part_samples: scenes whose pictures are in memory twice: 64 of four views at 64 pixels are
            100 MB.
        protocol: see `scene_protocols.fit_protocol`, which leaves out what cannot be judged here.
    Raises:
        StopRequested: `stop` was set; finished parts are kept, the part in hand is dropped.
    """
    bench = Bench(scenes, protocol, judged_views(entries))
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
    started, protocol = time.perf_counter(), bench.protocol
    judges = open_judges(part, forwarding, cost, progress.poll)
    scenes = _part_of(bench, part.samples)
    loading_seconds, showing_seconds = time.perf_counter() - started, 0.0
    places = {judge.run_id: target_places(judge.entry, part.samples, bench) for judge in judges}
    for condition in protocol.conditions:
        progress.poll()
        before = time.perf_counter()
        shown = scenes.frames if protocol.show is None else protocol.show(scenes, condition)
        orders = protocol.order(scenes.sample_ids, shown.shape[2], condition)
        told = _Told(part.samples, condition, shown, bench.views, orders)
        showing_seconds += time.perf_counter() - before
        judges = [
            judge
            for judge in judges
            if cost.keeps(judge.run_id, partial(told.add_to, judge, places[judge.run_id]))
        ]
    close_judges(
        judges,
        lambda: Spent(loading_seconds, showing_seconds, time.perf_counter() - started),
        cost,
        samples=len(part.samples),
    )
    for _ in part.samples:
        progress.sample_done()


def _part_of(bench: Bench, samples: Sequence[Sample]) -> ScenePart:
    scenes, rows = bench.scenes, bench.scenes.rows(samples)
    return ScenePart(
        [sample.sample_id for sample in samples],
        scenes.frames(rows, bench.views).numpy(),
        bench.views,
        scenes.positions[rows, : scenes.settings.frames],
        scenes.indices[rows],
        scenes.cameras,
        scenes.settings,
    )


def target_places(
    entry: JudgedEntry, samples: Sequence[Sample], bench: Bench
) -> list[Places] | None:
    """Where the scenes truly are, for each target of the entry's model; None of one without.

    Raises:
        ConfigError: the model names a target that scenes do not have.
    """
    if not isinstance(entry.module, HasPositions):
        return None
    names, scenes = entry.module.position_names, bench.scenes
    foreign = sorted(set(names) - set(HORIZONS))
    if foreign:
        raise ConfigError(
            f"there is no target {', '.join(foreign)}",
            where=entry.run_id,
            hint=f"targets: {', '.join(HORIZONS)}",
        )
    horizons = tuple(HORIZONS[name] for name in names)
    columns = [scenes.settings.frames - 1 + horizon for horizon in horizons]
    known_nP3 = scenes.positions[scenes.rows(samples)][:, columns]
    return [Places(tuple(map(_place, known_P3)), horizons) for known_P3 in known_nP3]


def _place(place_3: np.ndarray) -> tuple[float, float, float] | None:
    x, y, z = map(float, place_3)
    return (x, y, z) if np.isfinite(place_3).all() else None


class _Told:
    """The pictures of one condition, with what their rows say; views are cut out once for all."""

    def __init__(
        self,
        samples: Sequence[Sample],
        condition: Condition,
        shown: np.ndarray,
        views: tuple[int, ...],
        orders_nT: np.ndarray,
    ) -> None:
        self._samples, self._condition = samples, condition
        self._shown, self._views, self._orders_nT = shown, views, orders_nT
        self._cut: dict[tuple[int, ...], tuple[torch.Tensor, list[Truth]]] = {}

    def add_to(self, judge: PartJudge, places: list[Places] | None) -> None:
        """Queue the scenes as this entry's cameras see them."""
        frames, truths = self._of(judge.entry.spec.views)
        judge.forward.add_inputs(frames)
        rows = [
            Row(sample, self._condition, truth, (row,), places[row] if places else None)
            for row, (sample, truth) in enumerate(zip(self._samples, truths, strict=True))
        ]
        judge.expect(rows, distinct=len(frames))

    def _of(self, views: tuple[int, ...]) -> tuple[torch.Tensor, list[Truth]]:
        if views not in self._cut:
            places = [self._views.index(view) for view in views]
            whole = places == list(range(len(self._views)))
            cut = self._shown if whole else np.ascontiguousarray(self._shown[:, places])
            truths = [
                frame_truth(order, sha256(np.ascontiguousarray(scene).data).hexdigest()[:32])
                for order, scene in zip(self._orders_nT, cut, strict=True)
            ]
            # A file that is mapped for reading is never written to here.
            self._cut[views] = torch.from_numpy(cut), truths
        return self._cut[views]


def frame_truth(order_T: np.ndarray, key: str) -> Truth:
    """What frames in this order are: distinct ones, their span, their rate and the held share.

    The rate is None where they are not evenly spaced in their own order.
    """
    kept = np.unique(order_T)
    span_seconds = float(kept[-1] - kept[0]) / FRAMES_PER_SECOND
    steps = set(np.diff(kept).tolist())
    is_even = len(steps) == 1 and bool((np.diff(order_T) >= 0).all())
    rate_hz = FRAMES_PER_SECOND / steps.pop() if is_even else None
    return Truth(len(kept), span_seconds, rate_hz, 1 - len(kept) / len(order_T), key)


def judge_elsewhere(
    entries: Sequence[JudgedEntry], sets: Sequence[OodScenes], **settings: Any
) -> JudgeCost:
    """Judge scenes outside the training ranges, each set in a folder of its own.

    Args:
        settings: batch_size, part_samples, device ... of `judge_scenes`.
    Returns:
        What it cost over all sets; a run that failed on one set is not asked about the next.
    """
    return judge_sets(
        entries,
        sets,
        lambda beside, ood: judge_scenes(beside, ood.samples, ood, UNCHANGED, **settings),
    )


def complete_scenes(
    entry: JudgedEntry,
    samples: Sequence[Sample],
    protocol: SceneProtocol,
    *,
    part_samples: int,
    classes: Sequence[str],
    first: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """As `judged_parts.complete_heads`."""
    return complete_heads(
        entry,
        samples,
        protocol.conditions,
        part_samples=part_samples,
        classes=classes,
        first=first,
    )
