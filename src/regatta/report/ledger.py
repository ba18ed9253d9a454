"""The tables behind the results: budget, data, files left out, runs, the published analysis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regatta.core.passed_on import without_folders
from regatta.report.contents import COMPARISON, entry_cell, entry_column
from regatta.report.material import Material, RunFacts, axis_text
from regatta.report.numbers import count_text, duration_text, signed_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell
from regatta.report.words import Words

HASH_LETTERS = 12

BudgetColumn = tuple[str, str, str, float, Callable[[float], str]]
"""Key in the comparison, key in CSV, heading, factor, how it is written."""


def _budget_columns(words: Words) -> list[BudgetColumn]:
    operations = "flops_per_clip" if words.operations_per_flop == 1 else "macs_per_window"
    return [
        ("runs", "runs", "runs", 1, "{:,.0f}".format),
        ("epochs", "epochs", "epochs", 1, "{:,.4g}".format),
        ("steps", "steps", "steps", 1, "{:,.0f}".format),
        ("samples_seen", "samples_seen", f"{words.samples} seen", 1, "{:,.0f}".format),
        ("trials", "trials", "tuning trials", 1, "{:,.4g}".format),
        (
            "flops_per_clip", operations, words.operations, words.operations_per_flop, count_text,
        ),
        (
            "training_flops_estimate", f"training_{operations.partition('_')[0]}_estimate",
            f"training {words.operations.partition(' ')[0]}, estimate", words.operations_per_flop,
            count_text,
        ),
        ("train_seconds", "train_seconds", "training time", 1, duration_text),
        ("device_seconds", "device_seconds", "device time", 1, duration_text),
    ]  # fmt: skip


def budget_table(material: Material) -> Table:
    """What each entry was given."""
    parts = _budget_columns(material.words)
    columns = [entry_column(), *(Column(heading, (key,)) for _, key, heading, _, _ in parts)]
    rows = []
    for entry in material.comparison["budget"]["entries"]:
        source = f"{COMPARISON}: budget, {entry['entry']}"
        cells = [
            number_cell(entry[name], write, factor=factor, source=source)
            for name, _, _, factor, write in parts
        ]
        rows.append([entry_cell(material, entry["entry"]), *cells])
    return Table("budget", "Budget of each entry, mean of its runs", columns, rows)


def data_table(material: Material) -> Table | None:
    """Samples and groups per split; None when data.json is missing."""
    data = material.comparison["data"]
    if not data.get("counts"):
        return None
    words = material.words
    columns = [
        Column("split", ("split",), numeric=False),
        Column(words.samples, ("samples",)),
        Column(words.groups, ("groups",)),
        Column("classes present", ("classes",)),
        Column(f"{words.samples} per class", ("fewest", "most")),
    ]
    groups = data.get("groups", {})
    rows = [_split_row(name, counts, groups.get(name)) for name, counts in data["counts"].items()]
    title = f"{words.samples.capitalize()} and {words.groups} per split"
    return Table("data", title, columns, rows)


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
    what = material.words.dropped
    columns = [
        Column(what, (what,), numeric=False),
        Column("reason", ("reason",), numeric=False),
    ]
    rows = [
        [text_cell(without_folders(row[key]), source="data.json") for key in ("path", "reason")]
        for row in dropped
    ]
    return Table("dropped", f"{what.capitalize()}s left out of every entry", columns, rows)


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


PICTURE_COLUMNS = ("decoder", "frames", "image_size")
"""Of runs over videos; a window of signals has none of these, a picture only the last."""


def _run_columns(material: Material) -> list[tuple[str, str, str]]:
    hidden = PICTURE_COLUMNS if material.is_signal else ()
    hidden = PICTURE_COLUMNS[:2] if material.is_image else hidden
    return [part for part in RUN_COLUMNS if part[1] not in hidden]


def runs_table(material: Material) -> Table:
    """Where and with what each run was trained and judged."""
    columns = [
        Column("run", ("run",), numeric=False),
        Column("seed", ("seed",)),
        *(Column(heading, (heading,), numeric=False) for _, _, heading in _run_columns(material)),
    ]
    trained = [run for run in material.runs if not run.spec.entry.is_imported]
    rows = [_run_row(material, run) for run in trained]
    return Table("runs", "Runs and their environment", columns, rows)


def _run_row(material: Material, run: RunFacts) -> list[Cell]:
    run_id, position = run.spec.run_id, material.positions[run.spec.entry.name]
    protocol = material.comparison["study"]["protocol_id"]
    records = {"results": run.results, "fingerprint": run.judging.get("fingerprint", {})}
    files = {
        "results": f"runs/{run_id}/training_results.json",
        "fingerprint": f"runs/{run_id}/predictions/{protocol}/complete.json",
    }
    cells = []
    for record, key, _ in _run_columns(material):
        value = records[record].get(key)
        text = NOT_MEASURED if value is None else without_folders(value)
        short = key == "weights" and value is not None
        cells.append(text_cell(text[:HASH_LETTERS] if short else text, source=files[record]))
    seed = number_cell(run.spec.seed, source=f"runs/{run_id}/run.json")
    return [Cell(run_id, (run_id,), position=position), seed, *cells]


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
            number_cell(test["p_value"], "{:.3g}".format, source=source),
            number_cell(test["eta_squared"], "{:.5f}".format, source=source),
        ]
    levene, drop = entry["variance_homogeneity"], entry["aliasing_sensitivity"]["mean_drop"]
    return [
        *cells,
        _statistic_cell(levene["levene_statistic"], levene, source),
        number_cell(levene["p_value"], "{:.3g}".format, source=source),
        number_cell(drop, signed_text, factor=100, source=source),
    ]


def _statistic_cell(
    value: float | None, test: dict[str, Any], source: str, freedom: tuple[int, ...] = ()
) -> Cell:
    """A test statistic, or nothing with the reason for it behind the pointer."""
    if value is None:
        return Cell(NOT_MEASURED, (None, *freedom), f"{source}: {test['reason']}")
    degrees = f" ({', '.join(map(str, freedom))})" if freedom else ""
    # Six digits, as published tables give them.
    return Cell(f"{value:.6g}{degrees}", (value, *freedom), source)
