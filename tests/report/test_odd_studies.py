"""Odd but legal data give a whole report: no NaN, no infinity, no traceback, in any file of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.compare import compare_study
from regatta.report.page import write_report
from tests.analysis.build import build_judged_study

NOT_A_NUMBER = re.compile(r"(?<![\w-])[-+−]?(nan|inf|infinity|none)(?![\w-])", re.IGNORECASE)
QUICK = {"replicates": 200}


def same_answers(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)


def constant(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.eye(scores.shape[2], dtype=np.float32)[1], scores.shape)


def always(place: int) -> Any:
    def alter(entry: str, seed: int, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = np.zeros_like(scores)
        target = (labels + place) % scores.shape[2]
        np.put_along_axis(found, np.broadcast_to(target[:, None], (*scores.shape[:2], 1)), 9, 2)
        return found

    return alter


ODD: dict[str, dict[str, Any]] = {
    "one entry": {"entries": 1},
    "one entry, one condition": {"entries": 1, "protocol": "plain"},
    "one class": {"classes": 1, "samples": 24},
    "one class, one condition": {"classes": 1, "samples": 24, "protocol": "plain"},
    "two classes": {"classes": 2},
    "a class without samples": {"classes": 5, "samples": 12},
    "one sample": {"samples": 1},
    "one group": {"samples": 20, "samples_per_group": 20},
    "two groups": {"samples": 8},
    "one seed of one entry missing": {"seeds": (0, 1), "unjudged": [("vivit", 1)]},
    "three seeds": {"seeds": (0, 1, 2)},
    "constant answers": {"alter": constant},
    "all right": {"alter": always(0)},
    "all wrong": {"alter": always(1)},
    "identical entries": {"alter": same_answers},
    "identical entries, one condition": {"alter": same_answers, "protocol": "plain"},
    "tukey": {"compare": {**QUICK, "correction": "tukey"}},
    "bh": {"compare": {**QUICK, "correction": "bh"}},
}


DRAWN = ("one entry, one condition", "one class", "one sample", "one group", "all right")
"""Of these the page is written too; drawing is what takes the time."""


@pytest.mark.parametrize("what", ODD)
def test_odd_data_give_a_whole_comparison_without_a_bad_number(tmp_path: Path, what: str) -> None:
    folder = build_judged_study(tmp_path, **{"samples": 48, "compare": QUICK, **ODD[what]})
    comparison = compare_study(folder)
    assert list(bad_numbers(comparison)) == []
    assert comparison["verdict"]["sentence"]
    assert bad_files(folder.path) == set()


@pytest.mark.parametrize("what", DRAWN)
def test_odd_data_give_a_whole_page_without_a_bad_number(tmp_path: Path, what: str) -> None:
    folder = build_judged_study(tmp_path, **{"samples": 48, "compare": QUICK, **ODD[what]})
    page = write_report(folder)
    assert page.stat().st_size > 20_000
    assert bad_files(folder.path) == set()


def bad_files(study: Path) -> set[str]:
    """File and word for every bad number that a reader of any file would meet."""
    return {
        f"{path.relative_to(study)}: {hit}" for path in text_files(study) for hit in bad_words(path)
    }


def bad_numbers(value: Any, place: str = "") -> Iterator[str]:
    """Where a number of the comparison is not finite."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from bad_numbers(inner, f"{place}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from bad_numbers(inner, f"{place}/{number}")
    elif isinstance(value, float) and not np.isfinite(value):
        yield place


def text_files(study: Path) -> Iterator[Path]:
    for part in ("results", "report"):
        yield from (
            p
            for p in sorted((study / part).rglob("*"))
            if p.suffix in {".csv", ".json", ".md", ".tex", ".txt", ".html"}
        )


def bad_words(path: Path) -> list[str]:
    """NaN and its kin as a reader would see them: pictures, styles and scripts do not count."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{path}: {word}"))
        return []
    if path.suffix == ".html":
        text = re.sub(r"<(style|script)\b.*?</\1>", " ", text, flags=re.DOTALL)
        text = re.sub(r"<[^>]*>", " ", text)
    return [hit[0] for hit in NOT_A_NUMBER.finditer(text) if hit[0].lower() != "none"]
