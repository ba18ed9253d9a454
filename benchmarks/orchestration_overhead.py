"""What 100 no-op runs cost beyond their processes: Regatta's local launcher beside Ray.

    .venv/bin/python benchmarks/orchestration_overhead.py [--runs 100] [--repeats 5] [--quick]

Three sides start the same 100 processes (noop_worker.py, which writes one file and leaves), two at
a time: `bare` is a pool of two threads around subprocess; `ray` is ray.init, one remote task per
process, ray.get, ray.shutdown; `regatta` makes the study's folder and runs it with everything a
launch does (lease, plan, statuses, logs, attempts, processes bound to their supervisor). Each side
must leave the same 100 files. Overhead is a side's wall time minus that of `bare` of the same turn,
per run. Two ratios are printed: whole launches, as a user waits for them, and the middle alone,
without Ray's start and end and without making our folders. The target is for whole launches.

Ray starts processes of its own once and is then quick per task; its tasks leave no record, no log
file of their own and nothing to resume from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from regatta.config.expand import expand_study
from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.files import write_json, write_text
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Machine, host_memory
from regatta.orchestrate.supervise import run_study
from regatta.records.run_folder import StudyFolder, open_study

AT_ONCE = 2
TARGET_SHARE = 0.10
WORKER = (sys.executable, str(Path(__file__).with_name("noop_worker.py")))


@dataclass(frozen=True)
class Spent:
    """Wall seconds of one side in one turn: the whole, and the part between start and end."""

    whole: float
    middle: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one turn")
    parser.add_argument("--without-ray", action="store_true", help="our side and the bare one only")
    options = parser.parse_args()
    sides: dict[str, Callable[[Study, Path], Spent]] = {"bare": bare, "regatta": ours}
    if not options.without_ray:
        sides["ray"] = with_ray
    study = noop_study(options.runs)
    seconds: dict[str, list[Spent]] = {name: [] for name in sides}
    for _ in range(1 if options.quick else options.repeats):
        for name, run_side in sides.items():
            with tempfile.TemporaryDirectory() as root:
                seconds[name].append(run_side(study, Path(root)))
                check(study, Path(root), name)
    print(f"  equal: every side left the same {options.runs} files, turn by turn")
    show(seconds, options.runs)


def noop_study(runs: int) -> Study:
    return study_from_mapping(
        {
            "name": "noop",
            "data": {"source": "rotors"},
            "entries": [{"model": "videomae", "size": "tiny", "checkpoint": "none"}],
            "seeds": list(range(runs)),
            "train": {"epochs": 1},
            "protocol": {"name": "plain"},
            "launch": {"device": "cpu", "max_parallel": AT_ONCE, "memory_gib_per_run": 0.05},
        }
    )


def commands(study: Study, folder: StudyFolder) -> list[list[str]]:
    """The worker's command lines, as the launcher would write them."""
    place = ["--device", "cpu", "--threads", "1"]
    head = [*WORKER, "train", "--study", str(folder.path), "--run"]
    return [[*head, spec.run_id, *place] for spec in expand_study(study)]


def bare(study: Study, root: Path) -> Spent:
    """The same processes, and nobody who looks after them."""
    folder = StudyFolder(root / study.name)
    make_run_folders(study, folder)
    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(start_and_wait, commands(study, folder)))
    spent = time.perf_counter() - started
    return Spent(spent, spent)


def start_and_wait(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def with_ray(study: Study, root: Path) -> Spent:
    """One Ray task per process, on a Ray that is started for them."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray

    folder = StudyFolder(root / study.name)
    make_run_folders(study, folder)
    begun = time.perf_counter()
    ray.init(num_cpus=AT_ONCE, include_dashboard=False, log_to_driver=False)
    ready = time.perf_counter()
    task = ray.remote(num_cpus=1)(_ray_task)
    ray.get([task.remote(command) for command in commands(study, folder)])
    done = time.perf_counter()
    ray.shutdown()
    return Spent(time.perf_counter() - begun, done - ready)


def _ray_task(command: list[str]) -> None:
    # Ray carries the function alone to its workers, which do not find this file.
    import subprocess

    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def ours(study: Study, root: Path) -> Spent:
    """A launch of the study, its data being ready."""
    begun = time.perf_counter()
    folder = open_study(root, study)
    opened = time.perf_counter()
    write_text(folder.manifest, "a manifest")
    settings = study.data.model_dump(mode="json")
    write_json(folder.data_json, {"settings": settings, "counts": {}})
    started = time.perf_counter()
    code = run_study(
        folder,
        study,
        stop=StopFlag(),
        echo=lambda _: None,
        machine=Machine(AT_ONCE, host_memory()),
        only=("train",),
        worker_command=WORKER,
    )
    middle = time.perf_counter() - started
    if code:
        raise SystemExit(f"the launch ended with {code}: see {folder.supervisor_log.read_text()}")
    return Spent(opened - begun + middle, middle)


def make_run_folders(study: Study, folder: StudyFolder) -> None:
    for spec in expand_study(study):
        folder.run(spec.run_id).path.mkdir(parents=True)


def check(study: Study, root: Path, side: str) -> None:
    """Stop unless each run left its file."""
    folder = StudyFolder(root / study.name)
    for spec in expand_study(study):
        text = folder.run(spec.run_id).training_results.read_text()
        if text != f'{{"run": "{spec.run_id}"}}\n':
            raise SystemExit(f"{side}: {spec.run_id} left {text!r}")


def show(seconds: dict[str, list[Spent]], runs: int) -> None:
    """Medians per side, overheads per run, and our share of Ray's."""
    for name, values in seconds.items():
        whole, middle = ([getattr(v, part) for v in values] for part in ("whole", "middle"))
        print(
            f"  {name:<8} whole {statistics.median(whole):6.2f} s ({min(whole):.2f}-"
            f"{max(whole):.2f})   middle {statistics.median(middle):6.2f} s"
        )
    shares: dict[str, float] = {}
    for part in ("whole", "middle"):
        extra = {name: overhead(seconds, name, part, runs) for name in seconds if name != "bare"}
        parts = [f"{name} {1000 * value:6.1f} ms" for name, value in extra.items()]
        line = f"  overhead per run, {part:<6}  {', '.join(parts)}"
        if "ray" in extra:
            shares[part] = extra["regatta"] / extra["ray"]
            line += f"   ours is {100 * shares[part]:.0f} % of Ray's"
        print(line)
    if shares:
        met = 0 <= shares["whole"] <= TARGET_SHARE
        print(
            f"target {100 * TARGET_SHARE:.0f} % of whole launches: {'PASSED' if met else 'MISSED'}"
        )
        if not met:
            sys.exit(1)


def overhead(seconds: dict[str, list[Spent]], side: str, part: str, runs: int) -> float:
    """Median over turns of what a side took longer than `bare`, in seconds per run."""
    pairs = zip(seconds[side], seconds["bare"], strict=True)
    return statistics.median((getattr(a, part) - b.whole) / runs for a, b in pairs)


if __name__ == "__main__":
    main()
