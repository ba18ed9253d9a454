"""The table of cells: one row per entry and condition, with what the model really saw beside it.

Shapes: S seeds, C conditions, N samples, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from regatta.analysis.bootstrap import Bootstrap, tally_by_group
from regatta.analysis.budget import judging_seconds, mean_of
from regatta.analysis.judged import JudgedStudy


def axis_names(judged: JudgedStudy) -> list[str]:
    """What varies between conditions, coverage before stride; empty when nothing does."""
    names = dict.fromkeys(name for c in judged.conditions for name in c.axes)
    return sorted(names)


def result_rows(judged: JudgedStudy, bootstrap: Bootstrap, position: int) -> list[dict[str, Any]]:
    """One row per condition of the entry at `position`, in the order of the protocol.

    With several seeds accuracy, correct, top5 and elapsed_time are means over seeds, so that
    accuracy = correct / n_samples holds; `seeds` says how many. elapsed_time is the judging time
    divided evenly over conditions (they share one decode), None when it was not measured.
    """
    entry = judged.entries[position]
    runs = judged.runs_of(entry)
    first, cells = runs[0], len(judged.conditions)
    intervals = bootstrap.intervals(
        lambda a: a[..., position, :], entries=[position], collapse="share"
    )
    seconds = mean_of([judging_seconds(run) for run in runs])
    correct = np.mean([run.correct.sum(axis=1) for run in runs], axis=0)
    top5 = [run.top5 for run in runs if run.top5 is not None]
    rows = []
    for c, condition in enumerate(judged.conditions):
        rows.append(
            {
                "model": entry,
                "condition": condition.id,
                **{name: condition.axes.get(name) for name in axis_names(judged)},
                "accuracy": float(bootstrap.observed[position, c]),
                "n_samples": bootstrap.samples,
                "elapsed_time": None if seconds is None else seconds / cells,
                "correct": float(correct[c]) if correct[c] % 1 else int(correct[c]),
                "top5": float(np.mean([share[c] for share in top5])) if top5 else None,
                **{name: _known(values[c]) for name, values in first.truth.items()},
                "identical_to": [judged.conditions[i].id for i in first.identical[c]],
                "accuracy_low": intervals[c].low,
                "accuracy_high": intervals[c].high,
                "interval_method": intervals[c].method,
                "still_share": float(first.still_share[c]),
                "ceiling": first.ceiling.get(condition.id),
                "seeds": len(runs),
            }
        )
    return rows


def class_counts(judged: JudgedStudy) -> np.ndarray:
    """Judged samples per class, int [K]."""
    return np.bincount(judged.labels, minlength=len(judged.classes))


def class_accuracy(judged: JudgedStudy, entry: str) -> np.ndarray:
    """Accuracy per class averaged over seeds, [C, K]; NaN for a class without judged samples."""
    runs = judged.runs_of(entry)
    right_CN = np.sum([run.correct for run in runs], axis=0)
    sums, sizes = tally_by_group(right_CN[None], judged.labels)
    accuracy = np.full((len(judged.conditions), len(judged.classes)), np.nan)
    present = sizes > 0
    accuracy[:, np.flatnonzero(present)] = sums[0].T / (len(runs) * sizes[present])
    return accuracy


def class_table(judged: JudgedStudy, accuracy: np.ndarray) -> pd.DataFrame:
    """Long form of `accuracy` [C, K] of a coverage x stride grid, without absent classes."""
    counts = class_counts(judged)
    present = np.flatnonzero(counts)
    cells = len(judged.conditions)
    return pd.DataFrame(
        {
            "class": np.tile(np.array(judged.classes, dtype=object)[present], cells),
            "coverage": np.repeat([c.axes["coverage"] for c in judged.conditions], len(present)),
            "stride": np.repeat([c.axes["stride"] for c in judged.conditions], len(present)),
            "accuracy": accuracy[:, present].reshape(-1),
            "n_samples": np.tile(counts[present], cells),
        }
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
