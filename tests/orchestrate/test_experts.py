"""A study that takes trained experts and trains none says which are absent, and what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regatta.config.load import study_from_mapping
from regatta.core.errors import RecordError
from regatta.core.files import write_json
from regatta.orchestrate.plan import Plan, plan_study
from regatta.records.run_folder import StudyFolder, open_study
from tests.fusion_here import fusion_mapping, run_of


def opened(runs: Path, **fusion: Any) -> StudyFolder:
    mapping = fusion_mapping(Path("nowhere"), fusion=fusion)
    return open_study(runs, study_from_mapping(mapping))


def planned(folder: StudyFolder) -> Plan:
    return plan_study(folder, folder.study())


def mark_trained(folder: StudyFolder, *names: str) -> None:
    for name in names:
        write_json(run_of(folder, name).training_results, {"best_epoch": 1})


def test_experts_go_first_and_what_joins_them_waits(tmp_path: Path):
    folder = opened(tmp_path)
    tasks = {task.run_ids[0]: task for task in planned(folder).of_kind("train")}
    experts = {run_of(folder, f"resnet-expert-{k}").run_id for k in (0, 1)}
    for name in ("resnet-multiplicative", "resnet-concatenation", "resnet-stacking"):
        assert set(tasks[run_of(folder, name).run_id].needed_runs) == experts
    for name in (*(f"resnet-expert-{k}" for k in (0, 1)), "resnet-full"):
        assert not tasks[run_of(folder, name).run_id].needed_runs


def test_use_only_names_an_absent_expert(tmp_path: Path):
    folder = opened(tmp_path, use_only=True)
    mark_trained(folder, "resnet-expert-0")
    with pytest.raises(RecordError, match=r"1 expert\(s\) are not trained") as caught:
        planned(folder)
    assert run_of(folder, "resnet-expert-1").run_id in str(caught.value)
    assert "other settings" not in str(caught.value)
    assert "use_only: false" in str(caught.value.hint)


def test_use_only_names_experts_that_were_trained_with_other_settings(tmp_path: Path):
    other = opened(tmp_path, expert_train={"epochs": 7, "warmup_epochs": 0})
    mark_trained(other, "resnet-expert-0", "resnet-expert-1")
    earlier = run_of(other, "resnet-expert-0").run_id
    folder = opened(tmp_path, use_only=True)
    with pytest.raises(RecordError, match=r"2 expert\(s\)") as caught:
        planned(folder)
    told = str(caught.value)
    assert run_of(folder, "resnet-expert-0").run_id in told.partition("other settings")[0]
    assert earlier in told.partition("other settings")[2]


def test_use_only_with_all_experts_trains_the_rest(tmp_path: Path):
    folder = opened(tmp_path, use_only=True)
    mark_trained(folder, "resnet-expert-0", "resnet-expert-1")
    trained = planned(folder).run_ids("train")
    rest = ("resnet-multiplicative", "resnet-concatenation", "resnet-stacking", "resnet-full")
    assert trained == {run_of(folder, name).run_id for name in rest}


def test_one_expert_with_another_recipe_moves_only_what_needs_it(tmp_path: Path):
    def ids(**options: Any) -> dict[str, str]:
        mapping = fusion_mapping(Path("nowhere"), fusion={"families": ["resnet", "densenet"]})
        study = study_from_mapping(mapping)
        content = study.model_dump(mode="json")
        for entry in content["entries"]:
            if entry["name"] == "resnet-expert-1":
                entry["train"] |= options
        folder = open_study(tmp_path / str(len(options)), study_from_mapping(content))
        return {spec.entry.name: spec.run_id for spec, _ in folder.runs()}

    one, two = ids(), ids(lr=0.05)
    assert {name for name in one if one[name] != two[name]} == {
        "resnet-expert-1",
        "resnet-multiplicative",
        "resnet-concatenation",
        "resnet-stacking",
    }
