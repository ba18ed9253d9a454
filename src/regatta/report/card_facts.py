"""The records that a model card is written from, and how its parts write numbers and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regatta.config.expand import RunSpec
from regatta.config.schema import IMPORTED, Study
from regatta.report.numbers import percent_text
from regatta.report.tables import NOT_MEASURED, Cell, Column, Table, as_markdown
from regatta.report.words import Words, corruption_words, perturbation_words, source_kind, words_of


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
        found = words_of(self.study.data.source, self.data.get("notes", []))
        by_class = (self.comparison or {}).get("study", {}).get("unit") == "class"
        return replace(found, group="class", groups="classes") if by_class else found

    @property
    def is_foreign(self) -> bool:
        """Whether every entry of the study was imported, so that nothing is known of its data."""
        return self.study.data.source == IMPORTED

    @property
    def window(self) -> tuple[int, int] | None:
        """(channels, points) of the windows that the model takes; None for clips."""
        saved = self.config.get("regatta", {}).get("window")
        return (int(saved[0]), int(saved[1])) if saved else None

    @property
    def is_signal(self) -> bool:
        return self.window is not None or source_kind(self.study.data.source) == "signal"

    @property
    def is_image(self) -> bool:
        """Whether the model takes single pictures."""
        return source_kind(self.study.data.source) == "image"

    @property
    def is_scene(self) -> bool:
        """Whether the model takes several cameras at once, and says places."""
        return source_kind(self.study.data.source) == "scene"

    @property
    def labels(self) -> list[str]:
        """Names of all classes, from the model where it is at hand."""
        named = self.config.get("id2label")
        if named:
            return [str(name) for name in named.values()]
        known = self.data.get("classes") or (self.comparison or {}).get("per_class", {})
        return [str(n) for n in (known.get("classes", []) if isinstance(known, dict) else known)]

    @property
    def entry_section(self) -> Mapping[str, Any]:
        """The entry in `comparison`, which must be there."""
        assert self.comparison is not None
        name = self.spec.entry.name
        return next(entry for entry in self.comparison["entries"] if entry["name"] == name)

    @property
    def is_library_model(self) -> bool:
        """Whether the transformers library has the class that config.json names."""
        return "image_processor_type" in self.processor


def run_name(spec: RunSpec) -> str:
    """A run among those of its entry: its seed, and its fold where there are folds."""
    return str(spec.seed) if spec.fold is None else f"{spec.seed}, fold {spec.fold}"


def percent(share: float | None) -> str:
    return NOT_MEASURED if share is None else percent_text(100 * share)


def condition_words(comparison: Mapping[str, Any], condition: str) -> str:
    """A condition in words, not escaped."""
    axes = next(c["axes"] for c in comparison["conditions"] if c["id"] == condition)
    if changed := perturbation_words(axes) or corruption_words(axes):
        return changed
    words = [f"{name} {value}{' %' if name == 'coverage' else ''}" for name, value in axes.items()]
    return ", ".join(words) or f"condition {condition}"


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, numeric: bool = True
) -> str:
    columns = [Column(heading, (), numeric=numeric and i > 0) for i, heading in enumerate(headings)]
    return as_markdown(Table("", "", columns, rows))
