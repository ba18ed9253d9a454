"""The README of an exported model: what it is, what it was made from, how good, and how to load it.

Everything stands in the run's own records; what is not there is called "not measured". The cards in
the report, one per entry, are made from the same parts; see entry_cards.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from regatta.core.passed_on import without_folders
from regatta.core.registry import SOURCES
from regatta.report import card_windows
from regatta.report.card_facts import CardFacts, markdown_table, percent, run_name
from regatta.report.card_head import HUB_COMMIT, card_head
from regatta.report.card_results import results, weakest_classes
from regatta.report.facts import LEAKY_DESIGN, sentence
from regatta.report.numbers import count_text, duration_text
from regatta.report.tables import (
    NOT_MEASURED,
    Cell,
    markdown_text,
    text_cell,
)

CLIP_LIMITS = (
    "Meant for telling the classes above apart in clips like those of the data set. The accuracy "
    "holds for the split and the conditions above and for nothing else: other cameras, frame "
    "rates, clip lengths or classes were not measured, and a clip of none of these classes gets "
    "one of them all the same. Scores are not calibrated probabilities."
)
IMAGE_LIMITS = (
    "Meant for telling the classes above apart in images like those of the data set. The accuracy "
    "holds for the split and the conditions above and for nothing else: other cameras, image sizes "
    "or classes were not measured, and an image of none of these classes gets one of them all the "
    "same. Scores are not calibrated probabilities."
)
SCENE_LIMITS = (
    "Meant for telling the motions above apart and saying where they lead in scenes like those of "
    "the data set, which are drawn and not filmed. Accuracy and error hold for the split, the "
    "cameras and the conditions above and for nothing else, and a motion of none of these classes "
    "gets one of them all the same. Scores are not calibrated probabilities."
)
FOREIGN_LIMITS = "The accuracy holds for the imported samples and conditions and for nothing else."
LOOK_UP = "Regatta does not know it: look it up at the source before you pass this model on."
CLASSES_SHOWN = 30
BOOKKEEPING = ("log_every_steps", "loader_threads", "frame_cache_gib", "checkpoint_every_steps")
"""Settings that change nothing of what is learned."""
CLIP_SETTINGS = tuple(name for name in card_windows.UNUSED_SETTINGS if name.startswith("temporal"))
"""Settings of clips, which change nothing for single images."""


def model_card(facts: CardFacts) -> str:
    """The card as Markdown with the hub's YAML head; text from the data is escaped."""
    entry, study = facts.spec.entry, facts.study
    parts = [
        card_head(facts, name=facts.folder_name, of_one_run=True),
        f"# {markdown_text(entry.name)} on {markdown_text(study.data.source)}",
        what(facts),
        "## Data",
        *data(facts),
        "## Recipe",
        *_recipe(facts),
        "## Seed",
        *_seed(facts),
        "## Results",
        *results(facts),
        "## Intended use and limits",
        *limits(facts),
        "## Licences",
        *licences(facts),
        "## How to load it",
        *_loading(facts),
    ]
    return join_parts(parts)


def join_parts(parts: Iterable[str]) -> str:
    """Paragraphs, tables and headings with an empty line between them."""
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


def what(facts: CardFacts) -> str:
    """One paragraph: model, start, input and output."""
    entry = facts.spec.entry
    start = starting_point(facts)
    origin = f"fine-tuned from {markdown_text(start)}" if start else "trained from random weights"
    settings = facts.config.get("regatta", {})
    changed = "".join(
        f" Positions of the checkpoint were fitted to these clips: `{key}` ({markdown_text(what)})."
        for key, what in facts.weights.get("interpolated", {}).items()
    )
    if facts.is_signal:
        return card_windows.what(
            facts.window, entry, origin, study=facts.study.name, classes=len(facts.labels)
        )
    frames, pixels = settings.get("frames"), settings.get("image_size")
    if facts.is_image:
        return _what_of_images(facts, origin, pixels)
    if facts.is_scene:
        return _what_of_scenes(facts, origin, frames, pixels)
    clips = f"{frames} RGB frames of {pixels} x {pixels} pixels" if frames and pixels else "frames"
    return (
        f"A video classifier: model {markdown_text(entry.model)}, size {entry.size}, {origin} in "
        f"the Regatta study {markdown_text(facts.study.name)}. It takes clips of {clips} and gives "
        f"one score for each of {len(facts.labels)} classes.{changed}"
    )


def _what_of_images(facts: CardFacts, origin: str, pixels: object) -> str:
    entry, experts = facts.spec.entry, len(facts.spec.entry.needs)
    if entry.model == "fusion" and experts:
        origin = f"fused and co-trained from {experts} trained experts"
    size = f" of {pixels} x {pixels} pixels" if pixels else ""
    return (
        f"An image classifier: model {markdown_text(entry.model)}, size {entry.size}, {origin} in "
        f"the Regatta study {markdown_text(facts.study.name)}. It takes RGB images{size} and gives "
        f"one score for each of {len(facts.labels)} classes."
    )


def _what_of_scenes(facts: CardFacts, origin: str, frames: object, pixels: object) -> str:
    entry = facts.spec.entry
    views = len(entry.options.get("views", [0]))
    targets = ", ".join(entry.options.get("targets", ["forecast"]))
    clips = f"{frames} RGB frames of {pixels} x {pixels} pixels" if frames and pixels else "frames"
    return (
        f"A model of motion: extractor {markdown_text(str(entry.options.get('extractor', 'i3d')))},"
        f" size {entry.size}, {origin} in the Regatta study {markdown_text(facts.study.name)}. It "
        f"takes clips of {clips} from {views} camera(s) and gives one score for each of "
        f"{len(facts.labels)} classes, then x, y and z in world units of: {markdown_text(targets)}."
    )


def data(facts: CardFacts) -> Iterable[str]:
    """Source, splits, what was left out, classes."""
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
    if facts.is_signal:
        notes = (without_folders(note) for note in data.get("notes", []))
        yield from (sentence(markdown_text(note), []) for note in notes)
    yield classes_sentence(facts)
    if data.get("manifest_hash"):
        yield f"Manifest hash: `{data['manifest_hash'][:12]}`."


def classes_sentence(facts: CardFacts) -> str:
    labels = facts.labels
    shown = ", ".join(markdown_text(label) for label in labels[:CLASSES_SHOWN])
    more = len(labels) - CLASSES_SHOWN
    return f"Classes: {shown}{f' and {more} more' if more > 0 else ''}."


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
    yield settings_table(facts)


def settings_table(facts: CardFacts) -> str:
    """Settings of the model and the whole recipe."""
    recipe = facts.spec.train.model_dump(mode="json")
    unused = card_windows.UNUSED_SETTINGS if facts.is_signal else ()
    unused = CLIP_SETTINGS if facts.is_image or facts.is_scene else unused
    hidden = (*BOOKKEEPING, *unused)
    rows = [
        [text_cell(key), text_cell(without_folders(json.dumps(value)))]
        for key, value in {**facts.spec.entry.options, **recipe}.items()
        if key not in hidden
    ]
    return markdown_table(["setting", "value"], rows, numeric=False)


def _seed(facts: CardFacts) -> Iterable[str]:
    yield f"This is seed {run_name(facts.spec)}: {facts.choice}."
    rows = [
        [text_cell(seed), Cell(percent(score), (score,))]
        for seed, score in facts.validation.items()
    ]
    if len(rows) > 1:
        yield markdown_table(["seed", "best validation accuracy, %"], rows)


def limits(facts: CardFacts) -> Iterable[str]:
    """What the accuracy holds for, and what it does not say."""
    if facts.is_foreign:
        yield FOREIGN_LIMITS
    elif facts.is_signal:
        yield card_windows.limits(facts.training.get("temperature"))
    else:
        yield _limits_of_pictures(facts)
    weakest = weakest_classes(facts)
    if weakest:
        yield f"Weakest classes at the condition above: {weakest}."
    yield (
        "Whether the model is fair, safe or robust to deliberate changes of its input was not "
        "measured."
    )


def _limits_of_pictures(facts: CardFacts) -> str:
    if facts.is_scene:
        return SCENE_LIMITS
    return IMAGE_LIMITS if facts.is_image else CLIP_LIMITS


def licences(facts: CardFacts) -> Iterable[str]:
    """What is known of the licences of data and weights, which is little."""
    source, start = facts.study.data.source, starting_point(facts)
    listed = SOURCES.listed.get(source)
    if listed is not None and listed.generates:
        yield f"Data ({markdown_text(source)}): generated by Regatta, without anyone's recordings."
    else:
        yield f"Data ({markdown_text(source)}): not stated. {LOOK_UP}"
    if facts.spec.entry.is_imported:
        yield f"Weights: not stated. {LOOK_UP}"
    elif start:
        yield f"Weights that it started from ({markdown_text(start)}): not stated. {LOOK_UP}"
    else:
        yield "Weights: it started from random numbers, so no one else's are in it."


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
    item, argument, shape = _input_words(facts)
    yield f"With Regatta, which also checks every key and the shape of every {item}:"
    yield (
        "```python\n"
        "from pathlib import Path\n\n"
        "from regatta.models.weights import load_model\n\n"
        f'model, spec, classes = load_model(Path("{folder}"))\n'
        f"# {argument}: float {shape} of pixels in [0, 1], normalised with spec.mean, spec.std\n"
        f"scores = model({argument})\n"
        "```"
    )
    yield from _another_study(facts)


def _input_words(facts: CardFacts) -> tuple[str, str, str]:
    """What a sample is called, the name of the argument, and its shape."""
    if facts.is_scene:
        return "scene", "video", "[B, V, T, 3, H, W]"
    if facts.is_image:
        return "image", "images", "[B, 3, H, W]"
    return "clip", "video", "[B, T, 3, H, W]"


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
