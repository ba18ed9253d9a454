"""A model card per entry in the report: the mean over its runs, with the hub's results head.

Made of the parts of the card of an exported model (card.py), which is of one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from regatta.core.errors import RecordError
from regatta.core.files import read_json, slug
from regatta.records.run_folder import RunFolder
from regatta.report import card
from regatta.report.card_facts import CardFacts, markdown_table, percent, run_name
from regatta.report.card_head import card_head
from regatta.report.card_results import results
from regatta.report.costs import cost_notes, costs_table
from regatta.report.ledger import budget_table
from regatta.report.material import Material, RunFacts
from regatta.report.tables import Cell, Table, markdown_text, text_cell


def card_path(entry: str) -> str:
    """Path of an entry's card below the report's folder."""
    return f"cards/{slug(entry)}.md"


def card_link(entry: str) -> str:
    """The same as an address relative to the page."""
    return quote(card_path(entry))


def entry_cards(material: Material) -> dict[str, str]:
    """The card of every compared entry as Markdown, by path below the report's folder."""
    found = [table for table in (costs_table(material), budget_table(material)) if table]
    return {card_path(entry): entry_card(material, entry, found) for entry in material.entries}


def entry_card(material: Material, entry: str, tables: Sequence[Table]) -> str:
    """One entry: what it is, its data, recipe, runs, results, costs, limits and licences."""
    facts = entry_facts(material, entry)
    imported = facts.spec.entry.is_imported
    parts = [
        card_head(facts, name=entry, of_one_run=False),
        f"# {markdown_text(entry)} on {markdown_text(facts.study.data.source)}",
        _imported_words(facts) if imported else card.what(facts),
        "## Data",
        *([card.classes_sentence(facts)] if facts.is_foreign else card.data(facts)),
        *([] if imported else ["## Recipe", card.settings_table(facts)]),
        "## Runs",
        *_runs(material, facts),
        "## Results",
        *results(facts, of_one_run=False),
        "## Cost",
        *_costs(material, entry, tables),
        "## Intended use and limits",
        *card.limits(facts),
        "## Licences",
        *card.licences(facts),
        *([] if imported else ["## The model", _how_to_export(facts)]),
    ]
    return card.join_parts(parts)


def entry_facts(material: Material, entry: str) -> CardFacts:
    """What the records say of an entry; of its runs the first stands for all."""
    runs = material.runs_of(entry)
    first = runs[0]
    folder = material.folder.run(first.spec.run_id)
    return CardFacts(
        folder_name=entry,
        study=material.study,
        spec=first.spec,
        choice="",
        validation={run_name(r.spec): r.results.get("best_val_accuracy") for r in runs},
        config=_config(folder, first),
        processor=_record(folder, "preprocessor_config.json"),
        training={},
        data=material.comparison["data"],
        weights=read_json(folder.weights) if folder.weights.is_file() else {},
        comparison=material.comparison,
    )


def _config(folder: RunFolder, run: RunFacts) -> dict[str, Any]:
    """The model's own settings, or what its judging recorded where the weights were not copied."""
    found = _record(folder, "config.json")
    judged = run.judging.get("fingerprint", {})
    return found or {"regatta": {key: judged.get(key) for key in ("frames", "image_size")}}


def _record(folder: RunFolder, name: str) -> dict[str, Any]:
    path = folder.model / name
    try:
        found = read_json(path) if path.is_file() else {}
    except RecordError:
        # The report is made of results; a damaged model folder is the export's to refuse.
        return {}
    return found if isinstance(found, dict) else {}


def _imported_words(facts: CardFacts) -> str:
    return (
        "Predictions that were made elsewhere and imported into the Regatta study "
        f"{markdown_text(facts.study.name)}. Regatta neither trained nor judged this model: what "
        "it is, how it was trained and how it was judged is known to its author alone."
    )


def _runs(material: Material, facts: CardFacts) -> Iterable[str]:
    runs, section = material.runs_of(facts.spec.entry.name), facts.entry_section
    seeds = len(section["seeds"])
    mean = f"the mean of {seeds} seeds" if seeds > 1 else "of one seed"
    yield f"Results below are {mean}; the runs behind them:"
    by_seed = section["accuracy_by_seed"]
    rows = []
    for run in runs:
        validation = run.results.get("best_val_accuracy")
        judged = by_seed.get(str(run.spec.seed))
        rows.append(
            [
                text_cell(run.spec.run_id),
                text_cell(run_name(run.spec)),
                Cell(percent(validation), (validation,)),
                Cell(percent(judged), (judged,)),
            ]
        )
    headings = ["run", "seed", "best validation accuracy, %", "accuracy of the seed, %"]
    yield markdown_table(headings, rows)


def _costs(material: Material, entry: str, tables: Sequence[Table]) -> Iterable[str]:
    """The entry's row of the tables of costs and budget, turned upright."""
    rows: dict[str, Cell] = {}
    for table in tables:
        rows |= _row_of(table, entry)
    lines = [[text_cell(heading), cell] for heading, cell in rows.items()]
    yield markdown_table(["cost, mean of the runs", "value"], lines)
    yield from (markdown_text(note) for note in cost_notes(material))


def _row_of(table: Table, entry: str) -> dict[str, Cell]:
    """Heading -> cell of the row that begins with the entry's name."""
    row = next(row for row in table.rows if row[0].values[0] == entry)
    return {column.heading: cell for column, cell in list(zip(table.columns, row, strict=True))[1:]}


def _how_to_export(facts: CardFacts) -> str:
    return (
        "This card lies in a report, without weights. "
        f"`regatta export {facts.study.name} --entry {facts.spec.entry.name}` writes the trained "
        "model as a folder that others can load, with a card of that one run."
    )
