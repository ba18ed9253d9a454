"""Run a study: take its lease, clear what an earlier launch left, then supervise its tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from regatta.config.expand import trained_runs, with_dependants
from regatta.config.schema import LaunchSection, Study
from regatta.core.registry import unknown_name
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Machine, this_machine
from regatta.orchestrate.local import Launcher, LocalLauncher
from regatta.orchestrate.needs import measured_needs
from regatta.orchestrate.plan import (
    ALL_KINDS,
    WORKER_COMMAND,
    TaskKind,
    fit_to_machine,
    start_together,
)
from regatta.orchestrate.run_states import append_note, discard_run, end_orphan
from regatta.orchestrate.slurm_study import refuse_while_submitted
from regatta.orchestrate.supervisor import Supervisor
from regatta.records.clip_pool import sweep_pool
from regatta.records.lease import study_lease
from regatta.records.leftovers import sweep_dead_writers, sweep_partials
from regatta.records.run_folder import StudyFolder

Say = Callable[[str], None]


class MakeLauncher(Protocol):
    """What makes the launcher of a study with so many runs."""

    def __call__(self, machine: Machine, launch: LaunchSection, *, runs: int) -> Launcher: ...


def run_study(
    folder: StudyFolder,
    study: Study,
    *,
    stop: StopFlag,
    echo: Say,
    tick: Callable[[], None] | None = None,
    restart: Sequence[str] = (),
    then: Callable[[int], int] | None = None,
    machine: Machine | None = None,
    only: tuple[TaskKind, ...] = ALL_KINDS,
    leave_out: Collection[str] = frozenset(),
    make_launcher: MakeLauncher = LocalLauncher,
    worker_command: tuple[str, ...] = WORKER_COMMAND,
) -> int:
    """Do what is missing of a study, with this process as its supervisor.

    Args:
        folder: an opened study folder (`records.run_folder.open_study`).
        stop: polled; the second request ends the workers at once.
        echo: takes one line for the user.
        tick: called about once a second while tasks run, for a display.
        restart: run ids whose checkpoints and results are discarded first, with those of runs that
            are built on them.
        then: called with the exit code while the lease is still held, unless stopped;
            returns the final code.
        machine: what to place tasks on; None = look.
        only: kinds of tasks to do; the others are left for another launch.
        leave_out: run ids that this launch leaves alone.
        make_launcher: of what starts the tasks.
    Returns:
        0 all that was asked is done, 1 some failed, 2 or 3 the data could not be prepared,
        130 or 143 stopped.
    Raises:
        LeaseHeldError, DeviceError, DiskError, ConfigError, UnknownNameError.
    """

    def say(text: str) -> None:
        append_note(folder.supervisor_log, text)
        echo(text)

    with study_lease(folder.lease):
        specs = trained_runs(study)
        known = [spec.run_id for spec in specs]
        _refuse_unknown(restart, known, folder)
        refuse_while_submitted(folder)
        machine = machine or this_machine(study.launch)
        launch = study.launch
        if launch.on == "local":
            study = fit_to_machine(study, machine)
            launch = start_together(study, machine)
        launcher = make_launcher(machine, launch, runs=len(specs) - len(leave_out))
        try:
            _tell_what_is_known(launcher, folder, study, machine)
            for run_id in known:
                end_orphan(folder.run(run_id), folder.path, say)
            sweep_dead_writers(folder, study)
            for run_id in with_dependants(specs, restart):
                discard_run(folder.run(run_id))
                say(f"{run_id}: starts over, earlier checkpoints and results are deleted")
            supervisor = Supervisor(
                folder,
                study,
                launcher,
                stop=stop,
                say=say,
                tick=tick,
                only=only,
                leave_out=leave_out,
                worker_command=worker_command,
            )
            code = supervisor.run()
        finally:
            launcher.close()
            sweep_pool(folder.path)
            sweep_partials(folder.path / "runs")
        if then is None:
            return code
        return stop.exit_code if stop.requested else then(code)


def _refuse_unknown(restart: Sequence[str], known: Sequence[str], folder: StudyFolder) -> None:
    for run_id in restart:
        if run_id not in known:
            raise unknown_name("run", run_id, known, where=folder.path)


def _tell_what_is_known(
    launcher: Launcher, folder: StudyFolder, study: Study, machine: Machine
) -> None:
    """Let admission on this machine start from earlier runs and probes; a cluster has its own."""
    if isinstance(launcher, LocalLauncher):
        threads_for = launcher.threads_for
        launcher.expect(measured_needs(folder, study, machine=machine, threads_for=threads_for))
