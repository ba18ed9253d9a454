"""What a reader of predictions must know of how they came about: conditions that this data did not
allow, images from elsewhere that could not be read. Written before the predictions count as
whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regatta.core.errors import RecordError
from regatta.core.files import read_json_object, write_json

NOTES = "notes.json"


def write_judging_notes(folder: Path, notes: Sequence[str]) -> None:
    """Keep sentences beside the predictions in `folder`."""
    if notes or (folder / NOTES).exists():
        write_json(folder / NOTES, {"notes": list(notes)})


def read_judging_notes(folder: Path) -> list[str]:
    """The sentences; none where none were written. RecordError for a damaged file."""
    if not (folder / NOTES).exists():
        return []
    notes = read_json_object(folder / NOTES).get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise RecordError("these are no notes of a judging", where=folder / NOTES)
    return notes
