"""Tables and words on agreement, ensembles and what the study could have seen."""

from __future__ import annotations

from typing import Any

from regatta.analysis.wording import count_points
from regatta.report.contents import (
    COMPARISON,
    VERDICTS,
    interval_cell,
    interval_keys,
)
from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.numbers import chance_text, p_text, percent_text
from regatta.report.style import clean_text
from regatta.report.tables import Cell, Column, Table, number_cell, text_cell

NOT_DEFINED = "not defined"


def pair_column(between: str) -> Column:
    return Column(f"first {between} second", ("first", "second"), numeric=False)


def agreement_table(material: Material) -> Table | None:
    """A row per pair of entries; None where samples cannot be set side by side."""
    section = material.comparison["agreement"]
    if section is None:
        return None
    columns = [
        pair_column("and"),
        Column("both right, %", ("both_right_percent",)),
        Column("only first, %", ("only_first_percent",)),
        Column("only second, %", ("only_second_percent",)),
        Column("both wrong, %", ("both_wrong_percent",), note="also called double fault"),
        Column("disagreement, %", interval_keys("disagreement_percent")),
        Column("Q", ("q_statistic",), note="Yule's Q of right and wrong"),
        Column("κ of answers", ("kappa",), note="Cohen's kappa of the answered classes"),
        Column(
            "same wrong answer, %", ("same_wrong_percent",), note="of the samples both get wrong"
        ),
        Column("either right, %", interval_keys("oracle_percent"), note="oracle of the two"),
    ]
    title = f"Agreement at {material.headline_name}, with {material.confidence} intervals"
    rows = [_agreement_row(pair, number) for number, pair in enumerate(section["pairs"])]
    return Table("agreement", title, columns, rows)


def _agreement_row(pair: dict[str, Any], number: int) -> list[Cell]:
    source = f"results/agreement.csv, row {number + 1}"
    names, reasons = (pair["first"], pair["second"]), pair["reasons"]

    def measure(key: str, *, percent: bool) -> Cell:
        value = pair[key]
        if value is None:
            why = reasons.get(key) or reasons.get("seeds", "")
            return Cell(NOT_DEFINED, (None,), f"{source}: {why}")
        if percent:
            return number_cell(value, percent_text, factor=100, source=source)
        return number_cell(value, lambda x: f"{x:.2f}".replace("-", "−"), source=source)

    shares = ("both_right", "only_first", "only_second", "both_wrong")
    return [
        Cell(" and ".join(map(clean_text, names)), names, source),
        *(measure(key, percent=True) for key in shares),
        interval_cell(pair["disagreement"] or {}, factor=100, source=source),
        measure("q_statistic", percent=False),
        measure("kappa", percent=False),
        measure("same_wrong", percent=True),
        interval_cell(pair["oracle"] or {}, factor=100, source=source),
    ]


def ensemble_table(material: Material) -> Table | None:
    """A row per ensemble, against its best member; all members are in results/ensemble.csv."""
    section = material.comparison["ensemble"]
    if section is None:
        return None
    columns = [
        Column("ensemble", ("members",), numeric=False),
        Column("average of logits, %", interval_keys("accuracy_percent")),
        Column("average of probabilities, %", interval_keys("probability_accuracy_percent")),
        Column("any member right, %", interval_keys("oracle_percent"), note="oracle: a limit"),
        Column("best member", ("best_member",), numeric=False),
        Column("its accuracy, %", ("best_member_percent",)),
        Column("ensemble − best member, points", interval_keys("difference_points")),
        Column("p, corrected", ("p_adjusted", "p_value")),
        Column("verdict", ("verdict",), numeric=False),
    ]
    how, tests = section["correction"], section["family_size"]
    corrected = "not corrected" if how == "none" else f"corrected ({how}) over {tests} tests"
    title = f"Ensembles at {material.headline_name}; p-values {corrected}"
    rows = [_ensemble_row(each, number) for number, each in enumerate(section["ensembles"])]
    return Table("ensemble", title, columns, rows)


def _ensemble_row(each: dict[str, Any], number: int) -> list[Cell]:
    source = f"{COMPARISON}: ensemble, {number}"
    many = len(each["members"]) > 3
    name = f"all {len(each['members'])} entries" if many else " + ".join(each["members"])
    start = [
        Cell(clean_text(name), (" ".join(each["members"]),), source),
        *(
            interval_cell(each[kind] or {}, factor=100, source=source)
            for kind in ("accuracy", "probability_accuracy", "oracle")
        ),
    ]
    best = next((row for row in each["against"] if row["is_best_member"]), None)
    if best is None:
        missing = Cell(NOT_DEFINED, (None,), f"{source}: {each['reason']}")
        return [*start, missing, missing, missing, missing, missing]
    return [
        *start,
        text_cell(best["second"], source=source),
        number_cell(best["member_accuracy"], percent_text, factor=100, source=source),
        interval_cell(best["difference_points"], signed=True, source=source),
        Cell(p_text(best["p_adjusted"]), (best["p_adjusted"], best["p_value"]), source),
        Cell(_ensemble_verdict(best), (best["verdict"],), source),
    ]


def _ensemble_verdict(row: dict[str, Any]) -> str:
    words = {"ahead": "the ensemble is ahead", "behind": "the member is ahead"}
    return words.get(row["verdict"]) or VERDICTS[row["verdict"]].format(**row)


def power_table(material: Material) -> Table | None:
    """What could have been seen, a row per pair; None with a single entry."""
    section = material.comparison["power"]
    if section is None:
        return None
    margin = count_points(section["margin_points"])
    target = f"{100 * section['power']:g} %"
    columns = [
        pair_column("−"),
        Column("seeds", ("seeds_first", "seeds_second")),
        Column("standard error, points", ("se_points",)),
        Column("degrees of freedom", ("degrees_of_freedom",)),
        Column("detectable difference, points", ("mde_points",), note=f"with {target} power"),
        Column(f"power at {margin}, %", ("power_at_margin_percent",), note="the margin"),
        Column(
            f"{material.words.groups} for {margin}", ("groups_needed",), note=f"with {target} power"
        ),
    ]
    knows_noise = any(pair["dominated_by"] for pair in section["pairs"])
    if knows_noise:
        columns += [
            Column("width set by", ("dominated_by",), numeric=False, note="the larger variance"),
            Column("seeds for half the width", ("seeds_to_halve",)),
        ]
    rows = [
        _power_row(section["pairs"][number], number)[: len(columns)]
        for number in material.shown_pairs
    ]
    title = f"What this study could have seen at {material.headline_name}"
    title += material.shown_pairs_words
    return Table("power", title, columns, rows)


def _power_row(pair: dict[str, Any], number: int) -> list[Cell]:
    source = f"results/power.csv, row {number + 1}"
    names, seeds = (pair["first"], pair["second"]), pair["seeds"]
    start = [
        Cell(" − ".join(map(clean_text, names)), names, source),
        Cell(" and ".join(dict.fromkeys(map(str, seeds))), tuple(seeds), source),
    ]
    if pair["mde_points"] is None:
        return [*start, *[Cell(NOT_DEFINED, (None,), f"{source}: {pair['reason']}")] * 7]
    chance = pair["power_at_margin"]
    return [
        *start,
        number_cell(pair["se_points"], "{:.2f}".format, source=source),
        number_cell(pair["degrees_of_freedom"], "{:.0f}".format, source=source),
        number_cell(pair["mde_points"], percent_text, source=source),
        Cell(chance_text(chance).removesuffix(" %"), (100 * chance,), source),
        _count_cell(pair["groups_needed"], "no number", source),
        Cell(pair["dominated_by"] or "unknown: one seed", (pair["dominated_by"],), source),
        _count_cell(
            pair["seeds_to_halve"], "no number" if pair["dominated_by"] else "unknown", source
        ),
    ]


def _count_cell(value: int | None, otherwise: str, source: str) -> Cell:
    return Cell(otherwise if value is None else f"{value:,}", (value,), source)


def agreement_view(material: Material) -> dict[str, Any] | None:
    """What the page says around figure and tables, as sentences; None without the section."""
    section, ensemble = material.comparison["agreement"], material.comparison["ensemble"]
    if section is None or ensemble is None:
        return None
    compared = [row["sentence"] for each in ensemble["ensembles"] for row in each["against"]]
    compared += [each["sentence"] for each in ensemble["ensembles"] if each["reason"]]
    own = [
        f"{clean_text(row['entry'])} {100 * row['disagreement']:.1f} %"
        for row in section["entries"]
        if row["disagreement"] is not None
    ]
    return {
        "oracle": sentence(section["oracle"]["sentence"], []),
        "own": ", ".join(own),
        "pairs": _sentences(material, [pair["sentence"] for pair in section["pairs"]]),
        "ensembles": _sentences(material, compared),
        "notes": _sentences(material, [*section["notes"], *ensemble["notes"]]),
    }


def power_view(material: Material) -> dict[str, Any] | None:
    section = material.comparison["power"]
    if section is None:
        return None
    alpha, tests = section["alpha_per_test"], section["tests"]
    level = (
        f"{alpha:.2g}" if tests == 1 else f"{alpha:.2g}, which is {section['alpha']:g} / {tests}"
    )
    return {
        "summary": sentence(section["sentence"], []),
        "pairs": _sentences(
            material, [section["pairs"][number]["sentence"] for number in material.shown_pairs]
        ),
        "level": level,
    }


def _sentences(material: Material, texts: list[str]) -> list[str]:
    return [sentence(clean_text(text), material.entries) for text in texts]
