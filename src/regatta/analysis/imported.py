"""Foreign predictions become entries of a study: checked against all that stands in it, then
written. Nothing that is there is touched before every file has passed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regatta.analysis.folds import read_joined, whole_runs
from regatta.analysis.import_fit import Frame, fit_counts, fit_scores, frame_of, frame_of_files
from regatta.analysis.import_request import NAME, NAME_RULE, Request, clean_name
from regatta.analysis.wording import count
from regatta.config.expand import RunSpec, expand_study, protocol_id
from regatta.config.load import dump_study, study_from_mapping
from regatta.config.schema import IMPORTED, Study
from regatta.core.errors import ConfigError, DataError
from regatta.core.files import disk_error, ensure_writable, read_json, write_text
from regatta.core.locks import own_folder, sweep_own_folders
from regatta.records.class_counts import CLASS_UNIT, read_class_counts, unit_of
from regatta.records.fingerprint import UNKNOWN, check_known, check_same_conditions
from regatta.records.import_store import (
    STAGE,
    Staged,
    put_in_place,
    stage_counts,
    stage_scores,
    tidy,
)
from regatta.records.imports import Foreign, ForeignCounts, read_foreign
from regatta.records.lease import study_lease
from regatta.records.predictions import RunPredictions, read_run_predictions
from regatta.records.run_folder import StudyFolder, check_ours

TITLE = "Imported predictions"


@dataclass(frozen=True)
class ImportedStudy:
    """What was written. said: a line per file and note; entry_lines: what keeps the entries in a
    study file of the user's own."""

    folder: StudyFolder
    said: list[str]
    entry_lines: list[str]


@dataclass(frozen=True)
class _Place:
    """The entry and seed that a file becomes."""

    request: Request
    name: str
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.seed

    @property
    def label(self) -> str:
        return f"{self.name} seed {self.seed}"


@dataclass(frozen=True)
class _Kept:
    """An imported run that stands in the study and stays."""

    spec: RunSpec
    folder: Path
    """Of its predictions."""


@dataclass(frozen=True)
class _Fitted:
    """A file that fits the study."""

    place: _Place
    found: RunPredictions | ForeignCounts
    origin: dict[str, Any]


def import_predictions(
    runs_root: Path,
    requests: Sequence[Request],
    *,
    target: StudyFolder | None = None,
    name: str = IMPORTED,
    mix_protocols: bool = False,
) -> ImportedStudy:
    """Import files into the study `target`, or into `runs_root/name`, which is made if need be.

    An entry that was imported under the same name is replaced; with a seed, that seed alone.

    Raises:
        ConfigError: a name is taken by a trained entry, or used twice.
        DataError, RecordError: a file is wrong, or does not fit the others or the study.
        LeaseHeldError: the study is being run.
        DiskError: the predictions cannot be written; what was there stays.
    """
    folder = target or StudyFolder(runs_root / name)
    before = _study_there(folder, name, is_target=target is not None)
    # Two imports at once, or an import into a launch, would each write what the other checked.
    with nullcontext() if before is None else study_lease(folder.lease):
        return _import(folder, before, name, requests, mix_protocols=mix_protocols)


def _import(
    folder: StudyFolder,
    before: Study | None,
    name: str,
    requests: Sequence[Request],
    *,
    mix_protocols: bool,
) -> ImportedStudy:
    places = _with_seeds(before, requests)
    study = _with_entries(before, name, places, mix_protocols=mix_protocols)
    if before is None:
        check_ours(folder, study)
    files = [(place, read_foreign(place.request.path)) for place in places]
    kept = _kept_runs(folder, study, places) if before else []
    own = _own_run(folder, before) if before else None
    frame = _frame(own, kept, files)
    fitted = [_fit(place, found, frame) for place, found in files]
    if not study.compare.mix_protocols:
        prints = _fingerprints(own, kept, fitted)
        if own is not None:
            check_known(prints)
        check_same_conditions(prints)
    _write(folder, before, study, fitted)
    names = dict.fromkeys(place.name for place in places)
    return ImportedStudy(
        folder,
        [text for each in fitted for text in _told(each)],
        [_entry_line(study, name) for name in names] if study.trained_entries else [],
    )


def _study_there(folder: StudyFolder, name: str, *, is_target: bool) -> Study | None:
    """The study that is there; None where one is to be made."""
    if is_target or folder.study_yaml.is_file():
        study = folder.study()
        if study.trained_entries and not is_target:
            raise ConfigError(
                f"'{name}' is a study with entries that are trained here",
                where=folder.path,
                hint=f"to import beside them: regatta compare {name} --import FILE; else choose "
                "another --name",
            )
        return study
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' is no name of a study",
            where="--name",
            hint=f"{NAME_RULE}: {clean_name(name)}",
        )
    return None


def _with_seeds(study: Study | None, requests: Sequence[Request]) -> list[_Place]:
    """Where each request goes; a file without a seed takes 0, or the first of a study without 0.

    Raises:
        ConfigError: two files for one seed of one entry.
    """
    first = study.seeds[0] if study and 0 not in study.seeds else 0
    found = [_Place(r, r.name, first if r.seed is None else r.seed) for r in requests]
    for place in found:
        same = [str(p.request.path) for p in found if p.key == place.key]
        if len(same) > 1:
            raise ConfigError(
                f"two files for {place.name} seed {place.seed}",
                where=", ".join(same),
                hint="give each a name of its own, NAME=FILE, or a seed, NAME@SEED=FILE",
            )
    return found


def _with_entries(
    before: Study | None, name: str, places: Sequence[_Place], *, mix_protocols: bool
) -> Study:
    """The study with the imported entries and their seeds in it.

    Raises:
        ConfigError: a trained entry has one of the names.
    """
    content: dict[str, Any] = before.model_dump(mode="json") if before else _new_content(name)
    entries = {entry["name"]: entry for entry in content["entries"]}
    for each in places:
        if entries.get(each.name, {"model": IMPORTED})["model"] != IMPORTED:
            path = each.request.path
            raise ConfigError(
                f"the study has an entry '{each.name}' that is trained here",
                where=f"--import {each.name}={path}",
                hint=f"choose another name: --import {each.name}-imported={path}",
            )
    for entry in dict.fromkeys(each.name for each in places):
        mine = [each for each in places if each.name == entry]
        seeds = {each.seed for each in mine}
        if before and entry in entries and all(each.request.seed is not None for each in mine):
            seeds |= set(entries[entry]["options"].get("seeds", before.seeds))
        entries[entry] = {"name": entry, "model": IMPORTED, "options": {"seeds": sorted(seeds)}}
    content["entries"] = list(entries.values())
    if before is None or not before.trained_entries:
        known = [entry["options"].get("seeds", content["seeds"]) for entry in content["entries"]]
        content["seeds"] = sorted({seed for seeds in known for seed in seeds})
    compare = content.setdefault("compare", {})
    compare["mix_protocols"] = compare.get("mix_protocols", False) or mix_protocols
    return study_from_mapping(content, where="--import")


def _new_content(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "title": TITLE,
        "data": {"source": IMPORTED},
        "entries": [],
        "seeds": [0],
        "protocol": {"name": IMPORTED},
    }


def _kept_runs(folder: StudyFolder, study: Study, places: Sequence[_Place]) -> list[_Kept]:
    """The imported runs of the study that these files do not replace."""
    protocol, replaced = protocol_id(study.protocol), {place.key for place in places}
    return [
        _Kept(spec, folder.run(spec.run_id).predictions(protocol))
        for spec in expand_study(study)
        if spec.entry.is_imported
        and (spec.entry.name, spec.seed) not in replaced
        and folder.run(spec.run_id).is_judged(protocol)
    ]


def _own_run(folder: StudyFolder, study: Study) -> RunPredictions | None:
    """The first entry and seed that was judged here; None in a study of imports alone.

    Raises:
        ConfigError: the study trains entries, and none is judged yet.
    """
    if not study.trained_entries:
        return None
    protocol = protocol_id(study.protocol)
    for parts in whole_runs(folder, protocol)[0]:
        if not parts[0][0].entry.is_imported:
            return read_joined(parts, protocol).predictions
    raise ConfigError(
        "nothing is judged in this study yet, so nothing says which samples and conditions the "
        "imported predictions must have",
        where=folder.path,
        hint="finish it first with: regatta run <study file>; or import into a study of its own "
        "with --name NAME and no target",
    )


def _frame(
    own: RunPredictions | None, kept: Sequence[_Kept], files: Sequence[tuple[_Place, Foreign]]
) -> Frame:
    """What all entries must share: of the entries here, else of what is imported, else of the files
    among themselves.

    Raises:
        DataError: accuracies of classes would stand beside answers of samples.
    """
    there = "sample" if own else unit_of(kept[0].folder) if kept else None
    units = {_unit(found) for _, found in files} | ({there} if there else set())
    if len(units) > 1:
        raise DataError(
            "accuracies of classes cannot stand beside predictions of single samples",
            where=", ".join(str(found.path) for _, found in files if _unit(found) == CLASS_UNIT),
            hint="compare tables with tables, in a study of their own: regatta compare --name "
            "tables --import theirs=TABLE --import ours=per_class_<entry>.csv (such a file of "
            "every entry and seed stands in results/ of a study)",
        )
    if own is not None:
        return frame_of(own.run_id, own, is_own=True)
    if not kept:
        return frame_of_files([(place.label, found) for place, found in files])
    spec, folder = kept[0].spec, kept[0].folder
    names: dict[str, Any] = {"run_id": spec.label, "entry": spec.entry.name, "seed": spec.seed}
    if there == CLASS_UNIT:
        counts = read_class_counts(folder, **names)
        found = ForeignCounts(
            folder, "folder", "", counts.conditions, counts.classes, counts.counts, counts.right
        )
        return frame_of_files([(spec.label, found)])
    return frame_of(spec.label, read_run_predictions(folder, **names), is_own=False)


def _unit(found: Foreign) -> str:
    return CLASS_UNIT if isinstance(found, ForeignCounts) else "sample"


def _fit(place: _Place, found: Foreign, frame: Frame) -> _Fitted:
    origin: dict[str, Any] = {
        "file": found.path.resolve().name,
        "kind": found.kind,
        "sha256": found.sha256,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if isinstance(found, ForeignCounts):
        counts = fit_counts(place.label, found, frame)
        return _Fitted(place, counts, {**origin, "notes": counts.notes})
    fitted, notes = fit_scores(place.label, found, frame, seed=place.seed)
    origin |= {
        "groups": "none" if frame.groups is None else "study" if frame.is_own else "file",
        "class_names": frame.has_names,
        "notes": notes,
    }
    return _Fitted(place, fitted, origin)


def _fingerprints(
    own: RunPredictions | None, kept: Sequence[_Kept], fitted: Sequence[_Fitted]
) -> dict[str, dict[str, Any]]:
    """How each run of the study would have been judged, as far as it is known."""
    found = {own.run_id: own.fingerprint} if own else {}
    for each in kept:
        found[each.spec.label] = read_json(each.folder / "complete.json")["fingerprint"]
    for each in fitted:
        print_ = UNKNOWN if isinstance(each.found, ForeignCounts) else each.found.fingerprint
        found[each.place.label] = print_
    return found


def _write(
    folder: StudyFolder, before: Study | None, study: Study, fitted: Sequence[_Fitted]
) -> None:
    """Stage everything, then put it in place; a new study appears whole or not at all."""
    parent, prefix = folder.path.parent, f"{STAGE}{study.name}-"
    ensure_writable(parent)
    try:
        if before is not None:
            _fill(folder, study, fitted)
        else:
            sweep_own_folders(parent, prefix)
            with own_folder(parent, prefix) as place:
                _fill(StudyFolder(place), study, fitted)
                place.rename(folder.path)
    except OSError as error:
        raise disk_error(error, folder.path) from error
    if before is not None:
        kept = {spec.run_id for spec in expand_study(study)}
        for spec in expand_study(before):
            if spec.entry.is_imported and spec.run_id not in kept:
                shutil.rmtree(folder.run(spec.run_id).path, ignore_errors=True)


def _fill(place: StudyFolder, study: Study, fitted: Sequence[_Fitted]) -> None:
    staged = list[Staged]()
    try:
        for each in fitted:
            staged.append(_stage(place, study, each))
        for each in staged:
            put_in_place(each)
        write_text(place.study_yaml, dump_study(study))
    finally:
        for each in staged:
            tidy(each.run, each.folder)


def _stage(place: StudyFolder, study: Study, each: _Fitted) -> Staged:
    spec = next(
        spec
        for spec in expand_study(study)
        if (spec.entry.name, spec.seed) == each.place.key and spec.entry.is_imported
    )
    run, protocol = place.run(spec.run_id), protocol_id(study.protocol)
    if isinstance(each.found, ForeignCounts):
        return stage_counts(run, protocol, spec, each.found, each.origin)
    return stage_scores(run, protocol, spec, each.found, each.origin)


def _told(each: _Fitted) -> list[str]:
    """What was imported, and every note on it."""
    found, place = each.found, each.place
    if isinstance(found, ForeignCounts):
        size = f"{count(int(found.counts.sum()), 'sample')} of {len(found.classes)} classes"
    else:
        size = count(len(found.sample_ids), "sample")
    cells = count(len(found.conditions), "condition")
    head = f"imported {place.label} from {each.origin['file']}: {size}, {cells}"
    return [head, *(f"  {note}" for note in each.origin["notes"])]


def _entry_line(study: Study, name: str) -> str:
    """The entry as a line of a study file; its seeds where they are not those of the study."""
    seeds = next(entry for entry in study.entries if entry.name == name).options["seeds"]
    own = "" if set(seeds) <= set(study.seeds) else f", options: {{seeds: {seeds}}}"
    return f"- {{name: {name}, model: {IMPORTED}{own}}}"
