"""From a study's `data:` section to its scenes: read or make the source, check, split. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regatta.config.options import typed_options
from regatta.config.schema import DataSection
from regatta.core.errors import DataError
from regatta.core.registry import SOURCES
from regatta.data.file_scan import Progress, Stop
from regatta.data.manifest import SPLITS, Manifest, Sample
from regatta.data.scan_notes import listed
from regatta.data.scenes.files import SceneFolder
from regatta.data.scenes.listing import SceneListing
from regatta.data.scenes.settings import FRAMES_PER_SECOND
from regatta.data.scenes.stored_names import video_names
from regatta.data.splits import limit_training

WIDEST_GAP = 0.05
"""Most that the share of a class may differ between training and validation."""
_FROM_SECTION = ("root", "split", "seed")


@dataclass(frozen=True)
class ScannedScenes:
    """The scenes of a study: sample i of the manifest is entry `rows[i]` of the listing."""

    manifest: Manifest
    listing: SceneListing
    rows: np.ndarray

    @property
    def indices(self) -> np.ndarray:
        """Of the generator, int64 [N], in the order of the manifest."""
        return self.listing.indices[self.rows]


def scan_scenes(
    data: DataSection, *, progress: Progress | None = None, stop: Stop | None = None
) -> ScannedScenes:
    """Read a source of scenes, make what is missing, refuse damage, and check the splits.

    Args:
        progress: called with done, total and a word while scenes are made.
        stop: polled meanwhile; soon after it becomes true the making ends.
    Raises:
        DataError: a scene lost a file under `damaged: fail`, a class is absent from a split, or the
            shares of the classes in training and validation differ.
        ConfigError: an unknown or wrongly typed option. DiskError. StopRequested.
    """
    root = Path(os.path.abspath(data.root or Path("data") / data.source))
    source = SOURCES.get(data.source, where="data.source")
    options = typed_options(
        source, data.options, where="data.options", reserved=_FROM_SECTION, strict=False
    )
    found: SceneListing | SceneFolder = source(
        root, split=data.split, seed=data.split_seed, **options
    )
    listing = found.read(progress, stop) if isinstance(found, SceneFolder) else found
    _check_damage(listing, data.damaged, root)
    samples = _samples(listing)
    check_shares(samples, listing.settings.classes, where=root, left_out=len(listing.dropped))
    samples, notes = limit_training(samples, data.max_train_samples, data.split_seed)
    row_of = {name: row for row, name in enumerate(listing.ids)}
    rows = np.array([row_of[sample.sample_id] for sample in samples], dtype=np.int64)
    notes = [*listing.notes, *_uneven(samples), *notes]
    manifest = Manifest(samples, list(listing.settings.classes), listing.dropped, notes)
    return ScannedScenes(manifest, listing, rows)


def _check_damage(listing: SceneListing, policy: str, root: Path) -> None:
    damaged = [item for item in listing.dropped if item.is_damage]
    if damaged and policy == "fail":
        shown = "".join(f"\n    {item.path}: {item.reason}" for item in damaged[:10])
        more = f"\n    and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise DataError(
            f"{len(damaged)} of {len(damaged) + len(listing.ids)} scenes cannot be used:"
            f"{shown}{more}",
            where=root,
            hint="delete dataset.json there and make the data again: what is lost is made anew, "
            "with the same bytes; or set data.damaged: drop to leave these out of every entry",
        )


def _samples(listing: SceneListing) -> list[Sample]:
    """One sample per scene, sorted by id."""
    settings, storage = listing.settings, listing.storage
    samples = [
        Sample(
            sample_id=name,
            path=str(
                listing.root
                if storage is None
                else listing.root / video_names(name, settings.cameras, storage)[0]
            ),
            label=int(label),
            label_name=settings.classes[int(label)],
            group=name,
            split=split,
            start_frame=0,
            frames=settings.frames,
            fps=float(FRAMES_PER_SECOND),
            width=settings.size,
            height=settings.size,
            duration_seconds=settings.frames / FRAMES_PER_SECOND,
            content_hash=content,
            extra={"index": float(index)},
        )
        for name, label, split, content, index in zip(
            listing.ids,
            listing.labels,
            listing.splits,
            listing.hashes,
            listing.indices,
            strict=True,
        )
    ]
    return sorted(samples, key=lambda sample: sample.sample_id)


def check_shares(
    samples: Sequence[Sample], classes: Sequence[str], *, where: object, left_out: int = 0
) -> None:
    """Every class is in every split, and training and validation hold it in the same share.

    Lists cut from files in the order of their classes do not: one split then judges what the other
    never saw.

    Args:
        left_out: damaged scenes that are not among them, for the message.
    Raises:
        DataError: with the table of both splits.
    """
    counts = {
        split: Counter(sample.label_name for sample in samples if sample.split == split)
        for split in SPLITS
    }
    for split, found in counts.items():
        absent = [name for name in classes if not found[name]]
        if absent:
            raise DataError(
                f"{len(absent)} class(es) have no {split} scene: {listed(absent)}"
                f"{_tables(counts, classes, left_out)}",
                where=where,
                hint="draw the splits by seed: delete splits.csv, or shuffle your lists by class",
            )
    train, validation = counts["train"], counts["validation"]
    gaps = {
        name: abs(train[name] / train.total() - validation[name] / validation.total())
        for name in classes
    }
    widest = max(gaps, key=lambda name: gaps[name])
    # In a handful of scenes a single one is more than that.
    if gaps[widest] > max(WIDEST_GAP, 1 / train.total(), 1 / validation.total()):
        raise DataError(
            f"training and validation hold other shares of the classes: {widest} differs by "
            f"{100 * gaps[widest]:.0f} points{_tables(counts, classes, left_out)}",
            where=where,
            hint="draw the splits by seed: delete splits.csv, or shuffle your lists by class",
        )


def _tables(counts: dict[str, Counter[str]], classes: Sequence[str], left_out: int) -> str:
    lines = [f"\n    {left_out} damaged scene(s) are left out"] if left_out else []
    for split in ("train", "validation"):
        total = max(counts[split].total(), 1)
        shares = ", ".join(
            f"{name} {counts[split][name]} ({100 * counts[split][name] / total:.0f} %)"
            for name in classes
        )
        lines.append(f"\n    {split}: {shares}")
    return "".join(lines)


def _uneven(samples: Sequence[Sample]) -> list[str]:
    """A note where the classes are of different sizes."""
    counts = Counter(sample.label_name for sample in samples)
    if len(set(counts.values())) < 2:
        return []
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return [f"the classes are of different sizes: {shown}"]
