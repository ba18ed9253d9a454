"""Files on which the decoder of child processes breaks; see `broken_decoder/sitecustomize.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SITE = Path(__file__).parent / "broken_decoder"


@contextmanager
def broken_decoder(log: Path, **names: str) -> Iterator[Path]:
    """Break decoding in processes started inside the block: `broken_decoder(log, **{"a.avi":
    "segv"})`. The log then has a line for each time that it happened."""
    site = os.pathsep.join(filter(None, [str(_SITE), os.environ.get("PYTHONPATH", "")]))
    changed = {
        "PYTHONPATH": site,
        "BROKEN_DECODER": ",".join(f"{name}={what}" for name, what in names.items()),
        "BROKEN_DECODER_LOG": str(log),
    }
    old = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield log
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def times_broken(log: Path, name: str) -> int:
    """How often the decoder broke on a file."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return sum(line.split()[0] == name for line in lines)
