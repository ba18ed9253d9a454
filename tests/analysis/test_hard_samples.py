"""Samples that nobody gets right, and samples that divide the entries: planted, then found."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from regatta.analysis.hard_samples import hard_sample_files, hard_samples_section
from regatta.analysis.judged import read_judged_study
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import CLASS_NAMES, build_judged_study

SAMPLES, CLASSES, PER_GROUP = 24, 3, 4
Wrong = dict[tuple[str, int], set[int]]


def planted(path: Path, wrong: Wrong, entries: list[str], seeds: tuple[int, ...]) -> StudyFolder:
    """A study in which each (entry, seed) is wrong on exactly the samples that `wrong` names."""

    def alter(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        answer = labels.copy()
        missed = sorted(wrong.get((entry, seed), set()))
        answer[missed] = (answer[missed] + 1) % CLASSES
        return np.broadcast_to(np.eye(CLASSES)[answer], scores.shape)

    return build_judged_study(
        path,
        entries=entries,
        samples=SAMPLES,
        classes=CLASSES,
        samples_per_group=PER_GROUP,
        seeds=seeds,
        protocol="plain",
        alter=alter,
        compare={"replicates": 200},
    )


def section_of(folder: StudyFolder, **settings: int) -> dict[str, Any]:
    found = hard_samples_section(read_judged_study(folder), 0, **settings)
    assert found is not None
    return found


def id_of(place: int) -> str:
    """The id that the simulated study gives its sample number `place`."""
    group, clip = divmod(place, PER_GROUP)
    return f"{CLASS_NAMES[group % CLASSES]}/g{group // CLASSES + 1:03d}_c{clip + 1:02d}.avi"


def ids_of(*places: int) -> set[str]:
    return set(map(id_of, places))


def never_right(section: dict[str, Any]) -> set[str]:
    return {name for row in section["classes"] for name in row["none_right"]["ids"]}


def dividing(section: dict[str, Any]) -> dict[str, list[str]]:
    return {s["id"]: s["right"] for row in section["classes"] for s in row["differ"]["samples"]}


def test_planted_hard_and_dividing_samples_are_found_and_no_other(tmp_path: Path) -> None:
    wrong = {("timesformer", 0): {0, 1, 5}, ("videomae", 0): {0, 1, 7, 9}}
    folder = planted(tmp_path, wrong, ["timesformer", "videomae"], (0,))
    section = section_of(folder)
    assert never_right(section) == ids_of(0, 1)
    assert dividing(section) == {
        id_of(5): ["videomae"],
        id_of(7): ["timesformer"],
        id_of(9): ["timesformer"],
    }
    assert (section["none_right"], section["differ"]) == (2, 3)
    assert section["sentence"] == (
        "at plain, every entry is wrong on 2 of 24 samples; the entries differ on 3"
    )


def test_a_sample_on_which_seeds_disagree_is_neither_hard_nor_dividing(tmp_path: Path) -> None:
    wrong = {
        ("timesformer", 0): {0, 3, 4},
        ("timesformer", 1): {0, 4},
        ("videomae", 0): {0, 3, 8},
        ("videomae", 1): {0, 3},
    }
    folder = planted(tmp_path, wrong, ["timesformer", "videomae"], (0, 1))
    section = section_of(folder)
    assert never_right(section) == ids_of(0)
    assert dividing(section) == {name: ["videomae"] for name in ids_of(4)}


def test_counts_are_whole_where_the_ids_are_cut(tmp_path: Path) -> None:
    wrong = {("timesformer", 0): set(range(SAMPLES))}
    folder = planted(tmp_path, wrong, ["timesformer"], (0,))
    section = section_of(folder, most_ids=2)
    rows = section["classes"]
    assert [row["none_right"]["count"] for row in rows] == [8, 8, 8]
    assert [len(row["none_right"]["ids"]) for row in rows] == [2, 2, 2]
    assert [row["n_samples"] for row in rows] == [8, 8, 8]
    assert [row["groups"] for row in rows] == [2, 2, 2]


def test_one_entry_has_hard_samples_and_nothing_to_differ_from(tmp_path: Path) -> None:
    folder = planted(tmp_path, {("vivit", 0): {2}}, ["vivit"], (0,))
    section = section_of(folder)
    assert never_right(section) == ids_of(2)
    assert section["differ"] is None
    assert all(row["differ"] is None for row in section["classes"])
    assert section["sentence"] == "at plain, vivit is wrong on 1 of 24 samples"


@pytest.mark.parametrize("missed", [set(), set(range(SAMPLES))])
def test_entries_that_answer_alike_never_differ(tmp_path: Path, missed: set[int]) -> None:
    wrong = {("timesformer", 0): missed, ("videomae", 0): missed}
    section = section_of(planted(tmp_path, wrong, ["timesformer", "videomae"], (0,)))
    assert section["none_right"] == len(missed)
    assert section["differ"] == 0


def test_the_file_lists_what_the_section_lists(tmp_path: Path) -> None:
    wrong = {("timesformer", 0): {0, 5}, ("videomae", 0): {0}}
    folder = planted(tmp_path, wrong, ["timesformer", "videomae"], (0,))
    comparison = compare_study(folder)
    assert read_json(folder.results / "comparison.json")["hard_samples"] == section_of(folder)
    text = (folder.results / "hard_samples.csv").read_text(encoding="utf-8")
    rows = {row["sample_id"]: row for row in csv.DictReader(io.StringIO(text))}
    assert {name for name, row in rows.items() if row["kind"] == "none right"} == ids_of(0)
    (divided,) = (row for row in rows.values() if row["kind"] == "entries differ")
    assert (divided["right_entries"], {divided["sample_id"]}) == ("videomae", ids_of(5))
    assert "hard_samples.csv" in comparison["files"]


def test_answers_per_class_have_no_samples_to_list(tmp_path: Path) -> None:
    judged = read_judged_study(planted(tmp_path, {}, ["vivit"], (0,)))
    assert hard_samples_section(replace(judged, unit="class"), 0) is None
    assert hard_sample_files(None) == {}


def test_of_the_hard_samples_the_hardest_stand_first(tmp_path: Path) -> None:
    folder = build_judged_study(tmp_path, entries=2, samples=60, classes=2, seeds=(0,))
    judged = read_judged_study(folder)
    section = hard_samples_section(judged, 24, most_ids=60)
    assert section is not None
    right = np.sum([run.correct for run in judged.runs], axis=(0, 1))
    totals = dict(zip(map(str, judged.sample_ids), right.tolist(), strict=True))
    for row in section["classes"]:
        ids = row["none_right"]["ids"]
        assert len(ids) > 2
        assert ids == sorted(ids, key=lambda name: (totals[name], name))
