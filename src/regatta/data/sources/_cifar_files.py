"""What the two CIFAR sources share: finding the binary release and reading its records.

A record is one or two label bytes and 3,072 bytes of an image: 32 x 32 red, then green, then blue.
Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regatta.core.errors import DataError
from regatta.data.image_listing import ImageRow
from regatta.data.manifest import SplitName
from regatta.data.scan_notes import listed
from regatta.data.sources._lists import check_list_size

SIDE = 32
IMAGE_BYTES = 3 * SIDE * SIDE
AGAIN = "fetch the binary release again, or write it anew with `regatta data import cifar`"


@dataclass(frozen=True)
class Layout:
    """Where a release keeps its files. label_bytes: bytes before an image in a record."""

    source: str
    folder: str
    python_folder: str
    python_file: str
    files: tuple[tuple[str, SplitName], ...]
    label_bytes: int
    official: tuple[int, int]
    """Records of the whole training and test parts."""


def find_base(root: Path, layout: Layout) -> Path:
    """The folder of the binary release: root or the folder of the official archive in it.

    Raises:
        DataError: neither holds it; where the python release is there, with what to do.
    """
    first = layout.files[0][0]
    for base in (root, root / layout.folder):
        if (base / first).is_file():
            return base
    for base in (root, root / layout.python_folder):
        if (base / layout.python_file).is_file():
            raise DataError(
                "this is the python release, a pickle, which can run code when it is opened; "
                "training never opens it",
                where=base,
                hint=f"regatta data import cifar --root {base} --to FOLDER, then data.root: FOLDER",
            )
    problem = f"{first} is not in it" if root.is_dir() else "it does not exist"
    raise DataError(
        f"the data folder of source '{layout.source}' is wrong: {problem}",
        where=root,
        hint=f"set data.root (or --root) to the folder that holds {layout.folder}",
    )


def read_parts(
    base: Path, layout: Layout, *, label_byte: int, names: list[str]
) -> tuple[np.ndarray, list[ImageRow], list[str]]:
    """(images uint8 [N, 3, 32, 32], rows, notes) of all files, in their order.

    Args:
        label_byte: which byte of a record is the label.
    """
    images: list[np.ndarray] = []
    rows: list[ImageRow] = []
    counts: dict[str, int] = {}
    for file, split in layout.files:
        records = _read_records(base / file, layout.label_bytes)
        labels = records[:, label_byte]
        _check_labels(base / file, labels, names)
        images.append(records[:, layout.label_bytes :].reshape(-1, 3, SIDE, SIDE))
        before = counts.get(split, 0)
        counts[split] = before + len(records)
        rows += [
            ImageRow(f"{split}/{before + n:05d}", names[label], base / file, n, split)
            for n, label in enumerate(labels)
        ]
    return np.concatenate(images), rows, _count_notes(counts, layout)


def _read_records(path: Path, label_bytes: int) -> np.ndarray:
    """uint8 [N, label_bytes + 3072]; DataError that names the record at which a file is cut."""
    size = label_bytes + IMAGE_BYTES
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error}", where=path, hint=AGAIN) from error
    whole, rest = divmod(len(content), size)
    if rest or not whole:
        expected = (whole + bool(rest or not whole)) * size
        raise DataError(
            f"the file ends inside record {whole}: it has {len(content)} bytes, and records of "
            f"{size} bytes need {expected}",
            where=path,
            hint=AGAIN,
        )
    return content.reshape(whole, size)


def _check_labels(path: Path, labels: np.ndarray, names: list[str]) -> None:
    wrong = np.flatnonzero(labels >= len(names))
    if len(wrong):
        record = int(wrong[0])
        raise DataError(
            f"label {labels[record]} in record {record} is outside the list of {len(names)} names "
            f"({len(wrong)} such record(s))",
            where=path,
            hint=AGAIN,
        )


def _count_notes(counts: dict[str, int], layout: Layout) -> list[str]:
    found = counts.get("train", 0), counts.get("test", 0)
    if found == layout.official:
        return []
    whole = " and ".join(f"{number:,}" for number in layout.official)
    here = " and ".join(f"{number:,}" for number in found)
    return [f"a part of {layout.source}: {here} training and test images, the whole has {whole}"]


def read_names(path: Path) -> list[str] | None:
    """Class names, one a line; None where the file is absent.

    Raises:
        DataError: a name stands twice, or it is no text.
    """
    if not path.is_file():
        return None
    check_list_size(path)
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the names cannot be read: {error}", where=path, hint=AGAIN) from error
    names = [name for name in names if name]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        problem = f"name(s) listed twice: {listed(twice)}" if twice else "the file lists no name"
        raise DataError(problem, where=path, hint=AGAIN)
    return names
