"""One study, one version of published weights: what `org/name` means may change on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from regatta.config.schema import EntrySection
from regatta.core.files import read_json
from regatta.models.hub import HUB_ID
from regatta.models.spec import make_spec
from regatta.records.run_folder import StudyFolder

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(folder: StudyFolder, entry: EntrySection) -> EntrySection:
    """The entry, its hub checkpoint at the commit that runs of this study began with.

    Each run notes in weights.json what it really read. Another seed, or the same run after a stop,
    takes that commit, also when the branch or tag has moved on since.
    """
    asked = _asked(entry)
    if asked is None:
        return entry
    name = asked.partition("@")[0]
    for spec, run in folder.runs():
        if _asked(spec.entry) != asked or not run.weights.is_file():
            continue
        source = str(read_json(run.weights).get("source"))
        if source.startswith(f"{name}@") and _COMMIT.fullmatch(source.rpartition("@")[2]):
            return entry.model_copy(update={"checkpoint": source})
    return entry


def _asked(entry: EntrySection) -> str | None:
    """The entry's hub id where it may come to mean something else; None for all other weights."""
    asked = entry.checkpoint
    if entry.is_imported or asked == "none":
        return None
    if asked == "default":
        asked = make_spec(entry.model, entry.size, entry.options).default_checkpoint or ""
    is_fixed = _COMMIT.fullmatch(asked.rpartition("@")[2]) is not None
    if is_fixed or not HUB_ID.fullmatch(asked) or Path(asked).expanduser().is_dir():
        return None
    return asked
