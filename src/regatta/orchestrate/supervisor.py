"""The loop over a study's tasks: start, watch, restart, stop; and the last word on each run."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from regatta.config.expand import trained_runs
from regatta.config.schema import Study
from regatta.core.errors import DiskError, EnvironmentFault, RecordError
from regatta.core.files import keep_in_place, require_in_place
from regatta.core.signals import StopFlag
from regatta.orchestrate.causes import Failure, failure_of
from regatta.orchestrate.job_ends import JobEnds
from regatta.orchestrate.jobs import Job, signs_of_life
from regatta.orchestrate.local import Launcher
from regatta.orchestrate.plan import ALL_KINDS, Plan, Task, TaskKind, plan_study
from regatta.orchestrate.run_states import (
    SUPERVISED_VARIABLE,
    append_note,
    kept_threads,
    remember_in_run_json,
    write_abandoned,
    write_failed,
    write_settled,
    write_starting,
    write_stopped,
)
from regatta.orchestrate.snapshot import status_of
from regatta.records.changed_parts import withdraw_changed
from regatta.records.clip_pool import small_shared_memory
from regatta.records.in_hand import BOARD_VARIABLE, remove_boards
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import LIVE

TICK_SECONDS = 0.25
DISPLAY_SECONDS = 1.0
DISPLAY_SHARE = 0.004
"""Of this process's time that drawing may take: a display of many runs is drawn less often."""
LOOK_SECONDS = 1.0
"""CPU time of a process tree is asked for at most this often: it reads the whole process table."""


class Supervisor(JobEnds):
    """Drives one study's tasks through a launcher; owns the states of runs that have no worker."""

    def __init__(
        self,
        folder: StudyFolder,
        study: Study,
        launcher: Launcher,
        *,
        stop: StopFlag,
        say: Callable[[str], None],
        tick: Callable[[], None] | None,
        only: tuple[TaskKind, ...],
        leave_out: Collection[str],
        worker_command: tuple[str, ...],
        speaks: bool = True,
        earlier_starts: int = 0,
    ) -> None:
        """
        Args:
            earlier_starts: of the same job, by a scheduler that queued it again.
            speaks: whether the runs' states are written; not by one of several supervisors that
                judge the same runs.
        """
        super().__init__(folder, study, stop=stop, say=say, leave_out=leave_out, speaks=speaks)
        self._launcher, self._tick = launcher, tick
        self._only, self._worker_command = only, worker_command
        run_ids = [spec.run_id for spec in trained_runs(study)]
        self._runs = [folder.run(run_id) for run_id in run_ids if run_id not in leave_out]
        self._compiles = {s.run_id for s in trained_runs(study) if s.train.compile}
        self._earlier_starts = earlier_starts
        self._tick_due = 0.0
        for path in [folder.path, *(run.path for run in self._runs)]:
            if path.is_dir():
                keep_in_place(path)

    def run(self) -> int:
        """Prepare, train, judge; then judge one by one what could not be judged together.

        Raises:
            EnvironmentFault: this machine or its disk does not let it go on; no worker is left.
        """
        try:
            return self._run()
        except EnvironmentFault as error:
            self._abandon(error)
            raise

    def _abandon(self, error: EnvironmentFault) -> None:
        """End what is at work, since nobody would look after it, and say why in its status."""
        for job in self._running():
            self._launcher.terminate(job.task.id)
        deadline = time.monotonic() + self._study.launch.grace_seconds
        while self._running() and time.monotonic() < deadline and not self._stop.is_urgent:
            for ended in self._launcher.wait(TICK_SECONDS):
                self._jobs[ended.task_id].state = "stopped"
        self._launcher.close()
        for run in self._runs if self._speaks else ():
            if status_of(run).state in {"queued", *LIVE}:
                write_abandoned(run, failure_of(error))

    def _run(self) -> int:
        self._withdraw_changed()
        plan = self._plan()
        self._announce(plan)
        self._settle(plan)
        if plan.of_kind("prepare"):
            prepared = self._execute(plan.of_kind("prepare"))["prepare"]
            if prepared.state != "succeeded":
                return self._give_up_all(prepared.failure) if prepared.failure else self._conclude()
            plan = self._plan()
            self._settle(plan)
        if not self._stop.requested:
            self._execute(plan.tasks)
        if not self._stop.requested and "judge" in self._only and self._unjudged():
            self._execute(self._plan(judge_separately=True).of_kind("judge"))
        return self._conclude()

    def run_only(self, tasks: Sequence[Task]) -> int:
        """Do these tasks, whatever else the study lacks.

        Returns:
            0 when all have succeeded, 1 when not, 130 or 143 when stopped.
        """
        self._settle(Plan(tuple(tasks)))
        jobs = self._execute(tasks)
        if self._stop.requested:
            return self._stop.exit_code
        return int(any(job.state != "succeeded" for job in jobs.values()))

    def prepare(self) -> int:
        """Read the data, when that is to be done; the runs wait for what comes after.

        Returns:
            0, 2 or 3 when the data could not be prepared, 130 or 143 when stopped.
        """
        tasks = self._plan().of_kind("prepare")
        if not tasks:
            return 0
        prepared = self._execute(tasks)["prepare"]
        if prepared.state == "succeeded":
            return 0
        return self._give_up_all(prepared.failure) if prepared.failure else self._stop.exit_code

    def _plan(self, *, judge_separately: bool = False) -> Plan:
        whole = plan_study(
            self._folder,
            self._study,
            judge_shards=self._launcher.judge_shards(min(1, self._study.launch.devices)),
            worker_command=self._worker_command,
            judge_separately=judge_separately,
            skip=self._given_up,
        )
        return Plan(whole.of_kind(*self._only))

    def _announce(self, plan: Plan) -> None:
        if not plan.tasks:
            self._say(f"{self._study.name}: nothing to do for its {len(self._runs)} runs")
            return
        parts = ["prepare the data"] if plan.of_kind("prepare") else []
        for kind in ("train", "judge"):
            count = len(plan.run_ids(kind))
            parts += [f"{kind} {count}"] if count else []
        self._say(
            f"{self._study.name}: {', '.join(parts)} of {len(self._runs)} runs; "
            f"{self._launcher.describe()}"
        )
        launch = self._study.launch
        trouble = small_shared_memory(int(launch.share_gib * 2**30))
        if trouble and launch.share and plan.of_kind("train"):
            self._say(trouble)

    def _withdraw_changed(self) -> None:
        """Have judged again what was changed or lost after it was judged."""
        for run in self._runs if self._speaks and "judge" in self._only else ():
            for path in withdraw_changed(run.predictions(self._protocol)):
                self._say(f"{run.run_id}: {path.name} was changed after judging; judging it again")

    def _settle(self, plan: Plan) -> None:
        planned = plan.run_ids(*ALL_KINDS)
        for run in self._runs if self._speaks else ():
            write_settled(run, self._protocol, waiting=run.run_id in planned)

    def _unjudged(self) -> list[str]:
        return [
            run.run_id
            for run in self._runs
            if run.is_trained()
            and not run.is_judged(self._protocol)
            and run.run_id not in self._given_up
        ]

    def _give_up_all(self, failure: Failure) -> int:
        told = replace(failure, message=f"the data could not be prepared: {failure.message}")
        for run in self._runs:
            if not run.is_judged(self._protocol):
                write_failed(run, told, attempts=0)
        return failure.exit_code if failure.exit_code in {2, 3} else 1

    def _conclude(self) -> int:
        left = [run for run in self._runs if self._is_left(run)]
        for run in self._runs:
            if status_of(run).state in {"queued", *LIVE}:
                if run in left:
                    write_stopped(run, exit_code=None, was_running=False)
                else:
                    write_settled(run, self._protocol, waiting=False)
        if not left:
            return 0
        if self._stop.requested:
            self._say(
                f"stopped, {len(left)} of {len(self._runs)} runs are left; run again to go on"
            )
            return self._stop.exit_code
        self._say(f"{len(left)} of {len(self._runs)} runs are not done")
        return 1

    def _is_left(self, run: RunFolder) -> bool:
        """Whether the run still lacks what this launch was asked to do."""
        if "judge" not in self._only:
            return not run.is_trained()
        asked = "train" in self._only or run.is_trained()
        return asked and not run.is_judged(self._protocol)

    def _execute(self, tasks: Sequence[Task]) -> dict[str, Job]:
        """Run tasks until each is over or a stop was carried out."""
        self._jobs = {task.id: Job(task) for task in tasks}
        while not all(job.is_over for job in self._jobs.values()):
            if self._stop.requested:
                self._stop_all()
                break
            require_in_place(self._folder.path)
            self._start_ready()
            self._step()
            self._check_silence()
        return self._jobs

    def _step(self) -> None:
        for ended in self._launcher.wait(TICK_SECONDS):
            self._on_end(self._jobs[ended.task_id], ended)
        if self._tick and time.monotonic() >= self._tick_due:
            begun = time.process_time()
            self._tick()
            spent = time.process_time() - begun
            self._tick_due = time.monotonic() + max(DISPLAY_SECONDS, spent / DISPLAY_SHARE)

    def _start_ready(self) -> None:
        one_is_alone = any(job.alone for job in self._running())
        refused: set[object] = set()
        # What must run alone comes last, or it would hold up everything else.
        for job in sorted(self._jobs.values(), key=lambda job: job.alone):
            if one_is_alone:
                return
            demand = (job.task.kind, job.task.resources.devices, job.alone)
            if job.state != "waiting" or demand in refused or not self._is_ready(job):
                continue
            try:
                refusal = self._launcher.refusal(job.task, alone=job.alone)
            except EnvironmentFault as error:
                self._refuse_for_good(job, error)
                continue
            if refusal is None:
                one_is_alone = self._begun(job) and job.alone
            elif refusal.is_memory:
                if not job.memory_was_asked:
                    job.memory_was_asked = True
                    self._say(f"{job.task.title}: waits, {refusal.reason}")
                # Costly tasks keep their turn: smaller ones must not eat the memory they wait for.
                return
            else:
                refused.add(demand)

    def _begun(self, job: Job) -> bool:
        """Start it; what only this job cannot get over costs no other its work."""
        try:
            self._begin(job)
        except DiskError:
            raise
        except (EnvironmentFault, RecordError) as error:
            self._refuse_for_good(job, error)
            return False
        return True

    def _is_ready(self, job: Job) -> bool:
        """Whether all it waits for is over; skips it when it lacks what it needs."""
        if any(
            not self._jobs[i].is_over for i in (*job.task.needs, *job.task.after) if i in self._jobs
        ):
            return False
        lacking = any(self._jobs[i].state != "succeeded" for i in job.task.needs if i in self._jobs)
        if not lacking and self._lacks_runs(job):
            return False
        if job.task.kind == "judge":
            job.task = job.task.for_runs(self._unjudged())
            lacking = lacking or not job.task.run_ids
        if lacking:
            job.state = "skipped"
        return not lacking

    def _begin(self, job: Job) -> None:
        task, job.attempts = job.task, job.attempts + 1
        threads = self._launcher.threads_for(task)
        for run in self._told(task):
            if task.kind == "train":
                threads = kept_threads(run) or threads
                remember_in_run_json(run, threads=threads)
            if not self._is_shared(run.run_id):
                write_starting(run, phase=task.kind, attempts=self._earlier_starts + job.attempts)
        remove_boards(task.in_hand)
        env = {
            **task.env,
            SUPERVISED_VARIABLE: str(self._folder.path.resolve()),
            BOARD_VARIABLE: str(task.in_hand),
        }
        job.log_start = task.log.stat().st_size if task.log.is_file() else 0
        job.process = self._launcher.start(replace(task, env=env), threads=threads)
        job.state, job.silent_since, job.has_spoken = "running", None, False
        job.life, job.alive_at = signs_of_life(job, self._folder, self._launcher), time.monotonic()
        append_note(
            self._folder.supervisor_log,
            f"{task.id}: attempt {job.attempts}, process {job.process.pid}, {threads} threads",
        )

    def _check_silence(self) -> None:
        """Dump and kill what has been silent for too long; its restart follows in `_on_end`."""
        limit, now = self._study.launch.stall_seconds, time.monotonic()
        for job in self._running():
            # One that has not spoken yet is asked each time: the next start may wait for it.
            is_new = job.task.keeps_status and not job.has_spoken
            if not is_new and now - job.looked_at < LOOK_SECONDS:
                continue
            if job.look(self._folder, self._launcher, limit=limit, now=now):
                self._say(f"{job.task.title}: no sign of life for {limit:.0f} s, ending it")

    def _stop_all(self) -> None:
        """Ask tasks to save and leave; kill them after the grace time or a second request."""
        running, grace = self._running(), self._study.launch.grace_seconds
        if running:
            self._say(
                f"stopping: {len(running)} processes save and leave (at most {grace:.0f} s); "
                "ask again to end them at once"
            )
        for job in running:
            self._launcher.terminate(job.task.id)
        deadline = time.monotonic() + grace
        while self._running():
            if time.monotonic() >= deadline or self._stop.is_urgent:
                for job in self._running():
                    self._launcher.kill(job.task.id)
            self._step()
        for job in self._jobs.values():
            if job.state == "waiting":
                job.state = "stopped"
