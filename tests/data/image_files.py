"""Small files of images for tests: the CIFAR releases by their layout, class folders, pickles."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from regatta.config.partition import PartitionSection
from regatta.config.schema import DataSection
from regatta.data.image_scan import ScannedImages, scan_images
from regatta.data.manifest import Sample, SplitName

SIDE = 32


def picture(seed: int, *, size: int = SIDE) -> np.ndarray:
    """uint8 [size, size, 3] of noise: no two seeds give equal pixels."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_classes(root: Path, counts: Mapping[str, int], *, first: int = 0, size: int = 8) -> None:
    """`counts` PNG files of noise in each of these folders below root."""
    seed = first
    for folder, count in counts.items():
        for number in range(count):
            write_file(root / folder / f"{number:03d}.png", encoded(picture(seed, size=size)))
            seed += 1


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def records(images: np.ndarray, *labels: Sequence[int]) -> bytes:
    """Records of a binary release: label bytes, then red, green and blue planes. images: uint8
    [N, 32, 32, 3]."""
    parts = []
    for number, image in enumerate(images):
        parts.append(bytes(column[number] for column in labels))
        parts += [image[:, :, channel].tobytes() for channel in range(3)]
    return b"".join(parts)


def pictures(count: int, *, first: int = 0) -> np.ndarray:
    """uint8 [count, 32, 32, 3]."""
    return np.stack([picture(first + number) for number in range(count)])


def write_cifar100(folder: Path, *, fine: int = 4, each: int = 5) -> dict[str, np.ndarray]:
    """train.bin and test.bin of `fine` classes in two coarse ones, with files of names; returns
    the images of each part, uint8 [N, 32, 32, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, count, first in (("train", each, 0), ("test", 2, 10_000)):
        labels = [number % fine for number in range(fine * count)]
        images = pictures(len(labels), first=first)
        content = records(images, [label % 2 for label in labels], labels)
        (folder / f"{part}.bin").write_bytes(content)
        written[part] = images
    (folder / "fine_label_names.txt").write_text("".join(f"fine {n}\n" for n in range(fine)))
    (folder / "coarse_label_names.txt").write_text("even\nodd\n")
    return written


def write_cifar10(folder: Path, *, each: int = 10) -> dict[str, np.ndarray]:
    """Five batches of `each` images and a test batch, labels 0, 1 ... 9 in turn; returns the images
    of training and test, in the order of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    batches = []
    for place, name in enumerate(names):
        batches.append(pictures(each, first=each * place))
        labels = [number % 10 for number in range(each)]
        (folder / name).write_bytes(records(batches[-1], labels))
    # The official file ends with an empty line.
    (folder / "batches.meta.txt").write_text("".join(f"name{n}\n" for n in range(10)) + "\n")
    return {"train": np.concatenate(batches[:5]), "test": batches[5]}


def as_rows(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 3072] in the order of planes, as the python releases hold them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def write_python_cifar100(folder: Path, *, each: int = 3) -> dict[str, np.ndarray]:
    """The python release with 4 fine and 2 coarse classes: pickles of protocol 2, keys of bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, first in (("train", 0), ("test", 500)):
        labels = [number % 4 for number in range(4 * each)]
        images = pictures(len(labels), first=first)
        held = {
            b"filenames": [b"picture_%d.png" % number for number in labels],
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": labels,
            b"coarse_labels": [label // 2 for label in labels],
            b"data": as_rows(images),
        }
        (folder / part).write_bytes(pickle.dumps(held, protocol=2))
        written[part] = images
    names = {
        b"fine_label_names": [b"apple", b"beaver", b"clock", b"dolphin"],
        b"coarse_label_names": [b"things", b"animals"],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return written


def python2_batch(images: np.ndarray, labels: Sequence[int]) -> bytes:
    """A CIFAR-10 batch as Python 2 wrote the official ones: its own strings, its own numpy.

    Written by hand, opcode by opcode: no Python 3 makes these bytes.
    """
    data = as_rows(images)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85"
        b"U\x01btR(" + number(1) + number(len(data)) + number(data.shape[1]) + b"\x86"
        b"cnumpy\ndtype\nU\x02u1" + number(0) + number(1) + b"\x87R("
        b"K\x03U\x01|NNN" + number(-1) + number(-1) + number(0) + b"tb\x89"
        b"T" + len(data.tobytes()).to_bytes(4, "little") + data.tobytes() + b"tb"
    )
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return (
        b"\x80\x02}("
        + (text(b"batch_label") + text(b"training batch 1 of 5"))
        + (text(b"labels") + listed)
        + (text(b"data") + array)
        + b"u."
    )


def scanned(
    root: Path,
    source: str = "image-folder",
    *,
    partition: PartitionSection | None = None,
    options: Mapping[str, object] | None = None,
    **keys: object,
) -> ScannedImages:
    section = {"source": source, "root": str(root), "options": dict(options or {}), **keys}
    return scan_images(DataSection.model_validate(section), partition)


def labelled(counts: Sequence[int], *, split: SplitName = "train") -> list[Sample]:
    """Samples that are no files: counts[c] of class c, numbered in turn like a shuffled list."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(1).permutation(labels).tolist()
    return [
        Sample(
            sample_id=f"{split}/{number:05d}",
            path="",
            label=label,
            label_name=f"class-{label:02d}",
            group=f"{split}/{number:05d}",
            split=split,
            start_frame=0,
            frames=1,
            fps=0.0,
            width=SIDE,
            height=SIDE,
            duration_seconds=0.0,
            content_hash=f"{number}",
            extra={"train_index": number} if split == "train" else {},
        )
        for number, label in enumerate(labels)
    ]
