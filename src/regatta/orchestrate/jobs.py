"""A task on its way through the supervisor, and the signs that it is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regatta.orchestrate.causes import Failure
from regatta.orchestrate.local import Launcher
from regatta.orchestrate.plan import Task
from regatta.records.in_hand import read_boards
from regatta.records.run_folder import StudyFolder
from regatta.records.status import ProcessId

DUMP_SECONDS = 1.0
"""Time that a silent worker gets to write its stacks before it is killed."""
JobState = Literal["waiting", "running", "succeeded", "failed", "skipped", "stopped"]


@dataclass
class Job:
    """One task. `attempts` counts starts in this launch; times are monotonic seconds."""

    task: Task
    state: JobState = "waiting"
    attempts: int = 0
    alone: bool = False
    process: ProcessId | None = None
    log_start: int = 0
    life: object = None
    alive_at: float = 0.0
    looked_at: float = 0.0
    silent_since: float | None = None
    has_spoken: bool = False
    memory_was_asked: bool = False
    failure: Failure | None = None

    @property
    def is_over(self) -> bool:
        return self.state not in {"waiting", "running"}

    def may_retry(self, failure: Failure, retries: int) -> bool:
        """Whether the failed attempt is worth another; a try alone is the last one."""
        if not failure.retry or self.alone or not retries:
            return False
        return failure.alone or self.attempts <= retries

    def look(self, folder: StudyFolder, launcher: Launcher, *, limit: float, now: float) -> bool:
        """Look for life; dump and kill what has shown none for `limit` seconds.

        Returns True when its silence has just been found too long.
        """
        self.looked_at = now
        life = signs_of_life(self, folder, launcher)
        if life != self.life and self.silent_since is None:
            self.life, self.alive_at, self.has_spoken = life, now, True
            launcher.reported(self.task.id)
        elif self.silent_since is not None:
            if now - self.silent_since >= DUMP_SECONDS:
                launcher.kill(self.task.id)
        elif now - self.alive_at >= limit or self._holds_a_file(limit):
            self.silent_since = now
            launcher.dump_stacks(self.task.id)
            return True
        return False

    def _holds_a_file(self, seconds: float) -> bool:
        """Whether a decoder has shown no life for so long, whatever else its process does."""
        return any(held.seconds >= seconds for held in read_boards(self.task.in_hand))


def signs_of_life(job: Job, folder: StudyFolder, launcher: Launcher) -> object:
    """Anything that changes while the task works; compared, never read.

    A task that keeps no status of its own (preparing, every shard but the first) must use the CPU.
    One that reads files shows life with each: a first batch may take long to gather.
    """
    reading = [(held.path, held.since) for held in read_boards(job.task.in_hand)]
    files = [folder.run(run_id).status for run_id in job.task.run_ids]
    work = 0
    if not job.task.keeps_status:
        files, work = [job.task.log], launcher.work_done(job.task.id)
    stats = [path.stat() if path.is_file() else None for path in files]
    return work, reading, [(s.st_ino, s.st_mtime_ns, s.st_size) if s else None for s in stats]
