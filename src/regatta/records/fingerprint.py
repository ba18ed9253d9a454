"""What must be equal for two sets of predictions to meet in one table."""

from __future__ import annotations

from typing import Any

from regatta.core.errors import RecordError

SHARED_KEYS = ("manifest", "protocol", "sample_ids", "decoder", "resize", "code")
"""Keys that must agree between entries. Others (weights, frames, input size) rightly differ and are
only shown."""


def check_same_conditions(fingerprints: dict[str, dict[str, Any]]) -> None:
    """Raise RecordError naming the first field in which two runs were judged differently.

    Args:
        fingerprints: run id -> fingerprint from `complete.json`.
    """
    items = list(fingerprints.items())
    for run_id, other in items[1:]:
        first_id, first = items[0]
        for key in SHARED_KEYS:
            if first.get(key) != other.get(key):
                raise RecordError(
                    f"these runs were not judged under the same conditions: '{key}' differs",
                    where=f"{first_id}: {first.get(key)!r} against {run_id}: {other.get(key)!r}",
                    hint="start the older ones over: regatta run <study file> --restart RUN_ID",
                )
