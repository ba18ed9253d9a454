"""From a study's `data:` section to its manifest: read the source, scan the files, split, check."""

from __future__ import annotations

import inspect
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from regatta.config.schema import DataSection
from regatta.core.errors import ConfigError, DataError, SplitLeakError
from regatta.core.registry import SOURCES, nearest
from regatta.data.decode import Probe, torchcodec_refusal
from regatta.data.file_scan import Progress, Stop, is_truncated, scan_files
from regatta.data.manifest import SPLITS, Dropped, Manifest, Sample, SampleRow
from regatta.data.splits import (
    assign_group_split,
    carve_validation,
    check_no_leak,
    stratified_subset,
)

LISTED = 10
"""Most names in one message."""

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
    rows = read_rows(data, root)
    kept = [row for row in rows if not row.skip_reason]
    _check_rows(kept, root)
    files = sorted({row.path for row in kept})
    found = scan_files(files, cache_folder=cache_folder, progress=progress, stop=stop)
    samples, unusable, short = _collect(kept, found, root, data.decoder)
    if unusable and data.damaged == "fail":
        raise _damage_error(unusable, len(kept), root)
    _check_samples(samples, kept, [*unusable, *short], root)
    samples = _with_splits(samples, data)
    _check_splits(samples, root)
    notes = [*_file_notes(found, root), *_rest_notes(kept, found), *_split_notes(samples)]
    samples, subset_notes = _limit_training(samples, data)
    skipped = [Dropped(_name(row.path, root), row.skip_reason) for row in rows if row.skip_reason]
    classes = sorted({sample.label_name for sample in samples})
    return Manifest(samples, classes, [*unusable, *short, *skipped], notes + subset_notes)


def read_rows(data: DataSection, root: Path) -> list[SampleRow]:
    """What the source says, with absolute paths; its options are checked against its signature."""
    source = SOURCES.get(data.source, where="data.source")
    options = check_options(source, data.options, where="data.options")
    rows: list[SampleRow] = source(root, split=data.split, seed=data.split_seed, **options)
    return [replace(row, path=Path(os.path.normpath(root / row.path))) for row in rows]


def check_options(
    source: Callable[..., Any], options: dict[str, Any], *, where: str
) -> dict[str, Any]:
    """`options` turned into the types of the keyword arguments of `source`.

    Raises:
        ConfigError: an option that it does not have (with the nearest) or of a wrong type, or one
            without a default that is not given.
    """
    types = get_type_hints(source, include_extras=True)
    parameters = inspect.signature(source).parameters
    known = [name for name in parameters if name not in _FROM_SECTION]
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean '{close}'? " if close else ""
            hint += f"known: {', '.join(known) or 'none'}"
            raise ConfigError(f"unknown option '{name}'", where=where, hint=hint)
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            problems = "; ".join(problem["msg"] for problem in error.errors())
            raise ConfigError(f"{problems} (got {value!r})", where=f"{where}.{name}") from error
    required = [n for n in known if parameters[n].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in checked]
    if missing:
        raise ConfigError(f"option(s) not given: {', '.join(missing)}", where=where)
    return checked


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


def _check_files_in_one_split(rows: Sequence[SampleRow], root: Path) -> None:
    """Pieces of one video under several group names would pass the leak check."""
    seen: dict[Path, set[str]] = defaultdict(set)
    for row in rows:
        seen[row.path].add(row.split)
    torn = sorted(path for path, splits in seen.items() if len(splits) > 1)
    if torn:
        raise SplitLeakError(
            f"{len(torn)} file(s) stand in more than one split: {_listed(_names(torn, root))}",
            where=root,
            hint="keep all parts of one video in one split",
        )


def _collect(
    rows: Sequence[SampleRow], found: dict[Path, Probe | str], root: Path, decoder: str
) -> tuple[list[Sample], list[Dropped], list[Dropped]]:
    """(samples sorted by id, rows that cannot be used, rows too short for one piece)."""
    labels = {name: label for label, name in enumerate(sorted({row.label_name for row in rows}))}
    samples: list[Sample] = []
    unusable: list[Dropped] = []
    short: list[Dropped] = []
    for row in rows:
        facts, name = found[row.path], _name(row.path, root)
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
        hint="repair the files, or set data.damaged: drop to leave them out of every entry; "
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
        problem = f"{len(twice)} sample(s) are listed more than once: {_listed(twice)}"
        raise DataError(problem, where=root, hint="list each file, or each range of it, once")
    gone = {row.label_name for row in rows} - {sample.label_name for sample in samples}
    if gone:
        lost = {_name(row.path, root) for row in rows if row.label_name in gone}
        reasons = _reasons([item for item in dropped if item.path in lost])
        raise DataError(
            f"no file of {len(gone)} class(es) can be used: {_listed(sorted(gone))}{reasons}",
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
    trained = {sample.label_name for sample in samples if sample.split == "train"}
    unseen = sorted({sample.label_name for sample in samples} - trained)
    if unseen:
        raise DataError(
            f"{len(unseen)} class(es) have no training sample: {_listed(unseen)}",
            where=root,
            hint="add training samples of these classes, or leave the classes out",
        )


def _limit_training(samples: Sequence[Sample], data: DataSection) -> tuple[list[Sample], list[str]]:
    """`data.max_train_samples` of the training samples, and the note that says so."""
    training = [sample for sample in samples if sample.split == "train"]
    limit = data.max_train_samples
    if limit is None or limit >= len(training):
        return list(samples), []
    classes = len({sample.label_name for sample in training})
    if limit < classes:
        problem = f"max_train_samples is {limit}, but there are {classes} classes"
        raise ConfigError(
            problem, where="data.max_train_samples", hint="give one per class or more"
        )
    chosen = {s.sample_id for s in stratified_subset(training, limit, data.split_seed)}
    kept = [s for s in samples if s.split != "train" or s.sample_id in chosen]
    return kept, [f"training uses {limit} of {len(training)} samples (data.max_train_samples)"]


def _file_notes(found: dict[Path, Probe | str], root: Path) -> list[str]:
    """Oddities of files that are used all the same."""
    odd: dict[str, list[Path]] = defaultdict(list)
    for path, facts in sorted(found.items()):
        if isinstance(facts, str) or is_truncated(facts):
            continue
        if facts.header_frames is not None and facts.counted_frames < facts.header_frames:
            odd["hold fewer frames than their header says, as whole files of this kind do"].append(
                path
            )
        if facts.concealed_frames:
            odd["have damaged frames that the decoder patched up"].append(path)
        if facts.variable_rate:
            odd["have a varying frame rate; fps is the mean"].append(path)
    return [f"{len(p)} file(s) {what}: {_listed(_names(p, root))}" for what, p in odd.items()]


def _rest_notes(rows: Sequence[SampleRow], found: dict[Path, Probe | str]) -> list[str]:
    """How many frames the cutting into pieces leaves over."""
    rests = []
    for row in rows:
        facts = found[row.path]
        if row.segment_frames and not isinstance(facts, str) and not is_truncated(facts):
            length = facts.counted_frames - row.start_frame if row.frames is None else row.frames
            rests.append(length % row.segment_frames)
    if not any(rests):
        return []
    files = sum(rest > 0 for rest in rests)
    return [f"{sum(rests)} frames at the ends of {files} listed ranges are in no piece"]


def _split_notes(samples: Sequence[Sample]) -> list[str]:
    notes = [f"there is no {name} split" for name in SPLITS if not _count(samples, name)]
    validated = {sample.label_name for sample in samples if sample.split == "validation"}
    without = sorted({sample.label_name for sample in samples} - validated)
    if validated and without:
        notes.append(f"{len(without)} class(es) have no validation sample: {_listed(without)}")
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for sample in samples:
        places[sample.content_hash].add((sample.path, sample.split))
    copies = [files for files in places.values() if len({split for _, split in files}) > 1]
    if copies:
        names = sorted(Path(path).name for files in copies for path, _ in files)
        notes.append(f"{len(copies)} video(s) stand in two splits as copies: {_listed(names)}")
    return notes


def _count(samples: Iterable[Sample], split: str) -> int:
    return sum(sample.split == split for sample in samples)


def _name(path: Path, root: Path) -> str:
    """Below the root in posix form; absolute for a file that stands elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _names(paths: Iterable[Path], root: Path) -> list[str]:
    return [_name(path, root) for path in paths]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
