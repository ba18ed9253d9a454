"""Sentences a reader sees: right order, sign, unit and caveats."""

from __future__ import annotations

from typing import Any

import pytest

from regatta.analysis.bootstrap import Interval
from regatta.analysis.paired import Pair, Verdict
from regatta.analysis.wording import (
    design,
    methods_paragraph,
    pair_sentence,
    points,
    single_sentence,
)

PROVENANCE: dict[str, Any] = {
    "n": 1200,
    "groups": 412,
    "seeds_per_entry": {"vivit": 3, "videomae": 3},
    "replicates": 10_000,
    "confidence": 0.95,
    "permutation": "Monte Carlo over 10000 sign patterns",
    "correction": "holm",
    "margin_points": 1.0,
}


def pair(verdict: Verdict, difference: Interval, *, equivalent: bool = False) -> Pair:
    return Pair(
        "vivit", "videomae", difference, difference, 0.01, 0.02, "", False, verdict, equivalent
    )


def sentence(found: Pair, seeds: tuple[int, ...] = (3, 3)) -> str:
    return pair_sentence(found, groups=412, seeds=seeds, margin_points=1.0)


def test_ahead_is_the_sentence_of_the_specification() -> None:
    found = pair("ahead", Interval(0.031, 0.012, 0.050))
    assert sentence(found) == (
        "vivit is ahead of videomae by 3.1 points [1.2, 5.0], paired over 412 groups, 3 seeds"
    )


def test_behind_is_said_from_the_better_entry() -> None:
    found = pair("behind", Interval(-0.031, -0.050, -0.012))
    assert sentence(found).startswith("videomae is ahead of vivit by 3.1 points [1.2, 5.0]")


def test_undecided_names_both_and_the_difference() -> None:
    found = pair("undecided", Interval(0.004, -0.011, 0.02))
    assert sentence(found).startswith(
        "the data cannot tell vivit from videomae: difference 0.4 points [-1.1, 2.0]"
    )


def test_equivalent_states_the_margin() -> None:
    found = pair("equivalent", Interval(0.001, -0.004, 0.006), equivalent=True)
    assert "equivalent within 1 point: difference 0.1 points" in sentence(found)


def test_ahead_but_inside_the_margin_says_so() -> None:
    found = pair("ahead", Interval(0.004, 0.002, 0.006), equivalent=True)
    assert "inside the margin of 1, paired" in sentence(found)


def test_one_seed_says_that_training_noise_is_not_covered() -> None:
    found = pair("ahead", Interval(0.03, 0.01, 0.05))
    assert sentence(found, (1, 1)).endswith("1 seed; training noise is not covered")
    assert sentence(found, (3, 1)).endswith("3 and 1 seeds; training noise is not covered")
    assert design(1, [2, 2]) == "paired over 1 group, 2 seeds"


def test_missing_interval_is_explained_in_place() -> None:
    found = pair("undecided", Interval(0.03, note="all samples belong to one group"))
    assert "(no interval: all samples belong to one group)" in sentence(found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.14, "3.1"), (-0.04, "-0.04"), (0.0, "0.0"), (-0.0, "0.0"), (0.004, "0.00")],
)
def test_points_do_not_round_a_small_difference_to_nothing(value: float, text: str) -> None:
    assert points(value) == text


def test_single_entry_has_nothing_to_be_compared_with() -> None:
    text = single_sentence("vivit", Interval(0.87, 0.85, 0.89), samples=240, groups=60, seeds=1)
    assert text.startswith("vivit is right on 87.0 % [85.0, 89.0] of 240 samples in 60 groups")
    assert "training noise is not covered" in text
    assert text.endswith("no other entry is judged, so nothing is compared")


def test_methods_paragraph_states_design_methods_and_sources() -> None:
    text = methods_paragraph(
        PROVENANCE, headline="c100s1", conditions=25, protocol="P.", contrasts=""
    )
    for part in (
        "2 models",
        "1200 samples",
        "412 groups",
        "25 conditions",
        "c100s1",
        "10,000 replicates",
        "Holm's (1979)",
        "Rao and Wu 1988",
        "Schuirmann 1987",
        "within 1 point",
        "outer level",
    ):
        assert part in text
    assert "no estimate of training noise" not in text


def test_methods_paragraph_of_single_seeds_admits_it() -> None:
    single = {**PROVENANCE, "seeds_per_entry": {"a": 1, "b": 1}, "correction": "none"}
    text = methods_paragraph(single, headline="plain", conditions=1, protocol="P.", contrasts="")
    assert "no estimate of training noise" in text
    assert "outer level" not in text
    assert "were not corrected" in text


@pytest.mark.parametrize(
    ("correction", "words"),
    [
        ("bh", "Benjamini and Hochberg (1995), which bounds the expected share of false claims"),
        ("tukey", "Tukey's (1953) method at each condition"),
        ("none", "were not corrected"),
    ],
)
def test_methods_say_what_a_correction_promises(correction: str, words: str) -> None:
    text = methods_paragraph(
        {**PROVENANCE, "correction": correction},
        headline="c100s1",
        conditions=1,
        protocol="",
        contrasts="",
    )
    assert words in text
