"""Promise: every stop has a named cause in `status.json`, an exit code and a next step."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import regatta
from regatta.core.errors import RegattaError
from regatta.orchestrate.causes import diagnose, failure_of, lacking_runs
from regatta.orchestrate.local import Ended
from regatta.records.status import Status, write_status
from regatta.worker.status_writer import StatusWriter

EXIT_CODES = {1, 2, 3, 130, 143}
SOURCE = Path(regatta.__file__).parent


def words_for_a_cause() -> set[str]:
    """Every literal in the source that becomes the cause of a status."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= set(_causes_of(node))
    return found


def _causes_of(node: ast.AST) -> Iterator[str]:
    values: list[ast.expr | None] = []
    if isinstance(node, ast.Dict):
        values = [
            value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and key.value == "cause"
        ]
    elif isinstance(node, ast.Call):
        values = [word.value for word in node.keywords if word.arg == "cause"]
        if isinstance(node.func, ast.Name) and node.func.id == "Failure":
            values += node.args[:1]
    elif isinstance(node, ast.ClassDef):
        values = [
            line.value
            for line in node.body
            if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "cause"
        ]
    for value in values:
        for part in [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def errors_of_ours() -> list[type[RegattaError]]:
    """The whole error tree, wherever its branches stand."""
    for module in pkgutil.walk_packages(regatta.__path__, "regatta."):
        if not module.name.endswith("__main__") and "cause" in _text(module.name):
            importlib.import_module(module.name)

    def below(kind: type[RegattaError]) -> Iterator[type[RegattaError]]:
        yield kind
        for each in kind.__subclasses__():
            yield from below(each)

    return sorted(set(below(RegattaError)), key=lambda kind: kind.__name__)


def _text(module: str) -> str:
    path = SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_the_causes_are_found_in_the_source():
    known = {"stopped", "crash", "stall", "killed", "environment", "data", "config", "timed_out"}
    assert known <= words_for_a_cause()


@pytest.mark.parametrize("state", ["failed", "interrupted", "lost"])
@pytest.mark.parametrize("cause", sorted(words_for_a_cause() | {""}))
def test_whoever_writes_a_stop_its_file_names_a_cause_and_a_next_step(
    tmp_path: Path, cause: str, state: str
):
    path = tmp_path / "status.json"
    write_status(path, Status(state=state, cause=cause or None))  # pyright: ignore[reportArgumentType]
    written = json.loads(path.read_text())
    assert written["cause"] == (
        cause or {"failed": "crash", "interrupted": "stopped"}.get(state, state)
    )
    assert written["next_step"]
    assert "run" in written["next_step"]


def test_every_error_that_ends_a_worker_leaves_cause_message_code_and_next_step(tmp_path: Path):
    for number, kind in enumerate(errors_of_ours()):
        path = tmp_path / f"{number}.json"
        error = kind("what happened", where="there")
        assert error.exit_code in EXIT_CODES, kind
        failure = {"cause": error.cause, "message": error.what, "next_step": error.hint}
        StatusWriter([path]).end(state="failed", exit_code=error.exit_code, **failure)
        written = json.loads(path.read_text())
        assert written["cause"] == error.cause, kind
        assert written["message"], kind
        assert written["next_step"], kind
        assert written["exit_code"] in EXIT_CODES, kind
        assert failure_of(error).next_step, kind


@pytest.mark.parametrize("oom_kills", [0, 1])
@pytest.mark.parametrize("memory_was_low", [False, True])
@pytest.mark.parametrize("stalled", [None, 30.0])
def test_every_end_that_a_supervisor_sees_is_explained(
    tmp_path: Path, oom_kills: int, memory_was_low: bool, stalled: float | None
):
    log = tmp_path / "log.txt"
    log.write_text("some words\n")
    # Numbers of real-time signals have no names.
    codes = [0, 1, 2, 3, 77, 130, 143, *(-number for number in signal.valid_signals())]
    spoken = [None, *(Status(state="failed", cause=cause) for cause in words_for_a_cause())]
    for code in codes:
        for status in spoken if code in {0, 1, 2, 3, -9} else [None]:
            ended = Ended("train:a", code, 1.0, oom_kills, memory_was_low, "it held 1 GiB")
            failure = diagnose(ended, status=status, log=log, log_start=0, stalled_seconds=stalled)
            assert failure.cause, code
            assert failure.message, code
            assert failure.next_step, code


def test_a_run_whose_needs_failed_is_explained():
    failure = lacking_runs(["a-s0-1"])
    assert "a-s0-1" in failure.message
    assert failure.next_step
