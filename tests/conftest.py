"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.leaks import nothing_left_behind

# A busy machine pauses any example for longer than hypothesis allows by default.
settings.register_profile("regatta", deadline=None)
settings.load_profile("regatta")

# One thread per process: tests compare bits, and several of them start processes on a small
# machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Drawing is most of a report. Tests that look at PDF or PNG files ask for all three formats.
os.environ.setdefault("REGATTA_FIGURE_FORMATS", "svg")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips, lists and tables beside the checkout; tests that need them are skipped
    without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not beside this checkout ({folder})")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run whole studies come first: run last, one of them would keep a process busy
    while the other has nothing left to do."""
    root = Path(__file__).resolve().parent
    items.sort(key=lambda item: item.path.parent != root)


@pytest.fixture
def no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the test when a process, shared memory, socket or temporary file of it is left."""
    with nothing_left_behind(tmp_path_factory.mktemp("tmp")):
        yield
