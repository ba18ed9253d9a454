"""CSV files: fixed names and columns, harmless text, no NaN."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.analysis.tables import (
    csv_cell,
    csv_text,
    drops_csv,
    pairwise_csv,
    per_class_csv,
    results_csv,
)
from regatta.core.csv_text import FORMULA_STARTS


def parsed(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize(
    "name", ["=cmd()", "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "＝1", '=HYPERLINK("x")']
)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(name: str) -> None:
    assert csv_cell(name) == "'" + name.replace("\r", " ")


@pytest.mark.parametrize("name", ['"><img onerror=x>', "$\\input{x}$", "a,b", 'say "hi"', "a\nb"])
def test_other_hostile_names_come_back_unchanged(name: str) -> None:
    assert parsed(csv_text(["class"], [[name]]))[1] == [name]


def test_numbers_keep_every_digit_and_are_never_escaped() -> None:
    assert csv_cell(-0.1) == -0.1
    assert csv_cell(182.0) == 182
    assert parsed(csv_text(["x"], [[1 / 3], [-5]]))[1:] == [[repr(1 / 3)], ["-5"]]


def test_missing_values_are_empty_fields() -> None:
    assert parsed(csv_text(["a", "b"], [[None, 1]]))[1] == ["", "1"]


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_any_text_comes_back_whole_and_starts_no_formula(rows: list[list[str]]) -> None:
    found = parsed(csv_text(["a", "b"], rows))[1:]
    expected = [
        ["'" * value.startswith(FORMULA_STARTS) + value.replace("\r", " ") for value in row]
        for row in rows
    ]
    assert found == expected
    assert not any(field.startswith(FORMULA_STARTS) for row in found for field in row)


def test_per_class_rows_are_conditions_times_present_classes() -> None:
    conditions = [
        {"id": "c10s1", "axes": {"coverage": 10, "stride": 1}},
        {"id": "c10s2", "axes": {"coverage": 10, "stride": 2}},
    ]
    text = per_class_csv(
        ["a", "=b()", "absent"],
        [[0.5, 1.0, None], [0.25, 0.0, None]],
        [4, 2, 0],
        conditions,
        ["coverage", "stride"],
    )
    assert parsed(text) == [
        ["class", "coverage", "stride", "accuracy", "n_samples"],
        ["a", "10", "1", "0.5", "4"],
        ["'=b()", "10", "1", "1", "2"],
        ["a", "10", "2", "0.25", "4"],
        ["'=b()", "10", "2", "0", "2"],
    ]


def test_plain_protocol_has_the_condition_in_place_of_axes() -> None:
    conditions = [{"id": "plain", "axes": {}}]
    assert parsed(per_class_csv(["a"], [[1.0]], [3], conditions, [])) == [
        ["class", "condition", "accuracy", "n_samples"],
        ["a", "plain", "1", "3"],
    ]


def test_results_header_starts_with_the_fixed_columns() -> None:
    header = results_csv([], ["coverage", "stride"]).split("\n")[0]
    assert header.startswith(
        "model,coverage,stride,accuracy,n_samples,elapsed_time,correct,top5,distinct_frames,"
        "span_seconds,rate_hz,pad_share,identical_to,"
    )
    assert results_csv([], []).startswith("model,condition,accuracy,n_samples,elapsed_time,")


def test_undefined_comparison_is_said_and_not_starred() -> None:
    row = {
        "comparison": "10% vs 25%",
        "mean_difference": 0.0,
        "t_statistic": None,
        "p_value": None,
        "significant": None,
        "cohens_d": None,
        "p_bonferroni": None,
    }
    assert parsed(pairwise_csv([row]))[1] == ["10% vs 25%", "0", "", "", "undefined", "", ""]


def test_drops_name_their_coverages_and_put_the_largest_first() -> None:
    rows = [
        {"class": "a", "high": 0.9, "low": 0.8, "drop": 0.1},
        {"class": "b", "high": 0.9, "low": 0.4, "drop": 0.5},
    ]
    table = parsed(drops_csv(rows, {"coverage": 100.0, "low_coverage": 25.0}))
    assert table[0] == ["class", "acc_100", "acc_25", "drop"]
    assert [row[0] for row in table[1:]] == ["b", "a"]
