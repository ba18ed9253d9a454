"""The tables of a study of scenes on the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regatta.analysis.scene_errors import PARTS
from regatta.analysis.scene_judged import FORECAST
from regatta.analysis.scene_pairs import error_text, signed_error_text
from regatta.report.contents import (
    COMPARISON,
    CORRECTED,
    entry_cell,
    entry_column,
    interval_cell,
    interval_keys,
)
from regatta.report.material import Material
from regatta.report.numbers import count_text, duration_text, p_text, percent_text
from regatta.report.scene_part import attention_table
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

ERROR_VERDICTS = {
    "ahead": "{first} is closer",
    "behind": "{second} is closer",
    "identical": "the same places",
    "few-seeds": "not enough seeds",
}
SILENT = "–"
"""Of a baseline that says nothing of this: not a number that is lacking."""
PART_WORDS = {
    "along": "along the motion, u",
    "across": "across the motion, u",
    "depth": "in depth, u",
    "plane": "in the image plane, u",
}


def scene_tables(material: Material) -> list[Table]:
    """Every table of the section; none without it."""
    section = material.comparison["scenes"]
    if section is None:
        return []
    found: list[Table | None] = []
    for number, target in enumerate(section["targets"]):
        suffix = "" if number == 0 else f"_{target['target'].replace('-', '_')}"
        found += [
            results_table(material, section, target, suffix),
            pairs_table(material, target, suffix),
            classes_table(material, section, target, suffix),
            parts_table(material, target, suffix),
        ]
    found += [
        baselines_table(section),
        controls_table(material, section),
        robustness_table(material, section),
        ood_table(material, section),
        attention_table(material),
    ]
    return [table for table in found if table is not None]


def error_cell(
    found: dict[str, Any] | None,
    write: Callable[[float], str] = error_text,
    *,
    absent: str = NOT_MEASURED,
    source: str = "",
) -> Cell:
    """`0.0123 [0.0110, 0.0140]`, with value, low and high for CSV."""
    value, low, high = ((found or {}).get(key) for key in ("estimate", "low", "high"))
    if value is None:
        return Cell(absent, (None, None, None), source)
    text = write(value)
    if low is not None and high is not None:
        text += f" [{write(low)}, {write(high)}]"
    return Cell(text.replace("-", "−"), (value, low, high), source)


def skill_text(value: float) -> str:
    return f"{value:.2f}"


def results_table(
    material: Material, section: dict[str, Any], target: dict[str, Any], suffix: str
) -> Table | None:
    """The comparison: a row per entry, best accuracy first."""
    rows = section["rows"][target["target"]]
    if not rows:
        return None
    is_forecast = target["target"] == FORECAST
    found = {each["entry"]: each for each in target["entries"]}
    columns = [
        entry_column(),
        Column("extractor", ("extractor",), numeric=False),
        Column("features", ("feature_dim",)),
        Column("views", ("views",)),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        Column(f"MSE of the {error_words(target)}, u²", interval_keys("mse")),
        Column("RMSE, u", ("rmse",)),
        *([Column("skill", interval_keys("skill"))] if is_forecast else []),
        Column("training", ("training_time_s",)),
        Column("size, MB", ("model_size_mb",)),
        Column("parameters", ("parameters",)),
        Column("clips per s", ("clips_per_second",)),
    ]
    table = []
    for number, row in enumerate(rows):
        own, source = found.get(row["entry"], {}), _results_source(suffix, number)
        accuracy = {
            "estimate": row["accuracy"],
            "low": row["accuracy_low"],
            "high": row["accuracy_high"],
        }
        skill = [error_cell(own.get("skill"), skill_text, source=source)] if is_forecast else []
        table.append(
            [
                entry_cell(material, row["entry"]),
                text_cell(section["entries"][row["entry"]]["extractor"], source=source),
                number_cell(row["feature_dim"], source=source),
                number_cell(row["views"], source=source),
                interval_cell(accuracy, factor=100, source=source),
                error_cell(own.get("mse"), source=source),
                number_cell(row["rmse"], error_text, source=source),
                *skill,
                number_cell(row["training_time_s"], duration_text, source=source),
                number_cell(row["model_size_mb"], "{:.3g}".format, source=source),
                number_cell(row["parameters"], count_text, source=source),
                number_cell(row["clips_per_second"], "{:.3g}".format, source=source),
            ]
        )
    table.sort(key=lambda cells: -float(cells[4].values[0] or 0))
    title = f"Class and place at {material.headline_name}, with {material.confidence} intervals"
    return Table(f"scene_results{suffix}", title, columns, table)


def _results_source(suffix: str, number: int) -> str:
    return f"results/compare_results{suffix}.csv, row {number + 1}"


def error_words(target: dict[str, Any]) -> str:
    """The place that an error is of."""
    if target["target"] == FORECAST:
        return "next position"
    return "last visible position" if target["horizon_frames"] == 0 else target["target"]


def pairs_table(material: Material, target: dict[str, Any], suffix: str) -> Table | None:
    """Differences of squared errors, all pairs of entries."""
    if not target["pairs"]:
        return None
    columns = [
        Column("first − second", ("first", "second"), numeric=False),
        Column("difference of MSE, u²", interval_keys("difference_mse")),
        Column("p, corrected", ("p_adjusted", "p_value")),
        Column("verdict", ("verdict",), numeric=False),
    ]
    rows = []
    for number, pair in enumerate(target["pairs"]):
        source = f"{COMPARISON}: scenes, {target['target']}, pairs, {number}"
        said = ERROR_VERDICTS.get(pair["verdict"], "the data cannot tell").format(**pair)
        rows.append(
            [
                Cell(f"{pair['first']} − {pair['second']}", (pair["first"], pair["second"])),
                error_cell(pair["difference"], signed_error_text, source=source),
                Cell(p_text(pair["p_adjusted"]), (pair["p_adjusted"], pair["p_value"]), source),
                Cell(said, (pair["verdict"],), source),
            ]
        )
    how = CORRECTED.get(material.comparison["pairs"]["correction"], "")
    corrected = f"p-values corrected ({how})" if how else "p-values not corrected"
    title = f"Paired differences of the error of the {error_words(target)}; {corrected}"
    return Table(f"scene_pairs{suffix}", title, columns, rows)


def classes_table(
    material: Material, section: dict[str, Any], target: dict[str, Any], suffix: str
) -> Table | None:
    """Accuracy, error and skill of every class, a row per entry and class."""
    if not target["entries"]:
        return None
    is_forecast = target["target"] == FORECAST
    columns = [
        entry_column(),
        Column("class", ("class",), numeric=False),
        Column("scenes", ("n",)),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        Column(f"MSE of the {error_words(target)}, u²", interval_keys("mse")),
        *([Column("skill", interval_keys("skill"))] if is_forecast else []),
    ]
    rows = []
    for entry in target["entries"]:
        of_classes = section["class_accuracy"][entry["entry"]]
        for row, share in zip(entry["per_class"], of_classes, strict=True):
            source = f"results/position_error.csv: {entry['entry']}, {row['class']}"
            skill = error_cell(row["skill"], skill_text, absent="not shown", source=source)
            rows.append(
                [
                    entry_cell(material, entry["entry"]),
                    text_cell(row["class"]),
                    number_cell(row["n"], "{:,}".format, source=source),
                    interval_cell(share["accuracy"], factor=100, source=source),
                    error_cell(row["mse"], source=source),
                    *([skill] if is_forecast else []),
                ]
            )
    title = f"Error of the {error_words(target)} by class at {material.headline_name}"
    return Table(f"scene_classes{suffix}", title, columns, rows)


def parts_table(material: Material, target: dict[str, Any], suffix: str) -> Table | None:
    """Where an error lies: along and across the motion, in depth and in the picture."""
    if not target["entries"]:
        return None
    columns = [
        entry_column(),
        Column("MAE, u", interval_keys("mae")),
        Column("median distance, u", ("median",)),
        Column("90 % of distances below, u", ("p90",)),
        *(Column(f"RMS {PART_WORDS[part]}", interval_keys(part)) for part in PARTS),
    ]
    rows = []
    for entry in target["entries"]:
        source = f"results/position_error.csv: {entry['entry']}"
        rows.append(
            [
                entry_cell(material, entry["entry"]),
                error_cell(entry["mae"], source=source),
                number_cell(entry["median"], error_text, source=source),
                number_cell(entry["p90"], error_text, source=source),
                *(error_cell(entry[part], source=source) for part in PARTS),
            ]
        )
    title = f"Where the error of the {error_words(target)} lies"
    return Table(f"scene_parts{suffix}", title, columns, rows)


TRACKS = {"oracle": "the true track", "pixels": "the pictures"}


def baselines_table(section: dict[str, Any]) -> Table | None:
    """What needs no learning: forecasts, and answers from the speed or the box alone."""
    if not section["baselines"]:
        return None
    columns = [
        Column("baseline", ("baseline",), numeric=False),
        Column("looks at", ("track",), numeric=False),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        Column("MSE of the next position, u²", interval_keys("mse")),
        Column("scenes", ("n",)),
    ]
    rows = []
    for row in section["baselines"]:
        source = f"results/shortcuts.csv: {row['baseline']}"
        accuracy = row["accuracy"]
        rows.append(
            [
                text_cell(row["baseline"], source=source),
                text_cell(TRACKS.get(row["track"], row["track"] or SILENT), source=source),
                Cell(SILENT, (None, None, None), source)
                if accuracy is None
                else interval_cell(accuracy, factor=100, source=source),
                error_cell(row["mse"], absent=SILENT, source=source),
                number_cell(row["n_places"] or row["n"], "{:,}".format, source=source),
            ]
        )
    return Table("scene_baselines", "What needs no learning", columns, rows)


def controls_table(material: Material, section: dict[str, Any]) -> Table | None:
    """Every entry with its motion taken away, and what it has over the shortcuts."""
    conditions = list(dict.fromkeys(row["condition"] for row in section["controls"]))
    shortcuts = list(dict.fromkeys(row["shortcut"] for row in section["above_shortcuts"]))
    if not conditions and not shortcuts:
        return None
    controls = {(row["entry"], row["condition"]): row for row in section["controls"]}
    above = {(row["entry"], row["shortcut"]): row for row in section["above_shortcuts"]}
    columns = [
        entry_column(),
        *(Column(f"{material.condition_name(c)}, %", interval_keys(c)) for c in conditions),
        *(Column(f"above {s}, points", interval_keys(f"above {s}")) for s in shortcuts),
    ]
    rows = []
    for name in material.entries:
        source = f"results/shortcuts.csv: {name}"
        rows.append(
            [
                entry_cell(material, name),
                *(
                    interval_cell(controls[name, c]["accuracy"], factor=100, source=source)
                    for c in conditions
                ),
                *(
                    interval_cell(above[name, s]["difference_points"], signed=True, source=source)
                    for s in shortcuts
                ),
            ]
        )
    title = "Shortcuts: accuracy without the motion, and what remains over simple answers"
    return Table("scene_shortcuts", title, columns, rows)


def robustness_table(material: Material, section: dict[str, Any]) -> Table | None:
    """A row per condition: accuracy and error of every entry."""
    if not section["robustness"]:
        return None
    has_errors = any(row["mse"] is not None for row in section["robustness"])
    columns = [Column("condition", ("condition",), numeric=False)]
    for entry in material.entries:
        columns.append(Column(f"{entry}, accuracy, %", interval_keys(f"{entry}_percent")))
    if has_errors:
        for entry in material.entries:
            columns.append(Column(f"{entry}, MSE, u²", interval_keys(f"{entry}_mse")))
    columns.append(Column("padding, %", ("pad_share_percent",)))
    by_place = {(row["condition"], row["entry"]): row for row in section["robustness"]}
    rows = []
    for condition in dict.fromkeys(row["condition"] for row in section["robustness"]):
        found = [by_place[condition, entry] for entry in material.entries]
        source = f"results/robustness.csv: {condition}"
        cells = [
            text_cell(material.condition_name(condition), source=source),
            *(interval_cell(row["accuracy"], factor=100, source=source) for row in found),
        ]
        if has_errors:
            cells += [error_cell(row["mse"], source=source) for row in found]
        cells.append(number_cell(found[0]["pad_share"], percent_text, factor=100, source=source))
        rows.append(cells)
    return Table("scene_robustness", "Accuracy and error under every condition", columns, rows)


def ood_table(material: Material, section: dict[str, Any]) -> Table | None:
    """Scenes from outside the ranges of training; a row per set and entry."""
    if not section["ood"]:
        return None
    columns = [
        Column("set", ("set",), numeric=False),
        entry_column(),
        Column("scenes", ("n",)),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        Column("MSE, u²", interval_keys("mse")),
        Column("AUROC, %", ("auroc_percent",)),
        Column("AUPR, %", ("aupr_percent",)),
        Column("FPR at 95 % TPR, %", ("fpr95_percent",)),
    ]
    rows = []
    for row in section["ood"]:
        source = f"results/ood.csv: {row['entry']}, {row['set']}"
        is_unknown = row["auroc"] is not None
        absent = row["reason"] or SILENT
        shares = [
            number_cell(row[key], percent_text, factor=100, source=source)
            if is_unknown
            else Cell(absent, (None,), source)
            for key in ("auroc", "aupr", "fpr95")
        ]
        rows.append(
            [
                text_cell(row["set"], source=source),
                entry_cell(material, row["entry"]),
                number_cell(row["n"], "{:,}".format, source=source),
                Cell(absent, (None, None, None), source)
                if row["accuracy"] is None
                else interval_cell(row["accuracy"], factor=100, source=source),
                error_cell(row["mse"], absent=absent, source=source),
                *shares,
            ]
        )
    return Table("scene_ood", "Outside the ranges of training", columns, rows)
