"""A study that nobody touched, to which interrupted ones are compared."""

from __future__ import annotations

from typing import Any

import pytest

from tests.soak.race import Race

SIZE: dict[str, Any] = {"entries": ("cnn1d",), "seeds": 1, "epochs": 6, "windows_per_class": 2}


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Race:
    race = Race(tmp_path_factory.mktemp("clean"), **SIZE)
    finished = race.call(env={"REGATTA_FIGURE_FORMATS": "svg"})
    assert finished.code == 0, finished.output
    return race
