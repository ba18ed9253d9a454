"""Files of the classification results: what every study with classes writes into results/."""

from __future__ import annotations

from typing import Any

from regatta.analysis.tables import csv_text, plain_line

CLASS_COLUMNS = ("precision", "recall", "f1", "support")


def class_files(section: dict[str, Any]) -> dict[str, str]:
    """File name -> text, from section `classification` of comparison.json."""
    if not section["entries"]:
        return {}
    return {
        "per_class.csv": per_class_csv(section),
        "confusion_matrix.csv": confusion_csv(section),
        "classification_report.txt": classification_report(section),
    }


def per_class_csv(section: dict[str, Any]) -> str:
    """One row per entry and class, with 3 digits; empty where a number is not defined."""
    rows = [
        [entry, row["class"], *(_rounded(row[key]) for key in CLASS_COLUMNS)]
        for entry, found in section["entries"].items()
        for row in found["per_class"]
    ]
    return csv_text(["entry", "class", *CLASS_COLUMNS], rows)


def confusion_csv(section: dict[str, Any]) -> str:
    """One row per entry, true class and predicted class: the shares of a true class sum to 1.

    Counts are those of all seeds together. A class without samples has empty shares.
    """
    rows = []
    for entry, found in section["entries"].items():
        for name, counts in zip(section["labels"], found["confusion"], strict=True):
            total = sum(counts)
            rows += [
                [entry, name, predicted, count / total if total else None, count]
                for predicted, count in zip(section["labels"], counts, strict=True)
            ]
    return csv_text(["entry", "class", "predicted", "share", "count"], rows)


def classification_report(section: dict[str, Any]) -> str:
    """A plain text table per entry: a line per class, then the numbers over all classes."""
    names = [plain_line(name) for name in section["labels"]]
    width = max(len("balanced accuracy"), *map(len, names))
    head = " ".join(f"{name:>10}" for name in CLASS_COLUMNS)
    blocks = []
    for entry, found in section["entries"].items():
        lines = [entry, "", f"{'class':<{width}} {head}"]
        for name, row in zip(names, found["per_class"], strict=True):
            cells = [_digits(row[key]) for key in CLASS_COLUMNS[:-1]] + [str(row["support"])]
            lines.append(f"{name:<{width}} " + " ".join(f"{cell:>10}" for cell in cells))
        support = sum(row["support"] for row in found["per_class"])
        lines.append("")
        for title in ("accuracy", "macro F1", "balanced accuracy"):
            value = _digits(found[title.lower().replace(" ", "_")])
            lines.append(f"{title:<{width}} {'':>10} {'':>10} {value:>10} {support:>10}")
        blocks.append("\n".join(lines))
    return "\n\n\n".join(blocks) + "\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _digits(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
