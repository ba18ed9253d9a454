"""The tables of a report that hold results: entries, pairs, conditions, classes, robustness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.report.costs import ResultCell, cost_columns
from regatta.report.material import PERCENT_AXES, Material
from regatta.report.numbers import chance_text, p_text, percent_text, signed_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

COMPARISON = "results/comparison.json"

VERDICTS = {
    "ahead": "{first} is ahead",
    "behind": "{second} is ahead",
    "equivalent": "equivalent within the margin",
    "identical": "the same answers",
    "few-seeds": "not enough seeds",
    "undecided": "the data cannot tell",
}

CORRECTED = {
    "holm": "Holm",
    "bonferroni": "Bonferroni",
    "bh": "Benjamini-Hochberg",
    "tukey": "Tukey",
    "none": "",
}
"""Names of the corrections for a table's title."""


def interval_cell(
    interval: dict[str, Any], *, factor: float = 1.0, signed: bool = False, source: str = ""
) -> Cell:
    """`84.2 [81.0, 87.1]`, with value, low and high for CSV; without interval the value alone."""
    write = signed_text if signed else percent_text
    numbers = [interval.get(key) for key in ("estimate", "low", "high")]
    value, low, high = (None if number is None else factor * float(number) for number in numbers)
    if value is None:
        return Cell(NOT_MEASURED, (None, None, None), source)
    text = write(value)
    if low is not None and high is not None:
        text += f" [{write(low)}, {write(high)}]"
    return Cell(text, (value, low, high), source)


def interval_keys(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def entry_column() -> Column:
    return Column("entry", ("entry",), numeric=False)


def entry_cell(material: Material, entry: str) -> Cell:
    return Cell(entry, (entry,), position=material.positions[entry])


def results_table(material: Material) -> Table:
    """The main table: one row per entry, best first as the comparison ranks them."""
    comparison = material.comparison
    by_name = {entry["name"]: entry for entry in comparison["entries"]}
    ranked = [(by_name[rank["entry"]], rank) for rank in comparison["ranking"]["headline"]]
    parts = _result_columns(material)
    rows = [[cell(entry, rank) for _, cell in parts] for entry, rank in ranked]
    confidence = f"{100 * comparison['provenance']['confidence']:g} %"
    headline = material.condition_name(comparison["headline_condition"])
    title = f"Results at {headline}, with {confidence} intervals"
    return Table("main_results", title, [column for column, _ in parts], rows)


def _result_columns(material: Material) -> list[tuple[Column, ResultCell]]:
    """Columns of the main table with what fills them; those that make no sense are left out."""
    entries = material.comparison["entries"]
    several_conditions = len(material.comparison["conditions"]) > 1
    columns: list[tuple[bool, Column, ResultCell]] = [
        (True, entry_column(), lambda entry, _: entry_cell(material, entry["name"])),
        (
            True,
            Column("accuracy, %", interval_keys("accuracy_percent"), note="headline condition"),
            lambda entry, _: interval_cell(
                entry["accuracy"], factor=100, source=_entry_source(entry, "accuracy")
            ),
        ),
        (
            not material.is_signal and any(entry["top5"] is not None for entry in entries),
            Column("top-5, %", ("top5_percent",)),
            lambda entry, _: number_cell(
                entry["top5"], percent_text, factor=100, source=_entry_source(entry, "top5")
            ),
        ),
        *_score_columns(material),
        (
            several_conditions and not material.is_signal,
            Column("mean of all conditions, %", interval_keys("mean_accuracy_percent")),
            lambda entry, _: interval_cell(
                entry["average_accuracy"],
                factor=100,
                source=_entry_source(entry, "average_accuracy"),
            ),
        ),
        (
            len(entries) > 1,
            Column("chance of being first", ("probability_first",), note="share of replicates"),
            lambda _, rank: number_cell(
                rank["probability_first"], chance_text, source=f"{COMPARISON}: ranking, headline"
            ),
        ),
        *(
            (not material.is_signal and not material.is_foreign, *part)
            for part in cost_columns(material)
        ),
    ]
    return [(column, cell) for present, column, cell in columns if present]


def _score_columns(material: Material) -> list[tuple[bool, Column, ResultCell]]:
    """Scores that weigh classes equally, for windows of signals, whose classes differ in size."""
    found = material.classification
    shown = bool(found) and material.is_signal

    def column(key: str, heading: str) -> tuple[bool, Column, ResultCell]:
        return (
            shown,
            Column(f"{heading}, %", (f"{key}_percent",)),
            lambda entry, _: number_cell(
                found[entry["name"]][key],
                percent_text,
                factor=100,
                source=f"{COMPARISON}: classification, {entry['name']}, {key}",
            ),
        )

    return [column("balanced_accuracy", "balanced accuracy"), column("macro_f1", "macro F1")]


def _entry_source(entry: dict[str, Any], key: str) -> str:
    return f"{COMPARISON}: entries, {entry['name']}, {key}"


def pairs_table(material: Material) -> Table | None:
    """Differences of all pairs at the headline and on average; None with a single entry."""
    pairs = material.comparison["pairs"]
    if not pairs["headline"]:
        return None
    families = [("headline", "", "")]
    if len(material.comparison["conditions"]) > 1:
        families.append(("average", "mean_", "mean of conditions: "))
    columns = [Column("first − second", ("first", "second"), numeric=False)]
    for _, prefix, words in families:
        columns += _pair_columns(prefix, words)
    rows = []
    for number in material.shown_pairs:
        pair = pairs["headline"][number]
        names = (pair["first"], pair["second"])
        row = [Cell(f"{names[0]} − {names[1]}", names)]
        for family, _, _ in families:
            row += _pair_cells(pairs[family][number], f"{COMPARISON}: pairs, {family}, {number}")
        rows.append(row)
    method = CORRECTED[pairs["correction"]]
    corrected = f"corrected ({method}) over each family" if method else "not corrected"
    title = f"Paired differences in points; p-values {corrected}{material.shown_pairs_words}"
    return Table("pairs", title, columns, rows)


def _pair_columns(prefix: str, words: str) -> list[Column]:
    return [
        Column(f"{words}difference, points", interval_keys(f"{prefix}difference_points")),
        Column("p, corrected", (f"{prefix}p_adjusted", f"{prefix}p_value")),
        Column("verdict", (f"{prefix}verdict",), numeric=False),
    ]


def _pair_cells(pair: dict[str, Any], source: str) -> list[Cell]:
    p_value = pair["p_adjusted"]
    return [
        interval_cell(pair["difference_points"], signed=True, source=source),
        Cell(p_text(p_value), (p_value, pair["p_value"]), f"{source}: {pair['method']}"),
        Cell(VERDICTS[pair["verdict"]].format(**pair), (pair["verdict"],), source),
    ]


CONDITION_COLUMNS = (
    ("distinct_frames", "distinct frames", 1.0),
    ("span_seconds", "span, s", 1.0),
    ("rate_hz", "rate, Hz", 1.0),
    ("pad_share", "padding, %", 100.0),
    ("still_share", "still clips, %", 100.0),
    ("ceiling", "ceiling, %", 100.0),
)
"""Column of the table of cells, its heading, and the factor from file to page."""

WINDOW_COLUMNS = (
    ("distinct_frames", "measured points", 1.0),
    ("rate_hz", "rate, Hz", 1.0),
    ("pad_share", "filled in, %", 100.0),
)
"""The same for windows of signals, which have no frames: points in time and values."""


def condition_columns(material: Material) -> tuple[tuple[str, str, float], ...]:
    if material.is_image:
        return ()
    columns = WINDOW_COLUMNS if material.is_signal else CONDITION_COLUMNS
    rows = material.comparison["table"]
    is_known = any(row.get(name) is not None for row in rows for name, _, _ in columns)
    return columns if is_known or not material.is_foreign else ()


def conditions_table(material: Material) -> Table:
    """Every entry under every condition, with the truth about each cell."""
    axes = material.comparison["axes"] or ["condition"]
    columns = [
        entry_column(),
        *(Column(f"{name}, %" if name in PERCENT_AXES else name, (name,)) for name in axes),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        *(Column(heading, (name,)) for name, heading, _ in condition_columns(material)),
        Column("identical to", ("identical_to",), numeric=False),
    ]
    rows = [_condition_row(material, row, axes) for row in material.comparison["table"]]
    return Table("conditions", "Every entry under every condition", columns, rows)


def _condition_row(material: Material, row: dict[str, Any], axes: Sequence[str]) -> list[Cell]:
    source = row_source(row)
    twins = ", ".join(row["identical_to"])
    places = [row[name] for name in axes]
    return [
        entry_cell(material, row["model"]),
        *(_place_cell(value, source) for value in places),
        interval_cell(row_interval(row), factor=100, source=source),
        *(
            Cell(row_fact(row, name, factor), (row[name],), source)
            for name, _, factor in condition_columns(material)
        ),
        Cell(twins or "–", (twins,), source),
    ]


def _place_cell(value: Any, source: str) -> Cell:
    """Where a condition stands on an axis; a dash where it has no such axis."""
    if value is None:
        return Cell("–", (None,), source)
    is_number = isinstance(value, (int, float))
    return number_cell(value, source=source) if is_number else text_cell(value, source=source)


def fact_text(name: str, value: float | None, factor: float) -> str:
    """A fact of a cell as the page shows it."""
    if value is None:
        return "none" if name == "rate_hz" else NOT_MEASURED
    number = factor * float(value)
    return f"{number:.2f}" if name == "span_seconds" else f"{number:.1f}"


def row_fact(row: dict[str, Any], name: str, factor: float) -> str:
    """A fact of a row of the table of cells. Where nothing was counted, a rate is not "none"."""
    is_known = row[name] is not None or row["distinct_frames"] is not None
    return fact_text(name, row[name], factor) if is_known else NOT_MEASURED


def row_source(row: dict[str, Any]) -> str:
    return f"results/results_{row['model']}.csv, row {row['condition']}"


def row_interval(row: dict[str, Any]) -> dict[str, Any]:
    return {"estimate": row["accuracy"], "low": row["accuracy_low"], "high": row["accuracy_high"]}


def classes_table(material: Material) -> Table:
    """Accuracy of every class at the headline condition, and its mean drop over entries."""
    ids = [c["id"] for c in material.comparison["conditions"]]
    headline = ids.index(material.comparison["headline_condition"])
    accuracy = {entry: material.class_accuracy(entry)[headline] for entry in material.entries}
    counts = material.comparison["per_class"]["n_samples"]
    drops = class_drops(material)
    columns = [
        Column("class", ("class",), numeric=False),
        Column(material.words.samples, ("n_samples",)),
        *(
            Column(f"{entry}, %", (f"{entry}_percent",), of_entry=place)
            for place, entry in enumerate(material.entries)
        ),
    ]
    if drops:
        columns.append(Column("mean drop, points", ("mean_drop_points",), note=drop_rule(material)))
    rows = []
    for number, name in enumerate(material.classes):
        row = [text_cell(name), number_cell(counts[number], source=f"{COMPARISON}: per_class")]
        row += [
            number_cell(
                float(values[number]),
                percent_text,
                source=f"results/per_class_{entry}.csv, class {name}",
            )
            for entry, values in accuracy.items()
        ]
        drop = number_cell(drops.get(name), signed_text, source=f"{COMPARISON}: robustness")
        rows.append([*row, drop] if drops else row)
    return Table("per_class", "Accuracy by class", columns, rows)


def class_drops(material: Material) -> dict[str, float]:
    """Mean over entries of each class's drop in points; empty without a grid."""
    found: dict[str, list[float]] = {}
    for entry in material.comparison["robustness"]["entries"].values():
        for row in entry["classes"]:
            found.setdefault(row["class"], []).append(row["drop_points"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def drop_rule(material: Material) -> str:
    drops = next(iter(material.comparison["robustness"]["entries"].values()))["drops"]
    return (
        f"from {drops['high']:g} to {drops['low']:g} % coverage at stride {drops['stride']:g}, "
        "mean of the entries"
    )


def robustness_table(material: Material) -> Table | None:
    """Loss of coverage, area under the frame curve, critical frames; None without a grid."""
    entries = material.comparison["robustness"]["entries"]
    if not any(entry["drops"]["at_stride"] for entry in entries.values()):
        return None
    first = next(iter(entries.values()))["drops"]
    columns = [
        entry_column(),
        Column(f"drop at stride {first['stride']:g}, points", interval_keys("drop_points")),
        Column("drop over all strides, points", interval_keys("marginal_drop_points")),
        Column("relative, %", interval_keys("relative_drop_percent"), note="over all strides"),
        Column(
            "robustness",
            ("robustness",),
            numeric=False,
            note="relative drop under 5 very high, 10 high, 15 moderate, 25 low, else very low",
        ),
        Column("area under frame curve, %", interval_keys("frame_curve_area_percent")),
        Column("frames for 95 % of best", interval_keys("critical_frames")),
    ]
    rows = [_robustness_row(material, name, entry) for name, entry in entries.items()]
    title = f"From {first['high']:g} to {first['low']:g} % coverage"
    return Table("robustness", title, columns, rows)


def _robustness_row(material: Material, name: str, entry: dict[str, Any]) -> list[Cell]:
    drops, curve = entry["drops"], entry["curve"]
    source = f"{COMPARISON}: robustness, {name}"
    marginal = drops["marginal"]
    return [
        entry_cell(material, name),
        interval_cell(drops["at_stride"]["points"], source=source),
        interval_cell(marginal["points"], source=source),
        interval_cell(marginal["percent"], source=source),
        text_cell(marginal["robustness"] or NOT_MEASURED),
        interval_cell(curve["area"] or {}, factor=100, source=source),
        interval_cell(curve["critical_frames"], source=source),
    ]
