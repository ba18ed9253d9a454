"""Motion spectra of the classes beside the sampling rate at which each entry could tell them.

The torch tower measures the spectra (energy of frame differences, Welch 1967) and writes them to
motion.json; here they only meet the measured critical rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regatta.core.errors import RecordError
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder


def motion_section(
    folder: StudyFolder, classes: list[str], robustness: dict[str, Any]
) -> dict[str, Any] | None:
    """Per class of the comparison that has a spectrum; None when nothing was measured.

    `nyquist_needed_hz` is 2 f95, the rate that keeps 95 % of the motion's power below half of it
    (Shannon 1949); `critical_rate_hz` maps entries to what was measured, empty without a grid.

    Args:
        robustness: the entries of the comparison's section of that name.
    Raises:
        RecordError: the file is damaged.
    """
    if not folder.motion_json.is_file():
        return None
    record = read_json(folder.motion_json)
    found = record.get("classes") if isinstance(record, dict) else None
    if not isinstance(found, dict):
        raise RecordError(
            "the motion spectra have no classes",
            where=folder.motion_json,
            hint="delete the file and run the study again",
        )
    rates = {entry: section["critical_rate_hz"] for entry, section in robustness.items()}
    rows = [
        _class_row(name, found[name], {entry: of.get(name) for entry, of in rates.items()})
        for name in classes
        if isinstance(found.get(name), dict)
    ]
    return {"settings": record.get("settings", {}), "classes": rows} if rows else None


def _class_row(
    name: str, spectrum: dict[str, Any], critical_rate_hz: dict[str, float | None]
) -> dict[str, Any]:
    needed = _number(spectrum.get("f95_hz"))
    frequencies, power = (_numbers(spectrum.get(key)) for key in ("frequencies_hz", "power"))
    same_length = len(frequencies) == len(power)
    return {
        "class": name,
        "samples": spectrum.get("samples"),
        "fps": _number(spectrum.get("fps")),
        "dominant_hz": _number(spectrum.get("dominant_hz")),
        "f95_hz": needed,
        "nyquist_needed_hz": None if needed is None else 2 * needed,
        "critical_rate_hz": critical_rate_hz,
        "frequencies_hz": frequencies if same_length else [],
        "power": power if same_length else [],
    }


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if known else None


def _numbers(values: Any) -> list[float]:
    """The list, or nothing when one of its values is no number: half a spectrum misleads."""
    found = [_number(value) for value in values or []]
    return [value for value in found if value is not None] if None not in found else []
