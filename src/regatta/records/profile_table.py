"""What the profiler writes: one row per measurement, as JSON with the circumstances and as CSV.

results/profile.json  {"study", "device", "torch", "threads", "load_before", "memory_limit_gb",
                      "settings", "entries": {name: facts}, "not_measured": [text], "rows": [row]}
results/profile.csv   the same rows, `COLUMNS`; an empty cell = not measured
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from regatta.core.errors import RecordError
from regatta.core.files import plain, read_json, write_json, write_text
from regatta.records.run_folder import StudyFolder

OK = "ok"
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class ProfileRow:
    """One measurement. None = not measured. GB and MB are 10^9 and 10^6 bytes.

    windows_per_second: samples over the median time; for `load` over the whole time.
    peak_gb: most memory while it ran, allocated on a GPU, resident in its own process on a CPU.
    mb_per_window: growth from the state at rest to the peak, per sample of the batch.
    largest_difference: of the scores from those in fp32.
    share_of_peak: of the device's published dense rate, a step being three forward passes.
    """

    entry: str
    stage: str
    batch: int
    precision: str
    compiled: bool = False
    calls: int = 0
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    windows_per_second: float | None = None
    peak_gb: float | None = None
    allocated_gb: float | None = None
    reserved_gb: float | None = None
    mb_per_window: float | None = None
    largest_difference: float | None = None
    share_of_peak: float | None = None
    status: str = OK
    """ok, out of memory, or failed."""
    message: str = ""


COLUMNS = tuple(field.name for field in fields(ProfileRow))


def write_profile(folder: StudyFolder, facts: dict[str, Any], rows: Sequence[ProfileRow]) -> None:
    """Write both files; whatever an earlier profile left there is replaced."""
    records = [plain(asdict(row)) for row in rows]
    write_text(folder.results / "profile.csv", _as_csv(records))
    write_json(folder.results / "profile.json", {**facts, "rows": records})


def read_profile(folder: StudyFolder) -> dict[str, Any] | None:
    """The content of profile.json, or None when nothing was profiled; RecordError."""
    path = folder.results / "profile.json"
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise RecordError("this is not a profile", where=path, hint="delete it, or profile anew")
    return content


def _as_csv(records: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
