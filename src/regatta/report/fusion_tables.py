"""The tables of a fusion study on the page; a baseline that is absent says so in its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.analysis.diversity import Q_UNDEFINED
from regatta.analysis.fusion_cost import COSTS
from regatta.analysis.fusion_decision import PARTS
from regatta.analysis.fusion_systems import FUSED, WORDS
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
from regatta.report.style import clean_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell, text_cell

NOT_DEFINED = "not defined"
PLACE = (
    Column("architecture", ("architecture",), numeric=False),
    Column("fusion", ("fusion_type",), numeric=False),
)
OWN_VERDICTS = {
    "ahead": "gain",
    "behind": "loss",
    "equivalent": "none within the margin",
    "identical": "the same answers",
    "few-seeds": "not enough seeds",
    "undecided": "the data cannot tell",
}


def fusion_tables(material: Material) -> list[Table]:
    """Every table of the section; none without it."""
    section = material.comparison["fusion"]
    if section is None:
        return []
    found = [
        systems_table(material, section),
        decision_table(material, section),
        matrix_table(material, section),
        effects_table(material, section),
        cost_table(section),
        diversity_table(section),
        calibration_table(section),
        robustness_table(material, section),
        ood_table(material, section),
    ]
    return [table for table in found if table is not None]


def shown_systems(section: dict[str, Any]) -> list[str]:
    """Systems in report order; stacking only where it was trained."""
    return [
        key
        for key in WORDS
        if key != "stacking" or any(s["accuracies"][key]["accuracy"] for s in section["systems"])
    ]


def systems_table(material: Material, section: dict[str, Any]) -> Table:
    """A row per fusion with all that must stand beside it."""
    keys = [FUSED, *(key for key in shown_systems(section) if key != FUSED)]
    columns = [
        entry_column(),
        *(Column(f"{WORDS[key]}, %", interval_keys(key.replace("-", "_"))) for key in keys),
    ]
    rows = [
        [
            entry_cell(material, each["entry"]),
            *(_accuracy_cell(each["accuracies"][key], f"{each['entry']}, {key}") for key in keys),
        ]
        for each in section["systems"]
    ]
    title = f"Every fused system beside its experts and single networks at {material.headline_name}"
    return Table("fusion_systems", title, columns, rows)


def _accuracy_cell(system: dict[str, Any], place: str) -> Cell:
    source = f"{COMPARISON}: fusion, {place}"
    if system["accuracy"] is None:
        return Cell(system["reason"], (None, None, None), source)
    cell = interval_cell(system["accuracy"], factor=100, source=source)
    return Cell(cell.text, cell.values, f"{source}: {system['of']}") if system["of"] else cell


def decision_table(material: Material, section: dict[str, Any]) -> Table:
    """A row per fusion, three differences with corrected p-values."""
    columns = [entry_column()]
    for name in PARTS:
        key = name.replace(" ", "_").replace("-", "_")
        columns += [
            Column(f"{name}, points", interval_keys(f"{key}_points")),
            Column("p, corrected", (f"{key}_p_adjusted", f"{key}_p_value")),
            Column("verdict", (f"{key}_verdict",), numeric=False),
        ]
    by_place = {(row["entry"], row["part"]): row for row in section["decision"]}
    rows = []
    for each in section["systems"]:
        row = [entry_cell(material, each["entry"])]
        for name in PARTS:
            row += _decision_cells(by_place[(each["entry"], name)])
        rows.append(row)
    how = CORRECTED[section["correction"]]
    corrected = f"corrected ({how}) over {section['family_size']} tests" if how else "not corrected"
    return Table("fusion_decision", f"The decision in three parts; p-values {corrected}", columns,
                 rows)  # fmt: skip


def _decision_cells(row: dict[str, Any]) -> list[Cell]:
    source = f"{COMPARISON}: fusion, decision, {row['entry']}, {row['part']}"
    if row["verdict"] is None:
        reason = clean_text(row["reason"])
        return [
            Cell(reason, (None, None, None), source),
            Cell("–", (None, None), source),
            Cell("–", (None,), source),
        ]
    return [
        interval_cell(row["difference_points"], signed=True, source=source),
        Cell(p_text(row["p_adjusted"]), (row["p_adjusted"], row["p_value"]), source),
        Cell(OWN_VERDICTS[row["verdict"]], (row["verdict"],), source),
    ]


def matrix_table(material: Material, section: dict[str, Any]) -> Table:
    columns = [
        *PLACE,
        Column("alpha", ("alpha",)),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        Column("gain over average of experts, points", interval_keys("gain_over_average")),
        Column("gain over equal cost, points", interval_keys("gain_over_equal_cost")),
        Column("verdict", ("verdict",), numeric=False),
    ]
    rows = []
    for number, row in enumerate(section["matrix"]):
        source = f"results/matrix.csv, row {number + 1}"
        rows.append(
            [
                text_cell(
                    row["architecture"], source=source, position=material.positions[row["entry"]]
                ),
                text_cell(row["fusion_type"], source=source),
                number_cell(row["alpha"], source=source),
                interval_cell(row["accuracy"], factor=100, source=source),
                _gain_cell(row, "gain_over_average", source),
                _gain_cell(row, "gain_over_equal_cost", source),
                text_cell(row["verdict"], source=source),
            ]
        )
    partition = section["partition"] or "no"
    title = f"The matrix of architectures and fusion types, {partition} partition"
    return Table("fusion_matrix", title, columns, rows)


def _gain_cell(row: dict[str, Any], key: str, source: str) -> Cell:
    if row[key] is None:
        return Cell(row[f"{key}_reason"], (None, None, None), source)
    return interval_cell(row[key], signed=True, source=source)


def effects_table(material: Material, section: dict[str, Any]) -> Table | None:
    """Each level of architecture and fusion type against the mean of all cells."""
    columns = [
        Column("alpha", ("alpha",)),
        Column("factor", ("effect",), numeric=False),
        Column("level", ("level",), numeric=False),
        Column("against the mean of all cells, points", interval_keys("effect_points")),
    ]
    rows = []
    for matrix in section["effects"]:
        for effect in matrix["effects"]:
            source = f"{COMPARISON}: fusion, effects, {effect['effect']}"
            for level in effect["levels"]:
                rows.append(
                    [
                        number_cell(matrix["alpha"], source=source),
                        text_cell(effect["effect"], source=source),
                        text_cell(level["level"], source=source),
                        interval_cell(level["effect_points"], signed=True, source=source),
                    ]
                )
    title = (
        f"Effects of architecture and of fusion type, each with its {material.confidence} interval"
    )
    return Table("fusion_effects", title, columns, rows) if rows else None


COST_WORDS = {
    "parameters": "parameters",
    "macs_per_image": "MACs per image",
    "train_flops": "training FLOPs",
    "images_seen": "images seen",
    "device_seconds": "device time",
    "peak_gb": "peak memory, GB",
}


def cost_table(section: dict[str, Any]) -> Table:
    """Fused systems with all their experts, averages of experts, and single networks."""
    columns = [
        *PLACE[:1],
        Column("system", ("system",), numeric=False),
        Column("accuracy, %", interval_keys("accuracy_percent")),
        *(Column(COST_WORDS[key], (key,)) for key in COSTS),
    ]
    rows = [
        [
            text_cell(row["architecture"]),
            text_cell(row["system"]),
            interval_cell(row["accuracy"], factor=100, source="results/cost.csv"),
            *(_cost_cell(key, row["cost"][key]) for key in COSTS),
        ]
        for row in costed_systems(section)
    ]
    title = "Total cost of a system: training of all its networks, inference of all that it runs"
    return Table("fusion_cost", title, columns, rows)


def costed_systems(section: dict[str, Any]) -> list[dict[str, Any]]:
    """Systems whose cost is known, each once: `kind` is its key among WORDS."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for each in section["systems"]:
        for key, system in each["accuracies"].items():
            if system["cost"] is None or system["accuracy"] is None:
                continue
            own = each["entry"] if key == FUSED else ""
            name = f"fused, {each['fusion_type']}" if key == FUSED else WORDS[key]
            place = (each["architecture"], key, own)
            row = {"architecture": each["architecture"], "kind": key, "system": name}
            found.setdefault(place, row | {k: system[k] for k in ("accuracy", "cost")})
    return sorted(found.values(), key=lambda row: row["kind"] != FUSED)


def _cost_cell(key: str, value: float | None) -> Cell:
    write = {"device_seconds": duration_text, "peak_gb": "{:.2f}".format}.get(key, count_text)
    return number_cell(value, write, source="results/cost.csv")


def diversity_table(section: dict[str, Any]) -> Table:
    """A row per set of experts, before and after co-training; pairs are in diversity.csv."""
    columns = [
        *PLACE[:1],
        Column("experts", ("experts",), numeric=False),
        Column("disagreement, %", ("disagreement_percent",), note="mean over pairs of experts"),
        Column("Q", ("q",), note="Yule's Q of right and wrong, mean over pairs"),
        Column("correlation", ("correlation",), note="mean over pairs"),
        Column("double fault, %", ("double_fault_percent",), note="mean over pairs"),
        Column("any right, %", ("oracle_percent",), note="oracle of the whole set"),
        Column("ambiguity, nats", ("ambiguity",), note="mean NLL − NLL of the average of logits"),
        Column("CKA of features", ("cka",)),
    ]
    sets = [row for row in section["diversity"] if row["kind"] == "set"]
    return Table("fusion_diversity", "Diversity of the experts, means over seeds", columns,
                 [_diversity_row(row) for row in sets])  # fmt: skip


def _diversity_row(row: dict[str, Any]) -> list[Cell]:
    source = "results/diversity.csv"
    original = row["fusion_type"] == "none"
    name = "as trained" if original else f"co-trained with {row['fusion_type']}"

    def ratio(key: str) -> Cell:
        if row[key] is None:
            return Cell(NOT_DEFINED, (None,), f"{source}: {Q_UNDEFINED}")
        return number_cell(row[key], lambda x: f"{x:.2f}".replace("-", "−"), source=source)

    def share(key: str) -> Cell:
        return number_cell(row[key], percent_text, factor=100, source=source)

    ambiguity = (
        Cell(NOT_DEFINED, (None,), f"{source}: the experts do not know the same classes")
        if row["ambiguity"] is None
        else number_cell(row["ambiguity"], "{:.3f}".format, source=source)
    )
    return [
        text_cell(row["architecture"], source=source),
        text_cell(name, source=source),
        share("disagreement"),
        ratio("q"),
        ratio("correlation"),
        share("double_fault"),
        share("oracle"),
        ambiguity,
        Cell(NOT_MEASURED, (row["cka"],), f"{source}: features are not recorded"),
    ]


def calibration_table(section: dict[str, Any]) -> Table:
    measures = ("nll", "brier", "ece")
    columns = [
        Column("fusion", ("entry",), numeric=False),
        Column("system", ("system",), numeric=False),
        *(Column(name.upper() if name != "brier" else "Brier", (name,)) for name in measures),
        *(
            Column(f"{name.upper() if name != 'brier' else 'Brier'}, tempered", (f"{name}_scaled",))
            for name in measures
        ),
    ]
    keys = [*measures, *(f"{name}_scaled" for name in measures)]
    rows = [
        [
            text_cell(row["entry"]),
            text_cell(WORDS[row["system"]]),
            *(
                number_cell(row[k], "{:.3f}".format, source=f"{COMPARISON}: fusion, calibration")
                for k in keys
            ),
        ]
        for row in section["calibration"]
    ]
    title = "Calibration of fused systems and of averages; tempered = by the validation temperature"
    return Table("fusion_calibration", title, columns, rows)


def robustness_table(material: Material, section: dict[str, Any]) -> Table | None:
    """Accuracy under each kind of change, the mean over its levels; None with one condition."""
    found = section["robustness"]
    if found is None:
        return None
    kinds = _kinds(material, found["conditions"])
    columns = [
        entry_column(),
        *(Column(f"{kind}, %", (f"{kind}_percent",)) for kind in kinds),
        Column(
            "mean corruption error, %",
            ("mean_corruption_error",),
            note="relative to the full-data network of the same architecture; below 100 is better",
        ),
    ]
    rows = []
    for entry, accuracy in found["accuracy"].items():
        source = f"results/evaluation.csv: {entry}"
        error = found["mean_corruption_error"].get(entry)
        means = [sum(accuracy[c] for c in cells) / len(cells) for cells in kinds.values()]
        rows.append(
            [
                entry_cell(material, entry),
                *(number_cell(value, percent_text, factor=100, source=source) for value in means),
                Cell("–", (None,), source)
                if entry not in found["mean_corruption_error"]
                else number_cell(error, percent_text, source=source),
            ]
        )
    title = "Accuracy under noise and corruptions, means over levels"
    return Table("fusion_robustness", title, columns, rows)


def _kinds(material: Material, ids: Sequence[str]) -> dict[str, list[int]]:
    """Kind of change -> places of its conditions."""
    axes = {c["id"]: c["axes"] for c in material.comparison["conditions"]}
    kinds: dict[str, list[int]] = {}
    for place, name in enumerate(ids):
        kinds.setdefault(str(axes[name].get("corruption", name)), []).append(place)
    return kinds


def ood_table(material: Material, section: dict[str, Any]) -> Table | None:
    """How well each system tells images from elsewhere; None where no such set is named."""
    if not section["ood"]:
        return None
    columns = [
        entry_column(),
        Column("images", ("ood_dataset",), numeric=False),
        Column("score", ("score",), numeric=False),
        Column("AUROC, %", ("auroc_percent",)),
        Column("AUPR, %", ("aupr_percent",), note="images from elsewhere are the positives"),
        Column("false alarms at 95 % found, %", ("fpr95_percent",)),
        Column("detection accuracy, %", ("detection_accuracy_percent",)),
    ]
    rows = []
    for row in section["ood"]:
        source = f"results/ood.csv: {row['entry']}"
        keys = ("auroc", "aupr", "fpr95", "detection_accuracy")
        rows.append(
            [
                entry_cell(material, row["entry"]),
                text_cell(row["ood_dataset"], source=source),
                text_cell(row["score"], source=source),
                *(number_cell(row[key], percent_text, factor=100, source=source) for key in keys),
            ]
        )
    return Table("fusion_ood", "Are images from elsewhere noticed", columns, rows)
