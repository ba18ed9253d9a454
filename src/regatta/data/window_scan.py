"""From a study's `data:` section to its windows: read the source, check, split. No torch.

Shapes: N windows, C channels, L samples of a window.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from regatta.config.options import typed_options
from regatta.config.schema import DataSection
from regatta.core.errors import DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import Dropped, Manifest, Sample
from regatta.data.scan_notes import listed, split_notes
from regatta.data.splits import limit_training
from regatta.data.unknown_classes import set_unknown_apart
from regatta.data.window_listing import Triple, WindowListing
from regatta.data.window_splits import split_windows

_FROM_SECTION = ("root", "split", "seed")


@dataclass(frozen=True)
class ScannedWindows:
    """The samples of a study and what each holds; row i of the arrays is sample i of the manifest.

    signals: float32 [N, C, L]; features: float32 [N, F] or None.
    """

    manifest: Manifest
    signals: np.ndarray
    channels: tuple[str, ...]
    rate_hz: float
    triples: tuple[Triple, ...]
    features: np.ndarray | None


def scan_windows(data: DataSection) -> ScannedWindows:
    """Read a source of signals, leave damage out or refuse it, split, and check.

    Raises:
        DataError: a file is missing or wrong, a window is not finite under `damaged: fail`, a class
            is absent from train or validation.
        SplitLeakError: a subject stands in two splits of the source.
        ConfigError: an unknown or wrongly typed option.
    """
    root = Path(os.path.abspath(data.root or Path("data") / data.source))
    source = SOURCES.get(data.source, where="data.source")
    options = typed_options(
        source, data.options, where="data.options", reserved=_FROM_SECTION, strict=False
    )
    listing: WindowListing = source(root, split=data.split, seed=data.split_seed, **options)
    _check_listing(listing, root)
    kept, damaged = _without_damage(listing, data, root)
    samples = [_sample(listing, row) for row in kept]
    samples, gaps, notes = split_windows(samples, [listing.rows[row] for row in kept], data)
    notes += [*_split_notes(samples), *_copy_notes(samples)]
    samples, classes, unknown_notes = set_unknown_apart(
        samples, listing.classes, data.unknown_classes
    )
    samples, subset_notes = limit_training(samples, data.max_train_samples, data.split_seed)
    samples = sorted(samples, key=lambda sample: sample.sample_id)
    row_of = {row.sample_id: number for number, row in enumerate(listing.rows)}
    rows = [row_of[sample.sample_id] for sample in samples]
    dropped = [*listing.dropped, *damaged, *gaps]
    notes = [*listing.notes, *notes, *unknown_notes, *subset_notes]
    return ScannedWindows(
        Manifest(samples, classes, dropped, notes),
        listing.signals[rows],
        listing.channels,
        listing.rate_hz,
        listing.triples,
        None if listing.features is None else listing.features[rows],
    )


def _check_listing(listing: WindowListing, root: Path) -> None:
    """What every source owes: windows, two classes, distinct ids, a class list that fits."""
    if not listing.rows:
        raise DataError(
            "the source lists no windows", where=root, hint="check data.root and data.options"
        )
    present = {row.label_name for row in listing.rows}
    if len(listing.classes) < 2:
        raise DataError(
            f"there is only one class: {', '.join(listing.classes)}",
            where=root,
            hint="two or more are needed to compare models",
        )
    absent = [name for name in listing.classes if name not in present]
    if absent:
        raise DataError(
            f"{len(absent)} class(es) have no window at all: {listed(absent)}",
            where=root,
            hint="leave these classes out of the class list",
        )
    counts = Counter(row.sample_id for row in listing.rows)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(f"{len(twice)} window(s) are listed twice: {listed(twice)}", where=root)


def _split_notes(samples: Sequence[Sample]) -> list[str]:
    """What the folds are, or which split is empty or lacks a class."""
    folds = Manifest(list(samples), []).folds
    if not folds:
        return split_notes(samples)
    gaps = sum(str(sample.extra["folds"]).count("-") for sample in samples)
    note = f"{folds} folds: every window is judged once, by models that never saw its group"
    left_out = f"; {gaps / folds:.0f} windows per fold are left out as a gap between its splits"
    return [note + (left_out if gaps else "")]


def _copy_notes(samples: Sequence[Sample]) -> list[str]:
    """Windows of equal content that a fold or the split parts: the answer is then known."""
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        copies[sample.content_hash].append(sample)
    torn = [
        alike
        for alike in copies.values()
        if len({str(s.extra.get("folds", s.split)) for s in alike}) > 1
    ]
    names = sorted(sample.sample_id for alike in torn for sample in alike)
    if not torn:
        return []
    return [f"{len(torn)} window(s) stand in two splits as equal copies: {listed(names)}"]


def _without_damage(
    listing: WindowListing, data: DataSection, root: Path
) -> tuple[list[int], list[Dropped]]:
    """Rows that can be used, and the others; DataError for those under `damaged: fail`."""
    finite = np.asarray(np.isfinite(listing.signals).all(axis=(1, 2)))
    # Not the range by subtraction: infinity less infinity warns.
    still = np.equal(listing.signals.max(axis=2), listing.signals.min(axis=2))
    damaged = []
    for number, row in enumerate(listing.rows):
        if not finite[number]:
            damaged.append(Dropped(row.sample_id, "NaN or infinity in the signal", is_damage=True))
        elif still[number].any():
            names = ", ".join(np.array(listing.channels)[still[number]])
            damaged.append(Dropped(row.sample_id, f"constant channel: {names}", is_damage=True))
    if damaged and data.damaged == "fail":
        shown = "".join(f"\n    {item.path}: {item.reason}" for item in damaged[:10])
        more = f"\n    and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise DataError(
            f"{len(damaged)} of {len(listing.rows)} windows cannot be used:{shown}{more}",
            where=root,
            hint="repair them, or set data.damaged: drop to leave them out of every entry; "
            "the report then lists them",
        )
    left_out = {item.path for item in damaged}
    kept = [n for n, row in enumerate(listing.rows) if row.sample_id not in left_out]
    return kept, damaged


def _sample(listing: WindowListing, number: int) -> Sample:
    row, signals = listing.rows[number], listing.signals[number]
    length = signals.shape[1]
    return Sample(
        sample_id=row.sample_id,
        path=str(row.path),
        label=listing.classes.index(row.label_name),
        label_name=row.label_name,
        group=row.subject or row.recording,
        split=row.split,
        start_frame=row.start,
        frames=length,
        fps=listing.rate_hz,
        width=0,
        height=0,
        duration_seconds=length / listing.rate_hz,
        content_hash=sha256(np.ascontiguousarray(signals).tobytes()).hexdigest(),
        extra={"recording": row.recording},
    )
