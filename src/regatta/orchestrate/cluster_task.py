"""One element of a job array: does its part of a study with a supervisor of its own.

The scheduler places jobs, and this works inside one: the same supervisor and workers as on a
laptop, for these runs only, so crashes and stalls are restarted where they happen. When the
scheduler takes the job away (time limit, pre-emption) the runs save, and the job queues again.
submitit pickles the task, so it holds plain values and imports are cheap.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regatta.config.expand import protocol_id, trained_runs
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, DeviceError, EnvironmentFault, RegattaError
from regatta.core.files import files_below
from regatta.core.signals import StopFlag
from regatta.orchestrate.causes import Failure, failure_of
from regatta.orchestrate.devices import Machine, this_machine
from regatta.orchestrate.finish import CLI_COMMAND, finish_study, report_is_current
from regatta.orchestrate.local import LocalLauncher
from regatta.orchestrate.plan import (
    WORKER_COMMAND,
    Task,
    TaskKind,
    is_prepared,
    judge_part,
    plan_study,
    study_for_ranks,
)
from regatta.orchestrate.rank_crew import Crew
from regatta.orchestrate.rank_places import slurm_place
from regatta.orchestrate.ranks import RankLauncher, follow_first
from regatta.orchestrate.run_states import (
    write_failed,
    write_lost,
    write_requeued,
    write_settled,
)
from regatta.orchestrate.slurm_facts import run_slurm
from regatta.orchestrate.snapshot import status_of
from regatta.orchestrate.supervisor import Supervisor
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import LIVE
from regatta.records.submission import close_submission

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

Part = Literal["prepare", "train", "judge", "finish", "close"]
WARNING_SIGNAL = signal.SIGUSR2
"""What submitit has Slurm send before the time limit."""


@dataclass(frozen=True)
class ClusterTask:
    """What one job does of the study in `folder`.

    part: `finish` judges what is left, compares and reports; `close` only ends the submission.
    token: of the submission that it belongs to.
    launched: all runs of the launch; others of the study are left alone.
    run_ids: of `train`, the runs that share the job's devices.
    fold, shard: of `judge`, which share of which samples.
    """

    folder: Path
    part: Part
    token: str
    launched: tuple[str, ...]
    run_ids: tuple[str, ...] = ()
    fold: int | None = None
    shard: str = "1/1"
    worker_command: tuple[str, ...] = WORKER_COMMAND
    cli_command: tuple[str, ...] = CLI_COMMAND

    def __call__(self) -> None:
        """Work, then leave with an exit code, or have the job queued again."""
        queue_again: Any = signal.getsignal(WARNING_SIGNAL)
        stop = _listen()
        folder = StudyFolder(self.folder)
        try:
            before = self._marks(folder)
            code = self._work(folder, stop)
        except RegattaError as error:
            if _is_first_rank():
                self._give_up(folder, error)
                self._close(folder)
            raise SystemExit(error.exit_code) from error
        if stop.requested and _is_first_rank() and not self._is_done(folder):
            by_scheduler = stop.signal_name != "SIGINT"
            if by_scheduler and self._may_queue_again(folder, before, stop):
                self._queue_again(folder, queue_again)
        self._close(folder)
        # srun may end the step with the first task that fails, while the first rank still saves.
        raise SystemExit(code if _is_first_rank() else 0)

    def _give_up(self, folder: StudyFolder, error: RegattaError) -> None:
        print(f"error: {error}", flush=True)
        for run in map(folder.run, self.run_ids):
            if not run.is_trained():
                write_failed(run, failure_of(error), attempts=_earlier_starts() + 1)

    def _queue_again(self, folder: StudyFolder, queue_again: Any) -> None:
        """Hand the job back; submitit's handler does not return from a success."""
        runs = self._unfinished(folder)
        for run in runs:
            write_requeued(run, times=_earlier_starts() + 1)
        try:
            queue_again(WARNING_SIGNAL, None)
        except (OSError, subprocess.SubprocessError) as error:
            for run in runs:
                write_lost(run, f"saved, but its job could not be queued again: {error}")

    def checkpoint(self) -> DelayedSubmission:
        """What the job does when it starts again: the same, which resumes."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self, folder: StudyFolder, stop: StopFlag) -> int:
        study = folder.study()
        if self.part == "prepare":
            return self._supervisor(folder, study, stop, "prepare", self.launched).prepare()
        if self.part == "train":
            return self._train(folder, study, stop)
        if self.part == "judge":
            return self._judge(folder, study, stop)
        self._settle_the_lost(folder, study)
        return self._finish(folder, study, stop) if self.part == "finish" else 0

    def _settle_the_lost(self, folder: StudyFolder, study: Study) -> None:
        """The last job comes when all others have ended: what they left at work is lost."""
        protocol = protocol_id(study.protocol)
        for run in self._runs(folder):
            state = status_of(run).state
            if state in LIVE and not run.is_trained():
                write_lost(run, "its Slurm job ended without a word of it, see log.txt and slurm/")
            elif state == "queued" and not run.is_trained():
                write_settled(run, protocol, waiting=False)

    def _close(self, folder: StudyFolder) -> None:
        """The last job ends the submission, its own and no later one."""
        if self.part in {"finish", "close"}:
            close_submission(folder.submission, token=self.token)

    def _train(self, folder: StudyFolder, study: Study, stop: StopFlag) -> int:
        if not is_prepared(folder, study):
            print("the data are not prepared, see prepare.log", flush=True)
            return 1
        self._check_settings(study)
        place = slurm_place(folder.path)
        if place is None:
            return self._train_here(folder, study, stop, None)
        if place.rank:
            return follow_first(place, stop)
        with Crew(place, stop) as crew:
            code = self._train_here(folder, study_for_ranks(study, crew.here), stop, crew)
            crew.dismiss(code)
        return code

    def _check_settings(self, study: Study) -> None:
        """ConfigError when the study in the folder is another one than was submitted."""
        foreign = set(self.run_ids) - {spec.run_id for spec in trained_runs(study)}
        if foreign:
            raise ConfigError(
                f"the study has other settings now: {', '.join(sorted(foreign))} is no run of it",
                where=study.name,
                hint="run the same command again, with the settings that are wanted",
            )

    def _train_here(
        self, folder: StudyFolder, study: Study, stop: StopFlag, crew: Crew | None
    ) -> int:
        tasks = [
            replace(task, needs=(), after=())
            for task in self._planned(folder, study)
            if task.kind == "train" and task.run_ids[0] in self.run_ids
        ]
        supervisor = self._supervisor(folder, study, stop, "train", self.run_ids, crew=crew)
        return supervisor.run_only(tasks)

    def _judge(self, folder: StudyFolder, study: Study, stop: StopFlag) -> int:
        task = judge_part(
            folder,
            study,
            fold=self.fold,
            shard=self.shard,
            only=self.launched,
            worker_command=self.worker_command,
        )
        if task is None:
            return 0
        first = self.shard.startswith("1/")
        supervisor = self._supervisor(folder, study, stop, "judge", task.run_ids, speaks=first)
        return supervisor.run_only([task])

    def _planned(self, folder: StudyFolder, study: Study) -> Sequence[Task]:
        return plan_study(folder, study, worker_command=self.worker_command).tasks

    def _finish(self, folder: StudyFolder, study: Study, stop: StopFlag) -> int:
        code = 1
        if is_prepared(folder, study):
            # Failed runs keep their states: there is nothing of them to judge.
            runs = self._runs(folder)
            trained = [run.run_id for run in runs if run.is_trained()]
            code = self._supervisor(folder, study, stop, "judge", trained).run()
            code = code or int(len(trained) < len(runs))
        if stop.requested:
            return stop.exit_code
        done = finish_study(folder, study, stop=stop, echo=_say, command=self.cli_command)
        return code or done

    def _supervisor(
        self,
        folder: StudyFolder,
        study: Study,
        stop: StopFlag,
        kind: TaskKind,
        mine: Collection[str],
        *,
        speaks: bool = True,
        crew: Crew | None = None,
    ) -> Supervisor:
        machine = _allocated_machine(study)
        launch = study.launch.model_copy(
            update={"device_ids": None, "max_parallel": 1 if crew else None, "on": "local"}
        )
        make = partial(RankLauncher, crew=crew) if crew else LocalLauncher
        return Supervisor(
            folder,
            study,
            make(machine, launch, runs=max(1, len(self.run_ids))),
            stop=stop,
            say=_say,
            tick=None,
            only=(kind,),
            leave_out=[s.run_id for s in trained_runs(study) if s.run_id not in mine],
            worker_command=self.worker_command,
            speaks=speaks,
            earlier_starts=_earlier_starts(),
        )

    def _is_done(self, folder: StudyFolder) -> bool:
        study = folder.study()
        if self.part == "prepare":
            return is_prepared(folder, study)
        if self.part == "finish":
            return report_is_current(folder, study)
        return self.part == "close" or not self._unfinished(folder)

    def _unfinished(self, folder: StudyFolder) -> list[RunFolder]:
        """Runs that this job has not brought as far as it should."""
        if self.part == "train":
            return [run for run in map(folder.run, self.run_ids) if not run.is_trained()]
        study = folder.study()
        if self.part == "prepare":
            return [run for run in self._runs(folder) if not run.is_trained()]
        protocol = protocol_id(study.protocol)
        return [r for r in self._runs(folder) if r.is_trained() and not r.is_judged(protocol)]

    def _runs(self, folder: StudyFolder) -> list[RunFolder]:
        return [folder.run(run_id) for run_id in self.launched]

    def _may_queue_again(self, folder: StudyFolder, before: object, stop: StopFlag) -> bool:
        """Whether the job still belongs to the queue, and the time that it had was of any use."""
        if _queue_state() not in {"RUNNING", ""}:
            return False  # cancelled by a person
        if self.part == "finish" and not self._unfinished(folder):
            return True  # what is left takes minutes, and keeps nothing in between
        if stop.signal_name != WARNING_SIGNAL.name or self._marks(folder) != before:
            return True
        for run in self._unfinished(folder):
            write_failed(run, _TOO_SHORT, attempts=_earlier_starts() + 1)
        return False

    def _marks(self, folder: StudyFolder) -> object:
        """Anything saved that a job which starts again would not have to do again."""
        runs = [folder.run(run_id) for run_id in self.run_ids or self.launched]
        return [
            sorted(
                (str(path), facts.st_mtime_ns)
                for place in (run.checkpoints, run.path / "predictions")
                for path, facts in files_below(place)
            )
            for run in runs
        ]


_TOO_SHORT = Failure(
    "timed_out",
    "the job's time was over before anything new was saved, so another one would fare no better",
    "raise launch.time, or save more often (train.checkpoint_every_steps)",
    None,
    retry=False,
)


def _listen() -> StopFlag:
    """A flag that the scheduler's signals set, each only once: it repeats them, a person not."""
    stop = StopFlag()

    def ask(number: int, _frame: object) -> None:
        if not stop.requested:
            stop.request(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT, WARNING_SIGNAL):
        signal.signal(number, ask)
    return stop


def _earlier_starts() -> int:
    """How often Slurm has started this job before: it queues again under the same number."""
    counted = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(counted) if counted.isdigit() else 0


def _is_first_rank() -> bool:
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _allocated_machine(study: Study) -> Machine:
    """What the job was given: Slurm binds to cores only where the cluster was set up to."""
    machine = this_machine(study.launch)
    gpus = os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS")
    if gpus and study.launch.device != "cpu" and not machine.gpus:
        raise DeviceError(
            f"Slurm gave this job GPU {gpus}, but none is usable: {machine.gpu_trouble}",
            where=socket.gethostname(),
            hint="look there with: regatta doctor; or ask for none with launch.device=cpu",
        )
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return replace(machine, cores=int(given)) if given.isdigit() else machine


def _queue_state() -> str:
    """This job's state in Slurm's words; "" when Slurm does not say."""
    given = os.environ
    job = given.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in given:
        # The last element of an array has the array's own number, which means all of them.
        job = f"{given['SLURM_ARRAY_JOB_ID']}_{given.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        return run_slurm("squeue", "-h", "-a", "-j", job, "-o", "%T").strip()
    except EnvironmentFault:
        return ""


def _say(text: str) -> None:
    print(text, flush=True)
