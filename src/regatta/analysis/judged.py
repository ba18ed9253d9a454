"""Reads all that is judged of a study and makes sure that it may stand in one table. A run here is
an entry and seed, whose folds are joined.

Shapes: S seeds of an entry, C conditions, N samples, K classes. Scores are reduced run by run, so
memory holds all scores of one run only, and of the others those of the headline condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from regatta.analysis.concentration import true_log_probability, window_concentration
from regatta.analysis.folds import JoinedRun, read_joined, whole_runs
from regatta.analysis.robustness import identical_conditions
from regatta.config.expand import protocol_id
from regatta.config.schema import Study
from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.records.fingerprint import check_same_conditions
from regatta.records.predictions import (
    TRUTH_COLUMNS,
    Condition,
    RunPredictions,
    find_condition,
)
from regatta.records.run_folder import RunFolder, StudyFolder

SHOWN_IDS = 10


@dataclass(frozen=True)
class JudgedRun:
    """What the statistics need of one entry and seed; most of its scores are gone."""

    run_id: str
    """The first fold's, where there are folds."""
    entry: str
    seed: int
    correct: np.ndarray
    """bool [C, N]."""
    top5: np.ndarray | None
    """Share of samples whose label is in the five highest scores, [C]; None below six classes."""
    constant: str | None
    """The class that the run gives for every sample in every condition, if it does."""
    truth: dict[str, np.ndarray]
    """Mean of each of TRUTH_COLUMNS over samples, [C]; NaN where no sample has a value."""
    still_share: np.ndarray
    """Share of samples that show a single distinct frame, [C]."""
    identical: list[list[int]]
    concentration: np.ndarray | None
    """How unevenly the true class's probability lies over sliding windows, [N]; None where the
    conditions are not positions of a window."""
    headline_scores: np.ndarray
    """Scores at the headline condition, float32 [N, K]."""
    temperature_N: np.ndarray
    """Fitted on validation by the run that judged each sample, NaN where it is not known."""
    ceiling: dict[str, float]
    fingerprint: dict[str, Any]
    cost: dict[str, Any]
    info: dict[str, Any]
    """run.json."""
    training: dict[str, Any]
    """training_results.json, joined over folds; empty when it is missing."""
    run_ids: list[str] = field(default_factory=list)
    """The runs behind this one: itself, or all its folds."""
    weights: list[Any] = field(default_factory=list)
    """Hash of the weights of each of `run_ids`."""


@dataclass(frozen=True)
class JudgedStudy:
    """All judged runs of a study on the same samples, conditions and labels."""

    folder: StudyFolder
    study: Study
    protocol: str
    conditions: list[Condition]
    classes: list[str]
    sample_ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    runs: list[JudgedRun]
    missing: list[str]
    """A sentence per run that is not in the comparison."""
    data: dict[str, Any]
    """data.json."""
    unit: Literal["sample", "class"] = "sample"
    """What was recorded: answers of every sample, or only how many of each class were right. With
    "class" a class is a group, which of its samples were right is not known, and there are no
    scores."""

    @property
    def entries(self) -> list[str]:
        """Entries with a judged run, in the order of the study."""
        present = {run.entry for run in self.runs}
        return [entry.name for entry in self.study.entries if entry.name in present]

    def runs_of(self, entry: str) -> list[JudgedRun]:
        return [run for run in self.runs if run.entry == entry]


def read_judged_study(folder: StudyFolder) -> JudgedStudy:
    """Load what is judged under the study's protocol; runs that are not judged yet are listed.

    Raises:
        RecordError: no run is judged, a score is not finite, a file is damaged, or runs differ in
            samples, labels, groups, classes, conditions or fingerprint.
        ConfigError: `compare.condition` names no condition of the protocol.
    """
    study = folder.study()
    protocol = protocol_id(study.protocol)
    runs: list[JudgedRun] = []
    first: RunPredictions | None = None
    found, missing = whole_runs(folder, protocol)
    for parts in found:
        joined = read_joined(parts, protocol)
        if first is not None:
            check_same_samples(first, joined.predictions)
        headline = find_condition(joined.predictions.conditions, study.compare.condition)
        runs.append(_reduce(joined, parts[0][1], headline))
        first = first or _without_scores(joined.predictions)
    if first is None:
        raise RecordError(
            "no run of this study is judged yet",
            where=folder.path,
            hint="finish it with: regatta run <study file>",
        )
    check_same_conditions({run.run_id: run.fingerprint for run in runs})
    return JudgedStudy(
        folder=folder,
        study=study,
        protocol=protocol,
        conditions=first.conditions,
        classes=first.classes,
        sample_ids=first.sample_ids,
        groups=first.groups,
        labels=first.labels,
        runs=runs,
        missing=missing,
        data=read_json(folder.data_json) if folder.data_json.is_file() else {},
    )


def check_same_samples(first: RunPredictions, other: RunPredictions) -> None:
    """Raise RecordError that names what differs between two runs: ids, labels, groups, cells."""
    where = f"{first.run_id} against {other.run_id}"
    only_first = sorted(set(first.sample_ids) - set(other.sample_ids))
    only_other = sorted(set(other.sample_ids) - set(first.sample_ids))
    if only_first or only_other:
        raise RecordError(
            f"these runs were judged on different samples: {len(only_first)} only in "
            f"{first.run_id} ({_shown(only_first)}), {len(only_other)} only in {other.run_id} "
            f"({_shown(only_other)})",
            where=where,
            hint="judge both on the same samples with: regatta evaluate <study file>",
        )
    for what, ours, theirs in (
        ("labels", first.labels, other.labels),
        ("groups", first.groups, other.groups),
    ):
        differs = np.flatnonzero(ours != theirs)
        if len(differs):
            raise RecordError(
                f"these runs have different {what} for {len(differs)} samples: "
                f"{_shown(first.sample_ids[differs])}",
                where=where,
                hint="judge both again with: regatta evaluate <study file>",
            )
    if first.classes != other.classes or first.conditions != other.conditions:
        what = "classes" if first.classes != other.classes else "conditions"
        raise RecordError(f"these runs were judged with different {what}", where=where)


def top_rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of the label among the scores [N, K], 0 = highest; of equal scores the first wins."""
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def _reduce(joined: JoinedRun, run: RunFolder, headline: int) -> JudgedRun:
    predictions = joined.predictions
    _check_finite(predictions)
    predicted = predictions.scores.argmax(axis=2)
    constant = None
    if (predicted == predicted[0, 0]).all():
        constant = predictions.classes[int(predicted[0, 0])]
    return JudgedRun(
        run_id=predictions.run_id,
        entry=predictions.entry,
        seed=predictions.seed,
        correct=predicted == predictions.labels[None, :],
        top5=_top5(predictions),
        constant=constant,
        truth={name: _mean_present(predictions.truth[name]) for name in TRUTH_COLUMNS},
        still_share=(predictions.truth["distinct_frames"] == 1).mean(axis=1),
        identical=identical_conditions(predictions.clip_keys),
        concentration=_concentration(predictions),
        # A view would keep the scores of all conditions alive.
        headline_scores=predictions.scores[headline].copy(),
        temperature_N=joined.temperature_N,
        ceiling=predictions.ceiling,
        fingerprint=predictions.fingerprint,
        cost=predictions.cost,
        info=run.info(),
        training=joined.training,
        run_ids=joined.run_ids,
        weights=joined.weights,
    )


def _concentration(predictions: RunPredictions) -> np.ndarray | None:
    """Read here, because the scores that it needs are let go after each run."""
    if any(set(condition.axes) != {"position"} for condition in predictions.conditions):
        return None
    return window_concentration(true_log_probability(predictions.scores, predictions.labels))


def _check_finite(predictions: RunPredictions) -> None:
    for row, scores in enumerate(predictions.scores):
        bad = ~np.isfinite(scores).all(axis=1)
        if bad.any():
            sample = predictions.sample_ids[int(bad.argmax())]
            raise RecordError(
                f"{int(bad.sum())} samples have scores that are not finite",
                where=f"{predictions.run_id}, condition {predictions.conditions[row].id}, "
                f"sample {sample!r}",
                hint="the model gives NaN or infinity: train it anew, for example with fp32",
            )


def _top5(predictions: RunPredictions) -> np.ndarray | None:
    """None below six classes, where the answer is 100 % whatever the model does."""
    if len(predictions.classes) < 6:
        return None
    ranks = (top_rank(scores, predictions.labels) for scores in predictions.scores)
    return np.array([float((rank < 5).mean()) for rank in ranks])


def _mean_present(values: np.ndarray) -> np.ndarray:
    """Mean over samples [C] of the values that are there; NaN when none is."""
    present = np.isfinite(values)
    count = present.sum(axis=1)
    total = np.where(present, values, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _without_scores(predictions: RunPredictions) -> RunPredictions:
    """The same without the large tables, so that the first run's scores do not stay in memory."""
    return replace(predictions, scores=np.empty(0), clip_keys=np.empty(0), truth={})


def _shown(ids: Sequence[str] | np.ndarray) -> str:
    if len(ids) == 0:
        return "none"
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(repr(str(name)) for name in ids[:SHOWN_IDS]) + more
