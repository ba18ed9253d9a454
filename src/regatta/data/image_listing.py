"""What a source of images gives: pictures of one size and what is known about each. No torch:
scanning lists loads none.

Shapes: N images, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from regatta.core.errors import DataError
from regatta.data.manifest import Dropped, SplitName

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, in the range 0..1."""


@dataclass(frozen=True)
class ImageRow:
    """What a source says about one image; row i belongs to `ImageListing.images[i]`."""

    sample_id: str
    """Unique, and the same on every machine."""
    label_name: str
    path: Path
    """File that the image comes from."""
    record: int = 0
    """Its place in a file of many."""
    split: SplitName = ""
    """Empty = the source does not say."""


@dataclass(frozen=True)
class ImageListing:
    """What a source of images read.

    images: uint8 [N, 3, H, W], RGB. classes: names in the order of their labels. dropped: damaged
    images among them are for the scan to refuse or to leave out. normalisation: of a published
    recipe; None = measured on the training images.
    """

    images: np.ndarray
    rows: list[ImageRow]
    classes: list[str]
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    normalisation: Statistics | None = None


def without_excluded(listing: ImageListing, path: str | None) -> ImageListing:
    """The listing less the test images whose ids stand in a text file, one a line.

    For test images that have a near-copy among the training images: they are listed as left out.

    Raises:
        DataError: the file cannot be read, or names what is no test image.
    """
    if path is None:
        return listing
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the list of excluded images cannot be read: {error}",
            where=f"data.options.exclude_ids: {path}",
            hint="give a text file with one sample id a line",
        ) from error
    wanted = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    _check_excluded(wanted, listing, path)
    kept = [n for n, row in enumerate(listing.rows) if row.sample_id not in wanted]
    if wanted and not any(listing.rows[n].split == "test" for n in kept):
        raise DataError(
            f"all {len(wanted)} test images are excluded: none is left to judge",
            where=path,
            hint="list only those that have a near-copy among the training images",
        )
    left_out = [Dropped(name, "listed in exclude_ids") for name in sorted(wanted)]
    return replace(
        listing,
        images=listing.images[kept],
        rows=[listing.rows[n] for n in kept],
        dropped=[*listing.dropped, *left_out],
        notes=[*listing.notes, f"{len(wanted)} test image(s) are left out by exclude_ids"],
    )


def _check_excluded(wanted: Collection[str], listing: ImageListing, path: str) -> None:
    test = {row.sample_id for row in listing.rows if row.split == "test"}
    foreign = sorted(set(wanted) - test)
    if foreign:
        shown = ", ".join(foreign[:10])
        raise DataError(
            f"{len(foreign)} of {len(wanted)} ids are of no test image: {shown}",
            where=path,
            hint=f"ids look like this: {min(test, default='none')}",
        )
