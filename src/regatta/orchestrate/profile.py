"""Start the profiler on one device of this machine: read the data first, then measure."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regatta.config.load import dump_study
from regatta.config.schema import Study
from regatta.core.errors import ConfigError
from regatta.core.files import ensure_writable, read_json_lines, write_json, write_text
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Machine, find_slots, host_memory, this_machine
from regatta.orchestrate.local import task_environment
from regatta.orchestrate.one_worker import read_data, run_worker
from regatta.records.lease import refuse_if_held, study_lease
from regatta.records.run_folder import StudyFolder, check_ours

PROFILER_COMMAND = (sys.executable, "-m", "regatta.worker.profile")
MEMORY_SHARE = 0.9
"""Of the free memory that a measurement may take, where the study sets no limit."""


def open_profile_folder(runs_root: Path, study: Study) -> StudyFolder:
    """The study's folder, made when it is missing; a study that has runs is left as it is.

    Raises:
        ConfigError: it holds data that were read with other settings.
        ForeignFolderError, LeaseHeldError, DiskError: as `records.run_folder.open_study`.
    """
    folder = StudyFolder(runs_root / study.name)
    check_ours(folder, study)
    has_runs = (folder.path / "runs").is_dir()
    if not has_runs or not folder.study_yaml.is_file():
        refuse_if_held(folder.lease)
        ensure_writable(folder.path)
        write_text(folder.study_yaml, dump_study(study))
    elif folder.study().data != study.data:
        raise ConfigError(
            "the study that stands here reads its data with other settings",
            where=folder.path,
            hint=f"give the profile a folder of its own: --set name={study.name}-profile",
        )
    return folder


def profile_study(
    folder: StudyFolder,
    study: Study,
    entries: Sequence[str],
    *,
    stop: StopFlag,
    echo: Callable[[str], None],
    show: Callable[[dict[str, Any]], None],
    machine: Machine | None = None,
) -> int:
    """Measure the entries, with a process that cannot outlive this one.

    Args:
        echo: takes one line for the user.
        show: takes each row as soon as it is measured.
    Returns:
        0, or 130 or 143 when stopped: then nothing is written and earlier tables stay.
    Raises:
        DeviceError, ConfigError, LeaseHeldError, and RunError with the worker's own words.
    """
    machine = machine or this_machine(study.launch)
    launch = study.launch.model_copy(update={"devices": min(1, study.launch.devices)})
    place = find_slots(launch, runs=1, machine=machine)[0]
    _check_precisions(study, place.device)
    threads = study.launch.threads_per_run or machine.cores
    env = task_environment(place, threads)
    with study_lease(folder.lease):
        read_data(folder, study, echo=echo, env=env, stop=stop)
        if not stop.requested:
            place_words = ["--device", place.device, "--threads", str(threads)]
            _measure(folder, study, entries, place_words, env=env, stop=stop, show=show)
    return stop.exit_code if stop.requested else 0


def _measure(
    folder: StudyFolder,
    study: Study,
    entries: Sequence[str],
    place_words: list[str],
    *,
    env: dict[str, str],
    stop: StopFlag,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Run the profiler and show its rows as they come."""
    free = MEMORY_SHARE * host_memory().available_gib
    content = {
        "study": study.model_dump(mode="json"),
        "entries": list(entries),
        "memory_gib": study.launch.memory_gib_per_run or free,
    }
    with _scratch(folder) as scratch:
        request, progress = scratch / "request.json", scratch / "progress.jsonl"
        write_json(request, content)
        shown = 0

        def look() -> None:
            nonlocal shown
            rows = read_json_lines(progress)
            for row in rows[shown:]:
                show(row)
            shown = len(rows)

        command = [*PROFILER_COMMAND, "--study", str(folder.path), "--request", str(request)]
        command += ["--progress", str(progress), *place_words]
        run_worker(command, log=folder.path / "profile.log", env=env, stop=stop, tick=look)


def _check_precisions(study: Study, device: str) -> None:
    """The one lack that is known without asking the device; the worker finds the others."""
    if device == "cpu" and "fp16" in (study.profile.precisions or ()):
        raise ConfigError(
            "fp16 needs a GPU, this profile is of the CPU",
            where="profile.precisions",
            hint="leave it out: fp32 and bf16 can be measured here",
        )


@contextmanager
def _scratch(folder: StudyFolder) -> Iterator[Path]:
    """A folder for the two files between the processes; gone afterwards."""
    path = folder.path / ".profile"
    # A profile that was killed could not clean up; the lease says that none is at work.
    shutil.rmtree(path, ignore_errors=True)
    ensure_writable(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
