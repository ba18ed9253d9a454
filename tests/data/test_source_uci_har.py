"""Promises of source uci-har: the official layout of any size is read exactly, and what is wrong is
named with its file, counts and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import DataError, SplitLeakError
from regatta.data.sources.uci_har import uci_har
from regatta.data.window_listing import WindowListing
from regatta.data.windows import build_windows
from tests.data.signal_files import CHANNELS, write_lines, write_uci

LABELS = {"train": [1, 1, 2, 2, 3, 3], "test": [3, 1, 2]}
SUBJECTS = {"train": [1, 1, 1, 5, 5, 5], "test": [2, 2, 12]}


def read(root: Path) -> WindowListing:
    return uci_har(root, channels=CHANNELS, rate_hz=20.0)


def small(root: Path, **changes: object) -> dict[str, np.ndarray]:
    options: dict[str, object] = {"labels": LABELS, "subjects": SUBJECTS, **changes}
    return write_uci(root, **options)  # pyright: ignore[reportArgumentType]


def test_layout_of_any_size_is_read_exactly(tmp_path: Path) -> None:
    signals = small(tmp_path / "UCI HAR Dataset", features=7)
    listing = read(tmp_path)
    expected = np.concatenate([signals["train"], signals["test"]])
    assert listing.signals.shape == (9, 4, 16)
    np.testing.assert_allclose(listing.signals, expected, rtol=1e-6)
    assert listing.classes == ["walking", "sitting", "laying"]
    assert [row.sample_id for row in listing.rows][5:8] == [
        "train/00005",
        "test/00000",
        "test/00001",
    ]
    assert [row.label_name for row in listing.rows][-3:] == ["laying", "walking", "sitting"]
    assert [row.subject for row in listing.rows][-2:] == ["subject-02", "subject-12"]
    assert {row.split for row in listing.rows[:6]} == {"train"}
    assert listing.triples == ((0, 1, 2),)
    assert listing.features is not None
    assert listing.features.shape == (9, 7)


def test_windows_that_overlap_are_one_recording_with_their_places(tmp_path: Path) -> None:
    small(tmp_path, overlap=True)
    rows = read(tmp_path).rows
    assert [row.start for row in rows] == [0, 8, 16, 24, 32, 40, 0, 8, 16]
    assert len({row.recording for row in rows}) == 2
    small(tmp_path / "apart")
    assert len({row.recording for row in read(tmp_path / "apart").rows}) == 9


def cut_line(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = " ".join(lines[line - 1].split()[:-1])
    path.write_text("\n".join(lines) + "\n")


def put_word(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = lines[line - 1].replace(lines[line - 1].split()[3], "1,5")
    path.write_text("\n".join(lines) + "\n")


SIGNAL = "train/Inertial Signals/pressure_train.txt"
FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing file": (lambda r: (r / SIGNAL).unlink(), "does not exist", "pressure_train.txt"),
    "no class list": (
        lambda r: (r / "activity_labels.txt").unlink(),
        "does not exist",
        "activity_labels.txt",
    ),
    "empty file": (lambda r: (r / SIGNAL).write_text("\n"), "empty", "pressure_train.txt"),
    "fewer rows": (
        lambda r: (r / SIGNAL).write_text("".join((r / SIGNAL).read_text().splitlines(True)[:4])),
        "4 rows in pressure_train.txt, but 6 in y_train.txt",
        "pressure_train.txt",
    ),
    "ragged": (lambda r: cut_line(r / SIGNAL, 3), "has 15 values, the first has 16", "line 3"),
    "no number": (lambda r: put_word(r / SIGNAL, 2), "'1,5' is not a number", "line 2"),
    "other width": (
        lambda r: np.savetxt(r / SIGNAL, np.zeros((6, 12))),
        "12 columns in pressure_train.txt, but 16 in body_acc_x_train.txt",
        "pressure_train.txt",
    ),
    "unknown label": (
        lambda r: write_lines(r / "test/y_test.txt", [3, 9, 2]),
        "label 9 is not in activity_labels.txt, which has 1, 2, 3",
        "y_test.txt, line 2",
    ),
    "label no number": (
        lambda r: write_lines(r / "test/y_test.txt", [3, "2.5", 2]),
        "'2.5' is not one whole number",
        "y_test.txt, line 2",
    ),
    "subjects of one part": (
        lambda r: (r / "test/subject_test.txt").unlink(),
        "subject_test.txt is missing",
        "test",
    ),
    "class list without number": (
        lambda r: (r / "activity_labels.txt").write_text("1 WALKING\nSITTING\n"),
        "'SITTING' is not a new number and name",
        "line 2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_its_place(tmp_path: Path, fault: str) -> None:
    small(tmp_path)
    spoil, message, place = FAULTS[fault]
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in caught.value.what
    assert place in str(caught.value.where)


def test_subject_in_both_official_parts_is_a_leak_with_its_id(tmp_path: Path) -> None:
    small(tmp_path, subjects={"train": [1, 1, 1, 5, 5, 5], "test": [2, 5, 12]})
    options = {"channels": list(CHANNELS)}
    with pytest.raises(SplitLeakError, match=r"subject-05 \(test, train\)"):
        build_windows(DataSection(source="uci-har", root=str(tmp_path), options=options))


def test_real_subset_is_read_whole(shared_data: Path) -> None:
    manifest, store = build_windows(
        DataSection(source="uci-har", root=str(shared_data / "UCI HAR Dataset"))
    )
    assert len(manifest.split("test")) == 950
    assert (
        len(manifest.split("train")) + len(manifest.split("validation")) + len(manifest.dropped)
        == 2400
    )
    assert store.window == (9, 128)
    assert any("subjects are not known" in note for note in manifest.notes)
    # Gravity is in the total acceleration alone: 1 g, within what a person adds.
    gravity = store.signals[:, 6:9].mean(dim=2).norm(dim=1)
    assert float(gravity.median()) == pytest.approx(1.0, abs=0.05)
    assert float(store.signals[:, 0:3].mean(dim=2).norm(dim=1).median()) < 0.05
