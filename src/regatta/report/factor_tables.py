"""Tables of "which factors matter" and what its section of the page says."""

from __future__ import annotations

from typing import Any

from regatta.analysis.factor_words import (
    LOGIT,
    OVER_GROUPS,
    OVER_SAMPLES,
    SHARES,
    f_words,
    find_test,
    shown_effect,
)
from regatta.report.contents import COMPARISON, entry_cell
from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.numbers import p_text
from regatta.report.style import clean_text
from regatta.report.tables import Cell, Column, Table, number_cell, text_cell

FACTORS_FILE, FRIEDMAN_FILE = "results/factors.csv", "results/friedman.csv"
UNDEFINED = "–"

Test = dict[str, Any]


def factor_view(material: Material) -> dict[str, Any] | None:
    """What the section of the page says; None where there is nothing to test or to rank."""
    section, ranks = material.comparison["factors"], material.comparison["friedman"]
    if not section["analyses"] and ranks["reason"]:
        return None

    def said(texts: list[str]) -> list[str]:
        return [sentence(clean_text(text), material.entries) for text in texts if text]

    return {
        "names": [factor["name"] for factor in section["factors"]],
        "sentences": said(section["sentences"]),
        "reason": "".join(said([section["reason"]])),
        "gaps": said(_gaps(material)),
        "notes": said(section["notes"]),
        "ranks": "".join(said([ranks["sentence"]])),
        "rank_notes": said(ranks["notes"]),
    }


def _gaps(material: Material) -> list[str]:
    """Analyses that could not be made, and why."""
    return [
        f"{analysis_words(material, analysis)}: not given, {analysis['reason']}"
        for analysis in material.comparison["factors"]["analyses"]
        if analysis["reason"]
    ]


def analysis_words(material: Material, analysis: dict[str, Any]) -> str:
    """`clustered tests on the logit scale`."""
    is_class = material.comparison["factors"]["unit"] == "class"
    groups = "classes" if is_class else material.words.groups
    return {
        LOGIT: "clustered tests on the logit scale",
        SHARES: "clustered tests on the scale of accuracies",
        OVER_GROUPS: f"analysis of variance over {groups}",
        OVER_SAMPLES: f"analysis of variance over {material.words.samples}",
    }[analysis["name"]]


def _first_with_tests(
    analyses: list[dict[str, Any]], names: tuple[str, ...]
) -> dict[str, Any] | None:
    by_name = {analysis["name"]: analysis for analysis in analyses}
    return next((by_name[n] for n in names if n in by_name and by_name[n]["tests"]), None)


def factors_table(material: Material) -> Table | None:
    """One row per effect: a clustered test, and an analysis of variance for the size."""
    section = material.comparison["factors"]
    analyses = section["analyses"]
    clustered = _first_with_tests(analyses, (LOGIT, SHARES))
    variance = _first_with_tests(analyses, (OVER_GROUPS, OVER_SAMPLES))
    if clustered is None or variance is None:
        return None
    columns = [
        Column("factor", ("effect",), numeric=False),
        Column(
            "between levels, points",
            ("range_points",),
            note="best minus worst level, each a mean over all other factors",
        ),
        Column("clustered test", ("clustered_f", "clustered_df1", "clustered_df2")),
        Column("p, corrected", ("clustered_p_adjusted", "clustered_p")),
        Column("analysis of variance", ("anova_f", "anova_df1", "anova_df2"), note=CORRECTED),
        Column("epsilon", ("epsilon",), note="Greenhouse and Geisser; 1 = sphericity holds"),
        Column("p, corrected", ("anova_p_adjusted", "anova_p_greenhouse_geisser", "anova_p")),
        Column("partial η²", ("partial_eta_squared", "generalised_eta_squared")),
    ]
    rows = [_factor_row(analyses, clustered, variance, effect) for effect in section["effects"]]
    first, second = (analysis_words(material, a) for a in (clustered, variance))
    title = f"Factors: {first}; {second} ({variance['subjects']:,})"
    return Table("factors", f"{title}; {_family(section)}", columns, rows)


CORRECTED = "degrees of freedom times epsilon"


def _family(section: dict[str, Any]) -> str:
    how = section["correction"]
    return "p not corrected" if how == "none" else f"p corrected ({how}) over the effects"


def _factor_row(
    analyses: list[dict[str, Any]],
    clustered: dict[str, Any],
    variance: dict[str, Any],
    effect: dict[str, Any],
) -> list[Cell]:
    name = effect["effect"]
    tests = [find_test(analyses, a["name"], name) or {} for a in (clustered, variance)]
    sources = [f"{FACTORS_FILE}, {a['name']}, {name}" for a in (clustered, variance)]
    moved = Cell(UNDEFINED, (None,))
    if effect["range_points"] is not None:
        source = f"{COMPARISON}: factors, effects, {name}"
        moved = number_cell(effect["range_points"], "{:.1f}".format, source=source)
    first, second = tests
    return [
        _name_cell(name),
        moved,
        _f_cell(first, sources[0]),
        _p_cell(first, ("p_adjusted", "p_value"), sources[0]),
        _f_cell(second, sources[1]),
        _number(second, ("epsilon",), sources[1]),
        _p_cell(second, ("p_adjusted", "p_greenhouse_geisser", "p_value"), sources[1]),
        _number(second, ("partial_eta_squared", "generalised_eta_squared"), sources[1]),
    ]


def _name_cell(name: str) -> Cell:
    return Cell(shown_effect(name), (name,))


def _f_cell(test: Test, source: str) -> Cell:
    values = tuple(test.get(key) for key in ("f", "df1", "df2"))
    if values[0] is None:
        return _undefined(test, values, source)
    return Cell(f_words(test), values, source)


def _p_cell(test: Test, keys: tuple[str, ...], source: str) -> Cell:
    values = tuple(test.get(key) for key in keys)
    if values[0] is None:
        return _undefined(test, values, source)
    return Cell(p_text(values[0]), values, source)


def _number(test: Test, keys: tuple[str, ...], source: str) -> Cell:
    values = tuple(test.get(key) for key in keys)
    if values[0] is None:
        return _undefined(test, values, source)
    return Cell(f"{values[0]:.2f}", values, source)


def _undefined(test: Test, values: tuple[Any, ...], source: str) -> Cell:
    reason = test.get("reason")
    return Cell(UNDEFINED, values, f"{source}: {reason}" if reason else source)


def factor_analyses_table(material: Material) -> Table | None:
    """Every analysis of every effect in one list."""
    section = material.comparison["factors"]
    if not any(analysis["tests"] for analysis in section["analyses"]):
        return None
    columns = [
        Column("analysis", ("analysis",), numeric=False),
        Column("factor", ("effect",), numeric=False),
        Column("test", ("f", "df1", "df2"), note=CORRECTED),
        Column("p", ("p_value",), note="with epsilon where there is one"),
        Column("p, corrected", ("p_adjusted",)),
        Column("epsilon", ("epsilon",)),
        Column("partial η²", ("partial_eta_squared",)),
        Column("generalised η²", ("generalised_eta_squared",)),
    ]
    rows = []
    for analysis in section["analyses"]:
        words = analysis_words(material, analysis)
        for test in analysis["tests"]:
            source = f"{FACTORS_FILE}, {analysis['name']}, {test['effect']}"
            p_key = "p_greenhouse_geisser" if "epsilon" in test else "p_value"
            rows.append(
                [
                    text_cell(words),
                    _name_cell(test["effect"]),
                    _f_cell(test, source),
                    _p_cell(test, (p_key,), source),
                    _p_cell(test, ("p_adjusted",), source),
                    _number(test, ("epsilon",), source),
                    _number(test, ("partial_eta_squared",), source),
                    _number(test, ("generalised_eta_squared",), source),
                ]
            )
    return Table(
        "factor_analyses", f"All analyses of the factors; {_family(section)}", columns, rows
    )


def friedman_table(material: Material) -> Table | None:
    """Nemenyi's test of every pair of entries; None where there are no blocks."""
    section = material.comparison["friedman"]
    if section["reason"] or section["test"]["p_value"] is None:
        return None
    columns = [
        Column("better", ("first",), numeric=False),
        Column("mean rank", ("mean_rank_first",)),
        Column("other", ("second",), numeric=False),
        Column("mean rank", ("mean_rank_second",)),
        Column("difference", ("rank_difference",)),
        Column("p, Nemenyi", ("p_nemenyi",)),
        Column("reading", ("is_apart",), numeric=False),
    ]
    rows = []
    for number, pair in enumerate(section["pairs"]):
        source = f"{FRIEDMAN_FILE}, row {number + 1}"
        reading = "apart" if pair["is_apart"] else "not told apart"
        rows.append(
            [
                entry_cell(material, pair["first"]),
                number_cell(pair["mean_rank_first"], "{:.2f}".format, source=source),
                entry_cell(material, pair["second"]),
                number_cell(pair["mean_rank_second"], "{:.2f}".format, source=source),
                number_cell(pair["rank_difference"], "{:.2f}".format, source=source),
                Cell(p_text(pair["p_value"]), (pair["p_value"],), source),
                text_cell(reading, source=source),
            ]
        )
    title = f"Mean ranks over {blocks_words(material)}"
    limit = f"critical difference {section['critical_difference']:.2f}"
    return Table("friedman", f"{title}; {limit}", columns, rows)


def blocks_words(material: Material) -> str:
    """`101 classes`."""
    section = material.comparison["friedman"]
    plural = "classes" if section["block"] == "class" else material.words.groups
    return f"{section['blocks']:,} {plural}"
