"""What the page says of a study of scenes in sentences, and of its attention maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regatta.core.errors import RecordError
from regatta.core.passed_on import without_folders
from regatta.records.scenes import AttentionMaps, read_attention, read_explanations
from regatta.report.contents import entry_cell, entry_column
from regatta.report.facts import sentence
from regatta.report.material import Material
from regatta.report.numbers import percent_text
from regatta.report.style import clean_text
from regatta.report.tables import Column, Table, number_cell, text_cell

EXPLAINED = 4
"""Explanations shown per entry."""
GRADIENT = "gradient"


def scene_view(material: Material) -> dict[str, Any] | None:
    """The sentences around figures and tables; None without the section."""
    section = material.comparison["scenes"]
    if section is None:
        return None
    names, ensemble = material.entries, section["ensemble"] or {}
    told = [ensemble[key]["sentence"] for key in ("accuracy", "mse") if ensemble.get(key)]
    told += [f"ensemble: {ensemble['reason']}"] if ensemble.get("reason") else []
    beside = [note for target in section["targets"] for note in target["notes"]]
    verdicts = [
        f"{row['entry']}: {row['verdict']}"
        for rows in section["rows"].values()
        for row in rows
        if len(names) > 1
    ]
    return {
        "sentences": [sentence(text, names) for text in section["sentences"]],
        "verdicts": [sentence(text, names) for text in verdicts],
        "beside": [sentence(text, names) for text in beside],
        "ensemble": [sentence(text, names) for text in (*told, *ensemble.get("notes", []))],
        "shortcuts": [sentence(text, names) for text in shortcut_sentences(section)],
        "explanations": explanations(material),
        "attention": attention_notes(material),
        "notes": [sentence(text, names) for text in section["notes"] if text not in beside],
        "exact": exact_classes(section),
    }


def lede(material: Material) -> list[str]:
    """Under the verdict on classes: the verdict on places."""
    section = material.comparison["scenes"]
    if section is None:
        return []
    found = [text.partition(", paired over ")[0] for text in section["sentences"]]
    return [sentence(text, material.entries) for text in found]


def shortcut_sentences(section: dict[str, Any]) -> list[str]:
    """Which entries are no better than an answer from the speed or the box alone."""
    found = []
    for name in dict.fromkeys(row["shortcut"] for row in section["above_shortcuts"]):
        rows = [row for row in section["above_shortcuts"] if row["shortcut"] == name]
        below = [row["entry"] for row in rows if not row["is_above"]]
        if below:
            found.append(f"{', '.join(below)}: not above {name} by an interval that leaves out 0")
        else:
            found.append(f"every entry is above {name} by an interval that leaves out 0")
    return found


def exact_classes(section: dict[str, Any]) -> list[str]:
    """Classes on which constant velocity makes no error, so that skill has no meaning."""
    found: dict[str, None] = {}
    for target in section["targets"]:
        for entry in target["entries"]:
            if entry["skill"] is not None:
                found |= {r["class"]: None for r in entry["per_class"] if r["skill"] is None}
    return list(found)


def predictions_folder(material: Material, entry: str) -> Path | None:
    """Predictions of an entry's first run."""
    runs = material.runs_of(entry)
    if not runs:
        return None
    protocol = material.comparison["study"]["protocol_id"]
    return material.folder.run(runs[0].spec.run_id).predictions(protocol)


def explanations(material: Material) -> list[dict[str, Any]]:
    """A few samples in words, as the first run of every entry left them."""
    found = []
    for entry in material.entries:
        folder = predictions_folder(material, entry)
        try:
            texts = read_explanations(folder) if folder else []
        except RecordError as error:
            found.append({"entry": entry, "position": material.positions[entry],
                          "texts": [("", f"Cannot be read: {error.what}.", "")]})  # fmt: skip
            continue
        told = [
            (
                clean_text(each.sample),
                clean_text(without_folders(each.text)),
                "" if each.source == "template" else f"worded by a model ({each.source})",
            )
            for each in texts[:EXPLAINED]
        ]
        if told:
            found.append({"entry": entry, "position": material.positions[entry], "texts": told})
    return found


def attention_of(material: Material) -> tuple[dict[str, AttentionMaps], list[str]]:
    """Maps by entry, of its first run, and a sentence for each that cannot be read."""
    found, problems = {}, []
    for entry in material.entries:
        folder = predictions_folder(material, entry)
        try:
            maps = read_attention(folder) if folder else None
        except RecordError as error:
            problems.append(f"Attention maps of {entry} cannot be shown: {error.what}.")
            continue
        if maps is not None:
            found[entry] = maps
    return found, problems


def attention_notes(material: Material) -> dict[str, Any] | None:
    """How the maps were made, entry by entry; None where none were asked for."""
    maps, problems = attention_of(material)
    if not maps and not problems:
        return None
    return {"methods": [method_sentence(name, each) for name, each in maps.items()],
            "problems": problems}  # fmt: skip


def method_sentence(entry: str, maps: AttentionMaps) -> str:
    """The method and what says whether the map is to be believed."""
    kind = " (of a gradient, not of attention weights)" if GRADIENT in maps.method else ""
    return f"{entry}: {clean_text(maps.method)}{kind}. {faithfulness_text(maps.faithfulness)}"


def faithfulness_text(found: Mapping[str, Any]) -> str:
    """Map mass inside the disc against the disc's share of the picture, and deletion."""
    parts = []
    if found.get("ratio") is not None:
        mass, area = found.get("mass_in_disc"), found.get("area_share")
        shares = ""
        if mass is not None and area is not None:
            shares = f" ({100 * mass:.1f} % of it on {100 * area:.2f} % of the picture)"
        parts.append(f"the disc holds {found['ratio']:.1f} times its share of the map{shares}")
    keys = ("accuracy", "accuracy_top_deleted", "accuracy_random_deleted")
    if all(found.get(key) is not None for key in keys):
        own, top, random = (percent_text(100 * found[key]) for key in keys)
        share = f"{100 * found.get('deleted_share', 0.1):g} %"
        parts.append(
            f"accuracy {own} %, without the top {share} of pixels {top} %, without a random "
            f"{share} {random} %"
        )
    return sentence("; ".join(parts), []) if parts else "Faithfulness: not measured."


def attention_table(material: Material) -> Table | None:
    """Faithfulness of every entry's maps; None where none were asked for."""
    maps, _ = attention_of(material)
    if not maps:
        return None
    columns = [
        entry_column(),
        Column("method", ("method",), numeric=False),
        Column("map in the disc, %", ("mass_in_disc_percent",)),
        Column("disc in the picture, %", ("area_share_percent",)),
        Column("ratio", ("ratio",)),
        Column("accuracy, %", ("accuracy_percent",)),
        Column("top pixels deleted, %", ("accuracy_top_deleted_percent",)),
        Column("random pixels deleted, %", ("accuracy_random_deleted_percent",)),
    ]
    rows = []
    for name, each in maps.items():
        found = each.faithfulness
        source = "attention.json of its first run"
        shares = [
            number_cell(found.get(key), percent_text, factor=100, source=source)
            for key in ("accuracy", "accuracy_top_deleted", "accuracy_random_deleted")
        ]
        rows.append(
            [
                entry_cell(material, name),
                text_cell(each.method, source=source),
                number_cell(found.get("mass_in_disc"), percent_text, factor=100, source=source),
                number_cell(found.get("area_share"), "{:.2f}".format, factor=100, source=source),
                number_cell(found.get("ratio"), "{:.1f}".format, source=source),
                *shares,
            ]
        )
    return Table("scene_attention", "Are the maps faithful", columns, rows)
