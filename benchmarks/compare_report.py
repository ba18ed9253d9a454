"""`regatta compare` and `regatta report` of a study of published size, as whole processes.

    .venv/bin/python benchmarks/compare_report.py [--seeds 1 3] [--profile] [--root FOLDER]

3 models x 25 conditions x 12,227 samples x 101 classes, simulated (simulated_store.py), with one
and with three seeds. First the verdict must be the planted one, and every accuracy of one entry
must be what its stored scores give when they are counted part by part. Then for each verb, start
and imports included: wall clock, processor time, peak memory; and the size of the page. The targets
are for one seed; three seeds are three times the data.

--profile adds the processor seconds of every part of both verbs, measured in a further run under
cProfile, which slows them down. About 4 minutes on 2 cores, and 1.6 GB below FOLDER, which are
deleted at the end.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from simulated_store import SAMPLES, write_store

from regatta.config.expand import protocol_id
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder

TARGET_SECONDS, TARGET_MIB, TARGET_PAGE_MIB = 60.0, 2000 * 1e6 / 2**20, 10.0
SHOWN_PARTS, SHOWN_SECONDS = 30, 0.05
GATHERING = ("<listcomp>", "<dictcomp>", "_companions", "draw_figures")
"""Functions that only call others: their parts are shown, not they."""
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


@dataclass(frozen=True)
class Spent:
    """What one process took."""

    wall: float
    processor: float
    peak_mib: float

    def __str__(self) -> str:
        return (
            f"{self.wall:6.1f} s wall, {self.processor:6.1f} s processor, "
            f"{self.peak_mib:5.0f} MiB at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--root", type=Path, help="where the temporary folder is made")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    # Stopped from outside it must not leave the stores behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(dir=options.root) as root:
        for seeds in options.seeds:
            started = time.perf_counter()
            folder = write_store(Path(root), f"s{seeds}", seeds=seeds, samples=options.samples)
            print(f"{seeds} seed(s): store written in {time.perf_counter() - started:.0f} s")
            measure(folder, is_target=seeds == 1)
            if options.profile:
                profile(folder)


def measure(folder: StudyFolder, *, is_target: bool) -> None:
    """Run both verbs, check what came out, and print what they took."""
    spent = {verb: run(verb, folder) for verb in ("compare", "report")}
    check(folder)
    for verb, took in spent.items():
        print(f"  regatta {verb:<8} {took}")
    wall = sum(took.wall for took in spent.values())
    peak = max(took.peak_mib for took in spent.values())
    page = (folder.report / "report.html").stat().st_size / 2**20
    for what, value, limit, unit in (
        ("both together", wall, TARGET_SECONDS, "s"),
        ("peak memory", peak, TARGET_MIB, "MiB"),
        ("report.html", page, TARGET_PAGE_MIB, "MiB"),
    ):
        target = f"   target {limit:.0f} {unit}: {'met' if value <= limit else 'MISSED'}"
        print(f"  {what:<16} {value:6.1f} {unit}{target if is_target else ''}")


def run(verb: str, folder: StudyFolder) -> Spent:
    """One verb as a process of its own."""
    command = [sys.executable, "-m", "regatta", verb, folder.path.name]
    started = time.perf_counter()
    # A child counts the memory of the process that starts it as its own, so a small one does.
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command, "--runs", str(folder.path.parent)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    code, processor, peak_kib = launched.stdout.split()
    if code != "0":
        raise SystemExit(f"regatta {verb} failed with exit status {code}")
    return Spent(wall, float(processor), float(peak_kib) / 1024)


def check(folder: StudyFolder) -> None:
    """Stop unless the planted winner won and one run's accuracies are those of its scores."""
    comparison = read_json(folder.results / "comparison.json")
    verdict = comparison["verdict"]
    if (verdict["kind"], verdict["leader"]) != ("ahead", "vivit"):
        raise SystemExit(f"the planted winner was not found: {verdict['sentence']}")
    spec, _ = folder.runs()[0]
    right, total = counted(folder)
    seeds = len(folder.study().seeds)
    found = np.array([r["accuracy"] for r in comparison["table"] if r["model"] == spec.entry.name])
    if np.abs(found - right / total).max() > 1e-12:
        raise SystemExit("accuracies are not those of the stored scores")
    print(
        f"  equal: {verdict['sentence']}; {len(found)} accuracies of {spec.entry.name} over "
        f"{seeds} seed(s) as counted in the parts"
    )


def counted(folder: StudyFolder) -> tuple[np.ndarray, int]:
    """Right answers per condition [C] of the first entry over its seeds, and samples x seeds."""
    study = folder.study()
    conditions: dict[str, list[int]] = {}
    first = folder.runs()[0][0].entry.name
    for spec, run_folder in folder.runs():
        if spec.entry.name != first:
            continue
        for path in sorted(run_folder.predictions(protocol_id(study.protocol)).glob("part-*")):
            table = pq.read_table(path)
            scores = np.stack(table["scores"].to_pandas().to_list())
            right = scores.argmax(axis=1) == table["label"].to_numpy()
            for name, hit in zip(table["condition"].to_pylist(), right.tolist(), strict=True):
                conditions.setdefault(name, []).append(hit)
    rights = [sum(hits) for hits in conditions.values()]
    return np.array(rights), len(next(iter(conditions.values())))


def profile(folder: StudyFolder) -> None:
    """Processor seconds of what the two verbs call, the longest first."""
    from regatta.analysis.compare import compare_study
    from regatta.report.page import write_report

    print_parts("compare", lambda: compare_study(folder), "compare_study")
    print_parts("report", lambda: write_report(folder), "write_report")


def print_parts(verb: str, run_verb: Callable[[], object], name: str) -> None:
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(run_verb)
    stats = pstats.Stats(profiler)
    stats.calc_callees()
    seconds: dict[str, float] = {}
    for caller in callers_of_parts(stats, name):
        for (path, _, callee), numbers in stats.all_callees[caller].items():  # pyright: ignore
            if callee not in GATHERING:
                label = f"{Path(path).stem}.{callee}"
                seconds[label] = seconds.get(label, 0.0) + numbers[3]
    print(f"  {verb}: {stats.total_tt:.1f} s under the profiler, of which")  # pyright: ignore
    for label, spent in sorted(seconds.items(), key=lambda pair: -pair[1])[:SHOWN_PARTS]:
        if spent >= SHOWN_SECONDS:
            print(f"    {spent:6.2f}  {label}")


def callers_of_parts(stats: pstats.Stats, name: str) -> list[tuple[str, int, str]]:
    """The verb's function and those that gather for it."""
    (home,) = [key for key in stats.stats if key[2] == name]  # pyright: ignore
    return [
        key
        for key in stats.stats  # pyright: ignore
        if key[2] == "draw_figures" or (key[0] == home[0] and key[2] in (name, *GATHERING))
    ]


if __name__ == "__main__":
    main()
