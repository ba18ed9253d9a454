"""Flags that `train`, `evaluate` and `run` share; what they mean for a study is in choose.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from regatta.core.errors import ConfigError

ALL_MODELS = ("timesformer", "videomae", "vivit")
"""What `--model all` means where no study says otherwise."""

RACE, RECIPE = "What to race (in place of, or on top of, a study file)", "Recipe"
JUDGING, PLACE = "Judging", "Where it runs"

StudyTarget = Annotated[
    Path | None,
    typer.Argument(
        metavar="STUDY",
        help="A study file, a study folder, or the name of one; flags may stand in its place.",
        show_default=False,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Entries to work on: names, repeated or with commas, or all "
        f"({', '.join(ALL_MODELS)}; of a study that is there: its entries).",
        rich_help_panel=RACE,
    ),
]
DataName = Annotated[
    str | None,
    typer.Option("--data", help="Source of the data; see regatta ls.", rich_help_panel=RACE),
]
Root = Annotated[
    str | None, typer.Option("--root", help="Folder of the data.", rich_help_panel=RACE)
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="Name of the study: its folder; default: --data.", rich_help_panel=RACE
    ),
]
Size = Annotated[
    str | None, typer.Option("--size", help="tiny, small or base.", rich_help_panel=RACE)
]
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", help="none, a hub id or a local folder.", rich_help_panel=RACE),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option("--seed", "--seeds", help="Repeated or with commas: 0,1,2.", rich_help_panel=RACE),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", help="train.epochs", rich_help_panel=RECIPE)
]
TrainBatch = Annotated[
    int | None,
    typer.Option(
        "--batch-size", help="train.batch_size: clips per process and step.", rich_help_panel=RECIPE
    ),
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", help="train.lr", rich_help_panel=RECIPE)
]
Accumulate = Annotated[
    int | None,
    typer.Option(
        "--accumulate", help="train.accumulate: batches per step.", rich_help_panel=RECIPE
    ),
]
Parallel = Annotated[
    str | None,
    typer.Option(
        "--parallel",
        help="none; ddp or fsdp: one run in several processes (--devices, or torchrun); or dp.",
        rich_help_panel=RECIPE,
    ),
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        "--protocol", help="How to judge, for example temporal-grid.", rich_help_panel=JUDGING
    ),
]
SampleSize = Annotated[
    int | None,
    typer.Option(
        "--sample-size", help="Judge a seeded subset of so many samples.", rich_help_panel=JUDGING
    ),
]
JudgeBatch = Annotated[
    int | None,
    typer.Option(
        "--batch-size", help="protocol.batch_size: clips at once.", rich_help_panel=JUDGING
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu or cuda.", rich_help_panel=PLACE)
]
Devices = Annotated[
    float | None,
    typer.Option("--devices", help="launch.devices: devices per run.", rich_help_panel=PLACE),
]


@dataclass(frozen=True)
class Flags:
    """What was said beside the study; empty or None = not said."""

    models: tuple[str, ...] = ()
    data: str | None = None
    name: str | None = None
    entry_keys: dict[str, Any] = field(default_factory=dict)
    """Keys of each named entry: size, checkpoint."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the study: train.epochs, data.root ..."""
    overrides: tuple[str, ...] = ()
    """`--set` texts."""


def read_flags(
    models: Sequence[str] | None,
    *,
    data: str | None = None,
    name: str | None = None,
    size: str | None = None,
    checkpoint: str | None = None,
    seeds: Sequence[str] | None = None,
    keys: dict[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> Flags:
    """Flags from what typer gives; lists may come repeated, with commas, or both."""
    given = {"name": name, "seeds": _numbers(seeds), **(keys or {})}
    entry_keys = {"size": size, "checkpoint": checkpoint}
    return Flags(
        tuple(dict.fromkeys(_parts(models))),
        data,
        name,
        {key: value for key, value in entry_keys.items() if value is not None},
        {key: value for key, value in given.items() if value is not None},
        tuple(overrides or ()),
    )


def _parts(texts: Sequence[str] | None) -> list[str]:
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]


def _numbers(texts: Sequence[str] | None) -> list[int] | None:
    wrong = [part for part in _parts(texts) if not part.isdecimal() or len(part) > 18]
    if wrong:
        raise ConfigError(f"a seed is a whole number, got '{wrong[0]}'", where="--seed")
    return [int(part) for part in _parts(texts)] or None
