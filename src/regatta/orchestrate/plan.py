"""What is missing of a study, as a graph of tasks. A task says what to start, the launcher where.

prepare -> train (one process per run, after the runs that it needs) -> judge (all trained runs of a
fold together; without folds all, sharded). Comparing and reporting follow when the graph is done.
Nothing missing = an empty plan.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median
from typing import Literal

from regatta.config.expand import RunSpec, data_settings, protocol_id, trained_runs
from regatta.config.schema import LaunchSection, Study
from regatta.core.errors import ConfigError, DeviceError, RecordError
from regatta.core.extras import check_trackers
from regatta.core.files import read_json
from regatta.core.registry import SOURCES
from regatta.orchestrate.devices import Machine, choose_gpus, describe_gpus
from regatta.orchestrate.experts import refuse_untrained
from regatta.records.conditions import IMAGE_PART
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder, StudyFolder

WORKER_COMMAND = (sys.executable, "-m", "regatta.worker")
_MODEL_GIB = {"tiny": 0.5, "small": 1.5, "base": 3.0}
"""Host memory of a worker beside its frame cache, until a run of its entry has been measured."""

TaskKind = Literal["prepare", "train", "judge"]
ALL_KINDS: tuple[TaskKind, ...] = ("prepare", "train", "judge")


@dataclass(frozen=True)
class Resources:
    """What a task needs: GPUs (or CPU processes), and host memory in GiB.

    What is measured of one task holds for others with its `memory_key`, unless the user fixed it.
    """

    devices: float = 1
    memory_gib: float = 1.0
    memory_key: str = ""
    memory_is_fixed: bool = False
    one_process: bool = False
    """All devices belong to one process, where otherwise each has its own."""

    @property
    def processes(self) -> int:
        return 1 if self.one_process else max(1, round(self.devices))


@dataclass(frozen=True)
class Task:
    """One process (or one torchrun group) that works on some runs.

    `needs` must have succeeded and `after` must have ended, well or not, before it starts.
    """

    id: str
    kind: TaskKind
    command: tuple[str, ...]
    log: Path
    run_ids: tuple[str, ...] = ()
    shard: str = ""
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    needed_runs: tuple[str, ...] = ()
    """Runs whose weights it starts from or builds on: they must be trained before it starts."""
    resources: Resources = Resources()
    env: dict[str, str] = field(default_factory=dict)

    def argv(self, *, device: str, threads: int) -> list[str]:
        """The worker's full command line for a place."""
        if self.kind == "prepare":
            return list(self.command)
        place = ["--device", device, "--threads", str(threads)]
        if self.kind == "train":
            return [*self.command, "--run", self.run_ids[0], *place]
        return [*self.command, "--runs", ",".join(self.run_ids), "--shard", self.shard, *place]

    def for_runs(self, run_ids: Collection[str]) -> Task:
        """The same task without the runs that are not in `run_ids`."""
        return replace(self, run_ids=tuple(r for r in self.run_ids if r in run_ids))

    @property
    def keeps_status(self) -> bool:
        """Whether its process writes its runs' status; of several shards the first does."""
        return bool(self.run_ids) and (not self.shard or self.shard.startswith("1/"))

    @property
    def in_hand(self) -> Path:
        """How the names of the boards begin on which its processes note the files they read."""
        return self.log.with_name(f".{self.log.stem}-in-hand")

    @property
    def title(self) -> str:
        """How messages call it."""
        if self.kind == "prepare":
            return "data"
        if len(self.run_ids) == 1:
            return self.run_ids[0]
        return f"judging {' '.join(self.id.split(':')[1:])} of {len(self.run_ids)} runs"


@dataclass(frozen=True)
class Plan:
    """Tasks in the order they should start, as far as their needs allow."""

    tasks: tuple[Task, ...]

    def of_kind(self, *kinds: TaskKind) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if task.kind in kinds)

    def run_ids(self, *kinds: TaskKind) -> set[str]:
        """The runs that tasks of these kinds work on."""
        return {run_id for task in self.of_kind(*kinds) for run_id in task.run_ids}


def plan_study(
    folder: StudyFolder,
    study: Study,
    *,
    judge_shards: int = 1,
    worker_command: tuple[str, ...] = WORKER_COMMAND,
    judge_separately: bool = False,
    skip: Collection[str] = frozenset(),
) -> Plan:
    """The tasks that are still to do, read from what is on disk.

    Args:
        judge_shards: most processes that judge side by side.
        judge_separately: one judge task per run, so that one that cannot be judged harms no other.
        skip: run ids that are given up.
    Raises:
        ConfigError: launch and train sections contradict each other.
        MissingExtraError: a tracker of `launch.track` is not installed.
        RecordError: `fusion.use_only` and an expert is not trained.
    """
    runs = [(spec, folder.run(spec.run_id)) for spec in trained_runs(study)]
    prepare = [] if is_prepared(folder, study) else [_prepare_task(folder, worker_command)]
    needs = tuple(task.id for task in prepare)
    untrained = [pair for pair in runs if not pair[1].is_trained() and pair[0].run_id not in skip]
    refuse_untrained(study, untrained)
    memory = _expected_gib(runs)
    train = [
        _train_task(folder, study, spec, run, needs, memory, worker_command)
        for spec, run in _in_starting_order(study, untrained, runs)
    ]
    if train:
        check_trackers(study.launch.track)
    protocol = protocol_id(study.protocol)
    unjudged = [s for s, run in runs if not run.is_judged(protocol) and s.run_id not in skip]
    if judge_separately:
        benches = [[spec] for spec in unjudged]
    else:
        # The runs of one fold share its test samples; without folds all runs share theirs.
        folds = dict.fromkeys(spec.fold for spec in unjudged)
        benches = [[spec for spec in unjudged if spec.fold == fold] for fold in folds]
    most = 1 if judge_separately or len(benches) > 1 else judge_shards
    count = max(1, min(most, _parts_to_judge(folder, study)))
    judge = [
        _judge_task(folder, study, specs, f"{number}/{count}", needs, after, memory, worker_command)
        for specs, after in ((specs, _trainings(train, specs)) for specs in benches)
        for number in range(1, count + 1)
    ]
    return Plan((*prepare, *train, *judge))


def fit_to_machine(study: Study, machine: Machine) -> Study:
    """The study with the GPUs written down that its `dp` runs take; any other study as it is.

    Raises:
        DeviceError: `dp` and fewer than two GPUs.
    """
    if all(spec.train.parallel != "dp" for spec in trained_runs(study)):
        return study
    gpus = choose_gpus(machine, study.launch) if study.launch.device != "cpu" else ()
    if len(gpus) < 2:
        shows = "this machine shows" if study.launch.device_ids is None else "launch.device_ids has"
        raise DeviceError(
            f"dp needs 2 or more GPUs; {shows} {len(gpus)}",
            where=describe_gpus(machine),
            hint="use train.parallel=ddp, which also trains on a CPU, or none for one device",
        )
    launch = study.launch.model_copy(update={"device_ids": list(gpus)})
    return study.model_copy(update={"launch": launch})


def study_for_ranks(study: Study, world: int) -> Study:
    """The study as processes do it that were started together: one run at a time, on all."""
    launch = study.launch.model_copy(update={"devices": world, "max_parallel": 1})
    return study.model_copy(update={"launch": launch})


def start_together(study: Study, machine: Machine) -> LaunchSection:
    """The launch section; runs that share their clips all start, on however few cores.

    They wait for the same decoding, so side by side they take hardly more cores than one.
    """
    launch = study.launch
    if not launch.share or launch.max_parallel or choose_gpus(machine, launch):
        return launch
    places = max(len(study.trained_entries), machine.cores // max(1, int(launch.devices)))
    return launch.model_copy(update={"max_parallel": places})


def is_prepared(folder: StudyFolder, study: Study) -> bool:
    """Whether the manifest was made with the study's data settings and for all its entries."""
    if not folder.manifest.is_file() or not folder.data_json.is_file():
        return False
    facts = read_json(folder.data_json)
    if not isinstance(facts, dict):
        raise RecordError(
            "this is not a record of the data", where=folder.data_json, hint="delete it"
        )
    counted = facts.get("short_clips")
    # Which clips are too short depends on the longest clip that any entry takes.
    knows_entries = counted is None or {e.name for e in study.trained_entries} <= set(counted)
    return knows_entries and facts.get("settings") == data_settings(study)


def _prepare_task(folder: StudyFolder, worker_command: tuple[str, ...]) -> Task:
    command = (*worker_command, "prepare", "--study", str(folder.path))
    return Task("prepare", "prepare", command, folder.prepare_log)


def training_id(run_id: str) -> str:
    """Id of the task that trains a run."""
    return f"train:{run_id}"


def levels(tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """Tasks in the fewest rows such that each waits for tasks of earlier rows only.

    What it waits for and is not among them counts as over.
    """
    depth: dict[str, int] = {}
    by_id = {task.id: task for task in tasks}
    order = TopologicalSorter(
        {task.id: [i for i in (*task.needs, *task.after) if i in by_id] for task in tasks}
    )
    for task_id in order.static_order():
        task = by_id[task_id]
        before = [depth[i] for i in (*task.needs, *task.after) if i in by_id]
        depth[task_id] = 1 + max(before, default=-1)
    rows = range(1 + max(depth.values(), default=-1))
    return [tuple(task for task in tasks if depth[task.id] == row) for row in rows]


def _train_task(
    folder: StudyFolder,
    study: Study,
    spec: RunSpec,
    run: RunFolder,
    needs: tuple[str, ...],
    memory: Mapping[str, float],
    worker_command: tuple[str, ...],
) -> Task:
    devices = devices_of_run(study.launch, spec)
    return Task(
        training_id(spec.run_id),
        "train",
        (*worker_command, "train", "--study", str(folder.path)),
        run.log,
        (spec.run_id,),
        needs=needs,
        after=tuple(training_id(i) for i in spec.needs if not folder.run(i).is_trained()),
        needed_runs=spec.needs,
        resources=replace(
            _resources(study, [spec], memory, devices=devices),
            one_process=spec.train.parallel == "dp",
        ),
    )


def devices_of_run(launch: LaunchSection, spec: RunSpec) -> float:
    """How many devices one training takes.

    Raises:
        ConfigError: `train.parallel` cannot use so many, or does not go with the precision.
    """
    train = spec.train
    if train.parallel == "dp" and launch.devices == 1:
        return max(1, len(set(launch.device_ids or ())))
    if launch.devices > 1 and train.parallel == "none":
        raise ConfigError(
            f"launch.devices is {launch.devices:g}, but {spec.entry.name} is one process",
            hint="set train.parallel=ddp, or launch.devices=1",
        )
    if launch.devices > 1 and train.parallel == "fsdp" and train.precision == "fp16":
        raise ConfigError(
            "train.parallel: fsdp does not go with fp16",
            where=f"entries.{spec.entry.name}",
            hint="use train.precision: bf16 or fp32, or train.parallel: ddp",
        )
    return launch.devices


def _trainings(tasks: list[Task], specs: list[RunSpec]) -> tuple[str, ...]:
    """Training tasks that judging these runs waits for: those of their fold, or all."""
    folds = {spec.fold for spec in specs}
    runs = {spec.run_id for spec in specs}
    return tuple(task.id for task in tasks if folds == {None} or runs.intersection(task.run_ids))


def judge_part(
    folder: StudyFolder,
    study: Study,
    *,
    fold: int | None,
    shard: str,
    only: Collection[str],
    worker_command: tuple[str, ...] = WORKER_COMMAND,
) -> Task | None:
    """The task that judges one shard of what is trained (of a fold) and not judged; None = nothing.

    Args:
        shard: "I/N", the share of the samples.
        only: run ids; others are left alone.
    """
    protocol = protocol_id(study.protocol)
    specs = [
        spec
        for spec in trained_runs(study)
        if spec.fold == fold
        and spec.run_id in only
        and folder.run(spec.run_id).is_trained()
        and not folder.run(spec.run_id).is_judged(protocol)
    ]
    if not specs:
        return None
    memory = _expected_gib([(spec, folder.run(spec.run_id)) for spec in trained_runs(study)])
    return _judge_task(folder, study, specs, shard, (), (), memory, worker_command)


def _judge_task(
    folder: StudyFolder,
    study: Study,
    specs: list[RunSpec],
    shard: str,
    needs: tuple[str, ...],
    after: tuple[str, ...],
    memory: Mapping[str, float],
    worker_command: tuple[str, ...],
) -> Task:
    run_ids = tuple(spec.run_id for spec in specs)
    alone = len(run_ids) == 1
    fold = "" if specs[0].fold is None else f"fold{specs[0].fold}"
    # A task's id is also its key among the jobs: two folds may not share one.
    place = ":".join(filter(None, ["judge", run_ids[0] if alone else fold, shard]))
    log = "-".join(filter(None, ["judge", fold, shard.partition("/")[0]]))
    return Task(
        place,
        "judge",
        (*worker_command, "judge", "--study", str(folder.path)),
        folder.run(run_ids[0]).log if alone else folder.path / f"{log}.log",
        run_ids,
        shard,
        needs=needs,
        after=after,
        resources=_resources(study, specs, memory, devices=min(1, study.launch.devices)),
    )


def _resources(
    study: Study, specs: list[RunSpec], memory: Mapping[str, float], *, devices: float
) -> Resources:
    names = sorted({spec.entry.name for spec in specs})
    key = "+".join(names)
    if study.launch.memory_gib_per_run is not None:
        return Resources(devices, study.launch.memory_gib_per_run, key, memory_is_fixed=True)
    return Resources(devices, max(memory[name] for name in names), key)


def _expected_gib(runs: Iterable[tuple[RunSpec, RunFolder]]) -> dict[str, float]:
    """Entry -> largest measured peak of any of its runs, else a guess from its size and frame
    cache."""
    peaks: dict[str, float] = {}
    guesses: dict[str, float] = {}
    for spec, run in runs:
        name = spec.entry.name
        guesses[name] = _MODEL_GIB[spec.entry.size] + spec.train.frame_cache_gib
        if peak := run.info().get("peak_memory_gib") if run.run_json.is_file() else None:
            peaks[name] = max(peak, peaks.get(name, 0.0))
    return guesses | peaks


def _parts_to_judge(folder: StudyFolder, study: Study) -> int:
    """Upper limit on the prediction parts, so that no process starts with nothing to do."""
    samples = study.protocol.sample_size
    if folder.data_json.is_file():
        counts = read_json(folder.data_json).get("counts", {}).get(study.protocol.split)
        if counts:
            samples = min(samples or sys.maxsize, sum(counts.values()))
    least = IMAGE_PART if _kind_of(study) == "image" else 1
    part = max(study.protocol.part_samples, least)
    return sys.maxsize if samples is None else -(-samples // part)


def _kind_of(study: Study) -> str:
    listed = SOURCES.listed.get(study.data.source)
    return listed.kind if listed else ""


def _in_starting_order(
    study: Study, untrained: list[tuple[RunSpec, RunFolder]], runs: list[tuple[RunSpec, RunFolder]]
) -> list[tuple[RunSpec, RunFolder]]:
    ordered = _costly_first(untrained, runs)
    if not study.launch.share:
        return ordered
    # Only runs of one seed share their clips, and only while they train side by side.
    return sorted(ordered, key=lambda pair: study.seeds.index(pair[0].seed))


def _costly_first(
    untrained: list[tuple[RunSpec, RunFolder]], runs: list[tuple[RunSpec, RunFolder]]
) -> list[tuple[RunSpec, RunFolder]]:
    """Longest expected training first; entries that were never timed come before, in study order.

    All runs of a study see the same samples, so epochs / (samples per second) orders them.
    """
    if len(untrained) < 2:
        return untrained
    speeds: dict[str, list[float]] = {}
    for spec, run in runs:
        speeds.setdefault(spec.entry.name, []).extend(_training_speeds(run))

    def expected(pair: tuple[RunSpec, RunFolder]) -> float:
        known = speeds[pair[0].entry.name]
        return pair[0].train.epochs / median(known) if known else float("inf")

    return sorted(untrained, key=expected, reverse=True)


def _training_speeds(run: RunFolder) -> list[float]:
    records = [r for r in read_metrics(run.metrics) if r.get("split", "train") == "train"]
    return [speed for record in records if (speed := record.get("samples_per_second"))]
