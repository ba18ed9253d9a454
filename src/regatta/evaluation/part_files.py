"""What judging leaves in a run's prediction folder.

predictions/<protocol>/
  judging.json          what the parts were judged on; parts of anything else are removed
  part-00000.parquet    all conditions of `part_samples` samples
  cost-<i>-of-<n>.json  seconds that shard i of n spent, per part
  ceiling.json          accuracy of the ideal reader per condition, where it is known
  complete.json         written last
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.core.errors import RecordError
from regatta.core.files import make_folders, plain, read_json, write_json
from regatta.data.manifest import Sample
from regatta.evaluation.protocols import Protocol
from regatta.records.conditions import Condition
from regatta.records.predictions import part_path, read_part, write_complete

Oracle = Callable[..., float]
"""(sample, shown, **options) -> probability that the ideal reader of these pictures is right; a
picture is the tuple of source frames whose mean it is, one for a plain frame."""


@dataclass(frozen=True)
class PartCost:
    """What one part cost one entry.

    Decoding, preprocessing and the wall clock serve all `shared_by` entries of the pass; each is
    charged an equal share. Decode seconds are summed over the reading threads, so they may exceed
    the wall clock.
    """

    samples: int
    clips: int
    """Predictions: samples x conditions."""
    distinct_clips: int
    """Clips that went through the model."""
    decode_seconds: float
    preprocess_seconds: float
    forward_seconds: float
    wall_seconds: float
    shared_by: int


def split_parts(samples: Sequence[Sample], part_samples: int) -> list[list[Sample]]:
    """The samples in id order, `part_samples` at a time; the last part may be shorter."""
    ordered = sorted(samples, key=lambda sample: sample.sample_id)
    return [ordered[first : first + part_samples] for first in range(0, len(ordered), part_samples)]


def open_folder(
    folder: Path,
    *,
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    part_samples: int,
    fingerprint: dict[str, Any],
) -> None:
    """Make `folder` ready for the parts of exactly this judging.

    Parts of another one (other samples, conditions, weights ...) are removed: mixed with new ones
    they would make a table that no one judged. Safe with several shards at once.
    """
    make_folders(folder)
    identity = _identity(samples, conditions, part_samples, fingerprint)
    with _locked(folder):
        marker = folder / "judging.json"
        if _kept(marker) == identity:
            return
        # The mark of completion goes first: a crash in between must not leave it over other parts.
        for pattern in (
            "complete.json",
            "ceiling.json",
            "notes.json",
            "part-*.parquet",
            "cost-*.json",
        ):
            for stale in folder.glob(pattern):
                stale.unlink()
        write_json(marker, identity)


def _identity(
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    part_samples: int,
    fingerprint: dict[str, Any],
) -> dict[str, Any]:
    rows = sorted(f"{s.sample_id}\t{s.label}\t{s.content_hash}" for s in samples)
    return plain(
        {
            "samples_hash": sha256("\n".join(rows).encode()).hexdigest(),
            "conditions": [asdict(condition) for condition in conditions],
            "part_samples": part_samples,
            "fingerprint": fingerprint,
        }
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two shards that start together must not take each other's first part for a stale one.
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def part_is_whole(
    folder: Path, number: int, samples: Sequence[Sample], conditions: Sequence[Condition]
) -> bool:
    """Whether this part is on disk and holds exactly one row per sample and condition."""
    path = part_path(folder, number)
    if not path.is_file():
        return False
    try:
        table, _ = read_part(path)
    except RecordError:
        return False
    found = list(zip(table["sample_id"], table["condition"], strict=True))
    wanted = {(sample.sample_id, c.id) for sample in samples for c in conditions}
    return len(found) == len(wanted) and set(found) == wanted


def record_cost(folder: Path, shard: tuple[int, int], number: int, cost: PartCost) -> None:
    """Note what a part cost; the same shard judging it again replaces the note."""
    path = folder / f"cost-{shard[0]}-of-{shard[1]}.json"
    write_json(path, {"parts": {**_kept_costs(path), str(number): asdict(cost)}})


def _kept(path: Path) -> Any:
    """What a record of this folder says; None when it is absent or damaged: then what it told of is
    done again."""
    try:
        return read_json(path)
    except RecordError:
        return None


def _kept_costs(path: Path) -> dict[str, dict[str, Any]]:
    """Costs of parts; those of a damaged file are lost, and `parts_measured` counts them out."""
    record = _kept(path)
    parts = record.get("parts") if isinstance(record, dict) else None
    names = {field.name for field in fields(PartCost)}
    if not isinstance(parts, dict):
        return {}
    return {
        number: cost
        for number, cost in parts.items()
        if isinstance(cost, dict)
        and names <= cost.keys()
        and all(type(cost[name]) in (int, float) for name in names)
    }


def total_cost(folder: Path) -> dict[str, Any]:
    """Sums over all parts of all shards, and `parts_measured`, how many these are."""
    parts: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("cost-*.json"), key=lambda path: path.stat().st_mtime_ns):
        parts.update(_kept_costs(path))
    summed = [field.name for field in fields(PartCost) if field.name != "shared_by"]
    return {
        **{name: sum(part[name] for part in parts.values()) for name in summed},
        "shared_by": max((part["shared_by"] for part in parts.values()), default=1),
        "parts_measured": len(parts),
    }


def finalize_predictions(
    folder: Path,
    *,
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    part_samples: int,
    classes: Sequence[str],
    fingerprint: dict[str, Any],
    first: Callable[[dict[str, Any]], None] | None = None,
) -> bool:
    """Mark the predictions as complete once every part of every shard is there.

    Harmless to repeat, also by several shards at once.

    Args:
        first: as of `records.predictions.write_complete`.
    Returns:
        False when a part is missing or damaged, or the parts are of another judging.
    """
    marker = folder / "judging.json"
    identity = _identity(samples, conditions, part_samples, fingerprint)
    if _kept(marker) != identity:
        return False
    parts = split_parts(samples, part_samples)
    if not all(part_is_whole(folder, n, part, conditions) for n, part in enumerate(parts)):
        return False
    write_complete(
        folder,
        conditions=list(conditions),
        classes=list(classes),
        sample_ids=[sample.sample_id for sample in samples],
        fingerprint=fingerprint,
        cost=total_cost(folder),
        first=first,
    )
    return True


def write_ceiling(
    folder: Path,
    samples: Sequence[Sample],
    protocol: Protocol,
    *,
    model_frames: int,
    oracle: Oracle,
    options: dict[str, Any],
) -> dict[str, float]:
    """Write ceiling.json: per condition the ideal reader's mean chance of being right.

    The reader is given every picture of all views once. Conditions in `without_ceiling` are absent.
    """
    ceiling = {}
    for condition in protocol.conditions:
        if condition.id in protocol.without_ceiling:
            continue
        chances = []
        for sample in samples:
            views = protocol.plan_views(
                sample.frames, sample.fps, condition, model_frames, sample_id=sample.sample_id
            )
            shown = dict.fromkeys(blend for view in views for blend in view.plan.shown)
            chances.append(oracle(sample, list(shown), **options))
        ceiling[condition.id] = float(np.mean(chances))
    write_json(folder / "ceiling.json", ceiling)
    return ceiling
