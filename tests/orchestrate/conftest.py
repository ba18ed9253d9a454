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


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> None:
    """No process, shared memory, socket or temporary file of a test outlives it.

    A Ray cluster keeps workers and files of its own until it ends, after the last of its tests.
    """
    if not request.path.stem.startswith("test_ray"):
        request.getfixturevalue("no_leaks")


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        yield study
