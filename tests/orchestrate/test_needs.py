"""Promises of dependencies: a run starts after the runs it needs, or says which one it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regatta.config.expand import expand_study
from regatta.config.load import study_from_mapping
from regatta.core.errors import ConfigError
from regatta.orchestrate.plan import Task, levels, plan_study
from tests.orchestrate.toy import Toy, toy_mapping, toy_study


def chain(needs: dict[str, list[str]], **launch: Any) -> dict[str, Any]:
    content = toy_mapping(tuple(needs), **launch)
    for entry in content["entries"]:
        entry["needs"] = needs[entry["name"]]
    return content


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with toy_study(tmp_path) as study:
        study.mapping = chain({"ann": [], "bob": [], "cyd": ["ann"], "dee": ["cyd", "bob"]})
        study.write()
        yield study


def test_a_run_starts_after_all_that_it_needs(toy: Toy):
    finished = toy.call("supervise")
    assert finished.code == 0, finished.output
    order = [start["names"][0] for start in toy.starts("train")]
    assert sorted(order) == ["ann", "bob", "cyd", "dee"]
    assert order.index("ann") < order.index("cyd") < order.index("dee")


def test_a_failed_run_marks_what_needs_it_and_the_others_finish(toy: Toy):
    toy.order({"train:ann": ["exit:2"]})
    finished = toy.call("supervise")
    assert finished.code == 1
    assert {n: toy.status(n).state for n in ("ann", "bob", "cyd", "dee")} == {
        **dict.fromkeys(("ann", "cyd", "dee"), "failed"),
        "bob": "done",
    }
    assert toy.status("cyd").cause == toy.status("dee").cause == "needs"
    assert toy.run_id("ann") in (toy.status("cyd").message or "")
    assert toy.run_id("cyd") in (toy.status("dee").message or "")
    assert [start["names"] for start in toy.starts("train")].count(["dee"]) == 0
    again = toy.call("supervise")
    assert again.code == 0, again.output
    assert all(toy.is_judged(name) for name in ("ann", "bob", "cyd", "dee"))


def test_naming_one_model_also_trains_what_it_needs(toy: Toy):
    named = toy.call("run", *toy.arguments("run"), "--set", "launch.max_parallel=1")
    assert named.code == 0, named.output
    from regatta.cli.choose import choose_study
    from regatta.cli.flags import Flags

    chosen = choose_study(toy.file, Flags(models=("cyd",)), toy.runs_root, may_build=True)
    assert set(chosen.entries) == {"cyd", "ann"}
    assert chosen.left_out == {toy.run_id("bob"), toy.run_id("dee")}


def test_another_recipe_of_a_needed_run_makes_another_run_of_what_needs_it():
    def ids(epochs: int) -> dict[str, str]:
        content = chain({"ann": [], "bob": ["ann"], "cyd": []})
        content["entries"][0]["train"] = {"epochs": epochs}
        return {s.entry.name: s.run_id for s in expand_study(study_from_mapping(content))}

    one, two = ids(1), ids(2)
    assert [name for name in one if one[name] != two[name]] == ["ann", "bob"]


def test_each_seed_needs_the_run_of_its_own_seed():
    content = {**chain({"ann": [], "bob": ["ann"]}), "seeds": [3, 4]}
    specs = expand_study(study_from_mapping(content))
    by_id = {spec.run_id: spec for spec in specs}
    needed = [(spec.seed, by_id[i].seed) for spec in specs for i in spec.needs]
    assert needed == [(3, 3), (4, 4)]


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"ann": ["bob"], "bob": ["ann"]}, "circle"),
        ({"ann": ["ann"]}, "circle"),
        ({"ann": ["bod"], "bob": []}, "names no entry: bod"),
    ],
)
def test_needs_that_can_never_be_met_are_refused(needs: dict[str, list[str]], words: str):
    with pytest.raises(ConfigError, match=words):
        study_from_mapping(chain(needs))


GRAPHS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        *[st.sets(st.integers(0, max(0, i - 1)), max_size=3 if i else 0) for i in range(n)]
    )
)


@settings(deadline=None)
@given(graph=GRAPHS)
def test_levels_hold_every_task_once_after_all_it_waits_for(graph: tuple[set[int], ...]):
    tasks = [
        Task(str(i), "train", (), Path(), after=tuple(map(str, sorted(before))))
        for i, before in enumerate(graph)
    ]
    rows = levels(tasks)
    place = {task.id: number for number, row in enumerate(rows) for task in row}
    assert sorted(place) == sorted(task.id for task in tasks)
    assert all(rows)
    for task in tasks:
        # In the first row that it may stand in: one after the last that it waits for.
        assert place[task.id] == 1 + max((place[i] for i in task.after), default=-1)


def test_what_is_trained_is_not_waited_for(toy: Toy):
    toy.prepare()
    toy.finish_training("ann")
    plan = plan_study(toy.folder, toy.study)
    assert [[t.run_ids[0] for t in row] for row in levels(plan.of_kind("train"))] == [
        [toy.run_id("bob"), toy.run_id("cyd")],
        [toy.run_id("dee")],
    ]
