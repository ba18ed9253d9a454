"""The tables of a report: results, pairs, conditions, classes, budget, runs, the published analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regatta.report.material import Material, axis_text, without_folders
from regatta.report.numbers import chance_text, count_text, duration_text, p_text, percent_text, signed_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

COMPARISON = "results/comparison.json"

VERDICTS = {
    "ahead": "{first} is ahead",
    "behind": "{second} is ahead",
    "equivalent": "equivalent within the margin",
    "identical": "the same answers",
    "undecided": "the data cannot tell",
}


def interval_cell(interval: dict[str, Any] | None, *, factor: float = 1.0, signed: bool = False, source: str = "") -> Cell:
    """`84.2 [81.0, 87.1]`, with value, low and high for CSV; without interval the value alone."""
    write = signed_text if signed else percent_text
    if interval is None or interval.get("estimate") is None:
        return Cell(NOT_MEASURED, (None, None, None), source)
    value, low, high = (
        None if interval.get(key) is None else factor * float(interval[key]) for key in ("estimate", "low", "high")
    )
    assert value is not None
    text = write(value)
    if low is not None and high is not None:
        text += f" [{write(low)}, {write(high)}]"
    return Cell(text, (value, low, high), source)


def interval_keys(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def entry_cell(material: Material, entry: str) -> Cell:
    return Cell(entry, (entry,), position=material.positions[entry])


def results_table(material: Material) -> Table:
    """The main table: one row per entry, best first as the comparison ranks them."""
    comparison = material.comparison
    several = len(comparison["conditions"]) > 1
    with_top5 = any(entry["top5"] is not None for entry in comparison["entries"])
    columns = [
        Column("entry", ("entry",), numeric=False),
        Column("accuracy, %", interval_keys("accuracy_percent"), note="at the headline condition, with interval"),
        *([Column("top-5, %", ("top5_percent",))] if with_top5 else []),
        *([Column("mean of all conditions, %", interval_keys("mean_accuracy_percent"))] if several else []),
        Column("chance of being first", ("probability_first",), note="share of the bootstrap replicates"),
        Column("parameters", ("parameters",)),
        Column("training time", ("train_seconds",), note="mean of the entry's runs"),
        Column("judging, ms per clip", ("judge_ms_per_clip",), note="decoding, preparing and forward pass"),
    ]
    by_name = {entry["name"]: entry for entry in comparison["entries"]}
    rows = []
    for rank in comparison["ranking"]["headline"]:
        entry = by_name[rank["entry"]]
        rows.append(_result_row(material, entry, rank, several=several, with_top5=with_top5))
    headline = material.condition_name(comparison["headline_condition"])
    confidence = f"{100 * comparison['provenance']['confidence']:g} %"
    return Table("main_results", f"Results at {headline}, with {confidence} intervals", columns, rows)


def _result_row(
    material: Material, entry: dict[str, Any], rank: dict[str, Any], *, several: bool, with_top5: bool
) -> list[Cell]:
    name, cost = entry["name"], entry["cost"]
    here = f"{COMPARISON}: entries, {name}"
    times = [run.ms_per_clip for run in material.runs_of(name)]
    ms = None if not times or None in times else float(np.mean([t for t in times if t is not None]))
    first = rank["probability_first"]
    top5 = entry["top5"]
    seconds, parameters = cost["train_seconds"], cost["parameters"]
    results = "training_results.json of " + ", ".join(entry["runs"])
    return [
        entry_cell(material, name),
        interval_cell(entry["accuracy"], factor=100, source=f"{here}, accuracy"),
        *([number_cell(top5 and 100 * top5, top5 and percent_text(100 * top5), source=f"{here}, top5")] if with_top5 else []),
        *([interval_cell(entry["average_accuracy"], factor=100, source=f"{here}, average_accuracy")] if several else []),
        number_cell(first, None if first is None else chance_text(first), source=f"{COMPARISON}: ranking, headline"),
        number_cell(parameters, None if parameters is None else count_text(parameters), source=results),
        number_cell(seconds, None if seconds is None else duration_text(seconds), source=results),
        number_cell(ms, None if ms is None else f"{ms:.3g}", source="complete.json of " + ", ".join(entry["runs"])),
    ]  # fmt: skip


def pairs_table(material: Material) -> Table | None:
    """Differences of all pairs at the headline and on average; None with a single entry."""
    pairs = material.comparison["pairs"]
    if not pairs["headline"]:
        return None
    several = len(material.comparison["conditions"]) > 1
    columns = [Column("first − second", ("first", "second"), numeric=False), *_pair_columns("")]
    if several:
        columns += _pair_columns("mean_", "mean of conditions: ")
    rows = []
    for number, pair in enumerate(pairs["headline"]):
        label = Cell(f"{pair['first']} − {pair['second']}", (pair["first"], pair["second"]))
        row = [label, *_pair_cells(pair, f"{COMPARISON}: pairs, headline, {number}")]
        if several:
            row += _pair_cells(pairs["average"][number], f"{COMPARISON}: pairs, average, {number}")
        rows.append(row)
    correction = {"none": "not corrected"}.get(pairs["correction"], f"corrected ({pairs['correction']})")
    return Table("pairs", f"Paired differences in points; p-values {correction} over each family", columns, rows)


def _pair_columns(prefix: str, words: str = "") -> list[Column]:
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


def conditions_table(material: Material) -> Table:
    """Every entry under every condition, with the truth about each cell."""
    axes = material.comparison["axes"] or ["condition"]
    columns = [
        Column("entry", ("entry",), numeric=False),
        *(Column(f"{name}{', %' if name == 'coverage' else ''}", (name,)) for name in axes),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        *(Column(heading, (name,)) for name, heading, _ in CONDITION_COLUMNS),
        Column("identical to", ("identical_to",), numeric=False),
    ]
    rows = [_condition_row(material, row, axes) for row in material.comparison["table"]]
    return Table("conditions", "Every entry under every condition", columns, rows)


def _condition_row(material: Material, row: dict[str, Any], axes: Sequence[str]) -> list[Cell]:
    source = row_source(row)
    twins = ", ".join(row["identical_to"])
    cells = [entry_cell(material, row["model"])]
    for name in axes:
        value = row[name]
        cells.append(number_cell(value) if isinstance(value, (int, float)) else text_cell(value))
    cells.append(interval_cell(row_interval(row), factor=100, source=source))
    for name, _, factor in CONDITION_COLUMNS:
        cells.append(number_cell(row[name], fact_text(name, row[name], factor), source=source))
    return [*cells, Cell(twins or "–", (twins,), source)]


def fact_text(name: str, value: float | None, factor: float) -> str:
    """A fact of a cell as the page shows it."""
    if value is None:
        return "none" if name == "rate_hz" else NOT_MEASURED
    number = factor * float(value)
    return f"{number:.1f}" if name != "span_seconds" else f"{number:.2f}"


def row_source(row: dict[str, Any]) -> str:
    return f"results/results_{row['model']}.csv, row {row['condition']}"


def row_interval(row: dict[str, Any]) -> dict[str, Any]:
    return {"estimate": row["accuracy"], "low": row["accuracy_low"], "high": row["accuracy_high"]}


def classes_table(material: Material) -> Table:
    """Accuracy of every class at the headline condition, and its mean drop over entries."""
    section = material.comparison["per_class"]
    ids = [c["id"] for c in material.comparison["conditions"]]
    headline = ids.index(material.comparison["headline_condition"])
    accuracy = {entry: material.class_accuracy(entry)[headline] for entry in material.entries}
    drops = class_drops(material)
    columns = [
        Column("class", ("class",), numeric=False),
        Column("samples", ("n_samples",)),
        *(
            Column(f"{entry}, %", (f"{entry}_percent",), of_entry=place)
            for place, entry in enumerate(material.entries)
        ),
        *([Column("mean drop, points", ("mean_drop_points",), note=drop_rule(material))] if drops else []),
    ]
    rows = []
    for number, name in enumerate(section["classes"]):
        values = [accuracy[entry][number] for entry in material.entries]
        sources = [f"results/per_class_{entry}.csv, class {name}" for entry in material.entries]
        cells = [number_cell(float(v), percent_text(v), source=s) for v, s in zip(values, sources, strict=True)]
        drop = drops.get(name)
        last = [number_cell(drop, None if drop is None else signed_text(drop))] if drops else []
        rows.append([text_cell(name), number_cell(section["n_samples"][number]), *cells, *last])
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
    return f"from {drops['high']:g} to {drops['low']:g} % coverage at stride {drops['stride']:g}, mean of the entries"


def robustness_table(material: Material) -> Table | None:
    """Loss from full to quarter coverage, area under the frame curve, critical frames; None without a grid."""
    entries = material.comparison["robustness"]["entries"]
    if not any(entry["drops"]["at_stride"] for entry in entries.values()):
        return None
    first = next(iter(entries.values()))["drops"]
    columns = [
        Column("entry", ("entry",), numeric=False),
        Column(f"drop at stride {first['stride']:g}, points", interval_keys("drop_points")),
        Column("drop over all strides, points", interval_keys("marginal_drop_points")),
        Column("relative, %", interval_keys("relative_drop_percent"), note="of the accuracy at full coverage, all strides"),
        Column("robustness", ("robustness",), numeric=False, note="by relative drop: under 5 very high, 10 high, 15 moderate, 25 low"),
        Column("area under frame curve, %", interval_keys("frame_curve_area_percent")),
        Column("frames for 95 % of best", interval_keys("critical_frames")),
    ]  # fmt: skip
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
        interval_cell(curve["area"], factor=100, source=source),
        interval_cell(curve["critical_frames"], source=source),
    ]


BUDGET_COLUMNS = (
    ("runs", "runs", "count"),
    ("epochs", "epochs", "count"),
    ("steps", "steps", "count"),
    ("samples_seen", "samples seen", "count"),
    ("trials", "tuning trials", "count"),
    ("flops_per_clip", "FLOPs per clip", "large"),
    ("train_seconds", "training time", "seconds"),
)


def budget_table(material: Material) -> Table:
    """What each entry was given."""
    columns = [Column("entry", ("entry",), numeric=False)]
    columns += [Column(heading, (name,)) for name, heading, _ in BUDGET_COLUMNS]
    write = {"count": lambda v: f"{v:,.0f}", "large": count_text, "seconds": duration_text}
    rows = []
    for entry in material.comparison["budget"]["entries"]:
        source = f"{COMPARISON}: budget, {entry['entry']}"
        cells = [
            number_cell(entry[name], None if entry[name] is None else write[kind](entry[name]), source=source)
            for name, _, kind in BUDGET_COLUMNS
        ]
        rows.append([entry_cell(material, entry["entry"]), *cells])
    return Table("budget", "Budget of each entry, mean of its runs", columns, rows)


def data_table(material: Material) -> Table | None:
    """Samples and groups per split; None when data.json is missing."""
    data = material.comparison["data"]
    if not data.get("counts"):
        return None
    columns = [
        Column("split", ("split",), numeric=False),
        Column("samples", ("samples",)),
        Column("groups", ("groups",)),
        Column("classes present", ("classes",)),
        Column("samples per class", ("fewest", "most")),
    ]
    rows = []
    for split, counts in data["counts"].items():
        sizes = [size for size in counts.values() if size]
        ends = (min(sizes), max(sizes)) if sizes else (0, 0)
        text = f"{ends[0]}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
        rows.append(
            [
                text_cell(split),
                number_cell(sum(sizes), f"{sum(sizes):,}", source="data.json"),
                number_cell(data.get("groups", {}).get(split), source="data.json"),
                number_cell(len(sizes)),
                Cell(text, ends, "data.json"),
            ]
        )
    return Table("data", "Samples and groups per split", columns, rows)


def dropped_table(material: Material) -> Table | None:
    dropped = material.comparison["data"].get("dropped") or []
    if not dropped:
        return None
    columns = [Column("file", ("file",), numeric=False), Column("reason", ("reason",), numeric=False)]
    rows = [
        [text_cell(without_folders(row["path"]), source="data.json"), text_cell(without_folders(row["reason"]))]
        for row in dropped
    ]
    return Table("dropped", "Files left out of every entry", columns, rows)


RUN_COLUMNS = (
    ("results", "device", "device"),
    ("results", "precision", "precision"),
    ("results", "threads", "threads"),
    ("results", "torch", "torch"),
    ("fingerprint", "decoder", "decoder"),
    ("fingerprint", "frames", "frames"),
    ("fingerprint", "image_size", "input size"),
    ("fingerprint", "code", "regatta"),
    ("fingerprint", "weights", "weights hash"),
)


def runs_table(material: Material) -> Table:
    """Where and with what each run was trained and judged."""
    columns = [Column("run", ("run",), numeric=False), Column("seed", ("seed",))]
    columns += [Column(heading, (heading,), numeric=False) for _, _, heading in RUN_COLUMNS]
    rows = []
    for run in material.runs:
        records = {"results": run.results, "fingerprint": run.judging.get("fingerprint", {})}
        cells = []
        for record, key, _ in RUN_COLUMNS:
            value = records[record].get(key)
            shown = NOT_MEASURED if value is None else without_folders(value)
            cells.append(text_cell(shown[:12] if key == "weights" and value is not None else shown))
        name = Cell(run.spec.run_id, (run.spec.run_id,), position=material.positions[run.spec.entry.name])
        rows.append([name, number_cell(run.spec.seed), *cells])
    return Table("runs", "Runs and their environment", columns, rows)


def published_table(material: Material) -> Table | None:
    """The published tests, one row per entry; None without a grid."""
    published = material.comparison["published"]
    if not published:
        return None
    columns = [Column("entry", ("entry",), numeric=False)]
    for words, key in (("coverage", "coverage"), ("stride", "stride")):
        columns += [
            Column(f"{words} F", (f"{key}_f", f"{key}_df_between", f"{key}_df_within")),
            Column("p", (f"{key}_p",)),
            Column("η²", (f"{key}_eta_squared",)),
        ]
    columns += [
        Column("Levene", ("levene",)),
        Column("p", ("levene_p",)),
        Column("mean class drop, points", ("mean_drop_points",)),
    ]
    rows = [_published_row(material, name, entry) for name, entry in published["entries"].items()]
    settings = next(iter(published["entries"].values()))["settings"]
    title = (
        f"One-way tests over class accuracies: coverage at stride {settings['stride']:g}, "
        f"stride at {axis_text('coverage', settings['coverage'])} coverage"
    )
    return Table("published", title, columns, rows)


def _published_row(material: Material, name: str, entry: dict[str, Any]) -> list[Cell]:
    source = f"results/{name}/statistical_results.json"
    cells = [entry_cell(material, name)]
    for key in ("anova_coverage", "anova_stride"):
        test = entry[key]
        cells += [
            _statistic_cell(test["f_statistic"], test, source, (test["df_between"], test["df_within"])),
            Cell(p_text(test["p_value"]), (test["p_value"],), source),
            number_cell(test["eta_squared"], _or_none("{:.3f}", test["eta_squared"]), source=source),
        ]
    levene = entry["variance_homogeneity"]
    drop = entry["aliasing_sensitivity"]["mean_drop"]
    return [
        *cells,
        _statistic_cell(levene["levene_statistic"], levene, source),
        Cell(p_text(levene["p_value"]), (levene["p_value"],), source),
        number_cell(None if drop is None else 100 * drop, None if drop is None else signed_text(100 * drop), source=source),
    ]  # fmt: skip


def _statistic_cell(value: float | None, test: dict[str, Any], source: str, freedom: tuple[int, ...] = ()) -> Cell:
    """A test statistic, or the reason why there is none."""
    if value is None:
        return Cell(NOT_MEASURED, (None, *freedom), f"{source}: {test['reason']}")
    degrees = f" ({', '.join(map(str, freedom))})" if freedom else ""
    return Cell(f"{value:.2f}{degrees}", (value, *freedom), source)


def _or_none(pattern: str, value: float | None) -> str | None:
    return None if value is None else pattern.format(value)
