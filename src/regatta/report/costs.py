"""What entries cost: columns of the main table, from the comparison and the records of the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from regatta.report.material import Material
from regatta.report.numbers import count_text, duration_text
from regatta.report.tables import Cell, Column, Table, number_cell
from regatta.report.training import epoch_series

ResultCell = Callable[[dict[str, Any], dict[str, Any]], Cell]
"""(entry section of the comparison, its place in the ranking) -> cell."""
MOST_RUNS_NAMED = 5

RunCost = Callable[[dict[str, Any]], float | None]
"""training_results.json -> a cost; None = not measured."""


def mean_cost(
    material: Material, entry: str, cost: RunCost, *, folds_add: bool = False
) -> float | None:
    """Mean over the entry's runs; None as soon as one was not measured.

    Args:
        folds_add: the mean over seeds of what all folds of a seed cost together.
    """
    runs = material.runs_of(entry)
    values = [cost(run.results) for run in runs]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return sum(known) / (len({run.spec.seed for run in runs}) if folds_add else len(known))


def device_seconds(results: dict[str, Any]) -> float | None:
    """Training time times the devices that were busy with it."""
    seconds = results.get("train_seconds")
    return None if seconds is None else float(seconds) * max(_devices(results), 1)


def _devices(results: dict[str, Any]) -> int:
    world = (results.get("config") or {}).get("world") or results.get("processes") or 1
    return int(world)


def first_epoch_seconds(results: dict[str, Any]) -> float | None:
    """Of the first epoch, which with a frozen encoder holds the only encoder pass."""
    seconds = _epoch_seconds(results)
    return seconds[0] if seconds else None


def later_epoch_seconds(results: dict[str, Any]) -> float | None:
    """Mean of all epochs after the first."""
    later = _epoch_seconds(results)[1:]
    return sum(later) / len(later) if later else None


def _epoch_seconds(results: dict[str, Any]) -> Sequence[float]:
    return epoch_series(results, "epoch_times")[1].tolist()


def costs_table(material: Material) -> Table | None:
    """What an entry over windows costs; it tells a frozen encoder, whose features are kept, from
    one that runs in every epoch. None for videos, whose costs stand in the main table."""
    if not material.is_signal:
        return None
    parts = [
        (Column("entry", ("entry",), numeric=False), lambda entry, _: _entry_cell(material, entry)),
        *cost_columns(material),
        *_window_columns(material),
    ]
    rows = [[cell(entry, {}) for _, cell in parts] for entry in material.comparison["entries"]]
    one = "seed, all its folds together" if material.folds else "run"
    title = f"Cost of one {one}, mean of the entry's; epochs are those of one run"
    return Table("costs", title, [column for column, _ in parts], rows)


def _entry_cell(material: Material, entry: dict[str, Any]) -> Cell:
    return Cell(entry["name"], (entry["name"],), position=material.positions[entry["name"]])


def training_source(entry: dict[str, Any]) -> str:
    """The files that an entry's costs stand in; of many runs their number."""
    runs = entry["runs"]
    named = ", ".join(runs) if len(runs) <= MOST_RUNS_NAMED else f"its {len(runs)} runs"
    return f"training_results.json of {named}"


def cost_columns(material: Material) -> list[tuple[Column, ResultCell]]:
    """Columns that every study has, with what fills them."""
    return [
        (
            Column("parameters", ("parameters",)),
            lambda entry, _: number_cell(
                entry["cost"]["parameters"], count_text, source=training_source(entry)
            ),
        ),
        (
            Column("training time", ("train_seconds",), note="mean of the entry's runs"),
            lambda entry, _: number_cell(
                entry["cost"]["train_seconds"], duration_text, source=training_source(entry)
            ),
        ),
        (
            Column(
                f"judging, ms per {material.words.sample}",
                (f"judge_ms_per_{material.words.sample}",),
                note="prepare and forward" if material.is_signal else "decode, prepare, forward",
            ),
            lambda entry, _: number_cell(
                material.ms_per_clip(entry["name"]),
                "{:.3g}".format,
                source=training_source(entry).replace("training_results", "complete"),
            ),
        ),
    ]


def _window_columns(material: Material) -> list[tuple[Column, ResultCell]]:
    def seconds(cost: RunCost, *, folds_add: bool = False) -> ResultCell:
        return lambda entry, _: number_cell(
            mean_cost(material, entry["name"], cost, folds_add=folds_add),
            duration_text,
            source=training_source(entry),
        )

    words = material.words
    return [
        (
            Column(words.operations, ("macs_per_window",), note="multiply-adds, forward"),
            lambda entry, _: number_cell(
                entry["cost"]["flops_per_clip"],
                count_text,
                factor=words.operations_per_flop,
                source=training_source(entry),
            ),
        ),
        (
            Column("device time", ("device_seconds",), note="training time x devices"),
            seconds(device_seconds, folds_add=True),
        ),
        (
            Column(
                "first epoch",
                ("first_epoch_seconds",),
                note="holds the encoder pass where features are kept",
            ),
            seconds(first_epoch_seconds),
        ),
        (
            Column("later epochs", ("later_epoch_seconds",), note="mean of the others"),
            seconds(later_epoch_seconds),
        ),
    ]
