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

from regatta.analysis.class_unit import pseudo_samples
from regatta.analysis.concentration import true_log_probability, window_concentration
from regatta.analysis.folds import JoinedRun, Runs, read_joined, whole_runs
from regatta.analysis.robustness import identical_conditions
from regatta.analysis.same_samples import check_same_samples
from regatta.config.expand import protocol_id
from regatta.config.schema import Study
from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.core.passed_on import hide_folders
from regatta.records.class_counts import CLASS_UNIT, ClassCounts, read_class_counts, unit_of
from regatta.records.conditions import Condition, find_condition
from regatta.records.fingerprint import (
    check_known,
    check_same_conditions,
    differences,
    is_unknown,
)
from regatta.records.judging_notes import read_judging_notes
from regatta.records.predictions import TRUTH_COLUMNS, RunPredictions
from regatta.records.run_folder import RunFolder, StudyFolder

IMPORTED_NOTE, DIFFERENT_NOTE = "imported: ", "judged differently: "
UNCLUSTERED_NOTE = "clustering is not covered"
CLASSES_ONLY = (
    "only accuracies of classes are known: classes are resampled whole, and whatever needs single "
    "samples or their scores is not measured"
)


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
    """Share of samples that show a single distinct frame, [C]; NaN where that is not known."""
    identical: list[list[int]]
    concentration: np.ndarray | None
    """How unevenly the true class's probability lies over sliding windows, [N]; None where the
    conditions are not positions of a window."""
    headline_scores: np.ndarray
    """Scores at the headline condition, float32 [N, K]; [N, 0] where only counts are known."""
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
    origin: dict[str, Any] = field(default_factory=dict)
    """What an import recorded of its file; empty for a run that was judged here."""
    notes: list[str] = field(default_factory=list)
    """What judging had to say of conditions and sets that it could not take."""


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

    @property
    def group_word(self) -> str:
        """What a group is called in sentences."""
        return "class" if self.unit == CLASS_UNIT else "group"

    @property
    def origin_notes(self) -> list[str]:
        """What limits a comparison whose predictions were made elsewhere, or judged differently."""
        by_text: dict[str, list[str]] = {}
        for run in self.runs:
            for text in (*run.origin.get("notes", []), *run.notes):
                by_text.setdefault(text, []).append(run.entry)
        of_all = {text for text in by_text if all(text in run.notes for run in self.runs)}
        unknown = dict.fromkeys(run.entry for run in self.runs if is_unknown(run.fingerprint))
        who = f"{', '.join(unknown)} {'was' if len(unknown) == 1 else 'were'}"
        found = [f"{IMPORTED_NOTE}how {who} judged is not known here"] if unknown else []
        found += [CLASSES_ONLY] if self.unit == CLASS_UNIT else []
        found += [each.sentence for each in differences(_fingerprints(self.runs))]
        said = {text: ", ".join(dict.fromkeys(names)) for text, names in by_text.items()}
        return found + [
            text if text in of_all else f"{names}: {text}" for text, names in said.items()
        ]


def is_origin_note(text: str) -> bool:
    """Whether a note limits the verdict because of where predictions come from."""
    starts = (IMPORTED_NOTE, DIFFERENT_NOTE, CLASSES_ONLY)
    return text.startswith(starts) or UNCLUSTERED_NOTE in text


def imports_of(judged: JudgedStudy) -> list[dict[str, Any]]:
    """A row per imported run: its entry and seed, and what is known of its file."""
    keys = ("file", "kind", "sha256", "time", "groups")
    return [
        {"run": run.run_id, "entry": run.entry, "seed": run.seed}
        | {key: run.origin.get(key) for key in keys}
        for run in judged.runs
        if run.origin
    ]


def read_judged_study(folder: StudyFolder) -> JudgedStudy:
    """Load what is judged under the study's protocol; runs that are not judged yet are listed.

    Raises:
        RecordError: no run is judged, a score is not finite, a file is damaged, or runs differ in
            samples, labels, groups, classes, conditions or fingerprint.
        ConfigError: `compare.condition` names no condition of the protocol.
    """
    study = folder.study()
    protocol = protocol_id(study.protocol)
    found, missing = whole_runs(folder, protocol)
    if not found:
        imports = not study.trained_entries
        raise RecordError(
            "no run of this study is judged yet" if not imports else "nothing is imported here",
            where=folder.path,
            hint="add predictions with: regatta compare --import FILE"
            if imports
            else "finish it with: regatta run <study file>",
        )
    units = {unit_of(run.predictions(protocol)) for parts in found for _, run in parts}
    if len(units) > 1:
        raise RecordError(
            "accuracies of classes cannot stand beside predictions of single samples",
            where=folder.path,
            hint="import the tables into a study of their own: regatta compare --name NAME "
            "--import FILE",
        )
    by_class = units == {CLASS_UNIT}
    runs: list[JudgedRun] = []
    first: RunPredictions | None = None
    for parts in found:
        shell, reduced = (_read_counts if by_class else _read_run)(study, parts, protocol)
        if first is not None:
            check_same_samples(first, shell)
        runs.append(reduced)
        first = first or shell
    assert first is not None
    if not study.compare.mix_protocols:
        _check_alike(runs)
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
        unit="class" if by_class else "sample",
    )


def _read_run(study: Study, parts: Runs, protocol: str) -> tuple[RunPredictions, JudgedRun]:
    """An entry and seed without its scores, and reduced to what the statistics need."""
    joined = read_joined(parts, protocol)
    headline = find_condition(joined.predictions.conditions, study.compare.condition)
    return _without_scores(joined.predictions), _reduce(joined, parts[0][1], headline)


def _read_counts(study: Study, parts: Runs, protocol: str) -> tuple[RunPredictions, JudgedRun]:
    """The same of an entry and seed of which only counts are known."""
    spec, run = parts[0]
    counts = read_class_counts(
        run.predictions(protocol), run_id=spec.run_id, entry=spec.entry.name, seed=spec.seed
    )
    find_condition(counts.conditions, study.compare.condition)
    return _shell_of(counts), _reduce_counts(counts, run)


def _check_alike(runs: list[JudgedRun]) -> None:
    """RecordError when runs were judged differently, or imports stand beside what was judged
    here."""
    if any(not run.origin for run in runs):
        check_known(_fingerprints(runs))
    check_same_conditions(_fingerprints(runs))


def _fingerprints(runs: Sequence[JudgedRun]) -> dict[str, dict[str, Any]]:
    return {run.run_id: run.fingerprint for run in runs}


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
        still_share=_still_share(predictions.truth["distinct_frames"]),
        identical=_identical(predictions.clip_keys),
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
        origin=predictions.origin,
        notes=[] if predictions.origin else _judging_notes(run, predictions),
    )


def _judging_notes(run: RunFolder, predictions: RunPredictions) -> list[str]:
    protocol = predictions.fingerprint.get("protocol")
    return hide_folders(read_judging_notes(run.predictions(protocol))) if protocol else []


def _reduce_counts(counts: ClassCounts, run: RunFolder) -> JudgedRun:
    """A run of which only counts are known: `correct` has as many right samples in each class."""
    cells, samples = len(counts.conditions), int(counts.counts.sum())
    unknown = np.full(cells, np.nan)
    return JudgedRun(
        run_id=counts.run_id,
        entry=counts.entry,
        seed=counts.seed,
        correct=pseudo_samples(counts).correct,
        top5=None,
        constant=None,
        truth=dict.fromkeys(TRUTH_COLUMNS, unknown),
        still_share=unknown,
        identical=[[] for _ in range(cells)],
        concentration=None,
        headline_scores=np.empty((samples, 0), dtype=np.float32),
        temperature_N=np.full(samples, np.nan),
        ceiling={},
        fingerprint=counts.fingerprint,
        cost={},
        info=run.info(),
        training={},
        run_ids=[counts.run_id],
        weights=[None],
        origin=counts.origin,
    )


def _shell_of(counts: ClassCounts) -> RunPredictions:
    """Counts as predictions without scores, whose samples are made up and whose groups are
    classes."""
    made = pseudo_samples(counts)
    return RunPredictions(
        run_id=counts.run_id,
        entry=counts.entry,
        seed=counts.seed,
        conditions=counts.conditions,
        classes=counts.classes,
        sample_ids=made.ids,
        groups=np.array(counts.classes, dtype=str)[made.labels],
        labels=made.labels,
        scores=np.empty(0),
        truth={},
        clip_keys=np.empty(0),
        fingerprint=counts.fingerprint,
        cost={},
        ceiling={},
        origin=counts.origin,
    )


def _still_share(distinct_frames: np.ndarray) -> np.ndarray:
    """Share of samples with a single distinct frame [C]; NaN where no frame was counted."""
    share = (distinct_frames == 1).mean(axis=1)
    return np.where(np.isfinite(distinct_frames).any(axis=1), share, np.nan)


def _identical(clip_keys: np.ndarray) -> list[list[int]]:
    """Conditions that show the identical clips; none where the clips are not known."""
    if any(key is None for key in clip_keys[:, 0]):
        return [[] for _ in clip_keys]
    return identical_conditions(clip_keys)


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
