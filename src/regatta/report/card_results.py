"""How good an exported model is, from results/comparison.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regatta.analysis.protocol_words import protocol_words
from regatta.records.conditions import Condition
from regatta.report.card_facts import CardFacts, condition_words, markdown_table, percent
from regatta.report.tables import NOT_MEASURED, Cell, markdown_text, text_cell

WEAKEST_SHOWN = 3


def results(facts: CardFacts, *, of_one_run: bool = True) -> Iterable[str]:
    """Paragraphs and a table.

    Args:
        of_one_run: the card is of `facts.spec`, not of all runs of its entry.
    """
    comparison = facts.comparison
    if comparison is None:
        yield f"{NOT_MEASURED.capitalize()}: {facts.no_results}."
        return
    entry = facts.entry_section
    design, headline = comparison["provenance"], comparison["headline_condition"]
    seeds = len(entry["seeds"])
    mean = (
        f"the mean of {seeds} seeds" if seeds > 1 else "one seed, so training noise is not covered"
    )
    yield (
        f"Accuracy {_interval(entry['accuracy'], design)}; {mean}. Judged on "
        f"{design['n']} {facts.words.samples} of {design['groups']} {facts.words.groups} "
        f"{_judged_split(facts, of_one_run=of_one_run)}, at {_condition(comparison, headline)}."
    )
    own = entry["accuracy_by_seed"].get(str(facts.spec.seed))
    if of_one_run and seeds > 1 and own is not None:
        yield f"This seed alone: {percent(own)} % at the same condition."
    conditions = [
        Condition(c["id"], c["axes"], is_reference=c["is_reference"])
        for c in comparison["conditions"]
    ]
    if not facts.is_foreign:
        yield protocol_words(facts.study.protocol, conditions, signals=facts.is_signal)
    rows = [row for row in comparison["table"] if row["model"] == entry["name"]]
    if set(comparison["axes"]) == {"coverage", "stride"}:
        yield "Accuracy in % by share of the clip covered (rows) and stride in frames (columns):"
        yield _grid(rows)
    elif len(rows) > 1:
        yield _list(comparison, rows)


def _judged_split(facts: CardFacts, *, of_one_run: bool) -> str:
    """Where the judged samples stand; with folds, that this model is one of several."""
    assert facts.comparison is not None
    if facts.is_foreign:
        return "that were imported"
    if facts.spec.fold is None:
        return f"of the {facts.comparison['study']['split']} split"
    own = f" (this one is of fold {facts.spec.fold})" if of_one_run else ""
    return f"over all folds, each judged by a model that had not seen it{own}"


def weakest_classes(facts: CardFacts) -> str:
    if facts.comparison is None:
        return ""
    comparison, section = facts.comparison, facts.comparison["per_class"]
    ids = [condition["id"] for condition in comparison["conditions"]]
    row = section["accuracy"][facts.spec.entry.name][ids.index(comparison["headline_condition"])]
    known = sorted(
        (value, name)
        for value, name in zip(row, section["classes"], strict=True)
        if value is not None
    )
    return ", ".join(
        f"{markdown_text(name)} ({percent(value)} %)" for value, name in known[:WEAKEST_SHOWN]
    )


def _grid(rows: Sequence[Mapping[str, Any]]) -> str:
    strides = sorted({row["stride"] for row in rows})
    coverages = sorted({row["coverage"] for row in rows}, reverse=True)
    found = {(row["coverage"], row["stride"]): row["accuracy"] for row in rows}
    table = [
        [text_cell(f"{coverage:g} %")]
        + [Cell(percent(found.get((coverage, stride))), ()) for stride in strides]
        for coverage in coverages
    ]
    return markdown_table(["coverage", *(f"stride {stride:g}" for stride in strides)], table)


def _list(comparison: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    table = []
    for row in rows:
        ends = {
            "estimate": row["accuracy"],
            "low": row["accuracy_low"],
            "high": row["accuracy_high"],
        }
        name = _condition(comparison, row["condition"])
        table.append([text_cell(name), Cell(_range(ends), ())])
    return markdown_table(["condition", "accuracy, %"], table)


def _condition(comparison: Mapping[str, Any], condition: str) -> str:
    return markdown_text(condition_words(comparison, condition))


def _interval(interval: Mapping[str, Any], design: Mapping[str, Any]) -> str:
    level = f"{100 * design['confidence']:g} % interval"
    if interval["low"] is None or interval["high"] is None:
        return f"{percent(interval['estimate'])} % (no interval: {interval['note']})"
    return f"{percent(interval['estimate'])} %, {level} {_range(interval, value=False)}"


def _range(interval: Mapping[str, Any], *, value: bool = True) -> str:
    ends = ""
    if interval["low"] is not None and interval["high"] is not None:
        ends = f"[{percent(interval['low'])}, {percent(interval['high'])}]"
    return f"{percent(interval['estimate'])} {ends}".strip() if value else ends
