"""Promise of confined processes: what waits for ever is ended too, though it uses no time of a
processor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from regatta.core.confined import run_confined
from regatta.core.errors import DataError


def test_a_confined_process_that_only_waits_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waits.py").write_text("import time\ntime.sleep(120)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(DataError, match="stopped after 1 s: it waits for something"):
        run_confined("waits", [], where="x.pth", wall_seconds=1)
    assert time.monotonic() - begun < 60
