"""What a page says of predictions that were made elsewhere, and the published tests in full."""

from __future__ import annotations

from typing import Any

from regatta.report.contents import COMPARISON, condition_columns, entry_cell, entry_column
from regatta.report.ledger import HASH_LETTERS
from regatta.report.material import Material
from regatta.report.numbers import signed_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

KINDS = {
    "csv": "scores of every sample (CSV)",
    "npz": "scores of every sample (NumPy archive)",
    "classes": "accuracy of every class (CSV)",
    "folder": "predictions of another run",
}
GROUPS = {
    "file": "of the file",
    "study": "of the study",
    "none": "none: every sample by itself",
}


def foreign_view(material: Material) -> dict[str, bool]:
    """What is not known here and therefore has no section.

    only: every entry was imported. by_class: single samples are not known. knows_frames: some
    condition says what a clip held.
    """
    return {
        "only": material.is_foreign,
        "by_class": material.by_class,
        "knows_frames": bool(condition_columns(material)),
    }


def imports_table(material: Material) -> Table | None:
    """The files that entries were imported from; None where there are none."""
    rows = material.comparison["study"].get("imports") or []
    if not rows:
        return None
    columns = [
        entry_column(),
        Column("seed", ("seed",)),
        Column("file", ("file",), numeric=False),
        Column("what it holds", ("kind",), numeric=False),
        *([] if material.by_class else [Column("groups", ("groups",), numeric=False)]),
        Column("SHA-256", ("sha256",), numeric=False),
    ]
    return Table("imports", "Imported files", columns, [_import_row(material, r) for r in rows])


def _import_row(material: Material, row: dict[str, Any]) -> list[Cell]:
    source = f"runs/{row['run']}/run.json"
    digest = str(row["sha256"])
    groups = text_cell(GROUPS.get(row["groups"], NOT_MEASURED), source=source)
    return [
        entry_cell(material, row["entry"]),
        number_cell(row["seed"], source=source),
        text_cell(row["file"], source=source),
        text_cell(KINDS.get(row["kind"], row["kind"]), source=source),
        *([] if material.by_class else [groups]),
        Cell(digest[:HASH_LETTERS], (digest,), source),
    ]


def welch_table(material: Material) -> Table | None:
    """The published Welch tests of all pairs of coverages; None without a grid."""
    published = material.comparison["published"]
    rows = [
        _welch_row(material, name, row)
        for name, entry in (published["entries"] if published else {}).items()
        for row in entry["pairwise"]
    ]
    if not rows:
        return None
    columns = [
        entry_column(),
        Column("coverages", ("comparison",), numeric=False),
        Column("mean difference, points", ("mean_difference_points",)),
        Column("Welch t", ("t_statistic",)),
        Column("p", ("p_value",)),
        Column("p, Bonferroni", ("p_bonferroni",)),
        Column("Cohen's d", ("cohens_d",), note="over the root of the mean population variance"),
    ]
    return Table("published_pairs", "Welch tests of all pairs of coverages", columns, rows)


def _welch_row(material: Material, name: str, row: dict[str, Any]) -> list[Cell]:
    source = f"{COMPARISON}: published, {name}, pairwise"
    return [
        entry_cell(material, name),
        text_cell(row["comparison"], source=source),
        number_cell(row["mean_difference"], signed_text, factor=100, source=source),
        number_cell(row["t_statistic"], "{:.6g}".format, source=source),
        *(
            number_cell(row[key], "{:.3g}".format, source=source)
            for key in ("p_value", "p_bonferroni")
        ),
        number_cell(row["cohens_d"], "{:.3f}".format, source=source),
    ]
