"""Imports end to end: what comes back equals the study it was written from, and what does not fit
is refused before anything is written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regatta.analysis.compare import compare_study
from regatta.analysis.import_request import Request, parse_request
from regatta.analysis.imported import import_predictions
from regatta.analysis.judged import read_judged_study
from regatta.analysis.published import published_analysis
from regatta.config.expand import protocol_id
from regatta.config.load import dump_study, study_from_mapping
from regatta.core.errors import ConfigError, LeaseHeldError, RecordError, RegattaError
from regatta.core.files import read_json, write_json, write_text
from regatta.core.locks import own_folder
from regatta.records.predictions import RunPredictions
from regatta.records.run_folder import StudyFolder
from regatta.records.status import process_identity
from tests.analysis.build import build_judged_study
from tests.records.foreign import export_csv, export_npz, predictions_of, tree, write_rows

REPLICATES = 300
ENTRIES = ("timesformer", "videomae")


def built(path: Path, **changes: Any) -> StudyFolder:
    options: dict[str, Any] = {"entries": 2, "samples": 48, "protocol": "plain", **changes}
    return build_judged_study(path / "runs", compare={"replicates": REPLICATES}, **options)


def with_keys(folder: StudyFolder, **changes: Any) -> StudyFolder:
    study = folder.study()
    compare = study.compare.model_copy(update={"replicates": REPLICATES, **changes})
    write_text(folder.study_yaml, dump_study(study.model_copy(update={"compare": compare})))
    return folder


def imported(path: Path, *texts: str, **options: Any) -> StudyFolder:
    added = import_predictions(path / "runs", [parse_request(t) for t in texts], **options)
    return with_keys(added.folder)


def refused(path: Path, *texts: str, **options: Any) -> str:
    """The message of a refusal, and proof that it changed nothing."""
    before = tree(path)
    with pytest.raises(RegattaError) as caught:
        imported(path, *texts, **options)
    assert tree(path) == before
    assert not list(path.rglob(".import-*"))
    return str(caught.value)


Export = Callable[[Path, RunPredictions], Path]
WAYS: dict[str, Export] = {
    "csv": lambda path, found: export_csv(
        path.with_suffix(".csv"), found, axes=("coverage", "stride"), shuffled=3
    ),
    "csv of names": lambda path, found: export_csv(
        path.with_suffix(".csv"), found, condition=True, shuffled=4
    ),
    "archive": lambda path, found: export_npz(path.with_suffix(".npz"), found),
    "archive of axes": lambda path, found: export_npz(
        path.with_suffix(".npz"),
        found,
        conditions=None,
        coverage=np.array([c.axes["coverage"] for c in found.conditions]),
        stride=np.array([c.axes["stride"] for c in found.conditions]),
    ),
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, dict[str, Any]]:
    """A judged grid of two seeds and its comparison; nobody changes it."""
    path = tmp_path_factory.mktemp("grid")
    folder = built(path, protocol="temporal-grid", seeds=(0, 1), samples=60)
    return folder, compare_study(folder)


@pytest.mark.parametrize("way", WAYS)
def test_exported_scores_come_back_bit_by_bit(
    grid: tuple[StudyFolder, dict[str, Any]], tmp_path: Path, way: str
) -> None:
    stored = predictions_of(grid[0], "videomae")
    path = WAYS[way](tmp_path / "exported", stored)
    found = predictions_of(imported(tmp_path, f"videomae={path}"), "videomae")
    assert found.scores.tobytes() == stored.scores.tobytes()
    for key in ("sample_ids", "groups", "labels"):
        assert getattr(found, key).tolist() == getattr(stored, key).tolist()
    assert (found.conditions, found.classes) == (stored.conditions, stored.classes)


def test_exported_predictions_come_back_as_the_same_comparison(
    grid: tuple[StudyFolder, dict[str, Any]], tmp_path: Path
) -> None:
    """Of one entry as CSV, of the other as archives, two seeds each."""
    original, expected = grid
    texts = []
    for entry, way in zip(ENTRIES, ("csv", "archive"), strict=True):
        for seed in (0, 1):
            path = WAYS[way](tmp_path / f"{entry}{seed}", predictions_of(original, entry, seed))
            texts.append(f"{entry}@{seed}={path}")
    found = compare_study(imported(tmp_path, *texts))
    for key in ("verdict", "ranking", "pairs", "published", "per_class", "headline_condition"):
        assert found[key] == expected[key], key
    for ours, theirs in zip(found["table"], expected["table"], strict=True):
        for key in ("model", "condition", "accuracy", "accuracy_low", "accuracy_high", "correct"):
            assert ours[key] == theirs[key]
    for name, ours in found["classification"]["entries"].items():
        theirs = expected["classification"]["entries"][name]
        for key in ("confusion", "per_class", "nll", "brier", "ece", "macro_f1"):
            assert ours[key] == theirs[key], key


def test_folder_of_another_run_keeps_what_its_clips_held_and_how_it_was_judged(
    tmp_path: Path,
) -> None:
    original = built(tmp_path, protocol="controls")
    protocol = protocol_id(original.study().protocol)
    texts = [str(run.predictions(protocol)) for _, run in original.runs()]
    assert [parse_request(text).name for text in texts] == list(ENTRIES)
    found, expected = compare_study(imported(tmp_path, *texts)), compare_study(original)
    assert found["table"] != []
    for ours, theirs in zip(found["table"], expected["table"], strict=True):
        assert {k: v for k, v in ours.items() if k != "elapsed_time"} == {
            k: v for k, v in theirs.items() if k != "elapsed_time"
        }
    assert not [note for note in found["notes"] if note.startswith("imported")]


def test_samples_without_groups_are_groups_of_their_own_and_a_note_says_so(tmp_path: Path) -> None:
    original = built(tmp_path)
    path = export_csv(tmp_path / "a.csv", predictions_of(original, "videomae"), groups=False)
    folder = imported(tmp_path, f"a={path}")
    judged = read_judged_study(folder)
    assert len(set(judged.groups)) == len(judged.sample_ids) == 48
    assert judged.runs[0].correct.mean() == pytest.approx(
        predictions_of(original, "videomae").correct().mean()
    )
    notes = compare_study(folder)["notes"]
    assert notes[0] == "imported: how a was judged is not known here"
    assert "a: has no groups" in notes[1]
    assert "clustering is not covered" in notes[1]


def beside(path: Path, **changes: Any) -> tuple[StudyFolder, RunPredictions]:
    folder = built(path, **changes)
    return folder, predictions_of(folder, "videomae")


def test_entry_beside_a_study_is_joined_on_the_sample_and_takes_its_groups(tmp_path: Path) -> None:
    folder, found = beside(tmp_path)
    path = export_csv(tmp_path / "t.csv", found, groups=False, named=False, shuffled=1)
    imported(tmp_path, f"theirs={path}", target=folder, mix_protocols=True)
    judged = read_judged_study(folder)
    assert judged.entries == [*ENTRIES, "theirs"]
    assert np.array_equal(judged.runs_of("theirs")[0].correct, found.correct())
    assert judged.groups.tolist() == found.groups.tolist()
    comparison = compare_study(folder)
    pair = next(
        p
        for p in comparison["pairs"]["headline"]
        if (p["first"], p["second"]) == ("videomae", "theirs")
    )
    assert (pair["same_predictions"], pair["verdict"]) == (True, "identical")
    assert "imported: how theirs was judged is not known here" in comparison["notes"]
    assert comparison["budget"]["recipe_differences"] == {}
    assert comparison["budget"]["warnings"] == ["the budget of theirs is not known: imported"]


def test_beside_a_study_it_must_be_said_that_the_judging_is_not_known(tmp_path: Path) -> None:
    folder, found = beside(tmp_path)
    path = export_npz(tmp_path / "t.npz", found, conditions=None, scores=found.scores[0])
    text = refused(tmp_path, f"theirs={path}", target=folder)
    assert "--mix-protocols" in text
    assert folder.study().compare.mix_protocols is False


def test_run_of_the_same_judging_needs_no_such_word(tmp_path: Path) -> None:
    """Its fingerprint travels with it."""
    folder, _ = beside(tmp_path)
    run = folder.runs()[1][1]
    where = run.predictions(protocol_id(folder.study().protocol))
    added = imported(tmp_path, f"again={where}", target=folder)
    assert read_judged_study(added).entries == [*ENTRIES, "again"]


def test_run_of_another_judging_is_refused_with_every_key(tmp_path: Path) -> None:
    folder, _ = beside(tmp_path)
    other = build_judged_study(tmp_path / "elsewhere", entries=2, samples=48, protocol="plain")
    where = other.runs()[1][1].predictions(protocol_id(other.study().protocol))
    complete = read_json(where / "complete.json")
    complete["fingerprint"] |= {"decoder": "other 1", "code": "0.0.1"}
    write_json(where / "complete.json", complete)
    text = refused(tmp_path, f"theirs={where}", target=folder)
    assert "'decoder', 'code' differ" in text
    assert "'pyav 18.1.0' against theirs seed 0: 'other 1'" in text
    imported(tmp_path, f"theirs={where}", target=folder, mix_protocols=True)
    notes = compare_study(folder)["notes"]
    assert sum(note.startswith("judged differently: ") for note in notes) == 2


MISFITS: dict[str, tuple[Callable[[RunPredictions], RunPredictions], tuple[str, ...]]] = {
    "a sample less": (
        lambda p: replace(
            p,
            sample_ids=p.sample_ids[1:],
            labels=p.labels[1:],
            groups=p.groups[1:],
            scores=p.scores[:, 1:],
        ),
        ("different samples", "'drift-left/g001_c01.avi'", "0 only in theirs"),
    ),
    "a strange sample": (
        lambda p: replace(p, sample_ids=np.array(["new.avi", *p.sample_ids[1:]])),
        ("different samples", "'new.avi'", "'drift-left/g001_c01.avi'"),
    ),
    "another label": (
        lambda p: replace(p, labels=np.array([p.labels[-1], *p.labels[1:]])),
        ("different labels for 1 samples", "'drift-left/g001_c01.avi'"),
    ),
    "other classes": (
        lambda p: replace(p, classes=["turn-lft", *p.classes[1:]]),
        ("different classes", "'turn-left'", "'turn-lft'"),
    ),
    "a class more": (
        lambda p: replace(
            p, classes=[*p.classes, "more"], scores=np.pad(p.scores, ((0, 0), (0, 0), (0, 1)))
        ),
        ("different classes", "'more'"),
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_the_study_is_refused_and_listed(tmp_path: Path, case: str) -> None:
    change, words = MISFITS[case]
    folder, found = beside(tmp_path)
    path = export_csv(tmp_path / "t.csv", change(found))
    text = refused(tmp_path, f"theirs={path}", target=folder, mix_protocols=True)
    for word in words:
        assert word in text


def test_missing_conditions_are_named_and_strange_ones_left_out_with_a_note(tmp_path: Path) -> None:
    folder, found = beside(tmp_path, protocol="temporal-grid", samples=24)
    few = replace(found, conditions=found.conditions[2:], scores=found.scores[2:])
    path = export_npz(tmp_path / "few.npz", few)
    text = refused(tmp_path, f"theirs={path}", target=folder, mix_protocols=True)
    assert "lacks 2 of the 25 conditions" in text
    assert "'c10s1', 'c10s2'" in text
    more = export_npz(
        tmp_path / "more.npz",
        found,
        scores=np.concatenate([found.scores, found.scores[:1]]),
        conditions=np.array([*(c.id for c in found.conditions), "c5s1"]),
    )
    imported(tmp_path, f"theirs={more}", target=folder, mix_protocols=True)
    notes = compare_study(folder)["notes"]
    assert any("left out: 'c5s1'" in note for note in notes)


def test_imports_of_different_samples_are_refused_against_each_other(tmp_path: Path) -> None:
    original = built(tmp_path)
    found = predictions_of(original, "videomae")
    first = export_csv(tmp_path / "first.csv", found)
    change, words = MISFITS["a sample less"]
    second = export_csv(tmp_path / "second.csv", change(found))
    text = refused(tmp_path, f"a={first}", f"theirs={second}")
    assert words[1] in text
    imported(tmp_path, f"a={first}")
    assert "--name OTHER" in refused(tmp_path, f"theirs={second}")


def test_groups_and_class_names_are_shared_by_files_that_lack_them(tmp_path: Path) -> None:
    original = built(tmp_path)
    found = predictions_of(original, "videomae")
    bare = export_csv(tmp_path / "bare.csv", found, named=False, groups=False)
    full = export_csv(tmp_path / "full.csv", found)
    judged = read_judged_study(imported(tmp_path, f"bare={bare}", f"full={full}"))
    assert judged.classes == found.classes
    assert judged.groups.tolist() == found.groups.tolist()
    assert all(np.array_equal(run.correct, found.correct()) for run in judged.runs)


def test_other_groups_of_the_same_samples_are_refused_among_files(tmp_path: Path) -> None:
    original = built(tmp_path)
    found = predictions_of(original, "videomae")
    other = replace(found, groups=np.roll(found.groups, 1))
    paths = [export_csv(tmp_path / f"{n}.csv", each) for n, each in enumerate((found, other))]
    text = refused(tmp_path, f"a={paths[0]}", f"b={paths[1]}")
    assert "different groups" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("My Model={}", ("'My Model' is no name", "--import my-model={}")),
        ("a@one={}", ("a seed is a whole number, not 'one'",)),
        ("a=", ("no file is named",)),
    ],
)
def test_wrong_words_of_an_import_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(text.format("x.csv"))
    for word in words:
        assert word.format("x.csv") in str(caught.value)


def test_name_of_a_file_is_cleaned_and_one_with_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "Best run (3)=final.csv"
    path.write_text("")
    assert parse_request(str(path)) == Request("best-run-3-final", None, path)
    assert parse_request("a.b-c@12=x=y.csv") == Request("a.b-c", 12, Path("x=y.csv"))
    assert parse_request("\u8f6c.csv").name == "imported"


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    folder, found = beside(tmp_path)
    path = export_csv(tmp_path / "t.csv", found)
    text = refused(tmp_path, f"videomae={path}", target=folder, mix_protocols=True)
    assert "an entry 'videomae' that is trained here" in text
    text = refused(tmp_path, f"a={path}", f"a@0={path}")
    assert "two files for a seed 0" in text
    assert "trained here" in refused(tmp_path, f"a={path}", name="demo")
    assert "no name of a study" in refused(tmp_path, f"a={path}", name="My Study")


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    _, found = beside(tmp_path)
    path = export_csv(tmp_path / "t.csv", found)
    (tmp_path / "runs" / "imported").mkdir()
    (tmp_path / "runs" / "imported" / "thesis.tex").write_text("x")
    assert "not a study of ours" in refused(tmp_path, f"a={path}")


def test_study_that_is_being_run_is_left_alone(tmp_path: Path) -> None:
    folder, found = beside(tmp_path)
    path = export_csv(tmp_path / "t.csv", found)
    write_json(folder.lease, asdict(process_identity(os.getppid())))
    with pytest.raises(LeaseHeldError):
        imported(tmp_path, f"theirs={path}", target=folder, mix_protocols=True)
    assert [entry.name for entry in folder.study().entries] == list(ENTRIES)


def test_nothing_judged_means_nothing_to_join(tmp_path: Path) -> None:
    folder = built(tmp_path, unjudged=[(entry, 0) for entry in ENTRIES])
    other = build_judged_study(tmp_path / "b", entries=2, samples=48, protocol="plain")
    path = export_csv(tmp_path / "t.csv", predictions_of(other, "videomae"))
    text = refused(tmp_path, f"theirs={path}", target=folder, mix_protocols=True)
    assert "nothing is judged in this study yet" in text


def test_importing_again_replaces_the_entry_and_leaves_no_old_file(tmp_path: Path) -> None:
    original = built(tmp_path)
    found = predictions_of(original, "videomae")
    better = replace(found, scores=9 * np.eye(4, dtype=np.float32)[found.labels][None])
    old, new = (
        export_csv(tmp_path / f"{name}.csv", each)
        for name, each in (("old", found), ("new", better))
    )
    folder = imported(tmp_path, f"a@0={old}", f"a@1={old}", f"b={old}")
    names = {spec.run_id for spec, _ in folder.runs()}
    imported(tmp_path, f"a={new}")
    judged = read_judged_study(folder)
    assert [(run.entry, run.seed) for run in judged.runs] == [("a", 0), ("b", 0)]
    assert judged.runs[0].correct.all()
    assert judged.runs[0].info["import"]["file"] == "new.csv"
    parts = list(folder.path.rglob("part-*.parquet"))
    assert len(parts) == 2
    assert {path.name for path in (folder.path / "runs").iterdir()} < names


def test_a_seed_is_added_to_an_entry_that_is_there(tmp_path: Path) -> None:
    original = built(tmp_path, seeds=(0, 1))
    paths = [
        export_csv(tmp_path / f"{seed}.csv", predictions_of(original, "videomae", seed))
        for seed in (0, 1)
    ]
    imported(tmp_path, f"a={paths[0]}")
    folder = imported(tmp_path, f"a@7={paths[1]}", f"b={paths[0]}")
    judged = read_judged_study(folder)
    assert [(run.entry, run.seed) for run in judged.runs] == [("a", 0), ("a", 7), ("b", 0)]
    assert judged.missing == []
    assert folder.study().seeds == [0, 7]


def test_seeds_that_were_not_imported_are_not_missing(tmp_path: Path) -> None:
    folder, found = beside(tmp_path, seeds=(0, 1, 2))
    path = export_csv(tmp_path / "t.csv", found)
    added = import_predictions(
        tmp_path / "runs",
        [parse_request(f"theirs@1={path}")],
        target=folder,
        mix_protocols=True,
    )
    assert added.entry_lines == ["- {name: theirs, model: imported}"]
    # As the user's own file would have it: no seeds are named there.
    content = folder.study().model_dump(mode="json")
    content["entries"][-1]["options"] = {}
    write_text(folder.study_yaml, dump_study(study_from_mapping(content)))
    judged = read_judged_study(folder)
    assert [run.seed for run in judged.runs_of("theirs")] == [1]
    assert judged.missing == []


def test_seed_beyond_those_of_the_study_is_told_in_the_line_to_keep(tmp_path: Path) -> None:
    folder, found = beside(tmp_path)
    path = export_csv(tmp_path / "t.csv", found)
    added = import_predictions(
        tmp_path / "runs", [parse_request(f"x@5={path}")], target=folder, mix_protocols=True
    )
    assert added.entry_lines == ["- {name: x, model: imported, options: {seeds: [5]}}"]
    assert [spec.seed for spec, _ in folder.runs()] == [0, 0, 5]


def test_entry_that_nothing_was_imported_for_is_missing_by_name(tmp_path: Path) -> None:
    folder, _ = beside(tmp_path)
    content = folder.study().model_dump(mode="json")
    content["entries"].append({"name": "theirs", "model": "imported"})
    write_text(folder.study_yaml, dump_study(study_from_mapping(content)))
    (sentence,) = read_judged_study(folder).missing
    assert "theirs is not in this comparison: nothing was imported" in sentence
    assert "--import theirs=FILE" in sentence


def class_table(folder: StudyFolder, entry: str) -> Path:
    return folder.results / f"per_class_{entry}.csv"


def test_class_tables_give_the_statistics_of_samples_clustered_by_class(tmp_path: Path) -> None:
    """The same answers once as tables, once sample by sample with the class as the group."""
    original = built(tmp_path, protocol="temporal-grid", classes=8)
    compare_study(original)
    tables = imported(tmp_path, *(f"{e}={class_table(original, e)}" for e in ENTRIES))
    texts = []
    for entry in ENTRIES:
        found = predictions_of(original, entry)
        by_class = replace(found, groups=np.array(found.classes)[found.labels])
        path = export_npz(tmp_path / f"{entry}.npz", by_class)
        texts.append(f"{entry}={path}")
    samples = imported(tmp_path, *texts, name="samples")
    found, expected = compare_study(tables), compare_study(samples)
    assert (found["study"]["unit"], expected["study"]["unit"]) == ("class", "sample")
    for ours, theirs in zip(found["table"], expected["table"], strict=True):
        for key in ("accuracy", "accuracy_low", "accuracy_high", "correct", "n_samples"):
            assert ours[key] == pytest.approx(theirs[key]), key
    for family in ("headline", "average"):
        for ours, theirs in zip(found["pairs"][family], expected["pairs"][family], strict=True):
            for key in ("difference_points", "p_value", "p_adjusted", "verdict"):
                assert ours[key] == pytest.approx(theirs[key]) or ours[key] == theirs[key]
    assert found["published"]["entries"] == expected["published"]["entries"]


def test_class_tables_claim_nothing_of_single_samples(tmp_path: Path) -> None:
    original = built(tmp_path, protocol="controls", samples=24)
    compare_study(original)
    path = class_table(original, "videomae")
    folder = imported(tmp_path, f"a={path}", f"b={path}", f"c={path}")
    found = compare_study(folder)
    pair = found["pairs"]["headline"][0]
    assert pair["mcnemar"] == []
    assert found["pairs"]["cochran_q"] == []
    assert (pair["same_predictions"], pair["verdict"]) == (False, "undecided")
    assert pair["difference_points"]["estimate"] == 0
    assert "paired over 4 classes" in pair["sentence"]
    assert found["classification"]["entries"] == {}
    for key in ("agreement", "ensemble", "hard_samples"):
        assert found[key] is None
    assert all(row["top5"] is None and row["still_share"] is None for row in found["table"])
    assert not (folder.results / "confusion_matrix.csv").exists()
    run = next(folder.path.glob("runs/*/predictions/*"))
    assert sorted(p.suffix for p in run.iterdir()) == [".json", ".parquet"]
    stored = pd.read_parquet(next(run.glob("*.parquet")))
    assert list(stored.columns) == ["class", "condition", "right", "n_samples"]
    assert len(stored) == 4 * 5


def test_published_statistics_of_a_table_are_those_of_its_rows(tmp_path: Path) -> None:
    """Without the published file: a table with counts by rule, against the analysis itself."""
    rows = [
        (f"class-{k:02d}", c, s, ((7 * k + c // 5 + s) % (11 + k)) / (11 + k), 11 + k)
        for k in range(12)
        for c in (10, 25, 50, 75, 100)
        for s in (1, 2, 4, 8, 16)
    ]
    header = ["class", "coverage", "stride", "accuracy", "n_samples"]
    path = write_rows(tmp_path / "t.csv", header, rows)
    found = compare_study(imported(tmp_path, f"t={path}"))["published"]["entries"]["t"]
    expected = published_analysis(pd.read_csv(path))
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-9)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for item in value.values() for x in numbers(item)]
    if isinstance(value, list):
        return [x for item in value for x in numbers(item)]
    return [value] if isinstance(value, float) else []


def test_published_table_gives_the_published_numbers(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "published-results"
    folder = imported(tmp_path, f"videomae={source / 'videomae_ucf101_per_class.csv'}")
    found = compare_study(folder)
    ours = found["published"]["entries"]["videomae"]
    theirs = read_json(source / "videomae_ucf101_statistical_results.json")
    for section, values in theirs.items():
        for key, value in values.items():
            assert ours[section][key] == pytest.approx(value, rel=1e-6), (section, key)
    pairs = pd.read_csv(source / "videomae_ucf101_pairwise_coverage_comparisons.csv")
    assert [row["t_statistic"] for row in ours["pairwise"]] == pytest.approx(
        pairs["t-statistic"].tolist(), rel=1e-6
    )
    cells = pd.read_csv(source / "videomae_ucf101_temporal_sampling.csv")
    shown = {(row["coverage"], row["stride"]): row["correct"] for row in found["table"]}
    published = cells[["coverage", "stride", "correct"]].to_numpy().tolist()
    assert shown == {(coverage, stride): right for coverage, stride, right in published}


def test_tables_and_samples_never_stand_in_one_study(tmp_path: Path) -> None:
    folder, found = beside(tmp_path)
    compare_study(folder)
    samples = export_csv(tmp_path / "s.csv", found)
    table = class_table(folder, "videomae")
    for texts, options in (
        ((f"a={samples}", f"b={table}"), {}),
        ((f"b={table}",), {"target": folder, "mix_protocols": True}),
    ):
        text = refused(tmp_path, *texts, **options)
        assert "cannot stand beside predictions of single samples" in text
        assert "per_class_<entry>.csv" in text


def test_tables_of_other_samples_are_refused_with_the_counts(tmp_path: Path) -> None:
    header = ["class", "accuracy", "n_samples"]
    first = write_rows(tmp_path / "a.csv", header, [("run", 0.5, 4), ("sit", 1, 3)])
    second = write_rows(tmp_path / "b.csv", header, [("run", 0.5, 6), ("sit", 1, 3)])
    third = write_rows(tmp_path / "c.csv", header, [("run", 0.5, 4), ("sat", 1, 3)])
    assert "'run: 4 and 6'" in refused(tmp_path, f"a={first}", f"b={second}")
    assert "only in a seed 0: 'sit'; only in c seed 0: 'sat'" in refused(
        tmp_path, f"a={first}", f"c={third}"
    )


def test_table_joins_tables_that_are_there_and_is_copied_from_their_folder(tmp_path: Path) -> None:
    header = ["class", "accuracy", "n_samples"]
    first = write_rows(tmp_path / "a.csv", header, [("run", 0.5, 4), ("sit", 1, 3)])
    second = write_rows(tmp_path / "b.csv", header, [("sit", 0, 3), ("run", 0.25, 4)])
    folder = imported(tmp_path, f"a={first}")
    imported(tmp_path, f"b={second}")
    run = folder.runs()[0][1]
    where = run.predictions(protocol_id(folder.study().protocol))
    other = imported(tmp_path, str(where), name="other")
    for study, rights in ((folder, {"a": 5, "b": 1}), (other, {"a": 5})):
        judged = read_judged_study(study)
        assert judged.unit == "class"
        assert {run.entry: int(run.correct.sum()) for run in judged.runs} == rights


def test_one_class_alone_gets_a_reason_instead_of_an_interval(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ["class", "accuracy", "n_samples"], [("run", 0.5, 4)])
    found = compare_study(imported(tmp_path, f"a={path}"))
    assert "no interval" in found["verdict"]["sentence"]
    assert found["entries"][0]["accuracy"]["low"] is None


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ["class", "accuracy", "n_samples"], [("run", 0.5, 4)])
    folder = imported(tmp_path, f"a={path}")
    part = next(folder.path.rglob("classes-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(RecordError, match="missing or was changed"):
        read_judged_study(folder)


LOOP = """
import sys
from pathlib import Path
from regatta.analysis.import_request import parse_request
from regatta.analysis.imported import import_predictions
print("ready", flush=True)
while True:
    for path in sys.argv[2:]:
        import_predictions(Path(sys.argv[1]), [parse_request(f"a={path}")])
"""


def test_import_that_is_killed_leaves_the_old_or_the_new_entry_and_no_other(tmp_path: Path) -> None:
    original = built(tmp_path, samples=400)
    found = predictions_of(original, "videomae")
    wrong = replace(found, labels=(found.labels + 1) % 4)
    paths = [export_npz(tmp_path / f"{n}.npz", each) for n, each in enumerate((found, wrong))]
    allowed = [each.correct().mean() for each in (found, wrong)]
    for moment in (0.0, 0.013, 0.06):
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path / "runs"), *map(str, paths)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        study = StudyFolder(tmp_path / "runs" / "imported")
        deadline = time.monotonic() + 60
        while not study.study_yaml.is_file():
            assert time.monotonic() < deadline
        end = time.monotonic() + moment
        while time.monotonic() < end:
            pass
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        judged = read_judged_study(study)
        assert judged.runs[0].correct.mean() in allowed
    folder = imported(tmp_path, f"a={paths[0]}")
    assert len(list(folder.path.rglob("part-*.parquet"))) == 1
    assert not list(tmp_path.rglob(".import-*"))


def test_imports_of_other_studies_at_the_same_time_leave_each_other_alone(tmp_path: Path) -> None:
    path = export_npz(tmp_path / "f.npz", predictions_of(built(tmp_path, samples=48), "videomae"))
    runs = tmp_path / "runs"
    with own_folder(runs, ".import-a-b-") as longer, own_folder(runs, ".import-a-") as same:
        imported(tmp_path, f"e={path}", name="a")
        assert longer.is_dir()
        assert same.is_dir()
    child = subprocess.run([sys.executable, "-c", KILLED_IMPORT, str(runs)], check=False)
    assert child.returncode == -signal.SIGKILL
    (left,) = runs.glob(".import-*")
    imported(tmp_path, f"e={path}", name="other")
    assert left.is_dir()
    shutil.rmtree(runs / "a")
    imported(tmp_path, f"e={path}", name="a")
    assert not left.exists()


KILLED_IMPORT = """
import os, signal, sys
from pathlib import Path
from regatta.core.locks import own_folder
with own_folder(Path(sys.argv[1]), ".import-a-"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_full_disk_leaves_the_old_entry(tmp_path: Path) -> None:
    """A file may have at most 20 kB in the child: the parts of the new entry are larger."""
    original = built(tmp_path, samples=48)
    found = predictions_of(original, "videomae")
    old = export_npz(tmp_path / "old.npz", found)
    imported(tmp_path, f"a={old}")
    many = 4000
    large = export_npz(
        tmp_path / "large.npz",
        found,
        sample_ids=np.array([f"s{i}" for i in range(many)]),
        labels=np.zeros(many, int),
        groups=None,
        scores=np.random.default_rng(0).normal(size=(1, many, 4)),
    )
    before = tree(tmp_path / "runs")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from pathlib import Path\n"
        "from regatta.analysis.import_request import parse_request\n"
        "from regatta.analysis.imported import import_predictions\n"
        "import_predictions(Path(sys.argv[1]), [parse_request(f'a={sys.argv[2]}')])\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "runs"), str(large)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "DiskError: file too large" in child.stderr
    assert tree(tmp_path / "runs") == before


def test_entries_stand_in_the_order_in_which_they_were_imported(tmp_path: Path) -> None:
    path = export_csv(tmp_path / "t.csv", predictions_of(built(tmp_path), "videomae"))
    folder = imported(tmp_path, *(f"{name}={path}" for name in "dacb"))
    assert read_judged_study(folder).entries == list("dacb")
