"""From a study's `data:` section to its manifest: read the source, scan the files, split, check."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regatta.config.options import typed_options
from regatta.config.schema import DataSection
from regatta.core.errors import DataError, SplitLeakError
from regatta.core.registry import SOURCES, nearest
from regatta.data.decode import Probe
from regatta.data.disk_names import find_on_disk, normal_form, same_file_twice
from regatta.data.file_scan import Progress, Stop, is_truncated, scan_files
from regatta.data.manifest import Dropped, Listing, Manifest, Sample, SampleRow
from regatta.data.scan_notes import (
    LISTED,
    file_notes,
    listed,
    name_below,
    names_below,
    rest_notes,
    split_notes,
)
from regatta.data.splits import (
    assign_group_split,
    carve_validation,
    check_no_leak,
    limit_training,
)
from regatta.data.torchcodec_frames import torchcodec_refusal

_FROM_SECTION = ("root", "split", "seed")


def build_manifest(
    data: DataSection,
    *,
    cache_folder: Path,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Manifest:
    """Read the source, decode every file once to know its true length, split, and check.

    Nothing in the data folder is modified. What a file holds is remembered in `cache_folder` by
    path, size and time, so a second call, or one after a stop, opens only new files.

    Args:
        data: the study's section; without a root it is `data/<source>` below the working folder.
        cache_folder: created when missing; several studies may share it.
        progress: called before the first and after each file, in this thread.
        stop: polled; soon after it becomes true the scan ends.
    Raises:
        DataError: the folder or list is wrong, files are damaged under `damaged: fail`, there are
            fewer than two classes, a class is judged but never trained.
        SplitLeakError: a group or a file stands in two splits.
        ConfigError: an unknown or wrongly typed option.
        StopRequested: `stop()` became true.
    """
    root = Path(os.path.abspath(data.root or Path("data") / data.source))
    listing = read_listing(data, root)
    rows = listing.rows
    kept = [row for row in rows if not row.skip_reason]
    _check_rows(kept, root)
    kept = _located(kept, root, data.damaged)
    files = sorted({row.path for row in kept})
    found = scan_files(files, cache_folder=cache_folder, progress=progress, stop=stop)
    samples, unusable, short = _collect(kept, found, root, data.decoder)
    if unusable and data.damaged == "fail":
        raise _damage_error(unusable, len(kept), root)
    _check_samples(samples, kept, [*unusable, *short], root)
    samples = _with_splits(samples, data)
    _check_splits(samples, root)
    notes = [*listing.notes, *file_notes(found, root), *rest_notes(kept, found)]
    notes += split_notes(samples)
    samples, subset_notes = limit_training(samples, data.max_train_samples, data.split_seed)
    skipped = [
        Dropped(name_below(row.path, root), row.skip_reason) for row in rows if row.skip_reason
    ]
    classes = sorted({sample.label_name for sample in samples})
    return Manifest(samples, classes, [*unusable, *short, *skipped], notes + subset_notes)


def read_listing(data: DataSection, root: Path) -> Listing:
    """What the source says, with absolute paths and one spelling of each class and group.

    The options are checked against the signature of the source.
    """
    source = SOURCES.get(data.source, where="data.source")
    options = check_options(source, data.options, where="data.options")
    found = source(root, split=data.split, seed=data.split_seed, **options)
    listing = found if isinstance(found, Listing) else Listing(found)
    return replace(listing, rows=[_normal_row(row, str(root)) for row in listing.rows])


def _normal_row(row: SampleRow, root: str) -> SampleRow:
    path = os.path.normpath(os.path.join(root, row.path))
    label, group = normal_form(row.label_name), normal_form(row.group)
    if (path, label, group) == (str(row.path), row.label_name, row.group):
        return row
    return replace(row, path=Path(path), label_name=label, group=group)


def check_options(
    source: Callable[..., Any], options: dict[str, Any], *, where: str
) -> dict[str, Any]:
    """`options` turned into the types of the keyword arguments of `source`.

    Raises:
        ConfigError: an option that it does not have (with the nearest) or of a wrong type, or one
            without a default that is not given.
    """
    return typed_options(source, options, where=where, reserved=_FROM_SECTION, strict=False)


def _check_rows(rows: Sequence[SampleRow], root: Path) -> None:
    """What can be known before any file is opened."""
    if not rows:
        hint = "check data.root and data.options"
        raise DataError("the source lists no samples", where=root, hint=hint)
    for row in rows:
        names = f"{row.path}\n{row.label_name}\n{row.group}"
        if not names.isascii() and names.encode("utf-8", "replace").decode("utf-8") != names:
            # Such a name cannot stand in a table, a report or a message.
            raise DataError("a name is not valid UTF-8", where=ascii(str(row.path)))
    classes = {row.label_name for row in rows}
    if len(classes) < 2:
        raise DataError(
            f"there is only one class: {', '.join(classes)}",
            where=root,
            hint="two or more are needed to compare models",
        )
    without = sum(not row.split for row in rows)
    if 0 < without < len(rows):
        raise DataError(f"{without} of {len(rows)} samples have no split", where=root)
    check_no_leak(rows, where=root)
    _check_files_in_one_split(rows, root)
    if not without:
        _check_all_trained(rows, root)


def _check_files_in_one_split(rows: Sequence[SampleRow], root: Path) -> None:
    """Pieces of one video under several group names would pass the leak check."""
    seen: dict[Path, set[str]] = defaultdict(set)
    for row in rows:
        seen[row.path].add(row.split)
    torn = sorted(path for path, splits in seen.items() if len(splits) > 1)
    if torn:
        raise _torn_files(names_below(torn, root), root)


def _torn_files(names: Sequence[str], root: Path) -> SplitLeakError:
    return SplitLeakError(
        f"{len(names)} file(s) stand in more than one split: {listed(names)}",
        where=root,
        hint="keep all parts of one video in one split",
    )


def _located(rows: Sequence[SampleRow], root: Path, damaged: str) -> list[SampleRow]:
    """Rows with their paths as they are spelt on disk.

    Raises:
        DataError: no listed file is there, or one is missing under `damaged: fail`; told before
            any file is decoded.
        SplitLeakError: links of two splits lead to one file.
    """
    on_disk = find_on_disk(dict.fromkeys(row.path for row in rows), root)
    gone = [row.path for row in rows if row.path in on_disk.missing]
    if len(gone) == len(rows):
        example = name_below(gone[0], root)
        raise DataError(
            f"none of the {len(rows)} listed files is there, for example {example}",
            where=root,
            hint="check data.root and the layout below it; docs/data.md shows what is expected",
        )
    if gone and damaged == "fail":
        missing = [Dropped(name, "the file does not exist") for name in names_below(gone, root)]
        raise _damage_error(missing, len(rows), root)
    if torn := same_file_twice(rows, on_disk):
        raise _torn_files([" = ".join(names_below(paths, root)) for paths in torn], root)
    actual = on_disk.actual
    return [replace(r, path=actual[r.path]) if r.path in actual else r for r in rows]


def _collect(
    rows: Sequence[SampleRow], found: dict[Path, Probe | str], root: Path, decoder: str
) -> tuple[list[Sample], list[Dropped], list[Dropped]]:
    """(samples sorted by id, rows that cannot be used, rows too short for one piece)."""
    labels = {name: label for label, name in enumerate(sorted({row.label_name for row in rows}))}
    samples: list[Sample] = []
    unusable: list[Dropped] = []
    short: list[Dropped] = []
    for row in rows:
        facts, name = found[row.path], name_below(row.path, root)
        if isinstance(facts, str):
            unusable.append(Dropped(name, facts, is_damage=True))
        elif fault := _fault(facts, row, decoder):
            unusable.append(Dropped(name, fault, is_damage=True))
        elif ranges := _ranges(row, facts.counted_frames):
            label = labels[row.label_name]
            samples += [_sample(row, facts, name, label, *span) for span in ranges]
        else:
            reason = f"too few frames for a piece of {row.segment_frames}"
            short.append(Dropped(name, reason))
    return sorted(samples, key=lambda sample: sample.sample_id), unusable, short


def _fault(facts: Probe, row: SampleRow, decoder: str) -> str | None:
    """Why a decodable file cannot serve this row; None when it can."""
    counted = facts.counted_frames
    if is_truncated(facts):
        if facts.header_frames is not None:
            return f"truncated: {counted} of the {facts.header_frames} frames in its header"
        return f"truncated: it ends {facts.missing_seconds:.2f} seconds before its header says"
    end = row.start_frame + (1 if row.frames is None else row.frames)
    if end > counted:
        return f"frames {row.start_frame} to {end - 1} are listed, but it has {counted}"
    if decoder != "torchcodec":
        return None
    return torchcodec_refusal(
        container=facts.container,
        reordered=facts.reordered,
        bits=facts.bits,
        concealed_frames=facts.concealed_frames,
    )


def _ranges(row: SampleRow, counted: int) -> list[tuple[int, int]]:
    """(start, length) of each sample that the row stands for."""
    length = counted - row.start_frame if row.frames is None else row.frames
    if row.segment_frames is None:
        return [(row.start_frame, length)]
    pieces = range(length // row.segment_frames)
    return [(row.start_frame + i * row.segment_frames, row.segment_frames) for i in pieces]


def _sample(row: SampleRow, facts: Probe, name: str, label: int, start: int, length: int) -> Sample:
    whole = row.segment_frames is None and row.start_frame == 0 and row.frames is None
    return Sample(
        sample_id=name if whole else f"{name}#{start}-{start + length}",
        path=str(row.path),
        label=label,
        label_name=row.label_name,
        group=row.group,
        split=row.split,
        start_frame=start,
        frames=length,
        fps=facts.fps,
        width=facts.width,
        height=facts.height,
        duration_seconds=facts.duration_seconds * length / facts.counted_frames,
        content_hash=facts.content_hash,
        extra=dict(row.extra),
    )


def _damage_error(unusable: Sequence[Dropped], total: int, root: Path) -> DataError:
    return DataError(
        f"{len(unusable)} of {total} samples cannot be used{_reasons(unusable)}",
        where=root,
        hint="repair or fetch them, or set data.damaged: drop to leave them out of every entry; "
        "the report then lists them",
    )


def _reasons(dropped: Sequence[Dropped]) -> str:
    """Lines to end a message with: each file and why it is left out, the first `LISTED` of them."""
    lines = list(dict.fromkeys(f"\n    {item.path}: {item.reason}" for item in dropped))
    more = f"\n    and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return f"{':' if lines else ''}{''.join(lines[:LISTED])}{more}"


def _check_samples(
    samples: Sequence[Sample], rows: Sequence[SampleRow], dropped: Sequence[Dropped], root: Path
) -> None:
    counts = Counter(sample.sample_id for sample in samples)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        problem = f"{len(twice)} sample(s) are listed more than once: {listed(twice)}"
        raise DataError(problem, where=root, hint="list each file, or each range of it, once")
    gone = {row.label_name for row in rows} - {sample.label_name for sample in samples}
    if gone:
        lost = {name_below(row.path, root) for row in rows if row.label_name in gone}
        reasons = _reasons([item for item in dropped if item.path in lost])
        raise DataError(
            f"no file of {len(gone)} class(es) can be used: {listed(sorted(gone))}{reasons}",
            where=root,
            hint="repair the files, or leave these classes out of the source",
        )


def _with_splits(samples: Sequence[Sample], data: DataSection) -> list[Sample]:
    """Every sample in a split; validation is carved from training where the source gives none."""
    assigned = assign_group_split(samples, data.split_seed)
    if any(sample.split == "validation" for sample in assigned):
        return assigned
    return carve_validation(assigned, data.validation_fraction, data.split_seed)


def _check_splits(samples: Sequence[Sample], root: Path) -> None:
    check_no_leak(samples, where=root)
    _check_all_trained(samples, root)


def _check_all_trained(rows: Sequence[Sample] | Sequence[SampleRow], root: Path) -> None:
    trained = {row.label_name for row in rows if row.split == "train"}
    unseen = sorted({row.label_name for row in rows} - trained)
    if unseen:
        close = nearest(unseen[0], trained)
        guess = f"is '{unseen[0]}' another spelling of '{close}'? " if close else ""
        raise DataError(
            f"{len(unseen)} class(es) have no training sample: {listed(unseen)}",
            where=root,
            hint=f"{guess}add training samples of these classes, or leave the classes out",
        )
