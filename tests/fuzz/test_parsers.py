"""Any bytes are read, or refused with a place and a short message: no other exception, no hang, no
crash, nothing left behind; and what is accepted keeps its own laws.

`make test` tries the same few thousand inputs each time, `make soak` millions. Figures are printed
(-s), and every input that breaks the promise is kept in the test's folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regatta.core.errors import DataError
from tests.fuzz.mutate import mutated, stream
from tests.fuzz.runner import GROUPS, REPO, Count, fuzz, table, targets_of, wrong_message

SEED = 20
SOAK_SECONDS = float(os.environ.get("REGATTA_FUZZ_SECONDS", "600"))
"""Most of the clock for one reader in the long form."""


def assert_nothing_found(counts: list[Count]) -> None:
    print(f"\n{table(counts)}")
    found = [finding for count in counts for finding in count.findings]
    assert not found, "\n\n".join(f"{f.target} {f.number}: {f.saved}\n{f.what}" for f in found)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_any_bytes_are_read_or_refused(group: str, tmp_path: Path, no_leaks: None):
    counts = fuzz(group, tmp_path, seed=SEED)
    assert_nothing_found(counts)
    assert [count.target for count in counts] == [target.name for target in targets_of(group)]
    assert all(count.accepted + count.refused == count.inputs > 0 for count in counts)
    # Inputs that are all refused, or all taken, would try nothing.
    assert sum(count.accepted > 0 for count in counts) > 0.9 * len(counts)
    assert all(count.refused for count in counts)


@pytest.mark.soak
@pytest.mark.parametrize("group", GROUPS)
def test_millions_of_inputs_are_read_or_refused(group: str, tmp_path: Path):
    seed = int(os.environ.get("REGATTA_FUZZ_SEED", str(SEED)))
    assert_nothing_found(fuzz(group, tmp_path, seed=seed, soak=True, seconds=SOAK_SECONDS))


def test_inputs_follow_from_seed_and_number_alone():
    good, others, tokens = b'{"a": [1, 2.5], "b": "c"}\n' * 8, [b"other"], (b"word",)
    first = [mutated(stream("t", 1, n), good, others, tokens) for n in range(300)]
    again = [mutated(stream("t", 1, n), good, others, tokens) for n in reversed(range(300))]
    assert first == again[::-1]
    assert len(set(first)) > 280
    assert first != [mutated(stream("t", 2, n), good, others, tokens) for n in range(300)]


def test_a_message_is_short_and_can_be_shown():
    hostile = "x\x1b[31m\u202e\ud800" * 5000
    assert wrong_message(DataError(hostile, where=hostile, hint=hostile)) == ""
    assert "no place" in wrong_message(DataError("bad"))
    plain = DataError("two\nlines", where="a.txt:3", hint="é 走る")
    assert str(plain) == "two\nlines\n  where: a.txt:3\n  next:  é 走る"


BROKEN = """
import ctypes, os, sys, time, warnings
from tests.fuzz.target import Case, Target
def build(how):
    def case(folder):
        def parse(name, content):
            if content == b"good":
                return
            if how == "crash":
                ctypes.string_at(0)
            if how == "raise":
                raise ValueError(content)
            if how == "warn":
                warnings.warn("odd")
            if how == "left":
                (folder / "left.txt").write_text("x")
            if how == "slow":
                end = time.process_time() + 0.3
                while time.process_time() < end: pass
            if how == "memory":
                bytearray(200 << 20)
        return Case({"a": b"good"}, parse, folder)
    return case
TARGETS = [
    Target(how, build(how), quick=5, seconds=0.2, mebibytes=100)
    for how in ("raise", "warn", "left", "slow", "memory", "crash")
]
"""


def test_each_kind_of_broken_promise_is_found_with_its_input(tmp_path: Path):
    """Readers that break the promise on purpose: what finds nothing here would find nothing at
    all."""
    (tmp_path / "tests" / "fuzz").mkdir(parents=True)
    for name in ("mutate", "target", "runner"):
        (tmp_path / "tests" / "fuzz" / f"{name}.py").write_bytes(
            (REPO / "tests" / "fuzz" / f"{name}.py").read_bytes()
        )
    (tmp_path / "tests" / "fuzz" / "text_targets.py").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.runner", "text", "--folder", str(tmp_path / "out")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    for words in (
        *("ValueError", "UserWarning: odd", "left behind: ", "slow: 0.", "memory: grew by"),
        "process ended with -11",
    ):
        assert words in done.stdout
    kept = {path.name.partition("-")[0] for path in (tmp_path / "out" / "found").iterdir()}
    assert kept == {"raise", "warn", "left", "slow", "memory", "crash"}
