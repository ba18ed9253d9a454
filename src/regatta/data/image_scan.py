"""From a study's `data:` section to its images: read the source, check, split, deal out. No torch.

Shapes: N images, H rows, W columns.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from regatta.config.options import typed_options
from regatta.config.partition import PartitionSection
from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import SOURCES
from regatta.core.seeds import stream
from regatta.data.image_listing import ImageListing, Statistics
from regatta.data.manifest import Manifest, Sample
from regatta.data.partition import TRAIN_INDEX, Dealt, deal_out
from regatta.data.scan_notes import listed
from regatta.data.splits import carve_validation, limit_training

HELD_OUT = 0.2
"""Share of every class that judges, and that selects, where the files say neither."""
_FROM_SECTION = ("root", "split", "seed")


@dataclass(frozen=True)
class ScannedImages:
    """The images of a study; row i of `images` is sample i of the manifest.

    images: uint8 [N, 3, H, W]. statistics: mean and sd per channel, 0..1. parts: name -> rows,
    int64, of the training images; empty without a partition.
    """

    manifest: Manifest
    images: np.ndarray
    statistics: Statistics
    parts: dict[str, np.ndarray]


def scan_images(data: DataSection, partition: PartitionSection | None = None) -> ScannedImages:
    """Read a source of images, leave damage out or refuse it, split, deal out, and check.

    The order is: the source's own splits, else 60/20/20 by class; `max_train_samples`; then the
    partition, or a validation split by `validation_fraction` where the source gives none.

    Raises:
        DataError: a file is missing or wrong, an image is damaged under `damaged: fail`, a class is
            absent from a split or from a part that needs it.
        ConfigError: an unknown or wrongly typed option.
    """
    root = Path(os.path.abspath(data.root or Path("data") / data.source))
    source = SOURCES.get(data.source, where="data.source")
    options = typed_options(
        source, data.options, where="data.options", reserved=_FROM_SECTION, strict=False
    )
    listing: ImageListing = source(root, split=data.split, seed=data.split_seed, **options)
    _check_damage(listing, data, root)
    _check_listing(listing, root)
    samples, notes = _with_splits(_samples(listing), data.split_seed, root)
    samples, subset_notes = limit_training(samples, data.max_train_samples, data.split_seed)
    dealt = _select(samples, listing.classes, data, partition)
    samples = sorted(dealt.samples, key=lambda sample: sample.sample_id)
    _check_classes(samples, listing.classes, root)
    notes += _untested(samples, listing.classes)
    row_of = {row.sample_id: number for number, row in enumerate(listing.rows)}
    images = listing.images[[row_of[sample.sample_id] for sample in samples]]
    place = {sample.sample_id: number for number, sample in enumerate(samples)}
    parts = {
        name: np.array([place[sample_id] for sample_id in ids], dtype=np.int64)
        for name, ids in dealt.parts.items()
    }
    notes = [*listing.notes, *notes, *subset_notes, *dealt.notes, *_copy_notes(samples)]
    manifest = Manifest(samples, listing.classes, [*listing.dropped, *dealt.dropped], notes)
    return ScannedImages(
        manifest, images, listing.normalisation or _measured(images, samples), parts
    )


def _check_damage(listing: ImageListing, data: DataSection, root: Path) -> None:
    damaged = [item for item in listing.dropped if item.is_damage]
    if damaged and data.damaged == "fail":
        shown = "".join(f"\n    {item.path}: {item.reason}" for item in damaged[:10])
        more = f"\n    and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise DataError(
            f"{len(damaged)} of {len(damaged) + len(listing.rows)} images cannot be used:"
            f"{shown}{more}",
            where=root,
            hint="repair them, or set data.damaged: drop to leave them out of every entry; "
            "the report then lists them",
        )


def _check_listing(listing: ImageListing, root: Path) -> None:
    """What every source owes: images, two classes, distinct ids."""
    if not listing.rows:
        raise DataError(
            "the source lists no images", where=root, hint="check data.root and data.options"
        )
    if len(listing.classes) < 2:
        raise DataError(
            f"there is only one class: {', '.join(listing.classes)}",
            where=root,
            hint="two or more are needed to compare models",
        )
    counts = Counter(row.sample_id for row in listing.rows)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(f"{len(twice)} image(s) are listed twice: {listed(twice)}", where=root)


def _samples(listing: ImageListing) -> list[Sample]:
    """Samples sorted by id. A still image has one frame and no rate."""
    label_of = {name: number for number, name in enumerate(listing.classes)}
    height, width = listing.images.shape[2:]
    samples = [
        Sample(
            sample_id=row.sample_id,
            path=str(row.path),
            label=label_of[row.label_name],
            label_name=row.label_name,
            group=row.sample_id,
            split=row.split,
            start_frame=row.record,
            frames=1,
            fps=0.0,
            width=width,
            height=height,
            duration_seconds=0.0,
            content_hash=sha256(np.ascontiguousarray(image).data).hexdigest(),
        )
        for row, image in zip(listing.rows, listing.images, strict=True)
    ]
    return sorted(samples, key=lambda sample: sample.sample_id)


def _with_splits(
    samples: Sequence[Sample], seed: int, root: Path
) -> tuple[list[Sample], list[str]]:
    """Training and test for all, and how they came about; training samples get their number."""
    own = {sample.split for sample in samples}
    notes: list[str] = []
    if "test" not in own:
        shares = {"test": HELD_OUT}
        if "validation" not in own:
            shares["validation"] = HELD_OUT
        samples = _hold_out(samples, shares, seed, root)
        held = " and ".join(f"{share:.0%} for {name}" for name, share in shares.items())
        notes.append(f"the files have no test split: of every class {held} are held out by seed")
    elif "train" not in own:
        raise DataError(
            "there are test images, but none to train on",
            where=root,
            hint="add a train folder, or lay all images out without split folders",
        )
    number, done = 0, []
    for sample in samples:
        if sample.split == "train":
            sample = replace(sample, extra={**sample.extra, TRAIN_INDEX: number})
            number += 1
        done.append(sample)
    return done, notes


def _hold_out(
    samples: Sequence[Sample], shares: dict[str, float], seed: int, root: Path
) -> list[Sample]:
    """Rounded shares of every class, at least one image, from those that are not validation."""
    members: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.split in ("", "train"):
            members[sample.label_name].append(sample.sample_id)
    few = sorted(name for name, ids in members.items() if len(ids) <= len(shares))
    if few:
        raise DataError(
            f"{len(few)} class(es) have too few images to hold any out: {listed(few)}",
            where=root,
            hint=f"{len(shares) + 1} or more are needed in each class",
        )
    split_of: dict[str, str] = {}
    for label, ids in members.items():
        order = [ids[n] for n in stream(seed, "image-split", label).permutation(len(ids))]
        for name, share in shares.items():
            count = max(1, round(share * len(ids)))
            split_of |= dict.fromkeys(order[:count], name)
            order = order[count:]
    return [
        sample
        if sample.split == "validation"
        else replace(sample, split=split_of.get(sample.sample_id, "train"))
        for sample in samples
    ]


def _select(
    samples: list[Sample],
    classes: Sequence[str],
    data: DataSection,
    partition: PartitionSection | None,
) -> Dealt:
    """The validation split, and the parts where there is a partition."""
    if partition is not None:
        lists = partition.pool_file or partition.holdout_file
        if lists and data.max_train_samples is not None:
            raise ConfigError(
                "index lists count all training images, but max_train_samples leaves some out",
                where="data.max_train_samples",
                hint="remove it, or the lists",
            )
        return deal_out(samples, classes, partition)
    if not any(sample.split == "validation" for sample in samples):
        samples = carve_validation(samples, data.validation_fraction, data.split_seed)
    return Dealt(samples, {})


def _check_classes(samples: Sequence[Sample], classes: Sequence[str], root: Path) -> None:
    """Every class trains and selects; a test split without one is judged all the same."""
    for split in ("train", "validation"):
        present = {sample.label_name for sample in samples if sample.split == split}
        absent = [name for name in classes if name not in present]
        if absent:
            raise DataError(
                f"{len(absent)} class(es) have no {split} image: {listed(absent)}",
                where=root,
                hint="add images of these classes, or leave the classes out",
            )


def _untested(samples: Sequence[Sample], classes: Sequence[str]) -> list[str]:
    judged = {sample.label_name for sample in samples if sample.split == "test"}
    absent = [name for name in classes if name not in judged]
    return [f"{len(absent)} class(es) have no test image: {listed(absent)}"] if absent else []


def _copy_notes(samples: Sequence[Sample]) -> list[str]:
    """Images of equal pixels in two splits, whose answer is then known, or with two labels."""
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        copies[sample.content_hash].append(sample)
    several = [alike for alike in copies.values() if len(alike) > 1]
    notes = []
    for what, torn in (
        ("stand in two splits", [a for a in several if len({s.split for s in a}) > 1]),
        ("have two labels", [a for a in several if len({s.label for s in a}) > 1]),
    ):
        if torn:
            names = sorted(sample.sample_id for alike in torn for sample in alike)
            notes.append(f"{len(torn)} image(s) {what} as equal copies: {listed(names)}")
    return notes


def _measured(images: np.ndarray, samples: Sequence[Sample]) -> Statistics:
    """Mean and sd per channel of the training images, 0..1.

    From counts of the 256 levels, which are exact.
    """
    rows = [n for n, sample in enumerate(samples) if sample.split == "train"]
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(3):
        # Piece by piece: counting turns every byte into a number of eight.
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(rows), 1024):
            piece = images[rows[start : start + 1024], channel]
            counts += np.bincount(piece.reshape(-1), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ levels)
        means.append(mean)
        # A channel of one level has no spread to divide by.
        deviations.append(max(float(np.sqrt(share @ (levels - mean) ** 2)), 1 / 255))
    return tuple(means), tuple(deviations)
