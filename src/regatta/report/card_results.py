"""How good an exported model is, from results/comparison.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regatta.analysis.protocol_words import protocol_words
from regatta.records.predictions import Condition
from regatta.report.card_facts import CardFacts, markdown_table, percent
from regatta.report.tables import NOT_MEASURED, Cell, markdown_text, text_cell
from regatta.report.words import VIDEO, perturbation_words

WEAKEST_SHOWN = 3


def results(facts: CardFacts) -> Iterable[str]:
    comparison = facts.comparison
    if comparison is None:
        yield f"{NOT_MEASURED.capitalize()}: {facts.no_results}."
        return
    entry = _entry(facts)
    design, headline = comparison["provenance"], comparison["headline_condition"]
    seeds = len(entry["seeds"])
    mean = (
        f"the mean of {seeds} seeds" if seeds > 1 else "one seed, so training noise is not covered"
    )
    yield (
        f"Accuracy {_interval(entry['accuracy'], design)}; {mean}. Judged on "
        f"{design['n']} {facts.words.samples} of {design['groups']} {facts.words.groups} "
        f"{_judged_split(facts)}, at {_condition(comparison, headline)}."
    )
    own = entry["accuracy_by_seed"].get(str(facts.spec.seed))
    if seeds > 1 and own is not None:
        yield f"This seed alone: {percent(own)} % at the same condition."
    conditions = [
        Condition(c["id"], c["axes"], is_reference=c["is_reference"])
        for c in comparison["conditions"]
    ]
    signals = facts.words is not VIDEO
    yield protocol_words(facts.study.protocol, conditions, signals=signals)
    rows = [row for row in comparison["table"] if row["model"] == entry["name"]]
    if set(comparison["axes"]) == {"coverage", "stride"}:
        yield "Accuracy in % by share of the clip covered (rows) and stride in frames (columns):"
        yield _grid(rows)
    elif len(rows) > 1:
        yield _list(comparison, rows)


def _judged_split(facts: CardFacts) -> str:
    """Where the judged samples stand; with folds, that this model is one of several."""
    assert facts.comparison is not None
    if facts.spec.fold is None:
        return f"of the {facts.comparison['study']['split']} split"
    return (
        "over all folds, each judged by a model that had not seen it (this one is of fold "
        f"{facts.spec.fold})"
    )


def _entry(facts: CardFacts) -> Mapping[str, Any]:
    assert facts.comparison is not None
    name = facts.spec.entry.name
    return next(e for e in facts.comparison["entries"] if e["name"] == name)


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
    axes = next(c["axes"] for c in comparison["conditions"] if c["id"] == condition)
    if changed := perturbation_words(axes):
        return markdown_text(changed)
    words = [f"{name} {value}{' %' if name == 'coverage' else ''}" for name, value in axes.items()]
    return markdown_text(", ".join(words) or f"condition {condition}")


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
