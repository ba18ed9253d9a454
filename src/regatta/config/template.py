"""A study file with every key, its default and its meaning, written from the schema itself."""

from __future__ import annotations

from textwrap import wrap
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from regatta.config.schema import Study

LINE = 96
HEADER = """\
# A Regatta study: one data set, the models to enter, one recipe, one way of judging.
#   regatta check {name}.yaml      what would run, and what is wrong with it
#   regatta run   {name}.yaml      train, judge, compare, report; again = finish what is missing
# Commented keys show their defaults; take the # away to change one. Any key: --set train.epochs=1
"""
Subject = Literal["video", "sensor"]
STARTS: dict[Subject, dict[str, Any]] = {
    "video": {
        "data": {"source": "folder", "root": "videos"},
        "entries": ["timesformer", "videomae", "vivit"],
        "seeds": [0, 1, 2],
        "protocol": {"name": "temporal-grid"},
    },
    "sensor": {
        "data": {"source": "uci-har", "root": "data/uci-har"},
        "entries": ["cnn1d", "transformer1d", "features-linear", "majority"],
        "seeds": [0, 1, 2],
        "train": {
            "epochs": 20,
            "batch_size": 32,
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "warmup_epochs": 2.0,
            "label_smoothing": 0.1,
            "select_by": "balanced_accuracy",
            "early_stopping_patience": 7,
            "early_stopping_min_delta": 0.1,
        },
        "protocol": {"name": "plain", "batch_size": 64},
    },
}
"""What a new study says by itself; every other key stands there as a comment."""


def study_template(name: str, *, subject: Subject = "video") -> str:
    """Commented YAML of a new study called `name`; it loads as it stands."""
    lines, start = [HEADER.format(name=name)], STARTS[subject]
    for key, field in Study.model_fields.items():
        given = name if key == "name" else start.get(key)
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += ["", f"{key}:"]
            for inner_key, inner in section.model_fields.items():
                chosen = given.get(inner_key) if isinstance(given, dict) else None
                lines += _field(inner_key, inner, chosen, indent="  ")
        else:
            lines += ["", *_field(key, field, given, indent="")]
    return "\n".join(lines) + "\n"


def _field(key: str, field: FieldInfo, given: Any, indent: str) -> list[str]:
    # A description may be several lines long, and each needs its own mark.
    comment = [f"{indent}# {line}" for line in wrap(field.description or "", LINE - len(indent))]
    choices = (
        f"   # {' | '.join(map(str, get_args(field.annotation)))}" if _is_choice(field) else ""
    )
    value = given if given is not None else field.get_default(call_default_factory=True)
    shown = (
        yaml.safe_dump(_plain(value), default_flow_style=True, width=200)
        .removesuffix("...\n")
        .strip()
    )
    return [*comment, f"{indent}{'' if given is not None else '# '}{key}: {shown}{choices}"]


def _is_choice(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Literal


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
