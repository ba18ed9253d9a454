"""Promises of reading foreign files: every number back, every mistake named, nothing executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from regatta.core.errors import DataError
from regatta.records.import_tables import ROUNDED
from regatta.records.imports import (
    MAX_FILE_BYTES,
    ForeignCounts,
    ForeignScores,
    as_logits,
    read_foreign,
)
from tests.records.foreign import write_rows

GOOD = "sample_id,label,score_a,score_b\ns2,b,0.25,1.5\ns1,a,2.0,-1e-3\n"
CLASSES = "class,coverage,stride,accuracy,n_samples\nrun,50,1,0.25,4\nsit,50,1,1.0,3\n"


def written(folder: Path, content: str | bytes, name: str = "theirs.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def scores_of(path: Path) -> ForeignScores:
    found = read_foreign(path)
    assert isinstance(found, ForeignScores)
    return found


def counts_of(path: Path) -> ForeignCounts:
    found = read_foreign(path)
    assert isinstance(found, ForeignCounts)
    return found


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_foreign(path)
    return str(caught.value)


def test_scores_of_a_csv_come_back_sorted_by_sample_with_every_digit(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    ids, labels = [f"clip {i}.avi" for i in (3, 1, 6, 0, 5, 2, 4)], [0, 2, 1, 1, 0, 2, 2]
    rows = [
        [*pair, *(repr(float(x)) for x in row)]
        for *pair, row in zip(ids, labels, scores, strict=True)
    ]
    header = ["sample_id", "label", "score_0", "score_1", "score_2"]
    found = scores_of(write_rows(tmp_path / "a.csv", header, rows))
    order = np.argsort(ids)
    assert found.sample_ids.tolist() == sorted(ids)
    assert found.labels.tolist() == [labels[i] for i in order]
    assert found.scores.tobytes() == scores[order][None].tobytes()
    assert (found.classes, found.has_names, found.groups) == (["0", "1", "2"], False, None)
    assert [c.is_reference for c in found.conditions] == [True]


def test_score_columns_name_classes_and_labels_are_read_by_name(tmp_path: Path) -> None:
    found = scores_of(written(tmp_path, GOOD))
    assert (found.classes, found.has_names) == (["a", "b"], True)
    assert found.labels.tolist() == [0, 1]
    assert found.scores[0, 1].tolist() == [0.25, 1.5]


def test_numbered_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    found = scores_of(written(tmp_path, "score_1,label,sample_id,score_0\n7,1,x,5\n"))
    assert found.scores[0, 0].tolist() == [5.0, 7.0]


def test_axes_make_the_conditions_of_a_grid_with_the_full_clip_as_reference(tmp_path: Path) -> None:
    rows = [
        f"{s},g-{s},{k % 2},{c},{t},{k + c},{t}"
        for c, t in ((100, 4), (50, 1), (100, 1), (50, 4))
        for k, s in enumerate("xy")
    ]
    header = "sample_id,group,label,coverage,stride,score_0,score_1"
    found = scores_of(written(tmp_path, "\n".join([header, *rows])))
    assert [c.id for c in found.conditions] == ["c50s1", "c50s4", "c100s1", "c100s4"]
    assert [c.id for c in found.conditions if c.is_reference] == ["c100s1"]
    assert found.conditions[0].axes == {"coverage": 50, "stride": 1}
    assert found.scores[:, 1, 0].tolist() == [51.0, 51.0, 101.0, 101.0]
    assert found.scores[:, 0, 1].tolist() == [1.0, 4.0, 1.0, 4.0]
    assert found.groups is not None
    assert found.groups.tolist() == ["g-x", "g-y"]


def test_named_conditions_keep_their_order_and_the_first_is_the_reference(tmp_path: Path) -> None:
    rows = [f"x,0,{name},{i},0" for i, name in enumerate(("static", "full", "shuffled"))]
    found = scores_of(
        written(tmp_path, "\n".join(["sample_id,label,condition,score_0,score_1", *rows]))
    )
    assert [c.id for c in found.conditions] == ["static", "full", "shuffled"]
    assert [c.is_reference for c in found.conditions] == [True, False, False]
    assert found.scores[:, 0, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\n\n").encode(),
        GOOD.rstrip("\n").encode(),
        GOOD.replace("label,", " label ,").replace("b,0.25", " b , 0.25").encode(),
    ],
    ids=["byte order mark", "carriage returns", "empty lines", "no last line end", "spaces"],
)
def test_harmless_differences_of_writing_are_accepted(tmp_path: Path, content: bytes) -> None:
    expected = scores_of(written(tmp_path, GOOD, "expected.csv"))
    found = scores_of(written(tmp_path, content))
    assert found.sample_ids.tolist() == expected.sample_ids.tolist()
    assert found.labels.tolist() == expected.labels.tolist()
    assert np.array_equal(found.scores, expected.scores)


def test_names_with_commas_quotes_and_other_scripts_pass(tmp_path: Path) -> None:
    names = ['a, "b"', "转左", '"><img src=x>', "=cmd()"]
    header = ["sample_id", "label", *(f"score_{name}" for name in names)]
    rows = [[f"x,{k}", name, *map(float, np.eye(4)[k] * 3)] for k, name in enumerate(names)]
    found = scores_of(write_rows(tmp_path / "a.csv", header, rows))
    assert found.classes == names
    assert found.labels.tolist() == found.scores[0].argmax(axis=1).tolist() == [0, 1, 2, 3]


HEAD = "sample_id,label,score_a,score_b\n"
REFUSED: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty file": ("", ("file is empty",)),
    "header alone": (HEAD, ("a header and no rows",)),
    "header without line end": (HEAD.strip(), ("a header and no rows",)),
    "misspelt column": (
        GOOD.replace("sample_id", "sampleid"),
        ("no column 'sample_id'", "did you mean 'sample_id' by 'sampleid'?"),
    ),
    "unknown column": (
        "sample_id,label,score_a,score_b,coverge\nx,a,1,2,3\n",
        ("unknown column 'coverge'", "did you mean 'coverage'"),
    ),
    "no label": ("sample_id,score_a,score_b\nx,1,2\n", ("no column 'label'",)),
    "column twice": (HEAD.replace("score_b", "score_a") + "x,a,1,2\n", ("'score_a'", "twice")),
    "one class": ("sample_id,label,score_a\nx,a,1\n", ("two or more classes", "'score_a'")),
    "neither kind": ("name,value\nx,1\n", ("no column 'sample_id', 'label'", "docs/import.md")),
    "sample twice": (GOOD + "s1,a,1,2\n", ("stand twice", "'s1 (imported)'", "rows 3 and 4")),
    "sample without a condition": (
        "sample_id,label,condition,score_a,score_b\nx,a,k,1,2\nx,a,m,1,2\ny,a,k,1,2\n",
        ("1 samples lack a condition", "'y (m)'"),
    ),
    "NaN": (GOOD.replace("1.5", "nan"), ("not finite", "sample 's2'")),
    "missing score": (GOOD.replace("1.5", ""), ("missing or not finite", "sample 's2'")),
    "infinite": (GOOD.replace("1.5", "-inf"), ("not finite", "sample 's2'")),
    "too large for the store": (GOOD.replace("1.5", "1e39"), ("not finite", "sample 's2'")),
    "label outside": (HEAD + "x,2,1,2\n", ("label '2' is none of the 2 classes", "from 0 to 1")),
    "negative label": (HEAD + "x,-1,1,2\n", ("label '-1'",)),
    "misspelt label": (
        "sample_id,label,score_walk,score_run\nx,wlak,1,2\n",
        ("label 'wlak'", "did you mean 'walk'?", "row 1"),
    ),
    "empty label": (HEAD + "x,,1,2\n", ("label ''",)),
    "word for a score": (
        GOOD.replace("1.5", "high"),
        ("not a number: 'high'", "row 2, column 'score_b'"),
    ),
    "comma as decimal point": (HEAD + 'x,a,"1,5",2\n', ("not a number: '1,5'",)),
    "short row": (GOOD + "s3,a,1\n", ("a row has 3 fields, the header has 4", "row 4")),
    "long row": (GOOD + "s3,a,1,2,3\n", ("a row has 5 fields", "row 4")),
    "open quote": (HEAD + '"x,a,1,2\ny,a,1,2\n', ("a row has 1 fields",)),
    "semicolons": (GOOD.replace(",", ";"), ("separated by semicolons, not by commas",)),
    "tabs": (GOOD.replace(",", "\t"), ("separated by tabs",)),
    "not UTF-8": (GOOD.encode().replace(b"s1", b"\xff\xfe"), ("not UTF-8", "row 3")),
    "not UTF-8 in the header": (
        b"sample_id,label,score_\xff,score_b\n",
        ("neither text in UTF-8",),
    ),
    "no id": (HEAD + ",a,1,2\n", ("sample has no id", "row 2")),
    "empty axis": ("sample_id,label,stride,score_a,score_b\nx,a,,1,2\n", ("'stride' is empty",)),
    "another label elsewhere": (
        "sample_id,label,condition,score_a,score_b\nx,a,k,1,2\nx,b,m,1,2\n",
        ("another label in another condition", "'x'"),
    ),
    "another group elsewhere": (
        "sample_id,label,group,condition,score_a,score_b\nx,a,g,k,1,2\nx,a,h,m,1,2\n",
        ("another group in another condition", "'x'"),
    ),
    "no group": ("sample_id,label,group,score_a,score_b\nx,a,,1,2\n", ("without a group: 'x'",)),
    "one name for two axes": (
        "sample_id,label,condition,stride,score_a,score_b\nx,a,k,1,1,2\nx,a,k,2,1,2\n",
        ("several values on its axes: 'k'",),
    ),
    "pickle": (pickle.dumps({"scores": [1]}), ("a pickle", "run code")),
    "single array": (b"\x93NUMPY\x01\x00", ("a single array", "np.savez")),
    "parquet": (b"PAR1....", ("a parquet file",)),
    "gzip": (b"\x1f\x8b....", ("a packed file",)),
    "accuracy above 100": (CLASSES.replace("1.0", "101"), ("accuracy", "class 'sit'")),
    "negative accuracy": (CLASSES.replace("0.25", "-0.25"), ("accuracy", "class 'run'")),
    "accuracy missing": (CLASSES.replace("0.25", ""), ("accuracy", "class 'run'")),
    "class row twice": (CLASSES + "run,50,1,0.25,4\n", ("stand twice", "'run (c50s1)'")),
    "class without a condition": (
        CLASSES + "run,100,1,0.25,4\n",
        ("lack a condition", "'sit (c100s1)'"),
    ),
    "no samples": (CLASSES.replace(",4\n", ",0\n"), ("whole number from 1", "class 'run'")),
    "part of a sample": (CLASSES.replace(",4\n", ",4.5\n"), ("whole number from 1",)),
    "other samples elsewhere": (
        CLASSES + "run,100,1,0.2,5\nsit,100,1,1.0,3\n",
        ("another n_samples in another condition", "'run'"),
    ),
    "no such count": (
        CLASSES.replace("0.25", "0.3"),
        ("no whole number of right answers", "run (c50s1): 0.3 of 4", "a mean over seeds"),
    ),
    "percent among shares": (
        "class,accuracy,n_samples\nrun,0.93,128\nsit,1.2,50\n",
        ("no whole number", "read as percentages, as some are above 1"),
    ),
    "misspelt class column": (
        CLASSES.replace("accuracy", "acuracy"),
        ("did you mean 'accuracy' by 'acuracy'?",),
    ),
    "class without a name": (CLASSES.replace("run", ""), ("a class has no name",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_file_is_refused_with_the_place_and_a_next_step(tmp_path: Path, case: str) -> None:
    content, words = REFUSED[case]
    path = written(tmp_path, content)
    text = refusal(path)
    assert str(path) in text
    for word in words:
        assert word in text
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_class_table_gives_whole_counts_of_every_condition(tmp_path: Path) -> None:
    rows = [(name, c, right / n, n) for c in (100, 50) for name, n, right in CELLS[c]]
    header = ["class", "coverage", "accuracy", "n_samples"]
    found = counts_of(write_rows(tmp_path / "t.csv", header, rows))
    assert found.classes == ["run", "sit", "walk"]
    assert found.counts.tolist() == [128, 3, 113]
    assert found.right.tolist() == [[7, 0, 113], [119, 3, 111]]
    assert [c.axes for c in found.conditions] == [{"coverage": 50}, {"coverage": 100}]
    assert found.notes == []


CELLS = {
    100: [("walk", 113, 111), ("run", 128, 119), ("sit", 3, 3)],
    50: [("sit", 3, 0), ("run", 128, 7), ("walk", 113, 113)],
}


def test_percentages_and_rounded_accuracies_are_read_and_said(tmp_path: Path) -> None:
    """119 of 128 = 92.96875 %, printed with two decimals."""
    found = counts_of(
        written(tmp_path, "class,accuracy,n_samples\nrun,92.97,128\nsit,100,3\nwalk,0,5\n")
    )
    assert found.right.tolist() == [[119, 3, 0]]
    percent, rounded = found.notes
    assert "read as percentages" in percent
    assert "1 of 3 of its accuracies are rounded" in rounded
    assert "0.0012 points" in rounded


def test_accuracy_is_rounded_by_at_most_half_a_tenth_of_a_percent() -> None:
    assert ROUNDED == 0.0005


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(2, 5)),
        elements=st.floats(-1e6, 1e6) | st.sampled_from([0.3, np.nextafter(0.3, 1), 1.0]),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_answer_changes_on_the_way_into_the_store(scores: np.ndarray) -> None:
    kept, _ = as_logits(scores)
    assert kept.dtype == np.float32
    assert kept.argmax(axis=1).tolist() == scores.argmax(axis=1).tolist()


@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-40, 40))
)
@settings(max_examples=100, deadline=None)
def test_probabilities_become_logits_that_give_them_back(logits: np.ndarray) -> None:
    shares = softmax(logits, axis=1)
    kept, note = as_logits(shares)
    assert "probabilities" in note
    assert softmax(kept.astype(float), axis=1) == pytest.approx(shares, abs=1e-5)
    assert kept.argmax(axis=1).tolist() == shares.argmax(axis=1).tolist()


def test_answers_without_doubt_stay_finite(tmp_path: Path) -> None:
    found = scores_of(written(tmp_path, HEAD + "x,a,1,0\ny,b,0,1\n"))
    assert np.isfinite(found.scores).all()
    assert found.scores[0].argmax(axis=1).tolist() == [0, 1]
    assert "probabilities" in found.notes[0]


SCORES = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)
ARCHIVE: dict[str, Any] = {
    "scores": SCORES,
    "labels": np.array([3, 0, 1]),
    "sample_ids": np.array(["z", "x", "y"]),
    "coverage": np.array([50.0, 100.0]),
    "stride": np.array([1, 1]),
}


def archive(folder: Path, **changes: Any) -> Path:
    kept = {name: each for name, each in {**ARCHIVE, **changes}.items() if each is not None}
    np.savez_compressed(folder / "theirs.npz", **kept)
    return folder / "theirs.npz"


def test_archive_comes_back_bit_by_bit(tmp_path: Path) -> None:
    found = scores_of(archive(tmp_path, groups=np.array(["g", "h", "h"])))
    assert found.sample_ids.tolist() == ["x", "y", "z"]
    assert found.labels.tolist() == [0, 1, 3]
    assert found.scores.tobytes() == SCORES[:, [1, 2, 0]].tobytes()
    assert [c.id for c in found.conditions] == ["c50s1", "c100s1"]
    assert found.groups is not None
    assert found.groups.tolist() == ["h", "h", "g"]


def test_archive_of_one_condition_may_be_flat(tmp_path: Path) -> None:
    path = archive(tmp_path, scores=SCORES[0], coverage=None, stride=None)
    found = scores_of(path)
    assert found.scores.tobytes() == SCORES[0][[1, 2, 0]].tobytes()
    assert len(found.conditions) == 1


@pytest.mark.parametrize(
    "labels", [np.array(["d", "a", "b"]), np.array([b"d", b"a", b"b"]), np.array([3, 0, 1])]
)
def test_labels_may_be_names_bytes_or_places(tmp_path: Path, labels: np.ndarray) -> None:
    found = scores_of(archive(tmp_path, labels=labels, classes=np.array(list("abcd"))))
    assert (found.labels.tolist(), found.classes) == ([0, 1, 3], ["a", "b", "c", "d"])


def test_whole_numbers_name_samples_as_text(tmp_path: Path) -> None:
    found = scores_of(archive(tmp_path, sample_ids=np.array([10, 9, 8])))
    assert found.sample_ids.tolist() == ["10", "8", "9"]


WRONG_ARRAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "objects": ({"sample_ids": np.array(["a", 1, None], dtype=object)}, ("'sample_ids'", "pickle")),
    "no labels": ({"labels": None}, ("no array 'labels'",)),
    "misspelt": (
        {"labels": None, "label": np.zeros(3, int)},
        ("did you mean 'labels' by 'label'?",),
    ),
    "unknown": ({"predictions": np.zeros(3)}, ("unknown array 'predictions'",)),
    "flat scores": ({"scores": np.zeros(3)}, ("'scores'", "shape (3,)")),
    "one class": ({"scores": SCORES[..., :1]}, ("'scores'", "two classes")),
    "words as scores": ({"scores": SCORES.astype(str)}, ("'scores'", "numbers")),
    "no sample": (
        {"scores": SCORES[:, :0], "labels": np.zeros(0, int), "sample_ids": np.zeros(0, str)},
        ("at least one sample",),
    ),
    "labels of other samples": ({"labels": np.zeros(4, int)}, ("'labels'", "shape (3,)")),
    "ids of other samples": ({"sample_ids": np.array(["x"])}, ("'sample_ids'", "shape (3,)")),
    "label outside": ({"labels": np.array([0, 4, 1])}, ("label 4", "sample 'x'")),
    "unknown name": (
        {"labels": np.array(["a", "q", "b"]), "classes": np.array(list("abcd"))},
        ("label 'q'",),
    ),
    "id twice": ({"sample_ids": np.array(["x", "x", "y"])}, ("twice", "'x'")),
    "class twice": ({"classes": np.array(list("aacd"))}, ("two classes have one name",)),
    "conditions without a name": ({"coverage": None, "stride": None}, ("nothing says which",)),
    "conditions twice": ({"coverage": np.array([50, 50])}, ("two conditions are the same",)),
    "NaN": (
        {"scores": np.where(np.arange(24).reshape(2, 3, 4) == 17, np.nan, SCORES)},
        ("not finite", "sample 'x', condition c100s1"),
    ),
    "axis of another length": ({"stride": np.array([1])}, ("'stride'", "shape (2,)")),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_archive_is_refused_with_the_array(tmp_path: Path, case: str) -> None:
    changes, words = WRONG_ARRAYS[case]
    text = refusal(archive(tmp_path, **changes))
    for word in words:
        assert word in text


def test_no_array_is_made_of_a_header_that_promises_too_much(tmp_path: Path) -> None:
    """The member is a thousand bytes long, the header says 8 EiB."""
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (1 << 60,)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as file:
        file.writestr("scores.npy", header.getvalue() + bytes(1000))
    assert "'scores' is shorter or longer than its shape" in refusal(tmp_path / "bomb.npz")


def test_packed_zeros_beyond_the_limit_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regatta.records.import_arrays.MAX_ARRAY_BYTES", 1 << 20)
    path = archive(tmp_path, scores=np.zeros((2, 3, 1 << 17)))
    assert "GiB are read" in refusal(path)


@pytest.mark.parametrize("cut", [10, 200, -5])
def test_cut_archive_is_called_damaged(tmp_path: Path, cut: int) -> None:
    path = archive(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    assert "damaged" in refusal(path)


def test_other_zip_files_are_told_from_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("data.pkl", b"x")
    assert "no NumPy archive: it holds 'data.pkl'" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "absent.csv", "no such file"),
        (lambda folder: folder, "no complete.json"),
        (lambda _: Path("https://example.org/a.csv"), "an address, not a file"),
        (lambda _: Path("/dev/null"), "not a plain file"),
    ],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    assert words in refusal(make(tmp_path))


def test_folder_above_predictions_names_those_below(tmp_path: Path) -> None:
    inner = tmp_path / "run-s0" / "predictions" / "plain-1"
    inner.mkdir(parents=True)
    (inner / "complete.json").write_text("{}")
    assert f"name one of: '{inner}'" in refusal(tmp_path)


def test_huge_file_is_refused_unread_with_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    with open(path, "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert "at most 1 GiB are read" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    path.chmod(0)
    assert "cannot be read: Permission denied" in refusal(path)
