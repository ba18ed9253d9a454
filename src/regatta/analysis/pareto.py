"""Which entries no other beats at once in accuracy and in a cost: the accuracy-cost front.

Shapes: E entries, R replicates.

An entry is beaten by another that is at least as accurate and costs no more, and is better in one
of the two (Pareto dominance). Entries that are equal in both do not beat each other. Costs are
taken as known: only the accuracy of a replicate varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.budget import entry_cost
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.tables import csv_text


@dataclass(frozen=True)
class CostAxis:
    """One cost: its key in the cost of an entry, in words, and its unit.

    device: key of the device that a measured cost depends on; "" for a counted one.
    """

    key: str
    words: str
    unit: str = ""
    device: str = ""


AXES = (
    CostAxis("parameters", "parameters"),
    CostAxis("flops_per_clip", "forward operations", "FLOPs"),
    CostAxis("train_seconds", "training time", "s", "device"),
    CostAxis("judging_seconds_per_sample", "judging time per sample", "s", "judging_device"),
    CostAxis("energy_joules", "training energy", "J", "energy_source"),
)
MOST_NAMED = 3
PAIRS_AT_ONCE = 2_000_000
"""Replicates x pairs that are compared together; it bounds memory."""
METHOD = (
    "an entry is on the front when no other is at least as accurate and costs no more, being "
    "better in one of the two; chances are shares of the bootstrap replicates of accuracy, costs "
    "are taken as known"
)


def pareto_section(judged: JudgedStudy, bootstrap: Bootstrap, headline: int) -> dict[str, Any]:
    """Section `pareto` of comparison.json: one front per cost at the headline condition."""
    accuracy_E = bootstrap.observed[:, headline]
    replicates_RE = bootstrap.replicates[:, :, headline]
    costs = [entry_cost(judged.runs_of(entry)) for entry in judged.entries]
    intervals = bootstrap_intervals(bootstrap, headline)
    axes = [
        _axis(axis, judged.entries, accuracy_E, replicates_RE, costs, intervals) for axis in AXES
    ]
    return {
        "condition": judged.conditions[headline].id,
        "axes": axes,
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "seeds": list(bootstrap.seeds),
        "replicates": len(bootstrap.replicates),
        "method": METHOD,
        "sentence": _overall(axes, judged.entries),
    }


def bootstrap_intervals(bootstrap: Bootstrap, headline: int) -> list[dict[str, Any]]:
    """Interval of every entry's accuracy at one condition."""
    return [
        bootstrap.interval(
            lambda a, e=entry: a[..., e, headline], entries=[entry], collapse="share"
        ).as_dict()
        for entry in range(len(bootstrap.seeds))
    ]


def beaten(accuracy: np.ndarray, cost_E: np.ndarray) -> np.ndarray:
    """Who beats whom, bool [..., E, E]: entry i is beaten by entry j.

    Args:
        accuracy: [..., E]. cost_E: finite.
    """
    # Means over seeds may differ in the last bit; equal accuracies must tie.
    rounded = np.round(accuracy, 12)
    own, other = rounded[..., :, None], rounded[..., None, :]
    cheaper, equal = cost_E[None, :] < cost_E[:, None], cost_E[None, :] == cost_E[:, None]
    return ((other >= own) & cheaper) | ((other > own) & equal)


def front_chances(replicates_RE: np.ndarray, cost_E: np.ndarray) -> np.ndarray:
    """Share of replicates in which each entry is on the front, [E]."""
    pairs = replicates_RE.size * len(cost_E)
    blocks = np.array_split(replicates_RE, max(1, pairs // PAIRS_AT_ONCE))
    on_front = [~beaten(block, cost_E).any(axis=-1) for block in blocks]
    return np.concatenate(on_front).mean(axis=0)


def _axis(
    axis: CostAxis,
    names: Sequence[str],
    accuracy_E: np.ndarray,
    replicates_RE: np.ndarray,
    costs: Sequence[dict[str, Any]],
    intervals: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    known = [e for e in range(len(names)) if costs[e].get(axis.key) is not None]
    devices = {_kind(costs[e].get(axis.device)) for e in known} if axis.device else set()
    # A joule of a GPU board and one of a CPU package do not cover the same.
    if axis.key == "energy_joules" and len(devices) > 1:
        known = []
    cost_E = np.array([float(costs[e][axis.key]) for e in known])
    losses = beaten(accuracy_E[known], cost_E)
    chances = front_chances(replicates_RE[:, known], cost_E) if len(replicates_RE) else None
    rows = [
        {
            "entry": names[e],
            "cost": cost_E[place],
            "accuracy": intervals[e],
            "on_front": not losses[place].any(),
            "probability_on_front": None if chances is None else chances[place],
            "beaten_by": [names[known[other]] for other in np.flatnonzero(losses[place])],
        }
        for place, e in enumerate(known)
    ]
    ordered = sorted(rows, key=lambda row: (row["cost"], -row["accuracy"]["estimate"]))
    found = {
        "cost": axis.key,
        "words": axis.words,
        "unit": axis.unit,
        "front": [row["entry"] for row in ordered if row["on_front"]],
        "entries": rows,
        "not_measured": [name for e, name in enumerate(names) if e not in known],
        "note": _note(devices),
    }
    return {**found, "sentence": _sentence(found)}


def _kind(device: object) -> str:
    """A device without its number: two GPUs of a machine are taken as alike."""
    return str(device).partition(":")[0]


def _note(devices: set[str]) -> str | None:
    if len(devices) < 2:
        return None
    return f"measured on different devices ({', '.join(sorted(devices))}), which limits comparison"


def _sentence(axis: dict[str, Any]) -> str:
    words, rows = axis["words"], axis["entries"]
    if not rows:
        lacking = "measured by different counters" if axis["note"] else "not measured"
        return f"{words}: {lacking}, so there is no front"
    if len(rows) == 1:
        return f"{words}: known of {rows[0]['entry']} alone, so there is nothing to weigh"
    said = f"by {words}, {_listed(axis['front'])} on the front"
    losers = [
        f"{row['entry']} is beaten by {few(row['beaten_by'])}"
        for row in rows
        if not row["on_front"]
    ]
    return "; ".join([said, *losers])


def _overall(axes: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Who is on every front; empty costs are left out."""
    weighed = [axis for axis in axes if len(axis["entries"]) > 1]
    if not weighed:
        return "no cost is known of two entries, so none can be weighed against accuracy"
    costs = ", ".join(axis["words"] for axis in weighed)
    always = [name for name in names if all(name in axis["front"] for axis in weighed)]
    if not always:
        return f"no entry is on the front of every cost ({costs})"
    return f"{_listed(always)} on the front of every cost that was measured ({costs})"


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    if len(names) <= MOST_NAMED:
        return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])
    return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{', '.join(names[:-1])} and {names[-1]} are"


def pareto_files(section: dict[str, Any]) -> dict[str, str]:
    """`pareto.csv`: one row per cost and entry; an entry without that cost has an empty row."""
    header = ["cost", "unit", "entry", "value", "accuracy", "accuracy_low", "accuracy_high"]
    header += ["on_front", "probability_on_front", "beaten_by"]
    rows: list[list[Any]] = []
    for axis in section["axes"]:
        place = [axis["cost"], axis["unit"]]
        rows += [
            [
                *place,
                row["entry"],
                row["cost"],
                *(row["accuracy"][key] for key in ("estimate", "low", "high")),
                row["on_front"],
                row["probability_on_front"],
                row["beaten_by"],
            ]
            for row in axis["entries"]
        ]
        rows += [[*place, name, *[None] * 7] for name in axis["not_measured"]]
    return {"pareto.csv": csv_text(header, rows)}
