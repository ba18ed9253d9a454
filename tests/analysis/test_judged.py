"""What may stand in one table: runs judged alike, whole, and with finite scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regatta.analysis.judged import check_same_samples, read_judged_study, top_rank
from regatta.config.expand import protocol_id
from regatta.core.errors import RecordError
from regatta.core.files import read_json, write_json
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study


def small(path: Path, **changes: object) -> StudyFolder:
    options: dict[str, object] = {"entries": 2, "samples": 24, "protocol": "plain", **changes}
    return build_judged_study(path, **options)  # pyright: ignore[reportArgumentType]


def predictions_of(folder: StudyFolder, number: int) -> RunPredictions:
    spec, run = folder.runs()[number]
    where = run.predictions(protocol_id(folder.study().protocol))
    return read_run_predictions(where, run_id=spec.run_id, entry=spec.entry.name, seed=spec.seed)


def change_marker(folder: StudyFolder, number: int, key: str, value: object) -> None:
    """Edit the fingerprint of one run's complete.json."""
    run = folder.runs()[number][1]
    marker = run.predictions(protocol_id(folder.study().protocol)) / "complete.json"
    complete = read_json(marker)
    complete["fingerprint"][key] = value
    write_json(marker, complete)


def test_whole_study_is_read_in_study_order(tmp_path: Path) -> None:
    judged = read_judged_study(small(tmp_path, entries=3, seeds=(0, 1), protocol="temporal-grid"))
    assert judged.entries == ["timesformer", "videomae", "vivit"]
    assert [(run.entry, run.seed) for run in judged.runs][:3] == [
        ("timesformer", 0),
        ("timesformer", 1),
        ("videomae", 0),
    ]
    assert judged.runs[0].correct.shape == (25, 24)
    assert judged.missing == []


def test_right_answers_are_the_argmax_of_the_stored_scores(tmp_path: Path) -> None:
    folder = small(tmp_path, entries=1, classes=8)
    stored = predictions_of(folder, 0)
    run = read_judged_study(folder).runs[0]
    assert np.array_equal(run.correct, stored.scores.argmax(axis=2) == stored.labels)
    top5 = np.argsort(-stored.scores[0], axis=1)[:, :5]
    assert run.top5 is not None
    assert run.top5[0] == pytest.approx((top5 == stored.labels[:, None]).any(axis=1).mean())


def test_top_rank_counts_ties_as_argmax_does() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert top_rank(scores, np.array([0, 1, 2])).tolist() == [0, 1, 1]


def test_top5_is_not_given_where_it_cannot_fail(tmp_path: Path) -> None:
    assert read_judged_study(small(tmp_path, classes=5)).runs[0].top5 is None


def test_unfinished_study_lists_what_is_missing_in_sentences(tmp_path: Path) -> None:
    judged = read_judged_study(small(tmp_path, unjudged=[("videomae", 0)]))
    assert judged.entries == ["timesformer"]
    assert judged.missing == [
        "videomae seed 0 is not in this comparison: trained but not judged yet, its state is queued"
    ]


def test_study_without_any_judged_run_is_refused_with_a_next_step(tmp_path: Path) -> None:
    folder = small(tmp_path, entries=1, unjudged=[("timesformer", 0)])
    with pytest.raises(RecordError, match="no run of this study is judged") as caught:
        read_judged_study(folder)
    assert "regatta run" in (caught.value.hint or "")


def test_different_samples_are_refused_with_the_ids(tmp_path: Path) -> None:
    folder = small(tmp_path)
    first = predictions_of(folder, 0)
    other_ids = first.sample_ids.copy()
    other_ids[3] = "intruder.avi"
    with pytest.raises(RecordError) as caught:
        check_same_samples(first, replace(first, run_id="other", sample_ids=other_ids))
    assert repr(str(first.sample_ids[3])) in str(caught.value)
    assert "'intruder.avi'" in str(caught.value)


def test_long_lists_of_differing_ids_are_cut_with_a_count(tmp_path: Path) -> None:
    first = predictions_of(small(tmp_path), 0)
    with pytest.raises(RecordError, match=r"24 only in .* and 14 more"):
        check_same_samples(first, replace(first, sample_ids=np.array(["x"])))


@pytest.mark.parametrize(("field", "word"), [("labels", "labels"), ("groups", "groups")])
def test_same_ids_with_other_labels_or_groups_are_refused(
    tmp_path: Path, field: str, word: str
) -> None:
    first = predictions_of(small(tmp_path), 0)
    changed = getattr(first, field).copy()
    changed[0] = changed[-1] if field == "groups" else changed[0] + 1
    with pytest.raises(RecordError, match=f"different {word} for 1 samples"):
        check_same_samples(first, replace(first, **{field: changed}))


def test_other_classes_or_conditions_are_refused(tmp_path: Path) -> None:
    first = predictions_of(small(tmp_path), 0)
    with pytest.raises(RecordError, match="different classes"):
        check_same_samples(first, replace(first, classes=first.classes[::-1]))
    with pytest.raises(RecordError, match="different conditions"):
        check_same_samples(first, replace(first, conditions=[]))


def test_other_decoder_is_refused_and_named(tmp_path: Path) -> None:
    folder = small(tmp_path)
    change_marker(folder, 1, "decoder", "torchcodec 0.12")
    with pytest.raises(RecordError, match="'decoder' differs"):
        read_judged_study(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_score_that_is_not_finite_is_refused_with_sample_and_condition(
    tmp_path: Path, bad: float
) -> None:
    def spoil(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores[0, 5, 1] = bad
        return scores

    folder = small(tmp_path, alter=spoil)
    with pytest.raises(RecordError, match="not finite") as caught:
        read_judged_study(folder)
    assert "condition plain" in str(caught.value)
    assert ".avi" in str(caught.value)


def test_changed_prediction_file_is_refused(tmp_path: Path) -> None:
    folder = small(tmp_path)
    run = folder.runs()[0][1]
    part = next(run.predictions(protocol_id(folder.study().protocol)).glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(RecordError, match="missing or was changed"):
        read_judged_study(folder)


def test_constant_answers_are_noticed(tmp_path: Path) -> None:
    def constant(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores[:] = 0
        scores[:, :, 2] = 1
        return scores

    assert read_judged_study(small(tmp_path, alter=constant)).runs[0].constant == "drift-left"


def test_truth_is_averaged_over_samples_that_have_it(tmp_path: Path) -> None:
    judged = read_judged_study(small(tmp_path, protocol="temporal-grid"))
    run = judged.runs[0]
    still = [
        c.id for c, share in zip(judged.conditions, run.still_share, strict=True) if share == 1
    ]
    assert still == ["c10s8", "c10s16"]
    place = [c.id for c in judged.conditions].index("c10s16")
    assert run.truth["distinct_frames"][place] == 1
    assert np.isnan(run.truth["rate_hz"][place])
    assert [judged.conditions[i].id for i in run.identical[place]] == ["c10s8"]
