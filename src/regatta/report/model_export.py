"""Trained models as folders to share: the hub's layout with a card, copied from the run folders.

Nothing is computed and no weights are opened: `model/` of a run already has the hub's layout.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regatta.config.expand import RunSpec, protocol_id
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, ForeignFolderError, RecordError
from regatta.core.files import (
    PARTIAL_SUFFIX,
    atomic_path,
    disk_error,
    ensure_writable,
    make_folders,
    read_json,
    sync_folder,
    write_json,
    write_text,
)
from regatta.core.locks import alone, own_folder, sweep_own_folders
from regatta.core.passed_on import hide_below
from regatta.core.registry import unknown_name
from regatta.records.predictions import file_hash
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import observed, read_status
from regatta.report.card import model_card
from regatta.report.card_facts import CardFacts, run_name
from regatta.report.words import source_kind

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
PREFIX = "fine_tuned"


@dataclass(frozen=True)
class ExportedModel:
    """One model that was exported."""

    entry: str
    seed: int
    run_id: str
    path: Path
    validation_accuracy: float | None
    """Best of its epochs, as a fraction."""
    choice: str
    """Why this seed."""
    note: str
    """What the card lacks, or "". """


@dataclass(frozen=True)
class _Chosen:
    spec: RunSpec
    run: RunFolder
    target: Path
    choice: str
    validation: Mapping[str, float | None]
    """By `card.run_name`."""


def export_models(
    folder: StudyFolder,
    to: Path,
    *,
    seed: int | None = None,
    all_seeds: bool = False,
    entries: Sequence[str] = (),
) -> list[ExportedModel]:
    """Write one folder per entry (and seed) under `to`; each appears whole or not at all.

    Args:
        seed: this seed of every entry; None = the one with the best validation score.
        all_seeds: every seed, with `-s<seed>` behind the name where there are several.
        entries: only these; empty = all.

    Raises:
        ConfigError: unknown entry or seed, or both ways of choosing a seed.
        RecordError: a run is not trained, or its model folder is damaged.
        ForeignFolderError: a target folder is there and is no earlier export of this entry.
        DiskError: `to` cannot be written.
    """
    study = folder.study()
    hide_below(folder.path.parent, study.data.root, to)
    if all_seeds and seed is not None:
        raise ConfigError("--seed and --all-seeds exclude each other", hint="give one of them")
    _check_names(study, entries, seed)
    names = entries or [entry.name for entry in study.trained_entries]
    chosen = [
        one
        for name in names
        for one in _choose(folder, study, name, to, seed=seed, every=all_seeds)
    ]
    # All refusals come before the first write: an export is not left half done for them.
    for one in chosen:
        _refuse_damaged(one.run, _model_files(study))
        _refuse_foreign(one, study)
    ensure_writable(to)
    return [_export(folder, study, one) for one in chosen]


def _check_names(study: Study, entries: Sequence[str], seed: int | None) -> None:
    known = [entry.name for entry in study.entries]
    for name in entries:
        if name not in known:
            raise unknown_name("entry", name, known, where=f"study {study.name}")
    trained = [entry.name for entry in study.trained_entries]
    if not trained or set(entries) - set(trained):
        raise ConfigError(
            "imported predictions have no model that could be exported",
            where=", ".join(name for name in entries or known if name not in trained),
            hint=f"name other entries: {', '.join(trained)}" if trained else None,
        )
    if seed is not None and seed not in study.seeds:
        raise ConfigError(
            f"this study has no seed {seed}",
            where=f"study {study.name}",
            hint=f"its seeds: {', '.join(map(str, study.seeds))}",
        )


def _choose(
    folder: StudyFolder, study: Study, entry: str, to: Path, *, seed: int | None, every: bool
) -> list[_Chosen]:
    """The runs of an entry that are exported, each with the reason for it."""
    runs = [(spec, run) for spec, run in folder.runs() if spec.entry.name == entry]
    for spec, run in runs:
        if seed in (None, spec.seed) and not run.is_trained():
            raise _not_trained(spec, run, study)
    results = {run_name(s): read_json(run.training_results) for s, run in runs if run.is_trained()}
    validation = {number: record.get("best_val_accuracy") for number, record in results.items()}
    name = f"{PREFIX}_{entry}_{study.data.source}"
    if every:
        suffix = [_suffix(spec) if len(runs) > 1 else "" for spec, _ in runs]
        reason = "all seeds were exported" if len(runs) > 1 else "the only seed"
        return [
            _Chosen(spec, run, to / f"{name}{end}", reason, validation)
            for (spec, run), end in zip(runs, suffix, strict=True)
        ]
    wanted = [run_name(s) for s, _ in runs if seed in (None, s.seed)]
    best = max(wanted, key=lambda number: _validation_rank(results[number]))
    reason = _reason(validation, best) if seed is None else "chosen by hand"
    spec, run = next(pair for pair in runs if run_name(pair[0]) == best)
    return [_Chosen(spec, run, to / name, reason, validation)]


def _suffix(spec: RunSpec) -> str:
    return f"-s{spec.seed}" if spec.fold is None else f"-s{spec.seed}-fold{spec.fold}"


def _validation_rank(record: Mapping[str, Any]) -> tuple[float, float]:
    """Higher accuracy first, then lower loss; of equal ones `max` keeps the first in the study."""
    accuracy, loss = record.get("best_val_accuracy"), record.get("best_val_loss")
    return (
        -1.0 if accuracy is None else accuracy,
        float("-inf") if loss is None else -loss,
    )


def _reason(validation: Mapping[str, float | None], best: str) -> str:
    if len(validation) == 1:
        return "the only seed"
    several = f"{len(validation)} {'seeds and folds' if 'fold' in best else 'seeds'}"
    if validation[best] is None:
        return f"the first of {several}, none of which was validated"
    if list(validation.values()).count(validation[best]) > 1:
        return f"of {several}, the lowest validation loss among the best accuracies"
    return f"the best of {several} on the validation split"


def _not_trained(spec: RunSpec, run: RunFolder, study: Study) -> RecordError:
    others = [entry.name for entry in study.entries if entry.name != spec.entry.name]
    aside = f", or name other entries: --entry {others[0]}" if others else ""
    return RecordError(
        f"{spec.label} is not trained: its state is {observed(read_status(run.status)).state}",
        where=run.path,
        hint=f"finish the study with: regatta run <study file>{aside}",
    )


def _model_files(study: Study) -> tuple[str, ...]:
    """What a trained model consists of; one over windows of signals prepares them itself."""
    is_signal = source_kind(study.data.source) == "signal"
    return (WEIGHTS, CONFIG) if is_signal else (WEIGHTS, CONFIG, PROCESSOR)


def _refuse_damaged(run: RunFolder, files: Sequence[str]) -> None:
    for name in files:
        if not (run.model / name).is_file():
            raise RecordError(
                f"the trained model has lost its {name}",
                where=run.model,
                hint=f"train it anew: regatta run <study file> --restart {run.run_id}",
            )


def _refuse_foreign(one: _Chosen, study: Study) -> None:
    """An earlier export of the same entry may be replaced; nothing else is ever touched."""
    target = one.target
    if not target.exists() and not target.is_symlink():
        return
    hint = "choose another place with --to, or move this folder away"
    found = _mark_of(target)
    if found is None:
        raise ForeignFolderError("this is no export of Regatta", where=target, hint=hint)
    ours = {"study": study.name, "entry": one.spec.entry.name}
    if any(found.get(key) != value for key, value in ours.items()):
        raise ForeignFolderError(
            f"this is an export of entry {found.get('entry')!r} of study {found.get('study')!r}",
            where=target,
            hint=hint,
        )


def _mark_of(target: Path) -> dict[str, Any] | None:
    if target.is_symlink() or not (target / CONFIG).is_file():
        return None
    try:
        mark = read_json(target / CONFIG)["regatta"]["extra"]["export"]
    except (RecordError, KeyError, TypeError):
        return None
    return mark if isinstance(mark, dict) else None


def _export(folder: StudyFolder, study: Study, one: _Chosen) -> ExportedModel:
    spec, run, target = one.spec, one.run, one.target
    config = _read_part(run, CONFIG)
    processor = _read_part(run, PROCESSOR) if PROCESSOR in _model_files(study) else {}
    comparison, reason = _comparison(folder, study, one)
    facts = CardFacts(
        folder_name=target.name,
        study=study,
        spec=spec,
        choice=one.choice,
        validation=one.validation,
        config=config,
        processor=processor,
        training=read_json(run.training_results),
        data=read_json(folder.data_json) if folder.data_json.is_file() else {},
        weights=read_json(run.weights) if run.weights.is_file() else {},
        comparison=comparison,
        no_results=reason,
    )
    try:
        make_folders(target.parent)
        _clear_leftovers(target)
        with own_folder(target.parent, f".{target.name}.", PARTIAL_SUFFIX) as partial:
            _write_files(partial, run, facts, study)
            _put_in_place(partial, target)
    except OSError as error:
        raise disk_error(error, target) from error
    return ExportedModel(
        spec.entry.name,
        spec.seed,
        spec.run_id,
        target,
        one.validation[run_name(spec)],
        one.choice,
        f"no results in the card: {reason}" if comparison is None else "",
    )


def _read_part(run: RunFolder, name: str) -> dict[str, Any]:
    content = read_json(run.model / name)
    if not isinstance(content, dict):
        raise RecordError("file must hold one JSON object", where=run.model / name)
    return content


def _comparison(
    folder: StudyFolder, study: Study, one: _Chosen
) -> tuple[dict[str, Any] | None, str]:
    """results/comparison.json when it speaks of exactly these weights; else None and the reason."""
    path = folder.results / "comparison.json"
    if not path.is_file():
        return None, "the study is not compared yet (regatta compare)"
    try:
        found = read_json(path)
        protocol = found["study"]["protocol_id"]
        entries = {entry["name"]: entry for entry in found["entries"]}
    except (RecordError, KeyError, TypeError):
        return None, "the comparison cannot be read (regatta compare writes it anew)"
    if protocol != protocol_id(study.protocol):
        return None, "the comparison is of another protocol (regatta compare writes it anew)"
    entry = entries.get(one.spec.entry.name, {"runs": []})
    if one.run.run_id not in entry["runs"]:
        return None, f"{one.spec.label} is not in the comparison (regatta run judges it)"
    judged = entry["weights"][entry["runs"].index(one.run.run_id)]
    if judged != file_hash(one.run.model / WEIGHTS):
        return None, "other weights of this run were judged (regatta run judges it again)"
    return found, ""


def _write_files(partial: Path, run: RunFolder, facts: CardFacts, study: Study) -> None:
    with atomic_path(partial / WEIGHTS) as temporary:
        shutil.copyfile(run.model / WEIGHTS, temporary)
    spec = facts.spec
    mark = {
        "study": study.name,
        "entry": spec.entry.name,
        "seed": spec.seed,
        "run_id": spec.run_id,
    }
    settings = facts.config.get("regatta", {})
    extra = {**settings.get("extra", {}), "export": mark}
    write_json(partial / CONFIG, {**facts.config, "regatta": {**settings, "extra": extra}})
    if facts.processor:
        write_json(partial / PROCESSOR, facts.processor)
    write_json(partial / "id2label.json", facts.config["id2label"])
    write_text(partial / "README.md", model_card(facts))


def _put_in_place(partial: Path, target: Path) -> None:
    """Two renames, because a folder with content cannot be replaced by one."""
    previous = _previous(target)
    with alone(target.parent, wait=lambda: None):
        if target.exists():
            os.replace(target, previous)
        try:
            os.replace(partial, target)
        except OSError:
            if previous.exists():
                os.replace(previous, target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(previous, ignore_errors=True)


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous{PARTIAL_SUFFIX}")


def _clear_leftovers(target: Path) -> None:
    """Remove what a killed export of the same folder left; bring back what it had put aside."""
    previous = _previous(target)
    # Alone: a live export may stand between its two renames.
    with alone(target.parent, wait=lambda: None):
        if previous.exists() and not target.exists():
            os.replace(previous, target)
        shutil.rmtree(previous, ignore_errors=True)
    sweep_own_folders(target.parent, f".{target.name}.", PARTIAL_SUFFIX)
