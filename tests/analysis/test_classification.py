"""Promises of the classification section: scikit-learn's numbers, seeds, temperature, tables."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from regatta.analysis.classification import class_scores
from regatta.analysis.compare import compare_study
from regatta.core.files import read_json, write_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study
from tests.report.sensor_build import ACTIVITIES, build_sensor_study

MATRIX = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
"""Class 1 is never there; class 2 is never answered."""
HAR_HEADER = (
    "run,entry,mode,pool,encoder,frozen,seed,split,label_fraction,accuracy,low,high,macro_f1,nll,"
    "ece,parameters,macs,train_seconds,infer_ms"
)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


class Recorder:
    """The scores and labels of every run, as the study was built."""

    def __init__(self) -> None:
        self.scores: dict[tuple[str, int], np.ndarray] = {}
        self.labels = np.empty(0)

    def __call__(self, entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        self.scores[entry, seed], self.labels = scores, labels
        return scores


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    recorder = Recorder()
    folder = build_judged_study(
        tmp_path_factory.mktemp("runs"),
        entries=2,
        samples=120,
        seeds=(0, 1),
        protocol="plain",
        compare={"replicates": 200},
        alter=recorder,
    )
    for spec, run in folder.runs():
        results = read_json(run.training_results)
        write_json(run.training_results, {**results, "temperature": 2.0 + spec.seed})
    return folder, recorder, compare_study(folder)


def mean_over_seeds(recorder: Recorder, measure) -> float:
    found = [measure(recorder.scores["videomae", seed][0].astype(float), seed) for seed in (0, 1)]
    return float(np.mean(found))


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    truth = np.eye(scores.shape[1])[labels]
    return float(((softmax(scores, axis=1) - truth) ** 2).sum(axis=1).mean())


def test_single_numbers_are_the_mean_over_seeds_of_scikit_learns(built):
    _, recorder, comparison = built
    found, labels = comparison["classification"]["entries"]["videomae"], recorder.labels
    wanted = {
        "accuracy": lambda s, _: sk.accuracy_score(labels, s.argmax(1)),
        "macro_f1": lambda s, _: sk.f1_score(labels, s.argmax(1), average="macro"),
        "balanced_accuracy": lambda s, _: sk.balanced_accuracy_score(labels, s.argmax(1)),
        "nll": lambda s, _: sk.log_loss(labels, softmax(s, axis=1)),
        "nll_scaled": lambda s, seed: sk.log_loss(labels, softmax(s / (2 + seed), axis=1)),
        "brier": lambda s, _: brier(s, labels),
        "brier_scaled": lambda s, seed: brier(s / (2 + seed), labels),
        "temperature": lambda _, seed: 2 + seed,
    }
    for name, measure in wanted.items():
        assert found[name] == pytest.approx(mean_over_seeds(recorder, measure), abs=1e-6), name


def test_class_scores_count_the_answers_of_all_seeds_and_support_counts_samples_once(built):
    _, recorder, comparison = built
    labels = np.tile(recorder.labels, 2)
    answers = np.concatenate([recorder.scores["videomae", seed][0].argmax(1) for seed in (0, 1)])
    found = comparison["classification"]["entries"]["videomae"]
    assert found["confusion"] == sk.confusion_matrix(labels, answers).tolist()
    *wanted, support = (
        np.asarray(values) for values in sk.precision_recall_fscore_support(labels, answers)
    )
    for name, values in zip(("precision", "recall", "f1"), wanted, strict=True):
        assert [row[name] for row in found["per_class"]] == pytest.approx(values)
    assert [row["support"] for row in found["per_class"]] == (support // 2).tolist()


def test_an_unknown_temperature_is_not_measured_and_never_1(built, tmp_path):
    folder = build_judged_study(
        tmp_path, entries=1, samples=40, protocol="plain", compare={"replicates": 100}
    )
    found = compare_study(folder)["classification"]["entries"]["timesformer"]
    assert [found[f"{name}_scaled"] for name in ("nll", "brier", "ece")] == [None] * 3
    assert found["temperature"] is None
    assert found["ece"] is not None


def test_the_report_agrees_with_scikit_learns_line_by_line(built):
    folder, recorder, comparison = built
    text = (folder.results / "classification_report.txt").read_text(encoding="utf-8")
    block = next(part for part in text.split("\n\n\n") if part.startswith("videomae"))
    lines = {line.split()[0]: line.split()[1:] for line in block.splitlines()[3:] if line.strip()}
    answers = np.concatenate([recorder.scores["videomae", seed][0].argmax(1) for seed in (0, 1)])
    wanted = sk.classification_report(
        np.tile(recorder.labels, 2),
        answers,
        target_names=comparison["classification"]["labels"],
        output_dict=True,
    )
    assert isinstance(wanted, dict)
    for name in comparison["classification"]["labels"]:
        row = wanted[name]
        digits = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1-score")]
        assert lines[name] == [*digits, str(int(row["support"] // 2))]
    assert lines["accuracy"] == [f"{wanted['accuracy']:.3f}", "120"]


def test_tables_have_three_digits_and_rows_that_sum_to_1(built):
    folder, _, comparison = built
    classes = rows_of(folder.results / "per_class.csv")
    assert list(classes[0]) == ["entry", "class", "precision", "recall", "f1", "support"]
    exact = comparison["classification"]["entries"]["timesformer"]["per_class"][0]
    assert float(classes[0]["recall"]) == pytest.approx(exact["recall"], abs=0.0005)
    assert len(classes[0]["recall"]) <= 5
    sums: dict[tuple[str, str], float] = {}
    for row in rows_of(folder.results / "confusion_matrix.csv"):
        key = (row["entry"], row["class"])
        sums[key] = sums.get(key, 0) + float(row["share"])
    assert len(sums) == 2 * 4
    assert list(sums.values()) == pytest.approx([1.0] * 8)


def test_numbers_that_are_not_defined_are_none():
    found = class_scores(MATRIX, ["a", "b", "c"], np.array([4, 0, 2]))
    assert found[0] == {
        "class": "a",
        "precision": pytest.approx(3 / 5),
        "recall": pytest.approx(3 / 4),
        "f1": pytest.approx(6 / 9),
        "support": 4,
    }
    assert (found[1]["precision"], found[1]["recall"], found[1]["f1"]) == (0.0, None, 0.0)
    assert (found[2]["precision"], found[2]["recall"], found[2]["f1"]) == (None, 0.0, 0.0)


def sensor_rows(folder: StudyFolder, name: str) -> list[dict[str, str]]:
    compare_study(folder)
    return rows_of(folder.results / name)


def test_har_results_has_a_row_per_run_and_empty_fields_where_nothing_applies(tmp_path):
    folder = build_sensor_study(tmp_path, seeds=(0, 1), windows=108)
    rows = sensor_rows(folder, "har_results.csv")
    assert list(rows[0]) == [
        "run",
        "entry",
        "mode",
        "pool",
        "encoder",
        "frozen",
        "seed",
        "split",
        "label_fraction",
        "accuracy",
        "low",
        "high",
        "macro_f1",
        "nll",
        "ece",
        "parameters",
        "macs",
        "train_seconds",
        "infer_ms",
    ]
    assert [(row["entry"], row["seed"]) for row in rows] == [
        (entry, seed) for entry in ("har-vit", "cnn1d", "majority") for seed in "01"
    ]
    vit, cnn = rows[0], rows[2]
    assert (vit["mode"], vit["encoder"], vit["frozen"]) == ("average", "vit-tiny", "True")
    assert (cnn["mode"], cnn["pool"], cnn["encoder"], cnn["frozen"]) == ("", "", "", "")
    assert (cnn["split"], cnn["label_fraction"]) == ("official", "1")
    assert float(vit["macs"]) == pytest.approx(
        read_json(folder.run(vit["run"]).training_results)["flops_per_clip"] / 2
    )
    for row in rows:
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])


def test_robustness_has_a_row_per_run_and_perturbation(tmp_path):
    folder = build_sensor_study(tmp_path, protocol="sensor-robustness", windows=108)
    rows = sensor_rows(folder, "robustness.csv")
    assert list(rows[0]) == (
        ["run", "entry", "condition", "level", "accuracy", "low", "high", "n_windows", "n_subjects"]
    )
    cnn = [row for row in rows if row["entry"] == "cnn1d"]
    assert [(row["condition"], float(row["level"])) for row in cnn][:3] == [
        ("clean", 0.0),
        ("noise", 0.05),
        ("noise", 0.5),
    ]
    assert {(row["n_windows"], row["n_subjects"]) for row in rows} == {("108", "9")}
    comparison = read_json(folder.results / "comparison.json")
    table = {(row["model"], row["condition"]): row for row in comparison["table"]}
    assert float(cnn[2]["accuracy"]) == table["cnn1d", "noise-0.5"]["accuracy"]
    found = comparison["contrasts"]["entries"]["cnn1d"]
    assert [rate["rate_hz"] for rate in found["rates"]] == [25.0, 12.5]
    assert found["sentences"][0].startswith("cnn1d loses most under ")


def test_few_groups_are_called_coarse_and_point_to_loso(tmp_path):
    folder = build_sensor_study(tmp_path, windows=54)
    assert (
        "9 groups: coarse; data.design: loso has the most groups" in compare_study(folder)["notes"]
    )


def test_blocks_are_not_subjects_and_are_not_counted_as_such(tmp_path):
    note = "subjects are not known: transfer to unseen subjects is not measured"
    folder = build_sensor_study(tmp_path, windows=54, notes=[note], protocol="sensor-robustness")
    notes = compare_study(folder)["notes"]
    assert note in notes
    assert "9 groups: coarse" in notes
    assert {row["n_subjects"] for row in rows_of(folder.results / "robustness.csv")} == {""}


def test_every_table_of_windows_split_at_random_says_leaky(tmp_path):
    folder = build_sensor_study(tmp_path, windows=54, data={"design": "window-random"})
    comparison = compare_study(folder)
    assert comparison["notes"][0].startswith("leaky: ")
    assert comparison["study"]["is_leaky"] is True
    assert len(comparison["files"]) > 8
    for name in comparison["files"]:
        text = (folder.results / name).read_text(encoding="utf-8")
        assert "leaky" in text, name
        if name.endswith(".csv"):
            assert {row["split"] for row in rows_of(folder.results / name)} == {
                "window-random (leaky)"
            }
    assert sorted(ACTIVITIES) == sorted(comparison["classification"]["labels"])


def test_a_picture_encoder_that_loses_is_reported_as_losing(tmp_path):
    entries = [
        {"name": "cnn1d", "model": "cnn1d"},
        {"name": "har-vit", "model": "har-vit", "checkpoint": "none"},
    ]
    verdict = compare_study(build_sensor_study(tmp_path, entries, windows=432, subjects=27))[
        "verdict"
    ]
    assert verdict["leader"] == "cnn1d"
    assert verdict["sentence"].startswith("cnn1d is ahead of har-vit by ")
