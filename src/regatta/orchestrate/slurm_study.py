"""A study on a Slurm cluster, seen from where it was launched: submit once, then look on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from regatta.config.expand import protocol_id, trained_runs, with_dependants
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, EnvironmentFault, LeaseHeldError
from regatta.core.registry import unknown_name
from regatta.core.signals import StopFlag
from regatta.orchestrate.finish import CLI_COMMAND, finish_study
from regatta.orchestrate.plan import ALL_KINDS, WORKER_COMMAND, Plan, TaskKind, plan_study
from regatta.orchestrate.run_states import (
    append_note,
    discard_run,
    write_lost,
    write_settled,
    write_stopped,
)
from regatta.orchestrate.slurm import (
    Job,
    ask_to_leave,
    cancel_by_name,
    last_words,
    most_at_once,
    queued_jobs,
    release,
    submit_study,
)
from regatta.orchestrate.snapshot import StudyView, status_of, with_unknown, without_jobs
from regatta.records.lease import study_lease
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import LIVE
from regatta.records.submission import (
    Submission,
    close_submission,
    open_submission,
)

Say = Callable[[str], None]
QUEUE_SECONDS = 10.0
"""Between two looks at the queue; the runs' own records are read every second."""
TICK_SECONDS = 1.0
PATIENCE = 6
"""Looks at the queue that may fail in a row before this gives up looking, not the jobs."""
LEAVE_LOOK_SECONDS = 3.0
LOOK_SECONDS = 15.0
"""To wait for an answer, for an observer who can ask again."""
STUCK_SECONDS = 90.0
"""After jobs were ended at once: Slurm itself needs KillWait, 30 s by default."""
EXTRA_SECONDS = 30.0
"""Beyond the study's grace time until jobs that were asked to leave are cancelled."""


def run_on_slurm(
    folder: StudyFolder,
    study: Study,
    *,
    stop: StopFlag,
    echo: Say,
    tick: Callable[[], None] | None = None,
    restart: Sequence[str] = (),
    only: tuple[TaskKind, ...] = ALL_KINDS,
    leave_out: Collection[str] = frozenset(),
    worker_command: tuple[str, ...] = WORKER_COMMAND,
    cli_command: tuple[str, ...] = CLI_COMMAND,
    detach: bool = False,
) -> int:
    """Have a cluster do what is missing of a study, and look on until it is over.

    Args: as of `supervise.run_study`, and
        detach: leave once the jobs are submitted.
    Returns:
        0 all that was asked is done (or, detached, submitted), 1 some failed, 130 or 143 stopped.
    Raises:
        LeaseHeldError, EnvironmentFault, ConfigError, UnknownNameError.
    """

    def say(text: str) -> None:
        append_note(folder.supervisor_log, text)
        echo(text)

    runs = [folder.run(s.run_id) for s in trained_runs(study) if s.run_id not in leave_out]
    with study_lease(folder.lease):
        submission = _adopted(folder, runs, restart, say)
        if submission is None:
            for run_id in with_dependants(trained_runs(study), restart):
                _discard(folder, study, run_id, say)
            plan = _plan(folder, study, only, leave_out, worker_command)
            if not plan.tasks:
                say(f"{study.name}: nothing to do for its {len(runs)} runs")
                if "judge" not in only:
                    return 0
                return finish_study(folder, study, stop=stop, echo=echo, command=cli_command)
            _settle(runs, plan, protocol_id(study.protocol))
            submission = submit_study(
                folder,
                study,
                plan,
                launched=[run.run_id for run in runs],
                judges="judge" in only,
                worker_command=worker_command,
                cli_command=cli_command,
            )
            told = ", ".join(f"{s.name} {s.job_id} ({len(s.elements)})" for s in submission.stages)
            say(f"{study.name}: submitted to Slurm: {told}")
        if detach and not stop.requested:
            echo(f"{study.name}: look on with: regatta watch; end it with: regatta stop")
            return 0
        watch = _Watch(folder, study, submission, stop, say, tick)
        if not watch.until_over():
            return 0
        code = _conclude(folder, study, runs, only, stop, say, submission)
        if code or "judge" not in only:
            return code
        # The last job has done it, unless it failed at it: then the error is told here.
        return finish_study(folder, study, stop=stop, echo=echo, command=cli_command)


def _discard(folder: StudyFolder, study: Study, run_id: str, say: Say) -> None:
    known = [spec.run_id for spec in trained_runs(study)]
    if run_id not in known:
        raise unknown_name("run", run_id, known, where=folder.path)
    discard_run(folder.run(run_id))
    say(f"{run_id}: starts over, earlier checkpoints and results are deleted")


def _plan(
    folder: StudyFolder,
    study: Study,
    only: tuple[TaskKind, ...],
    leave_out: Collection[str],
    worker_command: tuple[str, ...],
) -> Plan:
    shards = most_at_once(study.launch)
    whole = plan_study(
        folder, study, judge_shards=shards, worker_command=worker_command, skip=leave_out
    )
    return Plan(whole.of_kind(*only))


def _settle(runs: Sequence[RunFolder], plan: Plan, protocol: str) -> None:
    planned = plan.run_ids(*ALL_KINDS)
    for run in runs:
        write_settled(run, protocol, waiting=run.run_id in planned)


def _adopted(
    folder: StudyFolder, runs: Sequence[RunFolder], restart: Sequence[str], say: Say
) -> Submission | None:
    """The submission of an earlier launch whose jobs are still there; it is released again."""
    submission = open_submission(folder.submission)
    if submission is None:
        return None
    if submission.state == "submitting":
        # That launch died before all its jobs were known; none of them may start.
        cancel_by_name(submission.token)
    jobs = queued_jobs(submission) if submission.state == "submitted" else []
    if not jobs:
        close_submission(folder.submission, token=submission.token)
        return None
    if restart:
        raise _still_there(folder, len(jobs), "--restart waits for them")
    release(submission)
    say(f"{folder.path.name}: {len(jobs)} Slurm jobs of it are there already; nothing is submitted")
    known = {run_id for stage in submission.stages for e in stage.elements for run_id in e}
    new = [run.run_id for run in runs if not run.is_trained() and run.run_id not in known]
    if new:
        say(f"{', '.join(new)}: not among them; run the same command again when they are done")
    return submission


def _still_there(folder: StudyFolder, jobs: int, why: str) -> LeaseHeldError:
    return LeaseHeldError(
        f"{jobs} Slurm jobs of this study are still there; {why}",
        where=folder.submission,
        hint=f"look on with regatta watch, or end them with: regatta stop {folder.path}",
    )


def refuse_other_settings(folder: StudyFolder, study: Study) -> None:
    """LeaseHeldError when jobs of a cluster work on the study as it was: asked before it is saved.

    Raises:
        EnvironmentFault: there may be such jobs, but the queue cannot be asked.
    """
    submission = open_submission(folder.submission)
    if submission is None or not folder.study_yaml.is_file():
        return
    before = folder.study()
    same = [spec.run_id for spec in trained_runs(before)] == [
        spec.run_id for spec in trained_runs(study)
    ] and protocol_id(before.protocol) == protocol_id(study.protocol)
    if same:
        return
    jobs = queued_jobs(submission)
    if jobs:
        raise _still_there(folder, len(jobs), "they work with other settings than these")
    close_submission(folder.submission, token=submission.token)


class _Watch:
    """Looks at records and queue until no job is left, and passes a stop on."""

    def __init__(
        self,
        folder: StudyFolder,
        study: Study,
        submission: Submission,
        stop: StopFlag,
        say: Say,
        tick: Callable[[], None] | None,
    ) -> None:
        self._folder, self._study, self._submission = folder, study, submission
        self._stop, self._say, self._tick = stop, say, tick
        self._told: set[str] = set()
        self._failures = 0
        self._jobs: list[Job] = []

    def until_over(self) -> bool:
        """True once no job is left; False when the terminal is gone and the jobs go on alone."""
        look_at = 0.0
        while True:
            if self._stop.requested:
                if self._stop.signal_name == "SIGHUP":
                    return False
                self._leave()
                return True
            if time.monotonic() >= look_at:
                if self._look() and not self._jobs:
                    return True
                look_at = time.monotonic() + QUEUE_SECONDS
            if self._tick:
                self._tick()
            if open_submission(self._folder.submission) is None:
                look_at = 0.0  # its last job has just closed it
            time.sleep(TICK_SECONDS)

    def _look(self) -> bool:
        """Whether the queue could be asked."""
        try:
            self._jobs = queued_jobs(self._submission, seconds=LOOK_SECONDS)
        except EnvironmentFault as error:
            self._failures += 1
            self._tell_silence(error)
            return False
        if self._failures:
            self._say("the scheduler answers again")
        self._failures = 0
        for job in self._jobs:
            self._tell(job)
        return True

    def _tell_silence(self, error: EnvironmentFault) -> None:
        """Nobody knows what became of the jobs; they are not called failed for that.

        Raises:
            EnvironmentFault: after so many looks in vain.
        """
        if self._failures == 1:
            self._say(f"{error.what}; how its jobs stand is unknown, asking again")
        if self._failures >= PATIENCE:
            raise EnvironmentFault(
                f"how the Slurm jobs of {self._folder.path.name} stand is unknown, they go on "
                f"without this: {error.what}",
                where=self._folder.submission,
                hint="run the same command again: it looks on, and submits nothing twice",
            ) from error

    def _tell(self, job: Job) -> None:
        """Say once why a job waits, when it is not for its turn."""
        if job.state != "PENDING" or job.reason in _ORDINARY or job.reason in self._told:
            return
        self._told.add(job.reason)
        self._say(f"job {job.job_id} waits: {job.reason} (squeue -j {job.job_id})")

    def _leave(self) -> None:
        """Have all jobs save and leave; end them when they take too long or at a second request.

        Raises:
            EnvironmentFault: the queue cannot be asked, or does not let go of a job.
        """
        self._jobs = queued_jobs(self._submission)
        self._say(f"stopping: {len(self._jobs)} jobs save and leave; ask again to end them at once")
        asked_at = time.monotonic()
        ask_to_leave(self._jobs)
        killed_at = float("inf")
        look_at = asked_at + TICK_SECONDS
        while self._jobs:
            now = time.monotonic()
            late = now >= asked_at + self._study.launch.grace_seconds + EXTRA_SECONDS
            if killed_at == float("inf") and (self._stop.is_urgent or late):
                ask_to_leave(self._jobs, at_once=True)
                killed_at = now
            if now >= killed_at + STUCK_SECONDS:
                raise EnvironmentFault(
                    f"Slurm does not let go of job {', '.join(job.job_id for job in self._jobs)}",
                    hint="its node may be down: look with scontrol show job, then stop again",
                )
            if self._tick:
                self._tick()
            time.sleep(TICK_SECONDS)
            if now >= look_at and self._look():
                # A job that has only just started may not have heard the first time.
                fresh = [job for job in self._jobs if job.state != "COMPLETING"]
                if killed_at == float("inf"):
                    ask_to_leave(fresh)
                look_at = time.monotonic() + LEAVE_LOOK_SECONDS


_ORDINARY = frozenset(
    {"None", "Resources", "Priority", "Dependency", "JobArrayTaskLimit", "BeginTime", "JobHeldUser"}
)


def _conclude(
    folder: StudyFolder,
    study: Study,
    runs: Sequence[RunFolder],
    only: tuple[TaskKind, ...],
    stop: StopFlag,
    say: Say,
    submission: Submission,
) -> int:
    """Close the submission and write the last word on runs whose job left none."""
    close_submission(folder.submission, token=submission.token)
    protocol = protocol_id(study.protocol)
    trains_only = "judge" not in only
    left = [r for r in runs if not (r.is_trained() if trains_only else r.is_judged(protocol))]
    for run in runs:
        status = status_of(run)
        if status.state == "queued" and run in left and stop.requested:
            write_stopped(run, exit_code=None, was_running=False)
        elif status.state in LIVE or (status.state == "queued" and run in left):
            words = last_words(folder, submission, run.run_id)
            write_lost(run, f"its Slurm job ended without a word of it: {words or 'no log'}")
        elif status.state == "queued":
            write_settled(run, protocol, waiting=False)
    if not left:
        return 0
    if stop.requested:
        say(f"stopped, {len(left)} of {len(runs)} runs are left; run again to go on")
        return stop.exit_code
    for run in left:
        status = status_of(run)
        say(
            f"{run.run_id}: {status.state}: {status.cause or ''}: {status.message or ''}"
            + (f"\n  next:  {status.next_step}" if status.next_step else "")
        )
    say(f"{len(left)} of {len(runs)} runs are not done")
    return 1


def refuse_while_submitted(folder: StudyFolder) -> None:
    """LeaseHeldError while jobs of a cluster work on the study, or may: asked before others start.

    A submission whose jobs are gone is closed.
    """
    submission = open_submission(folder.submission)
    if submission is None:
        return
    try:
        jobs = queued_jobs(submission)
    except EnvironmentFault as error:
        raise EnvironmentFault(
            f"Slurm jobs may be at work on this study, and the queue cannot be asked: {error.what}",
            where=folder.submission,
            hint="start this where squeue answers; if those jobs are gone, delete that file",
        ) from error
    if jobs:
        raise _still_there(folder, len(jobs), "nothing else may work on it")
    close_submission(folder.submission, token=submission.token)


def stop_submission(folder: StudyFolder, study: Study, say: Say, *, again: StopFlag) -> None:
    """Have the jobs of a study, if there are any, save and leave.

    Args:
        again: a request here ends them at once.
    Raises:
        EnvironmentFault: the queue cannot be asked from here.
    """
    submission = open_submission(folder.submission)
    if submission is None:
        return
    again.request("SIGINT")
    _Watch(folder, study, submission, again, say, None).until_over()
    runs = [folder.run(spec.run_id) for spec in trained_runs(study)]
    _conclude(folder, study, runs, ALL_KINDS, again, say, submission)


def stop_job_of(folder: StudyFolder, run_id: str, say: Say) -> bool:
    """Have the job that is at one run, or that will be, save and leave; False when there is none.

    Raises:
        ConfigError: the job is at other runs too.
        EnvironmentFault: the queue cannot be asked from here.
    """
    submission = open_submission(folder.submission)
    if submission is None:
        return False
    mine = submission.jobs_of(run_id)
    there = [job for job in queued_jobs(submission) if job.job_id in mine]
    beside = sorted({r for job in there for r in mine[job.job_id] if r != run_id})
    if beside:
        raise ConfigError(
            f"{run_id} shares its job with others, so it cannot be stopped alone",
            where=", ".join(beside),
            hint=f"stop the whole study with: regatta stop {folder.path}",
        )
    deadline = time.monotonic() + folder.study().launch.grace_seconds + EXTRA_SECONDS
    for job in there:
        say(f"{run_id}: asks job {job.job_id} to save and leave")
    waiting, left = all(job.state == "PENDING" for job in there), there
    while left and time.monotonic() < deadline:
        ask_to_leave(left)
        time.sleep(LEAVE_LOOK_SECONDS)
        left = [job for job in queued_jobs(submission) if job.job_id in mine]
    if there and waiting:
        write_stopped(folder.run(run_id), exit_code=None, was_running=False)
    if there:
        say(f"{run_id}: {'still saving' if left else 'stopped'}")
    return bool(there)


def with_queue(folder: StudyFolder) -> Callable[[StudyView], StudyView]:
    """Ask the queue, where there is one, and return what a view of the study becomes by it.

    Jobs that the records name and the queue does not are gone: cancelled by hand, or lost. Of a
    queue that gives no answer nothing follows, so runs without a fresh heartbeat are unknown. A
    laptop that only sees the folder has no queue: then the records alone count.
    """
    submission = open_submission(folder.submission)
    if submission is None or submission.state != "submitted" or shutil.which("squeue") is None:
        return lambda view: view
    try:
        jobs = queued_jobs(submission, seconds=LOOK_SECONDS)
    except EnvironmentFault as error:
        return partial(with_unknown, why=error.what)
    return (lambda view: view) if jobs else without_jobs
