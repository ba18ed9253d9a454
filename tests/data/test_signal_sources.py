"""Promises of the sources of signals beside UCI-HAR: array files, CSV recordings, generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regatta.config.schema import DataSection
from regatta.core.errors import DataError
from regatta.data.sources.csv_recordings import csv_recordings
from regatta.data.sources.har_synthetic import ACTIVITIES, draw_recording, har_synthetic
from regatta.data.sources.windows_file import windows_file
from regatta.data.windows import build_windows

RNG = np.random.default_rng(3)


def arrays(count: int = 12, **more: np.ndarray) -> dict[str, np.ndarray]:
    samples = RNG.normal(size=(count, 2, 8)).astype(np.float32)
    return {"samples": samples, "labels": np.arange(count) % 3, **more}


# Array files


def test_npz_and_safetensors_of_the_same_arrays_read_alike(tmp_path: Path) -> None:
    held = arrays(subjects=np.repeat([4, 11, 5], 4), splits=np.repeat([0, 1, 2], 4))
    np.savez(tmp_path / "a.npz", **held)  # pyright: ignore[reportArgumentType]
    (tmp_path / "st").mkdir()
    safetensors.numpy.save_file(held, tmp_path / "st" / "a.safetensors")
    listing = windows_file(tmp_path, rate_hz=20, channels=["x", "y"])
    other = windows_file(tmp_path / "st", rate_hz=20, channels=["x", "y"])
    np.testing.assert_array_equal(listing.signals, held["samples"])
    np.testing.assert_array_equal(other.signals, held["samples"])
    for row, twin in zip(listing.rows, other.rows, strict=True):
        assert (row.sample_id, row.split, row.subject) == (twin.sample_id, twin.split, twin.subject)
    assert [row.split for row in listing.rows[3:5]] == ["train", "validation"]
    assert {row.subject for row in listing.rows} == {"subject-04", "subject-05", "subject-11"}
    assert (listing.classes, listing.channels, listing.rate_hz) == (["0", "1", "2"], ("x", "y"), 20)


def test_one_file_per_split_and_texts_as_labels(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        held = {**arrays(), "labels": np.array(["walk", "run"] * 6)}
        np.savez(tmp_path / f"{name}.npz", rate_hz=50, **held)  # pyright: ignore[reportArgumentType]
    listing = windows_file(tmp_path)
    assert listing.classes == ["run", "walk"]
    assert {row.sample_id.partition("/")[0]: row.split for row in listing.rows} == {
        "train": "train",
        "val": "validation",
        "test": "test",
    }


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"labels": np.arange(12) % 4}, {"classes": ["a", "b", "c"]}, "label 3 of window 3"),
        ({"labels": np.arange(5)}, {}, "5 labels, but 12 samples"),
        ({"samples": np.zeros((12, 8))}, {}, r"float64 \[12, 8\]"),
        ({"labels": np.linspace(0, 1, 12)}, {}, "not whole numbers or names"),
        ({"splits": np.full(12, 7)}, {}, "split 7 is none of"),
        ({}, {"channels": list("abcdefgh")}, "8 channels are named"),
        ({"labels": np.array([{"a": 1}] * 12)}, {}, "Python objects"),
        ({}, {"rate_hz": None}, "how many samples a second"),
        ({}, {"file": "b.npz"}, "does not exist"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, change: dict, options: dict, message: str
) -> None:
    np.savez(tmp_path / "a.npz", **{**arrays(), **change})
    with pytest.raises(DataError, match=message):
        windows_file(tmp_path, **{"rate_hz": 20, **options})


# CSV recordings


def write_csv(path: Path, labels: list[str], *, times: np.ndarray | None = None) -> np.ndarray:
    times = np.arange(len(labels)) / 50 if times is None else times
    signals = RNG.normal(size=(len(labels), 2))
    lines = ["time,acc_x,acc_y,label,subject"]
    lines += [
        f"{t:.4f},{a:.6f},{b:.6f},{label},anna"
        for t, (a, b), label in zip(times, signals, labels, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return signals


def test_recordings_are_cut_and_mixed_windows_are_listed(tmp_path: Path) -> None:
    signals = write_csv(tmp_path / "a.csv", ["walk"] * 20 + ["run"] * 24)
    listing = csv_recordings(tmp_path, window=8, step=4)
    assert listing.rate_hz == 50
    assert [row.start for row in listing.rows] == [0, 4, 8, 12, 20, 24, 28, 32, 36]
    np.testing.assert_allclose(listing.signals[5], signals[24:32].T, atol=1e-6)
    assert [(d.path, d.reason, d.is_damage) for d in listing.dropped] == [
        ("a#16-24", "mixed labels: run, walk", False)
    ]
    assert listing.rows[0].subject == "anna"


def test_pause_parts_a_recording_and_jitter_is_told(tmp_path: Path) -> None:
    times = np.arange(40) / 50
    times[20:] += 3.0
    times[5] += 0.004
    write_csv(tmp_path / "a.csv", ["walk"] * 20 + ["run"] * 20, times=times)
    listing = csv_recordings(tmp_path, window=8, step=4)
    assert [d.reason for d in listing.dropped] == ["a pause in the time column"]
    assert len({row.recording for row in listing.rows}) == 2
    assert "1 pause(s)" in listing.notes[0]
    assert "irregular time, steps of 0.016 to 0.024 s" in listing.notes[1]


@pytest.mark.parametrize(
    ("old", "new", "message", "place"),
    [
        ("acc_y", "subject", "", ""),
        ("time,", "clock,", "does not name a column 'time'", "a.csv"),
        ("0.0400,", "0.0100,", "time must rise", "line 4"),
        ("0.0400,", "0.04s,", "'0.04s' in column 'time' is not a number", "line 4"),
        (",walk,anna\n0.0200", ",walk,anna,7,8\n0.0200", "more cells", "a.csv"),
        (",walk,anna\n0.0400", ",walk,anna,7,8\n0.0400", "line 3, saw 7", "a.csv"),
    ],
)
def test_wrong_csv_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, message: str, place: str
) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ["walk"] * 16)
    if not message:
        path.write_text("")
        message, place = "empty", "a.csv"
    else:
        path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        csv_recordings(tmp_path, window=8, step=4)
    assert message in caught.value.what
    assert place in str(caught.value.where)


def test_recordings_of_two_rates_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["walk"] * 16)
    write_csv(tmp_path / "b.csv", ["run"] * 16, times=np.arange(16) / 100)
    with pytest.raises(DataError, match=r"100 samples per second, but 50 in a\.csv"):
        csv_recordings(tmp_path, window=8, step=4)


# Generated


def test_generated_signal_follows_its_formula() -> None:
    """Sums of the stated amplitudes: power of a sine is half its square, noise adds its own."""
    walking = ACTIVITIES[0]
    recording = draw_recording(7, 3, walking, 20_000).astype(float)
    body, turning, total = recording[:3], recording[3:6], recording[6:]
    harmonics = 1 + 1 / 4 + 1 / 9
    gain_squared = (turning.var(axis=1).sum() - 3 * 0.02**2) / (3 * 0.5**2 * harmonics / 2)
    assert 0.8 <= np.sqrt(gain_squared) <= 1.2
    expected = gain_squared * sum(a * a for a in walking.acceleration) * harmonics / 2
    assert body.var(axis=1).sum() - 3 * 0.02**2 == pytest.approx(expected, rel=0.01)
    gravity = (total - body).mean(axis=1)
    assert np.linalg.norm(gravity) == pytest.approx(1, abs=1e-4)
    assert np.degrees(np.arccos(gravity[0])) <= 10.0
    power = np.abs(np.fft.rfft(body[0])) ** 2
    rate = np.fft.rfftfreq(20_000, 1 / 50)[power.argmax()]
    assert 1.6 <= rate <= 2.1


@pytest.mark.parametrize(("number", "low", "high"), [(3, 5, 50), (4, 0, 18), (5, 65, 115)])
def test_still_postures_tilt_gravity_within_their_range(
    number: int, low: float, high: float
) -> None:
    """The posture's range, wider by the 10 degrees that the device may be turned by."""
    for subject in range(1, 9):
        recording = draw_recording(1, subject, ACTIVITIES[number], 500)
        gravity = recording[6:].mean(axis=1)
        angle = np.degrees(np.arccos(gravity[0] / np.linalg.norm(gravity)))
        assert low - 0.5 <= angle <= high + 0.5


def test_window_depends_on_seed_and_place_alone(tmp_path: Path) -> None:
    few = har_synthetic(tmp_path / "few", subjects=3, windows_per_class=2, generator_seed=5)
    many = har_synthetic(tmp_path / "many", subjects=5, windows_per_class=4, generator_seed=5)
    kept = [
        number
        for number, row in enumerate(many.rows)
        if int(row.subject[-2:]) <= 3 and row.start < 2 * 64
    ]
    np.testing.assert_array_equal(few.signals, many.signals[kept])
    other = har_synthetic(tmp_path / "other", subjects=3, windows_per_class=2, generator_seed=6)
    assert not np.isclose(few.signals, other.signals).all(axis=(1, 2)).any()


def test_generated_file_is_kept_and_other_settings_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "syn"
    har_synthetic(root, subjects=3, windows_per_class=2)
    stamp = (root / "windows.safetensors").stat().st_mtime_ns
    har_synthetic(root, subjects=3, windows_per_class=2)
    assert (root / "windows.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="subjects is 3, not 4"):
        har_synthetic(root, subjects=4, windows_per_class=2)


def test_generated_classes_can_be_told_on_unseen_subjects(tmp_path: Path) -> None:
    options = {"subjects": 20, "windows_per_class": 4}
    manifest, store = build_windows(
        DataSection(source="har-synthetic", root=str(tmp_path / "syn"), options=options)
    )

    def described(split: str) -> tuple[np.ndarray, np.ndarray]:
        signals = store.select(manifest.split(split)).numpy()
        energy = np.log(signals[:, :6].var(axis=2))
        tilt = signals[:, 6:].mean(axis=2)
        labels = np.array([sample.label for sample in manifest.split(split)])
        return np.concatenate([energy, tilt, signals.max(axis=2)], axis=1), labels

    model = make_pipeline(StandardScaler(), LogisticRegression(C=100, max_iter=2000))
    model.fit(*described("train"))
    assert model.score(*described("test")) >= 0.93
