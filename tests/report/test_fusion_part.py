"""What a report says of a fusion study: the verdict is about fusing, and its numbers are those of
the comparison."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from regatta.analysis.compare import compare_study
from regatta.core.files import read_json
from regatta.records.run_folder import StudyFolder
from regatta.report.fusion_part import verdict
from regatta.report.material import Material, read_material
from regatta.report.page import write_report
from tests.analysis.fusion_build import ROBUST, build_fusion_study, drawn_scores, labels_of

SAMPLES, CLASSES = 150, 5
SKILLS = {"resnet-multiplicative": 2.0, "resnet-multiplicative/expert": 0.6, "resnet-expert": 0.6}


def text_of(page: str) -> str:
    """What a reader sees: tags, script and style taken away, white space made one blank."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", bare)))


def build(path: Path, fusion: dict[str, Any], **more: Any) -> StudyFolder:
    conditions = more.get("conditions", ())
    labels = labels_of(SAMPLES, CLASSES)
    scores = drawn_scores(labels, CLASSES, conditions=len(conditions) or 1, skills=SKILLS)
    folder = build_fusion_study(
        path, fusion=fusion, samples=SAMPLES, classes=CLASSES, scores=scores, **more
    )
    compare_study(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two fusions of one family, one seed, judged under noise too, equal cost not trained."""
    fusion = {
        "families": ["resnet"],
        "types": ["multiplicative", "concatenation"],
        "baselines": ["full"],
    }
    built = build(tmp_path_factory.mktemp("one"), fusion, seeds=(0,), conditions=ROBUST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGATTA_FIGURE_FORMATS", "svg")
        write_report(built)
    return built


@pytest.fixture(scope="module")
def page(folder: StudyFolder) -> str:
    return (folder.report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def section(folder: StudyFolder) -> dict[str, Any]:
    return read_json(folder.results / "comparison.json")["fusion"]


def test_headline_is_about_fusing_and_not_about_the_leader(page: str) -> None:
    found = re.search(r"<h1>(.*?)</h1>", page)
    assert found is not None
    headline = unescape(found[1])
    assert "fused systems" in headline
    assert "the average of its co-trained experts" in headline
    assert "one network of equal training cost is not known (not trained)" in headline
    assert "is ahead of" not in headline


def test_counts_of_the_headline_are_those_of_the_decision(
    page: str, section: dict[str, Any]
) -> None:
    ahead = sum(
        row["part"] == "fusion gain" and row["verdict"] == "ahead" for row in section["decision"]
    )
    words = {0: "None of 2 fused systems beats", 1: "1 of 2 fused systems beats"}
    assert words.get(ahead, "All 2 fused systems beat") in text_of(page)
    assert ahead >= 1, "built so that multiplying beats experts that are little skilled"


def test_page_has_every_part_of_the_section(page: str) -> None:
    for title in (
        "Fusion against averages",
        "Where a gain comes from",
        "Architecture, fusion, or both",
        "What a system costs",
        "How differently experts answer",
        "Noise and corruptions",
    ):
        assert f">{title}<" in page
    assert 'href="#fusion"' in page


@pytest.mark.parametrize("name", ["systems", "decision", "cost", "diversity"])
def test_every_figure_of_the_section_is_written(folder: StudyFolder, name: str) -> None:
    picture = (folder.report / "figures" / f"fusion_{name}.svg").read_text(encoding="utf-8")
    assert picture.lstrip().startswith("<?xml")
    assert "<path" in picture


def test_numbers_on_the_page_are_those_of_the_comparison(
    page: str, section: dict[str, Any]
) -> None:
    shown = text_of(page).replace("\N{MINUS SIGN}", "-")
    for row in section["decision"]:
        if row["verdict"] is not None:
            found = row["difference_points"]
            text = f"{found['estimate']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"
            assert text in shown, row["part"]
    for system in section["systems"]:
        fused = system["accuracies"]["fused"]["accuracy"]
        values = [100 * fused[key] for key in ("estimate", "low", "high")]
        assert "{:.1f} [{:.1f}, {:.1f}]".format(*values) in shown, system["entry"]


def test_absent_baseline_is_called_not_trained(folder: StudyFolder, page: str) -> None:
    table = (folder.report / "tables" / "fusion_systems.csv").read_text(encoding="utf-8")
    assert "full_equal_cost" in table.splitlines()[0]
    assert "not trained" in text_of(page)
    assert "equal training cost: not trained" in text_of(page)


def test_one_seed_is_never_called_a_ranking(page: str) -> None:
    text = text_of(page)
    assert "training noise is not covered, so the cells are not ranked" in text
    assert "Training noise is covered" not in text


def test_page_of_images_does_not_speak_of_clips(folder: StudyFolder, page: str) -> None:
    text = text_of(page)
    for word in ("distinct frames", "still frame", "still clips", "padding, %", "rate, Hz"):
        assert word not in text, word
    assert "clean images" in text
    assert "published weights" not in text
    for card in (folder.report / "cards").glob("*.md"):
        told = card.read_text(encoding="utf-8").lower()
        assert "video" not in told
        assert "temporal" not in told
        assert "image-classification" in told


def test_page_says_whether_fusions_share_their_augmentation(page: str) -> None:
    assert "fusion type and augmentation are confounded" in text_of(page)


def test_diagonal_study_says_that_effects_cannot_be_told_apart(tmp_path: Path) -> None:
    fusion = {"cells": ["resnet+multiplicative", "densenet+concatenation"], "baselines": []}
    material = read_material(build(tmp_path, fusion, seeds=(0,)))
    found = material.comparison["fusion"]["effects"]
    reasons = " ".join(text for one in found for text in one["sentences"])
    assert "cannot be told apart" in reasons or "confounded" in reasons


def decided(*verdicts: str | None) -> Material:
    """Nothing but the rows of a decision, for the sentence that is made of them."""
    interval = {"estimate": 2.04, "low": 1.0, "high": 3.06}
    rows = [
        {
            "entry": f"net-{k}",
            "part": part,
            "verdict": verdict,
            "reason": "" if verdict else "one network, equal training cost: not trained",
            "difference_points": interval if verdict else None,
            "sentence": "a is ahead of b by 2.0 points [1.0, 3.1], paired over 9 groups, 3 seeds",
        }
        for part in ("fusion gain", "against equal cost")
        for k, verdict in enumerate(verdicts)
    ]
    comparison = {
        "fusion": {"decision": rows},
        "entries": [{"name": f"net-{k}"} for k in range(len(verdicts))],
    }
    return Material(StudyFolder(Path("none")), comparison, {}, [], [])


@pytest.mark.parametrize(
    ("verdict_of_it", "start"),
    [
        ("ahead", "net-0 beats the average of its co-trained experts by 2.0 points [1.0,"),
        (
            "undecided",
            "The data cannot tell net-0 from the average of its co-trained experts: +2.0",
        ),
        ("equivalent", "net-0 equals the average of its co-trained experts within the margin: +2"),
    ],
)
def test_one_system_is_told_with_its_interval(verdict_of_it: str, start: str) -> None:
    found = verdict(decided(verdict_of_it))
    assert found is not None
    assert found[0].startswith(start)
    assert found[1] == "Paired over 9 groups, 3 seeds."


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["ahead", "behind", "undecided", None], "1 of 4 fused systems beats"),
        (["ahead", "ahead"], "All 2 fused systems beat"),
        (["behind", "undecided"], "None of 2 fused systems beats"),
        (["undecided", "few-seeds"], "The data cannot tell whether fusing beats"),
    ],
)
def test_several_systems_are_counted(verdicts: list[str | None], said: str) -> None:
    found = verdict(decided(*verdicts))
    assert found is not None
    assert found[0].startswith(f"{said} the average of its co-trained experts; ")


def test_loss_is_told_with_a_size_above_zero() -> None:
    material = decided("behind")
    for row in material.comparison["fusion"]["decision"]:
        row["difference_points"] = {"estimate": -2.04, "low": -3.06, "high": -1.0}
    found = verdict(material)
    assert found is not None
    first = found[0].partition("; ")[0].replace("\N{NO-BREAK SPACE}", " ")
    assert first == (
        "net-0 falls behind the average of its co-trained experts by 2.0 points [1.0, 3.1]"
    )
