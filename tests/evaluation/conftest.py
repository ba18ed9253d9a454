"""Clips that the tests of judging share."""

from __future__ import annotations

import pytest

from regatta.data.manifest import Sample
from tests.evaluation.tiny_judging import make_sample


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("videos")
    return [make_sample(folder, number) for number in range(7)]
