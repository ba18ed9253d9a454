"""Fixtures of the orchestration tests: a toy study, and a check that nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrate.toy import Toy, processes_of, register_toys, wait_until
from regatta.core.registry import MODELS, PROTOCOLS, SOURCES


@pytest.fixture(autouse=True)
def toy_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's names are known for one test only."""
    for registry in (MODELS, SOURCES, PROTOCOLS):
        monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    register_toys()


@pytest.fixture
def toy(tmp_path: Path):
    """A study of two runs; at the end no process of it may be left."""
    yield Toy(tmp_path)
    wait_until(lambda: not processes_of(tmp_path), "every process of the study is gone")
