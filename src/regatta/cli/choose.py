"""From a command line to a study: one way for files, folders and flags.

The base is a study file, a study folder, or what the flags themselves describe. Flags go on top of
it, `--set` on top of them, and the whole is validated as one study. `--model` names the entries
that this launch works on; the study keeps the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regatta.cli.arguments import find_study, study_folders
from regatta.cli.flags import ALL_MODELS, Flags
from regatta.config.expand import RunSpec, entry_of, trained_runs
from regatta.config.load import (
    apply_override,
    entry_by_name,
    entry_names,
    read_study,
    set_key,
    study_from_mapping,
    with_overrides,
)
from regatta.config.schema import MANY_PROCESSES, Study
from regatta.core.errors import ConfigError
from regatta.core.registry import MODELS, unknown_name
from regatta.records.run_folder import StudyFolder


@dataclass(frozen=True)
class Chosen:
    """A study as the command line means it. `entries` are those that this launch works on."""

    study: Study
    runs_root: Path
    entries: tuple[str, ...]

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.runs_root / self.study.name)

    @property
    def specs(self) -> list[RunSpec]:
        """The runs that this launch works on."""
        return [spec for spec in trained_runs(self.study) if spec.entry.name in self.entries]

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the runs that this launch leaves alone."""
        mine = {spec.run_id for spec in self.specs}
        return frozenset(s.run_id for s in trained_runs(self.study) if s.run_id not in mine)


def choose_study(target: Path | None, flags: Flags, runs: Path, *, may_build: bool) -> Chosen:
    """The study of a target with the flags on top, or the one that the flags describe.

    Args:
        target: a study file, a study folder, or the name of a folder under `runs`.
        may_build: whether flags may describe a new study, and add entries to one made by flags.
    Raises:
        ConfigError, UnknownNameError: before anything is written.
    """
    if target is not None:
        path, runs_root = _file_of(target, runs)
        content, builds = read_study(path), False
    elif may_build:
        path, runs_root, builds = _described_file(flags, runs), runs, True
        # The same words again must find the same runs, so what the folder says stays.
        content = read_study(path) if path.is_file() else _new_study(flags)
    else:
        path = _judged_folder(flags, runs).study_yaml
        runs_root, content, builds = runs, read_study(path), False
    _check_source(content, flags, where=path)
    models = _name_entries(content, flags, where=path, builds=builds)
    _set_keys(content, flags, models)
    content = with_overrides(content, flags.overrides, where=path, apply=_apply)
    study = study_from_mapping(content, where=path if path.is_file() else "the command line")
    entries = _chosen_entries(study, models)
    check_trained_here(study, entries)
    return Chosen(study, runs_root, entries)


def _apply(content: dict[str, Any], override: str) -> None:
    before = _protocol(content)
    apply_override(content, override)
    if _protocol(content) != before:
        _forget_protocol(content)


def _file_of(target: Path, runs: Path) -> tuple[Path, Path]:
    """The study file of a target and the runs folder that it belongs to."""
    named = runs / target / "study.yaml"
    if not target.exists() and not target.suffix and named.is_file():
        return named, runs
    if not target.is_dir():
        return target, runs
    if not (target / "study.yaml").is_file():
        # Reading names what is missing, and how to get one.
        StudyFolder(target).study()
    return target / "study.yaml", target.parent


def _described_file(flags: Flags, runs: Path) -> Path:
    """Where the study that the flags describe stands or will stand."""
    name = flags.name or flags.data
    if name is None:
        raise ConfigError(
            "there is neither a study file nor --data",
            hint="name a study file, or say what to race: --model all --data ucf101 --root FOLDER",
        )
    return runs / name / "study.yaml"


def _new_study(flags: Flags) -> dict[str, Any]:
    if flags.data is None:
        raise ConfigError(
            f"there is no study '{flags.name}' yet, and no --data to make it from",
            hint="add --data and --model, or name a study file",
        )
    if not flags.models:
        raise ConfigError(
            "which models? None is named",
            where="--model",
            hint="--model all, or --model videomae,vivit; regatta ls models shows them all",
        )
    return {"name": flags.name or flags.data, "data": {"source": flags.data}, "entries": []}


def _judged_folder(flags: Flags, runs: Path) -> StudyFolder:
    """The study under `runs` that `--name` or `--data` means, or the only one."""
    if flags.name is not None:
        named = StudyFolder(runs / flags.name)
        named.study()
        return named
    if flags.data is None:
        return find_study(None, runs)
    folders = [f for f in study_folders(runs) if f.study().data.source == flags.data]
    if len(folders) != 1:
        names = ", ".join(folder.path.name for folder in folders)
        raise ConfigError(
            f"several studies are on {flags.data}: {names}"
            if folders
            else f"no study on {flags.data} is here",
            where=runs,
            hint="choose one with --name" if folders else f"regatta train --data {flags.data} ...",
        )
    return folders[0]


def _check_source(content: dict[str, Any], flags: Flags, *, where: Path) -> None:
    """ConfigError when the study that was found reads other data than `--data` says."""
    data = content.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if flags.data is not None and source != flags.data:
        raise ConfigError(
            f"this study is on '{source}', not on '{flags.data}'",
            where=where,
            hint="leave --data out, or start another study with another --name",
        )


def _name_entries(
    content: dict[str, Any], flags: Flags, *, where: Path, builds: bool
) -> tuple[str, ...]:
    """The entries that the flags name; those that a described study lacks are added to it."""
    known = entry_names(content)
    if "all" in flags.models and not (builds and flags.data):
        return tuple(known)
    models = [m for name in flags.models for m in (ALL_MODELS if name == "all" else (name,))]
    for model in dict.fromkeys(models):
        if model in known:
            continue
        if builds:
            MODELS.check(model, where="--model")
            content.setdefault("entries", []).append({"name": model, "model": model})
        elif not _entries_of(content, model):
            raise unknown_name("entry", model, known, f"--model, in {where}")
    return tuple(dict.fromkeys(models))


def _entries_of(content: dict[str, Any], model: str) -> list[str]:
    """Names of the entries with this name, or else all that are of this model."""
    names, entries = entry_names(content), content.get("entries") or []
    if model in names:
        return [model]
    pairs = zip(names, entries, strict=True)
    return [name for name, e in pairs if isinstance(e, dict) and e.get("model") == model]


def _set_keys(content: dict[str, Any], flags: Flags, models: Sequence[str]) -> None:
    names = [n for m in models for n in _entries_of(content, m)] or entry_names(content)
    for name in names if flags.entry_keys else ():
        entry_by_name(content, name, where="--model").update(flags.entry_keys)
    for key, value in flags.keys.items():
        if key == "protocol.name" and value != _protocol(content):
            _forget_protocol(content)
        set_key(content, key.split("."), value, where=key)


def _forget_protocol(content: dict[str, Any]) -> None:
    """Drop options and headline condition: those of one protocol mean nothing to another."""
    set_key(content, ["protocol", "options"], {}, where="--protocol")
    set_key(content, ["compare", "condition"], "reference", where="--protocol")


def _protocol(content: dict[str, Any]) -> str | None:
    section = content.get("protocol")
    return section.get("name") if isinstance(section, dict) else None


def _chosen_entries(study: Study, models: Sequence[str]) -> tuple[str, ...]:
    """Names of the named entries and of those that they need; all without a name.

    `--set entries=` may have dropped some.
    """
    if not models:
        return tuple(entry.name for entry in study.trained_entries)
    content = study.model_dump(mode="json")
    waiting, chosen = [n for model in models for n in _entries_of(content, model)], {}
    while waiting:
        name = waiting.pop(0)
        if name not in chosen:
            chosen[name] = True
            waiting += entry_of(study, name).needs
    return tuple(chosen)


def check_trained_here(study: Study, entries: Sequence[str] = ()) -> None:
    """ConfigError when there is nothing to train or judge, or what was imported is to be."""
    trained = [entry.name for entry in study.trained_entries]
    if not trained:
        raise ConfigError(
            f"the study '{study.name}' holds imported predictions only: there is nothing to train "
            "and nothing to judge",
            where=", ".join(entry.name for entry in study.entries),
            hint=f"compare what it holds with: regatta compare {study.name}",
        )
    imported = [name for name in entries if name not in trained]
    if imported:
        raise ConfigError(
            f"{', '.join(imported)} was imported: it is never trained and never judged here",
            where="--model",
            hint=f"name other entries: {', '.join(trained)}",
        )


def check_trained(chosen: Chosen, *, named: bool) -> None:
    """ConfigError when a named model is not trained, or none at all: there is nothing to judge."""
    folder = chosen.folder
    missing = [s for s in chosen.specs if not folder.run(s.run_id).is_trained()]
    if not missing or (not named and len(missing) < len(chosen.specs)):
        return
    labels = ", ".join(_why_untrained(folder, spec) for spec in missing)
    trained = sorted({s.entry.name for s in chosen.specs} - {s.entry.name for s in missing})
    names = ",".join(dict.fromkeys(spec.entry.name for spec in missing))
    others = f"; or judge only --model {','.join(trained)}" if trained else ""
    raise ConfigError(
        f"not trained: {labels}",
        where=folder.path,
        hint=f"regatta train {folder.path} --model {names}{others}",
    )


def _why_untrained(folder: StudyFolder, spec: RunSpec) -> str:
    from regatta.orchestrate.snapshot import status_of

    status = status_of(folder.run(spec.run_id))
    reason = f" ({status.state}: {status.message})" if status.message else ""
    return f"{spec.label}{reason}"


def runs_that_leave(chosen: Chosen) -> dict[str, list[str]]:
    """Runs that have begun and now stand in the study with other settings: id -> what differs."""
    from regatta.orchestrate.snapshot import has_begun

    folder = chosen.folder
    if not folder.study_yaml.is_file():
        return {}
    before = folder.study()
    now = {(spec.entry.name, spec.seed): spec for spec in trained_runs(chosen.study)}
    return {
        spec.run_id: _differences(_settings(before, spec), _settings(chosen.study, new))
        for spec, run in folder.runs()
        if (new := now.get((spec.entry.name, spec.seed)))
        and new.run_id != spec.run_id
        and has_begun(run)
    }


def _settings(study: Study, spec: RunSpec) -> dict[str, Any]:
    """What decides on the weights of a run, by dotted key."""
    sections = {"data": study.data, "train": spec.train, f"entries.{spec.entry.name}": spec.entry}
    return {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.model_dump(mode="json").items()
    }


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new.get(key)]


def notes_on(chosen: Chosen, *, trains: bool, ranks: int) -> list[str]:
    """What a person should know before this launch: nothing wrong, but easily overlooked."""
    notes = []
    leaving = runs_that_leave(chosen)
    if leaving:
        told = ", ".join(dict.fromkeys(text for texts in leaving.values() for text in texts))
        notes.append(
            f"{chosen.study.name}: other settings than before ({told}), so {len(leaving)} runs "
            f"that have begun are no part of it now: {', '.join(leaving)}; their folders stay"
        )
    notes += _imports_that_leave(chosen)
    untrained = [s for s in chosen.specs if not chosen.folder.run(s.run_id).is_trained()]
    alone = [s for s in untrained if s.train.parallel in MANY_PROCESSES]
    if trains and alone and not ranks and chosen.study.launch.devices <= 1:
        notes.append(
            f"{chosen.study.name}: train.parallel is {alone[0].train.parallel}, but each run has "
            "one process; for more: --devices N, or start it with torchrun"
        )
    if trains and any(s.train.parallel == "dp" for s in untrained):
        notes.append(
            f"{chosen.study.name}: train.parallel is dp, one process for all GPUs: slower, and the "
            "first GPU fills up more; --parallel ddp trains the same faster"
        )
    return notes


def _imports_that_leave(chosen: Chosen) -> list[str]:
    """Imported entries that the study of this launch does not name any more."""
    if not chosen.folder.study_yaml.is_file():
        return []
    kept = {entry.name for entry in chosen.study.entries}
    before = [e.name for e in chosen.folder.study().entries if e.is_imported]
    return [
        f"{chosen.study.name}: {name}, which was imported, is no part of it now; to keep it, add "
        f"to entries: - {{name: {name}, model: imported}}"
        for name in before
        if name not in kept
    ]


def check_ranks(chosen: Chosen, world: int, *, trains_only: bool) -> None:
    """ConfigError when this launch cannot be done by `world` processes of torchrun."""
    if not trains_only:
        raise ConfigError(
            "torchrun is for training; judging finds its devices itself",
            hint="regatta train under torchrun, then regatta evaluate or regatta run without it",
        )
    single = [s.entry.name for s in chosen.specs if s.train.parallel not in MANY_PROCESSES]
    if world > 1 and single:
        raise ConfigError(
            f"torchrun started {world} processes, but {single[0]} trains in one",
            where="train.parallel",
            hint="add --parallel ddp, or start without torchrun",
        )
