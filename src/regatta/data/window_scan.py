"""From a study's `data:` section to its windows: read the source, check, split.

Shapes: N windows, C channels, L samples of a window.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from regatta.config.options import typed_options
from regatta.config.schema import DataSection
from regatta.core.errors import DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import Dropped, Manifest, Sample
from regatta.data.window_splits import split_windows
from regatta.data.window_listing import WindowListing, WindowRow
from regatta.data.windows import WindowStore

_FROM_SECTION = ("root", "split", "seed")


def build_windows(data: DataSection) -> tuple[Manifest, WindowStore]:
    """The manifest of a source of signals, and the windows that it lists.

    Raises:
        DataError: a file is missing or wrong, a window is not finite under `damaged: fail`, a class
            is without training samples.
        ConfigError: an unknown or wrongly typed option.
    """
    root = Path(os.path.abspath(data.root or Path("data") / data.source))
    source = SOURCES.get(data.source, where="data.source")
    options = typed_options(
        source, data.options, where="data.options", reserved=_FROM_SECTION, strict=False
    )
    listing: WindowListing = source(root, split=data.split, seed=data.split_seed, **options)
    kept, damaged = _without_damage(listing, data, root)
    samples = [_sample(listing, row) for row in kept]
    samples, gaps, notes = split_windows(samples, [listing.rows[row] for row in kept], data)
    samples = sorted(samples, key=lambda sample: sample.sample_id)
    row_of = {row.sample_id: number for number, row in enumerate(listing.rows)}
    rows = [row_of[sample.sample_id] for sample in samples]
    store = WindowStore(
        [sample.sample_id for sample in samples],
        torch.from_numpy(listing.signals[rows]),
        listing.channels,
        listing.rate_hz,
        listing.triples,
        None if listing.features is None else torch.from_numpy(listing.features[rows]),
    )
    dropped = [*listing.dropped, *damaged, *gaps]
    return Manifest(samples, listing.classes, dropped, [*listing.notes, *notes]), store


def _without_damage(
    listing: WindowListing, data: DataSection, root: Path
) -> tuple[list[int], list[Dropped]]:
    """Rows that can be used, and the others; DataError for those under `damaged: fail`."""
    finite = np.isfinite(listing.signals).all(axis=(1, 2))
    still: np.ndarray = np.ptp(listing.signals, axis=2) == 0
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
