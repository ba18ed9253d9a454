"""Windows of signals in array files: safetensors or npz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from regatta.core.errors import DataError
from regatta.core.registry import SOURCES
from regatta.data.manifest import SplitName
from regatta.data.sources import SPLIT_ALIASES, only_split_one
from regatta.data.sources._number_files import whole_number
from regatta.data.sources._window_arrays import SUFFIXES, class_names, read_arrays, rows_of
from regatta.data.window_listing import WindowListing, WindowRow, xyz_triples


@SOURCES.register("windows-file", kind="signal")
def windows_file(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,  # noqa: ARG001
    file: str | None = None,
    rate_hz: Annotated[float, Field(gt=0)] | None = None,
    channels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> WindowListing:
    """Array files (safetensors, npz): samples [N, C, L], labels [N], subjects and splits if known.

    Root is such a file, or a folder with one, or with one per split: train, validation, test.

    Args:
        file: name of the file below root, where there are several.
        rate_hz: samples per second, where the file does not say.
        channels, classes: names, where the file does not say; integer labels count from 0.
    Raises:
        DataError: no file, a damaged one, arrays that do not fit, a label outside the classes, or
            no rate.
    """
    only_split_one(split, "windows-file")
    return listing_of(
        _files(root, file), rate_hz=rate_hz, channels=channels, classes=classes, root=root
    )


def listing_of(
    files: Sequence[tuple[Path, SplitName]],
    *,
    root: Path,
    rate_hz: float | None = None,
    channels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> WindowListing:
    """What array files hold together; the arguments go before what the files say."""
    signals: list[np.ndarray] = []
    features: list[np.ndarray] = []
    rows: list[WindowRow] = []
    facts: dict[str, Any] = {"rate_hz": rate_hz, "channels": channels, "classes": classes}
    named: list[str] | None = None
    for path, part in files:
        arrays, held = read_arrays(path)
        _merge_facts(facts, held, path)
        classes_of, named = class_names(path, arrays["labels"], facts["classes"])
        rows += rows_of(path, arrays, classes_of, split=part)
        # What is too large for float32 becomes infinite, which the scan names.
        with np.errstate(over="ignore"):
            signals.append(arrays["samples"].astype(np.float32, copy=False))
            features += [arrays["features"].astype(np.float32)] if "features" in arrays else []
        _check_shape(signals, path, files[0][0], facts["channels"])
    if facts["rate_hz"] is None:
        raise DataError(
            "the files do not say how many samples a second has",
            where=root,
            hint="set data.options.rate_hz, for example 50",
        )
    if features and len(features) < len(files):
        raise DataError("some files hold features and others do not", where=root)
    names = facts["channels"] or [f"channel-{n}" for n in range(signals[0].shape[1])]
    return WindowListing(
        np.concatenate(signals),
        rows,
        tuple(names),
        float(facts["rate_hz"]),
        named or _distinct({row.label_name for row in rows}),
        xyz_triples(names),
        np.concatenate(features) if features else None,
    )


def _files(root: Path, name: str | None) -> list[tuple[Path, SplitName]]:
    """Files to read, with the split that a file's name stands for."""
    if name is not None:
        return [(root / name, "")]
    if root.is_file():
        return [(root, "")]
    found = sorted(p for p in root.glob("*") if p.suffix in SUFFIXES) if root.is_dir() else []
    found = [path for path in found if not path.stem.endswith("_images")]
    parts: list[tuple[Path, SplitName]] = [
        (path, SPLIT_ALIASES[path.stem]) for path in found if path.stem in SPLIT_ALIASES
    ]
    if parts and len({part for _, part in parts}) == len(parts) == len(found):
        return parts
    if len(found) == 1:
        return [(found[0], "")]
    names = ", ".join(path.name for path in found[:10]) or "no safetensors or npz file"
    raise DataError(
        f"which file holds the windows is not clear: there is {names}",
        where=root,
        hint="name it with data.options.file; or have one per split: train, validation, test",
    )


def _merge_facts(facts: dict[str, Any], held: dict[str, Any], path: Path) -> None:
    """Take what the file says where nothing is known; DataError where two files differ."""
    for name in facts:
        value = held.get(name)
        if value is None:
            continue
        if facts[name] is None:
            facts[name] = value
        elif name == "rate_hz" and float(facts[name]) != float(value):
            raise DataError(
                f"rate_hz is {value:g} in this file, but {facts[name]:g} elsewhere", where=path
            )


def _check_shape(
    signals: Sequence[np.ndarray], path: Path, first: Path, channels: Sequence[str] | None
) -> None:
    shape, expected = signals[-1].shape[1:], signals[0].shape[1:]
    if shape != expected:
        raise DataError(
            f"windows are {list(shape)} here, but {list(expected)} in {first.name}", where=path
        )
    if channels is not None and len(channels) != shape[0]:
        swapped = len(channels) == shape[1]
        raise DataError(
            f"{len(channels)} channels are named, but samples is [windows, {shape[0]}, {shape[1]}]",
            where=path,
            hint="its last two axes are swapped: store samples as [windows, channels, samples]"
            if swapped
            else "name as many in data.options.channels",
        )


def _distinct(names: set[str]) -> list[str]:
    """Class list of labels without names: numbers in their order, texts in theirs."""
    numbers = {name: whole_number(name) for name in names}
    return sorted(names, key=lambda name: (-1 if numbers[name] is None else numbers[name], name))
