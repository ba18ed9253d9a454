"""Judge several runs on the same windows of signals: part by part, resumable, sharded.

Shapes: C channels, L samples of a window, D distinct windows of a sample over all conditions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from regatta.core.errors import ConfigError
from regatta.core.signals import StopFlag
from regatta.data.manifest import Sample
from regatta.evaluation.judged_parts import (
    Forwarding,
    JudgeCost,
    Part,
    PartJudge,
    Row,
    Spent,
    close_judges,
    judge_resident,
    open_judges,
)
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.progress import Progress
from regatta.evaluation.window_protocols import (
    SignalFacts,
    Window,
    WindowProtocol,
    as_recorded,
    signal_key,
)


@dataclass(frozen=True)
class Shown:
    """The inputs that one sample gives over all conditions.

    distinct: float32 [D, ...], without repeats. rows: one per condition, with places in `distinct`.
    """

    distinct: torch.Tensor
    rows: list[Row]


@dataclass(frozen=True)
class Bench:
    """What stays the same over all parts of one call."""

    facts: SignalFacts
    protocol: WindowProtocol

    def signal_of(self, sample: Sample) -> np.ndarray:
        """float32 [C, L]."""
        return self.facts.store.select([sample])[0].numpy()


def judge_windows(
    entries: Sequence[JudgedEntry],
    samples: Sequence[Sample],
    facts: SignalFacts,
    protocol: WindowProtocol,
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

    A window is changed once per condition for all entries, equal results run once, and the windows
    of a part share batches of exactly `batch_size`, so that scores never depend on company.

    Args:
        entries, samples, batch_size, part_samples, shard, autocast, stop, report: as for clips, see
            `regatta.evaluation.judge.judge_parts`.
        facts: of the data set, with its windows.
    Raises:
        ConfigError: the data or an entry cannot be judged under the protocol.
        StopRequested: `stop` was set; finished parts are kept, the part in hand is dropped.
    """
    _check_entries(entries, protocol)
    if protocol.check is not None:
        protocol.check(facts.store)
    bench = Bench(facts, protocol)
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


def _check_entries(entries: Sequence[JudgedEntry], protocol: WindowProtocol) -> None:
    reading = [entry.run_id for entry in entries if entry.spec.reads == "features"]
    if reading and protocol.show is not None:
        raise ConfigError(
            f"the protocol '{protocol.name}' changes signals, but these runs read hand-made "
            f"features: {', '.join(reading)}",
            where="protocol.name",
            hint="judge them under the protocol plain, in a study of their own",
        )


def _judge_part(
    part: Part, forwarding: Forwarding, cost: JudgeCost, progress: Progress, *, bench: Bench
) -> None:
    started, showing_seconds = time.perf_counter(), 0.0
    judges = open_judges(part, forwarding, cost, progress.poll)
    kinds = {judge.entry.spec.reads for judge in judges}
    for sample in part.samples:
        progress.poll()
        before = time.perf_counter()
        shown = {reads: SHOW[reads](sample, bench) for reads in kinds}
        showing_seconds += time.perf_counter() - before
        add = partial(_add, shown=shown)
        judges = [judge for judge in judges if cost.keeps(judge.run_id, partial(add, judge))]
        progress.sample_done()
    close_judges(
        judges,
        lambda: Spent(0.0, showing_seconds, time.perf_counter() - started),
        cost,
        samples=len(part.samples),
    )


def _add(judge: PartJudge, *, shown: dict[str, Shown]) -> None:
    mine = shown[judge.entry.spec.reads]
    judge.forward.add_inputs(mine.distinct)
    judge.expect(mine.rows, distinct=len(mine.distinct))


def _show_signals(sample: Sample, bench: Bench) -> Shown:
    """The window under every condition; conditions that give the same bits share one input."""
    signal_CL, rate_hz = bench.signal_of(sample), bench.facts.store.rate_hz
    show = bench.protocol.show
    window = Window(sample, signal_CL, bench.facts)
    place: dict[str, int] = {}
    distinct, rows = [], []
    for condition in bench.protocol.conditions:
        shown = as_recorded(signal_CL) if show is None else show(window, condition)
        truth = shown.truth(rate_hz)
        if truth.clip_key not in place:
            place[truth.clip_key] = len(distinct)
            distinct.append(torch.from_numpy(shown.signal_CL))
        rows.append(Row(sample, condition, truth, (place[truth.clip_key],)))
    return Shown(torch.stack(distinct), rows)


def _show_features(sample: Sample, bench: Bench) -> Shown:
    """The window's hand-made features, of the whole window as it was recorded."""
    store = bench.facts.store
    features = store.features
    if features is None:
        raise ConfigError(
            "an entry reads hand-made features, but the data has none",
            where="entries",
            hint="take an entry that reads the signals",
        )
    features_1F = features[store.rows([sample])]
    truth = as_recorded(bench.signal_of(sample)).truth(store.rate_hz)
    truth = truth._replace(clip_key=signal_key(features_1F.numpy()))
    return Shown(features_1F, [Row(sample, c, truth, (0,)) for c in bench.protocol.conditions])


SHOW: dict[str, Callable[[Sample, Bench], Shown]] = {
    "signals": _show_signals,
    "features": _show_features,
}
