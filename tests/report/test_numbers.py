"""Numbers as readers see them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.report.numbers import (
    chance_text,
    count_text,
    duration_text,
    p_text,
    percent_text,
    signed_text,
)
from regatta.report.tables import NOT_MEASURED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOT_MEASURED),
        (0.0, "< 0.001"),
        (0.000999, "< 0.001"),
        (0.0123, "0.012"),
        (1.0, "1.000"),
    ],
)
def test_p_values(value: float | None, text: str) -> None:
    assert p_text(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0004, "< 1 %"), (0.5, "50 %"), (0.9996, "> 99 %"), (1.0, "100 %")],
)
def test_a_chance_is_certain_only_when_every_replicate_agrees(share: float, text: str) -> None:
    assert chance_text(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.00593, "5.93 ms"),
        (0.1, "0.1 s"),
        (45.04, "45 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (12600, "3.5 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (950, "950"),
        (1_080_000, "1.08 M"),
        (3.2e10, "32 G"),
        (1.8e11, "180 G"),
        (4e12, "4 T"),
    ],
)
def test_large_counts(value: float, text: str) -> None:
    assert count_text(value) == text


@given(st.floats(-100, 100))
def test_a_signed_number_has_a_true_minus_and_reads_back(value: float) -> None:
    text = signed_text(value)
    assert text[0] in "+−"
    assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.0501)


@given(st.floats(0, 100))
def test_percentages_have_one_decimal(value: float) -> None:
    assert float(percent_text(value)) == pytest.approx(value, abs=0.0501)
    assert percent_text(value)[-2] == "."
