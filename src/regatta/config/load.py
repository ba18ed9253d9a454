"""Read a study file: safe YAML, `--set` overrides, and errors that name the key and its nearest
spelling."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from regatta.config.fusion import expand_fusion, with_needed
from regatta.config.picture_recipe import check_picture_recipe
from regatta.config.schema import IMPORTED, DataSection, EntrySection, Study, TrainSection
from regatta.config.strict_yaml import read_yaml
from regatta.core.errors import ConfigError
from regatta.core.registry import MODELS, PROTOCOLS, SOURCES, Registry, nearest, unknown_name

MAX_STUDY_BYTES = 1 << 20


def load_study(path: str | Path, overrides: list[str] | None = None) -> Study:
    """Read, override and validate a study file.

    Args:
        path: the YAML file.
        overrides: `a.b=value` texts from `--set`, applied in order; values are YAML.
    Raises:
        ConfigError, UnknownNameError.
    """
    path = Path(path)
    content = read_study(path)
    content = with_overrides(content, overrides or [], where=path)
    return study_from_mapping(content, where=path)


def with_overrides(
    content: dict[str, Any],
    overrides: Sequence[str],
    *,
    where: object = None,
    apply: Callable[[dict[str, Any], str], None] | None = None,
) -> dict[str, Any]:
    """The mapping with `--set` texts applied; those that speak of entries come last, once a
    `fusion:` section has written them.

    Args:
        apply: how one is applied; `apply_override` where nothing is said.
    """
    apply = apply or apply_override
    of_entries = [text for text in overrides if _names_entries(text)]
    for override in overrides:
        if override not in of_entries:
            apply(content, override)
    content = expand_fusion(content, where=where)
    for override in of_entries:
        apply(content, override)
    return content


def _names_entries(override: str) -> bool:
    return override.partition("=")[0].strip().partition(".")[0] == "entries"


def read_study(path: Path) -> dict[str, Any]:
    """The mapping that a study file holds, not validated but with a name; ConfigError.

    A file that begins with `extends: other.yaml` is what that file says with its own keys on top.
    """
    content = _read_extended(path, ())
    content.setdefault("name", path.stem.lower())
    return content


def _read_extended(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    content = _read_mapping(path)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str) or "\0" in base:
        raise ConfigError("extends names one other study file", where=path)
    chain = (*below, path.resolve())
    base_path = (path.parent / base).resolve()
    if base_path in chain:
        names = " -> ".join(file.name for file in (*chain, base_path))
        raise ConfigError(f"study files extend each other in a circle: {names}", where=path)
    found = _read_extended(base_path, chain)
    # A name is the folder of the runs: two studies must not share one by not saying.
    found.pop("name", None)
    return _on_top(found, content, where=path)


def _on_top(base: dict[str, Any], own: dict[str, Any], *, where: Path) -> dict[str, Any]:
    """`base` with the keys of `own`: sections are joined, everything else is replaced; a mapping of
    entries changes those of the base by name."""
    merged = dict(base)
    for key, value in own.items():
        if key == "entries" and isinstance(value, dict):
            for name, changes in value.items():
                entry = entry_by_name(merged, str(name), where=where)
                entry.update(_on_top(entry, changes or {}, where=where))
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _on_top(merged[key], value, where=where)
        else:
            merged[key] = value
    return merged


def _read_mapping(path: Path) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise ConfigError(
            "there is no such study file",
            where=path,
            hint="write one with: regatta init study.yaml",
        )
    if path.stat().st_size > MAX_STUDY_BYTES:
        raise ConfigError(f"the study file is over {MAX_STUDY_BYTES} bytes", where=path)
    content = read_yaml(_read_text(path), where=path)
    if not isinstance(content, dict):
        raise ConfigError(
            "a study file is a mapping with the keys name, data, entries ...", where=path
        )
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the study file is not text in UTF-8", where=path, hint="save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the study file cannot be read: {error.strerror or error}", where=path
        ) from error


def apply_override(content: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value` in place.

    `entries=[name, ...]` picks from the study's own entries; `entries.<name>.key=value` changes one
    of them.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"--set wants key=value, got '{override}'",
            where="--set",
            hint="for example --set train.epochs=1",
        )
    value = read_yaml(text, where=f"--set {key}")
    target = content
    if parts[0] == "entries" and len(parts) > 2:
        target = entry_by_name(content, parts[1], where="--set")
        parts = parts[2:]
    elif parts == ["entries"] and isinstance(value, list):
        entries = content.get("entries") or []
        known = {
            entry["name"]: entry for entry in entries if isinstance(entry, dict) and "name" in entry
        }
        value = with_needed([_existing_entry(entries, item) for item in value], known)
    set_key(target, parts, value, where=f"--set {override}")


def set_key(content: dict[str, Any], parts: list[str], value: Any, *, where: object) -> None:
    """Set `content[a][b] = value` for parts [a, b]; sections that are missing are made."""
    target = content
    for part in parts[:-1]:
        if target.get(part) is None:
            target[part] = {}
        target = target[part]
        if not isinstance(target, dict):
            raise ConfigError(f"'{part}' is a value, not a section", where=where)
    target[parts[-1]] = value


def study_from_mapping(content: dict[str, Any], *, where: object = None) -> Study:
    """Validate a mapping as a study; names of sources, models and protocols are checked too."""
    content = expand_fusion(content, where=where)
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise config_error(error, Study, where=where) from error
    data, protocol = study.data, study.protocol
    _check_imported(study, where)
    if data.source != IMPORTED:
        _check_name(SOURCES, data.source, data.options, f"{where}: data", {"root", "split", "seed"})
        _check_name(PROTOCOLS, protocol.name, protocol.options, f"{where}: protocol", set())
    for entry in study.trained_entries:
        _check_name(MODELS, entry.model, entry.options, f"{where}: entries.{entry.name}", _FILLED)
        check_picture_recipe(entry, entry_train(study, entry, where=where), where=where)
    _check_kinds(study, where)
    return study


def _check_imported(study: Study, where: object) -> None:
    """ConfigError when what was imported is asked to be trained, judged or set."""
    named = {"data.source": study.data.source, "protocol.name": study.protocol.name}
    imported = [key for key, name in named.items() if name == IMPORTED]
    if imported and (len(imported) == 1 or study.trained_entries):
        raise ConfigError(
            f"'{IMPORTED}' stands for predictions that were made elsewhere: there are no samples "
            "to train on and nothing to judge",
            where=f"{where}: {imported[0]}",
            hint="name a source and a protocol of regatta ls; predictions are added with: "
            "regatta compare --import FILE",
        )
    for entry in study.entries:
        if entry.is_imported and (set(entry.options) - {"seeds"} or entry.train):
            raise ConfigError(
                "an imported entry is not trained here: it takes no settings but options.seeds",
                where=f"{where}: entries.{entry.name}",
                hint=f"- {{name: {entry.name}, model: {IMPORTED}}}",
            )
        imported_seeds(study, entry, where=where)


def imported_seeds(study: Study, entry: EntrySection, *, where: object = None) -> list[int]:
    """Seeds that an entry may have: those of the study, or the imported entry's own."""
    if not entry.is_imported or "seeds" not in entry.options:
        return study.seeds
    seeds = entry.options["seeds"]
    known = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not known or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"seeds are a list of distinct whole numbers, not {seeds!r:.60}",
            where=f"{where}: entries.{entry.name}.options.seeds",
        )
    return seeds


def _check_kinds(study: Study, where: object) -> None:
    """ConfigError when a model or the protocol cannot take what the source gives."""
    source = SOURCES.listed.get(study.data.source)
    if source is None:
        return
    if source.kind != "signal" and not _is_single_split(study.data):
        raise ConfigError(
            f"design and validation_groups are for sources of signals, not for '{source.name}'",
            where=f"{where}: data",
            hint="use data.split_seed and data.validation_fraction",
        )
    if source.kind != "signal" and study.data.unknown_classes:
        raise ConfigError(
            f"unknown_classes is for sources of signals, not for '{source.name}'",
            where=f"{where}: data.unknown_classes",
            hint="leave it out",
        )
    for entry in study.trained_entries:
        model = MODELS.listed.get(entry.model)
        if model is not None and model.kind != source.kind:
            fitting = [name for name, item in MODELS.listed.items() if item.kind == source.kind]
            raise ConfigError(
                f"the model '{entry.model}' takes {_KIND_WORDS[model.kind]}, but the source "
                f"'{source.name}' gives {_KIND_WORDS[source.kind]}",
                where=f"{where}: entries.{entry.name}",
                hint=f"models that fit: {', '.join(sorted(fitting)) or 'none'}",
            )
    protocol = PROTOCOLS.listed.get(study.protocol.name)
    if protocol is not None and protocol.kind not in ("any", source.kind):
        fits = [n for n, item in PROTOCOLS.listed.items() if item.kind in ("any", source.kind)]
        raise ConfigError(
            f"the protocol '{study.protocol.name}' judges {_KIND_WORDS[protocol.kind]}, but the "
            f"source '{source.name}' gives {_KIND_WORDS[source.kind]}",
            where=f"{where}: protocol.name",
            hint=f"protocols that fit: {', '.join(sorted(fits))}",
        )


_KIND_WORDS = {
    "video": "videos",
    "signal": "windows of signals",
    "image": "images",
    "scene": "scenes of several cameras",
}


_FILLED = {"size", "channels", "length"}
"""Arguments of models that `size:` and the data set fill."""


def _is_single_split(data: DataSection) -> bool:
    return data.design == "official" and data.validation_groups is None


def _check_name(
    registry: Registry[Any], name: str, options: dict[str, Any], where: str, reserved: set[str]
) -> None:
    registry.check(name, where=where)
    registry.check_options(name, options, reserved=frozenset(reserved), where=f"{where}.options")


def entry_train(study: Study, entry: EntrySection, *, where: object = None) -> TrainSection:
    """The recipe of one entry: `train:` with the entry's own keys over it."""
    try:
        return TrainSection.model_validate({**study.train.model_dump(), **entry.train})
    except ValidationError as error:
        prefix = f"entries.{entry.name}.train"
        raise config_error(error, TrainSection, where=where, prefix=prefix) from error


def dump_study(study: Study) -> str:
    """The resolved study as YAML, with every default written out."""
    content = study.model_dump(mode="json")
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if any(mark in text for mark in "\x85\u2028\u2029"):
        # Line ends of Unicode, which the writer leaves bare and the reader takes for spaces.
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
    return text


def config_error(
    error: ValidationError, model: type[BaseModel], *, where: object = None, prefix: str = ""
) -> ConfigError:
    """One readable error from pydantic's: each problem with its dotted key and, for unknown keys,
    the nearest."""
    lines = []
    for problem in error.errors():
        place = ".".join([*([prefix] if prefix else []), *(str(part) for part in problem["loc"])])
        if problem["type"] == "extra_forbidden":
            known = _keys_at(model, problem["loc"][:-1])
            close = nearest(str(problem["loc"][-1]), known)
            guess = (
                f"; did you mean '{close}'?" if close else f"; known: {', '.join(sorted(known))}"
            )
            lines.append(f"unknown key '{place}'{guess}")
        else:
            given = "" if problem["type"] == "missing" else f" (got {problem['input']!r:.60})"
            lines.append(f"{place}: {_problem(problem)}{given}")
    return ConfigError(
        "; ".join(lines), where=where, hint="see docs/quickstart.md or: regatta init study.yaml"
    )


def _problem(problem: Any) -> str:
    """What is wrong with a value; a name is told by what it may hold, not by a pattern."""
    if problem["type"] == "string_pattern_mismatch":
        return "1 to 64 of a-z, 0-9, '.', '_' and '-', with a letter or digit first"
    return problem["msg"].removeprefix("Value error, ")


def _keys_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def entry_by_name(content: dict[str, Any], wanted: str, *, where: object) -> dict[str, Any]:
    """The study's entry of this name, else the first of this model; a bare one is written out.

    Raises:
        UnknownNameError: no entry is called so.
    """
    entries, names = _entries(content), entry_names(content)
    fits = [i for i, name in enumerate(names) if name == wanted] or [
        i
        for i, entry in enumerate(entries)
        if isinstance(entry, dict) and entry.get("model") == wanted
    ]
    if not fits:
        raise unknown_name("entry", wanted, names, where)
    if not isinstance(entries[fits[0]], dict):
        entries[fits[0]] = {"name": wanted, "model": wanted}
    return entries[fits[0]]


def entry_names(content: dict[str, Any]) -> list[str]:
    """Names of the entries of a study that is not validated yet."""
    return [
        str(entry.get("name") or entry.get("model")) if isinstance(entry, dict) else str(entry)
        for entry in _entries(content)
    ]


def _entries(content: dict[str, Any]) -> list[Any]:
    entries = content.get("entries")
    return entries if isinstance(entries, list) else []


def _existing_entry(entries: list[Any], item: Any) -> Any:
    if not isinstance(item, str):
        return item
    for entry in entries:
        if isinstance(entry, dict) and item in (entry.get("name"), entry.get("model")):
            return entry
    return item
