"""docs/reliability.md and the tests say the same: each fault has its tests, each test its row."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "reliability.md"
FAULTS = 30


@cache
def marked() -> dict[int, set[str]]:
    """Fault -> its tests as 'tests/x/test_y.py::test_z', from the marks in the source text."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        name, text = path.relative_to(TESTS.parent).as_posix(), path.read_text(encoding="utf-8")
        if "pytest.mark.fault(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                for number in filter(None, map(fault_of, node.decorator_list)):
                    found[number].add(f"{name}::{node.name}")
    return found


def fault_of(decorator: ast.expr) -> int | None:
    """N of `@pytest.mark.fault(N)`."""
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
        return ast.literal_eval(decorator.args[0])
    return None


def sections() -> dict[int, str]:
    """Fault -> the part of the page that names its tests."""
    parts = re.split(r"^### Fault (\d+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def rows() -> dict[int, list[str]]:
    """Fault -> the cells of its row in the matrix: fault, promise, what was seen."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| [")]
    found = {}
    for first, *others in cells:
        number = re.fullmatch(r"\[(\d+)\]\(#fault-\1\)", first)
        assert number, first
        found[int(number[1])] = others
    return found


def listed(section: str) -> set[str]:
    """Tests that a section names: `test_a`, `test_b` in [file](link)."""
    found: set[str] = set()
    for line in section.splitlines():
        link = re.search(r"\]\(\.\./(tests/[\w/]+\.py)\)", line)
        if link:
            found |= {f"{link[1]}::{name}" for name in re.findall(r"`(test_\w+)`", line)}
    return found


def test_every_fault_has_a_row_and_a_list_of_tests() -> None:
    assert list(rows()) == list(sections()) == list(range(1, FAULTS + 1))
    for number, cells in rows().items():
        assert len(cells) == 3, f"fault {number}: fault, promise, what was seen"
        assert all(cells), f"fault {number}"


@pytest.mark.parametrize("number", range(1, FAULTS + 1))
def test_a_fault_is_linked_to_exactly_the_tests_that_inject_it(number: int) -> None:
    assert marked()[number], f"no test injects fault {number}"
    assert listed(sections()[number]) == marked()[number]


def test_no_test_names_a_fault_that_is_not_in_the_matrix() -> None:
    assert set(marked()) == set(range(1, FAULTS + 1))
