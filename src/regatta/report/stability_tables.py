"""Tables of "does the order hold" and what its section of the page says."""

from __future__ import annotations

from typing import Any

from regatta.report.contents import COMPARISON, interval_cell, interval_keys
from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.numbers import chance_text
from regatta.report.tables import Cell, Column, Table, number_cell, text_cell

ROWS_SHOWN = 24
READINGS = {
    "crossover": "crossover",
    "not unique": "ends change, crossing not unique",
    "none shown": "no crossover is shown",
}
RANK_FILE, CROSSOVER_FILE = "results/rank_stability.csv", "results/crossover.csv"


def stability_view(material: Material) -> dict[str, Any] | None:
    """What the section of the page says; None with one entry or one condition."""
    section = material.comparison.get("stability")
    if section is None:
        return None
    crossover = material.comparison.get("crossover")
    entries = material.entries
    names = material.condition_name
    return {
        "sentences": [sentence(text, entries) for text in section["sentences"]],
        "merged": ["; ".join(names(cell) for cell in group) for group in section["merged"]],
        "notes": [sentence(text, entries) for text in section["notes"]],
        "crossover": None
        if crossover is None
        else {
            "sentences": [sentence(text, entries) for text in crossover["sentences"]],
            "gaps": [f"Along {gap['axis']}: {gap['reason']}." for gap in crossover["gaps"]],
        },
    }


def stability_table(material: Material) -> Table | None:
    """Rank of every entry in every condition that counts."""
    section = material.comparison.get("stability")
    if section is None:
        return None
    columns = [
        Column("condition", ("condition",), numeric=False),
        *(Column(f"rank of {name}", (f"rank_{name}",)) for name in section["entries"]),
        Column(
            f"{section['leader']} first",
            ("leader_first_probability",),
            note="share of replicates; the leader is that of the headline",
        ),
        Column("Kendall's tau", ("kendall_tau",), note="with the order at the headline"),
        Column("same inputs as", ("same_clips_as",), numeric=False),
    ]
    rows = [_stability_row(material, row) for row in section["conditions"]]
    w = section["kendall_w"]
    title = "Order of the entries in every condition"
    return Table(
        "stability", title if w is None else f"{title}, Kendall's W {w:.2f}", columns, rows
    )


def _stability_row(material: Material, row: dict[str, Any]) -> list[Cell]:
    source = f"{RANK_FILE}, condition {row['condition']}"
    ranks = [
        Cell(f"{rank}{'=' if tied else ''}", (rank,), source)
        for rank, tied in zip(row["rank"], row["tied"], strict=True)
    ]
    same = "; ".join(material.condition_name(name) for name in row["same_as"])
    tau = row["kendall_tau"]
    return [
        Cell(material.condition_name(row["condition"]), (row["condition"],), source),
        *ranks,
        number_cell(row["leader_first_probability"], chance_text, source=source),
        number_cell(tau, lambda x: f"{x:.2f}".replace("-", "−"), source=source)
        if tau is not None
        else Cell("all tied", (None,), source),
        Cell(same or "–", (" ".join(row["same_as"]),), source),
    ]


def pair_orders_table(material: Material) -> Table | None:
    """In how many conditions each entry of a pair is decidedly ahead."""
    section = material.comparison.get("stability")
    if section is None:
        return None
    columns = [
        Column("first − second", ("first", "second"), numeric=False),
        Column("first ahead in", ("first_ahead",)),
        Column("second ahead in", ("second_ahead",)),
        Column("not decided in", ("undecided",)),
        Column("against the headline in", ("reversed", "reversed_conditions"), numeric=False),
    ]
    rows = []
    for number, pair in enumerate(section["pairs"]):
        source = f"{COMPARISON}: stability, pairs, {number}"
        against = "; ".join(material.condition_name(name) for name in pair["reversed"])
        rows.append(
            [
                Cell(f"{pair['first']} − {pair['second']}", (pair["first"], pair["second"])),
                number_cell(len(pair["first_ahead"]), source=source),
                number_cell(len(pair["second_ahead"]), source=source),
                number_cell(pair["undecided"], source=source),
                Cell(against or "–", (len(pair["reversed"]), against), source),
            ]
        )
    title = f"In how many of {section['n_conditions']} conditions the order is decided"
    return Table("pair_orders", title, columns, rows)


def crossover_table(material: Material) -> Table | None:
    """Pairs along every axis: those with a crossover first, then by share that crosses."""
    section = material.comparison.get("crossover")
    if section is None or not section["curves"]:
        return None
    columns = [
        Column("first − second", ("first", "second"), numeric=False),
        Column("along", ("axis", "at", "other"), numeric=False),
        Column("at the low end, points", (*interval_keys("low_end_points"), "first_leads_low")),
        Column("at the high end, points", (*interval_keys("high_end_points"), "first_leads_high")),
        Column("crossing", interval_keys("crossing")),
        Column("replicates that cross", ("crossing_share",)),
        Column("reading", ("verdict",), numeric=False),
    ]
    ranked = sorted(
        enumerate(section["curves"], 1),
        key=lambda item: (item[1]["verdict"] == "none shown", -(item[1]["crossing_share"] or 0)),
    )
    rows = [_crossover_row(curve, number) for number, curve in ranked[:ROWS_SHOWN]]
    title = "Where two entries change places"
    if len(ranked) > ROWS_SHOWN:
        title += f": {ROWS_SHOWN} of {len(ranked)}, the others are in {CROSSOVER_FILE}"
    return Table("crossover", title, columns, rows)


def _crossover_row(curve: dict[str, Any], number: int) -> list[Cell]:
    source = f"{CROSSOVER_FILE}, row {number}"
    ends = []
    for end, key in ((0, "first_leads_low"), (-1, "first_leads_high")):
        cell = interval_cell(curve["difference_points"][end], signed=True, source=source)
        ends.append(Cell(cell.text, (*cell.values, curve[key]), source))
    other = curve["other_words"]
    along = f"{curve['axis']}, {other}" if other else curve["axis"]
    return [
        Cell(f"{curve['first']} − {curve['second']}", (curve["first"], curve["second"])),
        Cell(along, (curve["axis"], curve["at"], other), source),
        *ends,
        _crossing_cell(curve, source),
        number_cell(curve["crossing_share"], chance_text, source=source),
        text_cell(READINGS[curve["verdict"]], source=source),
    ]


def _crossing_cell(curve: dict[str, Any], source: str) -> Cell:
    found = curve["crossing"]
    if found is None:
        return Cell("–", (None, None, None), source)
    values = tuple(found[key] for key in ("estimate", "low", "high"))
    text = f"{values[0]:.3g}"
    if None not in values[1:]:
        text += f" [{values[1]:.3g}, {values[2]:.3g}]"
    return Cell(text, values, source)
