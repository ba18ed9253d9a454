"""CSV text and the result tables of a study. Names and first columns of the files are fixed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from regatta.core.csv_text import csv_cell, csv_text

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

RESULT_COLUMNS = (
    "accuracy",
    "n_samples",
    "elapsed_time",
    "correct",
    "top5",
    "distinct_frames",
    "span_seconds",
    "rate_hz",
    "pad_share",
    "identical_to",
    "accuracy_low",
    "accuracy_high",
    "interval_method",
    "still_share",
    "ceiling",
    "seeds",
    "condition",
)
PAIRWISE_HEADER = (
    "Comparison",
    "Mean Diff",
    "t-statistic",
    "p-value",
    "Bonferroni Sig",
    "Cohen's d",
    "p-value Bonferroni",
)
SUMMARY_HEADER = ("Coverage", "N", "Mean", "Std", "Min", "Max", "95% CI low", "95% CI high")


def plain_line(text: str) -> str:
    """`text` on one line, without characters that steer a terminal or reverse the reading order."""
    return UNPRINTABLE.sub("\ufffd", " ".join(text.split()))


def with_column(text: str, name: str, value: str) -> str:
    """CSV text with one more column, the same in every row; as it is where it has the column."""
    header, *rows = csv.reader(io.StringIO(text))
    if name in header:
        return text
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*header, csv_cell(name)])
    writer.writerows([*row, csv_cell(value)] for row in rows)
    return buffer.getvalue()


def results_csv(rows: list[dict[str, Any]], axes: Sequence[str]) -> str:
    """`results_<entry>.csv`: model, the protocol's axes (or the condition), then RESULT_COLUMNS."""
    header = ["model", *(axes or ["condition"])]
    header += [name for name in RESULT_COLUMNS if name not in header]
    return csv_text(header, ([row[name] for name in header] for row in rows))


def per_class_csv(
    classes: list[str],
    accuracy: list[list[float | None]],
    counts: list[int],
    conditions: list[dict[str, Any]],
    axes: Sequence[str],
) -> str:
    """`per_class_<entry>.csv`: one row per condition and class that has judged samples.

    Args:
        accuracy: [C][K], None where a class has no sample. counts: [K].
        conditions: [C] with id and axes.
    """
    names = list(axes or ["condition"])
    rows = []
    for condition, values in zip(conditions, accuracy, strict=True):
        place = [condition["axes"][name] for name in axes] if axes else [condition["id"]]
        for name, value, count in zip(classes, values, counts, strict=True):
            if value is not None:
                rows.append([name, *place, value, count])
    return csv_text(["class", *names, "accuracy", "n_samples"], rows)


def pairwise_csv(rows: list[dict[str, Any]]) -> str:
    """`pairwise_coverage_comparisons.csv`, with the published marks: *** or ns."""
    marks = {True: "***", False: "ns", None: "undefined"}
    keys = ("comparison", "mean_difference", "t_statistic", "p_value")
    return csv_text(
        PAIRWISE_HEADER,
        (
            [
                *(row[key] for key in keys),
                marks[row["significant"]],
                row["cohens_d"],
                row["p_bonferroni"],
            ]
            for row in rows
        ),
    )


def summary_csv(rows: list[dict[str, Any]]) -> str:
    """`summary_statistics_by_coverage.csv`: class accuracies at the chosen stride."""
    keys = ("coverage", "n", "mean", "sd", "min", "max", "low", "high")
    return csv_text(SUMMARY_HEADER, ([row[key] for key in keys] for row in rows))


def drops_csv(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """`per_class_drop.csv`: accuracy at two coverages averaged over strides, largest drop first."""
    header = ["class", f"acc_{settings['coverage']:g}", f"acc_{settings['low_coverage']:g}", "drop"]
    ordered = sorted(rows, key=lambda row: (-row["drop"], row["class"]))
    return csv_text(header, ([row[k] for k in ("class", "high", "low", "drop")] for row in ordered))


CONTRAST_COLUMNS = ("entry", "contrast", "first", "second")
ENDS = ("estimate", "low", "high")


def contrasts_csv(rows: list[dict[str, Any]]) -> str:
    """`contrasts.csv`: one row per contrast of two conditions within an entry, in points.

    Loss and recovered share are given for the protocol `antialias` only.
    """
    header = [*CONTRAST_COLUMNS, "difference_points", "low", "high", "p_value", "p_adjusted"]
    header += ["verdict", "reading", "loss_points", "loss_low", "loss_high"]
    header += ["recovered_share", "share_low", "share_high"]
    header += ["ceiling_first", "ceiling_second", "sentence"]
    return csv_text(header, map(_contrast_row, rows))


def _contrast_row(row: dict[str, Any]) -> list[Any]:
    loss, share = row.get("loss_points") or {}, row.get("recovered_share") or {}
    return [
        *(row[key] for key in CONTRAST_COLUMNS),
        *(row["difference_points"][end] for end in ENDS),
        *(row[key] for key in ("p_value", "p_adjusted", "verdict", "reading")),
        *(loss.get(end) for end in ENDS),
        *(share.get(end) for end in ENDS),
        *(row[key] for key in ("ceiling_first", "ceiling_second", "sentence")),
    ]


def motion_csv(rows: list[dict[str, Any]], entries: Sequence[str]) -> str:
    """`motion_spectra.csv`: what a class's motion needs beside what each entry needed, in Hz."""
    names = ("class", "samples", "dominant_hz", "f95_hz", "nyquist_needed_hz")
    header = [*names, *(f"critical_rate_{entry}" for entry in entries)]
    return csv_text(
        header,
        (
            [*(row[key] for key in names), *(row["critical_rate_hz"].get(e) for e in entries)]
            for row in rows
        ),
    )
