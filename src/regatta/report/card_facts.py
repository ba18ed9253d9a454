"""The records that a model card is written from, and how its parts write numbers and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.report.numbers import percent_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, as_markdown
from regatta.report.words import Words, words_of


@dataclass(frozen=True)
class CardFacts:
    """The records that a card is written from; empty where a file is not there.

    `comparison` is results/comparison.json, or None with the reason in `no_results`.
    """

    folder_name: str
    study: Study
    spec: RunSpec
    choice: str
    """Why this seed, as the end of a sentence."""
    validation: Mapping[str, float | None]
    """Best validation accuracy of each trained run of the entry, as a fraction, by `run_name`."""
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    weights: Mapping[str, Any]
    """The key report of the first weights."""
    comparison: Mapping[str, Any] | None
    no_results: str = ""

    @property
    def words(self) -> Words:
        return words_of(self.study.data.source, self.data.get("notes", []))

    @property
    def window(self) -> tuple[int, int] | None:
        """(channels, points) of the windows that the model takes; None for clips."""
        saved = self.config.get("regatta", {}).get("window")
        return (int(saved[0]), int(saved[1])) if saved else None

    @property
    def is_library_model(self) -> bool:
        """Whether the transformers library has the class that config.json names."""
        return "image_processor_type" in self.processor


def run_name(spec: RunSpec) -> str:
    """A run among those of its entry: its seed, and its fold where there are folds."""
    return str(spec.seed) if spec.fold is None else f"{spec.seed}, fold {spec.fold}"


def percent(share: float | None) -> str:
    return NOT_MEASURED if share is None else percent_text(100 * share)


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, numeric: bool = True
) -> str:
    columns = [Column(heading, (), numeric=numeric and i > 0) for i, heading in enumerate(headings)]
    return as_markdown(Table("", "", columns, rows))
