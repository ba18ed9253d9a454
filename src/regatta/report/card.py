"""The README of an exported model: what it is, what it was made from, how good, and how to load it.

Everything stands in the run's own records; what is not there is called "not measured".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from regatta.report import card_windows
from regatta.report.card_facts import CardFacts, markdown_table, percent, run_name
from regatta.report.card_results import results, weakest_classes
from regatta.report.facts import LEAKY_DESIGN, sentence
from regatta.report.numbers import count_text, duration_text
from regatta.report.tables import (
    NOT_MEASURED,
    Cell,
    markdown_text,
    text_cell,
)

HUB_COMMIT = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@[0-9a-f]{40}", re.ASCII)
"""How a key report names a hub checkpoint: always with the commit that was read."""
CLASSES_SHOWN = 30
BOOKKEEPING = ("log_every_steps", "loader_threads", "frame_cache_gib", "checkpoint_every_steps")
"""Settings that change nothing of what is learned."""


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
        *results(facts),
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
    }
    task = "time-series-classification"
    if facts.window is None:
        lines["pipeline_tag"] = task = "video-classification"
    lines["tags"] = [task, "regatta", facts.spec.entry.model]
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
    if facts.window is not None:
        return card_windows.what(
            facts.window,
            entry,
            origin,
            study=facts.study.name,
            classes=len(facts.config["id2label"]),
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
    words = facts.words
    leaks = section.design == LEAKY_DESIGN
    held_out = "share groups, so the accuracy is too high" if leaks else "never share a group"
    yield f"Source `{section.source}`{split}; held-out splits {held_out}."
    groups, counts = data.get("groups", {}), data.get("counts", {})
    rows = [
        [text_cell(name), _number(sum(of_class.values())), _number(groups.get(name))]
        for name, of_class in counts.items()
    ]
    if rows:
        yield markdown_table(["split", words.samples, words.groups], rows)
    if data.get("dropped"):
        yield f"{len(data['dropped'])} damaged or too short {words.dropped}s were left out."
    if facts.window is not None:
        yield from (sentence(markdown_text(str(note)), []) for note in data.get("notes", []))
    labels = list(facts.config["id2label"].values())
    shown = ", ".join(markdown_text(str(label)) for label in labels[:CLASSES_SHOWN])
    more = len(labels) - CLASSES_SHOWN
    yield f"Classes: {shown}{f' and {more} more (see id2label.json)' if more > 0 else ''}."
    if data.get("manifest_hash"):
        yield f"Manifest hash: `{data['manifest_hash'][:12]}`."


def _recipe(facts: CardFacts) -> Iterable[str]:
    training, words = facts.training, facts.words

    def operations(flops: float) -> str:
        return count_text(words.operations_per_flop * flops)

    yield (
        f"{_told(training, 'steps', '{:,}'.format)} optimizer steps over "
        f"{_told(training, 'samples_seen', '{:,}'.format)} {words.sample}s in "
        f"{_told(training, 'train_seconds', duration_text)} on "
        f"{_told(training, 'device', str)} in {_told(training, 'precision', str)}; "
        f"{_told(training, 'trained_parameters', count_text)} of "
        f"{_told(training, 'parameters', count_text)} parameters trained, "
        f"{_told(training, 'flops_per_clip', operations)} {words.operations} forward. "
        f"The weights are those of epoch {training.get('best_epoch', NOT_MEASURED)}, chosen on the "
        "validation split."
    )
    recipe = facts.spec.train.model_dump(mode="json")
    hidden = BOOKKEEPING if facts.window is None else (*BOOKKEEPING, *card_windows.UNUSED_SETTINGS)
    rows = [
        [text_cell(key), text_cell(json.dumps(value))]
        for key, value in {**facts.spec.entry.options, **recipe}.items()
        if key not in hidden
    ]
    yield markdown_table(["setting", "value"], rows, numeric=False)


def _seed(facts: CardFacts) -> Iterable[str]:
    yield f"This is seed {run_name(facts.spec)}: {facts.choice}."
    rows = [
        [text_cell(seed), Cell(percent(score), (score,))]
        for seed, score in facts.validation.items()
    ]
    if len(rows) > 1:
        yield markdown_table(["seed", "best validation accuracy, %"], rows)


def _limits(facts: CardFacts) -> Iterable[str]:
    yield (
        card_windows.limits(facts.training.get("temperature"))
        if facts.window is not None
        else (
            "Meant for telling the classes above apart in clips like those of the data set. The "
            "accuracy holds for the split and the conditions above and for nothing else: other "
            "cameras, frame rates, clip lengths or classes were not measured, and a clip of none "
            "of these classes gets one of them all the same. Scores are not calibrated "
            "probabilities."
        )
    )
    weakest = weakest_classes(facts)
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
    if facts.window is not None:
        yield card_windows.loading(facts.folder_name, facts.window)
        yield from _another_study(facts)
        return
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
    yield from _another_study(facts)


def _another_study(facts: CardFacts) -> Iterable[str]:
    entry, folder = facts.spec.entry, facts.folder_name
    start: dict[str, Any] = {"model": entry.model, "size": entry.size, "checkpoint": folder}
    if entry.options:
        start["options"] = entry.options
    yield "Or start another study from it, with this entry:"
    yield f"```yaml\n- {json.dumps(start)}\n```"


def _told(record: Mapping[str, Any], key: str, write: Callable[[Any], str]) -> str:
    value = record.get(key)
    return NOT_MEASURED if value is None else write(value)


def _number(value: int | None) -> Cell:
    return Cell(NOT_MEASURED if value is None else f"{value:,}", (value,))
