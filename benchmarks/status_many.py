"""`regatta status` over 1,000 runs as a whole process: one study of 1,000, and ten of 100.

    .venv/bin/python benchmarks/status_many.py [--repeats 7] [--quick]

The runs' records are written first: done, running (this process stands in as their worker), failed
and not begun, a quarter each. Then what the command counts, for people and as JSON, must be what
was written, read back run by run. Then both layouts are timed in turn, beside the command on an
empty folder, which is what starting costs: the ratio says how much of the second the runs take.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from regatta.config.expand import protocol_id
from regatta.config.load import study_from_mapping
from regatta.core.files import write_json
from regatta.records.run_folder import open_study
from regatta.records.status import Status, this_process, write_status

TARGET_SECONDS = 1.0
LAYOUTS = {"1 study of 1,000": (1, 1000), "10 studies of 100": (10, 100), "no study": (0, 0)}
"""Name -> number of studies, and runs of each."""


@dataclass(frozen=True)
class Spent:
    """What one process took: wall clock and processor, in seconds."""

    wall: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three repeats")
    options = parser.parse_args()
    repeats = 3 if options.quick else options.repeats
    with tempfile.TemporaryDirectory() as root:
        roots = {name: Path(root) / str(count) for name, (count, _) in LAYOUTS.items()}
        for name, (studies, runs) in LAYOUTS.items():
            written = write_studies(roots[name], studies, runs)
            check(roots[name], written)
        print(f"  equal: every layout counts {dict(written_of(1000))} of 1,000 as written")
        spent: dict[str, list[Spent]] = {name: [] for name in LAYOUTS}
        for _ in range(repeats):
            for name, runs_root in roots.items():
                spent[name].append(timed(runs_root))
    show(spent)


def state_of(number: int) -> str:
    return ("done", "running", "failed", "pending")[number % 4]


def written_of(runs: int) -> Counter[str]:
    return Counter(state_of(number) for number in range(runs))


def write_studies(root: Path, studies: int, runs: int) -> Counter[str]:
    """Study folders as a launch leaves them in its middle; how many runs are in which state."""
    root.mkdir()
    counts: Counter[str] = Counter()
    for number in range(studies):
        study = study_from_mapping(
            {
                "name": f"study-{number}",
                "data": {"source": "rotors"},
                "entries": [{"model": "videomae", "size": "tiny", "checkpoint": "none"}],
                "seeds": list(range(runs)),
                "train": {"epochs": 5},
                "protocol": {"name": "plain"},
            }
        )
        folder, me = open_study(root, study), asdict(this_process())
        for place, (_, run) in enumerate(folder.runs()):
            state = state_of(place)
            counts[state] += 1
            if state == "done":
                folder_of = run.predictions(protocol_id(study.protocol))
                write_json(folder_of / "complete.json", {"parts": {}})
                write_status(run.status, Status(state="done", metric=0.5))
            elif state == "running":
                told = Status(state="running", phase="train", step=3, total_steps=9, process=me)
                write_status(run.status, told)
            elif state == "failed":
                told = Status(state="failed", cause="crash", message="m", next_step="see the log")
                write_status(run.status, told)
    return counts


def status(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "regatta", "status", "--runs", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(root: Path, written: Counter[str]) -> None:
    """Stop unless the command counts what was written."""
    views = json.loads(status(root, "--json"))["studies"]
    counted = Counter(run["state"] for view in views for run in view["runs"])
    if counted != written:
        raise SystemExit(f"status counts {dict(counted)}, written were {dict(written)}")
    text = status(root)
    for state in written:
        shown = sum(f"  {state}" in line for line in text.splitlines())
        if shown < written[state]:
            raise SystemExit(f"{shown} lines say {state}, written were {written[state]}")


def timed(root: Path) -> Spent:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    status(root)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def show(spent: dict[str, list[Spent]]) -> None:
    """Medians and ranges, the ratio to an empty start, and whether the target is met."""
    missed = False
    base = statistics.median(each.wall for each in spent["no study"])
    for name, values in spent.items():
        walls = [each.wall for each in values]
        middle = statistics.median(walls)
        processor = statistics.median(each.processor for each in values)
        line = f"  {name:<18} {middle:.2f} s wall ({min(walls):.2f}-{max(walls):.2f}),"
        line += f" {processor:.2f} s processor, {middle / base:.1f} x an empty start"
        if name != "no study":
            met = middle <= TARGET_SECONDS
            missed = missed or not met
            line += f"   target {TARGET_SECONDS:g} s: {'met' if met else 'MISSED'}"
        print(line)
    print("MISSED" if missed else "PASSED")
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
