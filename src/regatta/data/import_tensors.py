"""Tensor files of other programs (`torch.save`) turned into files that Regatta reads.

Only tensors are read: a pickle can run code when it is opened, and such files are refused.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regatta.core.confined import confine_this_process, tell_results
from regatta.core.errors import DataError, RegattaError
from regatta.core.files import atomic_path, ensure_writable
from regatta.data.manifest import SplitName
from regatta.data.sources import SPLIT_ALIASES
from regatta.data.sources._window_arrays import write_arrays

SPARE_BYTES = 2 * 2**30
"""Of memory, beside four times the size of a file: mapped, as float32, and written."""
CPU_SECONDS = 600
CHUNK = 64
"""Pictures that are turned into uint8 at once."""
_NEXT = (
    "where the file was made, give torch.save tensors alone: "
    '{"samples": torch.as_tensor(samples), "labels": torch.as_tensor(labels)}'
)


@dataclass(frozen=True)
class Imported:
    """One file that was written. shape: of its samples or pictures."""

    path: Path
    kind: str
    """windows, or pictures."""
    split: SplitName
    shape: list[int]
    classes: int


def import_file(
    path: Path,
    folder: Path,
    *,
    rate_hz: float | None = None,
    channels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Imported:
    """Write one `.pt` file with `samples` [N, C, L] or `images` [N, C, 3, H, W], and `labels` [N].

    Samples become `<split>.safetensors`, which source windows-file reads; the split is what the
    name of the file says (train.pt, val.pt, test.pt), else the name is kept. Images become
    `<split>_images.safetensors` with uint8 pictures, for programs of your own: Regatta draws
    pictures from signals itself.

    Raises:
        DataError: the file is missing or damaged, holds anything but tensors, or tensors that do
            not fit.
        DiskError: the folder cannot be written.
    """
    tensors = _read_tensors(path)
    labels = _labels(tensors, path)
    split = _split_of(path)
    stem = split or path.stem
    facts = {"rate_hz": rate_hz, "channels": channels, "classes": classes}
    facts = {name: value for name, value in facts.items() if value is not None}
    ensure_writable(folder)
    if "samples" in tensors:
        samples = tensors["samples"]
        _check_shape("samples", samples, 3, len(labels), path)
        target = folder / f"{stem}.safetensors"
        arrays = {"samples": samples.float().numpy(), "labels": labels}
        if "subjects" in tensors:
            arrays["subjects"] = tensors["subjects"].to(torch.int64).numpy()
        write_arrays(target, arrays, facts)
        kind = "windows"
    else:
        samples = tensors["images"]
        _check_shape("images", samples, 5, len(labels), path)
        stem = stem.removesuffix("_multichannel_images")
        target = folder / f"{stem}_images.safetensors"
        _write_pictures(target, samples, labels, facts, path)
        kind = "pictures"
    return Imported(target, kind, split, list(samples.shape), len(np.unique(labels)))


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise DataError("there is no such file", where=path)
    try:
        with warnings.catch_warnings():
            # Its remarks on old or odd pickles are for whoever programs with torch.
            warnings.simplefilter("ignore")
            # mmap: pictures of a whole set need not fit in memory.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            "the file holds Python objects, which can run code when they are opened; only tensors "
            f"are read ({str(error).strip().partition(chr(10))[0][:120]})",
            where=path,
            hint=_NEXT,
        ) from error
    except Exception as error:
        # The reader checks little of a damaged file before it uses it.
        reason = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise DataError(f"this is not a whole tensor file: {reason}", where=path) from error
    wrong = not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    )
    names = set(content) if isinstance(content, dict) else set()
    if wrong or "labels" not in names or not names & {"samples", "images"}:
        held = _described(content)
        raise DataError(
            f"tensors 'samples' (or 'images') and 'labels' are needed; the file holds {held}",
            where=path,
            hint=_NEXT,
        )
    return {str(name): value for name, value in content.items()}


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return ", ".join(f"{name}: {type(value).__name__}" for name, value in content.items()) or "none"


def _labels(tensors: dict[str, torch.Tensor], path: Path) -> np.ndarray:
    labels = tensors["labels"]
    if labels.ndim != 1 or (labels.is_floating_point() and bool((labels != labels.round()).any())):
        raise DataError(
            f"labels is {labels.dtype} {list(labels.shape)}, not one whole number per window",
            where=path,
        )
    return labels.to(torch.int64).numpy()


def _check_shape(name: str, tensor: torch.Tensor, axes: int, count: int, path: Path) -> None:
    if tensor.ndim != axes or len(tensor) != count:
        meant = "[N, C, L]" if axes == 3 else "[N, C, 3, H, W]"
        raise DataError(
            f"{name} is {list(tensor.shape)} with {count} labels, not {meant}", where=path
        )


def _split_of(path: Path) -> SplitName:
    """What the name says: train.pt, val.pt, test_multichannel_images.pt."""
    return SPLIT_ALIASES.get(path.stem.partition("_")[0].lower(), "")


def _write_pictures(
    target: Path, images: torch.Tensor, labels: np.ndarray, facts: dict[str, Any], source: Path
) -> None:
    """A safetensors file written in pieces: a set of pictures may be larger than the memory.

    Layout of the format: length of the header (uint64), header as JSON, then the data.
    """
    convert = _to_uint8(images, source)
    ends = 8 * len(labels), 8 * len(labels) + images.numel()
    header = {
        "__metadata__": {"regatta": json.dumps(facts)},
        "labels": {"dtype": "I64", "shape": [len(labels)], "data_offsets": [0, ends[0]]},
        "images": {"dtype": "U8", "shape": list(images.shape), "data_offsets": list(ends)},
    }
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(labels.astype("<i8").tobytes())
        for start in range(0, len(images), CHUNK):
            file.write(convert(images[start : start + CHUNK]).numpy().tobytes())


def _to_uint8(images: torch.Tensor, path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """How pictures become uint8: as they are, or from 0..1; DataError for any other range."""
    if images.dtype == torch.uint8:
        return lambda pictures: pictures
    lows, highs = zip(
        *(images[n : n + CHUNK].aminmax() for n in range(0, len(images), CHUNK)), strict=True
    )
    low, high = float(min(lows)), float(max(highs))
    if not images.is_floating_point() or low < 0 or high > 1:
        raise DataError(
            f"images run from {low:.3g} to {high:.3g}; uint8, or numbers from 0 to 1, are read",
            where=path,
            hint="undo their normalisation first",
        )
    return lambda pictures: (pictures.float() * 255).round().to(torch.uint8)


def main(arguments: Sequence[str]) -> int:
    """`python -m regatta.data.import_tensors FACTS FOLDER FILE...`: a line of JSON per file."""
    facts, folder, *files = arguments
    torch.set_num_threads(1)
    size = max((Path(file).stat().st_size for file in files if Path(file).is_file()), default=0)
    confine_this_process(memory_bytes=4 * size + SPARE_BYTES, cpu_seconds=CPU_SECONDS)
    read = partial(import_file, folder=Path(folder), **json.loads(facts))
    return tell_results(partial(read, Path(file)) for file in files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
