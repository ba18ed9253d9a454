"""The tables behind the results: budget, data, files left out, runs, the published analysis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regatta.report.contents import COMPARISON, entry_cell, entry_column
from regatta.report.material import Material, RunFacts, axis_text, without_folders
from regatta.report.numbers import count_text, duration_text, p_text, signed_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

HASH_LETTERS = 12

BUDGET_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("runs", "runs", "{:,.0f}".format),
    ("epochs", "epochs", "{:,.4g}".format),
    ("steps", "steps", "{:,.0f}".format),
    ("samples_seen", "samples seen", "{:,.0f}".format),
    ("trials", "tuning trials", "{:,.4g}".format),
    ("flops_per_clip", "FLOPs per clip", count_text),
    ("train_seconds", "training time", duration_text),
)


def budget_table(material: Material) -> Table:
    """What each entry was given."""
    columns = [entry_column(), *(Column(heading, (name,)) for name, heading, _ in BUDGET_COLUMNS)]
    rows = []
    for entry in material.comparison["budget"]["entries"]:
        source = f"{COMPARISON}: budget, {entry['entry']}"
        cells = [
            number_cell(entry[name], write, source=source) for name, _, write in BUDGET_COLUMNS
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
    groups = data.get("groups", {})
    rows = [_split_row(name, counts, groups.get(name)) for name, counts in data["counts"].items()]
    return Table("data", "Samples and groups per split", columns, rows)


def _split_row(name: str, counts: dict[str, int], groups: int | None) -> list[Cell]:
    sizes = [size for size in counts.values() if size]
    fewest, most = (min(sizes), max(sizes)) if sizes else (0, 0)
    ends = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return [
        text_cell(name),
        number_cell(sum(sizes), "{:,}".format, source="data.json"),
        number_cell(groups, "{:,}".format, source="data.json"),
        number_cell(len(sizes), source="data.json"),
        Cell(ends, (fewest, most), "data.json"),
    ]


def dropped_table(material: Material) -> Table | None:
    """Files that no entry was trained or judged on; None when there are none."""
    dropped = material.comparison["data"].get("dropped") or []
    if not dropped:
        return None
    columns = [
        Column("file", ("file",), numeric=False),
        Column("reason", ("reason",), numeric=False),
    ]
    rows = [
        [text_cell(without_folders(row[key]), source="data.json") for key in ("path", "reason")]
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
    columns = [
        Column("run", ("run",), numeric=False),
        Column("seed", ("seed",)),
        *(Column(heading, (heading,), numeric=False) for _, _, heading in RUN_COLUMNS),
    ]
    rows = [_run_row(material, run) for run in material.runs]
    return Table("runs", "Runs and their environment", columns, rows)


def _run_row(material: Material, run: RunFacts) -> list[Cell]:
    records = {"results": run.results, "fingerprint": run.judging.get("fingerprint", {})}
    cells = []
    for record, key, _ in RUN_COLUMNS:
        value = records[record].get(key)
        text = NOT_MEASURED if value is None else without_folders(value)
        short = key == "weights" and value is not None
        cells.append(text_cell(text[:HASH_LETTERS] if short else text))
    run_id, position = run.spec.run_id, material.positions[run.spec.entry.name]
    return [Cell(run_id, (run_id,), position=position), number_cell(run.spec.seed), *cells]


def published_table(material: Material) -> Table | None:
    """The published tests, one row per entry; None without a grid."""
    published = material.comparison["published"]
    if not published:
        return None
    columns = [entry_column()]
    for key in ("coverage", "stride"):
        columns += [
            Column(f"{key} F", (f"{key}_f", f"{key}_df_between", f"{key}_df_within")),
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
        freedom = (test["df_between"], test["df_within"])
        cells += [
            _statistic_cell(test["f_statistic"], test, source, freedom),
            Cell(p_text(test["p_value"]), (test["p_value"],), source),
            number_cell(test["eta_squared"], "{:.3f}".format, source=source),
        ]
    levene, drop = entry["variance_homogeneity"], entry["aliasing_sensitivity"]["mean_drop"]
    return [
        *cells,
        _statistic_cell(levene["levene_statistic"], levene, source),
        Cell(p_text(levene["p_value"]), (levene["p_value"],), source),
        number_cell(drop, signed_text, factor=100, source=source),
    ]


def _statistic_cell(
    value: float | None, test: dict[str, Any], source: str, freedom: tuple[int, ...] = ()
) -> Cell:
    """A test statistic, or nothing with the reason for it behind the pointer."""
    if value is None:
        return Cell(NOT_MEASURED, (None, *freedom), f"{source}: {test['reason']}")
    degrees = f" ({', '.join(map(str, freedom))})" if freedom else ""
    return Cell(f"{value:.2f}{degrees}", (value, *freedom), source)
