"""Laws of study files and of planning, on drawn examples."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regatta.config.expand import expand_study, protocol_id
from regatta.config.load import (
    dump_study,
    load_study,
    read_study,
    study_from_mapping,
    with_overrides,
)
from regatta.config.schema import Study
from regatta.core.errors import ConfigError
from regatta.orchestrate.admission import place_task
from regatta.orchestrate.devices import DevicePool, Placement
from regatta.orchestrate.plan import Task, plan_study
from regatta.orchestrate.totals import finish_seconds
from regatta.records.run_folder import StudyFolder, open_study
from tests.fuzz.runner import wrong_message
from tests.fuzz.text_targets import STUDY
from tests.orchestrate.test_totals import tasks_of

BASE: dict[str, Any] = yaml.safe_load(STUDY.replace("1e-3", "1.0e-3").replace("5e-4", "5.0e-4"))
FEW = settings(max_examples=40, deadline=None)

names = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(["yes", "on", "1e-5", "4:00:00", "2020-01-01", "~", "null", "0x10", "<<", ""]),
)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "train.epochs": st.integers(0, 500),
    "train.lr": st.floats(1e-8, 1.0),
    "train.batch_size": st.integers(1, 512),
    "train.betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list),
    "data.split_seed": st.integers(0, 2**62),
    "data.damaged": st.sampled_from(["fail", "drop"]),
    "data.validation_fraction": st.floats(0.01, 0.9),
    "data.options.noise": st.floats(0, 1),
    "protocol.sample_size": st.none() | st.integers(1, 10**6),
    "protocol.options.stride": st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True),
    "compare.confidence": st.floats(0.51, 0.99),
    "launch.threads_per_run": st.integers(1, 64),
    "seeds": st.lists(st.integers(0, 2**62), min_size=1, max_size=4, unique=True),
    "title": st.text(st.characters(codec="utf-8"), max_size=30),
    "name": names,
}
"""Keys of a study, and values that they may have."""


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *sections, last = key.split(".")
    inner = content
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return content


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=6, unique=True))
    return {key: draw(VALUES[key]) for key in keys}


def changed(by: dict[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(BASE)
    for key, value in by.items():
        put(content, key, value)
    return content


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False)


@FEW
@given(by=changes())
def test_a_study_that_is_written_out_reads_back_as_itself(by: dict[str, Any]):
    study = study_from_mapping(changed(by))
    with folder() as place:
        (place / "s.yaml").write_text(dump_study(study), encoding="utf-8")
        again = load_study(place / "s.yaml")
    assert again == study
    assert [run.run_id for run in expand_study(again)] == [r.run_id for r in expand_study(study)]


@FEW
@given(by=changes())
def test_setting_a_key_on_the_command_line_equals_editing_the_file(by: dict[str, Any]):
    with folder() as place:
        (place / "s.yaml").write_text(as_yaml(BASE), encoding="utf-8")
        texts = [f"{key}={as_yaml(value)}" for key, value in by.items()]
        told = load_study(place / "s.yaml", texts)
        (place / "s.yaml").write_text(as_yaml(changed(by)), encoding="utf-8")
        assert told == load_study(place / "s.yaml")


@FEW
@given(by=changes(), more=changes())
def test_of_two_settings_of_one_key_the_later_counts(by: dict[str, Any], more: dict[str, Any]):
    texts = [f"{key}={as_yaml(value)}" for each in (by, more) for key, value in each.items()]
    told = study_from_mapping(with_overrides(copy.deepcopy(BASE), texts))
    assert told == study_from_mapping(changed({**by, **more}))


@st.composite
def extensions(draw: st.DrawFn) -> dict[str, Any]:
    """What a file may put on top of another one: keys, and changes of its entries by name."""
    content: dict[str, Any] = {}
    for key, value in draw(changes()).items():
        if key != "name":
            put(content, key, value)
    for name in draw(st.sets(st.sampled_from(["cnn3d", "other"]))):
        put(content, f"entries.{name}.train.epochs", draw(st.integers(1, 9)))
        if draw(st.booleans()):
            put(content, f"entries.{name}.options.frames", draw(st.integers(4, 9)))
    return content


def joined(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings are joined, all else is replaced."""
    found = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = joined(found[key], value) if both else value
    return found


@FEW
@given(middle=extensions(), top=extensions())
def test_extending_twice_equals_extending_once_with_both(
    middle: dict[str, Any], top: dict[str, Any]
):
    with folder() as place:
        for name, content in {
            "base": BASE,
            "middle": {"extends": "base.yaml", **middle},
            "top": {"extends": "middle.yaml", "name": "t", **top},
            "both": {"extends": "base.yaml", "name": "t", **joined(middle, top)},
        }.items():
            (place / f"{name}.yaml").write_text(as_yaml(content), encoding="utf-8")
        assert read_study(place / "top.yaml") == read_study(place / "both.yaml")
        assert load_study(place / "top.yaml") == load_study(place / "both.yaml")


known_keys = st.sampled_from(
    [*Study.model_fields, *{key.rpartition(".")[2] for key in VALUES}, "entreis", "name", "model"]
)
mappings = st.dictionaries(
    known_keys | names,
    st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known_keys, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(content=mappings, keeps_base=st.booleans())
@example(content={"data": {"options": {"noise": float("inf")}}}, keeps_base=True)
@example(content={"train": {"optimizer_options": {"x": [float("nan")]}}}, keeps_base=True)
@example(content={"seeds": {}, "entries": [[]]}, keeps_base=False)
def test_any_mapping_is_a_study_or_names_the_wrong_key(content: dict[str, Any], keeps_base: bool):
    mapping = {**copy.deepcopy(BASE), **content} if keeps_base else content
    study, told = read(copy.deepcopy(mapping))
    if study is None:
        wrong = [key for key in mapping if key in told]
        missing = [key for key in ("name", "data", "entries") if key not in mapping and key in told]
        assert wrong or missing, told
    else:
        assert study_from_mapping(yaml.safe_load(dump_study(study))) == study


def read(mapping: dict[str, Any], *overrides: str) -> tuple[Study | None, str]:
    """The study, or what the error says, which is short and can be shown."""
    try:
        mapping = with_overrides(mapping, overrides, where="s.yaml")
        return study_from_mapping(mapping, where="s.yaml"), ""
    except ConfigError as error:
        problem, told = wrong_message(error), str(error)
    assert problem == ""
    return None, told


SOME_KEYS = [*VALUES, "entries", "data", "a.b.c", "entries.other.x"]


@settings(max_examples=100, deadline=None)
@given(value=anything, key=st.sampled_from(SOME_KEYS))
def test_any_setting_is_taken_or_refused_by_name(value: Any, key: str):
    study, told = read(copy.deepcopy(BASE), f"{key}={as_yaml(value)}")
    assert study is not None or key.split(".")[0] in told or "--set" in told


@st.composite
def graphs(draw: st.DrawFn, most: int = 6) -> list[list[int]]:
    """For each task those before it that it needs."""
    count = draw(st.integers(1, most))
    return [
        sorted(draw(st.sets(st.integers(0, number - 1), max_size=3))) if number else []
        for number in range(count)
    ]


@settings(max_examples=30, deadline=None)
@given(graph=graphs(), seeds=st.integers(1, 2), shards=st.integers(1, 3), state=st.randoms())
def test_a_plan_holds_what_is_missing_once_and_needs_come_before(
    graph: list[list[int]], seeds: int, shards: int, state: Any
):
    entries = [
        {"name": f"e{n}", "model": "cnn3d", "needs": [f"e{i}" for i in before]}
        for n, before in enumerate(graph)
    ]
    content = {**BASE, "entries": entries, "seeds": list(range(seeds)), "compare": {}}
    study = study_from_mapping(content)
    protocol = protocol_id(study.protocol)
    with folder() as place:
        opened: StudyFolder = open_study(place, study)
        trained, judged = set(), set()
        for spec, run in opened.runs():
            # What a run needs is trained before it is.
            if set(spec.needs) <= trained and state.random() < 0.5:
                run.training_results.write_text("{}")
                trained.add(spec.run_id)
                if state.random() < 0.5:
                    marker = run.predictions(protocol) / "complete.json"
                    marker.parent.mkdir(parents=True)
                    marker.write_text("{}")
                    judged.add(spec.run_id)
        plan = plan_study(opened, study, judge_shards=shards)
        runs = {spec.run_id: spec for spec, _ in opened.runs()}
    ids = [task.id for task in plan.tasks]
    assert len(set(ids)) == len(ids)
    place_of = {task_id: number for number, task_id in enumerate(ids)}
    for task in plan.tasks:
        assert all(place_of[before] < place_of[task.id] for before in (*task.needs, *task.after))
    training = [task.run_ids for task in plan.of_kind("train")]
    assert sorted(training) == sorted((run_id,) for run_id in set(runs) - trained)
    task_of = {task.run_ids[0]: task for task in plan.of_kind("train")}
    for run_id, task in task_of.items():
        waited = {task_of[i].id for i in runs[run_id].needs if i in task_of}
        assert waited <= {*task.needs, *task.after}
    judging = plan.of_kind("judge")
    for run_id in set(runs) - judged:
        shares = sorted(task.shard for task in judging if run_id in task.run_ids)
        count = len(shares)
        assert shares == [f"{number}/{count}" for number in range(1, count + 1)] != []
    assert not any(run_id in task.run_ids for run_id in judged for task in judging)


@settings(deadline=None)
@given(
    graph=graphs(10),
    seconds=st.lists(st.integers(1, 50), min_size=10, max_size=10),
    gpus=st.integers(1, 3),
    devices=st.sampled_from([0.5, 1, 2]),
)
def test_the_end_lies_between_the_longest_chain_and_one_after_the_other(
    graph: list[list[int]], seconds: list[int], gpus: int, devices: float
):
    gpus = max(gpus, int(devices))
    needs = dict(enumerate(graph))
    tasks, known = tasks_of([float(s) for s in seconds[: len(graph)]], devices=devices, needs=needs)
    found = finish_seconds(tasks, known, lambda: DevicePool(tuple(range(gpus)), 99))
    chain: list[float] = []
    for number, before in enumerate(graph):
        chain.append(seconds[number] + max((chain[i] for i in before), default=0))
    work = sum(known.values()) * devices / gpus
    assert max(max(chain), work) - 1e-6 <= found <= sum(known.values()) + 1e-6


@settings(deadline=None)
@given(
    gpus=st.integers(0, 4),
    taken=st.lists(st.sampled_from([0.25, 0.5, 1.0]), max_size=4),
    refused=st.sets(st.integers(0, 3)),
    devices=st.sampled_from([0.25, 0.5, 1, 2]),
)
def test_no_place_is_taken_where_there_is_no_room(
    gpus: int, taken: list[float], refused: set[int], devices: float
):
    pool = DevicePool(tuple(range(gpus)), 6)
    held = [place for share in taken if (place := pool.take(share)) is not None]
    before = copy.deepcopy(pool)
    task = tasks_of([1.0], devices=devices)[0][0]
    asked: list[Placement] = []

    def shortage(placement: Placement) -> str | None:
        asked.append(placement)
        return "no room" if refused & set(placement.gpu_ids) or (not gpus and refused) else None

    found, reason = place_task(pool, task, shortage)
    if found is None:
        assert pool == before
        assert bool(reason) == bool(asked)
    else:
        assert not refused & set(found.gpu_ids)
        assert len(found.gpu_ids) == (max(1, int(devices)) if gpus else 0)
        pool.give_back(found, devices)
        assert pool == before
    assert len(asked) <= max(1, gpus)
    assert isinstance(task, Task)
    assert len(held) <= 6
