"""What `regatta train` itself takes while 50 runs are at work: processor and memory.

    .venv/bin/python benchmarks/supervisor_cost.py [--runs 50] [--seconds 60] [--quick]

The real command line supervises 50 processes that each write their status every second
(holding_worker.py), once with plain lines in a pipe and once with a live table in a pseudo-terminal
of 120 x 30. First every run must be at work and shown: by id in the plain lines, in the counts of
the table. Then the supervisor's own processor time over the given seconds and its memory (resident,
and its proportional share of shared pages) are read from /proc. Its children are not counted.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regatta.config.load import study_from_mapping
from regatta.core.files import write_json, write_text
from regatta.orchestrate.snapshot import StudyReader
from regatta.records.run_folder import StudyFolder, open_study

TARGET_SHARE, TARGET_MB = 0.01, 100.0
SETTLE_SECONDS, START_SECONDS, SHOWN_SECONDS = 5.0, 300.0, 60.0
WORKER = (sys.executable, str(Path(__file__).with_name("holding_worker.py")))
SUPERVISE = """
import sys
from pathlib import Path
from regatta.cli.run import launch
sys.exit(launch(Path(sys.argv[1]), runs=Path(sys.argv[2]), only=("prepare", "train"),
                worker_command=tuple(sys.argv[3:])))
"""


@dataclass(frozen=True)
class Cost:
    """Processor seconds per second, and megabytes: resident, and the proportional share."""

    share: float
    resident_mb: float
    proportional_mb: float


@dataclass
class Output:
    """What the supervisor prints, read by a thread so that it never waits for its reader."""

    descriptor: int
    text: str = ""
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self.descriptor, 65536)
            except OSError:
                return
            if not piece:
                return
            self.text += piece.decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="15 seconds")
    parser.add_argument("--display", choices=["plain", "live", "both"], default="both")
    options = parser.parse_args()
    seconds = 15.0 if options.quick else options.seconds
    shown = ["plain", "live"] if options.display == "both" else [options.display]
    missed = False
    for display in shown:
        with tempfile.TemporaryDirectory() as root:
            cost = measure(Path(root), options.runs, seconds, is_live=display == "live")
        met = cost.share <= TARGET_SHARE and cost.resident_mb <= TARGET_MB
        missed = missed or not met
        print(
            f"  {display:<5}  {100 * cost.share:.2f} % of one core, {cost.resident_mb:.0f} MB "
            f"resident, {cost.proportional_mb:.0f} MB as its share   "
            f"target {100 * TARGET_SHARE:.0f} %, {TARGET_MB:.0f} MB: {'met' if met else 'MISSED'}"
        )
    print("MISSED" if missed else "PASSED")
    if missed:
        sys.exit(1)


def measure(root: Path, runs: int, seconds: float, *, is_live: bool) -> Cost:
    folder = write_study(root, runs)
    with supervised(root, folder, is_live=is_live) as (process, output):
        started = time.monotonic()
        reader = StudyReader(folder)
        while reader.read().counts.get("running", 0) < runs:
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                raise SystemExit(f"not all runs came to work:\n{output.text[-2000:]}")
            time.sleep(0.5)
        print(f"  {runs} runs at work after {time.monotonic() - started:.0f} s")
        time.sleep(SETTLE_SECONDS)
        check(output, folder, runs, is_live=is_live)
        before, begun = processor_seconds(process.pid), time.monotonic()
        time.sleep(seconds)
        spent = processor_seconds(process.pid) - before
        share = spent / (time.monotonic() - begun)
        return Cost(share, *memory_mb(process.pid))


def write_study(root: Path, runs: int) -> StudyFolder:
    """The study file, and its folder with the data prepared."""
    mapping: dict[str, Any] = {
        "name": "held",
        "data": {"source": "rotors"},
        "entries": [{"model": "videomae", "size": "tiny", "checkpoint": "none"}],
        "seeds": list(range(runs)),
        "train": {"epochs": 1},
        "protocol": {"name": "plain"},
        "launch": {"device": "cpu", "max_parallel": runs, "memory_gib_per_run": 0.01},
    }
    # JSON is YAML, and needs no writer here.
    (root / "held.yaml").write_text(json.dumps(mapping))
    study = study_from_mapping(mapping)
    folder = open_study(root / "runs", study)
    write_text(folder.manifest, "a manifest")
    settings = study.data.model_dump(mode="json")
    write_json(folder.data_json, {"settings": settings, "counts": {}})
    return folder


@contextmanager
def supervised(
    root: Path, folder: StudyFolder, *, is_live: bool
) -> Iterator[tuple[subprocess.Popen[bytes], Output]]:
    """The command line at work on the study, stopped as a user stops it."""
    reading, writing = pty.openpty() if is_live else os.pipe()
    if is_live:
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    runs = str(folder.path.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(root / "held.yaml"), runs, *WORKER],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(writing)
    try:
        yield process, Output(reading)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check(output: Output, folder: StudyFolder, runs: int, *, is_live: bool) -> None:
    """Stop unless the display says, soon, that all runs are at work."""
    deadline = time.monotonic() + SHOWN_SECONDS
    while missing := not_shown(output.text, folder, runs, is_live=is_live):
        if time.monotonic() > deadline:
            raise SystemExit(f"the display lacks {missing}:\n{output.text[-2000:]}")
        time.sleep(0.5)
    print(f"  equal: all {runs} runs are shown at work", flush=True)


def not_shown(text: str, folder: StudyFolder, runs: int, *, is_live: bool) -> str:
    if is_live:
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        return "" if f"{runs} running" in text else f"the count {runs} running"
    missing = [r.run_id for _, r in folder.runs() if f"{r.run_id}: running" not in text]
    return ", ".join(missing)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory and the proportional share of it, in 10^6 bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(sizes["Rss"]) * 1024 / 1e6, int(sizes["Pss"]) * 1024 / 1e6


if __name__ == "__main__":
    main()
