"""The tables of a study of scenes below results/: names and columns are fixed.

In the long tables a row is one number of one entry, all its seeds together; `run` is the entry, and
an empty field is not measured or has no interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from regatta.analysis.budget import mean_of
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.scene_errors import PARTS
from regatta.analysis.scene_judged import COLUMN_WORDS, entry_options, extractor_words
from regatta.analysis.scene_words import against_best, error_verdicts
from regatta.analysis.tables import csv_text
from regatta.core.passed_on import hide_folders

RESULT_COLUMNS = (
    "extractor",
    "feature_dim",
    "views",
    "target",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "mse_next_position",
    "mse_low",
    "mse_high",
    "rmse",
    "skill",
    "training_time_s",
    "model_size_mb",
    "parameters",
    "clips_per_second",
    "seeds",
    "verdict",
)
LONG_END = ("metric", "value", "low", "high", "n")
BYTES_PER_PARAMETER = 4
FEATURE_DIMS = {"i3d": 1024, "slowfast": 1024, "transformer": 512, "magvit": 1024}
"""Features per frame of the extractors at size base."""
TINY_FEATURES = 32


def entry_facts(judged: JudgedStudy, name: str) -> dict[str, Any]:
    """What an entry is and costs: extractor, feature_dim, views, and means over its runs."""
    options, runs = entry_options(judged, name), judged.runs_of(name)
    written = next(entry for entry in judged.study.entries if entry.name == name)
    extractor = str(options.get("extractor") or written.model)
    usual = usual_features(extractor, written.size)
    parameters = mean_of([run.training.get("parameters") for run in runs])
    flops = mean_of([run.training.get("flops_per_clip") for run in runs])
    return {
        "extractor": extractor_words(extractor),
        "feature_dim": options.get("feature_dim") or options.get("dim") or usual,
        "views": len(options.get("views") or [0]),
        "checkpoint": hide_folders(runs[0].info.get("checkpoint")),
        "training_time_s": mean_of([run.training.get("train_seconds") for run in runs]),
        "parameters": parameters,
        "model_size_mb": None if parameters is None else BYTES_PER_PARAMETER * parameters / 1e6,
        "macs_per_clip": None if flops is None else flops / 2,
        "clips_per_second": mean_of([_clips_per_second(run) for run in runs]),
        "seeds": [run.seed for run in runs],
    }


def usual_features(extractor: str, size: str) -> int | None:
    """Features per frame where a study does not say; None of an extractor of another package."""
    base = FEATURE_DIMS.get(extractor)
    if base is None:
        return None
    return {"base": base, "small": base // 2, "tiny": TINY_FEATURES}.get(size)


def _clips_per_second(run: JudgedRun) -> float | None:
    """Judged clips over the seconds of their forward passes; None when it was not measured."""
    seconds = run.cost.get("forward_seconds")
    clips = run.cost.get("distinct_clips", run.cost.get("clips"))
    return clips / seconds if seconds and clips else None


def result_rows(
    judged: JudgedStudy,
    section: dict[str, Any],
    target: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """A row per entry that says a place of `target`, with its cost and what the pairs say of it.

    Args:
        rows: the table of cells. pairs: differences of accuracy at the headline.
    """
    at_headline = {row["model"]: row for row in rows if row["condition"] == section["condition"]}
    names = [each["entry"] for each in target["entries"]] or judged.entries
    best = max(at_headline.values(), key=lambda row: row["accuracy"])["model"]
    error, by_error = error_column(target["target"]), error_verdicts(target)
    found = {each["entry"]: each for each in target["entries"]}
    table = []
    for name in names:
        row, own, facts = at_headline[name], found.get(name, {}), section["entries"][name]
        mse, skill = own.get("mse") or {}, own.get("skill") or {}
        said = [f"accuracy: {against_best(name, best, pairs)}"]
        said += [f"place: {by_error[name]}"] if name in by_error else []
        table.append(
            {
                **{key: facts[key] for key in ("feature_dim", "views", "parameters")},
                "entry": name,
                "extractor": _shown_extractor(section, names, name),
                "target": target["target"],
                **{key: row[key] for key in ("accuracy", "accuracy_low", "accuracy_high")},
                error: mse.get("estimate"),
                "mse_low": mse.get("low"),
                "mse_high": mse.get("high"),
                "rmse": (own.get("rmse") or {}).get("estimate"),
                "skill": skill.get("estimate"),
                **{
                    key: facts[key]
                    for key in ("training_time_s", "model_size_mb", "clips_per_second")
                },
                "seeds": len(facts["seeds"]),
                "verdict": "; ".join(said),
            }
        )
    return table


def error_column(target: str) -> str:
    """`mse_next_position`, or what else a column of a target's error is called."""
    return f"mse_{COLUMN_WORDS.get(target, target.replace('-', '_'))}"


def _shown_extractor(section: dict[str, Any], names: Sequence[str], name: str) -> str:
    """The extractor; with the entry's name where several entries have the same one."""
    words = section["entries"][name]["extractor"]
    same = [other for other in names if section["entries"][other]["extractor"] == words]
    return words if len(same) == 1 else f"{words}: {name}"


def scene_files(
    judged: JudgedStudy,
    section: dict[str, Any],
    classification: dict[str, Any],
) -> dict[str, str]:
    """File name -> text.

    Args:
        classification: that section of comparison.json.
    """
    files = {}
    for number, (target, rows) in enumerate(section["rows"].items()):
        error = error_column(target)
        columns = [error if name == "mse_next_position" else name for name in RESULT_COLUMNS]
        name = "" if number == 0 else f"_{target.replace('-', '_')}"
        files[f"compare_results{name}.csv"] = csv_text(
            columns, ([row[key] for key in columns] for row in rows)
        )
    shown = {name: facts["extractor"] for name, facts in section["entries"].items()}
    long = {
        "per_class.csv": ("class", _per_class(section, classification)),
        "confusion_matrix.csv": ("class", _confusion(judged, classification)),
        "position_error.csv": ("class", _position_error(section)),
        "robustness.csv": ("condition", _robustness(section)),
        "ood.csv": ("condition", _ood(section)),
        "shortcuts.csv": ("condition", _shortcuts(section)),
    }
    for name, (place, rows) in long.items():
        told = list(rows)
        if told:
            header = ("run", "extractor", place, *LONG_END)
            files[name] = csv_text(header, ([r[0], shown.get(r[0], r[0]), *r[1:]] for r in told))
    return files


Long = Iterator[list[Any]]
"""Rows of entry, class or condition, metric, value, low, high, n."""
ALL = "all"


def _ends(found: dict[str, Any] | None) -> list[Any]:
    return [(found or {}).get(key) for key in ("estimate", "low", "high")]


def _per_class(section: dict[str, Any], classification: dict[str, Any]) -> Long:
    for name, rows in section["class_accuracy"].items():
        for row in rows:
            yield [name, row["class"], "accuracy", *_ends(row["accuracy"]), row["n"]]
    for name, found in classification["entries"].items():
        for row in found["per_class"]:
            for key in ("precision", "recall", "f1"):
                yield [name, row["class"], key, row[key], None, None, row["support"]]
        for key in ("macro_f1", "nll", "ece"):
            yield [name, ALL, key, found[key], None, None, None]
    for target in section["targets"]:
        error = error_column(target["target"])
        for entry in target["entries"]:
            for row in entry["per_class"]:
                yield [entry["entry"], row["class"], error, *_ends(row["mse"]), row["n"]]


def _confusion(judged: JudgedStudy, classification: dict[str, Any]) -> Long:
    """The share of each true class that was answered with each class; n counts all seeds."""
    for name, found in classification["entries"].items():
        for true, counts in zip(judged.classes, found["confusion"], strict=True):
            total = int(np.sum(counts))
            for said, number in zip(judged.classes, counts, strict=True):
                share = number / total if total else None
                yield [name, true, f"said {said}", share, None, None, number]


def _position_error(section: dict[str, Any]) -> Long:
    for target in section["targets"]:
        last = "" if target["target"] == "forecast" else f" {target['target']}"
        for entry in target["entries"]:
            name, n = entry["entry"], entry["n"]
            for key in ("mse", "rmse", "mae", *PARTS, "skill"):
                if entry[key] is not None:
                    metric = f"rms {key}" if key in PARTS else key
                    yield [name, ALL, f"{metric}{last}", *_ends(entry[key]), n]
            for key in ("median", "p90"):
                yield [name, ALL, f"distance {key}{last}", entry[key], None, None, n]
            for row in entry["per_class"]:
                for key in ("mse", "skill"):
                    if row[key] is not None:
                        yield [name, row["class"], f"{key}{last}", *_ends(row[key]), row["n"]]


def _robustness(section: dict[str, Any]) -> Long:
    for row in section["robustness"]:
        for key in ("accuracy", "mse"):
            if row[key] is not None:
                yield [row["entry"], row["condition"], key, *_ends(row[key]), row["n"]]
        if row["pad_share"] is not None:
            yield [row["entry"], row["condition"], "pad_share", row["pad_share"], None, None,
                   row["n"]]  # fmt: skip


def _ood(section: dict[str, Any]) -> Long:
    for row in section["ood"]:
        for key in ("accuracy", "mse"):
            if row[key] is not None:
                yield [row["entry"], row["set"], key, *_ends(row[key]), row["n"]]
        for key in ("auroc", "aupr", "fpr95"):
            if row[key] is not None:
                yield [row["entry"], row["set"], key, row[key], None, None, row["n"]]
        if row["reason"]:
            yield [row["entry"], row["set"], row["reason"], None, None, None, None]


def _shortcuts(section: dict[str, Any]) -> Long:
    """Baselines first: they are no run, so their name stands for one."""
    for row in section["baselines"]:
        track = row["track"] or ALL
        for key, count in (("accuracy", "n"), ("mse", "n_places")):
            if row[key] is not None:
                yield [row["baseline"], track, key, *_ends(row[key]), row[count]]
    for row in section["controls"]:
        yield [row["entry"], row["condition"], "accuracy", *_ends(row["accuracy"]), row["n"]]
    for row in section["above_shortcuts"]:
        yield [
            row["entry"],
            row["shortcut"],
            "accuracy above, points",
            *_ends(row["difference_points"]),
            None,
        ]
