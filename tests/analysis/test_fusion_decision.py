"""The three parts of the decision and the matrix, on predictions whose differences are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from regatta.analysis.compare import compare_study
from regatta.analysis.fusion import corruption_error, fusion_section
from regatta.analysis.fusion_matrix import CONFOUNDED, ONE_SEED
from regatta.analysis.judged import read_judged_study
from tests.analysis.build import build_judged_study
from tests.analysis.fusion_build import (
    ROBUST,
    build_fusion_study,
    counted_scores,
    drawn_scores,
    labels_of,
)

IMAGES, CLASSES = 200, 4
TYPES = ["multiplicative", "concatenation"]
BASELINES = ["full", "equal-cost"]


def counts(family: str, fused: Mapping[str, int], **changed: int) -> dict[str, int]:
    """Right answers of one family: experts 120, co-trained 140, one network of equal cost 180."""
    heads = {
        f"{family}-{kind}/expert-{k}": changed.get("heads", 140) for kind in fused for k in (0, 1)
    }
    return {
        **{f"{family}-expert-{k}": 120 for k in (0, 1)},
        **{f"{family}-{kind}": count for kind, count in fused.items()},
        **heads,
        f"{family}-full": 150,
        f"{family}-full-equal-cost": changed.get("cost", 180),
    }


def section_of(path: Path, right: Mapping[str, int], **options: Any) -> dict[str, Any]:
    return section_and_files(path, right, **options)[0]


def section_and_files(
    path: Path, right: Mapping[str, int], **options: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    fusion = {"families": ["resnet"], "types": TYPES[:1], "baselines": BASELINES}
    usual = {"fusion": fusion, "partition": {"experts": 2}, "samples": IMAGES, "classes": CLASSES}
    scores = counted_scores(labels_of(IMAGES, CLASSES), CLASSES, right)
    judged = read_judged_study(build_fusion_study(path, **{**usual, "scores": scores, **options}))
    section, files = fusion_section(judged, 0)
    assert section is not None
    return section, files


def by_part(section: dict[str, Any], entry: str) -> dict[str, dict[str, Any]]:
    return {row["part"]: row for row in section["decision"] if row["entry"] == entry}


def gains(section: dict[str, Any], entry: str) -> dict[str, float]:
    parts = by_part(section, entry)
    return {name: row["difference_points"]["estimate"] for name, row in parts.items()}


@pytest.fixture(scope="module")
def ten_points(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Experts 60 %, co-trained 70 %, fused 80 %, equal cost 90 %; all right answers are nested."""
    return section_of(tmp_path_factory.mktemp("ten"), counts("resnet", {"multiplicative": 160}))


def test_the_three_parts_are_the_planted_differences(ten_points: dict[str, Any]) -> None:
    assert gains(ten_points, "resnet-multiplicative") == pytest.approx(
        {"co-training gain": 10, "fusion gain": 10, "against equal cost": -10}
    )
    parts = by_part(ten_points, "resnet-multiplicative")
    assert [row["verdict"] for row in parts.values()] == ["ahead", "ahead", "behind"]
    assert parts["fusion gain"]["by_seed"] == pytest.approx({0: 10, 1: 10, 2: 10})
    (cell,) = ten_points["matrix"]
    assert cell["gain_over_average"]["estimate"] == pytest.approx(20)
    assert cell["verdict"] == "fusing helps; behind equal cost"


def test_every_system_has_the_accuracy_that_was_planted(ten_points: dict[str, Any]) -> None:
    (system,) = ten_points["systems"]
    found = {
        key: value["accuracy"] and value["accuracy"]["estimate"]
        for key, value in system["accuracies"].items()
    }
    experts = ("best-expert", "mean-expert", "logits", "probabilities", "weighted", "oracle")
    names = [key if "-expert" in key else f"original-{key}" for key in experts]
    assert [found[name] for name in names] == pytest.approx([0.6] * 6)
    cotrained = [found[f"cotrained-{key}"] for key in ("logits", "probabilities", "oracle")]
    assert cotrained == pytest.approx([0.7] * 3)
    singles = [found[key] for key in ("fused", "full", "full-equal-cost")]
    assert singles == pytest.approx([0.8, 0.75, 0.9])
    assert found["stacking"] is None
    assert found["wide"] is None


def test_the_interval_is_that_of_a_bootstrap_over_images(ten_points: dict[str, Any]) -> None:
    """20 of 200 images differ, by 1 each, in every seed alike: sd = sqrt(0.1 * 0.9 / 199)."""
    row = by_part(ten_points, "resnet-multiplicative")["fusion gain"]["difference_points"]
    half = 100 * 1.96 * np.sqrt(0.1 * 0.9 / 199)
    assert row["low"] == pytest.approx(10 - half, abs=1.2)
    assert row["high"] == pytest.approx(10 + half, abs=1.2)


def test_a_fused_system_that_answers_as_its_average_adds_nothing(tmp_path: Path) -> None:
    section = section_of(tmp_path, counts("resnet", {"multiplicative": 140}))
    row = by_part(section, "resnet-multiplicative")["fusion gain"]
    assert row["verdict"] == "identical"
    assert row["difference_points"]["estimate"] == 0
    assert section["matrix"][0]["verdict"].startswith("fusion adds nothing")


def test_all_parts_of_all_fusions_are_one_family_corrected_by_holm(tmp_path: Path) -> None:
    """Two fusions have six tests; the corrected p-values are those of statsmodels."""
    fusion = {"families": ["resnet"], "types": TYPES, "baselines": BASELINES}
    right = counts("resnet", {"multiplicative": 125, "concatenation": 160}, heads=122, cost=128)
    section = section_of(tmp_path, right, fusion=fusion)
    raw = [row["p_value"] for row in section["decision"]]
    assert section["family_size"] == len(raw) == 6
    assert len({round(p, 3) for p in raw}) > 3
    expected = np.asarray(multipletests(raw, method="holm")[1])
    assert [row["p_adjusted"] for row in section["decision"]] == pytest.approx(expected.tolist())


def test_a_part_that_is_not_known_is_no_test_and_no_number(tmp_path: Path) -> None:
    right = counts("resnet", {"multiplicative": 160})
    fusion = {"families": ["resnet"], "types": TYPES[:1], "baselines": ["full"]}
    section, files = section_and_files(tmp_path, right, fusion=fusion)
    row = by_part(section, "resnet-multiplicative")["against equal cost"]
    assert section["family_size"] == 2
    assert [row[key] for key in ("difference_points", "verdict", "p_value")] == [None] * 3
    assert row["second"] == "resnet-full-equal-cost"
    assert "not trained" in row["sentence"]
    last = files["matrix.csv"].splitlines()[1]
    assert '"one network, equal training cost: not trained"' in last
    assert any("equal training cost: not trained for resnet" in note for note in section["notes"])


def test_one_seed_is_said_to_rank_nothing(tmp_path: Path) -> None:
    right = counts("resnet", dict.fromkeys(TYPES, 160))
    fusion = {"families": ["resnet"], "types": TYPES, "baselines": BASELINES}
    section = section_of(tmp_path, right, fusion=fusion, seeds=(0,))
    assert ONE_SEED in section["notes"]
    assert ONE_SEED in section["effects"][0]["notes"]
    row = by_part(section, "resnet-multiplicative")["fusion gain"]
    assert "1 seed; training noise is not covered" in row["sentence"]


def matrix_of(path: Path, table: list[list[int]]) -> dict[str, Any]:
    """Effects of a full grid of resnet and densenet by both TYPES with these right answers."""
    families = ["resnet", "densenet"]
    right = {}
    for family, row in zip(families, table, strict=True):
        right |= counts(family, dict(zip(TYPES, row, strict=True)))
    fusion = {"families": families, "types": TYPES, "baselines": []}
    (effects,) = section_of(path, right, fusion=fusion, seeds=(0, 1))["effects"]
    return effects


def levels(effects: dict[str, Any]) -> dict[str, float]:
    return {
        row["level"]: row["effect_points"]["estimate"]
        for effect in effects["effects"]
        for row in effect["levels"]
    }


def test_an_additive_table_is_taken_apart_exactly(tmp_path: Path) -> None:
    """50, 55, 60, 65 %: architectures -5 and +5, types -2.5 and +2.5, nothing left over; sums of
    squares 4 x 5^2 and 4 x 2.5^2, so 80 and 20 %."""
    effects = matrix_of(tmp_path, [[100, 110], [120, 130]])
    assert levels(effects) == pytest.approx(
        {"resnet": -5, "densenet": 5, "multiplicative": -2.5, "concatenation": 2.5}
    )
    assert [effect["range_points"] for effect in effects["effects"]] == pytest.approx([10, 5])
    assert effects["both"]["largest_points"]["estimate"] == pytest.approx(0, abs=1e-9)
    expected = {"architecture": 0.8, "fusion type": 0.2, "both": 0.0}
    assert effects["shares"] == pytest.approx(expected, abs=1e-9)


def test_what_is_not_additive_goes_to_both(tmp_path: Path) -> None:
    """50, 60, 60, 50 %: no level differs from another on average, every cell by 5 points."""
    effects = matrix_of(tmp_path, [[100, 120], [120, 100]])
    assert list(levels(effects).values()) == pytest.approx([0] * 4, abs=1e-9)
    assert abs(effects["both"]["largest_points"]["estimate"]) == pytest.approx(5)
    assert effects["shares"]["both"] == pytest.approx(1)


def test_a_diagonal_is_no_matrix_and_the_whole_comparison_says_so(tmp_path: Path) -> None:
    cells = ["resnet+multiplicative", "densenet+concatenation"]
    folder = build_fusion_study(
        tmp_path,
        fusion={"cells": cells, "baselines": []},
        partition={"experts": 2},
        samples=40,
        seeds=(0,),
        compare={"replicates": 100},
    )
    comparison = compare_study(folder)
    (effects,) = comparison["fusion"]["effects"]
    assert effects["effects"] == []
    assert effects["reason"] == CONFOUNDED
    assert CONFOUNDED in comparison["notes"]
    entries = {entry["name"] for entry in comparison["entries"]}
    assert entries == {"resnet-multiplicative", "densenet-concatenation"}
    pairs = comparison["pairs"]["headline"]
    assert {(pair["first"], pair["second"]) for pair in pairs} == {tuple(sorted(entries))[::-1]}
    for name in ("matrix.csv", "cost.csv", "diversity.csv", "evaluation.csv", "ood.csv"):
        assert (folder.results / name).is_file()


def test_a_study_that_fuses_nothing_has_no_section_and_no_files(tmp_path: Path) -> None:
    judged = read_judged_study(build_judged_study(tmp_path, samples=24, protocol="plain"))
    assert fusion_section(judged, 0) == (None, {})


def test_mean_corruption_error_by_hand(tmp_path: Path) -> None:
    """Fog at both severities: errors 0.3 + 0.6 against 0.2 + 0.4 of the reference, so 150 %; clean
    images and noise do not count, and a reference without errors gives no ratio."""
    judged = read_judged_study(
        build_fusion_study(
            tmp_path,
            fusion={"families": ["resnet"], "types": TYPES[:1], "baselines": ["full"]},
            partition={"experts": 2},
            samples=24,
            seeds=(0,),
            scores=drawn_scores(labels_of(24, 6), 6, conditions=len(ROBUST)),
            conditions=ROBUST,
        )
    )
    own, reference = np.array([0.9, 0.0, 0.7, 0.4]), np.array([0.5, 1.0, 0.8, 0.6])
    assert corruption_error(judged, own, reference) == pytest.approx(150)
    assert corruption_error(judged, own, None) is None
    assert corruption_error(judged, own, np.ones(4)) is None
    section, _ = fusion_section(judged, 0)
    assert section is not None
    assert section["robustness"]["relative_to"] == {"resnet-multiplicative": "resnet-full"}
