"""Whether two runs were judged on the same samples, with the same labels, groups and conditions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regatta.core.errors import RecordError
from regatta.records.predictions import RunPredictions

SHOWN_IDS = 10


def check_same_samples(
    first: RunPredictions, other: RunPredictions, *, hint: str | None = None
) -> None:
    """Raise RecordError that names what differs between two runs: ids, labels, groups, cells.

    Args:
        hint: the next step, where judging again is none.
    """
    where = f"{first.run_id} against {other.run_id}"
    only_first = sorted(set(first.sample_ids) - set(other.sample_ids))
    only_other = sorted(set(other.sample_ids) - set(first.sample_ids))
    if only_first or only_other:
        raise RecordError(
            f"these runs were judged on different samples: {len(only_first)} only in "
            f"{first.run_id} ({_shown(only_first)}), {len(only_other)} only in {other.run_id} "
            f"({_shown(only_other)})",
            where=where,
            hint=hint or "judge both on the same samples with: regatta evaluate <study file>",
        )
    for what, ours, theirs in (
        ("labels", first.labels, other.labels),
        ("groups", first.groups, other.groups),
    ):
        differs = np.flatnonzero(ours != theirs)
        if len(differs):
            raise RecordError(
                f"these runs have different {what} for {len(differs)} samples: "
                f"{_shown(first.sample_ids[differs])}",
                where=where,
                hint=hint or "judge both again with: regatta evaluate <study file>",
            )
    if first.classes != other.classes or first.conditions != other.conditions:
        what = "classes" if first.classes != other.classes else "conditions"
        raise RecordError(f"these runs were judged with different {what}", where=where)


def _shown(ids: Sequence[str] | np.ndarray) -> str:
    if len(ids) == 0:
        return "none"
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(repr(str(name)) for name in ids[:SHOWN_IDS]) + more
