"""The README of an exported model: what it is, what it was made from, how good, and how to load it.

Everything stands in the run's own records; what is not there is called "not measured".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from regatta.analysis.protocol_words import protocol_words
from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.records.predictions import Condition
from regatta.report.numbers import count_text, duration_text, percent_text
from regatta.report.tables import (
    NOT_MEASURED,
    Cell,
    Column,
    Table,
    as_markdown,
    markdown_text,
    text_cell,
)

HUB_COMMIT = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@[0-9a-f]{40}", re.ASCII)
"""How a key report names a hub checkpoint: always with the commit that was read."""
CLASSES_SHOWN = 30
WEAKEST_SHOWN = 3
BOOKKEEPING = ("log_every_steps", "loader_threads", "frame_cache_gib", "checkpoint_every_steps")
"""Settings that change nothing of what is learned."""


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
    validation: Mapping[int, float | None]
    """Best validation accuracy of each trained seed of the entry, as a fraction."""
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    weights: Mapping[str, Any]
    """The key report of the first weights."""
    comparison: Mapping[str, Any] | None
    no_results: str = ""

    @property
    def is_library_model(self) -> bool:
        """Whether the transformers library has the class that config.json names."""
        return "image_processor_type" in self.processor


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the hub's YAML head; text from the data is escaped."""
    entry, study = facts.spec.entry, facts.study
    parts = [
        _head(facts),
        f"# {markdown_text(entry.name)} on {markdown_text(study.data.source)}",
        _what(facts),
        "## Data",
        *_data(facts),
        "## Recipe",
        *_recipe(facts),
        "## Seed",
        *_seed(facts),
        "## Results",
        *_results(facts),
        "## Intended use and limits",
        *_limits(facts),
        "## Licence",
        _licence(facts),
        "## How to load it",
        *_loading(facts),
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def starting_point(facts: CardFacts) -> str:
    """Where the first weights came from, without anyone's folders; "" for random weights."""
    source = facts.weights.get("source") or facts.spec.entry.checkpoint
    if source == "none":
        return ""
    if source == "default":
        return f"the published default checkpoint of {facts.spec.entry.model}"
    known = HUB_COMMIT.fullmatch(source)
    return source if known else f"a checkpoint named {PurePath(source).name}"


def _head(facts: CardFacts) -> str:
    base = facts.weights.get("source", "")
    lines: dict[str, Any] = {
        "library_name": "transformers" if facts.is_library_model else "regatta",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "regatta", facts.spec.entry.model],
    }
    if known := HUB_COMMIT.fullmatch(base):
        lines["base_model"] = known["name"]
    # Every JSON value is a YAML value: no name can break out of its line.
    return "\n".join(["---", *(f"{k}: {json.dumps(v)}" for k, v in lines.items()), "---"])


def _what(facts: CardFacts) -> str:
    entry = facts.spec.entry
    start = starting_point(facts)
    origin = f"fine-tuned from {markdown_text(start)}" if start else "trained from random weights"
    settings = facts.config.get("regatta", {})
    changed = "".join(
        f" Positions of the checkpoint were fitted to these clips: `{key}` ({markdown_text(what)})."
        for key, what in facts.weights.get("interpolated", {}).items()
    )
    return (
        f"A video classifier: model {markdown_text(entry.model)}, size {entry.size}, {origin} in "
        f"the Regatta study {markdown_text(facts.study.name)}. It takes clips of "
        f"{settings.get('frames')} RGB frames of {settings.get('image_size')} x "
        f"{settings.get('image_size')} pixels and gives one score for each of "
        f"{len(facts.config['id2label'])} classes.{changed}"
    )


def _data(facts: CardFacts) -> Iterable[str]:
    section, data = facts.study.data, facts.data
    split = f", split {section.split}" if section.split != 1 else ""
    yield f"Source `{section.source}`{split}; held-out splits never share a group."
    groups, counts = data.get("groups", {}), data.get("counts", {})
    rows = [
        [text_cell(name), _number(sum(of_class.values())), _number(groups.get(name))]
        for name, of_class in counts.items()
    ]
    if rows:
        yield _markdown(["split", "samples", "groups"], rows)
    if data.get("dropped"):
        yield f"{len(data['dropped'])} damaged or too short files were left out of every split."
    labels = list(facts.config["id2label"].values())
    shown = ", ".join(markdown_text(str(label)) for label in labels[:CLASSES_SHOWN])
    more = len(labels) - CLASSES_SHOWN
    yield f"Classes: {shown}{f' and {more} more (see id2label.json)' if more > 0 else ''}."
    if data.get("manifest_hash"):
        yield f"Manifest hash: `{data['manifest_hash'][:12]}`."


def _recipe(facts: CardFacts) -> Iterable[str]:
    training = facts.training
    yield (
        f"{_told(training, 'steps', '{:,}'.format)} optimizer steps over "
        f"{_told(training, 'samples_seen', '{:,}'.format)} clips in "
        f"{_told(training, 'train_seconds', duration_text)} on "
        f"{_told(training, 'device', str)} in {_told(training, 'precision', str)}; "
        f"{_told(training, 'trained_parameters', count_text)} of "
        f"{_told(training, 'parameters', count_text)} parameters trained, "
        f"{_told(training, 'flops_per_clip', count_text)} FLOPs per clip forward. "
        f"The weights are those of epoch {training.get('best_epoch', NOT_MEASURED)}, chosen on the "
        "validation split."
    )
    recipe = facts.spec.train.model_dump(mode="json")
    rows = [
        [text_cell(key), text_cell(json.dumps(value))]
        for key, value in {**facts.spec.entry.options, **recipe}.items()
        if key not in BOOKKEEPING
    ]
    yield _markdown(["setting", "value"], rows, numeric=False)


def _seed(facts: CardFacts) -> Iterable[str]:
    yield f"This is seed {facts.spec.seed}: {facts.choice}."
    rows = [
        [text_cell(seed), Cell(_percent(score), (score,))]
        for seed, score in facts.validation.items()
    ]
    if len(rows) > 1:
        yield _markdown(["seed", "best validation accuracy, %"], rows)


def _results(facts: CardFacts) -> Iterable[str]:
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
        f"{design['n']} samples in {design['groups']} groups of the "
        f"{comparison['study']['split']} split, at {_condition(comparison, headline)}."
    )
    own = entry["accuracy_by_seed"].get(str(facts.spec.seed))
    if seeds > 1 and own is not None:
        yield f"This seed alone: {_percent(own)} % at the same condition."
    conditions = [
        Condition(c["id"], c["axes"], is_reference=c["is_reference"])
        for c in comparison["conditions"]
    ]
    yield protocol_words(facts.study.protocol, conditions)
    rows = [row for row in comparison["table"] if row["model"] == entry["name"]]
    if set(comparison["axes"]) == {"coverage", "stride"}:
        yield "Accuracy in % by share of the clip covered (rows) and stride in frames (columns):"
        yield _grid(rows)
    elif len(rows) > 1:
        yield _list(comparison, rows)


def _limits(facts: CardFacts) -> Iterable[str]:
    yield (
        "Meant for telling the classes above apart in clips like those of the data set. The "
        "accuracy holds for the split and the conditions above and for nothing else: other "
        "cameras, frame rates, clip lengths or classes were not measured, and a clip of none of "
        "these classes gets one of them all the same. Scores are not calibrated probabilities."
    )
    weakest = _weakest_classes(facts)
    if weakest:
        yield f"Weakest classes at the condition above: {weakest}."
    yield (
        "Whether the model is fair, safe or robust to deliberate changes of its input was not "
        "measured."
    )


def _licence(facts: CardFacts) -> str:
    start = starting_point(facts)
    base = f"the weights it started from ({markdown_text(start)})" if start else ""
    held = " and of ".join(part for part in (base, "the data set it was trained on") if part)
    return (
        f"Unknown. Regatta does not know the licence of {held}; look it up at the source before "
        "you pass this model on."
    )


def _loading(facts: CardFacts) -> Iterable[str]:
    folder, settings = facts.folder_name, facts.config.get("regatta", {})
    if facts.is_library_model:
        architecture, kind = (
            facts.config["architectures"][0],
            facts.processor["image_processor_type"],
        )
        argument = "pixel_values_videos" if settings.get("name") == "vjepa2" else "pixel_values"
        yield "With the transformers library:"
        yield (
            "```python\n"
            f"from transformers import {architecture}, {kind}\n\n"
            f'model = {architecture}.from_pretrained("{folder}").eval()\n'
            f'processor = {kind}.from_pretrained("{folder}")\n'
            f"# frames: {settings.get('frames')} RGB pictures [H, W, 3] in uint8, spread evenly "
            "over the clip\n"
            'pixels = processor(frames, return_tensors="pt")["pixel_values"]\n'
            f"scores = model({argument}=pixels).logits\n"
            "```"
        )
    else:
        yield "The transformers library does not have this model."
    yield "With Regatta, which also checks every key and the shape of every clip:"
    yield (
        "```python\n"
        "from pathlib import Path\n\n"
        "from regatta.models.weights import load_model\n\n"
        f'model, spec, classes = load_model(Path("{folder}"))\n'
        "# video: float [B, T, 3, H, W] of pixels in [0, 1], normalised with spec.mean, spec.std\n"
        "scores = model(video)\n"
        "```"
    )
    entry = facts.spec.entry
    start: dict[str, Any] = {"model": entry.model, "size": entry.size, "checkpoint": folder}
    if entry.options:
        start["options"] = entry.options
    yield "Or start another study from it, with this entry:"
    yield f"```yaml\n- {json.dumps(start)}\n```"


def _entry(facts: CardFacts) -> Mapping[str, Any]:
    assert facts.comparison is not None
    name = facts.spec.entry.name
    return next(e for e in facts.comparison["entries"] if e["name"] == name)


def _weakest_classes(facts: CardFacts) -> str:
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
        f"{markdown_text(name)} ({_percent(value)} %)" for value, name in known[:WEAKEST_SHOWN]
    )


def _grid(rows: Sequence[Mapping[str, Any]]) -> str:
    strides = sorted({row["stride"] for row in rows})
    coverages = sorted({row["coverage"] for row in rows}, reverse=True)
    found = {(row["coverage"], row["stride"]): row["accuracy"] for row in rows}
    table = [
        [text_cell(f"{coverage:g} %")]
        + [Cell(_percent(found.get((coverage, stride))), ()) for stride in strides]
        for coverage in coverages
    ]
    return _markdown(["coverage", *(f"stride {stride:g}" for stride in strides)], table)


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
    return _markdown(["condition", "accuracy, %"], table)


def _condition(comparison: Mapping[str, Any], condition: str) -> str:
    axes = next(c["axes"] for c in comparison["conditions"] if c["id"] == condition)
    words = [f"{name} {value}{' %' if name == 'coverage' else ''}" for name, value in axes.items()]
    return markdown_text(", ".join(words) or f"condition {condition}")


def _interval(interval: Mapping[str, Any], design: Mapping[str, Any]) -> str:
    level = f"{100 * design['confidence']:g} % interval"
    if interval["low"] is None or interval["high"] is None:
        return f"{_percent(interval['estimate'])} % (no interval: {interval['note']})"
    return f"{_percent(interval['estimate'])} %, {level} {_range(interval, value=False)}"


def _range(interval: Mapping[str, Any], *, value: bool = True) -> str:
    ends = ""
    if interval["low"] is not None and interval["high"] is not None:
        ends = f"[{_percent(interval['low'])}, {_percent(interval['high'])}]"
    return f"{_percent(interval['estimate'])} {ends}".strip() if value else ends


def _percent(share: float | None) -> str:
    return NOT_MEASURED if share is None else percent_text(100 * share)


def _told(record: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> str:
    value = record.get(key)
    return NOT_MEASURED if value is None else write(value)


def _number(value: int | None) -> Cell:
    return Cell(NOT_MEASURED if value is None else f"{value:,}", (value,))


def _markdown(
    headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, numeric: bool = True
) -> str:
    columns = [Column(heading, (), numeric=numeric and i > 0) for i, heading in enumerate(headings)]
    return as_markdown(Table("", "", columns, rows))
