"""Promises of the run list: one run per entry and seed, ids that follow exactly what determines the
weights."""

from __future__ import annotations

import pytest

from regatta.config.expand import expand_study, protocol_id
from regatta.config.load import study_from_mapping
from regatta.config.schema import Study
from regatta.core.errors import ConfigError

BASE = {
    "name": "s",
    "data": {"source": "folder", "root": "videos"},
    "entries": ["videomae", {"name": "ts", "model": "timesformer", "train": {"lr": 0.5}}],
    "seeds": [0, 3],
}


def study(**changes: object) -> Study:
    return study_from_mapping({**BASE, **changes})


def test_runs_are_entries_times_seeds_in_order():
    runs = expand_study(study())
    assert [(r.entry.name, r.seed) for r in runs] == [
        ("videomae", 0),
        ("videomae", 3),
        ("ts", 0),
        ("ts", 3),
    ]
    assert len({r.run_id for r in runs}) == 4
    assert [r.train.lr for r in runs] == [1e-5, 1e-5, 0.5, 0.5]


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "other words"},
        {"protocol": {"name": "temporal-grid"}},
        {"compare": {"replicates": 500}},
        {"launch": {"retries": 0}},
        {"train": {"log_every_steps": 3}},
        {"name": "renamed"},
    ],
)
def test_what_does_not_change_the_weights_keeps_the_run_ids(changes: dict):
    assert [r.run_id for r in expand_study(study(**changes))] == [
        r.run_id for r in expand_study(study())
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"epochs": 9}},
        {"data": {"source": "folder", "root": "elsewhere"}},
        {"data": {"source": "folder", "root": "videos", "damaged": "drop"}},
    ],
)
def test_what_changes_the_weights_changes_every_id(changes: dict):
    before = {r.run_id for r in expand_study(study())}
    assert before.isdisjoint(r.run_id for r in expand_study(study(**changes)))


def test_one_entry_changed_leaves_the_other_entries_runs():
    changed = study(entries=["videomae", {"name": "ts", "model": "timesformer", "size": "small"}])
    before, after = expand_study(study()), expand_study(changed)
    assert [r.run_id for r in before[:2]] == [r.run_id for r in after[:2]]
    assert before[2].run_id != after[2].run_id


def test_protocol_folder_follows_the_protocol():
    plain, grid = study().protocol, study(protocol={"name": "temporal-grid"}).protocol
    assert protocol_id(plain) != protocol_id(grid)
    assert protocol_id(grid).startswith("temporal-grid-")


def test_bad_override_of_an_entry_is_named():
    with pytest.raises(ConfigError) as caught:
        study(entries=[{"name": "ts", "model": "timesformer", "train": {"epohcs": 1}}])
    assert "entries.ts.train.epohcs" in str(caught.value)
    assert "did you mean 'epochs'" in str(caught.value)
