"""Small files of images for tests: CIFAR in both releases, and trees of image files."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FINE, COARSE = ("apple", "bear", "can", "dolphin"), ("fruit", "animal")
TEN = ("plane", "car", "bird")


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Random images, uint8 [count, 3, 32, 32]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def write_cifar100(root: Path, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The binary layout with four fine and two coarse classes, in turn; returns the images."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (root / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    written = {}
    for number, (part, count) in enumerate(counts.items()):
        written[part] = pictures(count, number)
        content = b""
        for place, image in enumerate(written[part]):
            content += bytes([place % 2, place % 4]) + image.tobytes()
        (root / f"{part}.bin").write_bytes(content)
    return written


def write_cifar10(root: Path, per_file: int) -> np.ndarray:
    """The binary layout with three classes; returns all images in the order of the files."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    images = pictures(6 * per_file)
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    for number, name in enumerate(names):
        own = images[number * per_file : (number + 1) * per_file]
        (root / name).write_bytes(b"".join(bytes([n % 3]) + i.tobytes() for n, i in enumerate(own)))
    return images


def write_python_cifar100(root: Path, images: Mapping[str, np.ndarray]) -> None:
    """The python layout: pickles of dicts with bytes as keys, as Python 2 left them."""
    root.mkdir(parents=True, exist_ok=True)
    meta = {
        b"fine_label_names": [name.encode() for name in FINE],
        b"coarse_label_names": [name.encode() for name in COARSE],
    }
    (root / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    for part, own in images.items():
        held = {
            b"data": own.reshape(len(own), -1),
            b"fine_labels": [n % 4 for n in range(len(own))],
            b"coarse_labels": [n % 2 for n in range(len(own))],
            b"filenames": [f"{part}_{n}.png".encode() for n in range(len(own))],
            b"batch_label": b"one",
        }
        (root / part).write_bytes(pickle.dumps(held, protocol=2))


def write_tree(
    root: Path, counts: Mapping[str, int], classes: Sequence[str] = ("cat", "dog"), size: int = 32
) -> None:
    """PNG files: key of counts = folder above the class folders ("" = none), value = per class."""
    number = 0
    for split, count in counts.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for place in range(count):
                noise = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(noise).save(folder / f"{place:03d}.png")
                number += 1


def zip_of(folder: Path, path: Path, prefix: str = "") -> Path:
    """A zip archive of all files below a folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path
