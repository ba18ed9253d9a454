"""Motion spectra in a comparison: carried over, set beside critical rates, absent without harm."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from regatta.analysis.compare import compare_study
from regatta.core.errors import RecordError
from regatta.core.files import write_json
from regatta.records.run_folder import StudyFolder
from tests.analysis.build import build_judged_study

QUICK = {"replicates": 200}


def spectrum(f95: float | None, **changes: Any) -> dict[str, Any]:
    known = {"samples": 4, "fps": 32.0, "dominant_hz": 2.0, "f95_hz": f95}
    return {**known, "frequencies_hz": [0.0, 2.0, 6.0], "power": [0.1, 0.6, 0.3], **changes}


def study(
    path: Path, classes: dict[str, Any] | None, protocol: str = "temporal-grid"
) -> StudyFolder:
    folder = build_judged_study(
        path, entries=2, samples=80, classes=2, protocol=protocol, compare=QUICK
    )
    if classes is not None:
        record = {"fingerprint": "x", "settings": {"per_class": 4}, "classes": classes}
        write_json(folder.motion_json, record)
    return folder


def test_a_study_without_spectra_says_nothing_about_motion(tmp_path: Path) -> None:
    folder = study(tmp_path, None)
    assert compare_study(folder)["motion"] is None
    assert not (folder.results / "motion_spectra.csv").exists()


def test_needed_rate_is_twice_f95_beside_the_critical_rate_of_each_entry(tmp_path: Path) -> None:
    folder = study(tmp_path, {"turn-left": spectrum(6.0), "turn-right": spectrum(None)})
    comparison = compare_study(folder)
    left, right = comparison["motion"]["classes"]
    assert (left["nyquist_needed_hz"], right["nyquist_needed_hz"]) == (12, None)
    with open(folder.results / "motion_spectra.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == [
        "class", "samples", "dominant_hz", "f95_hz", "nyquist_needed_hz",
        "critical_rate_timesformer", "critical_rate_videomae",
    ]  # fmt: skip
    assert rows[1]["f95_hz"] == ""
    for entry in ("timesformer", "videomae"):
        measured = comparison["robustness"]["entries"][entry]["critical_rate_hz"]["turn-left"]
        assert measured is not None
        assert float(rows[0][f"critical_rate_{entry}"]) == pytest.approx(measured)


def test_a_critical_rate_is_one_of_the_rates_of_the_widest_coverage(tmp_path: Path) -> None:
    comparison = compare_study(study(tmp_path, None))
    rates = {
        row["rate_hz"]
        for row in comparison["table"]
        if row["model"] == "videomae" and row["coverage"] == 100
    }
    found = comparison["robustness"]["entries"]["videomae"]["critical_rate_hz"]
    assert set(found.values()) <= rates


def test_without_a_grid_there_are_spectra_and_no_critical_rates(tmp_path: Path) -> None:
    folder = study(tmp_path, {"turn-left": spectrum(6.0)}, protocol="matched")
    (row,) = compare_study(folder)["motion"]["classes"]
    assert row["critical_rate_hz"] == {}
    header = (folder.results / "motion_spectra.csv").read_text().splitlines()[0]
    assert header == "class,samples,dominant_hz,f95_hz,nyquist_needed_hz"


def test_classes_of_another_study_and_broken_spectra_are_left_out(tmp_path: Path) -> None:
    classes = {
        "elsewhere": spectrum(6.0),
        "turn-left": spectrum(6.0, power=[0.1]),
        "turn-right": spectrum(6.0, power=None, frequencies_hz=None, fps=None),
    }
    rows = compare_study(study(tmp_path, classes))["motion"]["classes"]
    assert [(row["class"], row["power"]) for row in rows] == [("turn-left", []), ("turn-right", [])]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = study(tmp_path, None)
    folder.motion_json.write_text("[]")
    with pytest.raises(RecordError, match="no classes") as caught:
        compare_study(folder)
    assert "motion.json" in str(caught.value)
