"""Averages of experts, the best of them, and their joining by classes, on tables made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regatta.analysis.fusion_judged import Blocks, Team, team, without_experts
from regatta.analysis.fusion_systems import (
    BASELINES,
    CLASS_SPLIT,
    NO_EXPERTS,
    NO_HEADS,
    NO_VALIDATION,
    NOT_JUDGED,
    NOT_TRAINED,
    WORDS,
    Fused,
    read_fused,
)
from regatta.analysis.judged import JudgedStudy, read_judged_study
from tests.analysis.build import build_judged_study
from tests.analysis.fusion_build import answers, build_fusion_study, counted_scores, labels_of

TWO = {"experts": 2}
ONE_FAMILY = {"families": ["resnet"], "types": ["multiplicative"]}


def of_tables(*tables: Sequence[Sequence[float]], labels: list[int], **more: Any) -> Team:
    """A team of experts whose logits are given, [N][K] each."""
    scores = [np.array(table, dtype=np.float32)[None] for table in tables]
    names = [f"expert-{k}" for k in range(len(tables))]
    settings = {"validation": [0.5] * len(tables), **more}
    return team(names, scores, np.array(labels), 0, **settings)


def average(found: Team, kind: str) -> Any:
    one = found.averages[kind]
    assert one is not None
    return one


def judged_fusion(path: Path, **options: Any) -> JudgedStudy:
    settings = {"fusion": ONE_FAMILY, "partition": TWO, "samples": 12, "classes": 6, "seeds": (0,)}
    return read_judged_study(build_fusion_study(path, **{**settings, **options}))


def only_system(judged: JudgedStudy) -> Fused:
    (found,) = read_fused(judged, 0)
    return found


def test_averages_of_logits_and_probabilities_can_answer_differently() -> None:
    """Logits (0,9), (2,0), (2,0) for label 0: their mean (4/3, 3) is wrong, while the mean
    probability of class 0 is (0.0001 + 0.881 + 0.881) / 3 = 0.587, which is right."""
    found = of_tables([[0, 9]], [[2, 0]], [[2, 0]], labels=[0])
    assert not average(found, "logits").correct_N[0]
    assert average(found, "probabilities").correct_N[0]
    sure, unsure = 1 / (1 + math.exp(9)), 1 / (1 + math.exp(-2))
    share = (sure + 2 * unsure) / 3
    assert average(found, "probabilities").nll_C[0] == pytest.approx(-math.log(share))
    assert average(found, "logits").nll_C[0] == pytest.approx(math.log1p(math.exp(3 - 4 / 3)))


def test_the_weighted_average_weighs_by_validation_accuracy() -> None:
    """Weights 0.2, 0.3, 0.5 on (0,9), (2,0), (2,0): (1.6, 1.8); 0.1, 0.4, 0.5: (1.8, 0.9)."""
    tables = ([[0, 9]], [[2, 0]], [[2, 0]])
    near = of_tables(*tables, labels=[0], validation=[0.2, 0.3, 0.5])
    assert not average(near, "weighted").correct_N[0]
    assert average(near, "weighted").nll_C[0] == pytest.approx(math.log1p(math.exp(0.2)))
    far = of_tables(*tables, labels=[0], validation=[0.1, 0.4, 0.5])
    assert average(far, "weighted").correct_N[0]
    assert of_tables(*tables, labels=[0], validation=[0.1, None, 0.5]).averages["weighted"] is None


def test_the_oracle_is_right_where_any_expert_is() -> None:
    found = of_tables(
        [[1, 0], [1, 0], [1, 0]], [[0, 1], [1, 0], [0, 1]], labels=[0, 1, 1]
    )  # right: yes no no; no no yes
    assert found.oracle.correct_N.tolist() == [True, False, True]
    assert [one.correct_N.sum() for one in found.each] == [1, 1]


BLOCKS = Blocks([range(2), range(2, 4)], [1.0, 2.0])


def test_class_split_experts_are_joined_by_logits_over_their_temperatures() -> None:
    """Own logits (3, 0) and (4, 0) / 2 = (2, 0): class 0 wins; what an expert says of classes that
    it never saw is not looked at."""
    found = of_tables([[3, 0, 99, 0]], [[99, 0, 4, 0]], labels=[0], blocks=BLOCKS)
    assert average(found, "logits").correct_N[0]
    total = sum(math.exp(x) for x in (3, 0, 2, 0))
    assert average(found, "logits").nll_C[0] == pytest.approx(math.log(total) - 3)
    same = Blocks(BLOCKS.classes, [1.0, 1.0])
    cold = of_tables([[3, 0, 99, 0]], [[99, 0, 4, 0]], labels=[0], blocks=same)
    assert not average(cold, "logits").correct_N[0]


def test_joined_probabilities_are_those_among_own_classes_over_the_number_of_experts() -> None:
    found = of_tables([[3, 0, 0, 0]], [[0, 0, 4, 0]], labels=[0], blocks=BLOCKS)
    own = 1 / (1 + math.exp(-3))
    assert average(found, "probabilities").nll_C[0] == pytest.approx(-math.log(own / 2))


def test_no_class_is_out_of_reach_of_joined_experts() -> None:
    """All own logits far below 0: a class filled with 0 by another's expert would always win."""
    tables = [np.full((4, 4), -50.0) for _ in range(2)]
    for label in range(4):
        tables[label // 2][label, label] = -20.0
    for table in tables:
        table[table == -50.0] = -40.0
    given = [table.tolist() for table in tables]
    found = of_tables(*given, labels=[0, 1, 2, 3], blocks=Blocks(BLOCKS.classes, [1.0, 1.0]))
    for kind in ("logits", "probabilities"):
        assert average(found, kind).correct_N.all()
        assert np.isfinite(average(found, kind).nll_C).all()


def test_class_split_experts_have_no_weights_no_ambiguity_and_an_accuracy_of_their_own() -> None:
    """Among its own two classes the first is right in 1 of 2, the second in 2 of 2."""
    first = [[1, 0, 9, 0], [1, 0, 9, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    second = [[9, 0, 1, 0], [9, 0, 1, 0], [9, 0, 1, 0], [9, 0, 0, 1]]
    found = of_tables(first, second, labels=[0, 1, 2, 3], blocks=BLOCKS)
    assert found.averages["weighted"] is None
    assert [row["ambiguity"] for row in found.diversity] == [None, None]
    assert found.own_accuracy == [0.5, 1.0]
    assert all(math.isnan(one.nll_C[0]) for one in found.each)


def test_the_best_expert_is_chosen_by_validation_not_by_the_judged_images(tmp_path: Path) -> None:
    """Expert 0 is always right on the judged images, but expert 1 had the better validation."""
    right = {"resnet-expert-0": 12, "resnet-expert-1": 3, "resnet-multiplicative": 6}
    validation = {"resnet-expert-0": 0.4, "resnet-expert-1": 0.9}
    judged = judged_fusion(
        tmp_path,
        scores=counted_scores(labels_of(12, 6), 6, right),
        training=lambda entry, _: {"best_val_accuracy": validation.get(entry, 0.7)},
    )
    systems = only_system(judged).systems
    best, mean = systems["best-expert"], systems["mean-expert"]
    assert best.of == "resnet-expert-1"
    assert best.values_SN is not None
    assert best.values_SN.sum() == 3
    assert mean.values_SN is not None
    assert mean.values_SN.mean() / mean.divisor == pytest.approx((12 + 3) / 24)


def test_the_best_expert_may_differ_by_seed(tmp_path: Path) -> None:
    right = {"resnet-expert-0": 12, "resnet-expert-1": 3, "resnet-multiplicative": 6}
    judged = judged_fusion(
        tmp_path,
        seeds=(0, 1),
        scores=counted_scores(labels_of(12, 6), 6, right),
        training=lambda entry, seed: {"best_val_accuracy": 0.9 if entry[-1] == str(seed) else 0.1},
    )
    best = only_system(judged).systems["best-expert"]
    assert best.values_SN is not None
    assert best.values_SN.sum(axis=1).tolist() == [12, 3]
    assert best.of == "resnet-expert-0, resnet-expert-1"


def test_what_is_missing_has_a_reason_and_no_values(tmp_path: Path) -> None:
    """Neither heads nor one expert nor any baseline is judged; of these, one is not planned."""
    fusion = {**ONE_FAMILY, "baselines": ["full"]}
    judged = judged_fusion(
        tmp_path,
        fusion=fusion,
        scores=counted_scores(
            labels_of(12, 6), 6, {"resnet-multiplicative": 6, "resnet-expert-0": 5}
        ),
    )
    systems = only_system(judged).systems
    reasons = {key: system.reason for key, system in systems.items() if system.values_SN is None}
    assert set(WORDS) - set(reasons) == {"fused"}
    assert {reasons[key] for key in reasons if key.startswith("cotrained")} == {NO_HEADS}
    assert reasons["best-expert"] == reasons["original-logits"] == NO_EXPERTS
    assert reasons["full"] == NOT_JUDGED
    assert {reasons[key] for key in BASELINES if key != "full"} == {NOT_TRAINED}


def test_without_validation_no_expert_is_called_best(tmp_path: Path) -> None:
    judged = judged_fusion(tmp_path, training=lambda *_: {"best_val_accuracy": None})
    systems = only_system(judged).systems
    assert systems["best-expert"].reason == systems["original-weighted"].reason == NO_VALIDATION
    assert systems["original-logits"].values_SN is not None


def test_a_class_split_study_joins_blocks_of_its_own_class_count(tmp_path: Path) -> None:
    """Five classes on two experts: three and two. Both are sure of classes that they do not know,
    and right among their own; only joined by blocks are they right everywhere."""
    labels = labels_of(20, 5)
    own = {"resnet-expert-0": labels < 3, "resnet-expert-1": labels >= 3}

    def scores(entry: str, seed: int, head: str) -> np.ndarray | None:
        if entry not in own:
            return answers(labels >= 0, labels, 5)[None]
        found = answers(labels >= 0, labels, 5)
        found[~own[entry]] = 0
        unknown = slice(3, 5) if entry.endswith("0") else slice(0, 3)
        found[:, unknown] = 30
        return found[None]

    judged = judged_fusion(
        tmp_path,
        fusion={**ONE_FAMILY, "classes": 5},
        partition={"kind": "noniid", "experts": 2},
        samples=20,
        classes=5,
        scores=scores,
    )
    fused = only_system(judged)
    joined = fused.systems["original-logits"].values_SN
    assert joined is not None
    assert joined.all()
    assert fused.systems["original-weighted"].reason == CLASS_SPLIT
    assert fused.teams[0].own_accuracy == [1.0, 1.0]
    for name, alone in zip(own, fused.teams[0].each, strict=True):
        assert not alone.correct_N[own[name]].any()


def test_experts_race_with_nobody_and_a_study_without_them_stays_as_it_is(tmp_path: Path) -> None:
    judged = judged_fusion(tmp_path)
    assert {"resnet-expert-0", "resnet-expert-1"} < set(judged.entries)
    assert set(judged.entries) - set(without_experts(judged).entries) == {
        "resnet-expert-0",
        "resnet-expert-1",
    }
    plain = read_judged_study(build_judged_study(tmp_path, samples=24, protocol="plain"))
    assert without_experts(plain) is plain
    assert read_fused(plain, 0) == []
