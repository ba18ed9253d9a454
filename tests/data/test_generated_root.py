"""Promises of folders that a source fills itself: one study's settings claim a folder, whoever
comes at the same moment."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from regatta.core.errors import DataError
from regatta.core.files import read_json
from regatta.data.sources._generated import claim_root

ROUNDS = 15


def claim(root: Path, seed: int, together: Any, won: Any) -> None:
    together.wait(60)
    try:
        claim_root(root, "rotors", {"seed": seed})
        won.put(seed)
    except DataError as error:
        won.put(str(error))


@pytest.mark.fault(22)
def test_of_two_settings_that_claim_a_folder_at_once_one_wins(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    together, won = forked.Barrier(2), forked.Queue()
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        pair = [forked.Process(target=claim, args=(root, seed, together, won)) for seed in (1, 2)]
        for process in pair:
            process.start()
        told = [won.get(timeout=60), won.get(timeout=60)]
        for process in pair:
            process.join()
        (seed,) = [word for word in told if isinstance(word, int)]
        (refusal,) = [word for word in told if isinstance(word, str)]
        assert f"seed is {seed}, not {3 - seed}" in refusal
        assert read_json(root / "generated.json")["seed"] == seed
        assert os.listdir(root) == ["generated.json"]


def test_of_the_same_settings_both_may_claim_it(tmp_path: Path) -> None:
    for _ in range(2):
        claim_root(tmp_path / "data", "rotors", {"seed": 1})
    assert read_json(tmp_path / "data" / "generated.json") == {"source": "rotors", "seed": 1}
