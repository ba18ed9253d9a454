"""The training images dealt out to experts, to their fusion and to validation.

Everything depends on the set of samples and the seed, never on their order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from regatta.config.partition import PartitionSection, class_blocks
from regatta.core.errors import DataError
from regatta.core.files import atomic_path, write_json
from regatta.core.seeds import derive_seed, stream
from regatta.data.manifest import Dropped, Manifest, Sample
from regatta.data.scan_notes import listed
from regatta.data.splits import stratified_subset

TRAIN_INDEX = "train_index"
"""Key of `Sample.extra`: the number of a sample in the training list of its source, which lists of
indices count by."""
RECORD_VERSION = 1


@dataclass(frozen=True)
class Dealt:
    """All samples with their final splits, and the sorted sample ids of each part."""

    samples: list[Sample]
    parts: dict[str, list[str]]
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def deal_out(samples: Sequence[Sample], classes: Sequence[str], section: PartitionSection) -> Dealt:
    """Pool and hold-out of the training samples, validation out of the hold-out, and the experts.

    Where the samples have a validation split already, it is kept and the whole hold-out is for the
    fusion. Parts: pool, fusion, expert-0, expert-1 ...

    Raises:
        DataError: a list of indices is wrong, or a part lacks a class that it needs.
    """
    training = sorted((s for s in samples if s.split == "train"), key=lambda s: s.sample_id)
    pool, holdout = _pool_and_holdout(training, section)
    notes: list[str] = []
    if any(sample.split == "validation" for sample in samples):
        validation = {s.sample_id for s in samples if s.split == "validation"}
        fusion = holdout
        notes.append("the source has a validation split: none is taken from the hold-out")
    else:
        carved = _some(holdout, round(section.validation * len(training)), section, "validation")
        validation = {sample.sample_id for sample in carved}
        fusion = [sample for sample in holdout if sample.sample_id not in validation]
    experts = _experts(pool, classes, section)
    _check_parts(samples, validation, fusion, experts, classes, section)
    parts = {"pool": pool, "fusion": fusion, **experts}
    used = {sample.sample_id for sample in (*pool, *fusion)}
    unused = [s for s in training if s.sample_id not in used and s.sample_id not in validation]
    idle = len(pool) - len({s.sample_id for part in experts.values() for s in part})
    if idle:
        notes.append(f"{idle} of {len(pool)} images of the pool are in no expert's part")
    return Dealt(
        [
            replace(s, split="validation") if s.sample_id in validation else s
            for s in samples
            if s.split != "train" or s.sample_id in used or s.sample_id in validation
        ],
        {name: [sample.sample_id for sample in part] for name, part in parts.items()},
        [Dropped(s.sample_id, "in neither list of indices") for s in unused],
        notes,
    )


def _pool_and_holdout(
    training: list[Sample], section: PartitionSection
) -> tuple[list[Sample], list[Sample]]:
    if section.pool_file is not None or section.holdout_file is not None:
        return _listed_parts(training, section)
    holdout = _some(training, round(section.holdout * len(training)), section, "holdout")
    held = {sample.sample_id for sample in holdout}
    return [sample for sample in training if sample.sample_id not in held], holdout


def _some(
    samples: list[Sample], count: int, section: PartitionSection, purpose: str
) -> list[Sample]:
    """Exactly `count` of them: of every class in proportion, or by a plain permutation."""
    if section.stratified:
        seed = derive_seed(section.seed, "partition", purpose)
        return stratified_subset(samples, count, seed)
    order = stream(section.seed, "partition", purpose).permutation(len(samples))
    return [samples[n] for n in sorted(order[:count])]


def _experts(
    pool: list[Sample], classes: Sequence[str], section: PartitionSection
) -> dict[str, list[Sample]]:
    """Samples of each expert, sorted by id."""
    count = section.experts
    if section.kind == "noniid":
        if count > len(classes):
            raise DataError(
                f"{count} experts cannot each have classes of their own: there are {len(classes)}",
                where="partition.experts",
                hint=f"give at most {len(classes)}, or partition.kind: iid",
            )
        blocks = class_blocks(len(classes), count)
        return {f"expert-{k}": [s for s in pool if s.label in blocks[k]] for k in range(count)}
    order = stream(section.seed, "partition", "experts").permutation(len(pool))
    # Ends from the running sum: rounded shares could add up to more than there is.
    ends = [round((section.shared + k * section.unique) * len(pool)) for k in range(count + 1)]
    return {
        f"expert-{k}": [pool[n] for n in sorted([*order[: ends[0]], *order[ends[k] : ends[k + 1]]])]
        for k in range(count)
    }


def _check_parts(
    samples: Sequence[Sample],
    validation: set[str],
    fusion: Sequence[Sample],
    experts: Mapping[str, Sequence[Sample]],
    classes: Sequence[str],
    section: PartitionSection,
) -> None:
    """Every class in every part that needs it."""
    blocks = class_blocks(len(classes), section.experts)
    needed = {
        name: [classes[label] for label in blocks[k]] if section.kind == "noniid" else classes
        for k, name in enumerate(experts)
    }
    selecting = [sample for sample in samples if sample.sample_id in validation]
    for name, part in {**experts, "fusion": fusion, "validation": selecting}.items():
        present = {sample.label_name for sample in part}
        absent = [label for label in needed.get(name, classes) if label not in present]
        if absent:
            raise DataError(
                f"part {name} ({len(part)} images) has no image of {len(absent)} class(es): "
                f"{listed(absent)}",
                where="partition",
                hint="give the part a larger share, use partition.stratified: true, or more images",
            )


def _listed_parts(
    training: list[Sample], section: PartitionSection
) -> tuple[list[Sample], list[Sample]]:
    """Pool and hold-out as lists of indices say; without one of the lists, all others are in it."""
    chosen: dict[str, list[int]] = {}
    for name, path in (("pool", section.pool_file), ("hold-out", section.holdout_file)):
        if path is not None:
            chosen[name] = _read_indices(Path(os.path.abspath(path)), len(training))
    everything = set(range(len(training)))
    pool, holdout = (chosen.get(name) for name in ("pool", "hold-out"))
    pool = sorted(everything - set(holdout or ())) if pool is None else pool
    holdout = sorted(everything - set(pool)) if holdout is None else holdout
    both = sorted(set(pool) & set(holdout))
    if both:
        raise DataError(
            f"{len(both)} of {len(holdout)} hold-out indices are in the pool too: {_first(both)}",
            where=section.holdout_file,
            hint="no expert may train on the hold-out: make the lists anew",
        )
    return [training[n] for n in pool], [training[n] for n in holdout]


def _read_indices(path: Path, count: int) -> list[int]:
    """A list of whole numbers below `count`, sorted; DataError with the number of wrong ones."""
    try:
        # Mapped: a header that declares more than the file holds is refused, not allocated.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError("the list of indices is missing", where=path) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"the list of indices cannot be read, or holds Python objects: {error}",
            where=path,
            hint="save it as an integer array: numpy.save(path, numpy.asarray(indices, int))",
        ) from error
    if isinstance(found, np.lib.npyio.NpzFile):
        found.close()
        raise DataError("an archive of several arrays, not one list of indices", where=path)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        described = f"{found.dtype} {list(found.shape)}"
        raise DataError(f"not a list of whole numbers but {described}", where=path)
    outside = found[(found < 0) | (found >= count)]
    values, counts = np.unique(found, return_counts=True)
    repeated = values[counts > 1]
    problems = [
        f"{len(wrong)} of {len(found)} indices {what}: {_first(wrong.tolist())}"
        for wrong, what in (
            (outside, f"are outside 0..{count - 1}"),
            (repeated, "stand there more than once"),
        )
        if len(wrong)
    ]
    if problems or not len(found):
        raise DataError("; ".join(problems) or "the list of indices is empty", where=path)
    return values.tolist()


def _first(numbers: Sequence[int]) -> str:
    return listed([str(number) for number in numbers])


def write_partition(
    folder: Path, manifest: Manifest, parts: Mapping[str, Any], section: PartitionSection
) -> None:
    """Write every list as `.npy` of int64, and `partition.json` with counts and hashes.

    The numbers count the training list of the source, so that `expert_train_indices.npy` (the pool)
    and `fusion_holdout_indices.npy` (fusion and validation) can be given back as
    `partition.pool_file` and `holdout_file`.

    Args:
        folder: `splits` of the study's folder.
        parts: name -> rows of the manifest, arrays or tensors, as `ImageStore.parts` has them.
    Raises:
        DiskError: the folder cannot be written.
    """
    members = {name: [manifest.samples[int(n)] for n in rows] for name, rows in parts.items()}
    validation = manifest.split("validation")
    carved = [sample for sample in validation if TRAIN_INDEX in sample.extra]
    lists = {
        "expert_train_indices": members["pool"],
        "fusion_holdout_indices": [*members["fusion"], *carved],
        "fusion_train_indices": members["fusion"],
        **{
            f"{name.replace('-', '_')}_indices": part
            for name, part in members.items()
            if name.startswith("expert-")
        },
    }
    if carved:
        lists["validation_indices"] = carved
    for name, part in lists.items():
        numbers = np.sort(np.array([int(s.extra[TRAIN_INDEX]) for s in part], dtype=np.int64))
        with atomic_path(folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, numbers, allow_pickle=False)
    record = {
        "version": RECORD_VERSION,
        "partition": section.model_dump(mode="json"),
        "validation_from": "hold-out" if carved else "source",
        "parts": {
            name: _facts(part, manifest.classes)
            for name, part in {**members, "validation": validation}.items()
        },
    }
    write_json(folder / "partition.json", record)


def _facts(part: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    counts = Counter(sample.label_name for sample in part)
    return {
        "samples": len(part),
        "classes": {name: counts[name] for name in classes if counts[name]},
        "hash": part_hash([sample.sample_id for sample in part]),
    }


def part_hash(sample_ids: Sequence[str]) -> str:
    """SHA-256 of the sorted ids, one a line."""
    return sha256("\n".join(sorted(sample_ids)).encode("utf-8")).hexdigest()
