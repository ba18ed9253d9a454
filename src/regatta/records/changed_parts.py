"""Predictions that are no longer what was judged. Light: a supervisor looks without pandas."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from regatta.core.errors import RecordError
from regatta.core.files import read_json


def withdraw_changed(folder: Path) -> list[Path]:
    """Parts that are gone or not what they were when judging ended: removed, and the mark that
    judging is complete with them, so that the next judging makes exactly these again.

    Only files that were written after the mark are read. What the disk itself has turned is found
    by whoever reads it, by its hash.

    Args:
        folder: `RunFolder.predictions(protocol_id)`, with all its parts of heads and sets.
    """
    found: list[Path] = []
    for marker in sorted(folder.rglob("complete.json")):
        changed = [
            path for path, digest in _parts_of(marker).items() if _is_changed(path, digest, marker)
        ]
        if changed:
            # The mark goes first: without it nobody takes the rest for whole.
            for stale in (folder / "complete.json", marker, *changed):
                stale.unlink(missing_ok=True)
            found += changed
    return found


def _parts_of(marker: Path) -> dict[Path, str]:
    """Path -> hash; nothing of a mark that cannot be read, which whoever reads it will name."""
    try:
        parts = read_json(marker)["parts"]
        return {marker.parent / Path(name).name: str(digest) for name, digest in parts.items()}
    except (RecordError, KeyError, TypeError, AttributeError):
        return {}


def _is_changed(path: Path, digest: str, marker: Path) -> bool:
    if not path.is_file():
        return True
    if path.stat().st_mtime_ns <= marker.stat().st_mtime_ns:
        return False
    return sha256(path.read_bytes()).hexdigest() != digest
