"""The protocol in words: its parameters are all there, whatever they are set to."""

from __future__ import annotations

from typing import Any

import pytest

from regatta.analysis.protocol_words import contrast_methods, protocol_words
from regatta.config.schema import ProtocolSection
from regatta.records.conditions import Condition
from tests.analysis.protocol_conditions import PROTOCOLS, conditions_of

EXPECTED: dict[str, tuple[str, ...]] = {
    "plain": ("one clip", "spread evenly"),
    "temporal-grid": ("10, 25, 50, 75 and 100 %", "1, 2, 4, 8 and 16", "last one was held"),
    "temporal-grid-legacy": ("floor(n × coverage)", "floor(T / m) + 1", "of all frames"),
    "matched": ("1, 2, 4, 8 and 16", "middle one", "repeated in order"),
    "span": ("8 distinct frames", "10, 25, 50, 75 and 100 %", "centred window"),
    "antialias": ("1, 2, 4, 8 and 16 frames", "middle frame", "box filter", "last one was held"),
    "controls": ("one-frame", "static", "shuffled", "reversed"),
    "multi-view": ("1x1, 5x3 and 10x3", "frames 4 apart", "averaged"),
    "sliding": ("25 % of the clip", "frames 1 apart", "9 positions"),
}


@pytest.mark.parametrize("protocol", EXPECTED)
def test_every_protocol_is_described_with_its_parameters(protocol: str) -> None:
    text = protocol_words(ProtocolSection(name=protocol), conditions_of(protocol))
    for part in EXPECTED[protocol]:
        assert part in text
    assert text.endswith(".")
    assert "{" not in text


@pytest.mark.parametrize(
    ("protocol", "options", "part"),
    [
        ("span", {"frames": 4}, "A fixed number of 4 distinct frames"),
        ("matched", {"pad": "loop"}, "repeated from its start"),
        ("temporal-grid", {"placement": "random"}, "placed at random per sample"),
        ("temporal-grid-legacy", {"base": "4T"}, "four times the model's frames"),
        ("multi-view", {"stride": 2}, "frames 2 apart"),
        ("sliding", {"coverage": 10, "stride": 3}, "10 % of the clip, its frames 3 apart"),
    ],
)
def test_options_of_the_study_are_the_ones_described(
    protocol: str, options: dict[str, Any], part: str
) -> None:
    section = ProtocolSection(name=protocol, options=options)
    assert part in protocol_words(section, conditions_of(protocol))


@pytest.mark.parametrize("name", ["their-own", "matched"])
def test_conditions_of_another_package_are_named_and_not_guessed(name: str) -> None:
    text = protocol_words(ProtocolSection(name=name), [Condition("x", {"speed": 2})])
    assert text == f"Clips were planned by the protocol {name}."


def test_windows_of_signals_are_never_called_clips() -> None:
    plain = protocol_words(ProtocolSection(name="plain"), [Condition("plain")], signals=True)
    assert plain == "Each window was judged once, as it was recorded."
    cells = [("clean", 0), ("noise", 0.05), ("noise", 0.5), ("rate", 12.5), ("offset", 8)]
    conditions = [Condition(f"{p}-{x}", {"perturbation": p, "level": x}) for p, x in cells]
    section = ProtocolSection(name="sensor-robustness")
    text = protocol_words(section, conditions, signals=True)
    assert "noise of sd 0.05 and 0.5 times" in text
    assert "lowered to 12.5 Hz" in text
    assert "begun 8 samples later" in text
    assert "clip" not in text
    assert "turned" not in text
    other = protocol_words(ProtocolSection(name="theirs"), conditions, signals=True)
    assert other == "Windows were shown by the protocol theirs."


def test_methods_of_contrasts_state_family_correction_and_rule() -> None:
    section = {"correction": "holm", "family_size": 12, "rule": "a rule"}
    text = contrast_methods(section)
    assert "the 12 p-values of this family were corrected by Holm's method" in text
    assert text.endswith("Reading: a rule.")
    assert contrast_methods(None) == ""


def test_builder_and_words_know_the_same_protocols() -> None:
    assert {*PROTOCOLS, "plain", "temporal-grid", "temporal-grid-legacy"} == set(EXPECTED)
