"""Fixtures of the orchestration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrate.toy import Toy, end_started, toy_names, toy_study


@pytest.fixture(autouse=True)
def known_names() -> Iterator[None]:
    with toy_names():
        yield
        end_started()


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        yield study
