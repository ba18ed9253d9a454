"""Feeds mutated files to readers, in a process of its own: what kills it is a finding too.

`python -m tests.fuzz.runner GROUP --seed 1 [--soak] [--target NAME] [--seconds S]` prints a line
per target. Input `number` of a target depends on name, seed and number alone, so a run can be
repeated, or taken up anywhere.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import mmap
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import LARGEST, mutated, stream
from tests.fuzz.target import Case, Target

GROUPS = ("text", "tables", "media", "torch")
HANG_SECONDS = 180.0
"""Of the clock, without an input done: the process is taken for hung."""
ADDRESS_BYTES = 6 << 30
LONGEST_MESSAGE = 6000
MOST_FINDINGS = 12
REPO = Path(__file__).resolve().parents[2]

_HEAD = struct.Struct("<QQQ")
_ROOM = _HEAD.size + 4096 + LARGEST


@dataclass
class Finding:
    """One input that broke the promise, and where it was saved."""

    target: str
    number: int
    file: str
    what: str
    saved: str = ""


@dataclass
class Count:
    """What became of the inputs of one target."""

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest: int = -1
    largest_bytes: int = 0
    grown_mib: float = 0.0
    peak_mib: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def targets_of(group: str) -> list[Target]:
    return importlib.import_module(f"tests.fuzz.{group}_targets").TARGETS


# The parent.


def fuzz(
    group: str,
    folder: Path,
    *,
    seed: int,
    soak: bool = False,
    only: tuple[str, ...] = (),
    seconds: float | None = None,
    share: float = 1.0,
) -> list[Count]:
    """Count what happens to the inputs of a group's targets.

    Args:
        folder: for files, and for the inputs that broke something.
        seconds: most, for every target.
        share: of the usual number of inputs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order: dict[str, Any] = {
        "group": group, "seed": seed, "soak": soak, "share": share, "seconds": seconds,
    }  # fmt: skip
    counts: list[Count] = []
    names = list(only) or _names(group)
    while names:
        first = counts[-1].inputs if counts and counts[-1].target == names[0] else 0
        done, killed_at = _child({**order, "targets": names, "first": first}, folder)
        for count in done:
            _join(counts, count)
        names = names[len([c for c in done if c.target in names]) :]
        if killed_at is None:
            break
        _join(counts, killed_at)
        if (
            names
            and len(killed_at.findings)
            and sum(f.what.startswith("process") for f in counts[-1].findings) >= 3
        ):
            names = names[1:]
    return counts


def _names(group: str) -> list[str]:
    listed = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.runner", group, "--list"],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return listed.stdout.split()


def _join(counts: list[Count], count: Count) -> None:
    """A target that was cut by a crash goes on in another process."""
    if not counts or counts[-1].target != count.target:
        counts.append(count)
        return
    known = counts[-1]
    known.inputs += count.inputs
    known.accepted += count.accepted
    known.refused += count.refused
    known.seconds += count.seconds
    known.findings += count.findings
    known.largest_bytes = max(known.largest_bytes, count.largest_bytes)
    known.grown_mib = max(known.grown_mib, count.grown_mib)
    known.peak_mib = max(known.peak_mib, count.peak_mib)
    if count.slowest_seconds > known.slowest_seconds:
        known.slowest_seconds, known.slowest = count.slowest_seconds, count.slowest


def _child(order: dict[str, Any], folder: Path) -> tuple[list[Count], Count | None]:
    """Targets that were finished, and the one at which the process died."""
    note = folder / "input"
    note.write_bytes(bytes(_ROOM))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    with (
        tempfile.TemporaryDirectory(dir=_scratch(folder), prefix="fuzz-") as place,
        open(folder / "stderr", "wb") as errors,
        open(folder / "stdout", "w+b") as output,
    ):
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.fuzz.runner", order["group"],
             "--order", json.dumps({**order, "place": place, "note": str(note)})],
            cwd=REPO, stdout=output, stderr=errors, env={**environment, "TMPDIR": place},
        )  # fmt: skip
        hung = _wait(child, note)
        output.seek(0)
        text = output.read().decode()
    done = [_count(json.loads(line)) for line in text.splitlines() if line.startswith("{")]
    if child.returncode == 0 and not hung:
        return done, None
    number, target, file, content = _read_note(note)
    if not target:
        words = (folder / "stderr").read_text(errors="replace")[-2000:]
        raise AssertionError(f"fuzzing of {order['group']} did not start: {words}")
    words = "hung" if hung else f"ended with {child.returncode}"
    tail = (folder / "stderr").read_text(errors="replace")[-1500:]
    finding = Finding(target, number, file, f"process {words}: {tail}")
    finding.saved = _save(folder, finding, content)
    first = order["first"] if target == order["targets"][0] else 0
    return done, Count(target, inputs=number + 1 - first, findings=[finding])


def _scratch(folder: Path) -> Path:
    """Memory where there is some: a disk takes longer to write an input than all else takes."""
    memory = Path("/dev/shm")
    usable = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 256 << 20
    return memory if usable else folder


def _count(record: dict[str, Any]) -> Count:
    return Count(**{**record, "findings": [Finding(**f) for f in record["findings"]]})


def _wait(child: subprocess.Popen[bytes], note: Path) -> bool:
    """Wait for the end; True when it had to be killed, as no input was done for long."""
    last, since = b"", time.monotonic()
    while child.poll() is None:
        time.sleep(0.1)
        with open(note, "rb") as handle:
            now = handle.read(_HEAD.size)
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            child.kill()
            child.wait()
            return True
    return False


def _read_note(note: Path) -> tuple[int, str, str, bytes]:
    content = note.read_bytes()
    number, words, size = _HEAD.unpack_from(content)
    target, _, file = content[_HEAD.size : _HEAD.size + words].decode().partition("\n")
    start = _HEAD.size + 4096
    return number, target, file, content[start : start + size]


def _save(folder: Path, finding: Finding, content: bytes) -> str:
    place = folder / "found" / f"{finding.target}-{finding.number}-{Path(finding.file).name}"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    return str(place)


# The child.


class _Note:
    """The input that is being read, where the parent finds it if this process dies."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as handle:
            self._map = mmap.mmap(handle.fileno(), _ROOM)

    def take(self, number: int, target: str, file: str, content: bytes) -> None:
        words = f"{target}\n{file}".encode()
        start = _HEAD.size + 4096
        self._map[start : start + len(content)] = content
        self._map[_HEAD.size : _HEAD.size + len(words)] = words
        self._map[: _HEAD.size] = _HEAD.pack(number, len(words), len(content))


def _run(target: Target, order: dict[str, Any], note: _Note, first: int) -> Count:
    folder = Path(order["place"], target.name)
    folder.mkdir()
    case, count = target.build(folder), Count(target.name)
    for name, content in case.files.items():
        # What the reader makes of good files is part of the promise, and warms it up.
        case.parse(name, content)
    gc.collect()
    started, before, descriptors = time.monotonic(), _peak_mib(), _descriptors()
    known = _names_in(case)
    total = max(1, round((target.soak if order["soak"] else target.quick) * order["share"]))
    seen: set[str] = set()
    limit = order["seconds"] or float("inf")
    dirty = ""
    for number in range(first, total):
        if time.monotonic() - started > limit or len(count.findings) >= MOST_FINDINGS:
            break
        name, content = _input(target, case, order["seed"], number)
        note.take(number, target.name, name, content)
        if case.folder is not None:
            if dirty not in ("", name):
                (case.folder / dirty).write_bytes(case.files[dirty])
            (case.folder / name).write_bytes(content)
            dirty = name
        peak, clock = _peak_mib(), time.process_time()
        what = _try(target, case, name, content, count)
        spent = time.process_time() - clock
        if spent > count.slowest_seconds:
            count.slowest_seconds, count.slowest = spent, number
        count.inputs, count.largest_bytes = count.inputs + 1, max(count.largest_bytes, len(content))
        if spent > target.seconds:
            what = what or f"slow: {spent:.2f} s, more than {target.seconds:g}"
        grown = _peak_mib() - peak
        if grown > target.mebibytes:
            what = what or f"memory: grew by {grown:.0f} MiB, more than {target.mebibytes}"
        left = _names_in(case) - known
        if left:
            what = what or f"left behind: {', '.join(sorted(left))}"
            known |= left
        key = _key(what)
        if what and key not in seen:
            seen.add(key)
            finding = Finding(target.name, number, name, what)
            finding.saved = _save(Path(order["note"]).parent, finding, content)
            count.findings.append(finding)
    count.seconds = time.monotonic() - started
    count.peak_mib = _peak_mib()
    count.grown_mib = count.peak_mib - before
    gc.collect()
    if _descriptors() > descriptors + 4:
        more = _descriptors() - descriptors
        count.findings.append(Finding(target.name, -1, "", f"{more} files were left open"))
    return count


def _input(target: Target, case: Case, seed: int, number: int) -> tuple[str, bytes]:
    rng = stream(target.name, seed, number)
    names = sorted(case.files)
    name = rng.choice(names)
    suffix = Path(name).suffix
    others = [case.files[other] for other in names if Path(other).suffix == suffix]
    return name, mutated(rng, case.files[name], others, target.tokens)


def _try(target: Target, case: Case, name: str, content: bytes, count: Count) -> str:
    """What went wrong, or nothing."""
    from regatta.core.errors import RegattaError

    try:
        case.parse(name, content)
    except RegattaError as error:
        count.refused += 1
        return wrong_message(error, names_place=target.names_place)
    except BaseException:  # noqa: BLE001  whatever it is, it is a finding
        return _short(traceback.format_exc())
    count.accepted += 1
    return ""


def _key(what: str) -> str:
    """Equal for what is probably one mistake: the place in the code, and the kind of error."""
    lines = what.splitlines() or [""]
    place = [line for line in lines if line.startswith('  File "')][-1:]
    return f"{place} {lines[-1][:40]}" if place else lines[0][:24]


def _short(text: str) -> str:
    """The end of a traceback: places below this project, and what was raised."""
    lines = text.rstrip().split("\n")
    start = max((n for n, line in enumerate(lines) if line.startswith("Traceback")), default=0)
    own = [line for line in lines[start:] if f"{REPO}/" in line and ".venv" not in line]
    return "\n".join([*own[-6:], *(line[:600] for line in lines[-3:])])[:4000]


def wrong_message(error: Any, *, names_place: bool = True) -> str:
    """Why the text of an error cannot be shown to a person; empty when it can."""
    text = str(error)
    if names_place and not error.where:
        return f"names no place: {type(error).__name__}: {text[:300]}"
    if len(text) > LONGEST_MESSAGE:
        return f"message of {len(text)} characters: {text[:200]!r}"
    odd = [letter for letter in text if letter != "\n" and not letter.isprintable()]
    if odd:
        return f"message with {odd[0]!r}: {text[:300]!r}"
    return ""


def _names_in(case: Case) -> set[str]:
    if case.folder is None:
        return set()
    return {
        os.path.join(place, name) for place, _, names in os.walk(case.folder) for name in names
    } | set(os.listdir(tempfile.gettempdir()))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _limit_memory() -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ADDRESS_BYTES, now + ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work(order: dict[str, Any]) -> None:
    known = {target.name: target for target in targets_of(order["group"])}
    _limit_memory()
    note = _Note(order["note"])
    for place, name in enumerate(order["targets"]):
        count = _run(known[name], order, note, order["first"] if place == 0 else 0)
        print(json.dumps(asdict(count)), flush=True)


def table(counts: list[Count]) -> str:
    """A line per target for people."""
    head = "target               inputs accepted  refused  seconds slowest(s) grown(MiB) peak(MiB)"
    rows = [
        f"{c.target:<20} {c.inputs:>6} {c.accepted:>8} {c.refused:>8} {c.seconds:>8.1f} "
        f"{c.slowest_seconds:>10.3f} {c.grown_mib:>10.0f} {c.peak_mib:>9.0f}"
        + (f"  {len(c.findings)} FOUND" if c.findings else "")
        for c in counts
    ]
    return "\n".join([head, *rows])


def main(arguments: list[str], say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--order", type=json.loads)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    if given.order:
        _work(given.order)
        return 0
    if given.list:
        say("\n".join(target.name for target in targets_of(given.group)))
        return 0
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    counts = fuzz(
        given.group, folder, seed=given.seed, soak=given.soak, only=tuple(given.target),
        seconds=given.seconds, share=given.share,
    )  # fmt: skip
    say(table(counts))
    found = [finding for count in counts for finding in count.findings]
    for finding in found:
        say(f"\n== {finding.target} {finding.number} {finding.file}")
        say(f"{finding.saved}\n{finding.what}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
