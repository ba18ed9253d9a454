"""What all that is missing of a study takes on this machine, and what of it does not fit."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor

from regatta.config.expand import trained_runs
from regatta.config.schema import LaunchSection, Study
from regatta.core.errors import RecordError
from regatta.orchestrate.devices import GIB, DevicePool, Machine
from regatta.orchestrate.estimates import Estimate
from regatta.orchestrate.plan import Plan, Task

_SLACK = 1e-9


@dataclass(frozen=True)
class Totals:
    """Of all that is still to do, on this machine. Lists in `unknown` name what a number lacks."""

    seconds: float | None
    at_once: int
    host_gib: float | None
    host_free_gib: float
    device_gib: float | None
    device_free_gib: float | None
    disk_bytes: int | None
    disk_free_bytes: int
    unknown: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def finish_seconds(
    tasks: Sequence[Task], seconds: Mapping[str, float], make_pool: Callable[[], DevicePool]
) -> float:
    """When all tasks are over, if each starts as soon as what it waits for is over and it has a
    place (list scheduling, Graham 1966).

    Args:
        seconds: of every task, by id.
    """
    pool, ids, now, done = make_pool(), {task.id for task in tasks}, 0.0, set()
    waiting, running = list(tasks), []
    while waiting or running:
        left = []
        for number, task in enumerate(waiting):
            is_ready = all(i in done or i not in ids for i in (*task.needs, *task.after))
            place = pool.take(task.resources.devices) if is_ready else None
            if place is None:
                left.append(task)
                continue
            heapq.heappush(running, (now + seconds[task.id], number, task.id, task, place))
        waiting = left
        if not running:
            raise RecordError(f"{len(waiting)} tasks wait for each other, or fit no place")
        now, _, name, task, place = heapq.heappop(running)
        pool.give_back(place, task.resources.devices)
        done.add(name)
    return now


def total(
    study: Study,
    plan: Plan,
    estimates: Mapping[str, Estimate],
    *,
    machine: Machine,
    make_pool: Callable[[], DevicePool],
    disk_free_bytes: int,
) -> Totals:
    """What all that is missing of the study takes here, and what of it does not fit."""
    of_run = {spec.run_id: estimates[spec.entry.name] for spec in trained_runs(study)}
    train = plan.of_kind("train")
    unknown: dict[str, list[str]] = {}

    def known(what: str, values: dict[str, float | None]) -> list[float]:
        lacking = list(dict.fromkeys(name for name, value in values.items() if value is None))
        if lacking:
            unknown[what] = lacking
        return sorted((v for v in values.values() if v is not None), reverse=True)

    todo = [of_run[task.run_ids[0]] for task in train]
    judged = [of_run[run_id] for task in plan.of_kind("judge") for run_id in task.run_ids]
    known("time", {e.entry: e.train_seconds for e in todo} | _lacking_judge(judged))
    pool = make_pool()
    at_once = min(pool.at_once(study.launch.devices), max(1, len(train)))
    host = known("memory", {e.entry: e.host_gib for e in todo})
    largest = sorted((e.host_gib for e in todo if e.host_gib), reverse=True)[:at_once]
    host_gib = sum(largest) if host and "memory" not in unknown else None
    device_gib, device_free = _device_memory(study.launch, todo, machine, pool, unknown, at_once)
    known("disk", {e.entry: e.kept_bytes for e in todo})
    kept = sum(e.kept_bytes or 0 for e in todo)
    extra = max(
        (e.disk_bytes - e.kept_bytes for e in todo if e.disk_bytes and e.kept_bytes), default=0
    )
    disk = kept + at_once * extra if "disk" not in unknown else None
    totals = Totals(
        None if "time" in unknown else _seconds(plan, of_run, make_pool),
        at_once,
        host_gib,
        machine.memory.available_gib,
        device_gib,
        device_free,
        disk,
        disk_free_bytes,
        unknown,
    )
    return replace(totals, problems=_problems(totals, todo, machine))


def _lacking_judge(judged: list[Estimate]) -> dict[str, float | None]:
    return {e.entry: None for e in judged if e.judge_seconds is None}


def _seconds(
    plan: Plan, of_run: Mapping[str, Estimate], make_pool: Callable[[], DevicePool]
) -> float:
    tasks = [*plan.of_kind("train"), *plan.of_kind("judge")]
    seconds = {}
    for task in tasks:
        if task.kind == "train":
            seconds[task.id] = of_run[task.run_ids[0]].train_seconds or 0.0
        else:
            shards = int(task.shard.partition("/")[2] or 1)
            seconds[task.id] = sum(of_run[i].judge_seconds or 0.0 for i in task.run_ids) / shards
    return finish_seconds(tasks, seconds, make_pool)


def _device_memory(
    launch: LaunchSection,
    todo: list[Estimate],
    machine: Machine,
    pool: DevicePool,
    unknown: dict[str, list[str]],
    at_once: int,
) -> tuple[float | None, float | None]:
    """GiB that runs on one GPU take together, and that are free on the fullest GPU."""
    if not pool.gpus:
        return None, None
    free = min(gpu.free_gib for gpu in machine.gpus if gpu.index in pool.gpus)
    lacking = list(dict.fromkeys(e.entry for e in todo if e.device_gib is None))
    if lacking:
        unknown["device memory"] = lacking
        return None, free
    share = launch.devices
    together = min(at_once, floor(1 / share + _SLACK)) if share < 1 else 1
    return sum(sorted((e.device_gib or 0.0 for e in todo), reverse=True)[:together]), free


def _problems(totals: Totals, todo: list[Estimate], machine: Machine) -> list[str]:
    """What does not fit, each with its cure."""
    found = []
    for estimate in {e.entry: e for e in todo}.values():
        if estimate.host_gib and estimate.host_gib > machine.memory.total_gib:
            found.append(
                f"a run of {estimate.entry} needs {estimate.host_gib:.1f} GiB of memory, there are "
                f"{machine.memory.total_gib:.1f}: lower train.batch_size or train.frame_cache_gib"
            )
    if totals.host_gib and totals.host_gib > totals.host_free_gib and not found:
        found.append(
            f"{totals.at_once} runs at once need {totals.host_gib:.1f} GiB of memory, "
            f"{totals.host_free_gib:.1f} are free: fewer will start at a time"
        )
    gpu_free = totals.device_free_gib
    if totals.device_gib and gpu_free is not None and totals.device_gib > gpu_free:
        found.append(
            f"the runs of a GPU need {totals.device_gib:.1f} GiB of its memory, {gpu_free:.1f} "
            "are free: lower train.batch_size, or raise launch.devices where several share it"
        )
    if totals.disk_bytes and totals.disk_bytes > totals.disk_free_bytes:
        found.append(
            f"the runs write {totals.disk_bytes / GIB:.1f} GiB, {totals.disk_free_bytes / GIB:.1f} "
            "are free on the disk: free some space, or choose another --runs"
        )
    return found
