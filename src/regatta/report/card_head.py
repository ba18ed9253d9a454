"""The YAML head of a model card as the hub reads it, with the results as its `model-index`.

The format: https://huggingface.co/docs/hub/model-cards (name; results of task, dataset, metrics).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from regatta.core.files import plain, slug
from regatta.report.card_facts import CardFacts, condition_words
from regatta.report.facts import LEAKY_DESIGN
from regatta.report.style import clean_text

HUB_COMMIT = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@[0-9a-f]{40}", re.ASCII)
"""How a key report names a hub checkpoint: always with the commit that was read."""
TASKS = {
    "video": "video-classification",
    "signal": "time-series-classification",
    "image": "image-classification",
}
FOREIGN_TASK = "classification"
"""Those of videos and images are tasks of the hub; others stand in tags and results alone."""


def card_head(facts: CardFacts, *, name: str, of_one_run: bool) -> str:
    """The head between its two lines of dashes; results only where there are some.

    Args:
        name: of the model. of_one_run: the card is of `facts.spec`, not of all runs of its entry.
    """
    kind = "signal" if facts.is_signal else "image" if facts.is_image else "video"
    task = FOREIGN_TASK if facts.is_foreign else TASKS[kind]
    values: dict[str, Any] = {"tags": [task, "regatta", facts.spec.entry.model]}
    if not facts.spec.entry.is_imported:
        library = "transformers" if facts.is_library_model else "regatta"
        values = {"library_name": library, **values}
    if task in (TASKS["video"], TASKS["image"]):
        values["pipeline_tag"] = task
    if known := HUB_COMMIT.fullmatch(str(facts.weights.get("source", ""))):
        values["base_model"] = known["name"]
    if facts.comparison is not None:
        values["model-index"] = model_index(facts, name=name, task=task, of_one_run=of_one_run)
    return f"---\n{yaml_text(values)}---"


def yaml_text(values: Mapping[str, Any]) -> str:
    """Plain values as YAML that reads back the same; no name can leave its place or its line."""
    return yaml.safe_dump(
        _clean(plain(values)), sort_keys=False, allow_unicode=True, width=float("inf")
    )


def _clean(value: Any) -> Any:
    """Without what YAML or UTF-8 refuse, and on one line each: texts come from the user's data."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def model_index(
    facts: CardFacts, *, name: str, task: str, of_one_run: bool
) -> list[dict[str, Any]]:
    """What was judged at the headline, as the hub lists results; accuracies are fractions."""
    assert facts.comparison is not None
    study, source = facts.comparison["study"], facts.study.data.source
    split = f", split {facts.study.data.split}" if facts.study.data.split != 1 else ""
    leaky = facts.study.data.design == LEAKY_DESIGN
    result = {
        "task": {"type": task, "name": task.replace("-", " ").capitalize()},
        "dataset": {
            "name": f"{source}{split}{' (leaky: windows split at random)' if leaky else ''}",
            "type": slug(source),
            **({} if facts.is_foreign else {"split": study["split"]}),
        },
        "metrics": _metrics(facts, of_one_run=of_one_run),
    }
    return [{"name": name, "results": [result]}]


def _metrics(facts: CardFacts, *, of_one_run: bool) -> list[dict[str, Any]]:
    assert facts.comparison is not None
    comparison, entry = facts.comparison, facts.entry_section
    place = f"at {condition_words(comparison, comparison['headline_condition'])}"
    if facts.spec.fold is not None:
        place += ", over all folds, each judged by its own model"
    seeds = len(entry["seeds"])
    of_seeds = f"Accuracy, mean of {seeds} seeds" if seeds > 1 else "Accuracy"
    metrics = [_metric(f"{of_seeds}, {_interval_words(facts)}, {place}", entry["accuracy"])]
    own = entry["accuracy_by_seed"].get(str(facts.spec.seed))
    if of_one_run and seeds > 1 and own is not None and facts.spec.fold is None:
        # First, because readers of the head take the first metric for that of the model.
        metrics.insert(0, _metric(f"Accuracy of this seed, {place}", {"estimate": own}))
    return metrics


def _metric(name: str, interval: Mapping[str, Any]) -> dict[str, Any]:
    # `verified` says whether the hub itself measured it.
    value = round(float(interval["estimate"]), 4)
    return {"type": "accuracy", "value": value, "name": name, "verified": False}


def _interval_words(facts: CardFacts) -> str:
    assert facts.comparison is not None
    accuracy, design = facts.entry_section["accuracy"], facts.comparison["provenance"]
    if accuracy["low"] is None or accuracy["high"] is None:
        return "no interval"
    level = f"{100 * design['confidence']:g} %"
    return f"{level} interval {accuracy['low']:.4f} to {accuracy['high']:.4f}"
