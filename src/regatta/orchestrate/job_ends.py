"""What the end of a task means for its runs: done, again, given up, or stopped; and who is told."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, replace

from regatta.config.expand import protocol_id
from regatta.config.schema import Study
from regatta.core.errors import RegattaError
from regatta.core.signals import StopFlag
from regatta.orchestrate.causes import (
    STOPPED_CODES,
    Failure,
    diagnose,
    failure_of,
    lacking_runs,
)
from regatta.orchestrate.jobs import Job
from regatta.orchestrate.local import Ended
from regatta.orchestrate.plan import Task, is_prepared
from regatta.orchestrate.run_states import (
    append_note,
    remember_in_run_json,
    write_failed,
    write_retrying,
    write_settled,
    write_stopped,
)
from regatta.orchestrate.snapshot import status_of
from regatta.records.in_hand import read_boards, remove_boards
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import read_status, write_status


class JobEnds:
    """Judges how tasks ended, and writes the states of the runs that no process has any more."""

    def __init__(
        self,
        folder: StudyFolder,
        study: Study,
        *,
        stop: StopFlag,
        say: Callable[[str], None],
        leave_out: Collection[str],
        speaks: bool,
    ) -> None:
        self._folder, self._study = folder, study
        self._stop, self._say = stop, say
        self._protocol = protocol_id(study.protocol)
        self._given_up: set[str] = set(leave_out)
        self._jobs: dict[str, Job] = {}
        self._speaks = speaks

    def _told(self, task: Task) -> list[RunFolder]:
        """The task's runs, as far as this supervisor writes their states."""
        return [self._folder.run(run_id) for run_id in task.run_ids] if self._speaks else []

    def _refuse_for_good(self, job: Job, error: RegattaError) -> None:
        """Give up what can never start here; the other tasks go on."""
        job.state, job.failure = "failed", failure_of(error)
        self._given_up.update(job.task.run_ids)
        for run in self._told(job.task):
            write_failed(run, job.failure, attempts=job.attempts)
        self._say(f"{job.task.title}: not started: {error}")

    def _lacks_runs(self, job: Job) -> bool:
        """Whether a run that it builds on is not trained; then it has failed, and says so."""
        missing = [i for i in job.task.needed_runs if not self._folder.run(i).is_trained()]
        if missing:
            stopped = any(
                self._jobs[t].state == "stopped" for t in job.task.after if t in self._jobs
            )
            job.state = "skipped"
            self._given_up.update(job.task.run_ids)
            for run in self._told(job.task):
                if stopped:
                    write_stopped(run, exit_code=None, was_running=False)
                else:
                    write_failed(run, lacking_runs(missing), attempts=0)
            self._say(f"{job.task.title}: not started, it needs {', '.join(missing)}")
        return bool(missing)

    def _running(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.state == "running"]

    def _is_shared(self, run_id: str) -> bool:
        """Whether another shard is at work on the run, so that its status belongs to that one."""
        return any(run_id in job.task.run_ids for job in self._running())

    def _on_end(self, job: Job, ended: Ended) -> None:
        runs = self._told(job.task)
        append_note(self._folder.supervisor_log, f"{job.task.id}: exit code {ended.exit_code}")
        if self._has_done_its_work(job.task, ended):
            job.state = "succeeded"
            self._after_success(job, ended)
        elif self._stop.requested or self._was_stopped(job, ended):
            job.state = "stopped"
            self._given_up.update(job.task.run_ids)
            for run in runs:
                if run.is_judged(self._protocol):
                    write_settled(run, self._protocol, waiting=False)
                else:
                    write_stopped(run, exit_code=ended.exit_code, was_running=True)
            if not self._stop.requested:
                self._say(f"{job.task.title}: stopped from outside; run again to go on")
        else:
            self._after_failure(job, ended)

    def _has_done_its_work(self, task: Task, ended: Ended) -> bool:
        if task.kind == "prepare":
            return is_prepared(self._folder, self._study)
        runs = [self._folder.run(run_id) for run_id in task.run_ids]
        if task.kind == "train":
            # A worker may die after its last file: what counts is that the run is complete.
            return all(run.is_trained() for run in runs)
        if all(run.is_judged(self._protocol) for run in runs):
            return True
        # One of several shards cannot complete a run; the last one standing must.
        return ended.exit_code == 0 and task.shard != "1/1"

    def _was_stopped(self, job: Job, ended: Ended) -> bool:
        if job.silent_since is not None:
            return False
        if ended.exit_code in STOPPED_CODES:
            return True
        # torchrun turns its workers' exit codes into 1; their own word on the stop remains.
        states = [status_of(self._folder.run(run_id)).state for run_id in job.task.run_ids]
        return bool(states) and all(state == "interrupted" for state in states)

    def _after_success(self, job: Job, ended: Ended) -> None:
        for run in self._told(job.task):
            if job.task.kind == "train" and ended.peak_gib:
                remember_in_run_json(run, peak_memory_gib=ended.peak_gib)
            self._hand_on(run)

    def _hand_on(self, run: RunFolder, failure: Failure | None = None) -> None:
        """Write the state of a run that a process has just left, well or with a failure."""
        beside = next((j for j in self._running() if run.run_id in j.task.run_ids), None)
        if run.is_judged(self._protocol):
            write_settled(run, self._protocol, waiting=True)
        elif beside and beside.process:
            # The process that wrote last is gone; another shard still has the run.
            told = replace(status_of(run), state="running", process=asdict(beside.process))
            write_status(run.status, told)
        elif failure:
            write_retrying(run, failure)
        else:
            write_settled(run, self._protocol, waiting=True)

    def _after_failure(self, job: Job, ended: Ended) -> None:
        runs = self._told(job.task)
        spoken = [*map(status_of, runs)] or [read_status(self._folder.prepare_status)]
        told = next((status for status in spoken if status.state == "failed"), None)
        failure = diagnose(
            ended,
            status=told,
            log=job.task.log,
            log_start=job.log_start,
            stalled_seconds=None if job.silent_since is None else self._study.launch.stall_seconds,
            held=read_boards(job.task.in_hand),
        )
        remove_boards(job.task.in_hand)
        failure = failure.after(job.failure)
        job.failure, where = failure, job.task.title
        retries = self._study.launch.retries
        if job.may_retry(failure, retries):
            job.state, job.alone = "waiting", failure.alone
            for run in runs:
                self._hand_on(run, failure)
            again = (
                "again, alone" if failure.alone else f"again ({job.attempts} of {retries} restarts)"
            )
            self._say(f"{where}: {failure.cause}: {failure.message}; starting {again}")
            return
        job.state = "failed"
        if len(job.task.run_ids) > 1 and failure.file is None:
            # One of them may be at fault for all: each gets a judge of its own.
            for run in runs:
                self._hand_on(run, failure)
            self._say(f"{where}: {failure.cause}: {failure.message}; judging the runs one by one")
            return
        for run in runs:
            self._given_up.add(run.run_id)
            write_failed(run, failure, attempts=job.attempts)
        self._say(
            f"{where}: failed: {failure.cause}: {failure.message}\n  next:  {failure.next_step}"
        )
