"""Studies that take trained experts and train none."""

from __future__ import annotations

from collections.abc import Sequence

from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.core.errors import RecordError
from regatta.records.run_folder import RunFolder


def refuse_untrained(study: Study, untrained: Sequence[tuple[RunSpec, RunFolder]]) -> None:
    """RecordError when `fusion.use_only` is set and an expert is not trained; names those that are
    trained for the same entry and seed with other settings."""
    if study.fusion is None or not study.fusion.use_only:
        return
    absent = [(spec, run) for spec, run in untrained if spec.entry.role == "expert"]
    if not absent:
        return
    spec, run = absent[0]
    others = [
        path.name
        for path in sorted(run.path.parent.glob(f"{spec.entry.name}-s{spec.seed}-*"))
        if path != run.path and RunFolder(path).is_trained()
    ]
    beside = f"; trained with other settings: {', '.join(others)}" if others else ""
    raise RecordError(
        f"{len(absent)} expert(s) are not trained and fusion.use_only trains none: "
        f"{spec.run_id}{beside}",
        where=run.path.parent,
        hint="set fusion.use_only: false, or the partition, seed and recipe that they were "
        "trained with",
    )
