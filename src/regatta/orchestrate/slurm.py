"""The launcher of a Slurm cluster: a study becomes job arrays that wait for each other.

prepare -> train (one array per level of the graph) -> judge -> finish. All are submitted at once,
through submitit, and know what to do without this process (see cluster_task.py), so a laptop that
is closed stops nothing. What was submitted stands in the study's folder before any job may start:
a launch that comes later finds it, and submits nothing twice.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from regatta.config.expand import trained_runs
from regatta.config.launch import time_minutes
from regatta.config.schema import MANY_PROCESSES, LaunchSection, Study
from regatta.core.errors import ConfigError, EnvironmentFault
from regatta.orchestrate.causes import last_error_line
from regatta.orchestrate.cluster_task import ClusterTask
from regatta.orchestrate.plan import Plan, Task, levels
from regatta.orchestrate.slurm_facts import ANSWER_SECONDS, Facts, check_slurm, run_slurm
from regatta.records.run_folder import StudyFolder
from regatta.records.submission import Stage, Submission, write_submission

Say = Callable[[str], None]
DEFAULT_CPUS = 4
"""Of a run, where launch.threads_per_run says nothing."""
MOST_TIMEOUTS = 1_000_000
"""submitit's own count. Ours is whether anything was saved meanwhile."""
_CLUSTER_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_ACCOUNT", "SBATCH_PARTITION")
"""Which cluster, and as whom: the user's own, also where this is started inside a job."""


@dataclass(frozen=True)
class Job:
    """One element of our arrays as Slurm lists it."""

    job_id: str
    """`12_3`, or `12` for a job without an array."""
    state: str
    reason: str
    nodes: str


def submit_study(
    folder: StudyFolder,
    study: Study,
    plan: Plan,
    *,
    launched: Sequence[str],
    judges: bool,
    worker_command: tuple[str, ...],
    cli_command: tuple[str, ...],
) -> Submission:
    """Hand what the plan holds to Slurm; the jobs start once all are recorded.

    Args:
        launched: ids of the runs that this launch works on.
    Raises:
        EnvironmentFault: sbatch refuses; nothing is left in the queue then.
        ConfigError: the launch section asks for what Slurm or this cluster cannot do.
    """
    facts = check_slurm(study.launch)
    _check_path(folder)
    token = f"regatta-{study.name}-{secrets.token_hex(4)}"
    common = ClusterTask(
        folder.path.resolve(),
        "close",
        token,
        tuple(launched),
        worker_command=worker_command,
        cli_command=cli_command,
    )
    rows = plan_rows(study, plan, common, judges=judges, most_in_array=facts.most_in_array)
    submission = Submission(token, "submitting", [], time.time())
    write_submission(folder.submission, submission)
    try:
        stages = _submit_rows(folder, study, rows, facts, token)
        submission = Submission(token, "submitted", stages, submission.submitted_at)
        write_submission(folder.submission, submission)
    except BaseException:
        # Also a job whose number was lost on the way is found by its name. Where the queue cannot
        # be asked the record stays open, and the next launch does this before all else.
        cancel_by_name(token)
        write_submission(folder.submission, submission.with_state("closed"))
        raise
    release(submission)
    return submission


def _check_path(folder: StudyFolder) -> None:
    path = folder.path.resolve()
    if "%" in str(path):
        raise ConfigError(
            "the path of the study holds a %, which Slurm replaces in the names of its logs",
            where=path,
            hint="choose another folder with --runs",
        )


def _submit_rows(
    folder: StudyFolder, study: Study, rows: Sequence[Row], facts: Facts, token: str
) -> list[Stage]:
    """Submit row by row; each waits for all stages of the rows before."""
    stages: list[Stage] = []
    for row in rows:
        before = [stage.job_id for stage in stages]
        for name, tasks in row:
            options = _options(study, tasks, facts) | {"job_name": f"{token}.{name}"}
            # On all rows before: one whose jobs are cancelled is over at once.
            options |= {"dependency": f"afterany:{':'.join(before)}"} if before else {}
            # Held back until all are recorded: whoever dies before that leaves nothing running.
            extra = {} if before else {"hold": True}
            job_id = _submit(folder, name, tasks, options, {**study.launch.slurm_options, **extra})
            stages.append(Stage(name, job_id, [list(task.run_ids) for task in tasks]))
    return stages


Row = list[tuple[str, list[ClusterTask]]]
"""Stages that may run at the same time: the name and the tasks of each array."""


def plan_rows(
    study: Study, plan: Plan, common: ClusterTask, *, judges: bool, most_in_array: int
) -> list[Row]:
    """The stages of a launch, in rows that wait for each other.

    Args:
        common: what all tasks share; its part is replaced.
        most_in_array: elements that one array may have.
    """
    rows: list[Row] = []
    if plan.of_kind("prepare"):
        rows.append([("prepare", [replace(common, part="prepare")])])
    levels_of_training = levels(plan.of_kind("train"))
    for number, level in enumerate(levels_of_training, 1):
        name = "train" if len(levels_of_training) == 1 else f"train{number}"
        tasks = [replace(common, part="train", run_ids=ids) for ids in _packed(study, level)]
        alike: dict[object, list[ClusterTask]] = {}
        for task in tasks:
            alike.setdefault(needs_of(study, task), []).append(task)
        arrays = [part for same in alike.values() for part in _cut(same, most_in_array)]
        rows.append(_named(name, arrays))
    benches = plan.of_kind("judge")
    if judges and len(benches) > 1:
        folds = {spec.run_id: spec.fold for spec in trained_runs(study)}
        shares = [
            replace(common, part="judge", fold=folds[bench.run_ids[0]], shard=bench.shard)
            for bench in benches
        ]
        rows.append(_named("judge", _cut(shares, most_in_array)))
    rows.append([("finish", [replace(common, part="finish" if judges else "close")])])
    return rows


def _cut(tasks: list[ClusterTask], most: int) -> list[list[ClusterTask]]:
    return [tasks[i : i + most] for i in range(0, len(tasks), most)]


def _named(name: str, arrays: list[list[ClusterTask]]) -> Row:
    """`train`, or `train-1`, `train-2` ... for several arrays."""
    if len(arrays) == 1:
        return [(name, arrays[0])]
    return [(f"{name}-{number}", tasks) for number, tasks in enumerate(arrays, 1)]


def stage_sizes(study: Study, plan: Plan, *, most_in_array: int) -> list[tuple[str, int]]:
    """Name and number of jobs of each stage that a launch would submit."""
    common = ClusterTask(Path(), "close", "", ())
    rows = plan_rows(study, plan, common, judges=True, most_in_array=most_in_array)
    return [(name, len(tasks)) for row in rows for name, tasks in row]


def _packed(study: Study, row: Sequence[Task]) -> list[tuple[str, ...]]:
    """Run ids by job: runs that take a share of a device stand in one job together."""
    share = study.launch.devices
    together = max(1, floor(1 / share + 1e-9)) if share < 1 else 1
    ids = [task.run_ids[0] for task in row]
    return [tuple(ids[i : i + together]) for i in range(0, len(ids), together)]


def needs_of(study: Study, task: ClusterTask) -> tuple[int, int, int]:
    """Nodes, processes of each node and devices of each node."""
    launch = study.launch
    if task.part in {"prepare", "close"}:
        return 1, 1, 0
    if task.part != "train":
        return 1, 1, 1
    spec = next(spec for spec in trained_runs(study) if spec.run_id == task.run_ids[0])
    devices = max(1, round(launch.devices))
    many = spec.train.parallel in MANY_PROCESSES
    if launch.nodes > 1 and not many:
        raise ConfigError(
            f"launch.nodes is {launch.nodes}, but {spec.entry.name} is one process",
            hint="set train.parallel=ddp, or launch.nodes=1",
        )
    return launch.nodes, devices if many else 1, devices


def _options(study: Study, tasks: Sequence[ClusterTask], facts: Facts) -> dict[str, Any]:
    """submitit's parameters of one stage."""
    launch, (nodes, processes, devices) = study.launch, needs_of(study, tasks[0])
    together = max(1, len(tasks[0].run_ids))
    cpus = 1 if tasks[0].part == "close" else (launch.threads_per_run or DEFAULT_CPUS) * together
    options = {
        "nodes": nodes,
        "ntasks_per_node": processes,
        "cpus_per_task": cpus,
        # From Slurm 22.05 on, srun does not take this over from the job.
        "srun_args": [f"--cpus-per-task={cpus}"],
        "time": time_minutes(launch.time) if launch.time else facts.minutes,
        "signal_delay_s": launch.signal_seconds,
        "array_parallelism": launch.max_parallel or len(tasks),
        "partition": launch.partition,
        "account": launch.account,
        "qos": launch.qos,
        "constraint": launch.constraint,
        "stderr_to_stdout": True,
    }
    if facts.gpus and devices:
        options["gpus_per_node"] = devices
    if launch.memory_gib_per_run:
        # Of a node: all runs and processes that stand there.
        options["mem"] = f"{ceil(launch.memory_gib_per_run * 1024 * together)}MB"
    # A cluster that uses such keys refuses submitit's own.
    return {"wckey": None, **{key: value for key, value in options.items() if value is not None}}


def _make_own_folder(path: Path) -> None:
    """What stands there is unpickled, so run, by the jobs: nobody else may write it."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise EnvironmentFault(
            "others could put code into the folder of the jobs",
            where=path,
            hint="look at what is in it, then remove it: the next launch makes it anew",
        )


def _submit(
    folder: StudyFolder,
    name: str,
    tasks: Sequence[ClusterTask],
    options: dict[str, Any],
    extra: dict[str, Any],
) -> str:
    """Submit one stage; returns the number of its array."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    jobs_folder = folder.path / "slurm"
    _make_own_folder(jobs_folder)
    executor = submitit.SlurmExecutor(folder=jobs_folder / name, max_num_timeout=MOST_TIMEOUTS)
    # An option of sbatch that is switched off is one that is not there.
    more = {key: value for key, value in extra.items() if value is not False}
    executor.update_parameters(**options, additional_parameters={"requeue": True, **more})
    kept = {key: os.environ[key] for key in _CLUSTER_VARIABLES if key in os.environ}
    try:
        with submitit.helpers.clean_env():
            os.environ.update(kept)
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
        raise _refused(error) from error
    return jobs[0].job_id.partition("_")[0]


def _refused(error: Exception) -> EnvironmentFault:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "error:" in line), lines[0] if lines else "no words")
    return EnvironmentFault(
        f"Slurm refuses the job: {told.removeprefix('sbatch: ').removeprefix('error: ')}",
        where="launch",
        hint="change launch.partition, time, account, qos or slurm_options; "
        "sinfo lists what there is",
    )


def release(submission: Submission) -> None:
    """Let the stages that wait for nothing start, if they are still held."""
    for job_id in submission.job_ids:
        run_slurm("scontrol", "release", job_id, may_fail=True)


def queued_jobs(submission: Submission, *, seconds: float = ANSWER_SECONDS) -> list[Job]:
    """The jobs of the submission that Slurm has still to finish.

    Args:
        seconds: to wait for an answer.
    Raises:
        EnvironmentFault: the queue cannot be asked.
    """
    fields = ("-o", "%i|%T|%r|%N|%j")
    text = run_slurm("squeue", "-h", "-a", "-r", "-u", str(os.getuid()), *fields, seconds=seconds)
    rows = [line.split("|", 4) for line in text.splitlines()]
    mine = [row for row in rows if len(row) == 5 and row[4].startswith(f"{submission.token}.")]
    return [Job(*row[:4]) for row in mine]


def cancel_by_name(token: str) -> None:
    """Take every job of the submission out of the queue, whatever its state.

    Raises:
        EnvironmentFault: the queue cannot be asked, or still holds one that has not begun.
    """
    submission = Submission(token, "submitting", [], 0.0)
    ids = [job.job_id for job in queued_jobs(submission)]
    if not ids:
        return
    run_slurm("scancel", *ids, may_fail=True)
    left = [job.job_id for job in queued_jobs(submission) if job.state == "PENDING"]
    if left:
        raise EnvironmentFault(
            f"Slurm does not take job {', '.join(left)} out of the queue",
            hint="they are held and do not start; run the same command again, which takes them out",
        )


def ask_to_leave(jobs: Sequence[Job], *, at_once: bool = False) -> None:
    """Take out what waits and let what runs save and leave; `at_once` = end it now."""
    waiting = [job.job_id for job in jobs if job.state == "PENDING"]
    running = [job.job_id for job in jobs if job.state != "PENDING"]
    if waiting:
        run_slurm("scancel", *waiting, may_fail=True)
    if running:
        run_slurm("scancel", *([] if at_once else ["--signal=INT"]), *running, may_fail=True)


def last_words(folder: StudyFolder, submission: Submission, run_id: str) -> str:
    """The last error in the output of the run's own job; "" when there is none."""
    stages = {stage.job_id: stage.name for stage in submission.stages}
    for job in submission.jobs_of(run_id):
        folder_name = stages[job.partition("_")[0]]
        return last_error_line(folder.path / "slurm" / folder_name / f"{job}_0_log.out")
    return ""


def most_at_once(launch: LaunchSection) -> int:
    """Jobs that judge side by side."""
    return launch.max_parallel or 1
