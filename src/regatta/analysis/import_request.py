"""What `--import` says: which file becomes which seed of which entry."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from regatta.config.schema import IMPORTED
from regatta.core.errors import ConfigError
from regatta.core.files import read_json_object

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
NAME_RULE = "1 to 64 of a-z, 0-9, '.', '_' and '-', with a letter or digit first"


@dataclass(frozen=True)
class Request:
    """One `--import`: which file becomes which seed of which entry; seed None = the only one."""

    name: str
    seed: int | None
    path: Path


def parse_request(text: str) -> Request:
    """`[NAME[@SEED]=]FILE`.

    Raises:
        ConfigError: the name is none, or the seed no number.
    """
    if "\0" in text:
        raise ConfigError("no name of a file holds a zero byte", where=f"--import {text}")
    head, equals, tail = text.partition("=")
    if not equals or os.path.exists(text):
        return _unnamed(Path(os.path.expanduser(text)))
    name, at, seed = head.partition("@")
    where = f"--import {text}"
    if not tail:
        raise ConfigError("no file is named", where=where, hint="NAME=FILE")
    if not NAME.fullmatch(name):
        hint = f"{NAME_RULE}: --import {clean_name(name)}={tail}"
        raise ConfigError(f"'{name}' is no name of an entry", where=where, hint=hint)
    if at and not (seed.isdecimal() and seed.isascii() and len(seed) < 19):
        raise ConfigError(f"a seed is a whole number, not '{seed}'", where=where)
    return Request(name, int(seed) if at else None, Path(os.path.expanduser(tail)))


def _unnamed(path: Path) -> Request:
    """A file under its cleaned name; the predictions folder of a run under the run's own."""
    run_json = path.absolute().parent.parent / "run.json"
    if os.path.isdir(path) and run_json.is_file():
        return Request(clean_name(str(read_json_object(run_json).get("entry", ""))), None, path)
    return Request(clean_name(path.stem), None, path)


def clean_name(stem: str) -> str:
    """The nearest name that an entry may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or IMPORTED
