"""Images in class folders: `<class>/<file>`, or `<split>/<class>/<file>`, also in a zip archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from regatta.core.errors import DataError, DecodeError
from regatta.core.registry import SOURCES
from regatta.core.signals import leave_if_asked
from regatta.data.image_decode import IMAGE_SUFFIXES, decode_image, quiet_pictures
from regatta.data.image_listing import ImageListing, ImageRow, without_excluded
from regatta.data.manifest import Dropped, SplitName
from regatta.data.scan_notes import listed
from regatta.data.sources import SPLIT_ALIASES, only_split_one
from regatta.data.sources._image_tree import Tree, TreeFile, open_tree
from regatta.records.in_hand import in_hand

THREADS = 4
SMALL_BYTES = 16 * 2**10
"""Mean size of files below which one thread is faster: decoding them is mostly Python."""
MOST_BYTES = 32 * 2**30
"""Of all images after resizing: they are kept in memory."""


@SOURCES.register("image-folder", kind="image")
def image_folder(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,  # noqa: ARG001
    image_size: Annotated[int, Field(ge=8, le=1024)] = 32,
    exclude_ids: str | None = None,
) -> ImageListing:
    """Images in one folder per class, with or without split folders above them, or a .zip of that.

    Without a test folder the study holds out a fifth of every class for judging. Grey, palette,
    transparent (on white), CMYK, 16-bit and EXIF-turned images become upright RGB, which the notes
    count. Hidden files are passed over.

    Args:
        image_size: all images are resized to this many pixels in both directions (bilinear with
            antialiasing, the aspect is not kept).
        exclude_ids: text file with ids of test images that are left out, one a line.
    Raises:
        DataError: no root, no class folder, class folders without an image, split folders and
            others mixed, splits of different classes.
    """
    only_split_one(split, "image-folder")
    with open_tree(root) as tree:
        placed, left_out = _place(tree.files(), root)
        _check_classes(placed, root)
        _check_size(len(placed), image_size, root)
        images, rows, damaged, notes = _read_images(tree, placed, image_size)
    classes = sorted({row.label_name for row, _ in placed})
    listing = ImageListing(images, rows, classes, [*damaged, *left_out], notes)
    return without_excluded(listing, exclude_ids)


def read_pictures(root: Path, *, image_size: int) -> tuple[np.ndarray, list[Dropped]]:
    """All images below a folder or in a zip, however laid out: uint8 [N, 3, S, S] in the order of
    their names, and those that cannot be read.

    Raises:
        DataError: no root, or more images than memory is meant for.
    """
    with open_tree(root) as tree:
        files = [f for f in tree.files() if Path(f.parts[-1]).suffix.lower() in IMAGE_SUFFIXES]
        _check_size(len(files), image_size, root)
        placed = [(ImageRow(file.name, "", file.path), file) for file in files]
        images, _, damaged, _ = _read_images(tree, placed, image_size)
    return images, damaged


def _check_size(count: int, image_size: int, root: Path) -> None:
    if 3 * image_size**2 * count > MOST_BYTES:
        raise DataError(
            f"{count} images of {image_size} x {image_size} pixels need more than "
            f"{MOST_BYTES >> 30} GiB",
            where=root,
            hint="lower data.options.image_size",
        )


def _place(
    files: Sequence[TreeFile], root: Path
) -> tuple[list[tuple[ImageRow, TreeFile]], list[Dropped]]:
    """Each image with its split and class, and the files that are none."""
    tops = {file.parts[0] for file in files if len(file.parts) > 1}
    splits = {name for name in tops if name.lower() in SPLIT_ALIASES}
    if splits and splits != tops:
        raise DataError(
            f"split folders and others stand side by side: {listed(sorted(tops - splits))}",
            where=root,
            hint="have either <split>/<class>/<file> or <class>/<file>, not both",
        )
    depth = 3 if splits else 2
    placed, left_out = [], []
    for file in files:
        if reason := _not_read(file, depth):
            left_out.append(Dropped(file.name, reason))
            continue
        split: SplitName = SPLIT_ALIASES[file.parts[0].lower()] if splits else ""
        placed.append((ImageRow(file.name, file.parts[-2], file.path, split=split), file))
    if not placed:
        raise DataError(
            "there are no class folders with images here",
            where=root,
            hint="lay the images out as <class>/<file> or <split>/<class>/<file>",
        )
    folders = {file.parts[: depth - 1] for file in files if len(file.parts) >= depth}
    empty = folders - {file.parts[:-1] for _, file in placed}
    if empty:
        names = sorted("/".join(parts) for parts in empty)
        raise DataError(
            f"class folder(s) without an image: {listed(names)}",
            where=root,
            hint="add images to them or move them elsewhere",
        )
    return placed, left_out


def _not_read(file: TreeFile, depth: int) -> str:
    if len(file.parts) < depth:
        return "stands outside the class folders"
    if len(file.parts) > depth:
        return "a folder inside a class folder is not read"
    suffix = Path(file.parts[-1]).suffix.lower()
    return "" if suffix in IMAGE_SUFFIXES else "not an image by its name"


def _check_classes(placed: Sequence[tuple[ImageRow, TreeFile]], root: Path) -> None:
    """All splits must have the same class folders."""
    found: dict[str, set[str]] = {}
    for row, _ in placed:
        found.setdefault(row.split, set()).add(row.label_name)
    everywhere = set.intersection(*found.values())
    odd = {split: sorted(names - everywhere) for split, names in found.items()}
    if any(odd.values()):
        shown = "; ".join(
            f"{split} has {len(found[split])} classes"
            + (f", among them {listed(names)}" if names else "")
            for split, names in sorted(odd.items())
        )
        raise DataError(
            f"the classes differ between the splits: {shown}",
            where=root,
            hint="give every split the same class folders",
        )


def _read_images(
    tree: Tree, placed: Sequence[tuple[ImageRow, TreeFile]], size: int
) -> tuple[np.ndarray, list[ImageRow], list[Dropped], list[str]]:
    """(images of the rows that can be read, those rows, the others, notes)."""

    def read(file: TreeFile) -> tuple[np.ndarray, list[str]] | str:
        # Asked here, so that what a pool still holds ends at once too.
        leave_if_asked("reading the images")
        try:
            with in_hand(file.path):
                return decode_image(tree.read(file), size)
        except DecodeError as error:
            return error.what

    images = np.empty((len(placed), 3, size, size), dtype=np.uint8)
    rows, damaged = [], []
    remarks: Counter[str] = Counter()
    # Few at a time: a pool keeps every finished picture until it is asked for.
    with quiet_pictures(), ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(placed), 1024):
            piece = placed[start : start + 1024]
            files = [file for _, file in piece]
            is_small = sum(file.size for file in files) < SMALL_BYTES * len(files)
            pictures = (map if is_small else pool.map)(read, files)
            for (row, _), found in zip(piece, pictures, strict=True):
                if isinstance(found, str):
                    damaged.append(Dropped(row.sample_id, found, is_damage=True))
                    continue
                images[len(rows)] = found[0]
                rows.append(row)
                remarks.update(found[1])
    notes = [f"{count} image(s) are {what}" for what, count in sorted(remarks.items())]
    return images[: len(rows)], rows, damaged, notes
