"""What the report says of files that are used all the same, and how names stand in messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from regatta.data.decode import Probe
from regatta.data.file_scan import is_truncated
from regatta.data.manifest import SPLITS, Sample, SampleRow

LISTED = 10
"""Most names in one message."""


def file_notes(found: dict[Path, Probe | str], root: Path) -> list[str]:
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
    return [f"{len(p)} file(s) {what}: {listed(names_below(p, root))}" for what, p in odd.items()]


def rest_notes(rows: Sequence[SampleRow], found: dict[Path, Probe | str]) -> list[str]:
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


def split_notes(samples: Sequence[Sample]) -> list[str]:
    """Splits that are empty or lack a class, and copies."""
    notes = [f"there is no {name} split" for name in SPLITS if not _count(samples, name)]
    classes = {sample.label_name for sample in samples}
    for name in ("validation", "test"):
        within = {sample.label_name for sample in samples if sample.split == name}
        without = sorted(classes - within)
        if within and without:
            notes.append(f"{len(without)} class(es) have no {name} sample: {listed(without)}")
    return [*notes, *_copy_notes(samples)]


def _copy_notes(samples: Sequence[Sample]) -> list[str]:
    """Files of equal content whose splits or labels differ."""
    places: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for sample in samples:
        places[sample.content_hash].add((sample.path, sample.split, sample.label_name))
    notes = []
    for place, what in ((1, "stand in two splits"), (2, "have two labels")):
        torn = [
            files
            for files in places.values()
            if len({file[0] for file in files}) > 1 and len({file[place] for file in files}) > 1
        ]
        if torn:
            names = sorted({Path(path).name for files in torn for path, _, _ in files})
            notes.append(f"{len(torn)} video(s) {what} as copies: {listed(names)}")
    return notes


def _count(samples: Iterable[Sample], split: str) -> int:
    return sum(sample.split == split for sample in samples)


def name_below(path: Path, root: Path) -> str:
    """Below the root in posix form; absolute for a file that stands elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def names_below(paths: Iterable[Path], root: Path) -> list[str]:
    return [name_below(path, root) for path in paths]


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
