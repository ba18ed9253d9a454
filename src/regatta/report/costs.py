"""What entries cost: columns of the main table, and a table of every cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from regatta.analysis.budget import ENERGY_COVERS
from regatta.report.material import Material
from regatta.report.numbers import count_text, duration_text, energy_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, number_cell
from regatta.report.training import epoch_series

ResultCell = Callable[[dict[str, Any], dict[str, Any]], Cell]
"""(entry section of the comparison, its place in the ranking) -> cell."""
MOST_RUNS_NAMED = 5

RunCost = Callable[[dict[str, Any]], float | None]
"""training_results.json -> a cost; None = not measured."""


def mean_cost(material: Material, entry: str, cost: RunCost) -> float | None:
    """Mean over the entry's runs; None as soon as one was not measured."""
    values = [cost(run.results) for run in material.runs_of(entry)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


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
    """Every cost of an entry; of windows it also tells a frozen encoder, whose features are kept,
    from one that runs in every epoch. None where nothing was measured of any entry."""
    parts = [*cost_columns(material), *_more_columns(material)]
    if material.is_signal:
        parts += _epoch_columns(material)
    entries = material.comparison["entries"]
    rows = [[cell(entry, {}) for _, cell in parts] for entry in entries]
    if all(cell.is_missing for row in rows for cell in row):
        return None
    one = "seed, all its folds together" if material.folds else "run"
    epochs = "; epochs are those of one run" if material.is_signal else ""
    return Table(
        "costs",
        f"Cost of one {one}, mean of the entry's{epochs}",
        [Column("entry", ("entry",), numeric=False), *(column for column, _ in parts)],
        [[_entry_cell(material, e), *row] for e, row in zip(entries, rows, strict=True)],
    )


def cost_notes(material: Material) -> list[str]:
    """What the energies of the table cover, as sentences; empty where none was measured."""
    found = {entry["cost"]["energy_source"]: None for entry in material.comparison["entries"]}
    return [
        f"Energy by the counter of the {source} covers {ENERGY_COVERS[source]}."
        for source in found
        if source in ENERGY_COVERS
    ]


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


def _more_columns(material: Material) -> list[tuple[Column, ResultCell]]:
    """The costs that the main table has no room for."""
    words, count = material.words, len(material.comparison["conditions"])
    every = f"all {count} conditions" if count > 1 else "one condition"
    return [
        (
            Column(words.operations, (_operations_key(material),), note="counted, forward"),
            _counted("flops_per_clip", count_text, factor=words.operations_per_flop),
        ),
        (
            Column(
                "device time",
                ("device_seconds",),
                note="training time x devices; a device that runs share counts whole for each",
            ),
            _counted("device_seconds", duration_text),
        ),
        (
            Column(f"judging per sample, {every}", ("judging_seconds_per_sample",)),
            _counted("judging_seconds_per_sample", duration_text),
        ),
        (
            Column("peak memory", ("peak_memory_gib",), note="in training, largest of the runs"),
            _counted("peak_memory_gib", "{:.3g} GiB".format),
        ),
        (
            Column("training energy", ("energy_joules", "energy_source")),
            _energy_cell,
        ),
    ]


def _operations_key(material: Material) -> str:
    return "macs_per_window" if material.is_signal else "flops_per_clip"


def _counted(key: str, write: Callable[[float], str], *, factor: float = 1.0) -> ResultCell:
    """A cost as the comparison has it."""
    return lambda entry, _: number_cell(
        entry["cost"][key], write, factor=factor, source=training_source(entry)
    )


def _energy_cell(entry: dict[str, Any], _: dict[str, Any]) -> Cell:
    joules, covers = (entry["cost"][key] for key in ("energy_joules", "energy_source"))
    if joules is None:
        return Cell(NOT_MEASURED, (None, None), training_source(entry))
    return Cell(f"{energy_text(joules)} ({covers})", (joules, covers), training_source(entry))


def _epoch_columns(material: Material) -> list[tuple[Column, ResultCell]]:
    def seconds(cost: RunCost) -> ResultCell:
        return lambda entry, _: number_cell(
            mean_cost(material, entry["name"], cost), duration_text, source=training_source(entry)
        )

    return [
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
