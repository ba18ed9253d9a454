"""The places that runs of a study of scenes say, ready to be compared.

A run says the place of one target at least; what further heads say lies below its predictions, a
folder per target. Entries that say a place of the same target stand in one table.

Shapes: C conditions, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.core.errors import RecordError
from regatta.core.registry import SOURCES
from regatta.records.predictions import HEADS_FOLDER, RunPredictions, read_run_predictions

FORECAST, LAST_VISIBLE = "forecast", "last-visible"
COLUMN_WORDS = {FORECAST: "next_position", LAST_VISIBLE: "last_visible"}
"""Target -> what a column of its error is called."""
EXTRACTOR_WORDS = {"magvit": "frame CNN + attention (magvit)"}
"""Extractors whose name says another thing than they are."""


def is_of_scenes(judged: JudgedStudy) -> bool:
    """Whether the study judges scenes seen by cameras."""
    listed = SOURCES.listed.get(judged.study.data.source)
    return listed is not None and listed.kind == "scene"


def extractor_words(name: str) -> str:
    """An extractor as tables print it."""
    return EXTRACTOR_WORDS.get(name, name)


@dataclass(frozen=True)
class PlacedRun:
    """One entry and seed: positions_CN3 and the true targets_N3 in u."""

    run: JudgedRun
    positions_CN3: np.ndarray
    targets_N3: np.ndarray
    scores_CNK: np.ndarray

    @property
    def entry(self) -> str:
        return self.run.entry

    @property
    def seed(self) -> int:
        return self.run.seed


@dataclass(frozen=True)
class Placed:
    """All runs that say a place of one target. targets_N3 is NaN where it is not known."""

    target: str
    horizon_frames: int
    targets_N3: np.ndarray
    runs: list[PlacedRun]

    @property
    def entries(self) -> list[str]:
        return list(dict.fromkeys(run.entry for run in self.runs))

    def runs_of(self, entry: str) -> list[PlacedRun]:
        return [run for run in self.runs if run.entry == entry]


def read_placed(judged: JudgedStudy) -> list[Placed]:
    """One per target, that of the first entry first; empty where no run says a place.

    Raises:
        RecordError: a place is not finite, or was judged on other samples or for another truth
            than those of the other runs.
    """
    found: dict[str, list[tuple[PlacedRun, int]]] = {}
    for entry in judged.entries:
        for run in judged.runs_of(entry):
            folder = judged.folder.run(run.run_id).predictions(judged.protocol)
            own = read_places(judged, run, folder)
            if own.horizon_frames is None:
                continue
            main = FORECAST if own.horizon_frames > 0 else LAST_VISIBLE
            _keep(found, main, run, own, folder)
            heads = sorted((folder / HEADS_FOLDER).glob("*/complete.json"))
            for path in heads:
                if path.parent.name != main:
                    head = read_places(judged, run, path.parent)
                    if head.horizon_frames is not None:
                        _keep(found, path.parent.name, run, head, path.parent)
    return [_placed(target, runs) for target, runs in found.items()]


def read_places(judged: JudgedStudy, run: JudgedRun, folder: Path) -> RunPredictions:
    """What a folder of a run holds, on the samples and conditions of the study."""
    found = read_run_predictions(folder, run_id=run.run_id, entry=run.entry, seed=run.seed)
    ids = [condition.id for condition in judged.conditions]
    same = np.array_equal(found.sample_ids, judged.sample_ids)
    if not same or [condition.id for condition in found.conditions] != ids:
        raise RecordError(
            "places were judged on other samples or conditions than the classes of their run",
            where=folder,
            hint="delete this run's predictions and run the study again: only they are redone",
        )
    return found


def _keep(
    found: dict[str, list[tuple[PlacedRun, int]]],
    target: str,
    run: JudgedRun,
    own: RunPredictions,
    folder: Path,
) -> None:
    assert own.positions is not None
    assert own.targets is not None
    assert own.horizon_frames is not None
    if not np.isfinite(own.positions).all():
        bad = ~np.isfinite(own.positions).all(axis=(0, 2))
        raise RecordError(
            f"{int(bad.sum())} samples have a place that is not finite",
            where=f"{folder}, sample {str(own.sample_ids[int(bad.argmax())])!r}",
            hint="the model gives NaN or infinity: train it anew, for example with fp32",
        )
    placed = PlacedRun(
        run, own.positions.astype(np.float64), own.targets.astype(np.float64), own.scores
    )
    found.setdefault(target, []).append((placed, own.horizon_frames))


def _placed(target: str, runs: Sequence[tuple[PlacedRun, int]]) -> Placed:
    first, horizon = runs[0]
    for other, frames in runs[1:]:
        same = np.array_equal(first.targets_N3, other.targets_N3, equal_nan=True)
        if not same or frames != horizon:
            raise RecordError(
                f"runs were judged against other true places of the target {target}",
                where=f"{first.run.run_id} and {other.run.run_id}",
                hint="delete the predictions of one of them and run the study again",
            )
    return Placed(target, horizon, first.targets_N3, [run for run, _ in runs])


def training_model(run: JudgedRun) -> dict[str, Any]:
    """Options of the model as training recorded them."""
    recorded = run.training.get("model")
    return dict(recorded.get("options") or {}) if isinstance(recorded, dict) else {}


def entry_options(judged: JudgedStudy, name: str) -> dict[str, Any]:
    """The model's options as recorded over those as written in the study."""
    written = next((e.options for e in judged.study.entries if e.name == name), {})
    runs = judged.runs_of(name)
    return {**written, **(training_model(runs[0]) if runs else {})}
