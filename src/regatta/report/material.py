"""Everything a report is made from, read once: comparison, grids, training records, run facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.colors import Normalize

from regatta.analysis.compare import FORMAT, compare_study
from regatta.analysis.folds import whole_runs
from regatta.analysis.many_entries import MOST_IN_PAIRS
from regatta.config.expand import RunSpec, protocol_id
from regatta.config.schema import IMPORTED, Study
from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.core.passed_on import hide_below
from regatta.records.predictions import prediction_hashes
from regatta.records.profile_table import read_profile
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.report.curves import EntryGrid
from regatta.report.heatmaps import CellMarks, GridAxes
from regatta.report.style import common_scale
from regatta.report.training import read_results, read_training_curves
from regatta.report.training_plots import TrainingCurve
from regatta.report.words import Words, corruption_words, perturbation_words, source_kind, words_of

DRAWN_OF_MANY = 6
"""Entries that get figures of their own where there are more than a dozen."""


@dataclass(frozen=True)
class RunFacts:
    """One judged run: what its own records say about it."""

    spec: RunSpec
    results: dict[str, Any]
    """training_results.json."""
    judging: dict[str, Any]
    """complete.json of its predictions: fingerprint and cost."""

    @property
    def ms_per_clip(self) -> float | None:
        """Judging time per clip in milliseconds: decoding, preparing and forward pass."""
        cost = self.judging.get("cost", {})
        parts = [cost.get(f"{part}_seconds") for part in ("decode", "preprocess", "forward")]
        clips = cost.get("clips")
        if not clips or any(part is None for part in parts):
            return None
        return 1000 * float(sum(parts)) / clips


@dataclass(frozen=True)
class Material:
    """What figures, tables and page are made from.

    `comparison` is results/comparison.json; `positions` gives each entry its place in the study,
    which sets its colour; `profile` is results/profile.json, None where nothing was profiled.
    """

    folder: StudyFolder
    comparison: dict[str, Any]
    positions: dict[str, int]
    runs: list[RunFacts]
    curves: list[TrainingCurve]
    profile: dict[str, Any] | None = None

    @cached_property
    def study(self) -> Study:
        """The resolved study, read once: that of many entries is long."""
        return self.folder.study()

    @cached_property
    def words(self) -> Words:
        data = self.comparison.get("data") or {}
        found = words_of(self._source, [*self.comparison.get("notes", []), *data.get("notes", [])])
        return replace(found, group="class", groups="classes") if self.by_class else found

    @property
    def _source(self) -> str:
        return self.comparison.get("study", {}).get("source", "")

    @cached_property
    def is_signal(self) -> bool:
        """Whether a sample is a window of signals, which has no frames, coverage or stride."""
        return source_kind(self._source) == "signal"

    @cached_property
    def is_image(self) -> bool:
        """Whether a sample is one picture, which has no frames, span, rate or padding."""
        return source_kind(self._source) == "image"

    @property
    def is_scene(self) -> bool:
        """Whether samples are scenes of several cameras."""
        return source_kind(self._source) == "scene"

    @property
    def by_class(self) -> bool:
        """Whether only accuracies of classes are known, and nothing of single samples."""
        return self.comparison.get("study", {}).get("unit") == "class"

    @property
    def is_foreign(self) -> bool:
        """Whether every entry was imported: nothing was trained or judged here."""
        return self._source == IMPORTED

    @property
    def folds(self) -> int:
        """How many folds were judged; 0 where the data have one split."""
        return len({run.spec.fold for run in self.runs} - {None})

    @property
    def profile_device(self) -> str:
        """What the profile was measured on, in words."""
        return str((self.profile or {}).get("device") or "an unnamed device")

    @cached_property
    def classification(self) -> dict[str, dict[str, Any]]:
        """The classification results at the headline by entry; empty where there are none."""
        entries = (self.comparison.get("classification") or {}).get("entries", {})
        return {name: entries[name] for name in self.entries if name in entries}

    @property
    def entries(self) -> list[str]:
        return [entry["name"] for entry in self.comparison["entries"]]

    @cached_property
    def shown_pairs(self) -> list[int]:
        """Places, among all pairs of entries, of those that are shown: all of a dozen entries; of
        more only those with the leader, and the files hold the rest."""
        pairs, leader = self.comparison["pairs"]["headline"], self.comparison["verdict"]["leader"]
        return [
            place
            for place, pair in enumerate(pairs)
            if len(self.entries) <= MOST_IN_PAIRS or leader in (pair["first"], pair["second"])
        ]

    @cached_property
    def drawn_entries(self) -> list[str]:
        """Entries with figures of their own: all of a dozen; of more the best few, where the
        figures of one entry are alike and the tables hold the rest."""
        if len(self.entries) <= MOST_IN_PAIRS or self.axes is not None:
            return self.entries
        ranked = [rank["entry"] for rank in self.comparison["ranking"]["headline"]]
        return ranked[:DRAWN_OF_MANY]

    @property
    def shown_pairs_words(self) -> str:
        """What the title of a table of pairs adds where only some are shown."""
        if len(self.shown_pairs) == len(self.comparison["pairs"]["headline"]):
            return ""
        return f"; only the pairs with {self.comparison['verdict']['leader']}, which leads"

    @property
    def classes(self) -> list[str]:
        return self.comparison["per_class"]["classes"]

    def confusion(self, entry: str) -> np.ndarray:
        """Counts [K, K] at the headline, rows = truth, summed over seeds."""
        return np.array(self.classification[entry]["confusion"], dtype=np.int64)

    def runs_of(self, entry: str) -> list[RunFacts]:
        return [run for run in self.runs if run.spec.entry.name == entry]

    def ms_per_clip(self, entry: str) -> float | None:
        """Mean judging time per clip of an entry's runs; None when one was not measured."""
        times = [run.ms_per_clip for run in self.runs_of(entry)]
        known = [time for time in times if time is not None]
        return sum(known) / len(known) if known and len(known) == len(times) else None

    @cached_property
    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The table of cells by (entry, condition id)."""
        return {(row["model"], row["condition"]): row for row in self.comparison["table"]}

    @cached_property
    def axes(self) -> GridAxes | None:
        """The coverage x stride grid, or None when the protocol is another one."""
        conditions = self.comparison["conditions"]
        if any(set(c["axes"]) != {"coverage", "stride"} for c in conditions):
            return None
        values = [
            tuple(sorted({float(c["axes"][name]) for c in conditions}))
            for name in ("coverage", "stride")
        ]
        return GridAxes(*values)

    @cached_property
    def cell_ids(self) -> np.ndarray:
        """Condition ids [coverages, strides]; "" where the grid has a hole."""
        assert self.axes is not None
        found = np.full(self.axes.shape, "", dtype=object)
        for c in self.comparison["conditions"]:
            place = (
                self.axes.coverages.index(float(c["axes"]["coverage"])),
                self.axes.strides.index(float(c["axes"]["stride"])),
            )
            found[place] = c["id"]
        return found

    def grid(self, entry: str, column: str, factor: float = 1.0) -> np.ndarray:
        """A column of the table as [coverages, strides]; NaN = not measured."""
        values = [self.rows.get((entry, cell), {}).get(column) for cell in self.cell_ids.ravel()]
        numbers = [np.nan if value is None else factor * float(value) for value in values]
        return np.array(numbers).reshape(self.cell_ids.shape)

    def entry_grid(self, entry: str) -> EntryGrid:
        ceiling = self.grid(entry, "ceiling", 100.0)
        return EntryGrid(
            entry,
            self.positions[entry],
            *(
                self.grid(entry, name, 100.0)
                for name in ("accuracy", "accuracy_low", "accuracy_high")
            ),
            ceiling=ceiling if np.isfinite(ceiling).any() else None,
        )

    def marks(self, entry: str) -> CellMarks:
        """Still and identical cells; letters by first appearance from the full clip downwards."""
        letters: dict[str, str] = {}
        twins = np.full(self.cell_ids.shape, "", dtype=object)
        for place in np.ndindex(*self.cell_ids.shape):
            turned = (self.cell_ids.shape[0] - 1 - place[0], place[1])
            cell = str(self.cell_ids[turned])
            others = self.rows.get((entry, cell), {}).get("identical_to") or []
            if others:
                known = next((letters[other] for other in others if other in letters), None)
                letters[cell] = known or _letter(len(set(letters.values())))
                twins[turned] = letters[cell]
        still = np.nan_to_num(self.grid(entry, "still_share")) >= 1
        return CellMarks(still, twins)

    def class_accuracy(self, entry: str) -> np.ndarray:
        """Percent per condition and class [C, K]; NaN where a class has no judged sample."""
        table = self.comparison["per_class"]["accuracy"][entry]
        return 100 * np.array(
            [[np.nan if v is None else v for v in row] for row in table], dtype=float
        )

    def class_accuracy_by_coverage(self, entry: str) -> np.ndarray:
        """Percent per class and coverage [K, coverages], the mean over strides."""
        assert self.axes is not None
        by_id = dict(
            zip(
                (c["id"] for c in self.comparison["conditions"]),
                self.class_accuracy(entry),
                strict=True,
            )
        )
        columns = []
        for row in self.cell_ids:
            cells = np.array([by_id[cell] for cell in row if cell])
            columns.append(cells.mean(axis=0))
        return np.stack(columns, axis=1)

    @cached_property
    def scale(self) -> Normalize:
        """The one colour scale of all accuracy heat maps: entries and ceilings."""
        columns = ("accuracy", "ceiling")
        return common_scale(*(self.grid(e, c, 100.0) for e in self.entries for c in columns))

    @property
    def confidence(self) -> str:
        return f"{100 * self.comparison['provenance']['confidence']:g} %"

    @property
    def headline_name(self) -> str:
        return self.condition_name(self.comparison["headline_condition"])

    def range_text(self, entry: str) -> str:
        """Lowest and highest accuracy of the grid in words."""
        values, ids = self.grid(entry, "accuracy", 100.0), self.cell_ids.ravel()
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        return (
            f"{entry} from {values.flat[low]:.1f} % ({self.condition_name(ids[low])}) "
            f"to {values.flat[high]:.1f} % ({self.condition_name(ids[high])})"
        )

    def condition_name(self, condition_id: str) -> str:
        """A condition in words: "coverage 100 %, stride 1"."""
        axes = next(c["axes"] for c in self.comparison["conditions"] if c["id"] == condition_id)
        if changed := perturbation_words(axes) or corruption_words(axes):
            return changed
        words = [f"{name} {axis_text(name, value)}" for name, value in axes.items()]
        return ", ".join(words) or f"condition {condition_id}"


PERCENT_AXES = ("coverage", "span", "position")


def axis_text(name: str, value: Any) -> str:
    """An axis value with its unit."""
    text = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    return f"{text} %" if name in PERCENT_AXES else text


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) * (1 + number // 26)


def read_material(folder: StudyFolder) -> Material:
    """Read all that a report needs; compares first where that is missing or out of date.

    Raises:
        RecordError: this is no study folder, nothing is judged, or a record is damaged.
    """
    study = folder.study()
    hide_below(folder.path.parent, study.data.root)
    protocol = protocol_id(study.protocol)
    judged = [pair for runs in whole_runs(folder, protocol)[0] for pair in runs]
    comparison = _current_comparison(folder, study, [run for _, run in judged], protocol)
    # Experts are parts of systems: their training is in results/csv_logs.
    compared = {entry["name"] for entry in comparison["entries"]} | _not_judged(study, judged)
    runs = [_run_facts(spec, run, protocol) for spec, run in judged]
    return Material(
        folder=folder,
        comparison=comparison,
        positions={entry.name: position for position, entry in enumerate(study.entries)},
        runs=runs,
        curves=[curve for curve in read_training_curves(folder) if curve.entry in compared],
        profile=read_profile(folder),
    )


def _not_judged(study: Study, judged: list[tuple[RunSpec, RunFolder]]) -> set[str]:
    """Entries that may be trained but have no judged run yet."""
    present = {spec.entry.name for spec, _ in judged}
    return {entry.name for entry in study.entries if entry.role != "expert"} - present


def _current_comparison(
    folder: StudyFolder, study: Study, judged: list[RunFolder], protocol: str
) -> dict[str, Any]:
    path = folder.results / "comparison.json"
    if path.is_file():
        try:
            found = read_json(path)
        except RecordError:
            # A damaged file is made anew from the predictions, which are the truth.
            found = None
        # Clocks jump and folders are copied: what is in the files counts, not when they came.
        read = prediction_hashes(folder)
        if isinstance(found, dict) and _is_current(found, study, judged, protocol, read):
            return found
    return compare_study(folder)


def _is_current(
    comparison: dict[str, Any],
    study: Study,
    judged: list[RunFolder],
    protocol: str,
    read: dict[str, str],
) -> bool:
    """Whether a comparison holds the runs that are judged now, under the settings of now."""
    if comparison.get("format") != FORMAT:
        return False
    record, wanted = comparison["provenance"], study.compare
    settings = ("replicates", "confidence", "correction", "seed")
    return (
        comparison["study"]["protocol_id"] == protocol
        and record.get("predictions") == read
        and sorted(record["runs"]) == sorted(run.run_id for run in judged)
        and all(record[name] == getattr(wanted, name) for name in settings)
        and record["margin_points"] == wanted.equivalence_margin_points
        and comparison["budget"].get("stated_trials") == wanted.tuning_trials
        and record.get("mix_protocols", False) == wanted.mix_protocols
        and wanted.condition in ("reference", comparison["headline_condition"])
    )


def _run_facts(spec: RunSpec, run: RunFolder, protocol: str) -> RunFacts:
    return RunFacts(spec, read_results(run), read_json(run.predictions(protocol) / "complete.json"))
