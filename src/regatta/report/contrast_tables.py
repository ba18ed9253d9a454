"""Tables of a protocol's contrasts: differences with readings, budgets, concentration, spectra."""

from __future__ import annotations

from typing import Any

from regatta.report.contents import (
    COMPARISON,
    entry_cell,
    entry_column,
    interval_cell,
    interval_keys,
)
from regatta.report.material import Material
from regatta.report.numbers import p_text, signed_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

TITLES = {
    "matched": "Fewer frames against the most, in points",
    "span": "Narrower windows against the widest, in points",
    "antialias": "Box filter against point sampling, in points",
    "controls": "What each control takes away, in points",
    "multi-view": "More views against one, in points",
    "sliding": "Other positions against the middle, in points",
    "sensor-robustness": "Changed signals against unchanged ones, in points",
}


def contrasts_table(material: Material) -> Table | None:
    """Every contrast of every entry with interval, corrected p and reading."""
    section = material.comparison["contrasts"]
    if section is None or not section["tests"]:
        return None
    filtered = section["protocol"] == "antialias"
    columns = [
        entry_column(),
        Column("contrast", ("contrast", "first", "second"), numeric=False),
        Column("difference, points", interval_keys("difference_points")),
        Column("p, corrected", ("p_adjusted", "p_value")),
        Column("reading", ("reading",), numeric=False, note=section["rule"]),
    ]
    if filtered:
        columns += _filter_columns()
    rows = []
    for number, test in enumerate(section["tests"]):
        source = f"results/contrasts.csv, row {number + 1}"
        row = _contrast_cells(material, test, source)
        rows.append(row + _filter_cells(test, source) if filtered else row)
    how = section["correction"]
    family = f"{section['family_size']} tests"
    corrected = f"{family}, not corrected" if how == "none" else f"corrected ({how}) over {family}"
    return Table("contrasts", f"{TITLES[section['protocol']]}; {corrected}", columns, rows)


def _contrast_cells(material: Material, test: dict[str, Any], source: str) -> list[Cell]:
    p_value = test["p_adjusted"]
    p_cell = Cell(p_text(p_value), (p_value, test["p_value"]), f"{source}: {test['method']}")
    if test["same_clips"]:
        p_cell = Cell("–", (None, None), f"{source}: identical clips, nothing to test")
    return [
        entry_cell(material, test["entry"]),
        Cell(test["contrast"], (test["contrast"], test["first"], test["second"]), source),
        _points_cell(test["difference_points"], source),
        p_cell,
        text_cell(test["reading"], source=source),
    ]


def _points_cell(interval: dict[str, Any], source: str) -> Cell:
    """A difference with its interval; one that is 0 by design has none to show."""
    if interval["method"] == "by design":
        return Cell("0", (0.0, None, None), f"{source}: {interval['note']}")
    return interval_cell(interval, signed=True, source=source)


def _filter_columns() -> list[Column]:
    return [
        Column(
            "lost by point sampling, points",
            interval_keys("loss_points"),
            note="accuracy at the smallest stride minus accuracy of point sampling here",
        ),
        Column(
            "share given back, %",
            interval_keys("recovered_share_percent"),
            note="(box − point) / loss, given where the interval of the loss is above 0",
        ),
        Column(
            "theory, points",
            ("ceiling_gain_points",),
            note="oracle ceiling of box minus that of point: what filtering can give back",
        ),
    ]


def _filter_cells(test: dict[str, Any], source: str) -> list[Cell]:
    share = test["recovered_share"]
    given = Cell("–", (None, None, None), f"{source}: no clear loss, so no share of it")
    if share is not None:
        given = interval_cell(share, factor=100, source=source)
    return [
        _points_cell(test["loss_points"], source),
        given,
        number_cell(test["ceiling_gain_points"], signed_text, source=source),
    ]


def protocol_table(material: Material) -> Table | None:
    """What is one number per entry: frame budgets, or concentration of confidence."""
    section = material.comparison["contrasts"]
    if section is None:
        return None
    if section["protocol"] == "matched":
        return _budgets(material, section["entries"])
    if section["protocol"] == "sliding":
        return _concentration(material, section["entries"])
    return None


def _budgets(material: Material, entries: dict[str, Any]) -> Table:
    columns = [
        entry_column(),
        Column("best, %", ("best_percent",)),
        Column("frames for 95 % of best", interval_keys("critical_frames")),
        Column(
            "area under frame curve, %",
            interval_keys("frame_curve_area_percent"),
            note="mean accuracy over budgets, by trapezoids",
        ),
    ]
    rows = []
    for name, entry in entries.items():
        source = f"{COMPARISON}: contrasts, entries, {name}"
        best = max(point["accuracy"] for point in entry["points"])
        rows.append(
            [
                entry_cell(material, name),
                number_cell(best, "{:.1f}".format, factor=100, source=source),
                interval_cell(entry["critical_frames"], source=source),
                interval_cell(entry["area"] or {}, factor=100, source=source),
            ]
        )
    return Table("frame_budgets", "Frame budgets", columns, rows)


def _concentration(material: Material, entries: dict[str, Any]) -> Table:
    columns = [
        entry_column(),
        Column("concentration, %", interval_keys("concentration_percent"), note=CONCENTRATION),
        Column("most concentrated class", ("highest_class", "highest_percent"), numeric=False),
        Column("least concentrated class", ("lowest_class", "lowest_percent"), numeric=False),
    ]
    rows = []
    for name, entry in entries.items():
        source = f"{COMPARISON}: contrasts, entries, {name}, concentration"
        found = entry["concentration"] or {"mean": {}, "classes": []}
        ordered = sorted(found["classes"], key=lambda row: (-row["concentration"], row["class"]))
        rows.append(
            [
                entry_cell(material, name),
                interval_cell(found["mean"], factor=100, source=source),
                *(_class_cell(row, source) for row in (ordered[:1], ordered[-1:])),
            ]
        )
    title = "How much of the confidence lies in few windows"
    return Table("concentration", title, columns, rows)


CONCENTRATION = (
    "100 × (1 − entropy over windows / its maximum): 0 = equally confident everywhere, 100 = all "
    "confidence in one window"
)


def _class_cell(found: list[dict[str, Any]], source: str) -> Cell:
    if not found:
        return Cell(NOT_MEASURED, (None, None), source)
    percent = 100 * found[0]["concentration"]
    name = text_cell(found[0]["class"]).text
    return Cell(f"{name} ({percent:.1f})", (name, percent), source)


def concentration_classes_table(material: Material) -> Table | None:
    """Concentration of every class and entry; None without a sliding window."""
    section = material.comparison["contrasts"]
    if section is None or section["protocol"] != "sliding":
        return None
    found = {
        name: {row["class"]: row for row in (entry["concentration"] or {"classes": []})["classes"]}
        for name, entry in section["entries"].items()
    }
    columns = [Column("class", ("class",), numeric=False), Column("samples", ("samples",))]
    columns += [Column(f"{entry}, %", (f"{entry}_percent",)) for entry in found]
    rows = []
    for name in material.classes:
        records = [by_class.get(name) for by_class in found.values()]
        if any(records):
            counts = next(record["samples"] for record in records if record)
            row = [text_cell(name), number_cell(counts)]
            for record in records:
                value = None if record is None else record["concentration"]
                row.append(number_cell(value, "{:.1f}".format, factor=100))
            rows.append(row)
    return Table("concentration_by_class", "Concentration by class, %", columns, rows)


def motion_table(material: Material) -> Table | None:
    """What the motion of each class needs, and what each entry needed; None when not measured."""
    motion = material.comparison["motion"]
    if motion is None:
        return None
    with_rates = [e for e in material.entries if _has_rates(motion["classes"], e)]
    columns = [
        Column("class", ("class",), numeric=False),
        Column("samples measured", ("samples",)),
        Column("dominant, Hz", ("dominant_hz",)),
        Column("95 % of power below, Hz", ("f95_hz",)),
        Column("rate needed, Hz", ("nyquist_needed_hz",), note="twice the frequency before"),
        *(
            Column(f"{entry}: critical rate, Hz", (f"critical_rate_{entry}",), note=CRITICAL)
            for entry in with_rates
        ),
    ]
    rows = [_motion_row(row, with_rates) for row in motion["classes"]]
    title = "Motion of each class and the sampling rate that it needs"
    return Table("motion_spectra", title, columns, rows)


CRITICAL = (
    "smallest mean rate, at the largest coverage, with 95 % of the class's best accuracy there"
)


def _has_rates(classes: list[dict[str, Any]], entry: str) -> bool:
    return any(row["critical_rate_hz"].get(entry) is not None for row in classes)


def _motion_row(row: dict[str, Any], entries: list[str]) -> list[Cell]:
    source = f"results/motion_spectra.csv, class {row['class']}"
    names = ("dominant_hz", "f95_hz", "nyquist_needed_hz")
    return [
        text_cell(row["class"]),
        number_cell(row["samples"]),
        *(number_cell(row[name], "{:.2f}".format, source=source) for name in names),
        *(
            number_cell(row["critical_rate_hz"].get(e), "{:.2f}".format, source=source)
            for e in entries
        ),
    ]
