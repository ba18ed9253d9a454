"""Promises of the `fusion:` section: which runs a study of experts and fusions comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regatta.cli.choose import choose_study
from regatta.cli.flags import Flags
from regatta.config.expand import expand_study, with_dependants
from regatta.config.fusion_recipes import FAMILIES, family_of, lr_adaptation
from regatta.config.load import dump_study, load_study, study_from_mapping
from regatta.config.partition import class_blocks
from regatta.core.errors import ConfigError, RegattaError
from regatta.orchestrate.plan import levels, plan_study
from regatta.records.run_folder import open_study

STUDIES = Path(__file__).parents[2] / "studies" / "fusion"


def study_of(fusion: dict[str, Any] | None = None, **beside: Any) -> Any:
    section = {"families": ["resnet"], "types": ["multiplicative"], **(fusion or {})}
    content = {"name": "toy", "data": {"source": "cifar100"}, "fusion": section, **beside}
    return study_from_mapping(content)


def entry(study: Any, name: str) -> Any:
    return next(e for e in study.entries if e.name == name)


def names(study: Any, role: str) -> list[str]:
    return [e.name for e in study.entries if e.role == role]


def test_the_matrix_is_16_experts_and_24_fusions_that_wait_for_their_own_four():
    study = load_study(STUDIES / "matrix.yaml", ["seeds=[0]"])
    experts, fusions = names(study, "expert"), names(study, "contender")
    assert len(experts) == 16
    assert len(fusions) == 24
    singles = [name for name in names(study, "baseline") if "stacking" not in name]
    assert len(singles) == 12
    for name in fusions:
        own = entry(study, name).needs
        family = own[0].removesuffix("-expert-0")
        assert own == [f"{family}-expert-{k}" for k in range(4)]
        assert name.startswith(family)
    assert all(not entry(study, name).needs for name in experts + singles)


def test_experts_are_trained_before_their_fusions_in_the_plan(tmp_path: Path):
    study = load_study(STUDIES / "matrix.yaml", ["seeds=[0]"])
    folder = open_study(tmp_path, study)
    train = plan_study(folder, study).of_kind("train")
    first, second = levels(train)[:2]
    assert len(first) == 16 + 12
    assert len(second) == 24 + 4


@pytest.mark.parametrize(("kind", "epochs"), [("iid", 525), ("noniid", 275)])
def test_equal_cost_is_as_many_passes_as_experts_and_fusion_take(kind: str, epochs: int):
    """iid: (4 x 22,000 x 250 + 4 x 8,000 x 100) / 48,000; noniid experts see 10,000 each."""
    study = study_of({"classes": 100}, partition=kind)
    assert entry(study, "resnet-full-equal-cost").train["epochs"] == epochs
    assert entry(study, "resnet-full").train["epochs"] == 250


def test_one_cell_brings_its_experts_and_nothing_else():
    study = load_study(STUDIES / "matrix.yaml", ["entries=[densenet-multiplicative]"])
    assert names(study, "expert") == [f"densenet-expert-{k}" for k in range(4)]
    assert [e.name for e in study.entries][-1] == "densenet-multiplicative"
    assert len(study.entries) == 5


def test_a_cell_has_the_run_ids_that_it_has_in_the_matrix():
    whole = {spec.run_id for spec in expand_study(load_study(STUDIES / "matrix.yaml"))}
    cell = load_study(STUDIES / "matrix.yaml", ["entries=[densenet-multiplicative]"])
    assert {spec.run_id for spec in expand_study(cell)} <= whole


def test_the_resolved_file_means_the_same_runs(tmp_path: Path):
    study = load_study(STUDIES / "noniid.yaml")
    file = tmp_path / "study.yaml"
    file.write_text(dump_study(study))
    assert expand_study(load_study(file)) == expand_study(study)


def test_a_key_of_the_study_own_recipe_goes_before_the_table():
    study = study_of(train={"epochs": 3, "lr": 0.02})
    expert, fusion = entry(study, "resnet-expert-0"), entry(study, "resnet-multiplicative")
    assert "epochs" not in expert.train
    assert {spec.train.epochs for spec in expand_study(study) if "cost" not in spec.entry.name} == {
        3
    }
    assert {spec.train.lr for spec in expand_study(study)} == {0.02}
    assert fusion.train["weight_decay"] == 1e-4


def test_experts_and_fusions_may_be_set_apart():
    study = study_of({"expert_train": {"epochs": 7}, "fusion_train": {"epochs": 9}})
    epochs = {spec.entry.name: spec.train.epochs for spec in expand_study(study)}
    assert epochs["resnet-expert-3"] == epochs["resnet-full"] == 7
    assert epochs["resnet-multiplicative"] == 9


def test_overrides_reach_entries_that_the_section_made():
    study = load_study(
        STUDIES / "matrix.yaml", ["entries.resnet-concatenation.train.epochs=2", "loss.alpha=5"]
    )
    runs = {spec.entry.name: spec.train for spec in expand_study(study)}
    assert runs["resnet-concatenation"].epochs == 2
    assert runs["resnet-multiplicative"].epochs == 100
    assert runs["resnet-multiplicative"].loss.alpha == 5


def test_several_alphas_are_several_systems_on_the_same_experts():
    study = load_study(STUDIES / "alpha.yaml")
    fusions = [name for name in names(study, "contender") if "simple" in name]
    assert fusions == [f"densenet-simple-addition-a{a}" for a in ("0.5", "1", "5", "10", "15")]
    alphas = {s.train.loss.alpha for s in expand_study(study) if s.entry.name in fusions}
    assert alphas == {0.5, 1, 5, 10, 15}
    assert len(names(study, "expert")) == 4


def test_the_four_jobs_are_the_reference_diagonal():
    study = load_study(STUDIES / "four-jobs.yaml")
    assert names(study, "contender") == [
        "densenet-multiplicative",
        "resnet-multiplicative-addition",
        "improved-wide-resnet-transformer-base",
        "resnext-concatenation",
    ]


def test_a_mixed_system_has_one_expert_of_each_family():
    study = load_study(STUDIES / "mixed.yaml")
    system = entry(study, "mixed-concatenation")
    assert system.needs == [
        "densenet-expert-0",
        "resnet-expert-1",
        "improved-wide-resnet-expert-2",
        "resnext-expert-3",
    ]
    assert system.options["families"] == [family.model for family in FAMILIES]


def test_class_split_experts_tell_the_fusion_their_classes():
    study = study_of({"classes": 10}, partition="noniid")
    options = entry(study, "resnet-multiplicative").options
    assert options["own_heads"] is True
    assert options["expert_classes"] == [3, 3, 2, 2]
    assert [len(block) for block in class_blocks(100, 4)] == [25] * 4


@pytest.mark.parametrize(
    ("fusion_type", "dim", "experts", "fusion"),
    [
        ("TransformerBase", 1024, 2.8e-5, 1.6e-4),
        ("multiplicative", 1024, 7e-5, 4e-4),
        ("concatenation", 640, 1e-4, 1e-3),
        ("TransformerBase", 640, 4e-5, 2e-4),
        ("multiplicative", 64, 1e-4 * 1.3 * 1.1, 5e-4 * 1.2),
    ],
)
def test_rates_adapt_to_the_feature_dimension(
    fusion_type: str, dim: int, experts: float, fusion: float
):
    """The spec's own examples, and its rules for other dimensions."""
    train = entry(study_of({"types": [fusion_type]}), f"resnet-{_form(fusion_type)}").train
    times_experts, times_fusion = lr_adaptation(fusion_type, dim)
    assert train["lr"] * times_fusion == pytest.approx(fusion)
    assert train["lr"] * train["lr_factors"]["experts."] * times_experts == pytest.approx(experts)


def _form(fusion_type: str) -> str:
    return "transformer-base" if fusion_type == "TransformerBase" else fusion_type


def test_families_are_known_by_their_other_names():
    assert {
        family_of(name).name for name in ("wideresnet28_10", "WRN", "improved_wide_resnet")
    } == {"improved-wide-resnet"}
    assert family_of("densenet121").name == "densenet"


@pytest.mark.parametrize(
    ("fusion", "beside", "words"),
    [
        ({"types": ["multiplicativ"]}, {}, "did you mean 'multiplicative'"),
        ({"families": ["resnett"]}, {}, "did you mean 'resnet'"),
        ({"types": ["multiplicative", "Multiplicative"]}, {}, "twice"),
        ({}, {"loss": {"alpha": -1}}, "greater than or equal to 0"),
        ({}, {"loss": {"alpha": 1, "lambda_loss": 2}}, "two values"),
        ({}, {"partition": {"experts": 1}}, "at least 2 experts"),
        ({}, {"partition": {"unique": 0.3}}, "more than 1"),
        ({}, {"partition": {"validation": 0.2}}, "smaller"),
        ({}, {"partition": "noniid"}, "number of classes"),
        ({"mixed": True}, {}, "one expert per family"),
        ({"cells": ["resnet"]}, {}, "family+type"),
        ({"famillies": ["resnet"]}, {}, "famillies"),
    ],
)
def test_wrong_sections_are_refused_with_what_would_be_right(
    fusion: dict[str, Any], beside: dict[str, Any], words: str
):
    with pytest.raises(RegattaError) as caught:
        study_of(fusion, **beside)
    assert words in str(caught.value)


def test_loss_may_not_stand_in_two_places():
    with pytest.raises(ConfigError, match="keep one"):
        study_of(loss={"alpha": 1}, train={"loss": {"alpha": 2}})


def test_what_is_built_on_a_run_starts_over_with_it():
    runs = expand_study(study_of({"types": ["multiplicative", "concatenation"]}))
    ids = {spec.entry.name: spec.run_id for spec in runs}
    again = with_dependants(runs, [ids["resnet-expert-2"]])
    built = ("resnet-expert-2", "resnet-multiplicative", "resnet-concatenation", "resnet-stacking")
    assert again == [ids[name] for name in built]
    assert with_dependants(runs, ["nobody"]) == ["nobody"]


def test_the_command_line_reaches_entries_that_the_section_made(tmp_path: Path):
    flags = Flags(overrides=("entries.resnet-concatenation.train.epochs=2", "seeds=[0]"))
    study = choose_study(STUDIES / "matrix.yaml", flags, tmp_path, may_build=False).study
    assert entry(study, "resnet-concatenation").train["epochs"] == 2
